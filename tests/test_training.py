"""Training: optimiser, schedule, recipes, resuming, replicas, bad input."""

import errno
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import training_cases
from zoo import registry
from zoo.datasets import FrameCache, VideoList
from zoo.evaluation import evaluate
from zoo.files import replacing
from zoo.training import Recipe, callbacks, history, train
from zoo.training.devices import check_batch, make_strategy
from zoo.training.optimizers import MULTIPLIERS, ThesisSGD, make_optimizer
from zoo.training.recipe import override
from zoo.training.recipes import RECIPES, find
from zoo.training.run import begin, held, identity_of, open_run
from zoo.training.schedules import DropAtSaturation, count_drops
from zoo.training.validation import cross_entropy
from zoo.weights import folder as model_folder

ROOT = Path(__file__).resolve().parents[1]
RECIPE = training_cases.RECIPE


@pytest.fixture
def probe(monkeypatch):
    """Registers `probe_net` for one test."""
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    monkeypatch.setattr(registry, "_INFOS", dict(registry._INFOS))
    training_cases.register_probe()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos of two classes, half of them with a moving camera."""
    root = training_cases.write_videos(tmp_path_factory.mktemp("videos") / "set")
    return VideoList.from_folder(root)


def arrays(path):
    """{name: array} of a .weights.h5 file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


# --- optimiser -----------------------------------------------------------------------


def momentum_in_numpy(w, gradients, rates, l2, rate_factor):
    """The released code's update, spelled out; l2 already has its own factor."""
    v = np.zeros_like(w)
    for gradient, rate in zip(gradients, rates, strict=True):
        v = 0.9 * v - (l2 * w + gradient)
        w = w + rate * rate_factor * v
    return w


@pytest.mark.parametrize(
    ("name", "rate_factor", "decay"),
    [
        ("kernel", 1, 1),
        ("scale", 1, 1),
        ("bias", 2, 0),
        ("gamma", 2, 0),
        ("beta", 1, 0),
    ],
)
def test_sgd_is_the_released_codes(name, rate_factor, decay):
    rng = np.random.default_rng(0)
    start = rng.normal(size=5).astype("float32")
    gradients = rng.normal(size=(6, 5)).astype("float32")
    rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]  # with a drop in the middle
    variable = keras.Variable(start, name=name)
    optimizer = ThesisSGD(0.1, l2=0.2)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate.assign(rate)
        optimizer.apply([tf.constant(gradient)], [variable])
    expected = momentum_in_numpy(start, gradients, rates, 0.2 * decay, rate_factor)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    # Keras' own form differs, or the test could not tell them apart.
    plain = keras.Variable(start, name=name)
    theirs = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.2)
    for gradient, rate in zip(gradients, rates, strict=True):
        theirs.learning_rate.assign(rate)
        theirs.apply([tf.constant(gradient)], [plain])
    assert np.abs(plain.numpy() - expected).max() > 1e-2


@pytest.mark.parametrize("unit", ["thesis", "release"])
def test_every_weight_of_the_networks_has_its_multipliers(unit):
    model = registry.build("t_resnet_tiny", unit=unit)
    assert {v.name for v in model.trainable_variables} == set(MULTIPLIERS)


def test_sgd_round_trips_and_rejects_a_senseless_momentum():
    config = ThesisSGD(0.02, momentum=0.8, l2=1e-3).get_config()
    copy = ThesisSGD.from_config(config)
    assert (copy.momentum, copy.l2) == (0.8, 1e-3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ThesisSGD(0.1, momentum=1.5)
    with pytest.raises(ValueError, match="Unknown optimizer 'sdg'; accepted are sgd"):
        make_optimizer("sdg", 0.1)


def test_accumulated_parts_make_the_update_of_the_whole_batch():
    gradients = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    results = []
    for accumulation, steps in ((1, gradients.mean(0)[None]), (4, gradients)):
        variable = keras.Variable(np.ones(3, "float32"), name="kernel")
        optimizer = make_optimizer("sgd", 0.1, accumulation)
        for gradient in steps:
            optimizer.apply([tf.constant(gradient)], [variable])
        results.append(variable.numpy())
    assert np.abs(results[0] - 1).max() > 1e-3
    np.testing.assert_allclose(*results, rtol=1e-6)


# --- schedule ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "patience", "drops"),
    [
        ([], 1, 0),
        ([5, 4, 3, 2], 1, 0),
        ([5, 4, 4], 1, 1),
        ([5, 4, 4], 2, 0),
        ([5, 4, 4, 4.5], 2, 1),
        ([5, 4, 4, 3, 3, 3, 3, 3], 2, 2),
        ([5, 4, float("nan"), float("nan")], 2, 1),
    ],
)
def test_saturation_is_patience_epochs_without_a_new_minimum(errors, patience, drops):
    assert count_drops(errors, patience) == drops


