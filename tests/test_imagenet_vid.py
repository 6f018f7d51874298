"""Reading ImageNet VID and DET: lists, annotations, boxes, and what may be wrong."""

import numpy as np
import pytest

from tests.vid_folders import (
    ACCORDION,
    BEAR,
    ZEBRA,
    annotation,
    det_object,
    vid_object,
    write_frame,
    write_image,
    write_lists,
)
from zoo.datasets.imagenet_annotations import (
    CLASSES,
    WNIDS,
    AnnotationError,
    Findings,
    class_names,
    from_pixels,
    jpeg_size,
    read_frame,
    to_pixels,
)
from zoo.datasets.imagenet_det import ImageNetDET, spaced
from zoo.datasets.imagenet_vid import ImageNetVID

V1, V2 = "ILSVRC2015_VID_train_0000/v1", "ILSVRC2015_VID_train_0001/v2"


@pytest.fixture
def root(tmp_path):
    """Two training videos, one of validation, three stills."""
    for t in range(3):
        bear = vid_object(4, BEAR, 10 + t, 5, 29 + t, 24, occluded=t % 2)
        write_frame(tmp_path, "VID/train", f"{V1}/{t:06d}", [bear])
        write_frame(tmp_path, "VID/train", f"{V2}/{t:06d}", [])
        zebra = vid_object(0, ZEBRA, 0, 0, 59, 39)
        write_frame(tmp_path, "VID/val", f"w/{t:06d}", [zebra, bear])
    write_frame(tmp_path, "DET/train", "a/1", [det_object(BEAR, 1, 2, 3, 4)])
    both = [det_object(ACCORDION, 5, 5, 9, 9), det_object(ZEBRA, 1, 2, 3, 4)]
    write_frame(tmp_path, "DET/train", "a/2", both)
    write_frame(tmp_path, "DET/train", "a/3", [det_object(ACCORDION, 5, 5, 9, 9)])
    val = [f"w/{t:06d}" for t in range(3)]
    write_lists(tmp_path, [V2, V1], val, ["a/1", "a/2", "a/3"])
    return tmp_path


@pytest.fixture
def one(tmp_path):
    """Reads an annotation made of objects, of an image of 60 x 40 pixels."""
    write_image(tmp_path / "x.JPEG", np.zeros((40, 60, 3), np.uint8))

    def read(objects, others=False, findings=None, text=None):
        text = annotation(objects) if text is None else text
        (tmp_path / "x.xml").write_text(text)
        return read_frame(
            tmp_path / "x.xml", tmp_path / "x.JPEG", CLASSES, others, findings
        )

    return read


# --- classes and boxes ---------------------------------------------------------------


def test_the_classes_are_those_of_table_8_1():
    assert len(CLASSES) == len(set(CLASSES)) == 30
    assert (CLASSES[0], CLASSES[-1]) == ("airplane", "zebra")
    assert list(CLASSES) == sorted(CLASSES)
    assert WNIDS["n02121808"] == "domestic_cat" and WNIDS[BEAR] == "bear"


def test_classes_are_chosen_by_name_or_wnid():
    assert class_names(["zebra", BEAR]) == ("zebra", "bear")
    assert class_names() == CLASSES
    with pytest.raises(ValueError, match="unknown class 'dragon'.*airplane"):
        class_names(["dragon"])
    with pytest.raises(ValueError, match="bear more than once"):
        class_names(["bear", BEAR])
    for nothing in ((), "bear"):
        with pytest.raises(ValueError, match="must be a sequence of class names"):
            class_names(nothing)


def test_boxes_have_the_kits_area_and_overlap():
    a, b = np.array([10, 5, 29, 24]), np.array([20, 15, 39, 34])

    def kit(box):
        return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    common = np.maximum(a, b)[:2].tolist() + np.minimum(a, b)[2:].tolist()
    first, second = from_pixels(a), from_pixels(b)
    shared = [*np.maximum(first, second)[:2], *np.minimum(first, second)[2:]]
    assert area(first) == kit(a) == 400
    assert area(np.array(shared)) == kit(np.array(common))
    np.testing.assert_array_equal(to_pixels(first), a)


