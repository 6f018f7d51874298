"""Frames beside their flow: videos and sheets, written whole or not at all."""

import cv2
import numpy as np
import pytest

from tests import video_files
from tests.moving_cameras import texture
from zoo.datasets import VideoError, flow_source, read_video
from zoo.datasets.camera_motion import CameraMotionRemoval
from zoo.datasets.flow import to_codes, to_pixels
from zoo.datasets.video_writing import write_video
from zoo.understanding.flow_pictures import legend, picture
from zoo.understanding.flow_video import frames_and_flow, show, side_by_side

SIZE = 48, 63  # odd on purpose


def pairs(count, size=SIZE):
    """Frames of one grey level each, 4 n, over flow that turns with n."""
    for n in range(count):
        frame = np.full((*size, 3), 4 * n, np.uint8)
        flow = np.zeros((*size, 2), np.float32)
        flow[:] = 8 * np.cos(n), 8 * np.sin(n)
        yield frame, flow


def read_png(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


# --- one pair ------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["wheel", "mag", "u"])
def test_frame_flow_and_key(encoding):
    frame, flow = next(pairs(1))
    drawn = side_by_side(frame, flow, encoding, bound=10)
    height, width = SIZE
    assert drawn.shape == (height, 2 * width, 3)
    np.testing.assert_array_equal(drawn[:, :width], frame)
    key = height // 5
    np.testing.assert_array_equal(drawn[:key, -key:], legend(encoding, key))
    expected = picture(flow, encoding, 10)
    np.testing.assert_array_equal(drawn[key:, width:], expected[key:])


def test_flow_of_another_size_is_brought_to_the_frame():
    frame, _ = next(pairs(1))
    flow = np.zeros((24, 30, 2), np.float32)
    flow[:12, :, 0], flow[12:, :, 0] = 5, -5
    drawn = side_by_side(frame, flow, "wheel", 5)
    assert drawn.shape == (48, 126, 3)
    assert tuple(drawn[20, 70]) == (255, 0, 0) and drawn[30, 70, 0] == 0


# --- files ---------------------------------------------------------------------------


def test_video_of_all_pairs(tmp_path):
    out = tmp_path / "new" / "flow.mp4"
    assert show(pairs(7), out, "wheel", bound=10, fps=12) == (7, 7)
    video = read_video(out)
    assert video.frames.shape == (7, 48, 126, 3)
    assert (video.fps, video.damage) == (12, None)
    for n, (frame, flow) in enumerate(pairs(7)):
        expected = side_by_side(frame, flow, "wheel", 10).astype(int)
        shown = video.frames[n].astype(int)
        assert np.abs(shown[:, 4:56] - expected[:, 4:56]).max() < 8
        # Colours are stored at half the size; the middle of an area is what counts.
        assert np.abs(shown[30, 90] - expected[30, 90]).max() < 16
    assert [p.name for p in out.parent.iterdir()] == ["flow.mp4"]


@pytest.mark.parametrize("count", [1, 5, 24, 25, 48, 49, 60])
def test_sheet_of_equally_spaced_pairs(count, tmp_path):
    out = tmp_path / "sheet.png"
    drawn, seen = show(pairs(count, (24, 32)), out, "hsv", bound=10)
    assert seen == count and 0 < drawn <= 24
    assert drawn == count or drawn > 12
    page = read_png(out)
    columns, rows = min(drawn, 4), -(-drawn // 4)
    assert page.shape == (rows * 26 - 2, columns * 66 - 2, 3)
    step = -(-count // drawn)
    for i in range(drawn):
        row, column = divmod(i, 4)
        # The top left corner of a tile is its frame, whose grey level is its number.
        grey = page[row * 26, column * 66]
        assert tuple(grey) == (4 * i * step,) * 3


def test_no_more_than_the_sheet_is_kept_in_memory(tmp_path):
    alive = []

    def many():
        for n in range(1000):
            yield np.full((9, 9, 3), n % 256, np.uint8), np.zeros((9, 9, 2), "float32")
            alive.append(n)

    drawn, seen = show(many(), tmp_path / "s.png")
    assert (drawn, seen) == (16, 1000) and len(alive) == 1000


# --- a video and the source of its flow ----------------------------------------------


@pytest.fixture
def panned(tmp_path):
    """A video of a texture that moves 2 pixels to the left per frame."""
    wide = texture(np.random.default_rng(0), (96, 160))
    frames = [wide[:, 2 * n : 2 * n + 128] for n in range(6)]
    write_video(tmp_path / "pan.mp4", frames)
    return tmp_path / "pan.mp4"


def test_computed_flow(panned, tmp_path):
    made = list(frames_and_flow(panned, flow_source("dis")))
    frames = read_video(panned).frames
    assert len(made) == 5
    for n, (frame, flow) in enumerate(made):
        np.testing.assert_array_equal(frame, frames[n])
        assert flow.dtype == np.float32 and flow.shape == (96, 128, 2)
        assert np.abs(np.median(flow, axis=(0, 1)) - (-2, 0)).max() < 0.2
    assert show(made, tmp_path / "out.mp4") == (5, 5)


def test_flow_of_a_folder(panned, tmp_path):
    codes = to_codes(np.random.default_rng(0).normal(0, 5, (5, 12, 16, 2)))
    codes = np.stack([cv2.blur(c, (9, 9)) for c in codes])
    for k, component in enumerate("uv"):
        folder = tmp_path / "flow" / component / "pan"
        folder.mkdir(parents=True)
        for n, field in enumerate(codes):
            cv2.imwrite(str(folder / f"frame{n + 1:06d}.jpg"), field[..., k])
    made = list(frames_and_flow(panned, flow_source(tmp_path / "flow")))
    assert len(made) == 5
    for n, (_, flow) in enumerate(made):
        assert np.abs(flow - to_pixels(codes[n])).max() < 2  # of a JPEG
    assert show(made, tmp_path / "out.png") == (5, 5)


def test_function_between_frames(panned):
    """As with the camera's motion removed: the pan is gone."""
    flow_of = flow_source("dis")
    remove = CameraMotionRemoval(lambda a, b: to_pixels(flow_of.between(a, b)))
    made = list(frames_and_flow(panned, remove))
    assert (len(made), remove.pairs, remove.plain) == (5, 5, 0)
    assert max(np.median(np.abs(flow)) for _, flow in made) < 0.2


def test_damage_is_refused_or_told(tmp_path):
    path = tmp_path / "cut.mkv"
    video_files.write(path, video_files.noise(20))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = flow_source("farneback")
    with pytest.raises(VideoError, match="cut.mkv"):
        list(frames_and_flow(path, source))
    told = []
    made = list(frames_and_flow(path, source, lambda *damage: told.append(damage)))
    ((where, video),) = told
    assert where == path and video.damage and 2 < video.decoded < 20
    assert len(made) == video.decoded - 1


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": "a.avi"}, "a video, .mp4, or on a sheet, .png"),
        ({"encoding": "rainbow"}, "'rainbow'; accepted are wheel"),
        ({"bound": 0}, "above 0 pixels"),
        ({"bound": None}, "before its largest displacement is known"),
        ({"fps": 0}, "fps must be .* got 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_drawn(
    arguments, message, tmp_path
):
    def never():
        raise AssertionError("a pair was asked for")
        yield

    out = tmp_path / arguments.pop("out", "a.mp4")
    with pytest.raises(ValueError, match=message):
        show(never(), out, **arguments)
    assert not list(tmp_path.iterdir())


def uneven():
    yield from pairs(2)
    yield from pairs(1, (20, 20))


@pytest.mark.parametrize("ending", ["mp4", "png"])
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: iter(()), "there are no"),
        (uneven, r"is \(20, 40\), the first \(48, 126\)|several sizes"),
        (
            lambda: [(np.zeros((9, 9)), np.zeros((9, 9, 2)))],
            "frame to show must be RGB",
        ),
        (
            lambda: [(np.zeros((9, 9, 3), np.uint8), np.zeros((1, 9, 9, 2)))],
            r"one field, \[H, W, 2\]; got \(1, 9, 9, 2\)",
        ),
    ],
)
def test_an_error_leaves_the_earlier_file(made, message, ending, tmp_path):
    out = tmp_path / f"a.{ending}"
    out.write_bytes(b"earlier")
    with pytest.raises(ValueError, match=message):
        show(made(), out)
    assert out.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((4, 4, 3))], "frame 0 is float64"),
        ([np.zeros((4, 4), np.uint8)], r"frame 0 is uint8 \(4, 4\)"),
        ([], "no frames to write"),
    ],
)
def test_frames_that_are_none(frames, message, tmp_path):
    with pytest.raises(VideoError, match=message):
        write_video(tmp_path / "a.mp4", frames)
    with pytest.raises(VideoError, match="change the ending"):
        write_video(tmp_path / "a.avi", frames)
