"""From a detector's maps to boxes on the frames: sizes, tracks, suppression, export."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.detection_cases import calibrated, encoded, frames, iou
from zoo.evaluation.tracker import FrameDetector
from zoo.exports import load_exported, verification
from zoo.exports.detector import MAX_PIXELS, Limits, export_detector, unmatched
from zoo.exports.verification import VerificationError
from zoo.layers import DetectionView
from zoo.models.object_detector import TRACKS, candidates, object_detector


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return calibrated("detect_track_tiny")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("served")
    labels = ["bus", "turtle", "whale", "zebra"]
    return export_detector(model, out, "dt", labels, view=(96, 160), verify=False)


class TestDetectionView:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((480, 640), (600, 800)),
            ((640, 480), (800, 600)),
            ((360, 640), (563, 1000)),  # 562.5
            ((1080, 1920), (563, 1000)),
            ((1, 1), (600, 600)),
            ((10, 1000), (10, 1000)),
        ],
    )
    def test_sizes_are_those_of_training(self, size, expected):
        from zoo.datasets.detection_pairs import resized_size

        view, factors = DetectionView()(np.zeros((1, 1, *size, 3), "uint8"))
        assert view.shape[2:4] == resized_size(*size) == expected
        ratios = np.array(view.shape[2:4]) / size
        np.testing.assert_allclose(factors, [*ratios[::-1]] * 2, rtol=1e-6)

    def test_interpolates_as_tensorflow_does(self):
        x = frames(1, 2, (45, 61))
        view, _ = DetectionView(60, 100)(x)
        expected = tf.image.resize(x[0], view.shape[2:4], "bilinear", antialias=False)
        np.testing.assert_allclose(view[0], expected, atol=1e-3)
        shrunk, _ = DetectionView(16, 100)(x)
        expected = tf.image.resize(x[0], shrunk.shape[2:4], "bilinear", antialias=False)
        np.testing.assert_allclose(shrunk[0], expected, atol=1e-3)

    def test_wrong_sides_are_named(self):
        with pytest.raises(ValueError, match="longer_side 50 is less than .* 60"):
            DetectionView(60, 50)
        with pytest.raises(ValueError, match="shorter_side must be an integer"):
            DetectionView(0)


class TestCandidates:
    def test_boxes_are_in_pixels_of_the_frames(self, model):
        """Of frames twice as large, boxes are twice as large."""
        x = frames(1, 2, (64, 80))
        large = np.repeat(np.repeat(x, 2, 2), 2, 3)
        network = candidates(model, 64, 200)
        found, seen = network(x), model(x)
        for i, size in enumerate((80, 64)):
            edges = np.clip(seen["boxes"][..., i::2], 0, size)
            np.testing.assert_allclose(found["boxes"][..., i::2], edges, atol=1e-3)
        twice = candidates(model, 128, 400)(large)
        assert twice["boxes"].numpy().max() <= 160
        assert found["boxes"].numpy().max() <= 80
        np.testing.assert_allclose(
            found["probabilities"],
            keras.ops.softmax(seen["class_scores"])[..., 1:],
            atol=1e-6,
        )

    def test_tracks_move_what_they_start_from(self, model):
        """Eq. 8.2-8.3 inverted: starts, moved by the deltas, are the ends."""
        x = frames(1, 2, (96, 128))
        seen = model(x)
        found = candidates(model, 96, 128)(x)
        checked = 0
        for n in np.flatnonzero(seen["proposal_mask"][0, 0])[:50]:
            start, end = (found[k].numpy()[0, 0, n] for k in ("starts", "ends"))
            inside = (end > 0.5).all() and end[2] < 127 and end[3] < 95
            if inside:
                deltas = seen["track_deltas"].numpy()[0, 0, n]
                np.testing.assert_allclose(encoded(start, end), deltas, atol=1e-3)
                checked += 1
        assert checked > 5

    def test_kinds_of_tracks(self, model):
        x = frames(1, 2)
        found = {tracks: candidates(model, 96, 128, tracks)(x) for tracks in TRACKS}
        boxes = found["reg"]["boxes"][:, :1]
        np.testing.assert_allclose(found["reg"]["starts"], boxes, atol=1e-3)
        np.testing.assert_allclose(
            found["regcls"]["ends"], found["reg"]["ends"], atol=1e-3
        )
        plain, both = (found[k]["probabilities"].numpy() for k in ("reg", "regcls"))
        assert not np.allclose(plain[:, 0], both[:, 0], atol=1e-4)
        np.testing.assert_allclose(plain[:, 1], both[:, 1], atol=1e-6)  # no next one

    def test_detectors_without_proposals_or_tracks(self):
        release = zoo.load("detect_track_tiny", variant="release")
        with pytest.raises(ValueError, match="reads proposals.*variant='thesis'"):
            candidates(release)
        with pytest.raises(ValueError, match="Unknown tracks 'refined'"):
            candidates(zoo.load("rfcn_tiny"), tracks="refined")
        found = candidates(zoo.load("rfcn_tiny"), 64, 100).output
        assert set(found) == {"boxes", "probabilities", "mask"}


class TestObjectDetector:
    def test_detections_are_sorted_suppressed_and_tracked(self, model):
        x = frames(1, 3)
        found = object_detector(model, 96, 128, count=20)(x)
        raw = candidates(model, 96, 128)(x)
        scores, classes = found["scores"].numpy()[0], found["classes"].numpy()[0]
        assert (np.diff(scores, axis=1) <= 0).all()
        for t in range(3):
            boxes = found["boxes"].numpy()[0, t]
            for i, j in np.ndindex(20, 20):
                if i < j and classes[t, i] == classes[t, j] >= 0:
                    assert iou(boxes[i], boxes[j]) <= 0.3 + 1e-5
        for i in np.flatnonzero(classes[0] >= 0):
            apart = np.abs(raw["boxes"][0, 0] - found["boxes"][0, 0, i]).max(1)
            np.testing.assert_array_equal(
                found["tracked_boxes"][0, 0, i], raw["ends"][0, 0, apart.argmin()]
            )

    def test_boxes_are_exact_in_mixed_precision(self, model, mixed_bfloat16):
        """Near 1000 pixels neighbours in bfloat16 are 4 pixels apart."""
        low = zoo.load("detect_track_tiny", weights=model)
        found = candidates(low, 48, 64, "regcls")(frames(1, 2, (720, 960)))
        assert {v.dtype for v in found.values()} == {tf.float32, tf.bool}
        for key in ("boxes", "starts", "ends"):
            boxes = found[key].numpy()
            off = np.abs(boxes - boxes.astype(tf.bfloat16.as_numpy_dtype)).max()
            assert off > 0.5, key

    def test_one_graph_for_all(self, model):
        network = object_detector(model, 64, 100)
        spec = tf.TensorSpec([None] * 4 + [3], tf.uint8)
        graph = tf.function(network, input_signature=[spec])
        for shape in ((1, 2, (50, 70)), (2, 1, (90, 33))):
            found = graph(frames(*shape))
            assert found["boxes"].shape == (*shape[:2], 100, 4)
            assert found["tracked_boxes"].shape == (shape[0], shape[1] - 1, 100, 4)
            assert np.isfinite(found["boxes"]).all()


class TestFrameDetector:
    """Tracing takes longer than these frames do, so each test has few networks."""

    def test_chunks_make_no_difference(self, model):
        """What is found does not depend on how many frames pass at once."""
        network, x = candidates(model, 48, 64), frames(1, 5, (48, 64))[0]
        one = list(FrameDetector(network, chunk=1)(iter(x)))
        all_ = list(FrameDetector(network, chunk=8)(x))
        assert [d.frame for d, _ in one] == [d.frame for d, _ in all_] == [*range(5)]
        assert one[0][1] is all_[0][1] is None
        for (a, s), (b, t) in zip(one[1:], all_[1:], strict=True):
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
            np.testing.assert_allclose(s.starts, t.starts, atol=0.05)
            np.testing.assert_allclose(s.ends, t.ends, atol=0.05)

    def test_stride(self, model):
        network, x = candidates(model, 48, 64), frames(1, 7, (48, 64))[0]
        strided = [d for d, _ in FrameDetector(network, 3)(x)]
        assert [d.frame for d in strided] == [0, 3, 6]
        ragged = FrameDetector(network, 4)(x)
        assert [d.frame for d, _ in ragged] == [0, 4, 6]  # up to the end
        plain = [d for d, _ in FrameDetector(network)(x[::3])]
        for a, b in zip(strided, plain, strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)

    def test_bad_input_is_named(self, model):
        network = candidates(model, 48, 64)
        with pytest.raises(ValueError, match="stride must be a whole number.*0"):
            FrameDetector(network, 0)
        mixed = [np.zeros((48, 64, 3), "uint8"), np.zeros((40, 64, 3), "uint8")]
        with pytest.raises(ValueError, match=r"\(40, 64, 3\), \(48, 64, 3\)"):
            list(FrameDetector(network)(mixed))
        assert list(FrameDetector(network)([])) == []


class TestExport:
    def test_signature(self, model, exported):
        assert exported.parts[-2:] == ("dt", "1")
        served = tf.saved_model.load(str(exported)).signatures["serving_default"]
        x = frames(2, 2, (60, 90))
        got = {k: v.numpy() for k, v in served(frames=tf.constant(x)).items()}
        assert {k: v.shape for k, v in got.items()} == {
            "boxes": (2, 2, 100, 4),
            "scores": (2, 2, 100),
            "classes": (2, 2, 100),
            "labels": (2, 2, 100),
            "tracked_boxes": (2, 1, 100, 4),
        }
        network = object_detector(model, 96, 160)
        expected = {k: v.numpy() for k, v in network(x).items()}
        assert unmatched(expected, got) < 0.02
        names = np.array([b"", b"bus", b"turtle", b"whale", b"zebra"])
        np.testing.assert_array_equal(got["labels"], names[got["classes"] + 1])
        record = json.loads((exported / "assets.extra" / "zoo.json").read_text())
        assert record["labels"] == ["bus", "turtle", "whale", "zebra"]
        assert record["task"] == "detection"

    def test_jpeg_files_are_answered_like_their_frames(self, model, exported):
        served = tf.saved_model.load(str(exported)).signatures["jpeg"]
        files, x = verification.encoded(verification.waves((1, 2, 60, 90)))
        got = {k: v.numpy() for k, v in served(jpeg=tf.constant(files)).items()}
        outputs = object_detector(model, 96, 160)(x)
        assert unmatched({k: v.numpy() for k, v in outputs.items()}, got) < 0.02
        for bad, message in (
            ([[b"GIF"]], r"is no JPEG.*\[0\] \[0\] \[3\]"),
            ([[files[0, 0]] * 257], "at most 256 frames may be sent"),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                served(jpeg=tf.constant(bad))
        record = json.loads((exported / "assets.extra" / "zoo.json").read_text())
        assert tuple(record["signatures"]) == zoo.info("detect_track_tiny").signatures

    def test_wrong_requests_are_answered(self, exported):
        served = tf.saved_model.load(str(exported)).signatures["serving_default"]
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="`frames` must be uint8"
        ):
            served(frames=tf.zeros((1, 2, 0, 64, 3), tf.uint8))
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="request is too large"
        ):
            served(frames=tf.zeros((1, 1, 1, MAX_PIXELS + 1, 3), tf.uint8))

    def test_its_limits_are_chosen(self, model, tmp_path):
        limits = Limits(max_pixels=3 * 96 * 160, max_frames=2)
        chosen = {"view": (96, 160), "limits": limits, "verify": False}
        path = export_detector(model, tmp_path, "dt", **chosen)
        record = json.loads((path / "assets.extra" / "zoo.json").read_text())
        assert (record["max_pixels"], record["max_frames"]) == (46_080, 2)
        served = tf.saved_model.load(str(path)).signatures
        for clip, message in (
            (tf.zeros((1, 3, 16, 16, 3), tf.uint8), "at most 2 frames may be sent"),
            (tf.zeros((1, 2, 192, 160, 3), tf.uint8), "at most 46080 pixels"),
        ):
            files = tf.map_fn(tf.io.encode_jpeg, clip[0], tf.string)[None]
            for name, sent in (("serving_default", clip), ("jpeg", files)):
                with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                    served[name](sent)
        with pytest.raises(ValueError, match="max_frames must be .* got 0"):
            Limits(max_frames=0)

    def test_the_reader_of_classifiers_says_what_it_is(self, exported):
        with pytest.raises(ValueError, match="is a detector.*signatures"):
            load_exported(exported)

    def test_what_does_not_fit_is_named(self, model, tmp_path):
        with pytest.raises(ValueError, match="4 classes, got 2 labels"):
            export_detector(model, tmp_path, labels=["a", "b"])
        with pytest.raises(ValueError, match="sequence of names, got 'bus'"):
            export_detector(model, tmp_path, labels="bus")
        broken = zoo.load("detect_track_tiny", weights=model)
        broken.get_layer("rfcn_cls").bias.assign([np.nan] * 45)
        with pytest.raises(VerificationError, match="not finite"):
            export_detector(broken, tmp_path, view=(64, 96))
        assert not list(tmp_path.rglob("saved_model.pb"))

    def test_unmatched_counts_what_is_missing(self):
        boxes = np.random.default_rng(0).uniform(0, 50, (1, 1, 4, 4))
        found = {
            "boxes": boxes,
            "scores": np.full((1, 1, 4), 0.5),
            "classes": np.array([[[0, 1, 2, -1]]]),
        }
        assert unmatched(found, found) == 0
        moved = {**found, "boxes": boxes + [[[[0], [9], [0], [0]]]]}
        assert unmatched(found, moved) == 0.25
        assert unmatched(found, {**found, "classes": found["classes"] * 0}) == 0.5
