"""Caffe's files: networks of the source run in NumPy, and ours with their weights."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests import caffe_files, weight_files
from tests.caffe_files import Net, forward, write
from tests.weight_files import same
from zoo.models.detect_track import detect_track
from zoo.models.resnet import NETS, resnet
from zoo.models.resnet import Net as Units
from zoo.models.resnext import dilated_resnext, resnext
from zoo.models.rfcn import HEADS, TRUNKS, rfcn
from zoo.models.vgg import VGGS, vgg
from zoo.weights import caffe, caffemodel
from zoo.weights.transfer import transfer

MEAN_COLOUR = np.array([123.1516, 115.9029, 103.0626])  # of the mean image, RGB


def frames(count=2, height=67, width=94):
    shape = (count, height, width, 3)
    return np.random.default_rng(5).integers(0, 256, shape).astype("float32")


def blue_green_red(images, mean=MEAN_COLOUR, deviation=1.0):
    """What Caffe's network sees of RGB images [N, H, W, 3]: [N, 3, H, W]."""
    return ((images - mean) / deviation)[..., ::-1].transpose(0, 3, 1, 2)


def filled(model, path, name):
    """`model` with the weights of a file, every one of them."""
    return weight_files.filled(model, caffe.convert(path, zoo.info(name)))


FORMS = {
    "layer": {},
    "layers": {"old": True},
    "not packed": {"packed": False},
    "four sizes": {"legacy": True},
    "double": {"double": True},
    "differences": {"diff": 1},
}


class TestReader:
    """Against Google's own implementation of the wire format."""

    @pytest.mark.parametrize("form", FORMS)
    def test_every_form_of_the_format(self, form, tmp_path):
        net = Net()
        net.conv("conv1", "data", 5, 3, True, stride=2, pad=1)
        net.classes = net.random.normal(size=(7, 5))
        net.add("fc", "InnerProduct", "conv1", blobs=[net.classes, np.arange(7.0)])
        net.add("pool1", "Pooling", "conv1", pool="MAX", kernel=3, stride=2)
        path = write(tmp_path / "m.caffemodel", net.nodes, **FORMS[form])
        name, layers = caffemodel.read(path)
        assert name == "net" and list(layers) == ["conv1", "fc", "pool1"]
        assert [x.kind for x in layers.values()] == [n.kind for n in net.nodes]
        assert layers["conv1"].settings == {"pad": 1, "stride": 2}
        assert layers["pool1"].settings == {"method": 0, "kernel": 3, "stride": 2}
        for node in net.nodes:
            for blob, array in zip(layers[node.name].blobs, node.blobs, strict=True):
                assert blob.dtype == np.float32
                shape = array.shape
                if form == "four sizes":
                    shape = (1,) * (4 - array.ndim) + shape
                np.testing.assert_array_equal(
                    blob, array.astype("float32").reshape(shape)
                )

    def test_long_runs_that_are_not_packed(self, tmp_path):
        """Many numbers with a tag each, between fields that are none of them."""
        numbers = np.arange(3 * 25 * 25, dtype="float32").reshape(3, 25, 25)
        net = Net()
        net.add("a", "Scale", "data", blobs=[numbers, numbers[:1, :1, :1]])
        path = write(tmp_path / "m.caffemodel", net.nodes, packed=False)
        blobs = caffemodel.read(path)[1]["a"].blobs
        np.testing.assert_array_equal(blobs[0], numbers)
        np.testing.assert_array_equal(blobs[1], numbers[:1, :1, :1])


