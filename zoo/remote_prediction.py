"""What `zoo predict --server` does: a video to a server, its best classes back.

Source: thesis 7.3.3; tensorflow.org/tfx/serving.
"""

import dataclasses

from zoo.prediction import flow_of, warn_of_damage

KINDS = {"clips": "rgb", "flow": "flow", "jpeg": "rgb"}
MAX_FRAMES = 10**9  # of a video that is sent in windows, a few in memory at a time


@dataclasses.dataclass(frozen=True)
class RemotePredictor:
    """Classifies videos by a model of a server.

    Attributes:
        model: the `zoo.exports.client.ServedModel`. signature: which is asked.
        inputs: names of what it takes. reader: of the video. frames: how many are
            sent; None sends all. window: of so many frames are parts of a video, or
            None.

    Source: thesis 7.3.3 for what is answered.
    """

    model: object
    signature: str
    inputs: tuple
    reader: object
    frames: int | None
    window: int | None

    def best(self, clip, top):
        """The best classes of a batch of one clip, [(score, label)], best first."""
        from zoo.exports.client import encode_jpeg

        inputs = {name: clip[KINDS[name]] for name in self.inputs}
        if "jpeg" in inputs:
            inputs["jpeg"] = [encode_jpeg(x) for x in inputs["jpeg"]]
        outputs = self.model.predict(inputs, self.signature)
        return _best(outputs, top)


def open_remote(options):
    """The flags of the command line as a `RemotePredictor`.

    Args:
        options: the flags `zoo.command_line.SERVER`, --model and --flow.

    Raises:
        ValueError: flags that do not go together, or a model that takes something else
            than a video.
        OSError: no server, no such model.

    Source: thesis 7.3.3.
    """
    from zoo.datasets import Reader
    from zoo.exports.client import Client

    for flag in ("take", "window"):
        value = options[flag].value
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}.")
    if options.take and options.window:
        raise ValueError("--take and --window do not go together; leave one out.")
    try:
        client = Client(options.server, timeout=options.timeout, tls=_tls(options.ca))
    except ImportError as error:
        raise ValueError(str(error)) from error
    model = client.model(options.model, version=options.version, label=options.label)
    signature = options.signature
    if signature is None:
        signature = "jpeg" if "://" in options.server else "serving_default"
    inputs = _inputs(model, signature)
    if options.window and "flow" in inputs:
        raise ValueError("--window sends frames; this model also takes optical flow.")
    kinds = [KINDS[name] for name in inputs]
    flow = flow_of(options.flow) if "flow" in kinds else None
    reader = Reader(kinds, flow, on_damage=warn_of_damage)
    return RemotePredictor(
        model, signature, inputs, reader, options.take, options.window
    )


def _tls(ca):
    from zoo.exports.client import TLS

    if ca is None:
        return None
    return TLS() if ca == "system" else TLS(ca=ca)


def _inputs(model, signature):
    """Names of what a signature takes, if they are those of a video."""
    found = model.signatures()
    if signature not in found:
        raise ValueError(
            f"{model.wanted.name} has no signature {signature!r}; it has "
            f"{', '.join(sorted(found))} (--signature)."
        )
    inputs = tuple(sorted(found[signature]["inputs"]))
    outputs = set(found[signature]["outputs"])
    if not set(inputs) <= set(KINDS) or not {"labels", "top_scores"} <= outputs:
        raise ValueError(
            f"The signature {signature!r} of {model.wanted.name} takes "
            f"{', '.join(inputs)} and gives {', '.join(sorted(outputs))}; predictions "
            "need clips, flow or jpeg, and labels with their top_scores."
        )
    return inputs


def _best(outputs, top):
    labels, scores = outputs["labels"][0], outputs["top_scores"][0]
    classes = outputs["scores"].shape[1] if "scores" in outputs else len(labels)
    if min(top, classes) > len(labels):
        raise ValueError(
            f"The server names the {len(labels)} best of {classes} classes; --top "
            f"{top} asks for more. Export the model with a larger top_k."
        )
    return list(zip(scores, labels, strict=True))[:top]


def print_windows(predictor, path, top):
    """Prints the best classes of every part of a video, as they come.

    Args:
        predictor: a `RemotePredictor` with a window. path: of the video. top: how
            many classes.

    Source: thesis 7.3.3 for the prediction of each part.
    """
    from zoo.datasets.video import stream_frames
    from zoo.exports.client import encode_jpeg

    frames = stream_frames(path, max_frames=MAX_FRAMES)
    if "jpeg" in predictor.inputs:
        frames = (encode_jpeg(frame[None])[0] for frame in frames)
    print(path)
    for part in predictor.model.stream(
        frames, predictor.window, signature=predictor.signature
    ):
        print(f"  frames {part.first}-{part.first + part.count - 1}")
        for score, label in _best(part.outputs, top):
            print(f"    {score:.4f}  {label}", flush=True)
