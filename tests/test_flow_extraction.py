"""Extraction of flow: what is stored, what is kept, what is refused."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import video_files
from tests.flow_cases import Broken, Standin, files_of, moving, write_videos
from zoo.datasets import Reader, VideoError, flow_source, read_video
from zoo.datasets.extraction import OpenCVMethod, Settings, check, extract
from zoo.datasets.extraction import finished as finishing
from zoo.datasets.extraction.manifest import Manifest
from zoo.datasets.extraction.progress import Progress
from zoo.datasets.extraction.sources import jobs_of
from zoo.datasets.flow import ComputedFlow, FlowFolder, to_codes, to_pixels
from zoo.files import WriteError, alone_in
from zoo.flow_methods import Batches, LayerMethod, find

DIS = OpenCVMethod("dis")
SMALL = Settings(DIS, shorter_side=48)


@pytest.fixture
def videos(tmp_path):
    return write_videos(tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "flow"


def run(videos, out, settings=SMALL, processes=1, **options):
    """(Summary, what was said)."""
    stream = io.StringIO()
    paths = videos if isinstance(videos, list) else [videos]
    done = extract(paths, out, settings, processes, stream=stream, **options)
    return done, stream.getvalue()


def manifest(out):
    lines = (out / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --- what is stored ------------------------------------------------------------------


def test_the_layout_is_the_thesis(videos, out):
    done, _ = run(videos, out)
    assert (done.extracted, done.there, done.fields) == (4, 0, 11 + 12 + 11 + 12)
    names = sorted(p.relative_to(out).as_posix() for p in out.glob("[uv]/*/*"))
    assert names[:4] == ["u/run/v0", "u/run/v1", "u/walk/v0", "u/walk/v1"]
    files = sorted(p.name for p in (out / "u/run/v0").iterdir())
    assert files == [f"frame{i:06d}.jpg" for i in range(1, 12)]
    assert set(os.listdir(out)) == {"u", "v", "manifest.jsonl", ".lock"}
    image = cv2.imread(str(out / "u/run/v0/frame000001.jpg"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (48, 64) and image.dtype == np.uint8  # grey


def test_stored_fields_are_the_computed_ones(videos, out):
    """But for the loss of JPEG, also through the reader of the pipeline."""
    run(videos, out, Settings(DIS, 48, quality=100))
    path = videos / "walk" / "v1.avi"
    frames = read_video(path).frames
    source, method = FlowFolder(out), ComputedFlow("dis")
    assert source.count(path) == len(frames) - 1
    pairs = zip(frames[:-1], frames[1:], strict=True)
    expected = np.stack([method.between(*pair) for pair in pairs])
    found = source.fields(path, range(len(expected)))
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert abs(np.median(to_pixels(found)[..., 0]) - 2) < 0.25
    clips = [
        Reader(("rgb", "flow"), s, shorter_side=48).read(path, np.arange)
        for s in (source, method)
    ]
    np.testing.assert_array_equal(clips[0]["rgb"], clips[1]["rgb"])
    np.testing.assert_allclose(clips[0]["flow"], clips[1]["flow"], atol=0.4)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((320, 240), 256, (340, 256)),  # UCF101
        ((240, 320), 256, (256, 340)),
        ((426, 240), 256, (454, 256)),
        ((1920, 1080), 256, (454, 256)),
        ((33, 49), None, (33, 49)),
        ((50, 50), 16, (16, 16)),
    ],
)
def test_sizes_are_the_released_extractors(size, side, expected):
    assert Settings(DIS, side).size(*size) == expected


def test_a_size_of_its_own_and_the_videos(tmp_path, out):
    path = video_files.write(tmp_path / "v.avi", moving(3, 40, 56), "mpeg4")
    for side, shape in ((64, (64, 88)), (None, (40, 56))):
        run(path, out / str(side), Settings(Standin(), side))
        fields = FlowFolder(out / str(side)).fields(path, [0, 1])
        assert fields.shape == (2, *shape, 2)
        np.testing.assert_array_equal(fields[0, 0, 0], to_codes([1.0, -2.0]))


def test_quality_changes_the_bytes(videos, out):
    for quality in (50, 95):
        run(videos, out / str(quality), Settings(DIS, 48, quality))
    sizes = [sum(map(len, files_of(out / q / "u").values())) for q in ("50", "95")]
    assert sizes[0] < sizes[1]
    assert Settings(DIS).quality == 95 and Settings(DIS).shorter_side == 256


def test_larger_stored_flow_is_read_as_if_computed_small(tmp_path, out):
    """Twice the size, twice the displacement; the reader takes both back."""
    path = video_files.write(tmp_path / "v.avi", moving(12), "mpeg4")
    run(path, out, Settings(Standin(u=4.0, v=-6.0), 96, quality=100))
    source = FlowFolder(out)
    clip = Reader(("rgb", "flow"), source, shorter_side=48).read(path, np.arange)
    assert clip["rgb"].shape[1:3] == clip["flow"].shape[1:3] == (48, 64)
    np.testing.assert_allclose(clip["flow"][..., ::2], 2.0, atol=0.1)
    np.testing.assert_allclose(clip["flow"][..., 1::2], -3.0, atol=0.1)
    np.testing.assert_array_equal(clip["rgb"], read_video(path).frames[5:7])
    whole = Reader(("flow",), source).read(path, np.arange)["flow"]
    assert whole.shape[1:3] == (96, 128) and abs(whole[..., 0].mean() - 4) < 0.1


def test_the_manifest_tells_everything(videos, out):
    run(videos, out)
    entry = manifest(out)[1]
    path = videos / "run" / "v1.avi"
    stat = path.stat()
    assert entry["source"]["path"] == str(path)
    assert entry["source"]["bytes"] == stat.st_size
    assert entry["source"]["mtime_ns"] == stat.st_mtime_ns
    assert entry["settings"] == {
        "method": "dis", "parameters": {"preset": "medium"}, "bound": 20.0,
        "shorter_side": 48, "quality": 95, "format": "jpeg",
    }  # fmt: skip
    kept = {k: entry[k] for k in ("video", "verdict", "frames", "fields", "width")}
    assert kept == {
        "video": "run/v1", "verdict": "ok", "frames": 13, "fields": 12, "width": 64,
    }  # fmt: skip
    assert len(entry["sha256"]) == 64


# --- going on ------------------------------------------------------------------------


def test_a_second_run_computes_nothing(videos, out):
    run(videos, out)
    before = files_of(out)
    (videos / "run" / "v0.avi").touch()  # another date, the same contents
    done, _ = run(videos, out)
    assert (done.extracted, done.there, done.fields) == (0, 4, 0)
    assert files_of(out) == before


def test_what_changed_is_named_and_done_again_if_asked(videos, out):
    run(videos, out)
    before = files_of(out)
    video_files.write(videos / "run" / "v0.avi", moving(9, seed=77), "mpeg4")
    with pytest.raises(ValueError, match=r"run/v0: .*v0.avi has changed since .*\nG"):
        run(videos, out)
    assert files_of(out) == before
    done, _ = run(videos, out, overwrite=True)
    assert (done.extracted, done.there) == (1, 3)
    assert FlowFolder(out).count(videos / "run" / "v0.avi") == 8
    assert not check(out).problems


def test_other_settings_are_refused(videos, out):
    run(videos, out)
    with pytest.raises(ValueError, match="walk/v0: quality was 95 and is now 90"):
        run(videos, out, Settings(DIS, 48, 90))
    with pytest.raises(ValueError, match="as walk/v0, by .* method was 'dis' and is"):
        run(videos / "run", out, Settings(Standin(), 48))
    with pytest.raises(ValueError, match="flow of 2 video.*such as walk/v0, by"):
        run(videos / "run", out, Settings(DIS, 48, 90), overwrite=True)
    done, _ = run(videos, out, Settings(DIS, 48, 90), overwrite=True)
    assert done.extracted == 4 and not check(out).problems
    assert [entry["settings"]["quality"] for entry in manifest(out)] == [90] * 4
    with pytest.raises(ValueError, match="format was 'jpeg' and is now 'tfrecord'"):
        run(videos, out, Settings(DIS, 48, format="tfrecord"), overwrite=True)


def test_a_record_cut_by_a_power_failure_is_done_again(videos, out):
    finished = out / finishing.FINISHED / "cut"
    finished.mkdir(parents=True)
    (finished / "entry.json").write_text("")
    done, _ = run(videos, out)
    assert done.extracted == 4 and not finished.exists()


def test_what_is_missing_is_extracted_again(videos, out):
    run(videos, out)
    before = files_of(out)
    (out / "v" / "walk" / "v1" / "frame000003.jpg").unlink()
    assert "walk/v1: 12 fields of u and 11 of v" in check(out).problems[0]
    done, _ = run(videos, out)
    assert done.extracted == 1 and files_of(out) == before


def test_flow_from_elsewhere_is_not_replaced(videos, out):
    foreign = out / "u" / "run" / "v0"
    foreign.mkdir(parents=True)
    (foreign / "frame000001.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="run/v0 was not written by zoo flow"):
        run(videos, out)
    assert (foreign / "frame000001.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("form", "step"),
    [
        ("jpeg", "os.rename"),
        ("jpeg", "Manifest.append"),
        ("jpeg", "Manifest.tidy"),
        ("jpeg", "shutil.rmtree"),
        ("tfrecord", "os.rename"),
        ("tfrecord", "os.replace"),
        ("tfrecord", "Manifest.tidy"),
        ("tfrecord", "shutil.rmtree"),
    ],
)
def test_a_kill_between_any_two_steps_loses_nothing(
    videos, out, tmp_path, monkeypatch, form, step
):
    """Everything after the step is left undone, then the run is started again."""
    log = tmp_path / "log"
    settings = Settings(Standin(log=str(log)), 48, format=form, shards=2)
    owner, name = step.split(".")
    owner = {"os": os, "shutil": finishing.shutil, "Manifest": Manifest}[owner]
    real, calls = getattr(owner, name), []

    class Killed(BaseException):
        pass

    def dies(*arguments, **options):
        calls.append(arguments)
        if len(calls) >= (2 if step == "os.replace" else 3):
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, dies)
        run(videos, out, settings)
        run(videos, out, settings)  # for a step that comes but once in a run
        run(videos, out, settings)
    run(videos, out, settings)
    assert not check(out).problems
    computed = sum(map(int, log.read_text().split()))
    # The one video that a rename didn't finish is computed again, no other.
    assert computed <= 46 + 12
    run(videos, tmp_path / "whole", settings)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_line_that_a_kill_cut_short_is_dropped(videos, out):
    run(videos, out)
    before = files_of(out)
    path = out / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    done, _ = run(videos, out, overwrite=True)
    assert done.extracted == 1 and files_of(out) == before
    path.write_bytes(b"{}\n" + lines[0])
    with pytest.raises(ValueError, match="manifest.jsonl, line 1: not an entry"):
        run(videos, out)


def test_two_at_once(videos, out):
    out.mkdir()
    with alone_in(out), pytest.raises(WriteError, match=f"process .{os.getpid()}."):
        run(videos, out)
    assert run(videos, out)[0].extracted == 4


# --- many processes ------------------------------------------------------------------


def test_processes_change_nothing(videos, out):
    run(videos, out / "one")
    done, _ = run(videos, out / "two", processes=2)
    assert done.extracted == 4 and done.fields == 46
    assert files_of(out / "one") == files_of(out / "two")


def test_a_process_that_dies_costs_one_video(videos, out, tmp_path):
    grey = np.full((12, 48, 64, 3), 250, np.uint8)
    video_files.write(videos / "run" / "a.avi", grey, "rawvideo")
    done, said = run(videos, out, Settings(Standin(fatal=250), 48), processes=2)
    assert done.extracted == 4 and [name for name, _ in done.failed] == ["run/a"]
    assert "run/a.avi: the process that extracted it died (signal 9)" in said
    entry = manifest(out)[0]
    assert entry["verdict"] == "failed" and "signal 9" in entry["reason"]
    assert not check(out).problems and check(out).failed == 1
    assert run(videos, out, Settings(Standin(), 48))[0].extracted == 1


def test_a_method_that_cannot_start(videos, out):
    with pytest.raises(OSError, match="standin cannot start: ValueError: no such dev"):
        run(videos, out, Settings(Broken()), processes=2)
    with pytest.raises(ValueError, match="no such device"):
        run(videos, out, Settings(Broken()))


# --- bad input -----------------------------------------------------------------------


def write_two_sizes(path):
    """A raw H.264 stream whose picture becomes smaller."""
    parts = []
    for i, size in enumerate(((48, 64), (32, 48))):
        part = path.with_name(f"{i}.h264")
        video_files.write(part, moving(4, *size), "libx264")
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))


def test_bad_videos_are_named_and_the_others_kept(videos, out):
    bad = videos / "bad"
    bad.mkdir()
    video_files.write(bad / "one.avi", moving(1), "mpeg4")
    (bad / "text.mp4").write_text("no video")
    sound = video_files.write(
        bad / "whole.mkv", video_files.noise(40), "mpeg4", 0, {"qscale": "2"}
    )
    video_files.cut(sound, bad / "cut.mkv", 0.5)
    sound.unlink()
    write_two_sizes(bad / "sizes.mpg")
    done, said = run(videos, out)
    assert done.extracted == 4 and check(out).videos == 4
    reasons = dict(done.failed)
    assert sorted(reasons) == ["bad/cut", "bad/one", "bad/sizes", "bad/text"]
    assert "at least 2 frames, the video has 1" in reasons["bad/one"]
    assert "not a video file" in reasons["bad/text"]
    assert "damaged" in reasons["bad/cut"]
    assert "frame 4 is 48x32, those before it 64x48" in reasons["bad/sizes"]
    assert all(reason in said and "bad/" in reason for reason in reasons.values())
    assert "8/8 videos" not in said  # no line of progress within ten seconds
    # Failed ones are tried again, and are no failures any more once they are sound.
    video_files.write(bad / "one.avi", moving(2), "mpeg4")
    done, _ = run(videos, out)
    assert (done.extracted, done.there, len(done.failed)) == (1, 4, 3)


def test_flow_of_a_video_that_fails_now_is_removed(videos, out):
    run(videos, out)
    path = videos / "run" / "v0.avi"
    path.write_text("no video")
    done, _ = run(videos, out, overwrite=True)
    assert [name for name, _ in done.failed] == ["run/v0"]
    with pytest.raises(VideoError, match="no flow in"):
        flow_source(out).count(path)
    assert not check(out).problems


def test_a_full_disk_keeps_what_is_finished(videos, out, monkeypatch):
    write, written = Path.write_bytes, []

    def full(path, data):
        written.append(path)
        if len(written) > 2 * 11 + 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(WriteError, match="the disk is full .* MiB free") as error:
            run(videos, out)
    assert error.value.errno == errno.ENOSPC
    assert [e["video"] for e in manifest(out)] == ["run/v0"] and not check(out).problems
    assert not list(out.glob(".writing-*"))
    done, _ = run(videos, out)
    assert (done.extracted, done.there) == (3, 1)


def test_a_disk_that_is_full_for_one_process_ends_all(videos, out):
    with pytest.raises(WriteError, match="the disk is full .* MiB free") as error:
        run(videos, out, Settings(Standin(full=True)), processes=2)
    assert error.value.errno == errno.ENOSPC
    assert not list(out.glob(".writing-*"))


def test_a_folder_that_cannot_be_made(videos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="Could not write .*file"):
        run(videos, tmp_path / "file")


def test_what_stands_for_videos(videos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("videos/run/v0.avi running\nvideos/walk/v1.avi walking\n")
    assert [job.name for job in jobs_of([listed])] == ["run/v0", "walk/v1"]
    both = [videos / "run", videos / "run" / "v0.avi", listed]
    assert [job.name for job in jobs_of(both)] == ["run/v0", "run/v1", "walk/v1"]
    shutil.copytree(videos / "run", tmp_path / "more" / "run")
    with pytest.raises(VideoError, match="videos/run/v0.avi and .*more/run/v0.avi wou"):
        jobs_of([videos, tmp_path / "more"])
    (videos / "run" / "v0.mp4").write_text("")
    with pytest.raises(VideoError, match="v0.avi and .*v0.mp4 would both be stored as"):
        jobs_of([videos])
    with pytest.raises(VideoError, match="nothing: no such file or folder"):
        jobs_of([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="no videos in .*empty; accepted are video fi"):
        jobs_of([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shorter_side": 31}, "even number of pixels, at least 2, got 31"),
        ({"quality": 0}, "quality must be between 1 and 100, got 0"),
        ({"format": "png"}, "'png'; accepted are jpeg, tfrecord"),
        ({"shards": 0}, "shards must be between 1 and 99999, got 0"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(DIS, **options)
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        extract([], "", SMALL, 0)


# --- TFRecords -----------------------------------------------------------------------


def records(shards=2):
    return Settings(DIS, 48, format="tfrecord", shards=shards)


def test_records_hold_what_the_folder_does(videos, out):
    run(videos, out / "files")
    run(videos, out / "records", records(), processes=2)
    names = set(os.listdir(out / "records"))
    assert names <= {f"flow-0000{i}-of-00002.tfrecord" for i in (0, 1)} | {
        "manifest.jsonl",
        ".lock",
    }
    stored, source = (flow_source(out / kind) for kind in ("files", "records"))
    assert type(source).__name__ == "FlowRecords" and source.name == stored.name
    for path in videos.rglob("*.avi"):
        assert source.count(path) == stored.count(path)
        for indices in ([0], [7, 2, 2], range(11)):
            np.testing.assert_array_equal(
                source.fields(path, indices), stored.fields(path, indices)
            )
    hashes = [[e["sha256"] for e in manifest(out / k)] for k in ("files", "records")]
    assert hashes[0] == hashes[1] and not check(out / "records").problems


def test_records_come_in_more_than_one_run(videos, out):
    run(videos / "run", out / "parts", records())
    done, _ = run(videos / "walk" / "v0.avi", out / "parts", records())
    assert done.extracted == 1
    run(videos, out / "parts", records())
    run(videos, out / "whole", records())
    assert files_of(out / "parts") == files_of(out / "whole")
    # A video that fails when it is done again leaves its shard with the next merge.
    (videos / "run" / "v0.avi").write_text("no video")
    run(videos, out / "parts", records(), overwrite=True)
    video_files.write(videos / "walk" / "v0.avi", moving(5), "mpeg4")
    video_files.write(videos / "run" / "v1.avi", moving(5), "mpeg4")
    run(videos, out / "parts", records(), overwrite=True)
    source = flow_source(out / "parts")
    assert source.count(videos / "run" / "v1.avi") == 4
    with pytest.raises(VideoError, match="neither run/v0 nor v0 is in its manifest"):
        source.count(videos / "run" / "v0.avi")
    assert not check(out / "parts").problems


def test_what_a_reader_of_records_refuses(videos, out):
    run(videos, out, records(1))
    source, path = flow_source(out), videos / "run" / "v0.avi"
    shard = out / "flow-00000-of-00001.tfrecord"
    with pytest.raises(VideoError, match="holds fields 0...10 of it, asked .* 3...11"):
        source.fields(path, [3, 11])
    with pytest.raises(VideoError, match="neither x/y nor y is in its manifest"):
        source.count("/a/x/y.avi")
    data = shard.read_bytes()
    shard.write_bytes(data[:-50])
    assert "no record of optical flow at byte" in check(out).problems[0]
    shard.write_bytes(data.replace(b"run/v0", b"run/v9"))
    with pytest.raises(VideoError, match="holds another video where manifest"):
        source.fields(path, [0])
    shard.unlink()
    with pytest.raises(VideoError, match="flow-00000-of-00001.tfrecord is missing"):
        source.fields(path, [0])
    shard.write_bytes(data)
    (out / "manifest.jsonl").unlink()
    with pytest.raises(ValueError, match="lists no video in a shard"):
        flow_source(out)


# --- the check, progress, methods ----------------------------------------------------


def test_the_check_sees_what_changed(videos, out):
    with pytest.raises(ValueError, match="no manifest.jsonl"):
        check(out)
    run(videos, out)
    path = out / "u" / "run" / "v0" / "frame000002.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    shutil.copytree(out / "u" / "run" / "v1", out / "u" / "v1")
    report = check(out)
    assert (report.videos, report.fields, report.failed) == (4, 46, 0)
    assert report.problems == (
        "run/v0: its files have changed since they were written",
        "u/v1: not in the manifest",
    )


def test_progress_says_how_long(capsys):
    now = [0.0]
    stream = io.StringIO()
    progress = Progress({"a": 100, "b": 300}, stream, clock=lambda: now[0])
    progress.tick(50)
    now[0] = 5.0
    progress.done("a", False)
    assert stream.getvalue() == ""
    now[0] = 10.0
    progress.tick(50)
    assert stream.getvalue() == "zoo flow: 1/2 videos, 10.0 fields/s, 30 s left\n"
    now[0] = 3700.0
    progress.done("b", True)
    assert stream.getvalue().endswith("zoo flow: 2/2 videos, 1 failed, 0.0 fields/s\n")
    stream.isatty = lambda: True
    progress = Progress({"a": 1, "b": 1}, stream, clock=lambda: now[0])
    now[0] += 1
    progress.tick(5)
    assert stream.getvalue().endswith(
        "\r[....................] 0/2 videos, 5.0 fields/s\x1b[K"
    )
    now[0] += 1
    progress.done("b", False)
    assert stream.getvalue().endswith(
        "\r[##########..........] 1/2 videos, 2.5 fields/s, 2 s left\x1b[K"
    )


def test_a_layer_in_batches():
    """Any layer of two frames; short batches are filled up, the filling cut off."""
    import keras

    class Difference(keras.layers.Layer):
        def call(self, frames):
            first, second = (keras.ops.cast(x, "float32") for x in frames)
            return (second - first)[..., :2]

    flow = Batches(Difference(), 4)
    frames = moving(6, 24, 32)
    for count in (4, 3, 1):
        found = flow.between(frames[:count], frames[1 : count + 1])
        expected = frames[1 : count + 1].astype("float32") - frames[:count]
        np.testing.assert_array_equal(found, expected[..., :2])


def test_methods_by_name():
    assert find("dis") == DIS and find("layer", "fast") == LayerMethod("fast")
    with pytest.raises(
        ValueError, match="'brox'; accepted are tvl1, dis, farneback, l"
    ):
        find("brox")
    with pytest.raises(ValueError, match="'slow'; accepted are default, fast"):
        find("layer", "slow")
    with pytest.raises(ValueError, match="--preset is for --method layer; got --meth"):
        find("dis", "fast")


def test_the_layer(videos, out):
    """zoo.layers.TVL1Flow finds the motion of 2 pixels to the right."""
    done, said = run(videos / "run", out, Settings(LayerMethod("fast"), 48))
    assert done.extracted == 2 and not done.failed, said
    found = to_pixels(FlowFolder(out).fields(videos / "run" / "v0.avi", range(11)))
    assert abs(np.median(found[..., 0]) - 2) < 0.5
    assert abs(np.median(found[..., 1])) < 0.5


def test_real_clips(clips, out):
    """Every clip but the broken one; the rotated one stands upright."""
    names = ("v_ApplyEyeMakeup_g01_c01.avi", "corrupted.mp4", "video_90.mov")
    settings = Settings(DIS, 64)
    done, _ = run([clips / name for name in names], out, settings, processes=2)
    assert done.extracted == 2 and len(done.failed) == 1
    assert "corrupted.mp4: damaged: " in done.failed[0][1]
    sizes = {e["video"].split("/")[1]: e.get("height") for e in manifest(out)}
    assert sizes["video_90"] > 64 and sizes["v_ApplyEyeMakeup_g01_c01"] == 64
