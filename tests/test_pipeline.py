"""Lists of videos and the batches made from them."""

import gc
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import video_files
from zoo.datasets import cache as frame_cache
from zoo.datasets import chunks
from zoo.datasets.augment import apply_crop, draw_crop
from zoo.datasets.cache import CacheFull, FrameCache
from zoo.datasets.chunks import Reader
from zoo.datasets.listing import VideoList
from zoo.datasets.pipeline import (
    ClipSpec,
    Skipped,
    steps_per_epoch,
    test_videos,
    training_dataset,
)
from zoo.datasets.sampling import train_indices
from zoo.datasets.video import VideoError, read_video

SPEC = ClipSpec(frames=4, size=16, stride_range=(1, 3), shorter_side=None)


@pytest.fixture(scope="module")
def yup(tmp_path_factory):
    """Two classes, two groups, 3 videos each; frame i of video v is 10 v + 4 i."""
    root = tmp_path_factory.mktemp("yup")
    video = 0
    for camera in ("camera_stationary", "camera_moving"):
        for name in ("waterfall", "beach"):
            folder = root / camera / name
            folder.mkdir(parents=True)
            for i in range(3):
                frames = np.full((20, 24, 32, 3), 10 * video, np.uint8)
                frames += 4 * np.arange(20, dtype=np.uint8)[:, None, None, None]
                video_files.write(folder / f"v{i}.mp4", frames)
                video += 1
    return root


@pytest.fixture
def videos(yup):
    return VideoList.from_folder(yup)


@pytest.fixture
def with_bad(videos, tmp_path):
    """The same list with a text file in the place of video 4."""
    path = tmp_path / "bad.mp4"
    path.write_text("not a video")
    paths = list(videos.paths)
    paths[4] = str(path)
    return VideoList(tuple(paths), videos.labels, videos.class_names, videos.groups)


def _take(dataset, count):
    """The first batches as one (clips, labels) each."""
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def _assert_equal(first, second):
    assert len(first) == len(second)
    for (x, y), (u, v) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


# Lists


def test_yup_layout(yup, videos):
    assert videos.class_names == ("beach", "waterfall")
    assert videos.groups == ("static",) * 6 + ("moving",) * 6
    assert videos.labels == (0, 0, 0, 1, 1, 1) * 2
    assert videos.paths[0] == str(yup / "camera_stationary" / "beach" / "v0.mp4")
    assert videos.paths == VideoList.from_folder(str(yup)).paths


def test_plain_layout_leaves_other_files_out(yup):
    root = yup / "camera_moving"
    (root / "beach" / "notes.txt").write_text("no video")
    (root / "beach" / ".hidden.mp4").write_text("no video")
    (root / ".git").mkdir(exist_ok=True)
    videos = VideoList.from_folder(root)
    assert len(videos) == 6 and set(videos.groups) == {""}


def test_only_and_take(videos):
    moving = videos.only("moving")
    assert len(moving) == 6 and set(moving.groups) == {"moving"}
    assert videos.take([3, 0]).paths == (videos.paths[3], videos.paths[0])
    with pytest.raises(ValueError, match="'still'; groups here: .'moving', 'static'"):
        videos.only("still")


def _many(per_stratum):
    """A list of 3 classes in 2 groups; its files don't exist."""
    rows = [
        (f"{g}{c}{i}", c, g)
        for g in ("static", "moving")
        for c in range(3)
        for i in range(per_stratum)
    ]
    paths, labels, groups = zip(*rows, strict=True)
    return VideoList(paths, labels, ("a", "b", "c"), groups)


def test_split_is_stratified_and_seeded():
    videos = _many(30)
    train, test = videos.split(0.1)
    assert len(train) == 18 and len(test) == 162
    assert not set(train.paths) & set(test.paths)
    for group in ("static", "moving"):
        assert np.bincount(train.only(group).labels).tolist() == [3, 3, 3]
    assert videos.split(0.1)[0] == train
    assert videos.split(0.1, seed=2)[0] != train
    # The protocol on one group alone draws the same videos.
    assert videos.only("moving").split(0.1)[0] == train.only("moving")
    assert len({tuple(p[-2:] for p in train.only(g).paths) for g in train.groups}) > 1


