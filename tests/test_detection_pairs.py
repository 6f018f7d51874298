"""Batches for detectors: which frames, where their boxes are, in what order."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from tests.vid_folders import (
    BEAR,
    ZEBRA,
    det_object,
    vid_object,
    write_frame,
    write_lists,
)
from zoo.datasets import detection_pairs
from zoo.datasets.detection_pairs import (
    PADDING_COLOUR,
    PairSpec,
    decode_frames,
    detection_dataset,
    resized_size,
    scaled_boxes,
)
from zoo.datasets.imagenet_annotations import AnnotationError
from zoo.datasets.imagenet_det import ImageNetDET
from zoo.datasets.imagenet_vid import ImageNetVID
from zoo.datasets.pipeline import Skipped

OWN_SIZE = {"shorter_side": 40, "longer_side": 60}
VIDEO, STILL = 20, 200  # least grey level of the frames of videos and of stills


def picture(level, box=None, size=(40, 60)):
    """A grey picture with a bright rectangle at the pixels of a box."""
    result = np.full((*size, 3), level, np.uint8)
    if box is not None:
        x1, y1, x2, y2 = box
        result[y1 : y2 + 1, x1 : x2 + 1] = 255
    return result


@pytest.fixture
def root(tmp_path):
    """Videos v0...v4 of 12 frames, their grey level 20 + 20 v + t, and 3 stills."""
    names = []
    for v in range(5):
        names.append(f"f/v{v}")
        for t in range(12):
            box = (5 + 2 * t, 10 + v, 14 + 2 * t, 29)
            objects = [vid_object(7, BEAR, *box)]
            if v == 1 and t % 2:
                objects.append(vid_object(3, ZEBRA, 0, 0, 9, 9))
            level = VIDEO + 20 * v + t
            write_frame(
                tmp_path, "VID/train", f"f/v{v}/{t:06d}", objects, picture(level, box)
            )
    for d in range(3):
        box = (20, 10, 39, 19)
        objects = [det_object(BEAR, *box)]
        write_frame(
            tmp_path, "DET/train", f"d{d}", objects, picture(STILL + 10 * d, box)
        )
    write_lists(tmp_path, names, det=["d0", "d1", "d2"])
    return tmp_path


@pytest.fixture
def videos(root):
    """The training videos."""
    return ImageNetVID(root)


@pytest.fixture
def stills(root):
    """The stills."""
    return ImageNetDET(root)


def batches(count, videos, stills=None, batch_size=2, seed=0, step=0, **spec):
    """The first batches, as NumPy arrays."""
    spec = PairSpec(**{**OWN_SIZE, **spec})
    dataset = detection_dataset(
        videos, stills, batch_size, spec, seed=seed, initial_step=step
    )
    return list(dataset.take(count).as_numpy_iterator())


def levels(batch):
    """Grey levels [B, T] that tell the frames, by their lower left or right corner."""
    return np.minimum(batch[0][:, :, -1, 0, 0], batch[0][:, :, -1, -1, 0]).astype(int)


def assert_equal(first, second):
    tf.nest.map_structure(np.testing.assert_array_equal, first, second)


# --- geometry ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((720, 1280), (563, 1000)),
        ((480, 640), (600, 800)),
        ((1280, 720), (1000, 563)),
        ((600, 1000), (600, 1000)),
        ((100, 100), (600, 600)),
        ((1, 5000), (1, 1000)),
    ],
)
def test_sizes_after_resizing(size, expected):
    assert resized_size(*size) == expected


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("sides", [(40, 60), (80, 120), (20, 30), (60, 70)])
def test_what_is_in_the_box_stays_in_the_box(root, videos, flip, sides):
    size = resized_size(40, 60, *sides)
    frame = videos.read(videos.videos[2], 3)
    (x1, y1, x2, y2) = scaled_boxes(frame, size, flip)[0]
    image = decode_frames([frame.path], *size).numpy()[0]
    bright = (image[:, ::-1] if flip else image)[..., 0] > 160
    # The rectangle covers a pixel where the pixel's centre lies in the box.
    ys, xs = (np.arange(n) + 0.5 for n in size)
    inside = ((xs > x1) & (xs < x2))[None, :] & ((ys > y1) & (ys < y2))[:, None]
    assert bright.any() and (bright != inside).mean() < 0.01
    if size[0] % 20 == 0 and size[1] % 30 == 0:
        assert (bright == inside).all()


def test_flipped_examples_match_their_boxes(videos, stills):
    flipped = 0
    for frames, targets in batches(6, videos, stills):
        for frame, box in zip(
            frames.reshape(-1, 40, 60, 3),
            targets["boxes"][..., 0, :].reshape(-1, 4),
            strict=True,
        ):
            x1, y1, x2, y2 = box.astype(int)
            np.testing.assert_array_equal(box, [x1, y1, x2, y2])
            bright = frame[..., 0] > 245
            assert bright[y1:y2, x1:x2].all() and bright.sum() == (y2 - y1) * (x2 - x1)
            flipped += x1 > 60 - x2
    assert 4 <= flipped <= 20


def test_both_frames_of_a_pair_are_flipped_alike(videos):
    for _, targets in batches(5, videos):
        first, second = targets["boxes"][:, 0, 0], targets["boxes"][:, 1, 0]
        assert (np.abs(second[:, 0] - first[:, 0]) == 2).all()
    moves = [
        (t["boxes"][:, 1, 0] - t["boxes"][:, 0, 0])[:, 0].tolist()
        for _, t in batches(10, videos)
    ]
    assert {2.0, -2.0} == {move for row in moves for move in row}
    for _, targets in batches(5, videos, flip=False):
        assert (targets["boxes"][:, 1] - targets["boxes"][:, 0])[..., 0, 0].min() == 2


def test_frames_are_decoded_and_resized_as_by_opencv(videos):
    path = videos.path(videos.videos[0], 0)
    noise = np.random.default_rng(0).integers(0, 255, (41, 67, 3), np.uint8)
    cv2.imwrite(f"{path}.jpg", noise)
    whole = cv2.imread(f"{path}.jpg")
    decoded = decode_frames([f"{path}.jpg"], 41, 67).numpy()[0]
    np.testing.assert_array_equal(decoded, whole[..., ::-1])
    expected = cv2.resize(whole, (30, 23), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    resized = decode_frames(tf.constant([f"{path}.jpg"] * 2), 23, 30).numpy()
    assert resized.shape == (2, 23, 30, 3)
    assert np.abs(resized[0].astype(int) - expected).max() <= 1


# --- which frames --------------------------------------------------------------------


def test_pairs_are_neighbours_and_every_video_comes_once_per_round(videos):
    pairs = np.concatenate([levels(b) for b in batches(10, videos, batch_size=1)])
    assert (pairs[:, 1] - pairs[:, 0] == 1).all()
    numbers = (pairs[:, 0] - VIDEO) // 20
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == [0, 1, 2, 3, 4]
    assert numbers[:5].tolist() != numbers[5:].tolist()
    starts = (pairs[:, 0] - VIDEO) % 20
    assert len(set(starts)) > 3 and starts.max() <= 10


def test_starts_are_uniform(videos):
    pairs = np.concatenate([levels(b) for b in batches(11, videos, batch_size=50)])
    counts = np.bincount((pairs[:, 0] - VIDEO) % 20)
    # 550 draws of 11 starts: 50 each, with a standard deviation of 7.
    assert len(counts) == 11 and counts.min() > 25 and counts.max() < 75


def test_stride_and_frames(videos):
    for batch in batches(3, videos, frames=3, stride=4):
        assert batch[0].shape == (2, 3, 40, 60, 3)
        assert (np.diff(levels(batch), axis=1) == 4).all()


def test_videos_and_stills_take_turns(videos, stills):
    for batch in batches(6, videos, stills, batch_size=4):
        frames, targets = batch
        assert (levels(batch)[::2] < STILL).all()
        assert (levels(batch)[1::2] >= STILL).all()
        np.testing.assert_array_equal(frames[1::2, 0], frames[1::2, 1])
        for values in targets.values():
            np.testing.assert_array_equal(values[1::2, 0], values[1::2, 1])
        assert (targets["tracks"][1::2, :, 0] == 0).all()
        assert (targets["tracks"][::2, :, 0] == 7).all()
    numbers = np.concatenate(
        [levels(b)[1, 0, None] for b in batches(6, videos, stills)]
    )
    assert sorted(numbers[:3]) == sorted(numbers[3:]) == [200, 210, 220]


def test_single_frames_and_the_subsample_of_each_video(videos):
    found = np.concatenate(
        [levels(b) for b in batches(15, videos, batch_size=1, frames=1,
                                    frames_per_video=3)]
    )  # fmt: skip
    assert found.shape == (15, 1)
    # Of the 12 frames 0, 5.5 and 11, the half to the even one.
    expected = [VIDEO + 20 * v + t for v in range(5) for t in (0, 6, 11)]
    assert sorted(found[:, 0]) == expected


def test_videos_that_are_too_short(root, videos):
    write_frame(root, "VID/train", "short/s/000000", [], picture(0))
    write_lists(root, ["f/v0", "short/s"])
    both = ImageNetVID(root)
    pairs = np.concatenate([levels(b) for b in batches(3, both)])
    assert (pairs >= VIDEO).all()
    assert both.findings.counts["video(s) shorter than an example left out"] == 1
    with pytest.raises(ValueError, match="no video has the 13 frames that 2 frames 12"):
        batches(1, videos, stride=12)


# --- targets -------------------------------------------------------------------------


def test_objects_are_padded_with_minus_one(videos):
    seen = 0
    for _, targets in batches(10, videos, batch_size=5):
        assert targets["boxes"].dtype == np.float32
        assert targets["labels"].dtype == targets["tracks"].dtype == np.int32
        assert targets["labels"].shape == (5, 2, 2)  # one of five has a second object
        second = targets["tracks"][..., 1] == 3
        assert second.sum() == 1
        seen += second[:, 0].sum()
        np.testing.assert_array_equal(
            targets["labels"][..., 1], np.where(second, 29, -1)
        )
        assert (targets["tracks"][..., 1][~second] == -1).all()
        assert (targets["boxes"][..., 1, :][~second] == 0).all()
        assert (targets["labels"][..., 0] == 2).all()
    assert 0 < seen < 10


def test_frames_without_objects(root):
    for t in range(2):
        write_frame(root, "VID/train", f"none/{t:06d}", [], picture(9))
    write_lists(root, ["none"])
    ((frames, targets),) = batches(1, ImageNetVID(root))
    assert targets["boxes"].shape == (2, 2, 1, 4)
    assert (targets["labels"] == -1).all() and (targets["tracks"] == -1).all()
    assert frames.shape == (2, 2, 40, 60, 3)


def test_fixed_shapes(videos, stills):
    spec = PairSpec(**OWN_SIZE, padded_size=(48, 64), max_objects=5)
    dataset = detection_dataset(videos, stills, 4, spec)
    frames, targets = dataset.element_spec
    assert frames.shape == (4, 2, 48, 64, 3) and frames.dtype == tf.uint8
    assert targets["boxes"].shape == (4, 2, 5, 4)
    for frames, targets in dataset.take(2).as_numpy_iterator():
        assert (frames[:, :, 40:] == PADDING_COLOUR).all()
        assert (frames[:, :, :, 60:] == PADDING_COLOUR).all()
        assert (targets["labels"][..., 2:] == -1).all()
    assert detection_dataset(videos).element_spec[0].shape == (4, 2, None, None, 3)


def test_smaller_frames_are_filled_up_at_the_bottom_and_right(root):
    tall = picture(77, size=(60, 40))
    write_frame(root, "DET/train", "tall", [det_object(BEAR, 0, 0, 39, 59)], tall)
    write_lists(root, ["f/v0"], det=["tall"])
    ((frames, targets),) = batches(1, ImageNetVID(root), ImageNetDET(root))
    assert frames.shape == (2, 2, 60, 60, 3)
    assert (frames[0, :, 40:] == PADDING_COLOUR).all()
    assert (frames[0, :, :40] != PADDING_COLOUR).any(-1).all()
    assert (frames[1, :, :, 40:] == PADDING_COLOUR).all()
    assert (frames[1, :, :, :40] == 77).all()
    np.testing.assert_array_equal(targets["boxes"][1, :, 0], [[0, 0, 40, 60]] * 2)


def test_black_pixels_are_no_padding(root):
    write_frame(root, "DET/train", "black", [det_object(BEAR, 0, 0, 9, 9)], picture(0))
    write_lists(root, ["f/v0"], det=["black"])
    ((frames, _),) = batches(1, ImageNetVID(root), ImageNetDET(root))
    assert (frames[1] == 0).all()


def test_the_largest_objects_are_kept(videos):
    for _, targets in batches(5, videos, batch_size=5, max_objects=1):
        assert targets["tracks"].shape == (5, 2, 1)
        assert (targets["tracks"] == 7).all()
    assert videos.findings.counts["object(s) beyond max_objects left out"] > 0


# --- order and resumption ------------------------------------------------------------


def test_equal_seeds_give_equal_batches(videos, stills):
    first = batches(4, videos, stills, batch_size=3)
    assert_equal(first, batches(4, videos, stills, batch_size=3))
    other = batches(4, videos, stills, batch_size=3, seed=1)
    assert any((a[0] != b[0]).any() for a, b in zip(first, other, strict=True))
    dataset = detection_dataset(videos, stills, 3, PairSpec(**OWN_SIZE))
    assert_equal(first, list(dataset.take(4).as_numpy_iterator()))
    assert_equal(first, list(dataset.take(4).as_numpy_iterator()))


def test_a_resumed_training_sees_what_it_would_have_seen(videos, stills):
    whole = batches(9, videos, stills, batch_size=3)
    assert_equal(whole[5:], batches(4, videos, stills, batch_size=3, step=5))


def test_under_a_strategy(videos, stills):
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices[:2]])
    dataset = detection_dataset(videos, stills, 4, PairSpec(**OWN_SIZE))
    plain = next(dataset.take(1).as_numpy_iterator())
    frames, targets = next(iter(strategy.experimental_distribute_dataset(dataset)))
    parts = strategy.experimental_local_results(frames)
    np.testing.assert_array_equal(np.concatenate([p.numpy() for p in parts]), plain[0])
    labels = strategy.experimental_local_results(targets["labels"])
    assert sum(part.shape[0] for part in labels) == 4


# --- what is wrong -------------------------------------------------------------------


def test_bad_files_are_passed_over_and_counted(root, videos):
    for t in range(12):
        (root / f"Annotations/VID/train/f/v3/{t:06d}.xml").write_text("<annotation>")
    skipped = Skipped()
    dataset = detection_dataset(
        videos, None, 2, PairSpec(**OWN_SIZE), max_bad_fraction=1, skipped=skipped
    )
    found = list(dataset.take(10).as_numpy_iterator())
    numbers = {int(n) for b in found for n in (levels(b)[:, 0] - VIDEO) // 20}
    assert numbers == {0, 1, 2, 4}
    assert skipped.counts.total() >= 4
    assert "not complete XML" in str(skipped) and "v3" in str(skipped)
    # The batches do not depend on where one begins, bad files or not.
    later = detection_dataset(
        videos, None, 2, PairSpec(**OWN_SIZE), max_bad_fraction=1, initial_step=7
    )
    assert_equal(found[7:], list(later.take(3).as_numpy_iterator()))


def test_too_many_bad_files_end_the_training(root, videos):
    for v in range(5):
        path = root / f"Data/VID/train/f/v{v}/000006.JPEG"
        path.write_bytes(path.read_bytes()[:-9])
    skipped = Skipped()
    dataset = detection_dataset(videos, None, 2, PairSpec(**OWN_SIZE), skipped=skipped)
    with (
        pytest.raises(AnnotationError, match=r"accepted is a share of 0.05.*cut off"),
        skipped.reraising(),
    ):
        list(dataset.take(100))
    for path in (root / "Data/VID/train").rglob("*.JPEG"):
        path.write_bytes(b"")
    dataset = detection_dataset(
        videos, None, 2, PairSpec(**OWN_SIZE), skipped=skipped, max_bad_fraction=1
    )
    with pytest.raises(AnnotationError, match="no JPEG file"), skipped.reraising():
        list(dataset.take(1))


def test_frames_of_a_video_that_differ_in_size(root, videos):
    for t in range(0, 12, 2):
        write_frame(root, "VID/train", f"f/v0/{t:06d}", [], picture(9, size=(60, 40)))
    source = detection_pairs._Source(videos, None, PairSpec(**OWN_SIZE), 0)
    bad = []
    for number in range(5):
        try:
            source.example(number)
        except AnnotationError as error:
            bad.append(str(error))
    assert len(bad) == 1 and "must be equal in size" in bad[0]


def test_frames_larger_than_the_padded_size(videos):
    skipped = Skipped()
    spec = PairSpec(**OWN_SIZE, padded_size=(40, 59))
    dataset = detection_dataset(videos, spec=spec, skipped=skipped)
    with (
        pytest.raises(ValueError, match=r"is 40 x 60 pixels.*padded_size \(40, 59\)"),
        skipped.reraising(),
    ):
        list(dataset.take(1))


def test_classes_must_agree(root, videos):
    with pytest.raises(ValueError, match=r"stills \('bear',\); give both the same"):
        detection_dataset(videos, ImageNetDET(root, classes=["bear"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames must be a whole number of at least 1; got 0"),
        ({"stride": 1.5}, "stride must be a whole number"),
        ({"frames_per_video": 0}, "frames_per_video must be .* or None; got 0"),
        ({"longer_side": 500}, "longer_side must be at least shorter_side, 600"),
        ({"padded_size": (3,)}, r"padded_size must be \(height, width\)"),
        ({"padded_size": (3, 0)}, "padded_size must be a whole number"),
        ({"max_objects": True}, "max_objects must be a whole number"),
    ],
)
def test_specs_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairSpec(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        ({"seed": -1}, "seed and initial_step must be at least 0.*got -1, 0 and 0.05"),
        ({"initial_step": -1}, "got 0, -1 and"),
        ({"max_bad_fraction": 2}, "max_bad_fraction in.*and 2"),
    ],
)
def test_datasets_that_make_no_sense(videos, arguments, message):
    with pytest.raises(ValueError, match=message):
        detection_dataset(videos, **arguments)
