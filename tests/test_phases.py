"""Training in the thesis' phases: counted rates, parts of batches, and the recipes."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import training_cases
from tests.test_training import arrays, probe  # noqa: F401
from zoo import registry
from zoo.datasets import VideoList
from zoo.training import Recipe, train
from zoo.training.optimizers import ThesisSGD, make_optimizer
from zoo.training.recipes import RECIPES, find
from zoo.training.schedules import CountedRates

RECIPE = replace(training_cases.RECIPE, optimizer="sgd", learning_rate=1e-3)
STREAMS = {"appearance": "rgb", "motion": "flow"}


# --- rates by number of updates ------------------------------------------------------


def follow(schedule, steps_per_epoch, first_epoch=0):
    """The rate of every batch until the schedule ends training."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(ThesisSGD(123.0))
    schedule.set_model(model)
    rates, model.stop_training = [], schedule.finished
    epoch = first_epoch
    while not model.stop_training and len(rates) < 1000:
        schedule.on_epoch_begin(epoch)
        for batch in range(steps_per_epoch):
            schedule.on_train_batch_begin(batch)
            rates.append(round(float(model.optimizer.learning_rate.numpy()), 9))
            schedule.on_train_batch_end(batch)
            if model.stop_training:
                break
        logs = {}
        schedule.on_epoch_end(epoch, logs)
        assert logs["learning_rate"] == pytest.approx(rates[-1])
        epoch += 1
    return rates


def test_rates_last_as_many_updates_as_the_table_says():
    """Table 4.2: 10^-2 (30K), 10^-3 (10K), in small; training then ends."""
    rates = follow(CountedRates(((1e-2, 5), (1e-3, 4)), 3), 3)
    assert rates == 5 * [1e-2] + 4 * [1e-3]


def test_an_update_may_take_several_batches():
    rates = follow(CountedRates(((1e-2, 2), (1e-3, 1)), 4, accumulation=3), 4)
    assert rates == 6 * [1e-2] + 3 * [1e-3]


@pytest.mark.parametrize("epochs", [1, 2])
def test_rates_go_on_where_a_training_stopped(epochs):
    rates = ((1e-2, 5), (1e-3, 4))
    whole = follow(CountedRates(rates, 3), 3)
    rest = follow(CountedRates(rates, 3, epochs=epochs), 3, epochs)
    assert rest == whole[3 * epochs :]
    assert CountedRates(rates, 3, epochs=3).finished
    assert not CountedRates(rates, 4, epochs=2).finished


@pytest.mark.parametrize(
    "rate", [(), ((1e-2,),), ((1e-2, 0),), ((1e-2, 1.5),), ((0.0, 5),), ((-1, 5),)]
)
def test_senseless_rates_are_named(rate):
    with pytest.raises(ValueError, match="learning_rate must be"):
        Recipe("resnet50", learning_rate=rate)


def test_training_by_counted_updates_ends_and_resumes(probe, tmp_path):  # noqa: F811
    videos = VideoList.from_folder(training_cases.write_videos(tmp_path / "set"))
    recipe = replace(
        RECIPE, learning_rate=((1e-3, 3), (1e-4, 2)), batch_size=4, epochs=99
    )
    run = train(recipe, videos, tmp_path / "run", verbose=0)
    # 8 videos, 2 updates an epoch: 5 updates are two and a half epochs.
    assert run.history["learning_rate"] == pytest.approx([1e-3, 1e-4, 1e-4])
    again = train(recipe, videos, tmp_path / "run", verbose=0)
    assert again.history == run.history
    cut = train(replace(recipe, epochs=1), videos, tmp_path / "cut", verbose=0)
    assert len(cut.history["epoch"]) == 1
    train(recipe, videos, tmp_path / "cut", verbose=0)
    whole, resumed = (
        arrays(next((tmp_path / name / "resume").iterdir())) for name in ("run", "cut")
    )
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)


# --- parts of a batch ----------------------------------------------------------------


def test_parts_on_two_devices_make_the_update_of_the_whole(two_replicas):
    """Keras' own accumulation does not run under a MirroredStrategy."""
    gradients = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype("float32")

    def apply(variable, optimizer, parts):
        optimizer.apply([parts], [variable])

    whole = keras.Variable(np.ones(5, "float32"), name="kernel")
    optimizer = make_optimizer("sgd", 0.1)
    for update in gradients:  # 3 parts on each of 2 replicas; gradients are summed
        apply(whole, optimizer, tf.constant(update.sum(axis=1).mean(axis=0)))
    with two_replicas.scope():
        variable = keras.Variable(np.ones(5, "float32"), name="kernel")
        optimizer = make_optimizer("sgd", 0.1, accumulation=3)
        optimizer.build([variable])
    seen = []
    for part in gradients.reshape(6, 2, 5):
        shares = two_replicas.experimental_distribute_values_from_function(
            lambda context, part=part: tf.constant(
                part[context.replica_id_in_sync_group]
            )
        )
        step = tf.function(lambda share: apply(variable, optimizer, share))
        two_replicas.run(step, args=(shares,))
        seen.append(variable.numpy().copy())
    for i in (0, 1):
        np.testing.assert_array_equal(seen[i], np.ones(5))  # nothing moves in between
    assert np.abs(seen[2] - 1).max() > 1e-2
    np.testing.assert_allclose(seen[-1], whole.numpy(), rtol=1e-5)


