"""Converting weights: which reader, what is refused, what comes out."""

import dataclasses
import sys
import types

import h5py
import keras
import numpy as np
import pytest

import zoo
from tests import matconvnet_networks as networks
from tests.matconvnet_files import as_dag, write
from zoo.weights import conversion, records
from zoo.weights.conversion import Conversion, Row, convert_file
from zoo.weights.hdf5 import read_h5
from zoo.weights.record import WeightRecord
from zoo.weights.transfer import Weights, weights_of

CLIP = np.random.default_rng(0).integers(0, 256, (1, 2, 40, 40, 3), dtype="uint8")


@pytest.fixture(scope="module")
def source():
    """A network with other weights than a fresh one."""
    keras.utils.set_random_seed(7)
    return zoo.load("resnet_tiny", num_classes=3)


@pytest.fixture
def importer(source, monkeypatch, tmp_path):
    """An importer of files that begin like MATLAB's: .path, and .found to change."""
    module = types.ModuleType("tests.importer")
    module.path = tmp_path / "net.mat"
    module.path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(200))
    weights = dataclasses.replace(weights_of(source), options={"stem": "keras"})
    rows = tuple(
        Row(f"{layer}_{i}", f"{layer}/{i}", a.shape, "HWIO")
        for layer, arrays in weights.layers.items()
        for i, a in enumerate(arrays)
    )
    module.found = Conversion(weights, rows, ("scale_a", "scale_b"), {"classes": "abc"})
    module.given = {}

    def convert(path, info, options):
        module.given.update(options)
        return module.found

    module.convert = convert
    module.OPTIONS = ("mean_image",)
    monkeypatch.setitem(sys.modules, "tests.importer", module)
    monkeypatch.setitem(conversion.IMPORTERS, "matconvnet", "tests.importer")
    return module


def changed(importer, layer, change):
    """The importer's result with the first array of a layer changed."""
    layers = {k: list(v) for k, v in importer.found.weights.layers.items()}
    layers[layer][0] = change(layers[layer][0].copy())
    weights = dataclasses.replace(importer.found.weights, layers=layers)
    importer.found = dataclasses.replace(importer.found, weights=weights)