def follow(schedule, values):
    """Runs a schedule over logged values: the rates used, and if it ended."""
    schedule.set_model(keras.Sequential([keras.layers.Dense(1)]))
    schedule.model.compile(ThesisSGD(123.0))
    schedule.model.stop_training = False
    schedule.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        rates.append(float(schedule.model.optimizer.learning_rate.numpy()))
        logs = {"loss": 1.0, schedule.monitor: value}
        schedule.on_epoch_end(epoch, logs)
        assert logs["learning_rate"] == pytest.approx(rates[-1])
        if schedule.model.stop_training:
            break
    return rates, schedule.model.stop_training


def test_the_rate_drops_tenfold_twice_and_then_training_ends():
    values = [0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.9]
    rates, ended = follow(DropAtSaturation(1e-2, patience=1), values)
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    assert ended


@pytest.mark.parametrize("killed_after", range(6))
def test_a_schedule_resumes_from_the_history_alone(killed_after):
    values = [0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.9]
    whole, _ = follow(DropAtSaturation(1e-2, patience=1), values)
    resumed = DropAtSaturation(1e-2, patience=1, history=values[:killed_after])
    rates, ended = follow(resumed, values[killed_after:])
    assert rates == whole[killed_after:] and ended


def test_a_missing_metric_and_a_senseless_factor_are_named():
    with pytest.raises(ValueError, match="watches 'val_accuracy', but .* only loss"):
        DropAtSaturation(1e-2).on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(ValueError, match="0 < factor < 1 and patience >= 1"):
        DropAtSaturation(1e-2, factor=10)


# --- recipes -------------------------------------------------------------------------


def test_the_thesis_recipe_says_what_section_7_3_3_says():
    spatial, temporal = find("dynamic_scenes_spatial"), find("dynamic_scenes")
    assert (spatial.model, spatial.batch_size, spatial.frames) == ("resnet50", 256, 1)
    assert (temporal.model, temporal.batch_size) == ("t_resnet50", 256 // 32)
    assert (temporal.frames, temporal.stride, temporal.size) == (16, (5, 15), 224)
    assert temporal.learning_rate == spatial.learning_rate == 1e-2
    assert (temporal.optimizer, temporal.jitter, temporal.flip) == ("sgd", 0.25, True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_a_model_and_its_options(name):
    recipe = find(name)
    assert set(recipe.options) <= set(registry.info(recipe.model).options)
    check_batch(recipe, recipe.options, 1)


def test_recipes_are_checked():
    assert override(RECIPE, ["epochs=7", "optimizer=adam", "stride=(2, 3)"]) == replace(
        RECIPE, epochs=7, optimizer="adam", stride=(2, 3)
    )
    with pytest.raises(ValueError, match="Cannot set 'epoch=7'; write field=value"):
        override(RECIPE, ["epoch=7"])
    with pytest.raises(ValueError, match="epochs must be a whole number .* got 1.5"):
        override(RECIPE, ["epochs=1.5"])
    with pytest.raises(ValueError, match="learning_rate must be positive; got -1"):
        Recipe("resnet50", learning_rate=-1)
    with pytest.raises(ValueError, match="batch_size 8 cannot be computed in 3"):
        Recipe("resnet50", accumulation=3)
    with pytest.raises(ValueError, match="Unknown recipe 'dynamic'; there are"):
        find("dynamic")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stride=3", r"stride must be two whole numbers such as \(5, 15\); got 3"),
        ("stride=(1, 2, 3)", "stride must be two whole numbers"),
        ("learning_rate=abc", "learning_rate must be a number, or pairs .* got 'abc'"),
        ("learning_rate=1e999", "learning_rate must be positive; got inf"),
        ("options=3", "options must be a dict of plain values .* got 3"),
        ("options={1: 2}", "options must be a dict"),
        ("options={'a': {1}}", "options must be a dict"),
        ("options={[]: 1}", "options must be a dict"),
        ("flip=1", "flip must be True or False; got 1"),
        ("epochs=True", "epochs must be a whole number of at least 1; got True"),
        ("epochs=0", "epochs must be a whole number of at least 1; got 0"),
        ("model=None", "model must be a word; got None"),
        ("weights=5", "weights must be a word, a dict .* or None; got 5"),
        ("jitter=x", "jitter must be a number; got 'x'"),
    ],
)
def test_every_field_of_a_recipe_is_checked_for_its_type(setting, message):
    with pytest.raises(ValueError, match=message):
        override(RECIPE, [setting])


