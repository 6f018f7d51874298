"""Export of a classifier as an ONNX file, for runtimes other than TensorFlow's.

One graph: clips of any number, length and size in, raw scores and probabilities out,
frames taken and resized inside as in a SavedModel.

Source: the test-time network of thesis 7.3.3; onnx.ai.
"""

import tensorflow as tf

from zoo.exports.contract import Contract
from zoo.exports.portable import Format, FormatError, Network, export_file

EXTRA = "onnx"
OPSET = 18
# Rewrites of tf2onnx, all that apply but its ReshapeOptimizer (1.17), which confuses
# sizes that only a run knows behind the sums of residual units.
REWRITES = ("Transpose", "ConstFold", "MergeDuplicatedNodes", "Identity", "BackToBack")


def export_onnx(model, path, contract=None, verify=True):
    """Writes a classifier as an ONNX file, normalisations folded.

    Args:
        model: a classifier of the zoo.
        path: of the file, ".onnx" at its end; the names of the classes go beside it,
            one a line, ".labels.txt" for ".onnx".
        contract: `zoo.exports.Contract`, of which labels, frames, shorter_side and
            flip count; None for its defaults.
        verify: run it by ONNX Runtime and compare with the model.

    Returns:
        The path, a pathlib.Path.

    Raises:
        ValueError: another ending, or labels that do not fit.
        FileExistsError: the file exists.
        FormatError: the model needs what ONNX does not have; the message names it.
        VerificationError: the file does not compute what the model does.
        ImportError: the converter or the runtime is not installed.

    Source: thesis 7.3.3; onnx.ai.
    """
    kind = Format("ONNX", ".onnx", _convert, _run)
    packages()
    return export_file(model, path, contract or Contract(), kind, verify)


def packages():
    """The modules onnx, tf2onnx and onnxruntime (onnx.ai).

    Raises:
        ImportError: they are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx
        import tf2onnx.optimizer
        import tf2onnx.tf_loader
        import tf2onnx.tfonnx
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written by tf2onnx and run by onnxruntime: pip install "
            f"'spacetime-zoo[{EXTRA}]'."
        ) from error
    return onnx, tf2onnx, onnxruntime


def _convert(network: Network):
    """The bytes of a file."""
    onnx, tf2onnx, _ = packages()
    function = network.function.get_concrete_function(**network.specs)
    inputs = {f"{name}:0": name for name in network.specs}
    # In the order in which TensorFlow flattens a dict.
    outputs = {
        tensor.name: name
        for tensor, name in zip(
            function.outputs, sorted(function.structured_outputs), strict=True
        )
    }
    ends = {"input_names": list(inputs), "output_names": list(outputs)}
    graph_def = tf2onnx.tf_loader.from_function(function, **ends)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph, opset=OPSET, tensors_to_rename={**inputs, **outputs}, **ends
        )
        steps = {n: getattr(tf2onnx.optimizer, f"{n}Optimizer") for n in REWRITES}
        # Errors are raised: caught, every step would also copy the whole graph.
        converted = tf2onnx.optimizer.optimize_graph(converted, False, steps)
    model = converted.make_model(network.name)
    missing = sorted({x.op_type for x in _nodes(model.graph) if not _known(onnx, x)})
    if missing:
        raise FormatError(
            f"ONNX has no {', '.join(missing)}, which {network.name} needs; export it "
            "as a SavedModel."
        )
    return model.SerializeToString()


def _nodes(graph):
    """All nodes of a graph, and of the graphs in its loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def _known(onnx, node):
    return onnx.defs.has(node.op_type, domain=node.domain)


def _run(path, inputs):
    """Outputs of a file, {name: array}."""
    *_, runtime = packages()
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