def test_split_keeps_a_video_on_both_sides():
    for fraction in (0.001, 0.999):
        train, test = _many(2).split(fraction)
        assert len(train) == len(test) == 6
    with pytest.raises(ValueError, match="'a' has a single video in group 'static'"):
        _many(1).split(0.5)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        _many(2).split(1)


def test_wrong_folders(tmp_path):
    with pytest.raises(VideoError, match="no such folder"):
        VideoList.from_folder(tmp_path / "absent")
    with pytest.raises(VideoError, match="holds no class folders"):
        VideoList.from_folder(tmp_path)
    (tmp_path / "only").mkdir()
    with pytest.raises(VideoError, match="only: holds no videos; accepted .* .webm"):
        VideoList.from_folder(tmp_path)
    (tmp_path / "only" / "a.MP4").touch()
    with pytest.raises(VideoError, match=r"at least two classes, found \['only'\]"):
        VideoList.from_folder(tmp_path)
    with pytest.raises(ValueError, match="one entry per video, got 1, 2 and 1"):
        VideoList(("a",), (0, 1), ("x", "y"), ("",))


@pytest.fixture
def listed(tmp_path):
    """Writes a list file beside three empty videos."""
    for name in ("a.mp4", "b c.mp4", "d,e.mp4"):
        (tmp_path / name).touch()

    def write(text, name="list.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_list_of_names(listed, tmp_path):
    file = listed('# mine\na.mp4 run\n\n"b c.mp4" walk  \nd,e.mp4   run static\n')
    videos = VideoList.from_list(file)
    assert [p.removeprefix(f"{tmp_path}/") for p in videos.paths] == [
        "a.mp4",
        "b c.mp4",
        "d,e.mp4",
    ]
    assert videos.labels == (0, 1, 0) and videos.class_names == ("run", "walk")
    assert videos.groups == ("", "", "static")


def test_list_as_csv(listed):
    file = listed('path,label\nb c.mp4,walk\n"d,e.mp4",run\n', "list.csv")
    videos = VideoList.from_list(file)
    assert videos.labels == (1, 0) and videos.class_names == ("run", "walk")


def test_list_of_numbers(listed):
    file = listed('a.mp4 10\n"b c.mp4" 2\n')
    assert VideoList.from_list(file).class_names == ("2", "10")
    file = listed('a.mp4 1\n"b c.mp4" 0\n')
    videos = VideoList.from_list(file, class_names=["run", "walk", "sit"])
    assert videos.labels == (1, 0) and len(videos.class_names) == 3
    with pytest.raises(VideoError, match=r"line 1: label 1 is outside 0\.\.\.0|least"):
        VideoList.from_list(file, class_names=["run"])


def test_list_with_root(listed, tmp_path):
    (tmp_path / "lists").mkdir()
    file = listed("a.mp4 x\nd,e.mp4 y\n", "lists/list.txt")
    assert len(VideoList.from_list(file, root=tmp_path)) == 2
    with pytest.raises(VideoError, match="line 1: no such file: .*lists/a.mp4"):
        VideoList.from_list(file)


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("", None, "lists no video"),
        ("a.mp4 x\nabsent.mp4 y\n", None, "line 2: no such file: .*absent.mp4"),
        ("a.mp4 x\nd,e.mp4 y\na.mp4 y\n", None, "line 3: .*a.mp4 stands in line 1 too"),
        ("a.mp4\n", None, "line 1: expected path, label .* got 1 field"),
        ("b c.mp4 x static\n", None, "got 4 field.*spaces in double quotes"),
        ("a.mp4 x\nd,e.mp4 x\n", None, "at least two classes"),
        ("a.mp4 x\n", ["y", "z"], r"line 1: label 'x' is none of .*\['y', 'z'\]|'y'"),
        ("a.mp4 2\n", ["y", "z"], r"line 1: label 2 is outside 0\.\.\.1"),
        ("a.mp4 y\n", ["y", "z", "y"], r"stand there twice: \['y'\]"),
    ],
)
def test_wrong_lists(listed, text, names, message):
    with pytest.raises(VideoError, match=message):
        VideoList.from_list(listed(text), class_names=names)