# --- history and run folder ----------------------------------------------------------


def test_history_keeps_saved_epochs_and_no_torn_row(tmp_path):
    path = tmp_path / "history.csv"
    text = "epoch,loss,val_loss\r\n0,0.1,NA\r\n1,0.30000000000000004,NA\r\n2,0."
    path.write_bytes(text.encode())
    assert history.read(path)["loss"] == [0.1, 0.30000000000000004]
    kept = history.keep_epochs(path, 1)
    assert kept == [{"epoch": 0, "loss": 0.1, "val_loss": None}]
    assert path.read_bytes() == b"epoch,loss,val_loss\r\n0,0.1,NA\r\n"
    with pytest.raises(ValueError, match="should list the epochs 0 to 1"):
        history.keep_epochs(path, 2)
    assert history.keep_epochs(path, 0) == [] and not path.exists()
    assert history.read(path) == {}


def test_one_training_at_a_time_in_a_folder(tmp_path):
    identity = {"seed": 1}
    run = open_run(tmp_path / "run", identity)
    begin(run, identity)
    with held(run):
        with pytest.raises(ValueError, match="Another process is training in .*run"):
            with held(run):
                pytest.fail("two trainings hold the folder")
    with held(open_run(tmp_path / "run", identity)):
        pass  # free again


