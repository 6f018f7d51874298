"""The commands that serve models: export, serve-config.

Source: thesis 7.3.3; tensorflow.org/tfx/guide/serving.
"""

from zoo.command_line import (
    MODEL,
    TRACKS,
    Usage,
    at_most,
    command,
    model_folder,
    one,
    refuse,
    require,
)


@command(
    "export",
    "",
    model=MODEL,
    out=("string", None, "folder of all served models"),
    name=("string", None, "name to serve it under; the model's own by default"),
    flow=("string", None, "compute flow inside, of frames: tvl1 or tvl1_fast"),
    tracks=TRACKS,
)
def export(options, arguments):
    """Writes a SavedModel for TensorFlow Serving: OUT/NAME/VERSION/."""
    at_most(0, arguments)
    require(options, "model", "out")
    from zoo import detection_commands
    from zoo.exports import export as run_export
    from zoo.exports.verification import VerificationError
    from zoo.weights import folder

    model, record = folder.load(model_folder(options.model))
    if detection_commands.is_detector(record):
        return detection_commands.export(options, record, model)
    refuse(options, "tracks", of="A classifier")
    if options.flow:
        from zoo.models.plain_rgb import plain_rgb

        model = plain_rgb(model, options.flow)
    view = {"frames": record.frames, "shorter_side": record.shorter_side}
    try:
        path = run_export(
            model,
            options.out,
            options.name,
            labels=record.labels,
            flip=record.flip,
            **view,
        )
    except VerificationError as error:
        raise ValueError(f"The export was not published: {error}") from error
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
