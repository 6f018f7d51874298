"""Training a detector: `model.fit` on pairs of frames, which survives being killed.

Source: thesis 8.5.2 for recipe and schedule.
"""

import keras
from absl import logging

from zoo import registry
from zoo.datasets import Skipped
from zoo.datasets.detection_pairs import PairSpec, detection_dataset
from zoo.datasets.imagenet_det import ImageNetDET
from zoo.datasets.imagenet_vid import ImageNetVID
from zoo.training import history
from zoo.training.callbacks import Snapshot, StopWhenDiverged, save_model
from zoo.training.devices import check_batch, make_strategy
from zoo.training.fit import Run, fit_epochs
from zoo.training.optimizers import make_optimizer
from zoo.training.run import begin, detector_identity, open_run
from zoo.training.schedules import CountedRates
from zoo.weights import folder as model_folder
from zoo.weights import loading


def train_detector(
    recipe,
    root,
    run_dir,
    *,
    classes=None,
    devices=None,
    seed=0,
    verbose="auto",
):
    """Trains a detector by a recipe, or resumes where a killed training stopped.

    The same call resumes from the last complete epoch as if nothing had happened.

    Args:
        recipe: a `DetectionRecipe`; its `weights` start the training.
        root: folder of ImageNet VID, and DET where the recipe wants stills, in their
            official layout, see `zoo.datasets.imagenet_vid`.
        run_dir: folder of the run, see `zoo.training.run`; `last` in it is the model.
        classes: names or wnids of the classes to train on; None for all 30.
        devices: names such as ("GPU:0", "GPU:1"), see `make_strategy`; the batch is
            shared out among them.
        seed: of weights, order and flips.
        verbose: of model.fit.

    Returns:
        The `Run`.

    Raises:
        ValueError: a model that is no detector, a run folder of another training, a
            batch that cannot be shared out, a loss that diverged, missing data, or too
            many bad files.
        OSError: the disk is full; the last complete epoch is kept.

    Source: thesis 8.5.2.
    """
    if registry.info(recipe.model).task != "detection":
        raise ValueError(
            f"{recipe.model} is no detector; a DetectionRecipe trains those that "
            "`zoo list` calls detection."
        )
    frozen = recipe.options.get("frozen", registry.info(recipe.model).options["frozen"])
    if recipe.weights is None and frozen:
        raise ValueError(
            f"{recipe.model} would start from random weights with batch normalisation "
            "frozen, and diverge; start it from trained weights (--weights), or let "
            "it learn its statistics: --set options={'frozen':False}."
        )
    strategy = make_strategy(devices)
    check_batch(recipe, recipe.options, strategy.num_replicas_in_sync)
    videos, stills = _data(recipe, root, classes)
    identity = detector_identity(recipe, videos, stills, seed)
    run = open_run(run_dir, identity)
    keras.utils.set_random_seed(seed)
    snapshot = Snapshot(run.resume)
    with strategy.scope():
        model = _compiled(recipe, len(videos.class_names), snapshot.epochs)
        epochs = snapshot.restore(model)
    steps = recipe.updates_per_epoch * recipe.accumulation
    skipped = Skipped()
    dataset = _batches(recipe, videos, stills, seed, epochs * steps, skipped)
    begin(run, identity)  # a wrong setting has been refused by now
    history.keep_epochs(run.history, epochs)
    schedule = CountedRates(recipe.rates, steps, recipe.accumulation, epochs)
    record = _record(recipe, videos.class_names)
    if not schedule.finished:
        settings = {"x": dataset, "steps_per_epoch": steps, "verbose": verbose}
        settings |= {"epochs": recipe.epochs, "initial_epoch": epochs}
        callbacks = [schedule, StopWhenDiverged(run.path)]
        fit_epochs(model, run, callbacks, snapshot, skipped, settings)
    if skipped:
        logging.warning("%s", skipped)
    save_model(run.last, model, record)
    return Run(run.path, history.read(run.history), skipped)


def _data(recipe, root, classes):
    """The videos, and the stills if the recipe wants any."""
    videos = ImageNetVID(root, "train", classes)
    if not recipe.stills:
        return videos, None
    return videos, ImageNetDET(root, "train", classes, recipe.stills_per_class)


def _compiled(recipe, num_classes, epochs):
    """The model, from its starting weights unless a snapshot will replace them."""
    weights = None if epochs else recipe.weights
    model = loading.load(
        recipe.model, weights, num_classes, "softmax", **recipe.options
    )
    model.compile(
        make_optimizer(recipe.optimizer, recipe.rates[0][0], recipe.accumulation),
        loss_weights=recipe.loss_weights,
    )
    if "objectness" not in model.output:
        raise ValueError(
            f"{recipe.model} reads proposals, which the videos do not hold, with the "
            f"options {recipe.options}; train with variant='thesis', or in model.fit "
            "with proposals."
        )
    return model


def _batches(recipe, videos, stills, seed, step, skipped):
    spec = PairSpec(
        frames=recipe.frames,
        stride=recipe.stride,
        frames_per_video=recipe.frames_per_video,
        shorter_side=recipe.shorter_side,
        longer_side=recipe.longer_side,
        flip=recipe.flip,
        padded_size=recipe.padded_size,
        max_objects=recipe.max_objects,
    )
    return detection_dataset(
        videos,
        stills,
        recipe.batch_size // recipe.accumulation,
        spec,
        seed=seed,
        initial_step=step,
        skipped=skipped,
    )


def _record(recipe, labels):
    return model_folder.ModelRecord(
        name=recipe.model,
        num_classes=len(labels),
        options=recipe.options,
        labels=labels,
        frames=recipe.frames,
        shorter_side=recipe.shorter_side,
        longer_side=recipe.longer_side,
        flip=recipe.flip,
    )
