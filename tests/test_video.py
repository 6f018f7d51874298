"""Reading video files: exact frames, upright, bounded, and honest about damage."""

import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from tests import video_files
from zoo.datasets import video
from zoo.datasets.video import VideoError, probe, read_video, stream_frames

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module", params=sorted(video_files.CODECS))
def numbered_file(request, folder):
    codec, b_frames, options = video_files.CODECS[request.param]
    frames = video_files.numbered(COUNT)
    return video_files.write(folder / request.param, frames, codec, b_frames, options)


@pytest.fixture(scope="module")
def mp4(folder):
    return video_files.write(folder / "plain.mp4", video_files.numbered(COUNT))


@pytest.fixture(scope="module", params=["mp4", "mkv", "avi", "webm"])
def noisy_file(request, folder):
    name = {"avi": "mpeg4.avi", "webm": "vp9.webm"}.get(
        request.param, f"h264.{request.param}"
    )
    codec, b_frames, _ = video_files.CODECS[name]
    path = folder / f"noise.{request.param}"
    return video_files.write(path, video_files.noise(COUNT), codec, b_frames)


def test_all_frames_in_order(numbered_file):
    result = read_video(numbered_file)
    assert video_files.numbers(result.frames) == list(range(COUNT))
    assert result.frames.dtype == np.uint8 and result.frames.shape == (COUNT, 16, 64, 3)
    assert result.indices.tolist() == list(range(COUNT))
    assert (result.decoded, result.declared, result.complete) == (COUNT, COUNT, True)
    assert result.damage is None and result.passes == 1
    assert result.fps == pytest.approx(25)


def test_random_access_is_exact(numbered_file):
    rng = np.random.default_rng(0)
    for _ in range(5):
        wanted = rng.integers(0, COUNT, 7)  # neither sorted nor without repeats
        result = read_video(numbered_file, wanted)
        assert video_files.numbers(result.frames) == wanted.tolist()
        assert result.decoded == wanted.max() + 1
        assert result.complete is False


def test_file_really_has_b_frames(numbered_file):
    """The exactness tests would prove little without them."""
    with av.open(str(numbered_file)) as container:
        kinds = {int(frame.pict_type) for frame in container.decode(video=0)}
    assert (int(PictureType.B) in kinds) == bool(
        video_files.CODECS[numbered_file.name][1]
    )


def test_colours_are_rgb(folder):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[..., 0] = 250
    path = video_files.write(folder / "red.mp4", frames, options={"crf": "1"})
    assert np.abs(read_video(path).frames.astype(int) - frames).max() <= 6


def test_choice_rests_on_decoded_count(clips):
    """The header of the Matroska clip is off by one."""
    seen = []

    def last(count):
        seen.append(count)
        return [count - 1]

    result = read_video(clips / "flipping_a_pancake.mkv", last)
    assert seen == [311, 310]
    assert (result.declared, result.decoded, result.passes) == (311, 310, 2)
    assert result.indices.tolist() == [309] and result.damage is None
    early = read_video(
        clips / "flipping_a_pancake.mkv", lambda n: [0, 5], verify_count=False
    )
    assert (early.decoded, early.complete, early.passes) == (6, False, 1)


def test_unverified_choice_past_the_end_is_made_again(clips):
    seen = []

    def last(count):
        seen.append(count)
        return [0, count - 1]

    result = read_video(
        clips / "flipping_a_pancake.mkv", last, verify_count=False, strict=True
    )
    assert seen == [311, 310] and result.passes == 2 and len(result.frames) == 2


@pytest.mark.parametrize(
    ("name", "decoded", "declared", "size", "fps"),
    [
        ("arm_wrestling.mp4", 280, 280, (340, 256), 28),
        ("flipping_a_pancake.mkv", 310, 311, (426, 240), 30),
        ("v_ApplyEyeMakeup_g01_c01.avi", 164, 164, (320, 240), 25),
        ("street.mp4", 8, 8, (1920, 1080), 3),
        ("video_0.mov", 3, 3, (568, 320), 30),
        ("video_90.mov", 3, 3, (320, 568), 30),
        ("unordered.mov", 4, 4, (50, 50), None),
        ("corrupted.mp4", 28, 50, (1280, 720), 10),
    ],
)
def test_real_clips(clips, name, decoded, declared, size, fps):
    result = read_video(clips / name, lambda n: [0, n - 1])
    info = probe(clips / name)
    assert result.frames.shape == (2, size[1], size[0], 3)
    assert (result.decoded, result.declared) == (decoded, declared)
    assert (info.width, info.height, info.declared) == (*size, declared)
    assert bool(result.damage) == (name == "corrupted.mp4")
    if fps:
        assert result.fps == info.fps == fps


