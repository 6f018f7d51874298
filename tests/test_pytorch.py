"""PyTorch's files: read as data, and ours with the weights of torchvision's ResNet."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests import torch_files, weight_files
from tests.test_models import trained
from tests.torch_files import archive, packed, raw_safetensors, resnet_state
from tests.weight_files import same
from zoo.models.resnet import Net, resnet
from zoo.models.t_resnet import t_resnet
from zoo.weights import pickled, pytorch, safetensors
from zoo.weights.transfer import transfer, weights_of

UNITS, WIDTH, CLASSES = (2, 1, 1, 1), 2, 5


@pytest.fixture(scope="module")
def recorded():
    return dict(
        np.load(os.path.join(os.path.dirname(__file__), "torchvision_resnet.npz"))
    )


def file_of(recorded, name, tmp_path):
    path = tmp_path / f"{name}.pth"
    path.write_bytes(recorded[name].tobytes())
    return path


def pictures(height=97, width=86, count=2):
    shape = (count, height, width, 3)
    return np.random.default_rng(3).integers(0, 256, shape).astype("float32")


def filled(path, net=None, classes=CLASSES):
    """A ResNet of the zoo with every weight from a file."""
    found = pytorch.convert(path, zoo.info("resnet50"))
    assert found.weights.options == {"stem": "torchvision"}
    net = net or Net(UNITS, WIDTH)
    model = resnet("m", net, classes, None, "rgb", **found.weights.options)
    return weight_files.filled(model, found)


class TestTorchvision:
    """What torch.save wrote and what torchvision's own network answered."""

    @pytest.mark.parametrize("form", ["archive", "stream"])
    def test_scores(self, form, recorded, tmp_path):
        model, found = filled(file_of(recorded, form, tmp_path))
        same(model(recorded["images"][:, None]), recorded[f"{form}/scores"])
        assert found.facts["num_classes"] == CLASSES
        assert found.facts.get("epoch") == {"archive": None, "stream": 3}[form]

    @pytest.mark.parametrize("form", ["other", "other stream"])
    def test_every_kind_of_value(self, form, recorded, tmp_path):
        found = pickled.read(file_of(recorded, form, tmp_path))
        plain = np.arange(24.0, dtype="float32").reshape(2, 3, 4)
        expected = {
            "part": plain[1:, ::2, 1:3].transpose(2, 1, 0),
            "parameter": plain[0],
            "bfloat16": (plain / 7),
            "double": plain.astype("float64") / 7,
            "integers": np.array([-(2**40), 5]),
            "bytes": np.array([0, 255], "uint8"),
            "flags": np.array([True, False]),
            "scalar": np.float32(2.5),
            "empty": np.zeros((0, 3), "float32"),
        }
        assert set(found) == {*expected, "shared", "size", "values"}
        for key, array in expected.items():
            exact = {"rtol": 2**-8} if key == "bfloat16" else {"rtol": 1e-15}
            assert found[key].dtype == array.dtype
            np.testing.assert_allclose(found[key], array, err_msg=key, **exact)
        assert found["shared"][0] is found["shared"][1]
        assert found["size"] == (2, 3, 4)
        assert found["values"] == (
            *(1, -2.5, 2**70, None, True, "text"),
            [1, (2, 3), {"a": 4}],
        )


@pytest.mark.parametrize("form", ["pth", "protocol 4", "checkpoint", "safetensors"])
def test_naive_network(form, tmp_path):
    """Deep units b1, b2, ...; another size; the pass in NumPy is of the source."""
    units = (1, 2, 7, 1)
    state = resnet_state(units, 4, 6)
    path = tmp_path / "m"
    if form == "safetensors":
        torch_files.safetensors(path, state, {"format": "pt"})
    elif form == "checkpoint":
        wrapped = {f"module.model.{name}": array for name, array in state.items()}
        archive(path, {"epoch": 7, "model": wrapped, "best": 0.5})
    else:
        archive(path, state, protocol=4 if form == "protocol 4" else 2)
    model, found = filled(path, Net(units, 4), 6)
    images = pictures()
    same(model(images[:, None]), torch_files.forward(state, units, images))
    assert "res4b6_branch2c" in found.weights.layers
    first = next(row for row in found.rows if row.target == "conv1/kernel")
    assert first.transform == "OIHW -> HWIO, / deviation"


