"""Networks of two streams whose only input is a video: flow is computed inside.

The motion stream sees stacks of optical flow, which everybody used to compute for days
beforehand. Here they are a layer, so that a served model needs nothing but frames.

Source: thesis 2.3 and 3.3.5 (TV-L1 flow, stacks of 10 fields).
"""

import keras

from zoo.layers import FlowStack

FLOWS = {"tvl1": "default", "tvl1_fast": "fast"}
"""Names of ways to compute flow, and the presets of `zoo.layers.TVL1Flow`."""


def plain_rgb(model, flow="tvl1", positions=None, camera_motion=False):
    """A network of optical flow as one of frames alone.

    Args:
        model: a model of the zoo that sees `flow`, or `rgb` and `flow`. It's shared:
            trained further, it's trained in both forms.
        flow: one of `FLOWS`.
        positions: how many equally spaced frames of the video the network sees, each
            with the flow around it (25 in thesis 4.3.5); None for all that have a whole
            stack, which takes memory and time with the length of the video.
        camera_motion: remove the dominant motion of each field.

    Returns:
        A keras.Model from `frames` [B, N, H, W, 3], RGB 0-255, uint8 or float, the
        consecutive frames of a video, N >= 2, to what `model` returns. For prediction
        and serving: train `model` on stored flow (`zoo flow`), which is a hundred times
        faster than to compute it in every epoch.

    Raises:
        ValueError: an unknown flow; a model that sees no flow.

    Source: thesis 3.3.5.
    """
    if not isinstance(flow, str) or flow not in FLOWS:
        raise ValueError(
            f"flow must be one of {', '.join(map(repr, FLOWS))}, got {flow!r}."
        )
    given = model.input if isinstance(model.input, dict) else [model.input.name]
    if "flow" not in given:
        raise ValueError(
            f"{model.name} sees {' and '.join(given)} and needs no flow: leave out "
            f"flow={flow!r}."
        )
    frames = keras.Input((None, None, None, 3), name="frames")
    stack = FlowStack(positions, FLOWS[flow], camera_motion, name="flow_stack")
    seen = stack(frames)
    outputs = model(seen if len(given) > 1 else seen["flow"])
    return keras.Model(frames, outputs, name=model.name)


def flow_stack_of(model):
    """The `FlowStack` of a model of `plain_rgb`, or None (thesis 3.3.5)."""
    return next((x for x in model.layers if isinstance(x, FlowStack)), None)


def network_of(model):
    """The network of optical flow in a model of `plain_rgb`, or a model itself.

    Source: thesis 3.3.5.
    """
    if flow_stack_of(model) is None:
        return model
    return next(x for x in model.layers if isinstance(x, keras.Model))