def test_the_reader_is_chosen_by_content(importer, source):
    options = {"mean_image": "mean.npy", "sub_batch": 2}
    model, found = convert_file(importer.path, "resnet_tiny", options, ["scale_?"])
    assert importer.given == options
    assert found.weights.options == {"stem": "keras", "sub_batch": 2}
    assert model.get_layer("rgb_normalization").mean[0] == 123.68  # of that stem
    for a, b in zip(source.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    importer.found = dataclasses.replace(importer.found, unused=())
    again = zoo.load("resnet_tiny", weights=importer.path)
    np.testing.assert_array_equal(again.get_weights()[0], source.get_weights()[0])


def test_tensors_without_a_place(importer):
    for allowed in ((), ["scale_a"]):
        with pytest.raises(
            ValueError, match="tensors have no place in resnet_tiny: sc"
        ):
            convert_file(importer.path, "resnet_tiny", allow_unused=allowed)


def test_variables_without_a_value(importer):
    layers = {k: v for k, v in importer.found.weights.layers.items() if k != "fc"}
    weights = Weights("net.mat", layers, {"stem": "caffe"})
    importer.found = Conversion(weights, ())
    with pytest.raises(ValueError, match="1 layers of resnet_tiny would stay .*: fc"):
        convert_file(importer.path, "resnet_tiny")
    convert_file(importer.path, "resnet_tiny", allow_unset=["fc"])
    with pytest.raises(ValueError, match="8 layers of t_resnet_tiny .*conv_time_res2a"):
        convert_file(importer.path, "t_resnet_tiny", allow_unset=["*_bn", "fc"])
    convert_file(importer.path, "t_resnet_tiny", allow_unset=["fc", "conv_time_*"])


def test_another_architecture(importer):
    with pytest.raises(ValueError, match="do not fit resnet26_tiny"):
        convert_file(importer.path, "resnet26_tiny", allow_unused=["*"])


def test_unknown_options(importer):
    with pytest.raises(ValueError, match="no option 'colour', nor has .* mean_image"):
        convert_file(importer.path, "resnet_tiny", {"colour": 1}, ["*"])


def test_broken_numbers(importer):
    def spoiled(array):
        array.flat[3] = np.nan
        return array

    changed(importer, "res3a_branch2a", spoiled)
    with pytest.raises(ValueError, match="layer res3a_branch2a holds NaN"):
        convert_file(importer.path, "resnet_tiny", allow_unused=["*"])
    for dtype in ("object", "int8"):
        changed(importer, "res3a_branch2a", lambda a, d=dtype: np.ones(a.shape, d))
        with pytest.raises(ValueError, match=f"holds {dtype}, not floating-point numb"):
            convert_file(importer.path, "resnet_tiny", allow_unused=["*"])


def test_table(importer):
    _, found = convert_file(importer.path, "resnet_tiny", allow_unused=["*"])
    lines = conversion.table(found).splitlines()
    assert lines[0].split() == ["source", "target", "shape", "transform"]
    assert lines[1].split() == ["conv1_0", "conv1/0", "7x7x3x16", "HWIO"]
    assert lines[-1] == "scale_b  (unused)"
    assert len(lines) == 1 + len(found.rows) + 2


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
def test_files_of_keras(name, source, tmp_path):
    """Under a name that says nothing, since content decides."""
    (source.save if name == "m.keras" else source.save_weights)(tmp_path / name)
    path = (tmp_path / name).rename(tmp_path / "weights.bin")
    model, found = convert_file(path, "resnet_tiny")
    np.testing.assert_allclose(model(CLIP), source(CLIP), atol=1e-6)
    assert {row.transform for row in found.rows} == {"as it is"}


def test_one_byte_of_a_keras_model(source, tmp_path):
    """The archive's own checksum finds it."""
    source.save(tmp_path / "m.keras")
    content = bytearray((tmp_path / "m.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(ValueError, match="m.keras is not a readable .keras model: Bad"):
        zoo.load("resnet_tiny", weights=tmp_path / "m.keras")


def test_no_code_of_a_model_runs(tmp_path):
    """Keras' safe mode: a layer that carries Python bytecode is refused."""
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w').close()"
    rgb = keras.Input((None, None, None, 3), name="rgb")
    x = keras.layers.Lambda(lambda x: (exec(code), x)[1], output_shape=lambda s: s)(rgb)
    model = keras.Model(rgb, keras.layers.Dense(2, name="fc")(x))
    model.save(tmp_path / "evil.keras")
    marker.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="evil.keras is not a readable .keras model"):
        zoo.load("resnet_tiny", weights=tmp_path / "evil.keras")
    assert not marker.exists()


def test_other_h5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["something"] = np.zeros(3)
    with pytest.raises(ValueError, match="whose layers t_resnet_tiny does not have"):
        zoo.load("t_resnet_tiny", weights=tmp_path / "a.h5")
    with pytest.raises(ValueError, match="a.h5 is not a readable .h5 file of Keras"):
        zoo.load("resnet50", weights=tmp_path / "a.h5")


class TestSizesAreBounded:
    @pytest.fixture
    def path(self, tmp_path, source):
        path = tmp_path / "m.weights.h5"
        source.save_weights(path)
        return path

    def replaced(self, path, **dataset):
        with h5py.File(path, "a") as file:
            del file["layers/dense/vars/0"]
            file.create_dataset("layers/dense/vars/0", **dataset)

    def test_declared_but_not_stored(self, path):
        self.replaced(path, shape=(2**40, 2**10), dtype="f4")
        with pytest.raises(ValueError, match="made to exhaust memory"):
            zoo.load("resnet_tiny", weights=path)

    def test_packed(self, path):
        """Zeros, a thousandth of their size on the disk."""
        self.replaced(path, data=np.zeros((2**14, 2**14), "u1"), compression=9)
        assert path.stat().st_size < 2**22
        with pytest.raises(ValueError, match="made to exhaust memory"):
            read_h5(path)

    def test_stored_in_another_file(self, path, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"0123456789abcdef")
        external = [(str(secret), 0, 16)]
        self.replaced(path, shape=(4,), dtype="f4", external=external)
        with pytest.raises(ValueError, match="layers/dense/vars/0 is declared with 16"):
            read_h5(path)

    @pytest.mark.parametrize("form", ["SoftLink", "ExternalLink"])
    def test_links_are_not_followed(self, form, path, tmp_path):
        with h5py.File(tmp_path / "secret.h5", "w") as file:
            file["kernel"] = np.zeros(4)
        place = {"SoftLink": (), "ExternalLink": (str(tmp_path / "secret.h5"),)}[form]
        with h5py.File(path, "a") as file:
            del file["layers/dense/vars/0"]
            file["layers/dense/vars/0"] = getattr(h5py, form)(*place, "kernel")
        with pytest.raises(ValueError, match=f"dense/vars/0 is a {form}, which points"):
            zoo.load("resnet_tiny", weights=path)

    def test_text_in_place_of_numbers(self, path):
        self.replaced(path, data=np.array([b"text"]))
        with pytest.raises(ValueError, match="is no array of numbers"):
            read_h5(path)


class TestRecords:
    """The whole way of a record: a folder, a file of MatConvNet, options, a network."""

    @pytest.fixture
    def record(self, tmp_path, monkeypatch):
        """A record of a file that is in ZOO_WEIGHTS; dataclasses.replace changes it."""
        net = networks.resnet((1, 1, 1, 1), 16, classes=5)
        write(tmp_path / "net.mat", {"net": as_dag(net)})
        known = WeightRecord("resnet_tiny", "t", "matconvnet", ("net.mat",), "T", 5)
        table = {known.name: known}
        monkeypatch.setattr(records, "all_records", lambda: table)
        monkeypatch.setenv("ZOO_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("ZOO_OFFLINE", "1")

        def change(**facts):
            table[known.name] = dataclasses.replace(known, **facts)
            return table[known.name]

        return change

    def test_by_tag_and_by_name(self, record, tmp_path):
        record(options={"stem": "caffe"})
        one = zoo.load("resnet_tiny", weights="t")
        two = zoo.load("resnet_tiny.t")
        (tmp_path / "net.mat").rename(tmp_path / "other.mat")
        three = zoo.load("resnet_tiny.t", weights=tmp_path / "other.mat")
        start = zoo.load("t_resnet_tiny", weights=two)
        for model in (two, three):
            np.testing.assert_array_equal(model(CLIP), one(CLIP))
        np.testing.assert_array_equal(
            start.get_layer("fc").get_weights()[0], one.get_layer("fc").get_weights()[0]
        )
        with pytest.raises(FileNotFoundError, match="weights resnet_tiny.t were not f"):
            zoo.load("resnet_tiny.t")

    def test_another_file_under_the_name(self, record):
        record(num_classes=7)
        with pytest.raises(ValueError, match="has 5 classes, resnet_tiny.t has 7"):
            zoo.load("resnet_tiny.t")
        record(options={"stem": "keras"})
        with pytest.raises(ValueError, match="stem|pool1 has"):
            zoo.load("resnet_tiny.t")
        record(checksum="sha256:" + 64 * "0")
        with pytest.raises(ValueError, match="is not the file of resnet_tiny.t"):
            zoo.load("resnet_tiny.t")


def test_imagenet_that_is_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for name in ("t_resnet50", "st_mulnet50"):
        with pytest.raises(FileNotFoundError, match="resnet50.imagenet were not found"):
            zoo.load(name, weights="imagenet")