def test_weights_survive_saving(tmp_path):
    state = resnet_state((1, 1, 1, 1), 16, 8)
    path = archive(tmp_path / "m.pth", state)
    found = pytorch.convert(path, zoo.info("resnet_tiny")).weights
    model = zoo.load("resnet_tiny", stem="torchvision")
    transfer(found, model)
    model.save_weights(tmp_path / "m.weights.h5")
    options = {"stem": "torchvision"}
    again = zoo.load("resnet_tiny", weights=tmp_path / "m.weights.h5", **options)
    clip = pictures()[:, None]
    np.testing.assert_array_equal(again(clip), model(clip))
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(clip), model(clip), rtol=1e-5, atol=1e-5)


class TestStrideOn3x3:
    """The stem "torchvision" of the networks that a trunk becomes."""

    @pytest.mark.parametrize("unit", ["thesis", "release"])
    def test_t_resnet_is_its_trunk_without_time(self, unit):
        spatial = trained(zoo.load("resnet_tiny", stem="torchvision"))
        model = zoo.load(
            "t_resnet_tiny", weights=spatial, temporal_scale=0.0, unit=unit
        )
        still = np.repeat(pictures(67, 94)[:, None], 3, axis=1)
        np.testing.assert_allclose(model(still), spatial(still), atol=1e-5)

    def test_time_is_filtered_where_w2_looks(self):
        """With W2 the identity and W_t its middle tap, both branches are the same."""
        model = t_resnet("m", Net((1, 1, 1, 1), 2), 3, None, stem="torchvision")
        identity = np.zeros((3, 3, 4, 4), "float32")
        identity[1, 1] = np.eye(4)
        model.get_layer("res3a_branch2b").kernel.assign(identity)
        taps = np.stack([np.zeros((4, 4)), np.eye(4), np.zeros((4, 4))])
        model.get_layer("conv_time_res3a_branch2b").kernel.assign(taps)
        names = ["res3a_branch2b", "conv_time_res3a_branch2b"]
        found = zoo.features(model, names)(pictures(67, 94)[:, None])
        norm = np.sqrt(1 + 1e-5)  # of untrained statistics
        space, time = (found[name].numpy() for name in names)
        np.testing.assert_allclose(space * norm, time, rtol=1e-5)
        assert time.max() > 0.1

    def test_two_streams_and_detectors(self, zero_weights):
        for name, layer in (
            ("st_mulnet26_tiny", "motion_res4a_branch2b"),
            ("rfcn_tiny", "res4a_branch2b"),
        ):
            model = zoo.load(name, stem="torchvision")
            assert model.get_layer(layer).strides == 2, name
            before = model.get_layer(layer.replace("2b", "2a"))
            assert before.strides == 1, name

    def test_a_flow_stream_starts_from_it(self, tmp_path):
        path = archive(tmp_path / "m.pth", resnet_state((2, 2, 2, 2), 8, 8))
        found = pytorch.convert(path, zoo.info("motion_resnet26_tiny")).weights
        model = zoo.load("motion_resnet26_tiny", num_classes=8, **found.options)
        transfer(found, model)
        kernel = found.layers["conv1"][0].mean(axis=2)
        for channel in (0, 19):
            np.testing.assert_allclose(
                model.get_layer("conv1").kernel[:, :, channel], kernel
            )

    def test_a_model_says_its_stem(self):
        model = zoo.load("resnet_tiny", stem="torchvision")
        again = zoo.load("t_resnet_tiny", weights=model)
        assert again.get_layer("res3a_branch2b").strides == 2
        with pytest.raises(ValueError, match="trained with stem='torchvision'"):
            zoo.load("t_resnet_tiny", weights=model, stem="keras")
        assert weights_of(model).num_classes == 8