@pytest.mark.parametrize("bias", [True, False], ids=["50", "101"])
def test_resnet(bias, tmp_path):
    """Classifiers; conv1 of ResNet-50 has a bias, that of ResNet-101 none."""
    net = Net()
    maps = caffe_files.resnet(net, {s: "ab" for s in (2, 3, 4, 5)}, 8, bias=bias)
    caffe_files.classifier(net, maps[5], 6)
    path = write(tmp_path / "m.caffemodel", net.nodes)
    model, found = filled(
        resnet("m", NETS["26"], 6, None, "rgb"), path, "resnet26_tiny"
    )
    assert found.weights.options == {"stem": "caffe"}
    assert found.facts == {"producer": "Caffe", "network": "net", "num_classes": 6}
    images = frames(1, 217, 203)  # 7 x 7 positions remain, after four odd sizes
    expected = forward(net.nodes, data=blue_green_red(images))["fc1000"]
    same(model(images[:, None]), expected)


def test_deep_resnet_and_another_epsilon(tmp_path):
    """Units b1, b2, ... of ResNet-101 and 152, scores as of a fine-tuned network."""
    net = Net()
    letters = {
        2: "a",
        3: ["a", "b1"],
        4: ["a", *(f"b{i}" for i in range(1, 8))],
        5: "a",
    }
    maps = caffe_files.resnet(net, letters, 4)
    caffe_files.classifier(net, maps[5], 3, name="fc_three")
    for node in net.nodes:
        if node.kind == "BatchNorm":
            node.settings["eps"] = 1e-3
    path = write(tmp_path / "m.caffemodel", net.nodes)
    model = resnet("m", Units((1, 2, 8, 1), 4), 3, None, "rgb")
    model, found = filled(model, path, "resnet101")
    images = frames(1, 200, 224)
    expected = forward(net.nodes, data=blue_green_red(images))["fc_three"]
    same(model(images[:, None]), expected)
    variances = [r.transform for r in found.rows if "variance" in r.target]
    assert set(variances) == {"variance / factor + 0.001 - 1e-05"}


@pytest.mark.parametrize("form", FORMS)
def test_vgg(form, tmp_path):
    """In every form of the format; VGG-16 was published in the older one."""
    net = Net()
    caffe_files.vgg(net, (16, 24, 32, 48, 64), (128, 128), 5)
    path = write(tmp_path / "m.caffemodel", net.nodes, **FORMS[form])
    model, _ = filled(vgg("m", VGGS["tiny"], 5, None, "rgb"), path, "vgg_tiny")
    images = frames(2, 64, 64)
    mean = np.array([123.68, 116.779, 103.939])
    expected = forward(net.nodes, data=blue_green_red(images, mean))["fc8"]
    same(model(images[:, None]), expected)


CLASSES, BINS = 4, HEADS["tiny"].bins
TINY = (CLASSES, "softmax", HEADS["tiny"])
ROIS = np.array(
    [
        [[3, 5, 60, 50], [0, 0, 93, 66], [40, 20, 41, 21], [-9, 30, 30, 90]],
        [[10.4, 8.5, 70.6, 44], [80, 60, 93, 66], [1, 2, 33, 64], [20, 20, 52, 52]],
    ],
    "float32",
)


def detection_nodes(trunk, track, name="rfcn_cls_ILSVRCvid"):
    """A detector in the widths of our tiny heads."""
    net = Net()
    maps = trunk(net)
    caffe_files.detector(net, maps, CLASSES, bins=BINS, reduced=64, name=name)
    if track:
        caffe_files.tracker(net, maps, bins=BINS, reach=3)
    return net.nodes


def run_detector(nodes, images, prepare=blue_green_red):
    boxes = [
        np.concatenate([np.full((len(r), 1), i), r], axis=1) for i, r in enumerate(ROIS)
    ]
    return forward(
        nodes, data=prepare(images), rois=np.concatenate(boxes), rois_disp=boxes[0]
    )


def compare_detectors(model, nodes, images, prepare=blue_green_red):
    expected = run_detector(nodes, images, prepare)
    found = model({"rgb": images[None], "proposals": ROIS[None]})
    scores = expected["cls_score"].reshape(2, -1, CLASSES + 1)
    same(found["class_scores"][0], scores)
    deltas = expected["bbox_pred"].reshape(2, -1, 8)
    same(found["box_deltas"][0], deltas[..., 4:])
    if "track_deltas" in found:
        same(found["track_deltas"][0, 0], expected["bbox_disp"][:, 4:])


