"""`zoo flow` in processes of its own, and networks trained on what it stores."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.flow_cases import files_of, write_videos
from tests.test_command_line import run
from zoo.datasets import VideoList, flow_source
from zoo.datasets.extraction import check
from zoo.datasets.extraction.manifest import Manifest
from zoo.evaluation import evaluate
from zoo.training import Recipe, train
from zoo.weights import folder as model_folder

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments):
    """The arguments and options of a subprocess that runs `zoo flow`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "zoo", "flow", *map(str, arguments)]
    return words, {"env": environment, "text": True, "stderr": subprocess.PIPE}


def finish(*arguments):
    """(exit code, standard output, error output) of `zoo flow`."""
    words, options = command(*arguments)
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


def kill_when(words, options, condition):
    """Starts a command, kills it once the condition holds, waits for its children."""
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, start_new_session=True, **options
    )
    with process:
        while process.poll() is None and not condition():
            time.sleep(0.005)
        assert process.poll() is None, f"ended by itself: {process.stderr.read()}"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    deadline = time.monotonic() + 10
    while _is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(process.pid), "processes outlive the one that started them"


def _is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("form", ["jpeg", "tfrecord"])
def test_a_killed_run_goes_on_where_it_was(tmp_path, form):
    """Killed twice with kill -9; what was finished isn't touched again."""
    videos, out = write_videos(tmp_path / "videos", 4, 30), tmp_path / "flow"
    settings = ("--method", "dis", "--processes", 2, "--format", form)

    def finished():
        """Folders of finished videos, and records that are in their shards."""
        folders = [*out.glob("u/*/*"), *out.glob("v/*/*"), *out.glob(".finished/*")]
        return folders, len(folders) + len(Manifest(out).entries)

    def identities():
        """Of all files in them: a rename keeps these numbers, writing doesn't."""
        stats = (p.stat() for f in finished()[0] for p in f.rglob("*.jpg"))
        return {(stat.st_ino, stat.st_mtime_ns) for stat in stats}

    kept = set()
    for count in (1, 6):
        kill_when(
            *command(videos, "--out", out, *settings),
            lambda count=count: finished()[1] >= count,
        )
        if form == "jpeg":  # those of records go into a shard
            assert kept <= identities()
            kept = identities()
    code, printed, error = finish(videos, "--out", out, *settings)
    assert code == 0, error
    there = int(printed.split(" were there")[0].split()[-1])
    assert there >= 2 and printed.startswith(f"{8 - there} videos extracted"), printed
    if form == "jpeg":
        assert kept and kept <= identities()
    assert not check(out).problems and not list(out.glob(".writing-*"))
    finish(videos, "--out", tmp_path / "whole", *settings)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_the_command_from_its_flags_to_its_exit_codes(tmp_path, capsys):
    videos, out = write_videos(tmp_path / "videos"), str(tmp_path / "flow")
    (videos / "run" / "bad.mp4").write_text("no video")
    arguments = ("flow", str(videos), "--out", out, "--method", "dis", "--size", "48")
    code, printed, error = run(capsys, *arguments, "--processes", "1")
    assert code == 1 and "4 videos extracted, 0 were there, 1 failed" in printed
    assert "zoo: 1 videos failed:\nzoo:   run/bad: " in error
    (videos / "run" / "bad.mp4").unlink()
    code, printed, _ = run(capsys, *arguments)
    assert code == 0 and "0 videos extracted, 4 were there, 0 failed" in printed
    code, printed, _ = run(capsys, "flow", "--check", out)
    assert code == 0 and printed == (
        "4 videos, 46 fields, 1 videos had failed, 0 problems\n"
    )
    (tmp_path / "flow/u/run/v0/frame000001.jpg").unlink()
    code, printed, error = run(capsys, "flow", "--check", out)
    assert code == 1 and "run/v0: 10 fields of u and 11 of v" in error
    for words, message in (
        (("flow",), "zoo flow needs videos"),
        (("flow", str(videos)), "This command needs --out"),
        (("flow", str(videos), "--out", out, "--method", "brox"), "'brox'; accepted"),
        ((*arguments, "--quality", "80"), "quality was 95 and is now 80"),
    ):
        code, _, error = run(capsys, *words)
        assert code == 2 and message in error and error.startswith("zoo: error: ")


@pytest.mark.slow
def test_a_network_learns_the_same_from_stored_and_computed_flow(tmp_path, capsys):
    """From a folder and from TFRecords to the last bit, from --flow dis nearly."""
    videos = tmp_path / "videos"
    for c, step in (("left", -2), ("right", 2)):
        moved = write_videos(tmp_path / c, 3, 14, height=64, step=step)
        (moved / "run").rename(moved / c)
        videos.mkdir(exist_ok=True)
        (moved / c).rename(videos / c)
    for form in ("jpeg", "tfrecord"):
        code, _, error = run(
            capsys, "flow", str(videos), "--out", str(tmp_path / form), "--size", "64",
            "--method", "dis", "--quality", "100", "--format", form,
        )  # fmt: skip
        assert code == 0, error
    recipe = Recipe(
        "motion_resnet26_tiny", frames=1, test_frames=1, stride=(1, 1), size=64,
        shorter_side=64, jitter=0.0, flip=False, batch_size=2, epochs=3,
        learning_rate=1e-2,
    )  # fmt: skip
    listed = VideoList.from_folder(videos)
    sources = {"dis": flow_source("dis")}
    sources |= {name: flow_source(tmp_path / name) for name in ("jpeg", "tfrecord")}
    losses, scores = {}, {}
    for name, source in sources.items():
        done = train(recipe, listed, tmp_path / f"{name}-run", flow=source, verbose=0)
        losses[name] = done.history["loss"]
    # Later updates amplify the loss of JPEG, so all see what one network says of them.
    model, _ = model_folder.load(tmp_path / "jpeg-run" / "last")
    for name, source in sources.items():
        results = evaluate(model, listed, 1, 64, flip=False, flow=source)
        scores[name] = results.scores
    np.testing.assert_array_equal(losses["jpeg"], losses["tfrecord"])
    np.testing.assert_array_equal(scores["jpeg"], scores["tfrecord"])
    np.testing.assert_allclose(losses["jpeg"][:2], losses["dis"][:2], rtol=0.02)
    spread = np.ptp(scores["dis"])
    np.testing.assert_allclose(scores["jpeg"], scores["dis"], atol=0.02 * spread)
    np.testing.assert_array_equal(scores["jpeg"].argmax(1), scores["dis"].argmax(1))