def test_accumulation_round_trips_and_is_checked():
    config = ThesisSGD(0.1, accumulation=4).get_config()
    assert ThesisSGD.from_config(config).accumulation == 4
    with pytest.raises(ValueError, match="accumulation must be at least 1; got 0"):
        ThesisSGD(accumulation=0)


@pytest.mark.slow
def test_parts_and_devices_train_like_the_whole(probe, tmp_path):  # noqa: F811
    """A batch of 8 clips in groups of 2: at once, in 2 parts, and that on 2 devices."""
    videos = VideoList.from_folder(training_cases.write_videos(tmp_path / "set"))
    recipe = replace(RECIPE, batch_size=8, epochs=2, options={"sub_batch": 2})
    ways = {"whole": (1, None), "parts": (2, None), "both": (2, ("CPU:0", "CPU:1"))}
    for name, (accumulation, devices) in ways.items():
        train(
            replace(recipe, accumulation=accumulation),
            videos,
            tmp_path / name,
            devices=devices,
            verbose=0,
        )
    whole, parts, both = (
        arrays(tmp_path / name / "last" / "model.weights.h5") for name in ways
    )
    for name, array in whole.items():
        if "moving" not in name and array.ndim != 1:
            np.testing.assert_allclose(parts[name], array, rtol=1e-3, atol=1e-5)
    for name, array in parts.items():
        np.testing.assert_allclose(both[name], array, rtol=1e-4, atol=1e-5)


# --- recipes -------------------------------------------------------------------------

# Table 4.2 and 5.4.1: batch, clips of batch normalisation, rates, chunks, strides.
TABLE_4_2 = {
    "st_resnet_motion": (258, 86, ((1e-2, 30_000), (1e-3, 10_000)), 1, None),
    "st_resnet_appearance": (256, 4, ((1e-2, 10_000), (1e-3, 10_000)), 1, None),
    "st_resnet": (
        128, 4, ((1e-3, 30_000), (1e-4, 30_000), (1e-5, 20_000)), 5, (5, 15),
    ),
    "st_resnet_star": (128, 4, ((1e-4, 2_000), (1e-5, 2_000)), 11, (1, 15)),
    "st_mulnet": (
        128, 4, ((1e-3, 14_900), (1e-4, 7_450), (1e-5, 7_450)), 5, (5, 35),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE_4_2)
def test_recipes_say_what_table_4_2_and_5_4_1_say(name):
    batch, clips, rates, chunks, stride = TABLE_4_2[name]
    recipe = find(name)
    assert (recipe.batch_size, recipe.options["sub_batch"]) == (batch, clips)
    assert (recipe.learning_rate, recipe.frames) == (rates, chunks)
    assert stride is None or recipe.stride == stride
    assert (recipe.test_frames, recipe.size, recipe.optimizer) == (25, 224, "sgd")
    # Whole groups of batch normalisation in every part of the batch.
    assert batch % (recipe.accumulation * clips) == 0


def test_recipe_of_section_3_3_5():
    recipe = find("fusion")
    assert (recipe.batch_size, recipe.frames, recipe.stride) == (96, 5, (1, 10))
    assert (recipe.learning_rate, recipe.options["dropout"]) == (1e-3, 0.85)
    model = registry.build(recipe.model, num_classes=2)
    frozen = {
        x.name
        for x in model.layers
        for pattern in recipe.frozen
        if x.name.startswith(pattern.removesuffix("*"))
    }
    trained = {x.name for x in model.layers if x.trainable_weights} - frozen
    assert trained == {
        "fusion_relu5_3",
        *(f"{s}_fc{i}" for s in STREAMS for i in (6, 7, 8)),
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_phase_starts_from_the_one_before(name):
    """Motion streams crop at corners, and every network has its predecessors."""
    recipe = find(name)
    info = registry.info(recipe.model)
    assert set(recipe.options) <= set(info.options)
    if recipe.model.startswith("motion_resnet") and "tiny" not in recipe.model:
        assert recipe.crop == "corners" and recipe.options["dropout"] == 0.8
    if recipe.weights is not None:
        assert recipe.weights in info.weights
