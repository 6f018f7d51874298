"""What `zoo predict` does: a trained model or an export, a video, its best classes.

Source: thesis 7.3.3.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path


def flow_of(name, record=None):
    """The source of optical flow: as asked for, else as the model was trained.

    Args:
        name: of a method or folder, or None. record: `ModelRecord`, or None.

    Source: thesis 3.3.5.
    """
    from zoo.datasets import flow_source
    from zoo.datasets.flow import METHODS

    if name is None and record is not None and record.flow in METHODS:
        name = record.flow
    return None if name is None else flow_source(name)


def with_flow(model, name, record):
    """A model and the source of its flow, which "layer" puts into the model.

    Args:
        model: of a model folder. name: as for `flow_of`, or "layer". record: the
            folder's `ModelRecord`.

    Returns:
        (model, source or None).

    Raises:
        ValueError: "layer" for a model that sees no flow.

    Source: thesis 3.3.5.
    """
    if name != "layer":
        return model, flow_of(name, record)
    from zoo.models.plain_rgb import plain_rgb

    return plain_rgb(model), None


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Classifies videos: a trained model or an export (thesis 7.3.3).

    Attributes:
        classify: from a batch of one clip, as a `zoo.datasets.Reader` reads it, to
            scores [K].
        labels: K names. reader: of the video.
        frames: how many are taken; None takes all, to compute flow between them.
    """

    classify: Callable
    labels: tuple
    frames: int | None
    reader: object

    def best(self, clip, top):
        """The best classes of a batch of one clip, [(score, label)], best first."""
        scores = self.classify(clip)
        order = scores.argsort()[::-1][:top]
        return [(scores[k], self.labels[k]) for k in order]


def open_predictor(path, flow):
    """A model folder or an export as a `Predictor` (thesis 7.3.3).

    Args:
        path: of the folder. flow: source of optical flow, or None to take that of the
            training.

    Raises:
        ValueError: a detector, or an export that others wrote.
    """
    from zoo.weights import folder

    if (Path(path) / folder.RECORD).is_file():
        return _from_model_folder(path, flow)
    from zoo.datasets import Reader
    from zoo.exports import load_exported

    exported = load_exported(path)
    record = exported.record
    if not {"labels", "frames", "shorter_side"} <= set(record):
        raise ValueError(
            f"{path} was not written by `zoo export` (no zoo.json); its labels and "
            "number of frames are unknown."
        )
    kinds = {"clips": "rgb", "flow": "flow"}
    side = record["shorter_side"] if "flow" in exported.inputs else None
    reader = Reader(
        [kinds[name] for name in exported.inputs],
        flow_of(flow),
        shorter_side=side,
        on_damage=warn_of_damage,
    )

    def classify(clip):
        inputs = {name: clip[kinds[name]] for name in exported.inputs}
        return exported(**inputs)["scores"][0]

    frames = None if record.get("computes_flow") else record["frames"]
    return Predictor(classify, record["labels"], frames, reader)


def _from_model_folder(path, flow):
    from zoo import registry
    from zoo.evaluation.evaluate import Scorer, reader_for
    from zoo.weights import folder

    record = folder.load_record(path)
    if registry.info(record.name).task != "classification":
        raise ValueError(
            f"{path} holds {record.name}, a detector; `zoo track` follows objects."
        )
    model, record = folder.load(path)
    model, source = with_flow(model, flow, record)
    score = Scorer(model, record.frames, record.shorter_side, record.flip)
    labels = record.labels or [f"class_{k}" for k in range(record.num_classes)]
    reader = dataclasses.replace(reader_for(score, source), on_damage=warn_of_damage)

    def classify(clip):
        score.pixels(next(iter(clip.values())).shape[1:])
        clip = clip if len(clip) > 1 else next(iter(clip.values()))
        return score.outputs(clip)["predictions"][0]

    return Predictor(classify, labels, score.takes, reader)


def warn_of_damage(path, video, done="predicted"):
    """Says on standard error what of a damaged video was used (ours).

    Args:
        path: of the video. video: as it was read. done: what was done with it.
    """
    print(
        f"zoo: warning: {path}: damaged ({video.damage}); {done} from the "
        f"{video.decoded} frames decoded of {video.declared or '?'} declared",
        file=sys.stderr,
    )


def print_prediction(predictor, path, top):
    """Prints the best classes of a video (thesis 7.3.3).

    Args:
        predictor: a `Predictor`, or a `zoo.remote_prediction.RemotePredictor`. path:
            of the video. top: how many classes.
    """
    from zoo.datasets.sampling import test_indices
    from zoo.evaluation.evaluate import network_errors

    clip = predictor.reader.read(
        path, lambda count: test_indices(count, predictor.frames or count)
    )
    with network_errors("cut or shrink the video"):
        best = predictor.best({name: x[None] for name, x in clip.items()}, top)
    print(path)
    for score, label in best:
        print(f"  {score:.4f}  {label}")
