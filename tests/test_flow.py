"""Optical flow as data: codes, stacks, stored and computed, read with its frames."""

import cv2
import numpy as np
import pytest

from tests import video_files
from zoo.datasets import FrameCache, VideoError, VideoList, flow_source
from zoo.datasets import flow as flows
from zoo.datasets import video as video_module
from zoo.datasets.chunks import Reader
from zoo.datasets.flow import (
    METHODS,
    ComputedFlow,
    FlowFolder,
    centres,
    stack,
    stack_fields,
    to_codes,
    to_pixels,
)
from zoo.datasets.pipeline import ClipSpec, test_videos, training_dataset

SIZE = 24, 32  # height, width
COUNT = 20  # frames


# --- codes and stacks ----------------------------------------------------------------


def test_codes_are_the_thesis():
    """round(255 (d + 20) / 40), clipped at 20 pixels; half a step lost at most."""
    flow = np.linspace(-25, 25, 2001, dtype="float32")
    codes = to_codes(flow)
    expected = np.round(255 * (np.clip(flow.astype(float), -20, 20) + 20) / 40)
    assert np.abs(codes - expected).max() <= 1 and codes.dtype == np.uint8
    assert to_codes(np.float32([-99, -20, 20, 99])).tolist() == [0, 0, 255, 255]
    lost = np.abs(to_pixels(codes) - np.clip(flow, -20, 20)).max()
    assert lost <= 20 / 255 + 1e-4
    np.testing.assert_array_equal(to_codes(to_pixels(np.arange(256))), np.arange(256))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flow_that_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="flow holds NaN or infinite values"):
        to_codes(np.float32([0, value]))


def test_centres_are_the_frames_with_a_whole_stack():
    """Spec of the release, counted from 1: t in 6 ... n - 5 of n frames."""
    for count in range(11, 40):
        first, number = centres(count)
        assert (first + 1, first + number) == (6, count - 5)
        fields = stack_fields(np.arange(first, first + number), count - 1)
        assert fields.min() == 0 and fields.max() == count - 2
        assert (np.diff(fields, axis=1) == 1).all()
        np.testing.assert_array_equal(fields[:, 5], np.arange(first, first + number))
    for count in range(2, 11):
        assert centres(count) == (0, count)
        fields = stack_fields(np.arange(count), count - 1)
        assert fields.min() == 0 and fields.max() == count - 2
    with pytest.raises(ValueError, match="at least 2 frames, the video has 1"):
        centres(1)


def test_channels_are_u_and_v_in_turn():
    fields = np.arange(3 * 10 * 2).reshape(3, 10, 1, 1, 2)
    stacked = stack(np.broadcast_to(fields, (3, 10, 4, 5, 2)))
    assert stacked.shape == (3, 4, 5, 20)
    for t in range(3):
        order = [fields[t, k, 0, 0, c] for k in range(10) for c in (0, 1)]
        np.testing.assert_array_equal(stacked[t, 2, 3], order)


# --- sources -------------------------------------------------------------------------


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3))
    return cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2)


def shifted(image, dx, dy):
    return np.roll(np.clip(image, 0, 255).astype(np.uint8), (dy, dx), axis=(0, 1))


@pytest.mark.parametrize("method", METHODS)
def test_methods_find_a_known_motion(method):
    """u to the right and v down, to a quarter of a pixel in the median."""
    image = 128 + 4 * (texture(96, 128) - 128)
    for dx, dy in ((3, -2), (-1, 4)):
        codes = ComputedFlow(method).between(
            shifted(image, 0, 0), shifted(image, dx, dy)
        )
        found = np.median(to_pixels(codes)[16:-16, 16:-16], axis=(0, 1))
        np.testing.assert_allclose(found, (dx, dy), atol=0.25)


