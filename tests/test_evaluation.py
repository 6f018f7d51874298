"""Evaluation: the protocol, the figures, the reports."""

import csv
import json

import cv2
import numpy as np
import pytest
import tensorflow as tf

from tests import training_cases, video_files
from zoo.datasets import VideoError, VideoList, read_video
from zoo.datasets.sampling import test_indices as equally_spaced
from zoo.evaluation import Results, Skip, evaluate, report
from zoo.evaluation.evaluate import NetworkError, network_errors, view_pixels
from zoo.models.testing import video_classifier


@pytest.fixture
def model():
    """An untrained probe network of two classes."""
    return training_cases.probe_net()


@pytest.fixture
def videos(tmp_path):
    """Eight videos of two sizes, and one that is none."""
    root = training_cases.write_videos(tmp_path / "set")
    large = video_files.noise(5, 20, 40)
    video_files.write(root / "camera_moving" / "light" / "large.mp4", large)
    (root / "camera_moving" / "light" / "notes.mp4").write_text("no video")
    return VideoList.from_folder(root)


def results_of(labels, answers, groups=None, classes=("a", "b", "c")):
    """Results with the given answers."""
    scores = np.eye(len(classes), dtype="float32")[list(answers)]
    paths = tuple(f"{i}.mp4" for i in range(len(labels)))
    groups = tuple(groups or [""] * len(labels))
    skipped = (Skip("bad.mp4", "bad.mp4: is empty (0 bytes)"),)
    return Results(tuple(classes), paths, np.array(labels), scores, groups, skipped)


MIXED = results_of(
    labels=[0, 0, 0, 1, 1, 1],
    answers=[0, 0, 1, 1, 0, 0],
    groups=["moving", "static", "static", "static", "moving", "moving"],
)


# --- protocol ------------------------------------------------------------------------


def test_scores_are_those_of_the_test_network(model, videos):
    results = evaluate(model, videos, frames=3, shorter_side=16, flip=True)
    network = video_classifier(model, 3, 16, True)
    assert len(results.paths) == 9
    for path, scores in zip(results.paths, results.scores, strict=True):
        frames = read_video(path, lambda count: equally_spaced(count, 3)).frames
        expected = network(frames[None])["logits"].numpy()[0]
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_a_bad_video_is_reported_and_in_no_figure(model, videos):
    results = evaluate(model, videos, frames=3, shorter_side=16)
    assert [skip.path.endswith("notes.mp4") for skip in results.skipped] == [True]
    assert "notes.mp4" in results.skipped[0].reason
    assert results.count() == len(videos) - 1 == results.confusion().sum()
    assert results.classes == ("dark", "light")
    assert results.count("moving") == 5 and results.count("static", label=0) == 2


def test_unsuitable_models_and_lists_are_errors(videos, tmp_path):
    with pytest.raises(ValueError, match="model has 5 classes, the videos have 2"):
        evaluate(training_cases.probe_net(5), videos, 3, 16)
    for name in ("a", "b"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "x.mp4").touch()
    bad = VideoList.from_folder(tmp_path / "bad")
    with pytest.raises(ValueError, match="None of the 2 videos .* is empty"):
        evaluate(training_cases.probe_net(), bad, 3, 16)


def test_classes_are_matched_by_name(videos):
    model = training_cases.probe_net(3)
    trained = ("light", "sunset", "dark")
    results = evaluate(model, videos, 3, 16, labels=trained)
    assert results.classes == trained
    assert results.count(label=1) == 0 and results.count(label=2) == 4
    for path, label in zip(results.paths, results.labels, strict=True):
        assert f"/{trained[label]}/" in path
    with pytest.raises(ValueError, match="dark in .* none of the 2 .* sunset have no"):
        evaluate(model, videos, 3, 16, labels=("light", "sunset"))


def test_a_thin_video_is_a_skip_with_a_reason(model, tmp_path):
    for name in ("dark", "light"):
        frames = video_files.noise(3, 16, 24)
        (tmp_path / name).mkdir()
        video_files.write(tmp_path / name / "good.mp4", frames)
    thin = video_files.noise(3, 2, 4000)
    video_files.write(tmp_path / "dark" / "thin.avi", thin, "rawvideo")
    results = evaluate(model, VideoList.from_folder(tmp_path), 16, 256, flip=False)
    (skip,) = results.skipped
    assert skip.path.endswith("thin.avi") and results.count() == 2
    assert f"{skip.path}: 4000 x 2 pixels are too thin" in skip.reason


def test_the_limit_of_the_view_is_that_of_an_export():
    assert view_pixels((9, 480, 854, 3), 16, 256) == 16 * 256 * 455
    assert view_pixels((1, 1, 512, 3), 16, 64) == 2**25
    with pytest.raises(VideoError, match="have 33619968 pixels, accepted are 33554432"):
        view_pixels((1, 513, 1, 3), 16, 64)


