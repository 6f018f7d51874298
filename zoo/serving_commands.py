"""The commands that serve models: export.

Source: thesis 7.3.3; tensorflow.org/tfx/guide/serving.
"""

from zoo.command_line import (
    MODEL,
    TRACKS,
    at_most,
    command,
    model_folder,
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
