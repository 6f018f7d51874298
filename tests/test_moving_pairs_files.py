"""Moving pairs as files: videos and flow that belong together, whole or written anew.

What the manifest does in general is tested with the dynamic scenes, test_synthetic.py.
"""

import json
import os
import shutil

import av
import numpy as np
import pytest

from zoo.datasets import FlowFolder, Reader, VideoList, synthetic
from zoo.datasets.flow import to_codes, to_pixels
from zoo.datasets.generated import seed_of
from zoo.datasets.moving_pairs import CLASSES, render_pair
from zoo.datasets.synthetic import write_dynamic_scenes, write_moving_pairs

SMALL = {"videos_per_class": 2, "size": (32, 48), "frames": 3}
NAME = "a_right_b_left/a_right_b_left_c01"
# Rounding to 8 bits, half of a code, and JPEG of quality 100, one code.
CODE = 40 / 255
ROUNDING, STORED = CODE / 2, 1.5 * CODE


def decode(path):
    """All frames of a video file, by PyAV alone."""
    with av.open(str(path)) as container:
        return np.stack(
            [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        )


def tree(root):
    """Relative path -> contents of all files under a folder."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def times(root):
    """Relative path -> time of the last change, the manifest left out."""
    return {name: (root / name).stat().st_mtime_ns for name in tree(root)} | {
        "synthetic.json": 0
    }


def rendered(class_name, number, seed, size, frames):
    return render_pair(class_name, seed_of(seed, class_name, number), size, frames)


class Interrupted(Exception):
    """Stands for a kill in the middle of writing."""


# --- what is in the folder -----------------------------------------------------------


def test_layout(tmp_path):
    root = write_moving_pairs(tmp_path / "set", **SMALL, seed=4)
    expected = {"synthetic.json"}
    for class_name in CLASSES:
        for number in ("c01", "c02"):
            name = f"{class_name}/{class_name}_{number}"
            expected.add(f"videos/{name}.mp4")
            for file in ("frame000001.jpg", "frame000002.jpg"):
                expected |= {f"flow/u/{name}/{file}", f"flow/v/{name}/{file}"}
    assert set(tree(root)) == expected
    manifest = json.loads((root / "synthetic.json").read_text())
    assert manifest["parameters"]["set"] == "moving pairs"
    assert manifest["parameters"]["seed"] == 4
    assert set(manifest["files"]) == {n for n in expected if n.endswith(".mp4")}


def test_the_default_is_read_as_a_list_of_two_classes(tmp_path):
    root = write_moving_pairs(tmp_path, 1)
    videos = VideoList.from_folder(root / "videos")
    assert videos.class_names == CLASSES
    assert videos.labels == (0, 1)
    flow = FlowFolder(root / "flow")
    for path in videos.paths:
        assert decode(path).shape == (24, 64, 64, 3)
        assert flow.count(path) == 23


def test_videos_and_flow_are_those_rendered(tmp_path):
    """JPEG and rounding together move no displacement by more than 0.24 pixels."""
    root = write_moving_pairs(tmp_path, 5, frames=6, seed=3)
    flow, errors = FlowFolder(root / "flow"), []
    videos = VideoList.from_folder(root / "videos")
    for position, path in enumerate(videos.paths):
        label, number = videos.labels[position], position % 5 + 1
        frames, fields = rendered(CLASSES[label], number, 3, (64, 64), 6)
        # The chroma is subsampled, the luma is not: compare what is left of the luma.
        luma = [0.299, 0.587, 0.114]
        assert np.abs(decode(path) @ luma - frames @ luma).mean() < 2.5
        stored = flow.fields(path, range(5))
        errors.append(np.abs(to_pixels(stored) - fields).max())
        rounding = np.abs(to_pixels(to_codes(fields)) - fields).max()
        assert rounding < ROUNDING + 1e-5
        assert np.abs(stored.astype(int) - to_codes(fields)).max() <= 1
    assert CODE / 2 < max(errors) < STORED + 1e-5


def test_coarser_jpegs_would_miss_that_by_far(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "JPEG_QUALITY", 90)
    root = write_moving_pairs(tmp_path, 1, frames=6)
    path = root / f"videos/{NAME}.mp4"
    _, fields = rendered("a_right_b_left", 1, 0, (64, 64), 6)
    stored = to_pixels(FlowFolder(root / "flow").fields(path, range(5)))
    assert np.abs(stored - fields).max() > 3 * STORED


def test_the_pipeline_reads_a_frame_with_the_field_that_leaves_it(tmp_path):
    """The sixth field of a stack starts at its frame, and moves its discs."""
    root = write_moving_pairs(tmp_path, 1, frames=14)
    path = str(root / f"videos/{NAME}.mp4")
    reader = Reader(("rgb", "flow"), FlowFolder(root / "flow"))
    clip = reader.read(path, lambda count: np.arange(count))
    frames, fields = rendered("a_right_b_left", 1, 0, (64, 64), 14)
    assert clip["rgb"].shape == (4, 64, 64, 3)
    assert clip["flow"].shape == (4, 64, 64, 20)
    for position, time in enumerate(range(5, 9)):
        u = clip["flow"][position, ..., 10]
        assert np.abs(u - fields[time, ..., 0]).max() < STORED + 1e-5
        others = [np.abs(u - fields[t, ..., 0]).max() for t in (time - 1, time + 1)]
        assert min(others) > 0.5
        distance = [
            np.abs(clip["rgb"][position] - f.astype(int)).mean() for f in frames
        ]
        assert np.argmin(distance) == time


# --- the same clip again -------------------------------------------------------------


def test_clips_depend_on_seed_class_and_number(tmp_path):
    a = tree(write_moving_pairs(tmp_path / "a", **SMALL, seed=1))
    b = tree(write_moving_pairs(tmp_path / "b", **SMALL, seed=2))
    c = tree(
        write_moving_pairs(tmp_path / "c", **{**SMALL, "videos_per_class": 3}, seed=1)
    )
    videos = [name for name in a if name.endswith(".mp4")]
    assert len({a[name] for name in videos} | {b[name] for name in videos}) == 8
    del a["synthetic.json"]
    assert all(c[name] == data for name, data in a.items())


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    def stop_at_three(done, total):
        assert total == 4
        if done == 3:
            raise Interrupted

    root = tmp_path / "a"
    with pytest.raises(Interrupted):
        write_moving_pairs(root, **SMALL, progress=stop_at_three)
    before = times(root)
    assert len(before) == 3 * 5 + 1
    calls, seen = [], []
    monkeypatch.setattr(
        synthetic, "render_pair", lambda *a: calls.append(a) or render_pair(*a)
    )
    write_moving_pairs(root, **SMALL, progress=lambda *a: seen.append(a))
    assert len(calls) == 1
    assert seen == [(i, 4) for i in range(1, 5)]
    assert before.items() <= times(root).items()
    assert tree(root) == tree(write_moving_pairs(tmp_path / "b", **SMALL))


def test_a_video_is_there_only_with_all_its_flow(tmp_path, monkeypatch):
    """A disk that fills up in the midst of a clip leaves its fields and no video."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 1 + 5 + 4:  # the manifest, one clip, and four of five files
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        write_moving_pairs(tmp_path, **SMALL)
    files = tree(tmp_path)
    assert not [name for name in files if "partial" in name]
    assert len(files) == 1 + 5 + 3
    assert [name for name in files if name.endswith(".mp4")] == [
        "videos/a_left_b_right/a_left_b_right_c01.mp4"
    ]


@pytest.mark.parametrize(
    "damaged",
    [
        f"videos/{NAME}.mp4",
        f"flow/u/{NAME}/frame000001.jpg",
        f"flow/v/{NAME}/frame000002.jpg",
    ],
)
@pytest.mark.parametrize("how", ["cut", "missing"])
def test_a_damaged_clip_is_written_anew_and_no_other(tmp_path, damaged, how):
    write_moving_pairs(tmp_path, **SMALL)
    before, when = tree(tmp_path), times(tmp_path)
    if how == "cut":
        (tmp_path / damaged).write_bytes(before[damaged][:100])
    else:
        (tmp_path / damaged).unlink()
    write_moving_pairs(tmp_path, **SMALL)
    assert tree(tmp_path) == before
    changed = {name for name, time in times(tmp_path).items() if time != when[name]}
    assert damaged in changed
    assert all(NAME in name for name in changed)


def test_a_set_without_its_flow_is_completed(tmp_path):
    write_moving_pairs(tmp_path, **SMALL)
    before = tree(tmp_path)
    shutil.rmtree(tmp_path / "flow" / "v")
    write_moving_pairs(tmp_path, **SMALL)
    assert tree(tmp_path) == before


# --- errors --------------------------------------------------------------------------


def test_other_parameters_in_a_folder_are_an_error(tmp_path):
    write_moving_pairs(tmp_path, **SMALL, seed=1)
    with pytest.raises(
        ValueError,
        match="frames is 3, asked for 4; seed is 1, asked for 2. Name another folder",
    ):
        write_moving_pairs(tmp_path, **{**SMALL, "frames": 4}, seed=2)


def test_dynamic_scenes_and_moving_pairs_keep_apart(tmp_path):
    write_dynamic_scenes(tmp_path / "scenes", 1, (32, 32), 2)
    with pytest.raises(ValueError, match="set is None, asked for 'moving pairs'"):
        write_moving_pairs(tmp_path / "scenes", **SMALL)
    write_moving_pairs(tmp_path / "pairs", **SMALL)
    with pytest.raises(ValueError, match="set is 'moving pairs', asked for None"):
        write_dynamic_scenes(tmp_path / "pairs", 1, (32, 32), 2)


@pytest.mark.parametrize("folder", ["videos/archery", "flow/u"])
def test_foreign_files_are_not_mixed_with(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(
        ValueError, match="no synthetic.json, .* not moving pairs; name"
    ):
        write_moving_pairs(tmp_path, **SMALL)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_broken_manifest_is_an_error(tmp_path):
    (tmp_path / "synthetic.json").write_text("[]")
    with pytest.raises(ValueError, match="not a manifest of moving pairs"):
        write_moving_pairs(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 64}, r"size must be \(height, width\).* got 64"),
        ({"size": (64, 16)}, r"at least 32 pixels; got \(64, 16\)"),
        ({"size": (64, 63)}, r"even for H.264 \(4:2:0\); got \(64, 63\)"),
        ({"size": (428, 430)}, r"at most 426 pixels.* 20 pixels .* got \(428, 430\)"),
        ({"frames": 1}, "frames must be .* at least 2 .* got 1"),
        ({"videos_per_class": 0}, "videos_per_class must be .* got 0"),
        ({"seed": 1.5}, "seed must be .* got 1.5"),
        ({"fps": -1}, "fps must be .* got -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_moving_pairs(tmp_path / "set", **{**SMALL, **change})
    assert not (tmp_path / "set").exists()


def test_the_largest_frames_stay_in_the_range_of_stored_flow(tmp_path):
    root = write_moving_pairs(tmp_path, 1, (426, 428), 2)
    for class_name in CLASSES:
        _, field = rendered(class_name, 1, 0, (426, 428), 2)
        assert np.abs(field).max() < 20
        path = root / f"videos/{class_name}/{class_name}_c01.mp4"
        stored = to_pixels(FlowFolder(root / "flow").fields(path, [0]))
        assert np.abs(stored - field).max() < STORED + 1e-5