def test_absent_list(tmp_path):
    with pytest.raises(VideoError, match="no such list file"):
        VideoList.from_list(tmp_path / "list.txt")


# Training


def test_batches(videos):
    dataset = training_dataset(videos, 4, SPEC)
    assert dataset.element_spec[0].shape == (4, 4, 16, 16, 3)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    batches = _take(dataset, 3)
    for clips, labels in batches:
        assert clips.dtype == np.uint8 and labels.dtype == np.int32
        # The brightness tells the video, and that time runs forward.
        brightness = clips.astype(float).mean((2, 3, 4))
        assert np.all(np.diff(brightness) > 0)
    shown = np.concatenate([labels for _, labels in batches])
    assert np.bincount(shown).tolist() == [6, 6]


def test_sample_is_drawn_as_documented(videos):
    """Order, frames and crop written out from (seed, epoch, slot)."""
    (clips, labels), *_ = _take(training_dataset(videos, 12, SPEC, seed=7), 1)
    order = np.random.default_rng([7, 0, 12]).permutation(12)
    np.testing.assert_array_equal(labels, np.array(videos.labels)[order])
    for slot in (0, 5, 11):
        rng = np.random.default_rng([7, 0, slot])
        frames = read_video(
            videos.paths[order[slot]], train_indices(20, 4, (1, 3), rng)
        ).frames
        crop = draw_crop(24, 32, 16, rng)
        np.testing.assert_array_equal(clips[slot], apply_crop(frames, crop, 16))


def test_batches_do_not_depend_on_threads(videos, monkeypatch):
    one = _take(training_dataset(videos, 4, SPEC, workers=1), 7)
    read = chunks.read_video

    def slow(path, *args, **kwargs):
        time.sleep(hash(path) % 5 / 1000)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(chunks, "read_video", slow)
    dataset = training_dataset(videos, 4, SPEC, workers=7)
    _assert_equal(one, _take(dataset, 7))
    _assert_equal(one, _take(dataset, 7))  # every iterator starts anew


def test_epochs_and_seeds_differ(videos):
    batches = _take(training_dataset(videos, 12, SPEC), 3)
    other = _take(training_dataset(videos, 12, SPEC, seed=1), 1)
    assert not np.array_equal(batches[0][0], batches[1][0])
    assert not np.array_equal(batches[0][0], other[0][0])


def test_resumed_training_sees_the_same_batches(videos):
    """5 per batch: the epoch's last two clips are dropped, not carried over."""
    assert steps_per_epoch(videos, 5) == 2
    whole = _take(training_dataset(videos, 5, SPEC), 6)
    resumed = _take(training_dataset(videos, 5, SPEC, initial_epoch=2), 2)
    _assert_equal(whole[4:], resumed)


def test_repeats(videos):
    assert steps_per_epoch(videos, 16, repeats=4) == 3
    batches = _take(training_dataset(videos, 48, SPEC, repeats=4), 1)
    assert np.bincount(batches[0][1]).tolist() == [24, 24]
    with pytest.raises(ValueError, match=r"in 1\.\.\.12, .* got 13; raise repeats"):
        training_dataset(videos, 13, SPEC)


def test_cache_gives_the_same_batches_and_decodes_once(videos, monkeypatch):
    plain = _take(training_dataset(videos, 4, SPEC), 6)
    calls = []
    read = frame_cache.read_video

    def counted(path, *args, **kwargs):
        calls.append(path)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(frame_cache, "read_video", counted)
    cache = FrameCache()
    _assert_equal(plain, _take(training_dataset(videos, 4, SPEC, cache=cache), 6))
    list(test_videos(videos, 4, reader=Reader(cache=cache)))
    assert sorted(calls) == sorted(videos.paths)
    assert cache.bytes == 12 * 20 * 24 * 32 * 3