def test_what_the_word_flow_may_stand_for(tmp_path):
    assert [flow_source(name).name for name in METHODS] == list(METHODS)
    for folder in ("u", "v"):
        (tmp_path / folder).mkdir()
    assert flow_source(tmp_path).name == "folder"
    (tmp_path / "v").rmdir()
    with pytest.raises(ValueError, match="it has no 'v'. Give .* tvl1, dis, farneback"):
        flow_source(tmp_path)
    with pytest.raises(ValueError, match="tvl2 is no folder .* no 'u' and no 'v'"):
        flow_source("tvl2")
    with pytest.raises(ValueError, match="'tvl2'; accepted are tvl1"):
        ComputedFlow("tvl2")


def test_frames_too_small_for_a_method():
    with pytest.raises(VideoError, match="dis cannot compute flow of frames of 4x3"):
        ComputedFlow("dis").between(*np.zeros((2, 3, 4, 3), np.uint8))


def write_fields(root, name, codes):
    """Stores codes [N, H, W, 2] as the thesis does, but without loss (PNG bytes)."""
    for c, component in enumerate("uv"):
        folder = root / component / name
        folder.mkdir(parents=True)
        for i, field in enumerate(codes):
            _, data = cv2.imencode(".png", np.ascontiguousarray(field[..., c]))
            (folder / f"frame{i + 1:06d}.jpg").write_bytes(data.tobytes())


def numbered(count=COUNT, size=SIZE):
    """Codes that tell field, component, row and column."""
    fields = np.zeros((count - 1, *size, 2), np.uint8)
    fields[..., 0] = 40 + 2 * np.arange(count - 1)[:, None, None]
    fields[..., 1] = 90 + np.arange(size[1]) + 0 * np.arange(size[0])[:, None]
    return fields


@pytest.fixture
def videos(tmp_path):
    """Two classes of two videos whose frame i is grey of 10 + 10 i, and their flow."""
    for name in ("walk", "run"):
        for i in range(2):
            frames = np.full((COUNT, *SIZE, 3), 10, np.uint8)
            frames += 10 * np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
            folder = tmp_path / "videos" / name
            folder.mkdir(parents=True, exist_ok=True)
            video_files.write(folder / f"v{i}.avi", frames, "rawvideo")
            write_fields(tmp_path / "flow", f"{name}/v{i}", numbered())
    return VideoList.from_folder(tmp_path / "videos")


@pytest.fixture
def stored(videos, tmp_path):
    return FlowFolder(tmp_path / "flow")


class TestFlowFolder:
    def test_reads_what_is_stored(self, videos, stored):
        path = videos.paths[0]
        assert stored.count(path) == COUNT - 1
        np.testing.assert_array_equal(
            stored.fields(path, [3, 0, 18]), numbered()[[3, 0, 18]]
        )

    def test_names_without_a_class(self, videos, stored, tmp_path):
        """The released layout: u/<video>/frame000001.jpg."""
        for component in "uv":
            (tmp_path / "flow" / component / "run" / "v0").rename(
                tmp_path / "flow" / component / "v0"
            )
        assert stored.count(videos.paths[0]) == COUNT - 1

    def test_files_of_other_names_do_not_count(self, videos, stored, tmp_path):
        """A Mac's archives; and the bounds that the released extractor left beside."""
        for component in "uv":
            folder = tmp_path / "flow" / component / "run"
            (folder / "v0" / "._frame000001.jpg").write_bytes(b"\0")
        (tmp_path / "flow" / "u" / "run" / "v0.bin").write_bytes(b"\0" * 16)
        assert stored.count(videos.paths[0]) == COUNT - 1

    def test_ucf101_spells_a_class_in_two_ways(self, stored, tmp_path):
        name = "v_HandstandPushups_g01_c01"
        for component in "uv":
            root = tmp_path / "flow" / component
            (root / "run" / "v0").rename(root / name)
        path = tmp_path / "HandstandPushups" / f"{name.replace('stand', 'Stand')}.avi"
        assert stored.count(path) == COUNT - 1

    def test_a_video_in_the_folder_at_hand(self, videos, stored, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path / "videos" / "run")
        assert stored.count("v0.avi") == COUNT - 1

    def test_what_is_missing_is_named(self, videos, stored, tmp_path):
        with pytest.raises(
            VideoError, match="x/y.avi: no flow in .* neither u/x/y nor"
        ):
            stored.count("x/y.avi")
        path = videos.paths[0]
        folder = tmp_path / "flow" / "v" / "run" / "v0"
        (folder / "frame000002.jpg").write_text("no image")
        with pytest.raises(VideoError, match="frame000002.jpg is missing or no image"):
            stored.fields(path, [1])
        (folder / "frame000002.jpg").unlink()
        with pytest.raises(VideoError, match="holds 19 fields of u and 18 of v"):
            stored.count(path)
        cv2.imwrite(str(folder / "frame000003.jpg"), np.zeros((5, 6), np.uint8))
        with pytest.raises(VideoError, match="several sizes, .*5, 6"):
            stored.fields(path, [0, 2])