tiny_trunk = partial(
    caffe_files.resnet, units={s: "ab" for s in (2, 3, 4, 5)}, width=8, dilated=True
)


@pytest.mark.parametrize("name", ["rfcn_cls", "rfcn_cls_ILSVRCvid"])
def test_released_detector(name, tmp_path):
    nodes = detection_nodes(tiny_trunk, track=False, name=name)
    path = write(tmp_path / "m.caffemodel", nodes)
    model = rfcn(
        "m", TRUNKS["26"], CLASSES, "softmax", HEADS["tiny"], variant="release"
    )
    model, found = filled(model, path, "rfcn_tiny")
    assert found.weights.options == {"stem": "caffe", "variant": "release"}
    assert found.facts["num_classes"] == CLASSES
    compare_detectors(model, nodes, frames())


def test_released_detect_and_track(tmp_path):
    nodes = detection_nodes(tiny_trunk, track=True)
    path = write(tmp_path / "m.caffemodel", nodes)
    model = detect_track("m", TRUNKS["26"], *TINY, variant="release")
    model, _ = filled(model, path, "detect_track_tiny")
    compare_detectors(model, nodes, frames())


def as_released(images):
    """Mean and deviation of blue, green and red, taken from red, green and blue."""
    mean, deviation = (
        np.array([103.52, 116.28, 123.675]),
        np.array([57.375, 57.12, 58.395]),
    )
    return blue_green_red(images, mean, deviation)


def test_resnext_classifier(tmp_path):
    """The file that detectors on ResNeXt start from; its mean is in its own order."""
    net = Net()
    maps = caffe_files.resnext(net, {2: 1, 3: 2, 4: 1, 5: 2}, 16, 4)
    caffe_files.classifier(net, maps[5], 6, name="classifier")
    path = write(tmp_path / "m.caffemodel", net.nodes)
    sizes = {"units": (1, 2, 1, 2), "widths": (16, 32, 64, 128), "groups": 4}
    model, _ = filled(resnext("m", 6, None, **sizes), path, "resnext101")
    images = frames(1, 209, 223)
    mean, deviation = [123.675, 116.28, 103.52], [58.395, 57.12, 57.375]
    seen = blue_green_red(images, np.array(mean), np.array(deviation))
    same(model(images[:, None]), forward(net.nodes, data=seen)["classifier"])


def test_released_resnext(tmp_path):
    trunk = partial(
        caffe_files.resnext,
        units={2: 1, 3: 2, 4: 2, 5: 1},
        width=16,
        groups=4,
        dilated=True,
    )
    nodes = detection_nodes(trunk, track=True)
    path = write(tmp_path / "m.caffemodel", nodes)
    small = partial(
        dilated_resnext, units=(1, 2, 2, 1), widths=(16, 32, 64, 128), groups=4
    )
    model = detect_track(
        "m", small, CLASSES, "softmax", HEADS["tiny"], variant="release"
    )
    model, found = filled(model, path, "detect_track_resnext101")
    compare_detectors(model, nodes, frames(), as_released)
    assert "1 - epsilon, merged into the scale" in {r.transform for r in found.rows}


