"""The commands that serve models: export, serve-config.

Source: thesis 7.3.3; tensorflow.org/tfx/guide/serving.
"""

from zoo.command_line import (
    MODEL,
    TRACKS,
    Usage,
    command,
    one,
    require,
)


@command(
    "export",
    "NAME|DIR",
    model=(*MODEL[:2], "the same as DIR"),
    out=("string", None, "folder of all served models"),
    name=("string", None, "name to serve it under; the model's own by default"),
    weights=("string", None, "of NAME: as of zoo train; random ones by default"),
    labels=("list", [], "of NAME: names of the classes, in order"),
    flow=("string", None, "compute flow inside, of frames: tvl1 or tvl1_fast"),
    tracks=TRACKS,
    format=("string", "savedmodel", "savedmodel, or one file: litert or onnx"),
    optimize=("boolean", False, "fold normalisations into convolutions"),
    features=("list", [], "endpoints of the signature features: res4,pool5"),
    frames=("integer", None, "taken from a clip; as tested by default"),
    shorter_side=("integer", None, "to which they are resized; as tested by default"),
    top_k=("integer", 5, "how many of the best classes are returned"),
    max_frames=("integer", 2**13, "of a request, all clips together"),
    max_pixels=("integer", 2**29, "of a request, all frames together"),
    max_view_pixels=("integer", 2**25, "that the network may see of a request"),
)
def export(options, arguments):
    """Writes a SavedModel for TensorFlow Serving: OUT/NAME/VERSION/."""
    from zoo import export_command

    given = [*arguments, *([options.model] if options.model else [])]
    require(options, "out")
    path = export_command.run(one("the name or folder of one model", given), options)
    print(path)
    return 0


@command(
    "serve-config",
    "MODELS",
    out=("string", None, "folder to write; MODELS itself by default"),
    stable=("list", [], "NAME=VERSION,...: stable versions that aren't the highest"),
    batching=("boolean", False, "compute waiting requests together, if of one size"),
)
def serve_config(options, arguments):
    """Writes TensorFlow Serving's files: models.config, compose.yaml and more."""
    from zoo.exports.serving_config import write_serving_config

    folder = one("the folder of all served models", arguments)
    stable = dict(map(_version, options.stable))
    found = write_serving_config(folder, options.out, stable, options.batching)
    for model in found:
        print(f"{model.name}: stable {model.stable}, canary {model.versions[-1]}")
    print(f"Written: {options.out or folder}/models.config, compose.yaml and more")
    return 0


def _version(text):
    name, equals, number = text.partition("=")
    if not (name and equals and number.isdecimal()):
        raise Usage(f"--stable takes NAME=VERSION, such as scenes=3; got {text!r}.")
    return name, int(number)