def test_a_run_folder_of_something_else_is_refused(tmp_path):
    identity = {"model": "resnet_tiny", "epochs": 3, "stride": (1, 2)}
    begin(open_run(tmp_path / "run", identity), identity)
    open_run(tmp_path / "run", {**identity, "epochs": 5})  # may be trained on
    with pytest.raises(ValueError, match="began with model 'resnet_tiny', now 't_res"):
        open_run(tmp_path / "run", {**identity, "model": "t_resnet_tiny"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match="has no run.json.*choose a new or empty"):
        open_run(tmp_path / "mine", identity)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is not readable"):
        open_run(tmp_path / "run", identity)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"no": 1}}, "has no option 'no'"),
        ({"weights": "nowhere"}, "neither a known name"),
        ({"stride": (3, 1)}, "stride"),
        ({"jitter": 2.0}, "jitter must be in"),
        ({"optimizer": "sdg"}, "Unknown optimizer 'sdg'"),
        ({"batch_size": 64}, "batch_size must be in 1...8"),
    ],
)
def test_a_wrong_setting_leaves_no_run_behind(probe, videos, tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(replace(RECIPE, **change), videos, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_validation_needs_the_classes_of_the_training(probe, videos, tmp_path):
    other = replace(videos, class_names=("dark", "dusk"))
    with pytest.raises(ValueError, match="missing: light; extra: dusk"):
        train(RECIPE, videos, tmp_path / "run", other, verbose=0)
    assert not (tmp_path / "run").exists()


def test_the_identity_of_a_run_knows_which_class_is_which(videos):
    swapped = replace(videos, class_names=videos.class_names[::-1])
    ours, theirs = (
        identity_of(RECIPE, videos, valid, 0)["validation"]
        for valid in (videos, swapped)
    )
    assert ours != theirs


def test_a_cache_that_is_too_small_is_said_as_such(probe, videos, tmp_path):
    recipe = replace(RECIPE, epochs=1)
    with pytest.raises(ValueError, match="don't fit into the cache.*Raise max_bytes"):
        train(recipe, videos, tmp_path / "run", cache=FrameCache(1000), verbose=0)


def test_what_a_killed_write_left_is_removed_by_the_next(tmp_path):
    code = f"""
        import os, signal
        from zoo.files import replacing
        with replacing({str(tmp_path / "run" / "run.json")!r}) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, env=environment, timeout=60).returncode == -9
    (left,) = (tmp_path / "run").iterdir()
    assert left.name.startswith(".writing-")
    run = open_run(tmp_path / "run", {"seed": 1})
    # Whoever still lives keeps his folder.
    with replacing(tmp_path / "run" / "other") as temporary:
        begin(run, {"seed": 1})
        assert [p for p in run.path.glob(".*")] == [temporary.parent]
        temporary.touch()
    assert sorted(p.name for p in run.path.iterdir()) == ["other", "run.json"]


# --- devices -------------------------------------------------------------------------


def test_devices_are_checked():
    assert make_strategy(None).num_replicas_in_sync == 1
    assert make_strategy(("CPU:1",)).num_replicas_in_sync == 1
    assert make_strategy(("CPU:0", "CPU:1")).num_replicas_in_sync == 2
    for wrong in (("TPU:7",), (), ("CPU:0", "CPU:0")):
        with pytest.raises(ValueError, match="that there are: CPU:0, CPU:1"):
            make_strategy(wrong)


def test_a_batch_must_be_shared_out_in_whole_groups():
    check_batch(replace(RECIPE, batch_size=8), {"sub_batch": 4}, 2)
    with pytest.raises(ValueError, match="make batch_size a multiple of 8"):
        check_batch(replace(RECIPE, batch_size=12), {"sub_batch": 4}, 2)
    check_batch(replace(RECIPE, accumulation=2, optimizer="sgd"), {}, 2)
    with pytest.raises(ValueError, match="so set accumulation=1, or optimizer=sgd"):
        check_batch(replace(RECIPE, accumulation=2, optimizer="adam"), {}, 2)


@pytest.mark.slow
def test_two_replicas_train_like_one_device(probe, videos, tmp_path):
    recipe = replace(RECIPE, epochs=3, patience=9)
    for name, devices in (("one", None), ("two", ("CPU:0", "CPU:1"))):
        train(recipe, videos, tmp_path / name, videos, devices=devices, verbose=0)
    one, two = (
        arrays(tmp_path / name / "resume" / "epoch-0003.weights.h5")
        for name in ("one", "two")
    )
    start = probe_start(tmp_path / "start.weights.h5")
    assert set(one) == set(two) and len(one) > 10
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-5)
    moved = [np.abs(one[n] - start[n]).max() for n in start if one[n].dtype.kind == "f"]
    assert min(moved) > 1e-4  # every weight and moving statistic was trained
    first, second = (history.read(tmp_path / n / "history.csv") for n in ("one", "two"))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert second["val_loss"] == pytest.approx(first["val_loss"], rel=1e-5)


def probe_start(path):
    """Weights that training starts from, by their names in a file that is written."""
    keras.utils.set_random_seed(0)
    registry.build("probe_net", num_classes=2, sub_batch=2).save_weights(path)
    return arrays(path)


# --- training ------------------------------------------------------------------------


def test_training_learns_logs_and_keeps_the_best_epoch(probe, videos, tmp_path):
    recipe = replace(RECIPE, epochs=6, patience=9, learning_rate=3e-2)
    run = train(recipe, videos, tmp_path / "run", videos, verbose=0)
    assert run.history["epoch"] == list(range(6)) and not run.skipped
    assert run.history["loss"][-1] < 0.7 * run.history["loss"][0]
    model, record = model_folder.load(tmp_path / "run" / "best")
    assert record.labels == ("dark", "light") and record.frames == 3
    results = evaluate(model, videos, record.frames, record.shorter_side, record.flip)
    best = max(run.history["val_accuracy"])
    losses = zip(run.history["val_accuracy"], run.history["val_loss"], strict=True)
    assert results.accuracy() == best
    assert cross_entropy(results.scores, results.labels) == pytest.approx(
        min(loss for accuracy, loss in losses if accuracy == best), rel=1e-5
    )
    logs = sorted(p.name for p in (tmp_path / "run" / "logs").iterdir())
    assert logs == ["train", "validation"]
    assert len(list((tmp_path / "run" / "resume").iterdir())) == 1
    # A finished run is not trained again, but more epochs go on from it.
    again = train(recipe, videos, tmp_path / "run", videos, verbose=0)
    assert again.history == run.history
    more = train(replace(recipe, epochs=7), videos, run.folder, videos, verbose=0)
    assert (
        more.history["loss"][:6] == run.history["loss"]
        and len(more.history["loss"]) == 7
    )


def test_training_without_validation_watches_its_own_accuracy(probe, videos, tmp_path):
    recipe = replace(RECIPE, epochs=9, patience=1, learning_rate=1e-9)
    run = train(recipe, videos, tmp_path / "run", verbose=0)
    assert "val_loss" not in run.history or run.history["val_loss"][0] is None
    assert len(run.history["epoch"]) < 9  # saturated
    assert (tmp_path / "run" / "best" / "model.json").is_file()


@pytest.mark.slow
def test_a_killed_training_resumes_with_the_same_result(tmp_path):
    root = training_cases.write_videos(tmp_path / "videos")

    def run(name, *kill_at):
        command = [sys.executable, "-W", "error::UserWarning"]
        command += [training_cases.__file__, str(root), str(tmp_path / name), *kill_at]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300
        )

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    for kill_at in ("start", "batch", "epoch end"):
        assert run("killed", kill_at).returncode == -9
    rows = history.read(tmp_path / "killed" / "history.csv")
    assert (
        len(rows["epoch"]) == 4
    )  # the fourth is logged, not saved: resuming must remove it
    assert [p.name for p in (tmp_path / "killed" / "resume").iterdir()] == [
        "epoch-0003.weights.h5"
    ]
    resumed = run("killed")
    assert resumed.returncode == 0, resumed.stderr
    for file in ("resume/epoch-0004.weights.h5", "last/model.weights.h5"):
        expected = arrays(tmp_path / "whole" / file)
        found = arrays(tmp_path / "killed" / file)
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    texts = [(tmp_path / n / "history.csv").read_text() for n in ("whole", "killed")]
    assert texts[0] == texts[1] and texts[0].count("\n") == 5


def test_a_loss_that_is_no_number_is_an_error(probe, videos, tmp_path):
    recipe = replace(RECIPE, learning_rate=1e30)
    with pytest.raises(callbacks.Diverged, match="lower learning rate") as error:
        train(recipe, videos, tmp_path / "run", verbose=0)
    assert "epoch 1, step" in str(error.value)
    assert not (tmp_path / "run" / "last").exists()


def test_a_full_disk_keeps_the_epoch_before(probe, videos, tmp_path, monkeypatch):
    recipe = replace(RECIPE, epochs=1, patience=9)
    run = train(recipe, videos, tmp_path / "run", verbose=0)
    before = arrays(run.folder / "resume" / "epoch-0001.weights.h5")
    save = keras.Model.save_weights

    def fails(self, path, *args, **kwargs):
        if "epoch-0002" not in str(path):
            return save(self, path, *args, **kwargs)
        Path(path).write_bytes(b"half of it")
        # HDF5's own way of saying it.
        raise RuntimeError("Can't write data (errno = 28, No space left on device)")

    monkeypatch.setattr(keras.Model, "save_weights", fails)
    with pytest.raises(OSError, match="epoch-0002.*the disk is full") as error:
        train(replace(recipe, epochs=2), videos, run.folder, verbose=0)
    assert error.value.errno == errno.ENOSPC
    files = [p.name for p in (run.folder / "resume").iterdir()]
    assert files == ["epoch-0001.weights.h5"]
    after = arrays(run.folder / "resume" / files[0])
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_bad_videos_are_counted_and_too_many_stop_training(probe, tmp_path):
    root = training_cases.write_videos(tmp_path / "videos", per_class=12)
    (root / "camera_moving" / "dark" / "broken.mp4").write_text("no video")
    listed = VideoList.from_folder(root)
    run = train(replace(RECIPE, epochs=1), listed, tmp_path / "run", verbose=0)
    assert len(run.skipped) == 1 and "broken.mp4" in str(run.skipped)
    for name in ("a", "b"):
        (root / "camera_moving" / "dark" / f"{name}.mp4").write_text("no video")
    listed = VideoList.from_folder(root)
    with pytest.raises(ValueError, match="videos are bad in epoch 0"):
        train(replace(RECIPE, epochs=1), listed, tmp_path / "other", verbose=0)


def test_training_starts_from_given_weights_and_their_options(probe, videos, tmp_path):
    recipe = replace(RECIPE, epochs=1, options={"sub_batch": 4})
    train(recipe, videos, tmp_path / "first", verbose=0)
    weights = str(tmp_path / "first" / "best")
    recipe = replace(RECIPE, epochs=1, options={}, weights=weights, learning_rate=1e-12)
    train(recipe, videos, tmp_path / "second", verbose=0)
    first, second = (
        model_folder.load(tmp_path / name / "last") for name in ("first", "second")
    )
    assert second[1].options == {"sub_batch": 4}
    for a, b in zip(
        first[0].trainable_weights, second[0].trainable_weights, strict=True
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
