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


def multiply_adds(model, shape):
    """Multiply-adds of all convolutions and fully connected layers for one input.

    Element-wise work (normalisation, nonlinearities, pooling) is left out, as is usual.

    Args:
        model: a functional model of one input.
        shape: of one clip, (T, H, W, C).

    Returns:
        The number of multiply-adds; FLOPs are twice that.

    Source: thesis section 4.4.
    """
    total = 0

    def visit(layer, shapes):
        nonlocal total
        output = _output_shape(layer, shapes)
        if hasattr(layer, "kernel"):
            positions = math.prod(output[:-1])
            total += positions * math.prod(layer.kernel.shape)
        return output

    _walk(model, (1, *shape), visit)
    return total


def receptive_fields(model):
    """Theoretical receptive field of every layer's units, in frames and pixels.

    Args:
        model: a functional model of one input.

    Returns:
        {layer name: (frames, pixels)}; None frames or pixels stand for all.

    Source: thesis Tables 2.1 and 4.1; Fig. 4.3 for time.
    """
    fields = {}

    def visit(layer, inputs):
        # Per axis (extent, distance between neighbouring units); None: everything.
        first, *others = inputs
        if isinstance(layer, keras.layers.GlobalAveragePooling3D):
            first = [(None, 1), (None, 1)]
        window = getattr(layer, "spacetime_window", ((1, 1), (1, 1)))
        first = [_extend(*a, *w) for a, w in zip(first, window, strict=True)]
        axes = [_widest(axis) for axis in zip(first, *others, strict=True)]
        fields[layer.name] = (axes[0][0], axes[1][0])
        return axes

    _walk(model, [(1, 1), (1, 1)], visit)
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
    """Carries a value along the graph: visit(layer, values of its inputs)."""
    values = {}
    for layer in model.operations:
        outputs = keras.tree.flatten(layer.output)
        if isinstance(layer, keras.layers.InputLayer):
            value = start
        else:
            inputs = keras.tree.flatten(layer.input)
            value = visit(layer, [values[id(tensor)] for tensor in inputs])
        values.update((id(tensor), value) for tensor in outputs)
