"""The `zoo` command: what it prints, its exit codes, its errors in one line."""

import dataclasses
import json
import logging as std_logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import training_cases, video_files
from zoo import export_command, registry
from zoo.__main__ import _is_worth_saying, main
from zoo.command_line import COMMANDS, parse
from zoo.weights import folder as model_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def probe(monkeypatch):
    """Registers `probe_net` for one test."""
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    monkeypatch.setattr(registry, "_INFOS", dict(registry._INFOS))
    training_cases.register_probe()


@pytest.fixture
def trained(probe, tmp_path):
    """A model folder of an untrained `probe_net`."""
    record = model_folder.ModelRecord(
        "probe_net", 2, labels=("dark", "light"), frames=3, shorter_side=16
    )
    folder = tmp_path / "model"
    model_folder.save(folder, training_cases.probe_net(), record)
    return str(folder)


@pytest.fixture
def video(tmp_path):
    """A video of 30 frames of noise."""
    frames = video_files.noise(30, 16, 24)
    return str(video_files.write(tmp_path / "noise.avi", frames, "mpeg4"))


def run(capsys, *argv):
    """(exit code, standard output, error output) of a command."""
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- help, list, info ----------------------------------------------------------------


@pytest.mark.parametrize("argv", [(), ("help",), ("--help",), ("-h",)])
def test_help_lists_the_commands(capsys, argv):
    code, out, _ = run(capsys, *argv)
    assert code == 0 and all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_flags(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0 and out.startswith(f"usage: zoo {name} ")
    assert all(f"--{flag} " in out for flag in COMMANDS[name].kinds)
    assert run(capsys, "help", name)[1] == out


def test_help_needs_no_tensorflow():
    code = (
        "import sys; from zoo.__main__ import main; code = main(['train', '--help']);"
        "assert not {'keras', 'tensorflow', 'av'} & set(sys.modules); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_python_m_zoo_passes_on_the_exit_code():
    command = [sys.executable, "-m", "zoo", "helb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("zoo: error: Unknown command 'helb'; there are list,")


def test_list_and_info_show_the_registry(capsys):
    code, out, _ = run(capsys, "list", "*resnet_tiny")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and rows[0] == ["name", "task", "section", "parameters"]
    assert [row[0] for row in rows[1:]] == ["resnet_tiny", "t_resnet_tiny"]
    assert rows[2][1:3] == ["classification", "7.3"]
    code, out, _ = run(capsys, "info", "t_resnet50")
    assert code == 0 and out.startswith("t_resnet50: ") and "temporal_scale=0.01" in out


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("list", "nothing*"), "No model matches 'nothing*'"),
        (("list", "a", "b"), "Too many arguments: 'b'"),
        (("info",), "needs the name of a model"),
        (("info", "t_resnet5"), "nearest are t_resnet50"),
        (("train",), "needs a recipe or --model, and not both"),
        (("train", "dynamic"), "Unknown recipe 'dynamic'"),
        (("train", "dynamic_scenes"), "needs --data and --out"),
        (("train", "dynamic_scenes", "--set", "x=1"), "Cannot set 'x=1'"),
        (("train", "dynamic_scenes", "--seed", "x"), "zoo train --help"),
        (("evaluate", "--data", "x"), "needs --model"),
        (("evaluate", "--model", "x", "--data", "nowhere"), "nowhere: no such folder"),
        (("predict", "--model", "x"), "at least one video"),
        (("predict", "v.mp4"), "needs --model"),
        (("predict", "v.mp4", "--model", "nowhere"), "nowhere does not exist"),
        (("export", "--out", "x", "--model", "nowhere"), "no model folder"),
        (("export", "--out", "x"), "needs the name or folder of one model"),
        (("export", "nowhere", "--out", "x"), "neither a folder nor a registered"),
        (("export", "x", "--out", "x", "--format=h5"), "savedmodel, litert, onnx; got"),
        (
            ("export", "rfcn_tiny", "--out", "x", "--features", "res4"),
            "A detector makes no use of --features",
        ),
        (
            ("export", "rfcn_tiny", "--out", "x", "--format", "onnx"),
            "takes classifiers, and rfcn_tiny finds objects",
        ),
        (
            ("export", "vgg_tiny", "--out", "x", "--format=litert", "--top_k=2"),
            "--format=litert makes no use of --top_k",
        ),
        (("predict", "--modell", "x"), "`zoo predict --help` lists the flags"),
        (("predict", "v", "--model", "x", "--top=0"), "--top must be at least 1; got"),
        (("predict", "v", "--model", "x", "--top=-2"), "at least 1; got -2"),
        (("train", "dynamic_scenes", "--set", "stride=3"), "stride must be two"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("zoo: error: ") and err.count("\n") == 1
    assert message in err


def test_debug_shows_where_an_error_came_from(capsys):
    with pytest.raises(ValueError, match="Unknown model"):
        main(["info", "t_resnet5", "--debug"])


def test_an_interrupted_command_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.info", interrupt)
    code, _, err = run(capsys, "info", "t_resnet50")
    assert code == 130 and "the same command resumes" in err


# --- predict -------------------------------------------------------------------------


def test_predict_prints_the_best_classes(capsys, trained, video):
    code, out, err = run(capsys, "predict", video, "--model", trained, "--top", "2")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0] == video and len(lines) == 3
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert sum(scores) == pytest.approx(1, abs=1e-3) and scores == sorted(scores)[::-1]
    assert sorted(line.split()[1] for line in lines[1:]) == ["dark", "light"]
    only_best = run(capsys, "predict", video, "--model", trained, "--top", "1")[1]
    assert only_best.splitlines() == lines[:2]


def test_predict_goes_on_after_bad_files_and_says_so(capsys, trained, video, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    bad = [str(tmp_path / name) for name in ("text.mp4", "empty.mp4", "absent.mp4")]
    code, out, err = run(capsys, "predict", *bad, video, "--model", trained)
    assert code == 1 and out.splitlines()[0] == video
    lines = err.splitlines()
    assert len(lines) == 4 and lines[-1] == "zoo: 3 of 4 videos failed"
    for line, path in zip(lines, bad, strict=False):
        assert line.startswith(f"zoo: failed: {path}: ")


def test_predict_warns_of_a_video_that_is_damaged(capsys, trained, tmp_path):
    whole = video_files.write(tmp_path / "whole.avi", video_files.noise(30), "mpeg4")
    cut = str(video_files.cut(whole, tmp_path / "cut.avi"))
    code, out, err = run(capsys, "predict", cut, "--model", trained)
    assert code == 0 and out.startswith(cut)
    assert err.startswith(f"zoo: warning: {cut}: damaged (") and err.count("\n") == 1
    assert " frames decoded of 30 declared" in err


def test_predict_refuses_a_video_that_is_too_thin(capsys, trained, tmp_path):
    thin = video_files.noise(3, 2, 40000)
    path = str(tmp_path / "thin.avi")
    video_files.write(path, thin, "rawvideo")
    record = model_folder.load_record(trained)
    wide = tmp_path / "wide"
    record = dataclasses.replace(record, frames=16, shorter_side=64)
    model_folder.save(wide, training_cases.probe_net(), record)
    code, out, err = run(capsys, "predict", path, "--model", str(wide))
    assert (code, out) == (1, "") and f"failed: {path}: 40000 x 2 pixels" in err


def test_the_folder_of_a_training_is_not_its_model(capsys, trained, tmp_path):
    os.rename(trained, tmp_path / "best")
    for argv in (("predict", "v.mp4"), ("export", "--out", "x")):
        code, _, err = run(capsys, *argv, "--model", str(tmp_path))
        assert code == 2 and f"did you mean {tmp_path}/best?" in err


def test_evaluate_tries_its_folder_before_it_computes(capsys, trained, tmp_path):
    data = str(training_cases.write_videos(tmp_path / "videos"))
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "report")
    argv = ["--model", trained, "--data", data, "--out", out]
    code, printed, err = run(capsys, "evaluate", *argv)
    assert (code, printed) == (2, "") and err.count("\n") == 1
    assert f"Could not write {out}: Not a directory" in err


def test_evaluate_matches_classes_by_name(capsys, trained, tmp_path):
    data = training_cases.write_videos(tmp_path / "videos")
    for camera in data.iterdir():
        (camera / "dark").rename(camera / "dusk")
    code, _, err = run(capsys, "evaluate", "--model", trained, "--data", str(data))
    assert code == 2 and "dusk in these videos belong to none of the 2 classes" in err


def test_details_of_tensorflow_are_not_shown():
    def record(level, path):
        return std_logging.LogRecord("absl", level, path, 1, "text", (), None)

    theirs = "/lib/tensorflow/python/saved_model/fingerprinting_utils.py"
    assert not _is_worth_saying(record(std_logging.INFO, theirs))
    assert _is_worth_saying(record(std_logging.WARNING, theirs))
    assert _is_worth_saying(record(std_logging.INFO, "/src/zoo/training/fit.py"))


# --- train, evaluate, export ---------------------------------------------------------


def test_from_videos_to_a_served_prediction(capsys, probe, video, tmp_path):
    data = str(training_cases.write_videos(tmp_path / "videos"))
    sets = ["frames=2", "test_frames=3", "stride=(1,2)", "size=16", "shorter_side=16"]
    sets += ["batch_size=4", "epochs=2", "options={'sub_batch': 2}"]
    split = ["--data", data, "--train_fraction", "0.5"]
    out = str(tmp_path / "run")
    flags = [flag for setting in sets for flag in ("--set", setting)]
    code, printed, _ = run(
        capsys, "train", "--model", "probe_net", *split, "--out", out, *flags
    )
    assert code == 0 and printed.endswith(f"2 epochs; the best model is {out}/best\n")
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000

    best = ["--model", f"{out}/best"]
    report = str(tmp_path / "report")
    code, printed, _ = run(capsys, "evaluate", *best, *split, "--out", report)
    assert code == 0 and "| class" in printed and "static" in printed
    assert printed.splitlines()[4].split()[-2] == "4"  # half of the eight videos
    assert (tmp_path / "report" / "confusion.png").is_file()

    served = str(tmp_path / "served")
    code, printed, err = run(
        capsys, "export", *best, "--out", served, "--name", "probe"
    )
    assert "microseconds" not in err and "fingerprint" not in err
    assert code == 0 and printed == f"{served}/probe/1\n"
    ours = run(capsys, "predict", video, *best)
    theirs = run(capsys, "predict", video, "--model", f"{served}/probe")
    assert ours == theirs and ours[0] == 0


def test_a_registered_model_is_exported_by_name(capsys, probe, tmp_path):
    flags = ["--out", str(tmp_path), "--labels", "a,b,c", "--features", "conv1,logits"]
    limits = ["--frames=2", "--shorter_side=16", "--top_k=2", "--max_frames=9"]
    code, printed, err = run(capsys, "export", "probe_net", *flags, *limits)
    assert (code, printed) == (0, f"{tmp_path}/probe_net/1\n"), err
    record = json.loads((tmp_path / "probe_net/1/assets.extra/zoo.json").read_text())
    expected = {
        "labels": ["a", "b", "c"], "features": ["conv1", "logits"], "frames": 2,
        "shorter_side": 16, "top_k": 2, "max_frames": 9, "max_pixels": 2**29,
    }  # fmt: skip
    assert {key: record[key] for key in expected} == expected
    assert set(record["signatures"]["features"]["outputs"]) == {"conv1", "logits"}


def test_a_trained_folder_keeps_its_weights_and_labels(capsys, trained, tmp_path):
    for flag in ("--weights=imagenet", "--labels=a,b"):
        argv = ["export", trained, "--out", str(tmp_path / "out"), flag]
        code, _, err = run(capsys, *argv)
        assert (
            code == 2 and f"folder of a trained model makes no use of {flag[:8]}" in err
        )
    assert not (tmp_path / "out").exists()


def test_a_name_is_exported_as_its_weights_were_tested():
    options, _ = parse(COMMANDS["export"], "export", ["--weights=synthetic_scenes"])
    model, record = export_command.opened("t_resnet_tiny", options)
    assert record.labels[:2] == ("contraction", "drift_down") and record.frames == 12
    assert model.output.shape[-1] == len(record.labels) == record.num_classes
    options, _ = parse(COMMANDS["export"], "export", [])
    assert export_command.opened("t_resnet_tiny", options)[1].labels == ()
