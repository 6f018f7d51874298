"""The records of weights: complete, consistent, and readable."""

import dataclasses
import urllib.parse
import zipfile

import pytest

import zoo
from zoo.datasets.imagenet_annotations import CLASSES
from zoo.weights import kinds, records
from zoo.weights.record import (
    ASSETS,
    Metric,
    WeightRecord,
    from_json,
    read_labels,
    to_json,
)

RECORDS = records.all_records()
ONE = {"files": ("a.mat",), "summary": "A", "num_classes": 2}


@pytest.mark.parametrize("name", RECORDS)
def test_record_tells_the_truth_about_its_model(name):
    record, info = RECORDS[name], zoo.info(RECORDS[name].model)
    assert record.name == name and record.files
    assert set(record.options) <= set(info.options)
    assert set(record.inputs) <= set(info.inputs)
    assert record.num_classes == len(record.class_names)
    assert record.licence and record.summary[-1] != "."
    assert f"{name}: " in str(record) and "licence" in str(record)
    for url in record.sources:
        parts = urllib.parse.urlsplit(url)
        assert parts.scheme in ("http", "https") and parts.netloc
        assert parts.path.endswith(record.files[0])
    for metric in record.metrics:
        assert metric.protocol and metric.source and metric.data


def test_every_released_file_is_on_record():
    """The files that the thesis' author has released, by network."""
    files = {file for record in RECORDS.values() for file in record.files}
    expected = {
        "ucf101-img-vgg16-split1-dr0.85.mat",
        "ucf101-TVL1flow-vgg16-split1-dr0.9.mat",
        "hmdb51-flow-resnet152-split3-dr0.9.mat",
        "ucf101-ST-ResNet50-split=1.mat",
        "ucf101ST-ResNet50-final-split=1.mat",
        "ucf101ST-MulNet-img50-flow152-split=1.mat",
        "hmdb51ST-MulNet-img50-flow50-final-split=2.mat",
        "ResNet-101-model.caffemodel",
        "ResNet101-D-ilsvrc-vid.caffemodel",
        "ResNeXt101-DT-ilsvrc-vid.caffemodel",
        "imagenet-vgg-m-2048.mat",
    }
    assert expected <= files
    networks = [n for n in zoo.list_models() if zoo.info(n).weights]
    starts = {zoo.info(n).warm_start or n for n in networks if "_" not in n}
    assert {f"{name}.imagenet" for name in starts} <= set(RECORDS)


def test_labels():
    counts = {
        "imagenet": 1000,
        "ucf101": 101,
        "hmdb51": 51,
        "yup++": 20,
        "imagenet_vid": 30,
    }
    assert {p.stem for p in (ASSETS / "labels").glob("*.txt")} == set(counts)
    for name, count in counts.items():
        labels = read_labels(name)
        assert len(labels) == len(set(labels)) == count
        assert all(label == label.strip() and label for label in labels)
    assert read_labels("imagenet_vid") == CLASSES
    hmdb = read_labels("hmdb51")  # not sorted: so the released networks answer
    assert hmdb.index("kick_ball") + 1 == hmdb.index("kick")
    assert hmdb.index("sword_exercise") + 1 == hmdb.index("sword")
    assert read_labels("imagenet")[207] == "golden retriever"
    assert read_labels("ucf101")[34:36] == ("Hammering", "HammerThrow")
    for name in ("ucf", "../labels/ucf101"):
        with pytest.raises(ValueError, match=f"No labels '{name}'; there are hmdb51"):
            read_labels(name)


def test_a_record_survives_its_file():
    record = WeightRecord(
        "resnet_tiny",
        "mine",
        "folder",
        ("resnet_tiny.mine",),
        "Mine",
        2,
        labels=("a", "b"),
        options={"stem": "keras", "stream_weights": (1.0, 3.0)},
        metrics=(Metric("accuracy", 0.5, "x", "y", "z", 4, 0.1),),
    )
    again = from_json(to_json(record))
    for field in dataclasses.fields(record):
        assert getattr(again, field.name) == getattr(record, field.name), field.name
    for text in ("{}", "[1]", "no", '{"model": "resnet_tiny", "colour": 1}'):
        with pytest.raises(ValueError, match="not a record of weights"):
            from_json(text)


def test_bad_records():
    with pytest.raises(ValueError, match="unknown format 'zip'; accepted are folder"):
        WeightRecord("m", "t", "zip", **ONE)
    with pytest.raises(ValueError, match="3 labels for 2 classes"):
        WeightRecord("m", "t", "caffe", **ONE, labels=("a", "b", "c"))
    with pytest.raises(ValueError, match="'../m.t' must be a model and a tag"):
        WeightRecord("../m", "t", "caffe", **ONE)
    for name in ("../a.mat", "/a.mat", ".."):
        with pytest.raises(ValueError, match="must be names without folders"):
            WeightRecord("m", "t", "caffe", **{**ONE, "files": (name,)})
    with pytest.raises(ValueError, match="a share, 0 to 1, got 93.5; 93.5 % is 0.935"):
        Metric("accuracy", 93.5, "x", "y", "z")


def test_unknown_names():
    with pytest.raises(ValueError, match="nearest are st_resnet50.ucf101_split1_rel"):
        records.find("st_resnet50.ucf101_split1")
    with pytest.raises(FileNotFoundError, match="imagenet_torchvision_v1.*weights.md"):
        zoo.load("resnet50", weights="nothing")
    with pytest.raises(ValueError, match="Unknown weights 'resnet50.nothing'"):
        zoo.load("resnet50.nothing")
    with pytest.raises(ValueError, match="'resnet50.imagenet' names weights already"):
        zoo.load("resnet50.imagenet", weights=42)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(200), "matconvnet"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600), "matconvnet"),
        (b"\x0a\x09ResNet-50\x1a\x04data", "caffe"),
        (b"\xa2\x06\x05\x0a\x03abc", "caffe"),
        (b"\x12\x05\x0a\x03abc", "caffe"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "pytorch"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "pytorch"),
    ],
)
def test_kind_by_content(content, kind, tmp_path):
    path = tmp_path / "weights.of_any_name"
    path.write_bytes(content)
    assert kinds.kind_of(path) == kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><title>404</title>", "a web page, .*: '404'"),
        (b"<body>404 Not Found</body>", "a web page, .*: '404 Not Found'"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "AccessDenied"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + 100 * b"\0", "not a readable HDF5 file"),
        (b"PK\x03\x04" + 100 * b"\0", "zip archive that is truncated"),
        (b"what is this", "begins with b'what is this'. Accepted are MatConvNet"),
    ],
)
def test_what_is_no_file_of_weights(content, message, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        kinds.kind_of(path)


def test_archives_of_other_things(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../escape.mat", "x")
    with pytest.raises(ValueError, match="escape.mat in it, .* archives are not unpac"):
        kinds.kind_of(tmp_path / "a.zip")


def test_archives_that_unpack_to_much(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "metadata.json"):
            archive.writestr(name, "{}")
        archive.writestr("model.weights.h5", bytes(100 * 2**20))
    with pytest.raises(ValueError, match="that unpacks to 104857604; it is damaged or"):
        kinds.kind_of(path)


def test_too_large(tmp_path, monkeypatch):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(kinds.MAX_BYTES + 1)  # a hole, no bytes on the disk
    with pytest.raises(ValueError, match="4.0 GiB, at most 4 GiB are read"):
        kinds.kind_of(tmp_path / "large")
