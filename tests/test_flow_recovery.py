"""Extraction of flow that goes on after something has broken."""

import io
from pathlib import Path

import numpy as np
import pytest

from tests.flow_cases import DiesAtStart, Standin, files_of, write_videos
from zoo.datasets import VideoError, flow, flow_source
from zoo.datasets.extraction import Settings, check, extract
from zoo.datasets.extraction.finished import finished
from zoo.datasets.extraction.manifest import Manifest
from zoo.datasets.extraction.one_video import attempt, failure, keep_failure
from zoo.datasets.extraction.sources import jobs_of
from zoo.flow_methods import LayerMethod
from zoo.layers import flow_stack
from zoo.layers.tv_l1 import PRESETS

RECORDS = Settings(Standin(), None, format="tfrecord", shards=1)
SHARD = "flow-00000-of-00001.tfrecord"


@pytest.fixture
def videos(tmp_path):
    return write_videos(tmp_path / "videos", count=3, height=16, width=24)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "flow"


def run(videos, out, settings=RECORDS, processes=1):
    """(Summary, what was said)."""
    stream = io.StringIO()
    done = extract([videos], out, settings, processes, stream=stream)
    return done, stream.getvalue()


# --- shards --------------------------------------------------------------------------


def test_the_check_sees_records_that_no_entry_names(videos, out):
    run(videos, out)
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[1:]))
    assert check(out).problems == (f"{SHARD}: run/v0 is not in the manifest",)
    (out / SHARD).rename(out / "flow-00000-of-00007.tfrecord")
    problems = check(out).problems
    assert sum("is missing; run zoo flow again" in text for text in problems) == 3
    assert sum("00007.tfrecord: " in text for text in problems) == 4
    (out / "flow-00000-of-00007.tfrecord").write_bytes(b"junk")
    assert (
        "00007.tfrecord: no record of optical flow at byte 0" in check(out).problems[3]
    )


def test_what_has_failed_is_no_stranger(videos, out):
    run(videos, out)
    (videos / "run" / "v0.avi").write_text("no video")
    extract([videos], out, RECORDS, 1, overwrite=True, stream=io.StringIO())
    assert check(out).failed == 1 and not check(out).problems


def test_files_left_of_videos_in_records_are_strangers(videos, out):
    run(videos, out)
    (out / "u" / "run" / "v0").mkdir(parents=True)
    (out / "u" / "run" / "v0" / "frame000001.jpg").write_bytes(b"")
    assert check(out).problems == ("u/run/v0: not in the manifest",)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_the_advice_on_a_broken_shard_helps(videos, out, damage):
    run(videos, out)
    before, data = files_of(out), (out / SHARD).read_bytes()
    if damage == "cut":
        (out / SHARD).write_bytes(data[:-9])
    else:  # the first record's name, the size stays
        (out / SHARD).write_bytes(data.replace(b"run/v0", b"run/v7"))
    advice = "remove this file and run the same zoo flow again"
    assert any(advice in text for text in check(out).problems)
    if damage == "cut":
        with pytest.raises(VideoError, match=f"{SHARD}: no record .*{advice}"):
            run(videos, out)
    (out / SHARD).unlink()
    run(videos, out)
    assert files_of(out) == before and not check(out).problems


def test_entries_of_a_removed_shard_go_with_it(videos, out):
    """Their places would be those of other records."""
    run(videos, out)
    before = files_of(out)
    (out / SHARD).unlink()
    done, _ = run(videos / "walk", out)
    assert done.extracted == 2
    assert sorted(Manifest(out).entries) == ["walk/v0", "walk/v1"]
    assert not check(out).problems
    assert flow_source(out).count(videos / "walk" / "v1.avi") == 3
    done, _ = run(videos, out)
    assert (done.extracted, done.there) == (2, 2) and files_of(out) == before


# --- a second attempt, as Beam makes -------------------------------------------------


def test_a_video_that_succeeds_at_last_is_no_failure(videos, out):
    out.mkdir()
    job = jobs_of([videos])[0]
    keep_failure(out, failure(job, RECORDS, "out of memory"))
    assert [e["verdict"] for _, e in finished(out)] == ["failed"]
    entry = attempt(job, RECORDS, Standin(), out)
    assert entry["verdict"] == "ok"
    ((folder, stored),) = finished(out)
    assert stored == entry and len(list((folder / "u").iterdir())) == entry["fields"]
    # And what is good stays, whatever comes after.
    keep_failure(out, failure(job, RECORDS, "out of memory"))
    again = attempt(job, RECORDS, Standin(u=9.0), out)
    assert again == entry and [e for _, e in finished(out)] == [entry]


# --- processes -----------------------------------------------------------------------


def test_a_process_that_dies_before_it_begins_costs_nothing(videos, out, tmp_path):
    settings = Settings(DiesAtStart(folder=str(tmp_path)), None)
    done, said = run(videos, out, settings, processes=2)
    assert done.extracted == 4 and not done.failed and not check(out).problems
    assert said.count("zoo: warning: a process that should extract flow ended") == 1
    assert "exit code 3 before it began" in said
    settings = Settings(DiesAtStart(folder=str(tmp_path), deaths=9), None)
    with pytest.raises(ChildProcessError, match="exit code 3 before it began; .* call"):
        run(videos, out / "none", settings, processes=2)
    assert not list(Path(out / "none").glob("[uv]"))


# --- what the manifest tells of the layer; numbers that rooms share -------------------


def test_the_manifest_has_the_numbers_of_a_preset():
    record = Settings(LayerMethod("fast", camera_motion=True)).record()
    assert record["parameters"] == {
        "preset": "fast",
        **PRESETS["fast"],
        "camera_motion": True,
    }


def test_stacks_are_the_same_in_the_graph_and_on_disk():
    for name in ("BEFORE", "FIELDS", "BOUND"):
        assert getattr(flow, name) == getattr(flow_stack, name)
    assert np.isclose(flow.to_codes([flow_stack.BOUND]), 255)
