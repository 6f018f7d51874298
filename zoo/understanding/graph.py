"""Facts computed from the graph of a built model: cost and receptive fields.

Source: thesis section 4.4 (3.8 billion multiply-adds of a ResNet-50), Tables 2.1 and
4.1 (receptive fields in space and time).
"""

import inspect
import math

import keras


def parameters(model):
    """Number of weights, the moving statistics of normalisation left out.

    Source: the count of thesis Tables 3.1 and 3.2.
    """
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def multiply_adds(model, clip):
    """Multiply-adds of all convolutions and fully connected layers for one clip.

    Element-wise work (normalisation, nonlinearities, pooling) is left out, as is usual.

    Args:
        model: a functional model of one or several inputs.
        clip: length and size (T, H, W) of its inputs.

    Returns:
        The number of multiply-adds; FLOPs are twice that.

    Source: thesis section 4.4.
    """
    total = 0

    def visit(layer, shapes):
        nonlocal total
        output = _output_shape(layer, shapes)
        if isinstance(output[0], tuple):  # of pairs of frames: both are alike
            output = output[0]
        if hasattr(layer, "kernel"):
            positions = math.prod(output[:-1])
            total += positions * math.prod(layer.kernel.shape)
        return output

    _walk(model, lambda tensor: (1, *clip, tensor.shape[-1]), visit)
    return total


def receptive_fields(model):
    """Theoretical receptive field of every layer's units, in frames and pixels.

    A frame of a two-stream network is a chunk, an RGB frame with its stack of flow;
    a unit that sees `frames` chunks at a stride of tau sees a span of `frames` tau.

    Args:
        model: a functional model.

    Returns:
        {layer name: (frames, pixels)}; None frames or pixels stand for all.

    Source: thesis Tables 2.1 and 4.1; Fig. 4.3 for time.
    """
    return {
        name: (time[0], space[0]) for name, (time, space) in _windows(model).items()
    }


def inputs_seen(model, name):
    """Names of the inputs on which a layer depends, in the order of the model's.

    Args:
        model: a functional model. name: of one of its layers.

    Source: thesis chapter 6, units of one stream and of both.
    """
    seen = {}

    def visit(layer, inputs):
        seen[layer.name] = frozenset().union(*inputs)
        return seen[layer.name]

    _walk(model, lambda tensor: frozenset([tensor.name]), visit)
    return tuple(x.name for x in model.inputs if x.name in seen[name])


def strides(model):
    """Distance of neighbouring units of every layer, in frames and pixels.

    Args:
        model: a functional model.

    Returns:
        {layer name: (frames, pixels)}.

    Source: thesis Table 2.1.
    """
    return {
        name: (time[1], space[1]) for name, (time, space) in _windows(model).items()
    }


def _windows(model):
    """{layer name: per axis (extent, distance between units)}, time before space."""
    fields = {}

    def visit(layer, inputs):
        # A window slides over all inputs, or over the first beside a shortcut; it is
        # the same, since no shortcut is wider than what it bypasses.
        axes = [_widest(axis) for axis in zip(*inputs, strict=True)]
        if isinstance(layer, keras.layers.GlobalAveragePooling3D):
            axes = [(None, 1), (None, 1)]
        window = getattr(layer, "spacetime_window", ((1, 1), (1, 1)))
        axes = [_extend(*a, *w) for a, w in zip(axes, window, strict=True)]
        fields[layer.name] = axes
        return axes

    _walk(model, lambda tensor: [(1, 1), (1, 1)], visit)
    return fields


def _output_shape(layer, shapes):
    # Layers of several arguments take their shapes one by one, Keras' sums as a list.
    arguments = inspect.signature(layer.compute_output_shape).parameters
    if len(shapes) <= len(arguments):
        return layer.compute_output_shape(*shapes)
    return layer.compute_output_shape(shapes)


def _widest(branches):
    extents, jumps = zip(*branches, strict=True)
    return None if None in extents else max(extents), max(jumps)


def _extend(extent, jump, taps, stride):
    if extent is None or taps is None:
        return None, jump * stride
    return extent + (taps - 1) * jump, jump * stride


def _walk(model, start, visit):
    """Carries values along the graph: start(input), visit(layer, values of inputs)."""
    values = {}
    for layer in model.operations:
        outputs = keras.tree.flatten(layer.output)
        if isinstance(layer, keras.layers.InputLayer):
            value = start(layer.output)
        else:
            inputs = keras.tree.flatten(layer.input)
            value = visit(layer, [values[id(tensor)] for tensor in inputs])
        values.update((id(tensor), value) for tensor in outputs)
