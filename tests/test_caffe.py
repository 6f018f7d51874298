"""Caffe's files: networks of the source run in NumPy, and ours with their weights."""

from functools import partial

import numpy as np
import pytest

import zoo
from tests import caffe_files
from tests.caffe_files import Net, forward, write
from zoo.models.detect_track import detect_track
from zoo.models.resnet import NETS, resnet
from zoo.models.resnet import Net as Units
from zoo.models.resnext import dilated_resnext
from zoo.models.rfcn import HEADS, TRUNKS, rfcn
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
    found = caffe.convert(path, zoo.info(name))
    assert found.unused == ()
    for variable in model.weights:
        variable.assign(np.full(variable.shape, np.nan))
    transfer(found.weights, model)
    assert sorted(row.target for row in found.rows) == sorted(
        "/".join(v.path.split("/")[-2:]) for v in model.weights
    )
    return model, found


def same(found, expected, tolerance=1e-4):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)


FORMS = {
    "layer": {},
    "layers": {"old": True},
    "not packed": {"packed": False},
    "four sizes": {"legacy": True},
    "double": {"double": True},
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
    assert found.facts == {"producer": "Caffe", "network": "net", "classes": 6}
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
    assert found.facts["classes"] == CLASSES
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
