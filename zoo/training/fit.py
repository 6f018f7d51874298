"""Training: a thin layer over `model.fit` that survives being killed.

Source: thesis 7.3.3 for recipe and schedule.
"""

import contextlib
import dataclasses
import errno
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
from zoo.training.schedules import DropAtSaturation
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
        verbose: of model.fit.

    Returns:
        The `Run`.

    Raises:
        ValueError: a run folder of another training, a batch that cannot be shared
            out, a loss that diverged (`callbacks.Diverged`), too many bad videos.
        OSError: the disk is full; the last complete epoch is kept.

    Source: thesis 7.3.3.
    """
    _check_classes(videos, validation)
    strategy = make_strategy(devices)
    options = _options(recipe)
    check_batch(recipe, options, strategy.num_replicas_in_sync)
    identity = identity_of(recipe, videos, validation, seed)
    run = open_run(run_dir, identity)
    keras.utils.set_random_seed(seed)
    snapshot = Snapshot(run.resume)
    with strategy.scope():
        model = _compiled(recipe, options, len(videos.class_names), snapshot.epochs)
        epochs = snapshot.restore(model)
    skipped = Skipped()
    data = _batches(recipe, videos, seed, epochs, cache, skipped)
    begin(run, identity)  # a wrong setting has been refused by now
    if epochs:
        logging.info("%s: resuming after epoch %d.", run.path, epochs)
    past = history.keep_epochs(run.history, epochs)
    schedule = _schedule(recipe, validation, past)
    record = _record(recipe, options, videos.class_names)
    if epochs < recipe.epochs and not schedule.finished:
        rows = keras.callbacks.CSVLogger(str(run.history), append=True)
        callbacks = [
            *_validations(recipe, validation, cache),
            schedule,
            StopWhenDiverged(run.path),
            BestModel(run.best, record, past),
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
            model.fit(
                **data,
                epochs=recipe.epochs,
                initial_epoch=epochs,
                callbacks=callbacks,
                shuffle=False,  # the dataset shuffles; Keras would warn
                verbose=verbose,
            )
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
    model.compile(
        optimizer=make_optimizer(
            recipe.optimizer, recipe.learning_rate, recipe.accumulation
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _batches(recipe, videos, seed, epoch, cache, skipped):
    """Arguments of model.fit: batches from an epoch on, and how many make one."""
    batch = recipe.batch_size // recipe.accumulation
    spec = ClipSpec(
        frames=recipe.frames,
        size=recipe.size,
        stride_range=recipe.stride,
        shorter_side=recipe.shorter_side,
        jitter=recipe.jitter,
        flip=recipe.flip,
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


def _schedule(recipe, validation, past):
    monitor = "accuracy" if validation is None else "val_accuracy"
    return DropAtSaturation(
        recipe.learning_rate,
        monitor,
        patience=recipe.patience,
        history=[row[monitor] for row in past],
    )


def _validations(recipe, videos, cache):
    if videos is None:
        return []
    view = (recipe.test_frames, recipe.shorter_side, recipe.flip)
    return [Validation(videos, *view, cache)]


def _record(recipe, options, labels):
    return model_folder.ModelRecord(
        name=recipe.model,
        num_classes=len(labels),
        options=options,
        labels=labels,
        frames=recipe.test_frames,
        shorter_side=recipe.shorter_side,
        flip=recipe.flip,
    )


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
