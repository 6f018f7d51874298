"""Training: a thin layer over `model.fit` that survives being killed.

Source: thesis 7.3.3 for recipe and schedule.
"""

import contextlib
import dataclasses
import errno
import fnmatch
from pathlib import Path

import keras
from absl import logging

from zoo import registry
from zoo.datasets import ClipSpec, Skipped, steps_per_epoch, training_dataset
from zoo.evaluation.evaluate import network_errors
from zoo.files import WriteError, explain
from zoo.training import history
from zoo.training.callbacks import BestModel, Snapshot, StopWhenDiverged, save_model
from zoo.training.devices import check_batch, make_strategy
from zoo.training.optimizers import make_optimizer
from zoo.training.run import begin, held, identity_of, open_run
from zoo.training.schedules import CountedRates, DropAtSaturation
from zoo.training.validation import Validation
from zoo.weights import folder as model_folder
from zoo.weights import loading


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A training that has ended.

    Attributes:
        folder: the run folder; `folder/best` and `folder/last` are model folders.
        history: {"epoch": [...], "loss": [...], ...} of all epochs.
        skipped: a `zoo.datasets.Skipped`, the videos that could not be read.

    Source: ours.
    """

    folder: Path
    history: dict
    skipped: Skipped


def train(
    recipe,
    videos,
    run_dir,
    validation=None,
    *,
    devices=None,
    seed=0,
    cache=None,
    flow=None,
    verbose="auto",
):
    """Trains a model by a recipe, or resumes where a killed training stopped.

    The same call resumes: weights, optimiser, schedule, data order and history go on
    from the last complete epoch as if nothing had happened. Seeds Python, NumPy and
    Keras. Networks are compiled with XLA on one GPU (Keras' "auto"); on CPUs XLA's
    training step is slower, and under several devices Keras cannot use it.

    Args:
        recipe: a `Recipe`; its `weights` start the training.
        videos: `zoo.datasets.VideoList` to train on.
        run_dir: folder of the run, see `zoo.training.run`.
        validation: `VideoList` whose error drives the schedule and chooses the best
            epoch; without, the training's own accuracy does.
        devices: names such as ("GPU:0", "GPU:1"), see `make_strategy`; the batch is
            shared out among them.
        seed: of weights, order of videos, sampling and augmentation.
        cache: a `zoo.datasets.FrameCache` for small sets, or None.
        flow: a source of optical flow for networks that see it, see
            `zoo.datasets.flow_source`.
        verbose: of model.fit.

    Returns:
        The `Run`.

    Raises:
        ValueError: a run folder of another training, a batch that cannot be shared
            out, a loss that diverged (`callbacks.Diverged`), too many bad videos, a
            network that sees flow without a source of it, or the reverse.
        OSError: the disk is full; the last complete epoch is kept.

    Source: thesis 7.3.3.
    """
    _check_classes(videos, validation)
    _check_flow(recipe, flow)
    strategy = make_strategy(devices)
    options = _options(recipe)
    check_batch(recipe, options, strategy.num_replicas_in_sync)
    identity = identity_of(recipe, videos, validation, seed, flow)
    run = open_run(run_dir, identity)
    keras.utils.set_random_seed(seed)
    snapshot = Snapshot(run.resume)
    with strategy.scope():
        model = _compiled(recipe, options, len(videos.class_names), snapshot.epochs)
        epochs = snapshot.restore(model)
    skipped = Skipped()
    data = _batches(recipe, videos, seed, epochs, cache, flow, skipped)
    begin(run, identity)  # a wrong setting has been refused by now
    if epochs:
        logging.info("%s: resuming after epoch %d.", run.path, epochs)
    past = history.keep_epochs(run.history, epochs)
    schedule = _schedule(recipe, validation, past, data["steps_per_epoch"])
    record = _record(recipe, options, videos.class_names, flow)
    if epochs < recipe.epochs and not schedule.finished:
        callbacks = [
            *_validations(recipe, validation, cache, flow),
            schedule,
            StopWhenDiverged(run.path),
            BestModel(run.best, record, past),
        ]
        settings = {"epochs": recipe.epochs, "initial_epoch": epochs}
        settings |= {**data, "verbose": verbose}
        fit_epochs(model, run, callbacks, snapshot, skipped, settings)
    if skipped:
        logging.warning("%s", skipped)
    save_model(run.last, model, record)
    return Run(run.path, history.read(run.history), skipped)


def _check_classes(videos, validation):
    if validation is None or validation.class_names == videos.class_names:
        return
    trained, tested = set(videos.class_names), set(validation.class_names)
    raise ValueError(
        "The validation videos need the classes of the training videos in the same "
        f"order; missing: {', '.join(sorted(trained - tested)) or 'none'}; extra: "
        f"{', '.join(sorted(tested - trained)) or 'none'}. Make the class folders "
        "equal, or use VideoList.with_classes."
    )


def _check_flow(recipe, flow):
    sees = _inputs(recipe)
    if ("flow" in sees) != (flow is not None):
        given = "none was given" if flow is None else f"{flow} was given"
        raise ValueError(
            f"{recipe.model} sees {' and '.join(sees)}; of optical flow {given}. "
            "Networks that see flow need --flow with a folder or a method, others none."
        )


def _inputs(recipe):
    """What the model sees; frames, where its record does not say."""
    return tuple(registry.info(recipe.model).inputs) or ("rgb",)


def _options(recipe):
    """Options of the recipe, and those that the starting weights were trained under."""
    info = registry.info(recipe.model)
    found = loading.find(info, recipe.weights).options if recipe.weights else {}
    inherited = {key: value for key, value in found.items() if key in info.options}
    return {**inherited, **recipe.options}


def _compiled(recipe, options, num_classes, epochs):
    """The model, from its starting weights unless a snapshot will replace them."""
    weights = None if epochs else recipe.weights
    model = loading.load(recipe.model, weights, num_classes, "softmax", **options)
    _freeze(model, recipe.frozen)
    model.compile(
        optimizer=make_optimizer(
            recipe.optimizer, recipe.rates[0][0], recipe.accumulation
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _freeze(model, patterns):
    """Leaves the layers that match a wildcard as they are."""
    for pattern in patterns:
        layers = [x for x in model.layers if fnmatch.fnmatch(x.name, pattern)]
        if not layers:
            raise ValueError(
                f"frozen={pattern!r} matches no layer of {model.name}; names are such "
                f"as {', '.join(x.name for x in model.layers[2:7])}."
            )
        for layer in layers:
            layer.trainable = False


def _batches(recipe, videos, seed, epoch, cache, flow, skipped):
    """Arguments of model.fit: batches from an epoch on, and how many make one."""
    batch = recipe.batch_size // recipe.accumulation
    spec = ClipSpec(
        frames=recipe.frames,
        size=recipe.size,
        stride_range=recipe.stride,
        shorter_side=recipe.shorter_side,
        crop=recipe.crop,
        jitter=recipe.jitter,
        flip=recipe.flip,
        inputs=_inputs(recipe),
        flow=flow,
    )
    dataset = training_dataset(
        videos,
        batch,
        spec,
        seed=seed,
        initial_epoch=epoch,
        repeats=recipe.repeats,
        cache=cache,
        skipped=skipped,
    )
    steps = steps_per_epoch(videos, batch, recipe.repeats)
    return {"x": dataset, "steps_per_epoch": steps}


def _schedule(recipe, validation, past, steps_per_epoch):
    if recipe.rates[0][1] is not None:
        return CountedRates(
            recipe.rates, steps_per_epoch, recipe.accumulation, epochs=len(past)
        )
    monitor = "accuracy" if validation is None else "val_accuracy"
    return DropAtSaturation(
        recipe.learning_rate,
        monitor,
        patience=recipe.patience,
        history=[row[monitor] for row in past],
    )


def _validations(recipe, videos, cache, flow):
    if videos is None:
        return []
    view = (recipe.test_frames, recipe.shorter_side, recipe.flip)
    return [Validation(videos, *view, cache, flow)]


def _record(recipe, options, labels, flow):
    return model_folder.ModelRecord(
        name=recipe.model,
        num_classes=len(labels),
        options=options,
        labels=labels,
        frames=recipe.test_frames,
        shorter_side=recipe.shorter_side,
        flip=recipe.flip,
        flow=None if flow is None else flow.name,
    )


def fit_epochs(model, run, callbacks, snapshot, skipped, settings):
    """`model.fit` in a run folder: logged, saved after every epoch, errors in one line.

    Args:
        model: compiled. run: the `RunFolder`, begun.
        callbacks: of this kind of training. snapshot: the `Snapshot`.
        skipped: the `Skipped` of the dataset.
        settings: of model.fit: x, epochs and so on.

    Raises:
        ValueError: another process trains in the folder; a loss that diverged; too
            many bad videos; memory that does not suffice.
        OSError: the disk is full; the last complete epoch is kept.

    Source: ours.
    """
    rows = keras.callbacks.CSVLogger(str(run.history), append=True)
    callbacks = [
        *callbacks,
        keras.callbacks.TensorBoard(str(run.logs), write_graph=False),
        rows,
        snapshot,  # last: an epoch counts when all else is written
    ]
    with (
        held(run),
        _closing(rows),
        _disk_errors(run.path),
        network_errors("lower batch_size or raise accumulation"),
        skipped.reraising(),
    ):
        # The dataset shuffles; Keras would warn.
        model.fit(callbacks=callbacks, shuffle=False, **settings)


@contextlib.contextmanager
def _closing(callback):
    """Ends a callback that model.fit leaves open when it is interrupted."""
    try:
        yield
    finally:
        callback.on_train_end()


@contextlib.contextmanager
def _disk_errors(path):
    """Names the run folder in an error of a full disk, whoever met it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or isinstance(error, WriteError):
            raise
        raise explain(error, path) from error