# --- chunks --------------------------------------------------------------------------


def take(*positions):
    return lambda count: np.array(positions) % count


class TestReader:
    def test_frames_and_their_stacks(self, videos, stored):
        """Positions count from the first frame with a whole stack, frame 5."""
        clip = Reader(("rgb", "flow"), stored).read(videos.paths[0], take(0, 4, 2))
        grey = clip["rgb"].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(grey, [10 + 10 * t for t in (5, 9, 7)], atol=1)
        fields = np.array([np.arange(t - 5, t + 5) for t in (5, 9, 7)])
        expected = to_pixels(stack(numbered()[fields]))
        np.testing.assert_array_equal(clip["flow"], expected)

    def test_flow_alone_needs_no_video(self, videos, stored, tmp_path):
        path = tmp_path / "videos" / "run" / "v0.avi"
        path.write_text("not read")
        clip = Reader(("flow",), stored).read(path, take(0))
        assert list(clip) == ["flow"]
        with pytest.raises(VideoError, match="not a video file"):
            Reader(("flow", "rgb"), stored).read(path, take(0))

    @pytest.mark.parametrize("cache", [False, True])
    @pytest.mark.parametrize("verify_count", [False, True])
    @pytest.mark.parametrize("fields", [COUNT - 8, COUNT - 2, COUNT + 1, COUNT + 9])
    def test_fields_of_another_number_of_frames(
        self, videos, tmp_path, cache, verify_count, fields
    ):
        write_fields(tmp_path / "other", "run/v0", numbered(fields + 1))
        reader = Reader(
            ("rgb", "flow"),
            FlowFolder(tmp_path / "other"),
            cache=FrameCache() if cache else None,
            verify_count=verify_count,
        )
        message = f"run/v0.avi: {fields} fields of flow belong to {fields + 1} frames, "
        with pytest.raises(VideoError, match=f"{message}the video has {COUNT}; extra"):
            reader.read(videos.paths[0], take(0, -1))

    @pytest.mark.parametrize("cache", [False, True])
    def test_a_repeated_last_field_changes_nothing(
        self, videos, stored, tmp_path, cache
    ):
        """Some extractors write as many fields as there are frames."""
        codes = numbered()
        write_fields(tmp_path / "other", "run/v0", [*codes, codes[-1]])
        cache = FrameCache() if cache else None
        found, expected = (
            Reader(("rgb", "flow"), source, cache=cache).read(
                videos.paths[0], lambda count: np.arange(count)
            )
            for source in (FlowFolder(tmp_path / "other"), stored)
        )
        for kind in expected:
            np.testing.assert_array_equal(found[kind], expected[kind])

    @pytest.mark.parametrize("declared", [COUNT - 3, COUNT + 1])
    def test_the_decoded_number_decides(self, videos, stored, monkeypatch, declared):
        """Of training, too, which does not count frames where header and flow agree."""
        expected = Reader(("rgb", "flow"), stored).read(videos.paths[0], take(0, -1))
        monkeypatch.setattr(video_module, "_declared", lambda *args: (declared, 0))
        reader = Reader(("rgb", "flow"), stored, verify_count=False)
        found = reader.read(videos.paths[0], take(0, -1))
        for kind in expected:
            np.testing.assert_array_equal(found[kind], expected[kind])

    @pytest.mark.parametrize("inputs", [("flow",), ("rgb", "flow"), ("rgb",)])
    def test_a_cache_changes_nothing(self, videos, stored, inputs):
        for source in (stored, ComputedFlow("farneback")):
            plain = Reader(inputs, source).read(videos.paths[1], take(1, 3))
            cache = FrameCache()
            for _ in range(2):
                reader = Reader(inputs, source, cache=cache)
                cached = reader.read(videos.paths[1], take(1, 3))
                for kind in inputs:
                    np.testing.assert_array_equal(cached[kind], plain[kind])

    def test_computed_fields_lie_between_neighbours(self, tmp_path, monkeypatch):
        """Each field once, between frames i and i + 1, and no others."""
        frames = np.full((30, *SIZE, 3), 0, np.uint8)
        frames += 8 * np.arange(30, dtype=np.uint8)[:, None, None, None]
        path = video_files.write(tmp_path / "v.avi", frames, "rawvideo")
        asked = []

        def between(self, first, second):
            number = round(first.mean() / 8)
            assert round(second.mean() / 8) == number + 1
            asked.append(number)
            return np.full((*SIZE, 2), number, np.uint8)

        monkeypatch.setattr(ComputedFlow, "between", between)
        reader = Reader(("rgb", "flow"), ComputedFlow("dis"))
        clip = reader.read(path, take(0, 12))
        expected = [*range(10), *range(12, 22)]
        assert asked == expected
        codes = to_codes(clip["flow"])[:, 0, 0, ::2]
        np.testing.assert_array_equal(codes.ravel(), expected)
        assert [round(f.mean() / 8) for f in clip["rgb"]] == [5, 17]

    @pytest.mark.parametrize("count", [2, 3, 7, 10, 11])
    def test_short_videos_repeat_their_outer_fields(self, tmp_path, count):
        frames = video_files.noise(count, 24, 32)
        path = video_files.write(tmp_path / "v.avi", frames, "rawvideo")
        reader = Reader(("rgb", "flow"), ComputedFlow("farneback"))
        clip = reader.read(path, lambda n: np.arange(n))
        assert clip["flow"].shape == (*clip["rgb"].shape[:3], 20)
        assert len(clip["rgb"]) == (count if count < 11 else 1)

    def test_one_frame_has_no_flow(self, tmp_path):
        path = video_files.write(
            tmp_path / "v.avi", video_files.noise(1, 24, 32), "rawvideo"
        )
        with pytest.raises(
            VideoError, match="v.avi: optical flow needs at least 2 fra"
        ):
            Reader(("flow",), ComputedFlow("dis")).read(path, take(0))

    def test_frames_take_the_size_of_their_flow(self, videos, stored, tmp_path):
        """UCF101: videos of 320 x 240, flow stored at 340 x 256."""
        write_fields(tmp_path / "large", "run/v0", numbered(size=(30, 40)))
        large = FlowFolder(tmp_path / "large")
        clip = Reader(("rgb", "flow"), large).read(videos.paths[0], take(0))
        assert clip["rgb"].shape[1:3] == clip["flow"].shape[1:3] == (30, 40)
        write_fields(tmp_path / "other", "run/v0", numbered(size=(30, 30)))
        with pytest.raises(VideoError, match="frames are 32x24 and its flow 30x30"):
            Reader(("rgb", "flow"), FlowFolder(tmp_path / "other")).read(
                videos.paths[0], take(0)
            )

    def test_what_a_reader_cannot_read(self):
        with pytest.raises(ValueError, match="one or both of 'rgb' and 'flow'"):
            Reader(("sound",))
        with pytest.raises(ValueError, match="sees optical flow, but no source"):
            Reader(("flow",))


