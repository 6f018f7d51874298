"""The extraction of flow with Apache Beam, which `make beam` runs."""

import importlib.util
import io
import os

import cv2
import pytest

from tests import flow_cases, video_files
from zoo.datasets.extraction import OpenCVMethod, Settings, check, extract

SETTINGS = Settings(OpenCVMethod("dis"), shorter_side=48)
OPTIONS = {"runner": "DirectRunner"}


@pytest.fixture
def flow_beam():
    """The module, which can't be imported where there's no Apache Beam."""
    reason = "no Apache Beam, which holds protobuf back: make beam"
    pytest.importorskip("apache_beam", reason=reason)
    from zoo.datasets.extraction import beam

    return beam


@pytest.fixture
def videos(tmp_path):
    """Five videos, of which one is none."""
    root = flow_cases.write_videos(tmp_path / "videos")
    (root / "run" / "bad.mp4").write_text("no video")
    return root


def test_the_output_is_the_pools(flow_beam, videos, tmp_path):
    """File by file, the manifest too; and the pool goes on where Beam ended."""
    threads = cv2.getNumThreads()
    done, failed = flow_beam.run([videos], tmp_path / "beam", SETTINGS, **OPTIONS)
    cv2.setNumThreads(threads)
    pool = extract([videos], tmp_path / "pool", SETTINGS, 2, stream=io.StringIO())
    assert (done, failed) == (4, pool.failed)
    assert "bad.mp4: not a video file" in failed[0][1]
    assert flow_cases.files_of(tmp_path / "beam") == flow_cases.files_of(
        tmp_path / "pool"
    )
    assert set(os.listdir(tmp_path / "beam")) == {"u", "v", "manifest.jsonl", ".lock"}
    assert not check(tmp_path / "beam").problems
    video_files.write(videos / "run" / "bad.mp4", flow_cases.moving(3), "mpeg4")
    more = extract([videos], tmp_path / "beam", SETTINGS, 1)
    assert (more.extracted, more.there) == (1, 4)


def test_a_second_run_computes_nothing(flow_beam, videos, tmp_path):
    (videos / "run" / "bad.mp4").unlink()
    extract([videos], tmp_path / "flow", SETTINGS, 1)
    before = flow_cases.files_of(tmp_path / "flow")
    assert flow_beam.run([videos], tmp_path / "flow", SETTINGS, **OPTIONS) == (0, ())
    assert flow_cases.files_of(tmp_path / "flow") == before
    with pytest.raises(ValueError, match="holds other flow than this command"):
        flow_beam.run([videos], tmp_path / "flow", Settings(OpenCVMethod("farneback")))


def test_camera_motion_is_removed_and_counted_as_by_the_pool(
    flow_beam, videos, tmp_path
):
    (videos / "run" / "bad.mp4").unlink()
    settings = Settings(OpenCVMethod("dis", camera_motion=True), 48)
    assert flow_beam.run([videos], tmp_path / "beam", settings, **OPTIONS) == (4, ())
    pool = extract([videos], tmp_path / "pool", settings, 2, stream=io.StringIO())
    assert pool.plain is not None
    assert flow_cases.files_of(tmp_path / "beam") == flow_cases.files_of(
        tmp_path / "pool"
    )


def test_without_beam_the_module_says_what_to_install():
    if importlib.util.find_spec("apache_beam"):
        pytest.skip("Apache Beam is here")
    with pytest.raises(ImportError, match=r"pip install 'spacetime-zoo\[beam\]'"):
        importlib.import_module("zoo.datasets.extraction.beam")