def test_frames_equal_opencv(clips):
    """An independent reader, in order from the start, sees the same pictures."""
    for name in ("video_90.mov", "unordered.mov", "v_ApplyEyeMakeup_g01_c01.avi"):
        capture = cv2.VideoCapture(str(clips / name))
        ours = read_video(clips / name, lambda n: np.arange(min(n, 20)))
        for frame in ours.frames:
            theirs = capture.read()[1][..., ::-1]
            difference = np.abs(frame.astype(int) - theirs)
            assert difference.mean() < 1.5, name
        capture.release()


ORIENTATIONS = {
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1, (1, 2)),  # a phone held upright
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2, (1, 2)),
    (0, -1, 1, 0): lambda x: np.rot90(x, 1, (1, 2)),
    (-1, 0, 0, 1): lambda x: x[:, :, ::-1],  # a mirrored front camera
    (1, 0, 0, -1): lambda x: x[:, ::-1],
    (0, 1, 1, 0): lambda x: x.swapaxes(1, 2),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_display_matrix(folder, mp4, matrix):
    path = folder / "turned.mp4"
    video_files.set_display_matrix(mp4, path, matrix)
    stored = read_video(mp4, [3, 50]).frames
    turned = read_video(path, [3, 50])
    np.testing.assert_array_equal(turned.frames, ORIENTATIONS[matrix](stored))
    if matrix == (0, 1, -1, 0):
        assert turned.rotation == -90
        assert (probe(path).width, probe(path).height) == (16, 64)


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1)])
def test_frames_one_by_one_are_those_read_together(mp4, folder, matrix):
    """Upright, and of the size that a function of the stored size gives."""
    path = video_files.set_display_matrix(mp4, folder / "streamed.mp4", matrix)
    streamed = np.stack(list(stream_frames(path)))
    np.testing.assert_array_equal(streamed, read_video(path).frames)
    small = np.stack(list(stream_frames(path, lambda w, h: (w // 2, h // 2))))
    np.testing.assert_array_equal(small, read_video(path, shorter_side=8).frames)
    with pytest.raises(VideoError, match=f"{COUNT} frames, accepted are up to max_fr"):
        next(stream_frames(path, max_frames=9))


def test_damage_ends_the_frames_one_by_one(mp4, folder):
    path = video_files.cut(mp4, folder / "no_end.mp4")
    with pytest.raises(VideoError, match="no_end.mp4: not a video file"):
        next(stream_frames(path))
    path.write_bytes(b"")
    with pytest.raises(VideoError, match="no_end.mp4: is empty"):
        next(stream_frames(path))


def test_rotated_real_clip_shows_the_same_scene(clips):
    result = read_video(clips / "video_90.mov")
    assert result.rotation == -90 and result.frames.shape == (3, 568, 320, 3)


@pytest.mark.parametrize(
    ("side", "shape"), [(8, (8, 32)), (16, (16, 64)), (20, (16, 64))]
)
def test_shorter_side(mp4, side, shape):
    result = read_video(mp4, [9], shorter_side=side)
    assert result.frames.shape == (1, *shape, 3)
    full = read_video(mp4, [9]).frames[0]
    expected = cv2.resize(full, shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(result.frames[0].astype(int) - expected).mean() < 12


def test_shorter_side_after_turning(folder, mp4):
    path = video_files.set_display_matrix(mp4, folder / "up.mp4", (0, 1, -1, 0))
    assert read_video(path, [0], shorter_side=8).frames.shape == (1, 32, 8, 3)


def test_one_frame_and_one_pixel(folder):
    path = video_files.write(folder / "one.mp4", video_files.numbered(1))
    assert read_video(path).frames.shape == (1, 16, 64, 3)
    pixel = np.full((1, 1, 1, 3), 128, np.uint8)
    path = video_files.write(folder / "pixel.mkv", pixel, "ffv1")
    result = read_video(path, lambda n: [0] * 16)
    assert result.frames.shape == (16, 1, 1, 3)
    assert abs(int(result.frames[0, 0, 0, 0]) - 128) <= 3


def test_sound_longer_than_picture_is_no_damage(folder):
    frames = video_files.numbered(20)
    path = video_files.write(folder / "sound.mp4", frames, sound=3)
    result = read_video(path, strict=True)
    assert result.decoded == 20 and result.damage is None


def test_change_of_size_keeps_the_first_size(folder):
    parts = [folder / "part0.m2v", folder / "part1.m2v"]
    for path, height in zip(parts, (48, 96), strict=True):
        frames = video_files.noise(3, height, 64)
        video_files.write(path, frames, "mpeg2video")
    path = folder / "grows.mpg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = read_video(path)
    assert result.decoded > 4  # the decoder drops one frame at the change
    assert result.frames.shape == (result.decoded, 48, 64, 3)


# Damage


def test_hole_is_reported(noisy_file, tmp_path):
    path = video_files.punch(noisy_file, tmp_path / noisy_file.name)
    result = read_video(path)
    assert 0 < result.decoded < COUNT and result.complete
    assert len(result.frames) == result.decoded
    assert result.damage
    with pytest.raises(VideoError, match="damaged: .* read it with strict=False"):
        read_video(path, strict=True)


def test_truncation_is_reported(noisy_file, tmp_path):
    path = video_files.cut(noisy_file, tmp_path / noisy_file.name)
    if path.suffix == ".mp4":  # the table of frames stands at its end
        with pytest.raises(VideoError, match="not a video file FFmpeg can open"):
            read_video(path)
        return
    result = read_video(path, lambda n: [0, n - 1])
    assert 0 < result.decoded < COUNT
    assert f"ends after {result.decoded} of {COUNT} declared frame(s)" in result.damage
    assert result.indices.tolist() == [0, result.decoded - 1]


def test_frames_before_the_damage_are_right(clips):
    result = read_video(clips / "corrupted.mp4")
    assert len(result.frames) == 28
    assert "after 28 of 50 declared frame(s)" in result.damage
    with pytest.raises(VideoError, match="28 frame.s. decode before it"):
        read_video(clips / "corrupted.mp4", strict=True)
    # Damage after the last frame asked for isn't met.
    assert read_video(clips / "corrupted.mp4", [0, 27], strict=True).damage is None


def _text(path):
    path.write_text("hello\n" * 100)


def _empty(path):
    path.write_bytes(b"")


def _no_frame(path):
    video_files.write(path, video_files.noise(5))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (_text, "not a video file FFmpeg can open"),
        (_empty, r"is empty \(0 bytes\)"),
        (video_files.write_sound, r"no video stream \(streams: audio\)"),
        (_no_frame, "no frame can be decoded"),
    ],
    ids=["missing", "folder", "text", "empty", "sound", "no_frame"],
)
def test_unreadable_files(tmp_path, make, message):
    path = tmp_path / "bad.mp4"
    make(path)
    for reader in (read_video, probe):
        with pytest.raises(VideoError, match=message) as error:
            reader(path)
        assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, COUNT], f"index {COUNT} is outside the video, which decodes to {COUNT}"),
        ([-1], "index -1 is negative"),
        ([], "non-empty list of integers"),
        ([[0]], r"got shape \(1, 1\)"),
        ([0.5], "of float64"),
        (lambda count: [count], "outside the video"),
    ],
)
def test_wrong_indices(mp4, indices, message):
    with pytest.raises(VideoError, match=message):
        read_video(mp4, indices)