def test_a_frame_is_read(one):
    frame = one(
        [vid_object(7, ZEBRA, 10, 5, 29, 24, 1), vid_object(2, BEAR, 0, 0, 0, 9)]
    )
    np.testing.assert_array_equal(frame.boxes, [[10, 5, 30, 25], [0, 0, 1, 10]])
    assert frame.boxes.dtype == np.float32
    assert frame.labels.tolist() == [29, 2] and frame.labels.dtype == np.int32
    assert frame.tracks.tolist() == [7, 2] and frame.tracks.dtype == np.int32
    assert frame.occluded.tolist() == [True, False]
    assert (frame.width, frame.height, len(frame)) == (60, 40, 2)


def test_a_frame_without_objects_is_kept(one):
    frame = one([])
    assert frame.boxes.shape == (0, 4) and frame.labels.shape == (0,)


def test_boxes_are_clipped_dropped_and_counted(one):
    findings = Findings()
    assert str(findings) == "Nothing was mended or left out."
    frame = one(
        [
            vid_object(0, BEAR, -3, 5, 60, 24),
            vid_object(1, BEAR, 20, 5, 19, 24),
            vid_object(2, BEAR, 70, 5, 80, 24),
            vid_object(3, BEAR, 0, 0, 59, 39),
        ],
        findings=findings,
    )
    np.testing.assert_array_equal(frame.boxes, [[0, 5, 60, 25], [0, 0, 60, 40]])
    assert frame.tracks.tolist() == [0, 3]
    assert findings.counts == {
        "box(es) clipped to the image": 1,
        "box(es) without area left out": 2,
    }
    assert "2 box(es) without area left out, first in" in str(findings)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([vid_object(0, "n00000001", 1, 1, 2, 2)], "unknown class 'n00000001'.*bear"),
        ([vid_object(0, ACCORDION, 1, 1, 2, 2)], "unknown class.*n02391049"),
        ([vid_object("x", BEAR, 1, 1, 2, 2)], "<trackid> of <object>.*whole.*'x'"),
        ([det_object(BEAR, 1, 1, 2, 2)], "<trackid> of <object>.*whole.*None"),
        ([vid_object(0, BEAR, 1.5, 1, 2, 2)], "<bndbox/xmin>.*whole number, got '1.5'"),
        ([vid_object(1, BEAR, 1, 1, 2, 2)] * 2, r"trackid.*another.*\[1, 1\]"),
        ([vid_object(-1, BEAR, 1, 1, 2, 2)], r"trackid must be at least 0"),
    ],
)
def test_objects_that_say_nonsense(one, objects, message):
    with pytest.raises(AnnotationError, match=message):
        one(objects)