def test_cache_is_bounded(videos):
    cache = FrameCache(max_bytes=3 * 20 * 24 * 32 * 3)
    for path in videos.paths[:3]:
        cache.frames(path)
    with pytest.raises(CacheFull, match="in 3 video.s.. Raise max_bytes"):
        cache.frames(videos.paths[3])
    assert not cache.frames(videos.paths[0]).flags.writeable


@pytest.mark.parametrize(("shorter_side", "mean_side"), [(12, 10), (24, 10), (48, 5)])
def test_shorter_side(videos, shorter_side, mean_side):
    """Crops of 10 pixels on frames of 24x32: shrunk, as they are, and "enlarged"."""
    spec = ClipSpec(2, 10, (1, 1), shorter_side, jitter=0)
    clips, _ = _take(training_dataset(videos, 2, spec), 1)[0]
    order = np.random.default_rng([0, 0, 12]).permutation(12)
    rng = np.random.default_rng([0, 0, 0])
    indices = train_indices(20, 2, (1, 1), rng)
    frames = read_video(
        videos.paths[order[0]], indices, shorter_side=shorter_side
    ).frames
    assert min(frames.shape[1:3]) == min(24, shorter_side)
    crop = draw_crop(*frames.shape[1:3], mean_side, rng, jitter=0)
    assert crop.height == mean_side
    np.testing.assert_array_equal(clips[0], apply_crop(frames, crop, 10))


def test_tiny_videos_make_clips(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixel = np.full((1, 1, 1, 3), 128, np.uint8)
        video_files.write(tmp_path / name / "pixel.mkv", pixel, "ffv1")
    videos = VideoList.from_folder(tmp_path)
    clips, _ = _take(training_dataset(videos, 2, ClipSpec(size=32)), 1)[0]
    assert clips.shape == (2, 16, 32, 32, 3) and np.ptp(clips) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "num_frames must be at least 1, got 0"),
        ({"size": 0}, "size 0"),
        ({"stride_range": (3, 2)}, "smallest <= largest"),
        ({"jitter": 2}, "jitter=2"),
        ({"shorter_side": 0}, "shorter_side must be at least 1 pixel or None, got 0"),
    ],
)
def test_wrong_spec(options, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**options)


def test_wrong_numbers(videos):
    with pytest.raises(ValueError, match="at least 0 .* got -1, 0 and 0.05"):
        training_dataset(videos, 4, SPEC, seed=-1)
    with pytest.raises(ValueError, match="max_bad_fraction .* got 0, 0 and 2"):
        training_dataset(videos, 4, SPEC, max_bad_fraction=2)


# Bad videos


def test_bad_video_is_replaced_and_counted(with_bad):
    order = np.random.default_rng([0, 0, 12]).permutation(12)
    slot = order.tolist().index(4)
    next_good = order[(slot + 1) % 12]
    skipped = Skipped()
    dataset = training_dataset(
        with_bad, 12, SPEC, max_bad_fraction=0.1, skipped=skipped
    )
    (clips, labels), (again, _) = _take(dataset, 1) + _take(dataset, 1)
    expected = np.array(with_bad.labels)[order]
    expected[slot] = with_bad.labels[next_good]
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(clips, again)
    bad = with_bad.paths[4]
    assert list(skipped.reasons) == [bad] and skipped.counts[bad] >= 2
    assert "1 video(s) skipped" in str(skipped) and "not a video file" in str(skipped)
    assert str(Skipped()) == "No video was skipped."


