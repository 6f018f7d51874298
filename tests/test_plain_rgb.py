"""Networks of two streams on frames alone: flow computed inside the graph."""

import io

import keras
import numpy as np
import pytest

import zoo
from tests import video_files
from tests.test_command_line import run
from tests.test_models import trained
from zoo.datasets import VideoList, flow_source, read_video
from zoo.datasets.extraction import Settings, extract
from zoo.datasets.flow import to_codes, to_pixels
from zoo.evaluation import evaluate
from zoo.exports import export, load_exported
from zoo.flow_methods import LayerMethod
from zoo.layers import FlowStack
from zoo.models.plain_rgb import FLOWS, network_of, plain_rgb
from zoo.models.testing import video_classifier
from zoo.prediction import with_flow
from zoo.weights import folder

NAMES = ["st_mulnet26_tiny", "motion_resnet26_tiny"]
TINY = [n for n in zoo.list_models("*_tiny") if "flow" in zoo.info(n).inputs]


def video(count=3, height=64, width=72):
    """A smooth pattern that moves a pixel to the right per frame, uint8.

    Short ones: stacks of long ones are tested with `FlowStack`.
    """
    t, y, x = np.mgrid[:count, :height, :width]
    waves = [np.sin((x - t) / 5 + y / 7 + phase) for phase in range(3)]
    return np.uint8(127 + 100 * np.stack(waves, -1))[None]


def seen_by(model, views):
    """What a network takes of {"rgb", "flow"}."""
    return views if isinstance(model.input, dict) else views["flow"]


@pytest.fixture(params=NAMES)
def network(request):
    return trained(zoo.load(request.param, num_classes=3))