def test_small_clips_share_a_batch_by_what_the_network_sees(model, tmp_path):
    from zoo.evaluation.evaluate import BATCH_PIXELS, Scorer, evaluate_with

    root = training_cases.write_videos(tmp_path / "set", per_class=8)
    batches = []

    class Counter(Scorer):
        def __call__(self, clips):
            batches.append(len(clips))
            return super().__call__(clips)

    evaluate_with(Counter(model, 3, 160), VideoList.from_folder(root))
    assert max(batches) == BATCH_PIXELS // (3 * 160 * 240) == 3 and sum(batches) == 16


def test_errors_of_tensorflow_are_said_in_one_line():
    with pytest.raises(NetworkError, match="^[^\n]*: OOM at x; shrink it.$"):
        with network_errors("shrink it"):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM at x\nTrace")


# --- figures -------------------------------------------------------------------------


def test_accuracy_by_group_and_class():
    assert MIXED.accuracy() == pytest.approx(3 / 6)
    assert MIXED.accuracy("static") == pytest.approx(2 / 3)
    assert MIXED.accuracy("moving") == pytest.approx(1 / 3)
    assert MIXED.accuracy(label=0) == pytest.approx(2 / 3)
    assert MIXED.accuracy("moving", label=1) == 0
    assert np.isnan(MIXED.accuracy(label=2))
    assert MIXED.group_names == ("static", "moving")


def test_confusion_counts_class_by_answer():
    assert MIXED.confusion().tolist() == [[2, 1, 0], [2, 1, 0], [0, 0, 0]]


def test_results_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"need scores \(1, 2\).*got scores \(2, 2\)"):
        Results(("a", "b"), ("x",), np.zeros(1, int), np.zeros((2, 2)), ("",))


# --- reports -------------------------------------------------------------------------


def test_the_table_says_everything_in_per_cent():
    lines = report.table(MIXED).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[:6]]
    assert cells[0] == ["class", "static", "moving", "all", "videos"]
    assert cells[2] == ["a", "50.0", "100.0", "66.7", "3"]
    assert cells[3] == ["b", "100.0", "0.0", "33.3", "3"]
    assert cells[4] == ["c", "-", "-", "-", "0"]
    assert cells[5] == ["**all**", "66.7", "33.3", "50.0", "6"]
    assert len({len(line) for line in lines[:6]}) == 1
    assert "1 videos skipped" in lines[-2] and "is empty" in lines[-1]


def test_models_are_compared_side_by_side():
    perfect = results_of([0, 1], [0, 1], ["static", "moving"])
    lines = report.comparison({"T-ResNet": perfect, "ResNet": MIXED}).splitlines()
    assert [c.strip() for c in lines[2].split("|")[1:-1]] == [
        *["T-ResNet", "100.0", "100.0", "100.0", "2", "1"]
    ]
    assert "| ResNet " in lines[3]


def test_saved_files_hold_the_same_figures(tmp_path):
    report.save(MIXED, tmp_path / "report")
    names = sorted(p.name for p in (tmp_path / "report").iterdir())
    assert names == [
        *["confusion.png", "predictions.csv", "report.md", "results.json", "scores.npz"]
    ]
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    assert found["accuracy"] == 0.5 and found["classes"]["c"]["accuracy"] is None
    assert found["groups"]["static"] == {"videos": 3, "accuracy": pytest.approx(2 / 3)}
    assert found["skipped"][0]["path"] == "bad.mp4"
    with open(tmp_path / "report" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["correct"] for row in rows] == ["1", "1", "0", "1", "0", "0", ""]
    assert rows[2]["label"] == "a" and rows[2]["prediction"] == "b"
    assert rows[-1]["prediction"].startswith("skipped: ")
    with np.load(tmp_path / "report" / "scores.npz") as file:
        np.testing.assert_array_equal(file["scores"], MIXED.scores)
        assert list(file["groups"]) == list(MIXED.groups)


def test_the_confusion_picture_shows_which_answers_were_given(tmp_path):
    report.confusion_picture(results_of([0, 1, 2], [0, 1, 2]), tmp_path / "good.png")
    report.confusion_picture(results_of([0, 1, 2], [1, 2, 0]), tmp_path / "bad.png")
    good, bad = (cv2.imread(str(tmp_path / f"{n}.png")) for n in ("good", "bad"))
    assert good.shape == bad.shape and good.shape[0] > 200
    # Both fill three cells, but not the same ones.
    dark = [int((image[:, :, 2] < 60).sum()) for image in (good, bad)]
    assert min(dark) > 1000 and (good != bad).any()


def test_learning_curves_are_drawn_for_every_history(tmp_path):
    short = {"epoch": [0, 1], "loss": [2.0, 1.0], "accuracy": [0.1, 0.5]}
    long = {**short, "val_loss": [2.0, 1.5], "val_accuracy": [0.2, 0.4]}
    report.learning_curves({"a": short}, tmp_path / "one.png")
    report.learning_curves({"a": short, "b": long}, tmp_path / "two.png")
    one, two = (cv2.imread(str(tmp_path / f"{n}.png")) for n in ("one", "two"))
    orange = [
        ((image[..., 2] > 240) & (image[..., 0] < 60)).sum() for image in (one, two)
    ]
    assert orange[0] == 0 < orange[1]  # the second colour belongs to the second model
