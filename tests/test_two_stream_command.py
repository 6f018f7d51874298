"""Networks that see flow, from videos to a served prediction, by command and export."""

import numpy as np
import pytest

import zoo
from tests.test_command_line import run
from tests.test_models import clip, flow, given, trained
from zoo.datasets import VideoList, flow_source
from zoo.datasets.synthetic import write_moving_pairs
from zoo.evaluation import evaluate
from zoo.exports import export, load_exported
from zoo.models.testing import video_classifier
from zoo.training import Recipe, train
from zoo.training.fit import _freeze
from zoo.weights import folder as model_folder

LABELS = tuple("abcdefgh")
VIEW = {"frames": 3, "shorter_side": 64}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Six small clips of moving pairs with their flow."""
    root = tmp_path_factory.mktemp("pairs")
    return write_moving_pairs(root, 3, size=(64, 64), frames=14)


# --- the network of whole videos -----------------------------------------------------


@pytest.mark.parametrize("name", ["two_stream_vgg_tiny", "motion_resnet26_tiny"])
def test_the_mirror_turns_the_motion_around(name):
    """The scores of a view and its mirror, u negated, are averaged."""
    model = trained(zoo.load(name))
    network = video_classifier(model, 5, 64)
    found = network(video_inputs(model, 1, 5))["logits"]
    scores = zoo.features(model, ["logits"])
    x = given(model, 1, 5)
    sign = np.tile([-1, 1], 10)
    turn = {
        "rgb": lambda a: a[:, :, :, ::-1],
        "flow": lambda a: a[:, :, :, ::-1] * sign,
    }
    mirrored = (
        {k: turn[k](v) for k, v in x.items()}
        if isinstance(x, dict)
        else turn["flow"](x)
    )
    expected = (scores(x)["logits"] + scores(mirrored)["logits"]) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def video_inputs(model, *shape):
    x = given(model, *shape)
    return {"clips": x["rgb"], "flow": x["flow"]} if isinstance(x, dict) else x


def test_displacements_grow_with_the_frames():
    """A video twice as large, moving twice as far, is the same view."""
    model = trained(zoo.load("motion_resnet26_tiny"))
    network = video_classifier(model, 2, 64, flip=False)
    field = np.broadcast_to(flow(1, 2, 1, 1), (1, 2, 128, 128, 20))
    small = network(field[:, :, :64, :64])["logits"]
    large = network(2 * field)["logits"]
    np.testing.assert_allclose(large, small, rtol=1e-3, atol=1e-3)
    assert np.abs(network(field)["logits"] - small).max() > 1e-2


# --- export --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verify"), [("st_mulnet26_tiny", False), ("motion_resnet26_tiny", True)]
)
def test_an_export_answers_as_the_network_does(name, verify, tmp_path):
    """In a fresh process before it appears, and here on clips of other sizes."""
    model = trained(zoo.load(name))
    path = export(model, tmp_path, labels=LABELS, verify=verify, **VIEW)
    exported = load_exported(path)
    network = video_classifier(model, **VIEW)
    for shape in ((2, 3, 64, 64), (1, 7, 80, 100)):
        inputs = video_inputs(model, *shape)
        expected = network(inputs)
        found = (
            exported(**inputs) if isinstance(inputs, dict) else exported(flow=inputs)
        )
        scale = np.abs(expected["logits"]).max()
        np.testing.assert_allclose(
            found["logits"] / scale, expected["logits"] / scale, atol=1e-5
        )
        assert found["labels"].shape == (shape[0], 5)
    assert set(exported.record["inputs"]) == set(exported.inputs)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model, out = zoo.load("two_stream_vgg_tiny"), tmp_path_factory.mktemp("out")
    return load_exported(export(model, out, labels=LABELS, verify=False, **VIEW))


def test_raw_gives_the_scores_of_the_towers(exported):
    inputs = {"rgb": clip(2, 3).astype("float32"), "flow": flow(2, 3)}
    found = exported.raw(**inputs)
    assert exported.signatures == zoo.info("two_stream_vgg_tiny").signatures
    towers = [found["appearance_logits"], found["motion_logits"]]
    np.testing.assert_allclose(found["logits"], np.mean(towers, axis=0), atol=1e-4)
    assert np.abs(towers[0] - towers[1]).max() > 1e-3


class TestExportRefuses:
    def test_files_that_hold_no_flow(self, exported):
        with pytest.raises(
            ValueError, match="no signature 'jpeg', but serving_default"
        ):
            exported.jpeg([[b""]])

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"clips": clip()}, "takes clips and flow; got clips"),
            ({}, "takes clips and flow; got nothing"),
            (
                {"clips": clip(), "flow": flow()[..., :3]},
                r"flow must be float32 \[batch, frames, height, width, 20\]",
            ),
            (
                {"clips": clip(), "flow": flow().astype("uint8")},
                "flow must be float32 .* got uint8",
            ),
            (
                {"clips": clip(), "flow": flow(2, 4)},
                "must have the same batch, frames, height and width, one stack of flow",
            ),
            (
                {"clips": clip(), "flow": flow(2, 5, 64, 60)},
                r"got shapes: \[2 5 64 64 3\] \[2 5 64 60 20\]",
            ),
            (
                {"clips": clip(), "flow": flow() + 127.5},
                "`flow` must be finite and in pixels. .* 8-bit codes; decode them",
            ),
            (
                {"clips": clip(), "flow": flow() * np.nan},
                "`flow` must be finite and in pixels",
            ),
            (
                {"clips": clip(), "flow": flow() - np.float32(np.inf)},
                "`flow` must be finite and in pixels",
            ),
        ],
    )
    def test_what_does_not_fit(self, exported, inputs, message):
        with pytest.raises(ValueError, match=message):
            exported(**inputs)


# --- training ------------------------------------------------------------------------


def recipe(name="two_stream_vgg_tiny", **options):
    numbers = {
        "frames": 1, "test_frames": 1, "stride": (1, 1), "size": 64,
        "shorter_side": 64, "jitter": 0.0, "flip": False, "batch_size": 2, "epochs": 1,
        "learning_rate": 1e-3, **options,
    }  # fmt: skip
    return Recipe(name, **numbers)


def test_only_the_layers_that_are_not_frozen_learn(pairs, tmp_path):
    """Chapter 3 trains what is above the fusion."""
    videos = VideoList.from_folder(pairs / "videos")
    options = {"dropout": 0.0, "pooling": "2d"}
    only = recipe(
        "fusion_vgg_tiny", options=options, frozen=("appearance_conv*", "motion_conv*")
    )
    run_folder = train(
        only, videos, tmp_path / "run", flow=flow_source(pairs / "flow"), verbose=0
    )
    model, record = model_folder.load(run_folder.folder / "last")
    assert record.flow == "folder"
    before = zoo.load("fusion_vgg_tiny", num_classes=2, **options)
    fixed = model.get_layer("motion_conv3").get_weights()[1]
    np.testing.assert_array_equal(fixed, before.get_layer("motion_conv3").bias)
    for layer in ("fusion_relu5", "motion_fc6", "appearance_fc8"):
        changed = model.get_layer(layer).get_weights()[-1]
        assert np.abs(changed - np.asarray(before.get_layer(layer).bias)).max() > 0
    with pytest.raises(ValueError, match="frozen='conv9' matches no layer of fusion"):
        _freeze(before, ("conv9",))


@pytest.mark.parametrize(
    ("name", "given_flow", "message"),
    [
        ("two_stream_vgg_tiny", None, "sees rgb and flow; of optical flow none was"),
        ("resnet_tiny", "dis", "sees rgb; of optical flow dis was given"),
    ],
)
def test_flow_must_be_given_to_those_that_see_it(
    pairs, tmp_path, name, given_flow, message
):
    videos = VideoList.from_folder(pairs / "videos")
    source = given_flow and flow_source(given_flow)
    with pytest.raises(ValueError, match=message):
        train(recipe(name), videos, tmp_path / "run", flow=source)
    assert not (tmp_path / "run").exists()


def test_evaluation_needs_flow_too(pairs):
    videos = VideoList.from_folder(pairs / "videos")
    model = zoo.load("motion_resnet26_tiny", num_classes=2)
    with pytest.raises(ValueError, match="sees optical flow, but no source of it"):
        evaluate(model, videos)
    results = evaluate(
        model, videos, 1, 64, flip=False, flow=flow_source(pairs / "flow")
    )
    assert results.count() == 6


@pytest.mark.parametrize("cache", ["0", "64"])
@pytest.mark.parametrize("number", [8, 20])
def test_training_names_flow_of_other_videos(tmp_path, capsys, number, cache):
    """Fields too few or too many make a bad video, with and without a cache."""
    pairs = write_moving_pairs(tmp_path / "pairs", 1, size=(64, 64), frames=14)
    for folder in (pairs / "flow").glob("*/*/*"):
        first = (folder / "frame000001.jpg").read_bytes()
        for file in folder.iterdir():
            file.unlink()
        for i in range(number):
            (folder / f"frame{i + 1:06d}.jpg").write_bytes(first)
    code, _, error = run(
        capsys, "train", "--model", "two_stream_vgg_tiny", "--out",
        str(tmp_path / "run"), "--data", str(pairs / "videos"), "--flow",
        str(pairs / "flow"), "--cache_mib", cache, "--set=frames=1",
        "--set=stride=(1, 1)", "--set=size=64", "--set=batch_size=2",
        "--set=shorter_side=64", "--set=epochs=1",
    )  # fmt: skip
    assert code == 2
    belong = f"{number} fields of flow belong to {number + 1} frames, the video has 14"
    assert f"{belong}; extract its flow again" in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("'stream_weights': 3", "stream_weights must be a pair of positive numbers"),
        ("'stem': ['keras']", "Unknown stem ['keras']; accepted are caffe, keras"),
    ],
)
def test_a_wrong_option_is_said_in_one_line(pairs, tmp_path, capsys, option, message):
    code, _, error = run(
        capsys, "train", "--model", "two_stream_resnet26_tiny", "--data",
        str(pairs / "videos"), "--flow", str(pairs / "flow"), "--out",
        str(tmp_path / "run"), f"--set=options={{{option}}}", "--set=batch_size=2",
    )  # fmt: skip
    assert code == 2 and message in error
    assert len(error.splitlines()) == 1 and error.startswith("zoo: error: ")


@pytest.mark.slow
def test_from_videos_and_flow_to_a_served_prediction(pairs, tmp_path, capsys):
    """zoo train, evaluate, predict, export, and predict again from the export."""
    data, fields = str(pairs / "videos"), str(pairs / "flow")
    settings = [
        f"--set={name}={value}"
        for name, value in {
            "frames": 2, "test_frames": 2, "stride": "(1, 2)", "size": 64,
            "shorter_side": 64, "flip": False, "batch_size": 2, "epochs": 1,
            "learning_rate": "((1e-3, 2), (1e-4, 5))",
        }.items()
    ]  # fmt: skip
    out = str(tmp_path / "run")
    code, printed, error = run(
        capsys, "train", "--model", "two_stream_vgg_tiny", "--data", data,
        "--flow", fields, "--out", out, *settings,
    )  # fmt: skip
    assert code == 0, error
    model, record = model_folder.load(f"{out}/best")
    assert record.name == "two_stream_vgg_tiny" and record.flow == "folder"
    streams = f"appearance={out}/best,motion={out}/best"
    code, printed, error = run(
        capsys, "train", "--model", "two_stream_resnet26_tiny", "--data", data,
        "--flow", fields, "--out", f"{out}2", "--weights", streams, *settings,
    )  # fmt: skip
    assert code == 2 and "do not fit two_stream_resnet26_tiny" in error
    best = f"{out}/best"
    code, printed, error = run(
        capsys, "evaluate", "--model", best, "--data", data, "--flow", fields
    )
    assert code == 0 and "| **all**" in printed
    code, _, error = run(capsys, "evaluate", "--model", best, "--data", data)
    assert code == 2 and "zoo --flow" in error
    video = next((pairs / "videos").rglob("*.mp4"))
    code, first, error = run(
        capsys, "predict", str(video), "--model", best, "--flow", fields
    )
    assert code == 0 and first.count("_") >= 2, error
    code, path, error = run(
        capsys, "export", "--model", best, "--out", str(tmp_path / "served")
    )
    assert code == 0, error
    code, second, error = run(
        capsys, "predict", str(video), "--model", path.strip(), "--flow", fields
    )
    assert code == 0 and second == first
    code, third, error = run(
        capsys, "predict", str(video), "--model", path.strip(), "--flow", "dis"
    )
    assert code == 0 and third.splitlines()[0] == first.splitlines()[0]


def test_flow_is_computed_as_in_training(pairs, tmp_path, capsys):
    """A record of a method needs no flag; one of a folder does."""
    model = zoo.load("motion_resnet26_tiny", num_classes=2)
    video = str(next((pairs / "videos").rglob("*.mp4")))
    for method, code in (("dis", 0), ("folder", 2)):
        record = model_folder.ModelRecord(
            "motion_resnet26_tiny", 2, labels=("a", "b"), frames=2, shorter_side=64,
            flow=method,
        )  # fmt: skip
        model_folder.save(tmp_path / method, model, record)
        found = run(capsys, "predict", video, "--model", str(tmp_path / method))
        assert found[0] == code, found
    assert "sees optical flow, but no source of it" in found[2]