class Evil:
    """Pickled, it is a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class TestNothingIsExecuted:
    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
    @pytest.mark.parametrize("form", ["archive", "alone"])
    def test_a_call_is_refused(self, form, protocol, tmp_path):
        witness = tmp_path / "executed"
        content = pickle.dumps(Evil(os.mkdir, (str(witness),)), protocol)
        path = tmp_path / "m.pth"
        if form == "archive":
            packed(path, content)
        else:
            path.write_bytes(content)
        with pytest.raises(
            ValueError, match="m.pth is no readable .pth file: .*(mkdir|operation)"
        ):
            pickled.read(path)
        assert not witness.exists()
        pickle.loads(content)  # it would have been
        assert witness.exists()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (Evil(eval, ("1",)), "names builtins.eval|__builtin__.eval"),
            (Evil(getattr, ({}, "keys")), "getattr"),
            (np.float64(3.0), "numpy"),
            (Evil, "tests.test_pytorch.Evil"),
            (Net((1,)), "zoo.models.resnet.Net"),
        ],
    )
    def test_any_other_name_is_refused(self, call, message, tmp_path):
        content = pickle.dumps({"state_dict": {}, "arguments": call}, 2)
        with pytest.raises(ValueError, match=f"{message}.*Save the weights alone"):
            pickled.read(packed(tmp_path / "m.pth", content))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
            (b"\x80\x02ctorch._utils\n_rebuild_tensor\n(K\x01K\x00)(K\x01ttR.", ""),
            (b"\x80\x02K\x01K\x01R.", "calls what is no function"),
            (b"\x80\x02K\x01}b.", "gives a state to what is no dict"),
            (b"\x80\x02}(K\x01u.", "puts items into what is no dict"),
            (b"\x80\x02]K\x01K\x02s.", "puts items into what is no dict"),
            (b"\x80\x02}K\x01a.", "appends to what is no list"),
            (b"\x80\x02t.", "max"),
            (b"\x80\x02\x85.", "takes more from the stack"),
            (b"\x80\x02h\x05.", "5"),
            (b"\x80\x02}]K\x01s.", "a list as key of a dict"),
            (b"\x80\x02K\x01K\x02.", "too many values"),
            (b"\x80\x02X\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
            (b"\x80\x02]q\x00h\x00a.", "recursion"),
            (b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00t" * 3, "exhausted"),
            (b"\x80\x02", "exhausted"),
            (b"\xff", "at position 0, opcode"),
        ],
    )
    def test_malformed_pickles(self, content, message, tmp_path):
        with pytest.raises(ValueError, match=f"no readable .pth file: .*{message}"):
            pickled.read(packed(tmp_path / "m.pth", content))

    def test_shared_lists_do_not_grow(self, tmp_path):
        """Thirty lists, each of the one before twice: a billion if they were copied."""
        nested = []
        for _ in range(30):
            nested = [nested, nested]
        found = pickled.read(packed(tmp_path / "m.pth", pickle.dumps(nested, 2)))
        for _ in range(30):
            assert found[0] is found[1]
            found = found[0]

    @pytest.mark.parametrize(
        ("use", "message"),
        [
            (b"}h\x28K\x01s.", "a tuple as key of a dict"),
            (b"(h\x28NNNK\x01tQ.", "refers to a tuple, no storage"),
            (b"(X\x07\x00\x00\x00storageNh\x28NK\x01tQ.", "a storage"),
            (b"h\x28X\x01\x00\x00\x00x\x93.", "by what is no text"),
        ],
    )
    def test_shared_tuples_are_neither_hashed_nor_printed(self, use, message, tmp_path):
        """Forty tuples, each of the one before twice, would take days."""
        twice = (b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(40))
        content = b"\x80\x02)q\x00" + b"".join(twice) + use
        with pytest.raises(ValueError, match=message):
            pickled.read(packed(tmp_path / "m.pth", content))


def tensor_pickle(shape, strides, offset=0, count=6, key="0"):
    """A pickle of one tensor, with any numbers in it."""
    size = pickle.dumps(count, 2)[2:-1]
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
    head += b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    head += b"X" + len(key).to_bytes(4, "little") + key.encode()
    head += b"X\x03\x00\x00\x00cpu" + size + b"tQ"
    parts = [pickle.dumps(part, 2)[2:-1] for part in (offset, shape, strides)]
    return head + b"".join(parts) + b"\x89}tR."


class TestBadTensors:
    def test_a_good_one(self, tmp_path):
        six = np.arange(6, dtype="float32")
        path = packed(
            tmp_path / "m.pth",
            tensor_pickle((2, 2), (3, 1), 1),
            **{"data/0": six.tobytes()},
        )
        np.testing.assert_array_equal(pickled.read(path), [[1, 2], [4, 5]])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (((7,), (1,)), "reaches beyond its storage of 6"),
            (((2, 3), (4, 1)), "reaches beyond its storage of 6"),
            (((6,), (1,), 1), "reaches beyond its storage of 6"),
            (((2**40,), (0,)), "reaches beyond its storage of 6"),
            (((6,), (-1,), 5), "strides"),
            (((6,), (1, 1)), "of what is no storage"),
            (((6,), (1,), 0, 2**40), "has 24 bytes, 1099511627776 numbers"),
            (((6,), (1,), 0, -6), "a storage '0' of -6 numbers"),
            (((6,), (1,), 0, 6, "../../etc/passwd"), "There is no item"),
        ],
    )
    def test_refused(self, arguments, message, tmp_path):
        data = {"data/0": bytes(24)}
        path = packed(tmp_path / "m.pth", tensor_pickle(*arguments), **data)
        with pytest.raises(ValueError, match=message):
            pickled.read(path)

    @pytest.mark.parametrize(("count", "refused"), [(4, False), (5, True)])
    def test_tensors_may_share_a_storage_but_not_without_end(
        self, count, refused, tmp_path
    ):
        one = tensor_pickle((6,), (1,))[2:-1]  # without its beginning and its end
        many = b"\x80\x02(" + one * count + b"t."
        path = packed(tmp_path / "m.pth", many, **{"data/0": bytes(24)})
        if refused:
            with pytest.raises(ValueError, match="more than 4 times the 6 numbers"):
                pickled.read(path)
        else:
            assert len(pickled.read(path)) == count


class TestBadFiles:
    @pytest.fixture
    def state(self):
        return resnet_state((1, 1, 1, 1), 16, 8)

    def refused(self, path, message, name="resnet_tiny"):
        with pytest.raises(ValueError, match=message):
            found = pytorch.convert(path, zoo.info(name))
            transfer(found.weights, zoo.load(name, **found.weights.options))

    def test_the_state_fits(self, state, tmp_path):
        found = pytorch.convert(archive(tmp_path / "m", state), zoo.info("resnet_tiny"))
        transfer(found.weights, zoo.load("resnet_tiny", **found.weights.options))

    def test_options_that_the_file_contradicts(self, state, tmp_path):
        path = archive(tmp_path / "m.pth", state)
        with pytest.raises(ValueError, match="stem='torchvision', asked for was stem="):
            pytorch.convert(path, zoo.info("resnet_tiny"), {"stem": "keras"})

    def test_another_architecture(self, state, tmp_path):
        path = archive(tmp_path / "m.pth", state)
        self.refused(path, "do not fit resnet26_tiny", "resnet26_tiny")
        basic = {k: v for k, v in state.items() if "conv3" not in k}
        self.refused(archive(path, basic), "as those of ResNet-18 and 34")
        self.refused(
            archive(path, {"a": np.zeros(3)}), "its tensors, a, ..., are not th"
        )
        self.refused(archive(path, [np.zeros(3)]), "holds a list, no weights by name")

    @pytest.mark.parametrize(
        ("name", "array", "message"),
        [
            (
                "layer1.0.conv2.weight",
                None,
                "the tensor layer1.0.conv2.weight is missing",
            ),
            ("layer2.0.bn3.running_var", None, "layer2.0.bn3.running_var is missing"),
            (
                "conv1.weight",
                np.zeros((16, 3), "float32"),
                "expected were floating-point",
            ),
            ("bn1.weight", np.zeros(16, "int64"), "bn1.weight is int64"),
            ("conv1.weight", np.zeros((16, 3, 5, 5), "float32"), "other shapes: conv1"),
            ("fc.bias", np.full(8, np.nan, "float32"), "layer fc holds NaN"),
        ],
    )
    def test_other_tensors(self, name, array, message, state, tmp_path):
        state = {k: v for k, v in state.items() if k != name or array is not None}
        if array is not None:
            state[name] = array
        self.refused(archive(tmp_path / "m.pth", state), message)

    def test_unused_tensors_are_named(self, state, tmp_path):
        state["layer1.0.se.fc.weight"] = np.zeros((2, 3), "float32")
        state["fc2.bias"] = np.zeros(3, "float32")
        path = torch_files.safetensors(tmp_path / "m", state)
        found = pytorch.convert(path, zoo.info("resnet_tiny"))
        assert found.unused == ("layer1.0.se.fc.weight", "fc2.bias")

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
    @pytest.mark.parametrize("form", ["archive", "stream", "safetensors"])
    def test_truncated(self, form, share, recorded, state, tmp_path):
        path = tmp_path / "m"
        if form == "safetensors":
            content = torch_files.safetensors(path, state).read_bytes()
        else:
            content = recorded[form].tobytes()
        path.write_bytes(content[: int(share * len(content))])
        self.refused(path, "no readable .(pth|safetensors) file")

    def test_one_bit_of_an_archive(self, recorded, tmp_path):
        """Archives have a checksum of every entry."""
        path = file_of(recorded, "archive", tmp_path)
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as file:
            entry = max(file.infolist(), key=lambda e: e.file_size)
        content[entry.header_offset + 200] ^= 4
        path.write_bytes(content)
        self.refused(path, "Bad CRC-32")

    @pytest.mark.parametrize("form", ["other", "other stream"])
    def test_a_byte_anywhere_is_no_crash(self, form, recorded, tmp_path):
        """Whatever a byte is changed to: a message or other numbers."""
        content, path = recorded[form].tobytes(), tmp_path / "m.pth"
        rng, outcomes = np.random.default_rng(0), set()
        for place in range(0, len(content), 5):
            changed = bytearray(content)
            changed[place] = rng.integers(0, 256)
            path.write_bytes(changed)
            try:
                pickled.read(path)
                outcomes.add("read")
            except ValueError:
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"<!DOCTYPE html><html>404", "no readable .pth file"),
            (b"", "no readable .pth file"),
            (b"PK\x03\x04", "not a zip file"),
            (b"\x00" * 257 + b"ustar" + b"\x00" * 300, "tar archive of PyTorch 0.1"),
            (pickle.dumps(3, 2), "none that torch.save has written"),
            (pickle.dumps({"a": 1}, 4), "none that torch.save has written"),
        ],
    )
    def test_no_weights_in_the_file(self, content, message, tmp_path):
        (tmp_path / "m.pth").write_bytes(content)
        self.refused(tmp_path / "m.pth", message)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            pickled.read(tmp_path / "another.pth")

    def test_archives_that_torch_does_not_write(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("model/data.pkl", b"\x80\x02}.")
        self.refused(tmp_path / "a", "is compressed, which PyTorch never does")
        with zipfile.ZipFile(tmp_path / "b", "w") as file:
            file.writestr("code/x.py", b"")
        self.refused(tmp_path / "b", "an archive with 0 data.pkl in it")
        packed(tmp_path / "c", b"\x80\x02}.", byteorder=b"big")
        self.refused(tmp_path / "c", "big.*-endian order")


class TestSafetensors:
    def test_what_was_written(self, tmp_path):
        tensors = {
            "b": np.arange(6, dtype="float32").reshape(2, 3),
            "a": np.array(2.5),
            "c": np.arange(3, dtype="float16"),
            "none": np.zeros((0, 4), "int64"),
        }
        path = torch_files.safetensors(tmp_path / "m", tensors, {"format": "pt"})
        found, facts = safetensors.read(path)
        assert facts == {"format": "pt"} and list(found) == list(tensors)
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)

    def test_bfloat16(self, tmp_path):
        header = b'{"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
        data = np.array([1.5, -3.0], "<f4").view("<u2")[1::2].tobytes()
        found, _ = safetensors.read(raw_safetensors(tmp_path / "m", header, data))
        np.testing.assert_array_equal(found["x"], np.array([1.5, -3.0], "float32"))

    @pytest.mark.parametrize(
        ("entries", "size", "message"),
        [
            ('"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}', 4, "not 8"),
            (
                '"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}',
                8,
                "due was 0",
            ),
            (
                '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}',
                9,
                "9 are the",
            ),
            (
                '"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}',
                4,
                "36 bytes",
            ),
            (
                '"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}',
                4,
                "the shape",
            ),
            (
                '"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}',
                4,
                "the type F4",
            ),
            ('"a": {"dtype": "F32", "shape": [1]}', 4, "data_offsets"),
            ('"a": 3', 0, "not subscriptable"),
            ('"a"', 0, "delimiter"),
        ],
    )
    def test_refused(self, entries, size, message, tmp_path):
        path = raw_safetensors(tmp_path / "m", f"{{{entries}}}".encode(), bytes(size))
        with pytest.raises(
            ValueError, match=f"no readable .safetensors file: .*{message}"
        ):
            safetensors.read(path)

    def test_a_header_longer_than_the_file(self, tmp_path):
        path = raw_safetensors(tmp_path / "m", b"{}")
        path.write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")
        with pytest.raises(ValueError, match="ends within. Download it again"):
            safetensors.read(path)
        with pytest.raises(FileNotFoundError, match="give a .safetensors file"):
            safetensors.read(tmp_path / "another")


def test_a_pickle_larger_than_any_networks_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
    assert pickled.read(tmp_path / "w.pth") == {}
    monkeypatch.setattr(pickled, "MAX_PICKLE", 3)
    with pytest.raises(ValueError, match="a pickle of 4 bytes, at most 3"):
        pickled.read(tmp_path / "w.pth")