class TestPlainRGB:
    def test_answers_are_those_on_stacks(self, network, tmp_path):
        model = plain_rgb(network, "tvl1_fast")
        assert [x.name for x in model.inputs] == ["frames"]
        frames = video()
        views = FlowStack(preset="fast")(frames)
        expected = network(seen_by(network, views), training=False)
        found = model(frames, training=False)
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            found,
            expected,
        )
        logits = zoo.features(model, ["logits"])(frames)["logits"]
        np.testing.assert_allclose(
            logits,
            zoo.features(network, ["logits"])(seen_by(network, views))["logits"],
            rtol=1e-3,
            atol=1e-3,
        )
        model.save(tmp_path / "plain.keras")
        loaded = keras.models.load_model(tmp_path / "plain.keras")
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            loaded(frames, training=False),
            found,
        )

    def test_scores_are_those_of_given_stacks(self, network):
        """The same chunks; flow rounded to 8 bits, as stored, changes scores a little.

        How much is up to the network: these have random weights, on which 0.08 pixels
        tell.
        """
        frames = video()
        views = keras.tree.map_structure(np.asarray, FlowStack(3, "fast")(frames))
        on_stacks = video_classifier(network, 3, 64)

        def scores(flow):
            given = {"clips": views["rgb"], "flow": flow}
            given = given if isinstance(network.input, dict) else flow
            return on_stacks(given)["logits"]

        found = video_classifier(plain_rgb(network, "tvl1_fast"), 3, 64)(frames)[
            "logits"
        ]
        expected = scores(views["flow"])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=1e-3 * scale)
        rounded = scores(to_pixels(to_codes(views["flow"])))
        assert 0 < np.abs(found - rounded).max() < 0.2 * scale

    @pytest.mark.parametrize("name", TINY)
    def test_loaded_by_name(self, name):
        model = zoo.load(name, flow="tvl1_fast", num_classes=3)
        answer = model(video(5), training=False)
        answer = answer["predictions"] if isinstance(answer, dict) else answer
        assert answer.shape == (1, 3) and np.isfinite(answer).all()
        assert network_of(model).name == name

    @pytest.mark.parametrize("flow", ["dis", 3, ["tvl1"]])
    def test_unknown_flow(self, flow):
        with pytest.raises(ValueError, match="'tvl1', 'tvl1_fast', got"):
            zoo.load("motion_resnet26_tiny", flow=flow)

    def test_networks_of_frames_need_none(self):
        with pytest.raises(ValueError, match="sees rgb and needs no flow"):
            zoo.load("t_resnet_tiny", flow="tvl1")

    def test_scores_are_those_through_files(self, tmp_path):
        """zoo flow --method layer, files, reader: but for 8 bits and JPEG the same.

        Of frames in the size of the view; where they're resized, sizes may differ by
        one pixel. A video of one frame has no flow and is named.
        """
        network = trained(zoo.load("motion_resnet26_tiny", num_classes=2))
        for path, count in (("a/x.avi", 12), ("b/y.avi", 12), ("b/z.avi", 1)):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            frames = video(count)[0] if "x" in path else video(count)[0, :, ::-1]
            video_files.write(tmp_path / path, frames, "mpeg4", 0)
        videos, out = VideoList.from_folder(tmp_path), tmp_path / "flow"
        settings = Settings(LayerMethod("fast"), 64, quality=100)
        extract([tmp_path / "a", tmp_path / "b"], out, settings, stream=io.StringIO())
        stored = evaluate(network, videos, 1, 64, False, flow=flow_source(out))
        computed = evaluate(plain_rgb(network, "tvl1_fast"), videos, 1, 64, False)
        scale = np.abs(computed.scores).max()
        np.testing.assert_allclose(stored.scores, computed.scores, atol=0.1 * scale)
        assert computed.paths == stored.paths and computed.count() == 2
        (skip,) = computed.skipped
        assert "z.avi: optical flow needs at least 2 frames, the vid" in skip.reason

    def test_flow_of_the_commands_may_be_the_layer(self):
        network = zoo.load("motion_resnet26_tiny")
        model, source = with_flow(network, "layer", None)
        assert network_of(model) is network and source is None
        assert with_flow(network, "dis", None)[0] is network
        with pytest.raises(ValueError, match="sees rgb and needs no flow"):
            with_flow(zoo.load("resnet_tiny"), "layer", None)

    @pytest.mark.slow
    def test_the_commands_run_with_the_layer(self, tmp_path, capsys):
        """zoo evaluate and zoo predict, from a model folder and videos alone."""
        network = trained(zoo.load("motion_vgg_tiny", num_classes=2))
        record = folder.ModelRecord(
            network.name, 2, labels=("a", "b"), frames=1, shorter_side=64, flip=False
        )
        folder.save(tmp_path / "model", network, record)
        for path in ("videos/a/x.avi", "videos/b/y.avi"):
            (tmp_path / path).parent.mkdir(parents=True)
            frames = video(4)[0] if "x" in path else video(4)[0, :, ::-1]
            video_files.write(tmp_path / path, frames, "mpeg4", 0)
        given = ("--model", str(tmp_path / "model"), "--flow", "layer")
        videos, out = tmp_path / "videos", tmp_path / "report"
        code, _, error = run(
            capsys, "evaluate", *given, "--data", str(videos), "--out", str(out)
        )
        assert code == 0, error
        code, printed, error = run(capsys, "predict", str(videos / "b/y.avi"), *given)
        assert code == 0, error
        with np.load(out / "scores.npz") as saved:
            scores = keras.ops.softmax(saved["scores"][saved["labels"] == 1])[0]
        best = int(np.argmax(scores))
        assert f"{scores[best]:.4f}  {'ab'[best]}" in printed.splitlines()[1]
        frames = read_video(videos / "b/y.avi").frames[None]
        expected = video_classifier(plain_rgb(network), 1, 64, False)(frames)
        np.testing.assert_allclose(scores, expected["predictions"][0], atol=1e-4)

    def test_frames_may_be_float(self):
        """Not cut to whole numbers, and NaN is seen."""
        model = zoo.load("motion_resnet26_tiny", flow="tvl1_fast", num_classes=3)
        frames = video(2).astype("float32")
        whole, finer = model(frames), model(frames + 0.4 * np.sin(frames))
        assert np.abs(whole - finer).max() > 0
        frames[0, 1, 3, 4, 1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            model(frames)

    def test_two_frames_at_least(self):
        model = zoo.load("motion_resnet26_tiny", flow="tvl1")
        with pytest.raises(ValueError, match="at least 2 frames, got 1"):
            model(video(1))


@pytest.mark.slow
def test_exported_predicts_videos_by_frames_alone(tmp_path, capsys):
    """The export takes `clips`; `zoo predict` gives it the frames of a file."""
    network = trained(zoo.load("two_stream_vgg_tiny", num_classes=3))
    model = plain_rgb(network, "tvl1_fast")
    path = export(
        model, tmp_path, labels=("a", "b", "c"), frames=2, shorter_side=64, flip=False
    )
    served = load_exported(path)
    assert served.inputs == ("clips",)
    assert served.record["computes_flow"] is True
    video_files.write(tmp_path / "waves.mp4", video(5)[0])
    frames = read_video(tmp_path / "waves.mp4", lambda count: np.arange(count)).frames
    expected = video_classifier(model, 2, 64, flip=False)(frames[None])["logits"]
    found = served(clips=frames[None])["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="consecutive frames of a video, at least 2"):
        served(clips=frames[None, :1])
    file = str(tmp_path / "waves.mp4")
    code, out, _ = run(capsys, "predict", file, "--model", str(path))
    best = served(clips=frames[None])["labels"][0, 0]
    assert code == 0 and out.splitlines()[1].split()[-1] == best


def test_names_of_flow_are_presets():
    for preset in FLOWS.values():
        FlowStack(preset=preset)