def test_annotations_that_are_cut_off_or_others(one, tmp_path):
    whole = annotation([vid_object(0, BEAR, 1, 1, 2, 2)])
    with pytest.raises(AnnotationError, match="x.xml: not complete XML.*unpack"):
        one([], text=whole[: len(whole) // 2])
    with pytest.raises(AnnotationError, match="not complete XML"):
        one([], text="")
    with pytest.raises(AnnotationError, match="<svg>, must be <annotation>"):
        one([], text="<svg/>")
    with pytest.raises(AnnotationError, match="<size/width>.*got None"):
        one([], text="<annotation></annotation>")
    with pytest.raises(AnnotationError, match="no such annotation"):
        read_frame(tmp_path / "y.xml", tmp_path / "x.JPEG")


def test_sizes_that_differ_from_the_image(one):
    with pytest.raises(
        AnnotationError, match="says 40 x 60, but .* has 60 x 40 pixels"
    ):
        one([], text=annotation([], 40, 60))


def test_images_that_are_none(tmp_path):
    path = tmp_path / "x.JPEG"
    with pytest.raises(AnnotationError, match="no such image"):
        jpeg_size(path)
    write_image(path, np.zeros((33, 77, 3), np.uint8))
    data = path.read_bytes()
    assert jpeg_size(path) == (77, 33)
    path.write_bytes(data + bytes(10))  # padding is harmless
    assert jpeg_size(path) == (77, 33)
    path.write_bytes(data + bytes(1000))
    assert jpeg_size(path) == (77, 33)
    path.write_bytes(data[:2] + b"\xff\xff" + data[2:])  # bytes that fill up
    assert jpeg_size(path) == (77, 33)
    # A thumbnail with an end of its own, in a file without one.
    thumbnail = b"\xff\xe1\x00\x06\x00\x00\xff\xd9"
    path.write_bytes(data[:2] + thumbnail + data[2:-20])
    with pytest.raises(AnnotationError, match="cut off"):
        jpeg_size(path)
    path.write_bytes(data[:-20])
    with pytest.raises(AnnotationError, match="cut off"):
        jpeg_size(path)
    for nonsense in (b"", data[:8], data[:2] + bytes(50), b"\x89PNG" + bytes(50)):
        path.write_bytes(nonsense)
        with pytest.raises(AnnotationError, match="no JPEG file"):
            jpeg_size(path)


# --- VID -----------------------------------------------------------------------------


def test_training_videos(root):
    vid = ImageNetVID(root)
    assert [v.name for v in vid.videos] == [V1, V2] and len(vid) == 2
    assert vid.videos[0].stems == ("000000", "000001", "000002")
    frame = vid.read(vid.videos[0], 2)
    assert frame.path == str(root / f"Data/VID/train/{V1}/000002.JPEG")
    np.testing.assert_array_equal(frame.boxes, [[12, 5, 32, 25]])
    assert (frame.labels, frame.tracks) == (2, 4)
    assert len(vid.read(vid.videos[1], 0)) == 0


def test_validation_videos_with_their_annotations(root):
    vid = ImageNetVID(root, "val", classes=["zebra", "bear"])
    (video,) = vid.annotated()
    assert (video.name, len(video), video.numbers) == ("w", 3, (1, 2, 3))
    assert [path[-11:] for path in video.paths] == [f"00000{t}.JPEG" for t in range(3)]
    assert [frame.labels.tolist() for frame in video.frames] == [[0, 1]] * 3
    assert video.frames[1].occluded.tolist() == [False, True]


def test_a_choice_of_classes_leaves_boxes_out_and_counts_them(root):
    vid = ImageNetVID(root, "val", classes=["bear"])
    (video,) = vid.annotated()
    assert [frame.tracks.tolist() for frame in video.frames] == [[4]] * 3
    assert vid.findings.counts == {"box(es) of other classes left out": 3}


def test_the_test_set_has_frames_and_no_annotations(root):
    write_image(root / "Data/VID/test/x/000000.JPEG", np.zeros((9, 9, 3), np.uint8))
    (root / "ImageSets/VID/test.txt").write_text("x/000000 1\n")
    test = ImageNetVID(root, "test")
    assert test.path(test.videos[0], 0).endswith("test/x/000000.JPEG")
    with pytest.raises(AnnotationError, match="annotations of test are not public"):
        test.read(test.videos[0], 0)


def test_folders_and_lists_that_are_missing(root, tmp_path):
    with pytest.raises(AnnotationError, match="Data/VID/train: no such folder; name"):
        ImageNetVID(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="one of train, val, test, got 'all'"):
        ImageNetVID(root, "all")
    with pytest.raises(AnnotationError, match="Data/VID/test: no such folder"):
        ImageNetVID(root, "test")
    (root / "ImageSets/VID/train_7.txt").unlink()
    with pytest.raises(AnnotationError, match="train_7.txt: no such list"):
        ImageNetVID(root)
    write_lists(root, [V1, "gone"])
    with pytest.raises(AnnotationError, match="gone: no such folder, but .* lists"):
        ImageNetVID(root)
    (root / "Data/VID/train/gone").mkdir()
    with pytest.raises(AnnotationError, match="holds no .JPEG file"):
        ImageNetVID(root)
    write_lists(root)
    with pytest.raises(AnnotationError, match="list no video"):
        ImageNetVID(root)
    with pytest.raises(AnnotationError, match="val.txt: lists no frame"):
        ImageNetVID(root, "val")


@pytest.mark.parametrize("line", ["v1", "v1 one", "v1 1 2"])
def test_lines_that_are_not_of_a_list(root, line):
    (root / "ImageSets/VID/train_1.txt").write_text(f"\n{line}\n")
    with pytest.raises(AnnotationError, match=r"train_1.txt, line 2: must be a name"):
        ImageNetVID(root)


def test_lines_that_say_a_video_lacks_the_class(root):
    (root / "ImageSets/VID/train_1.txt").write_text("other/video -1\n")
    assert len(ImageNetVID(root)) == 2


def test_frames_of_validation_need_a_video(root):
    write_lists(root, val=["000000"])
    with pytest.raises(AnnotationError, match="'000000' must be video/frame"):
        ImageNetVID(root, "val")


# --- DET -----------------------------------------------------------------------------


def test_stills_of_the_classes(root):
    det = ImageNetDET(root)
    assert [s.path[-8:] for s in det.stills] == ["a/1.JPEG", "a/2.JPEG"]
    assert [s.labels.tolist() for s in det.stills] == [[2], [29]]
    # Tracks are the numbers of the objects in the file.
    assert [s.tracks.tolist() for s in det.stills] == [[0], [1]]
    np.testing.assert_array_equal(det.stills[1].boxes, [[1, 2, 4, 5]])
    assert det.findings.counts == {"box(es) of other classes left out": 2}


def test_stills_by_lists_per_class(root):
    folder = root / "ImageSets/DET"
    (folder / "train.txt").unlink()
    with pytest.raises(AnnotationError, match="nor train_1.txt"):
        ImageNetDET(root)
    (folder / "train_10.txt").write_text("a/1 1\na/2 -1\n")
    (folder / "train_11.txt").write_text("a/1 1\na/3 0\n")
    assert [s.path[-8:] for s in ImageNetDET(root).stills] == ["a/1.JPEG"]


def test_at_most_so_many_stills_of_a_class(root):
    names = [f"b/{i}" for i in range(7)]
    for i, name in enumerate(names):
        objects = [det_object(BEAR, 1, 2, 3, 4)]
        objects += [det_object(ZEBRA, 1, 2, 3, 4)] * (i == 1)
        write_frame(root, "DET/train", name, objects)
    write_lists(root, det=names)
    det = ImageNetDET(root, max_per_class=3)
    # Bears 0, 3 and 6 of 7, and the only zebra.
    assert [s.path[-6] for s in det.stills] == ["0", "1", "3", "6"]
    assert len(ImageNetDET(root, max_per_class=None)) == 7
    assert len(ImageNetDET(root, classes=["zebra"])) == 1
    with pytest.raises(ValueError, match="max_per_class must be at least 1.*got 0"):
        ImageNetDET(root, max_per_class=0)


def test_equally_spaced_positions():
    assert spaced(3, 10) == [0, 1, 2]
    assert spaced(101, 3) == [0, 50, 100]
    assert spaced(5, 1) == [0]
    many = spaced(2001, 2000)
    assert len(set(many)) == 2000 and (many[0], many[-1]) == (0, 2000)


def test_stills_that_are_missing_or_bad(root, monkeypatch):
    (root / "Annotations/DET/train/a/2.xml").unlink()
    det = ImageNetDET(root)
    assert det.findings.counts["image(s) without annotation left out"] == 1
    path = root / "Data/DET/train/a/1.JPEG"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        AnnotationError, match=r"cut off.*1 of 3 images of train are bad"
    ):
        ImageNetDET(root)
    monkeypatch.setattr("zoo.datasets.imagenet_det.MAX_BAD_FRACTION", 0.5)
    with pytest.raises(AnnotationError, match="no image of DET's train shows one of"):
        ImageNetDET(root)
    with pytest.raises(ValueError, match="one of train, val, got 'test'"):
        ImageNetDET(root, "test")


def test_a_name_that_is_no_wnid_is_an_error_in_det(one):
    with pytest.raises(AnnotationError, match="'dog'.*and the other wnids of DET"):
        one([det_object("dog", 1, 1, 2, 2)], others=True)
