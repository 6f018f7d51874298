"""Export of a classifier as a LiteRT file, for telephones and other small machines.

One file, `.tflite`, with one signature: clips of any number, length and size in, raw
scores and probabilities out, frames taken and resized inside as in a SavedModel. Flow
computed inside is no part of it: its loops are for servers.

Source: the test-time network of thesis 7.3.3; ai.google.dev/edge/litert.
"""

import re

import tensorflow as tf

from zoo.exports.contract import Contract
from zoo.exports.portable import Format, FormatError, Network, export_file

EXTRA = "litert"
# How the converter names an operation that it has no counterpart for.
MISSING = re.compile(r"error: (?:failed to legalize operation )?'(tf\.\w+)'")


def export_litert(model, path, contract=None, verify=True):
    """Writes a classifier as a LiteRT file, normalisations folded.

    Args:
        model: a classifier of the zoo.
        path: of the file, ".tflite" at its end; the names of the classes go beside
            it, one a line, ".labels.txt" for ".tflite".
        contract: `zoo.exports.Contract`, of which labels, frames, shorter_side and
            flip count; None for its defaults.
        verify: run it by LiteRT's interpreter and compare with the model.

    Returns:
        The path, a pathlib.Path.

    Raises:
        ValueError: another ending, or labels that do not fit.
        FileExistsError: the file exists.
        FormatError: the model needs what LiteRT does not have; the message names it.
        VerificationError: the file does not compute what the model does.
        ImportError: `verify` without the package of the interpreter.

    Source: thesis 7.3.3; ai.google.dev/edge/litert.
    """
    kind = Format("LiteRT", ".tflite", _convert, _run)
    if verify:
        interpreter()
    return export_file(model, path, contract or Contract(), kind, verify)


def interpreter():
    """LiteRT's class of interpreters (ai.google.dev/edge/litert).

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "Files of LiteRT are run by ai-edge-litert: pip install "
            f"'spacetime-zoo[{EXTRA}]', or export with verify=False."
        ) from error
    return Interpreter


def _convert(network: Network):
    """The bytes of a file."""
    function = network.function.get_concrete_function(**network.specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], trackable_obj=network.module
    )
    try:
        return converter.convert()
    except Exception as error:  # the converter's own, which is private
        missing = sorted(set(MISSING.findall(str(error))))
        if not missing:
            raise
        raise FormatError(
            f"LiteRT has no {', '.join(missing)}, which {network.name} needs; "
            "export it as a SavedModel."
        ) from error


def _run(path, inputs):
    """Outputs of a file, {name: array}."""
    return interpreter()(model_path=str(path)).get_signature_runner()(**inputs)