def test_limits_hold_before_allocating(folder, mp4, monkeypatch):
    with pytest.raises(VideoError, match="declares 60 frames, .* max_frames=59"):
        read_video(mp4, max_frames=59)
    with pytest.raises(VideoError, match="declares 60 frames"):
        read_video(mp4, lambda n: [0], max_frames=59)
    with pytest.raises(VideoError, match="index 59 is beyond max_frames=59"):
        read_video(mp4, [59], max_frames=59)
    frame = 16 * 64 * 3
    with pytest.raises(VideoError, match=f"{2 * frame} bytes.*max_bytes={frame}"):
        read_video(mp4, [0, 1], max_bytes=frame)
    assert len(read_video(mp4, [0], max_bytes=frame).frames) == 1
    with pytest.raises(VideoError, match="184320 bytes"):
        read_video(mp4, max_bytes=COUNT * frame - 1)
    with pytest.raises(ValueError, match="shorter_side must be at least 1"):
        read_video(mp4, [0], shorter_side=0)
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with pytest.raises(VideoError, match="frames of 64x16 pixels"):
        read_video(mp4)


def test_limit_on_frames_holds_where_the_header_lies(folder, mp4, monkeypatch):
    monkeypatch.setattr(video, "_declared", lambda *args: (5, 0))
    with pytest.raises(VideoError, match="holds more than max_frames=20"):
        read_video(mp4, max_frames=20)
    with pytest.raises(VideoError, match="11 frames of 64x16 take"):
        read_video(mp4, max_bytes=10 * 16 * 64 * 3)


def test_header_without_a_count(mp4, monkeypatch):
    monkeypatch.setattr(video, "_declared", lambda *args: (None, 0))
    result = read_video(mp4, lambda n: [n - 1], verify_count=False)
    assert video_files.numbers(result.frames) == [COUNT - 1]
    assert result.declared is None and result.passes == 2


def test_name_like_a_protocol(folder, mp4, monkeypatch):
    path = folder / "concat:a.mp4"
    path.write_bytes(mp4.read_bytes())
    monkeypatch.chdir(folder)
    assert read_video("concat:a.mp4", [0]).decoded == 1


def test_reading_does_not_load_tensorflow():
    code = (
        "import sys, zoo.datasets.video, zoo.datasets.sampling, zoo.datasets.augment\n"
        "import zoo.datasets.listing; zoo.datasets.read_video\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_unknown_name_of_the_package():
    import zoo.datasets

    with pytest.raises(AttributeError, match="no attribute 'read_vidoe'"):
        zoo.datasets.read_vidoe  # noqa: B018
    assert set(zoo.datasets.__all__) <= set(dir(zoo.datasets))
    for name in zoo.datasets.__all__:
        assert getattr(zoo.datasets, name).__name__ == name