class TestBadFiles:
    @pytest.fixture
    def nodes(self):
        net = Net()
        maps = caffe_files.resnet(net, dict.fromkeys((2, 3, 4, 5), "a"), 16)
        caffe_files.classifier(net, maps[5], 8)
        return net.nodes

    def refused(self, tmp_path, nodes, message, name="resnet_tiny"):
        path = write(tmp_path / "m.caffemodel", nodes)
        with pytest.raises(ValueError, match=message):
            found = caffe.convert(path, zoo.info(name))
            transfer(found.weights, zoo.load(name))

    def test_the_nodes_fit(self, nodes, tmp_path):
        path = write(tmp_path / "m.caffemodel", nodes)
        transfer(
            caffe.convert(path, zoo.info("resnet_tiny")).weights,
            zoo.load("resnet_tiny"),
        )

    def test_another_architecture(self, nodes, tmp_path):
        self.refused(tmp_path, nodes, "do not fit resnet26_tiny", "resnet26_tiny")
        self.refused(tmp_path, nodes, "do not fit vgg_tiny.*have no place", "vgg_tiny")

    def test_options_that_the_file_contradicts(self, nodes, tmp_path):
        path = write(tmp_path / "m.caffemodel", nodes)
        info = zoo.info("resnet_tiny")
        with pytest.raises(ValueError, match="with stem='caffe', asked for was s"):
            caffe.convert(path, info, {"stem": "keras"})
        assert caffe.convert(path, info, {"stem": "caffe"}).rows

    def test_an_unknown_architecture(self, tmp_path):
        net = Net()
        net.conv("first", "data", 4, 3)
        self.refused(
            tmp_path, net.nodes, "'net' of Caffe with the layers first, .*known"
        )

    @pytest.mark.parametrize(
        ("name", "blob", "array", "message"),
        [
            (
                "res2a_branch2a",
                0,
                np.zeros((16, 16)),
                r"res2a_branch2a has a kernel of",
            ),
            (
                "bn2a_branch2a",
                0,
                np.zeros(5),
                r"bn2a_branch2a has shape \(5,\), .* 16 n",
            ),
            (
                "bn2a_branch2a",
                2,
                np.zeros(1),
                "bn2a_branch2a has statistics of no batch",
            ),
            ("scale2a_branch1", 1, np.zeros(3), "scale2a_branch1 has shape .* 64 num"),
            (
                "res3a_branch2b",
                0,
                np.zeros((32, 7, 3, 3)),
                "have other shapes: res3a_b",
            ),
            (
                "res3a_branch2b",
                0,
                np.full((32, 32, 3, 3), np.nan),
                "res3a_branch2b holds NaN",
            ),
            ("fc1000", 0, np.zeros(8), "fc1000 has weights of shape"),
        ],
    )
    def test_other_numbers(self, name, blob, array, message, nodes, tmp_path):
        next(n for n in nodes if n.name == name).blobs[blob] = array
        self.refused(tmp_path, nodes, message)

    def test_missing_and_extra_layers(self, nodes, tmp_path):
        def without(*names):
            return [n for n in nodes if n.name not in names]

        both = ("bn4a_branch2b", "scale4a_branch2b")
        self.refused(tmp_path, without(*both), "res4a_branch2b has no normalisation")
        self.refused(
            tmp_path,
            without("res4a_branch2b", *both),
            "missing: res4a_branch2b, bn4a_branch2b",
        )
        scale = next(n for n in nodes if n.kind == "Scale")
        scale.blobs.pop()
        self.refused(tmp_path, nodes, "scale_conv1 has 1 blobs, expected were 2")

    def test_unused_tensors_are_named(self, nodes, tmp_path):
        nodes[-1:-1] = [caffe_files.Node("aux", "Convolution", ["pool5"], ["aux"])]
        nodes[-2].blobs = [np.zeros((3, 64, 1, 1)), np.zeros(3)]
        path = write(tmp_path / "m.caffemodel", nodes)
        found = caffe.convert(path, zoo.info("resnet_tiny"))
        assert found.unused == ("aux[0]", "aux[1]")

    @pytest.mark.parametrize(
        ("name", "settings", "message"),
        [
            (
                "res3a_branch2a",
                {"stride": 1},
                "res3a_branch2a has stride 1, dilation 1 in the file and stride 2",
            ),
            (
                "res5a_branch2b",
                {"pad": 2, "dilation": 2},
                "res5a_branch2b has stride 1, d",
            ),
            (
                "pool1",
                {"pool": "MAX", "kernel": 3, "stride": 2, "pad": 1},
                "pads 1 in the",
            ),
        ],
    )
    def test_another_geometry(self, name, settings, message, nodes, tmp_path):
        next(n for n in nodes if n.name == name).settings = settings
        self.refused(tmp_path, nodes, message)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.97])
    def test_truncated(self, share, nodes, tmp_path):
        path = write(tmp_path / "m.caffemodel", nodes)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="no readable .caffemodel|begins with b''"):
            caffe.convert(path, zoo.info("resnet_tiny"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"<!DOCTYPE html><html>404", "looks like a web page"),
            (b'name: "ResNet-50"\ninput: "data"\n', "That is text"),
            (b"\x89HDF\r\n\x1a\n", "That is HDF5"),
            (b"PK\x03\x04", "begins with b'PK"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9", "no .caffemodel"),
            (b"", "begins with b''"),
            (b"\x0a\x03net", "holds no weights"),
            (
                b"\x0a\xff\xff\xff\xff\x7fnet",
                "ends early: a field of 34359738367 bytes",
            ),
            (b"\x0a\x03net\x12\x80", "ends within a number"),
            (b"\x0a\x03net\x16\x00", "begins no field"),
            (b"\x0a\x03net\x12\x02\x0a\x00", "the form of 2013"),
            (b"\x0a\x03net\xa2\x06\x02\x08\x01", "where a text or a message belongs"),
            # A blob that says it has 2^62 numbers.
            (
                b"\xa2\x06\x0f\x0a\x01a\x3a\x0a\x3a\x08\x80\x80\x80\x80\x80\x80\x80\x40",
                "no readable",
            ),
        ],
    )
    def test_no_network_in_the_file(self, content, message, tmp_path):
        (tmp_path / "m.caffemodel").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            caffe.convert(tmp_path / "m.caffemodel", zoo.info("resnet_tiny"))

    def test_missing_file(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match="does not exist; give a .caffemodel"
        ):
            caffe.convert(tmp_path / "m.caffemodel", zoo.info("resnet_tiny"))

    def test_a_byte_anywhere_is_no_crash(self, tmp_path):
        """Whatever a byte is changed to: a message or other numbers."""
        net = Net()
        net.conv("conv1", "data", 2, 1, True, stride=2)
        net.add("fc", "InnerProduct", "conv1", blobs=[np.ones((2, 2)), np.ones(2)])
        path = write(tmp_path / "m.caffemodel", net.nodes)
        content, rng = path.read_bytes(), np.random.default_rng(0)
        outcomes = set()
        for place in range(len(content)):
            for byte in rng.integers(0, 256, 4, dtype="uint8"):
                changed = bytearray(content)
                changed[place] = byte
                path.write_bytes(changed)
                try:
                    caffemodel.read(path)
                    outcomes.add("read")
                except ValueError:
                    outcomes.add("refused")
        assert outcomes == {"read", "refused"}


def test_converted_weights_survive_saving(tmp_path):
    """`.weights.h5` and SavedModel answer as the converted model does."""
    net = Net()
    maps = caffe_files.resnet(net, dict.fromkeys((2, 3, 4, 5), "a"), 16)
    caffe_files.classifier(net, maps[5], 8)
    path = write(tmp_path / "m.caffemodel", net.nodes)
    model, _ = filled(zoo.load("resnet_tiny"), path, "resnet_tiny")
    model.save_weights(tmp_path / "m.weights.h5")
    again = zoo.load("resnet_tiny", weights=tmp_path / "m.weights.h5", stem="caffe")
    clip = frames(2)[:, None]
    np.testing.assert_array_equal(again(clip), model(clip))
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(served.serve(clip), model(clip), atol=1e-6)