# --- batches -------------------------------------------------------------------------


def spec(source, inputs=("rgb", "flow"), **options):
    options = {"shorter_side": None, "jitter": 0.0, **options}
    return ClipSpec(2, 16, stride_range=(1, 2), inputs=inputs, flow=source, **options)


def first_batch(videos, *arguments, **options):
    dataset = training_dataset(videos, 4, spec(*arguments, **options))
    return next(iter(dataset.as_numpy_iterator()))[0]


@pytest.fixture
def coordinates(tmp_path):
    """A video whose grey tells the column, and flow whose v does; u is 5 pixels."""
    columns = 4 * np.arange(SIZE[1])
    frames = np.zeros((COUNT, *SIZE, 3), np.uint8)
    frames += columns[:, None].astype(np.uint8)
    codes = to_codes(np.full((COUNT - 1, *SIZE, 2), 5.0))
    codes[..., 1] = columns
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / "videos" / name).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "videos" / name / f"{i}.avi"
            video_files.write(path, frames, "rawvideo")
            write_fields(tmp_path / "flow", f"{name}/{i}", codes)
    return VideoList.from_folder(tmp_path / "videos"), FlowFolder(tmp_path / "flow")


def test_frames_and_flow_are_cut_and_mirrored_alike(coordinates):
    videos, source = coordinates
    batch = first_batch(videos, source)
    assert batch["rgb"].shape == (4, 2, 16, 16, 3)
    assert batch["flow"].shape == (4, 2, 16, 16, 20)
    u, v = batch["flow"][..., ::2], batch["flow"][..., 1::2]
    column = np.repeat(batch["rgb"][..., :1].astype(float), 10, axis=-1)
    np.testing.assert_allclose(to_codes(v), column, atol=2)
    mirrored = column[:, 0, 0, 0, 0] > column[:, 0, 0, -1, 0]
    signs = np.where(mirrored, -1, 1)[:, None, None, None, None]
    np.testing.assert_allclose(u, signs * 5.0 * np.ones_like(u), atol=0.1)
    assert 0 < mirrored.sum() < 4  # seed 0 has both