def test_damaged_clip_is_bad(videos, clips):
    path = str(clips / "corrupted.mp4")
    paths = (path, *videos.paths[1:])
    damaged = VideoList(paths, videos.labels, videos.class_names, videos.groups)
    skipped = Skipped()
    spec = ClipSpec(frames=4, size=16, stride_range=(10, 12), shorter_side=24)
    dataset = training_dataset(damaged, 12, spec, max_bad_fraction=1, skipped=skipped)
    _take(dataset, 1)
    assert "28 of 50 declared" in skipped.reasons[path]


def test_too_many_bad_videos_stop_training(with_bad):
    skipped = Skipped()
    dataset = training_dataset(with_bad, 4, SPEC, skipped=skipped)
    message = r"(?s)1 of 12 videos are bad in epoch 0, accepted are up to 0.6.*bad.mp4"
    with pytest.raises(VideoError, match=message), skipped.reraising():
        for _ in dataset.take(3):
            pass
    assert skipped.error is not None
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"):
        with Skipped().reraising():
            raise tf.errors.InvalidArgumentError(None, None, "mine")


def test_all_bad_videos_stop_training(with_bad):
    bad = VideoList((with_bad.paths[4],) * 4, (0, 1, 0, 1), ("a", "b"), ("",) * 4)
    skipped = Skipped()
    dataset = training_dataset(bad, 4, SPEC, max_bad_fraction=1, skipped=skipped)
    with pytest.raises(VideoError, match="videos are bad"), skipped.reraising():
        next(iter(dataset))


# Testing


def test_test_videos(videos):
    clips = list(test_videos(videos, 5, workers=3))
    assert [c.path for c in clips] == list(videos.paths)
    assert [c.label for c in clips] == list(videos.labels)
    for clip, label, path, failure in clips:
        assert failure is None and label in (0, 1)
        expected = read_video(path, [2, 6, 10, 14, 18]).frames
        np.testing.assert_array_equal(clip, expected)


def test_test_videos_report_failures(with_bad, clips):
    paths = (str(clips / "corrupted.mp4"), *with_bad.paths[1:])
    bad = VideoList(paths, with_bad.labels, with_bad.class_names, with_bad.groups)
    results = list(test_videos(bad, 4))
    assert len(results) == 12
    assert [i for i, r in enumerate(results) if r.clip is None] == [0, 4]
    assert "damaged: decoding fails after 28" in results[0].failure
    assert "not a video file" in results[4].failure
    assert results[4].label == bad.labels[4]


# With Keras


def _model():
    inputs = keras.Input((None, None, None, 3), name="rgb")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.GlobalAveragePooling3D()(x)
    outputs = keras.layers.Dense(2, activation="softmax", kernel_initializer="ones")(x)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def _fit(videos, epochs, initial_epoch=0, model=None):
    model = model or _model()
    dataset = training_dataset(videos, 4, SPEC, initial_epoch=initial_epoch)
    history = model.fit(
        dataset,
        epochs=epochs,
        initial_epoch=initial_epoch,
        steps_per_epoch=steps_per_epoch(videos, 4),
        shuffle=False,
        verbose=0,
    )
    return model, history.history["loss"]


def test_fit_resumes_exactly(videos):
    whole, losses = _fit(videos, 3)
    part, first = _fit(videos, 1)
    part, rest = _fit(videos, 3, 1, part)
    assert first + rest == losses
    for a, b in zip(whole.get_weights(), part.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_on_two_replicas_equals_one(videos, two_replicas):
    single, losses = _fit(videos, 2)
    with two_replicas.scope():
        model = _model()
    double, replica_losses = _fit(videos, 2, model=model)
    np.testing.assert_allclose(losses, replica_losses, rtol=1e-5)
    for a, b in zip(single.get_weights(), double.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_abandoned_iterator_ends_its_threads(videos):
    iterator = iter(training_dataset(videos, 4, SPEC, workers=3))
    next(iterator)
    assert _decoding_threads()
    del iterator
    gc.collect()
    deadline = time.monotonic() + 10
    while _decoding_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _decoding_threads()


def _decoding_threads():
    return [t for t in threading.enumerate() if t.name.startswith("zoo-decode")]