def test_one_input_comes_alone(coordinates):
    videos, source = coordinates
    both = first_batch(videos, source)
    alone = first_batch(videos, source, ("flow",))
    np.testing.assert_array_equal(alone, both["flow"])
    assert first_batch(videos, None, ("rgb",)).dtype == np.uint8


def test_flow_counts_pixels_of_the_shorter_side(coordinates):
    """Frames half as large as they should be show half the motion in pixels."""
    videos, source = coordinates
    batch = first_batch(videos, source, shorter_side=48, flip=False)
    np.testing.assert_allclose(batch["flow"][..., ::2], 10.0, atol=0.2)


def test_crops_at_corners_and_centre(coordinates):
    videos, source = coordinates
    batch = first_batch(videos, source, crop="corners", flip=False)
    left = batch["rgb"][:, 0, 0, 0, 0] // 4
    assert set(left.tolist()) <= {*range(17)}
    with pytest.raises(ValueError, match="crop 'centre'; accepted are jitter, corners"):
        spec(source, crop="centre")


def test_bad_flow_makes_a_bad_video(videos, stored, tmp_path):
    (tmp_path / "flow" / "u" / "run" / "v1" / "frame000001.jpg").unlink()
    reader = Reader(("rgb", "flow"), stored)
    clips = list(test_videos(videos, 3, reader=reader))
    assert [clip.failure is None for clip in clips] == [True, False, True, True]
    assert "holds 18 fields of u and 19 of v" in clips[1].failure
    assert set(clips[0].clip) == {"rgb", "flow"}
    assert clips[0].clip["flow"].shape == (3, *SIZE, 20)


def test_real_clips(clips):
    """A UCF101 file: TV-L1 moves what its warped frame confirms."""
    path = clips / "v_ApplyEyeMakeup_g01_c01.avi"
    reader = Reader(("rgb", "flow"), ComputedFlow("dis"), shorter_side=256)
    clip = reader.read(path, take(20, 60))
    assert clip["rgb"].shape == (2, 240, 320, 3)
    assert clip["flow"].shape == (2, 240, 320, 20)
    assert 0 < np.abs(clip["flow"]).mean() < flows.BOUND
