"""`zoo predict --server` against the test server: the answers of `zoo predict`."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from tests import video_files
from tests.serving_cases import classifier, write_counter
from tests.serving_server import serve
from tests.test_export import random_clips
from zoo.__main__ import main
from zoo.datasets import read_video
from zoo.exports import export, load_exported
from zoo.exports.client import Client, encode_jpeg

KEYS = Path(__file__).with_name("tls")
LABELS = ("Fußgänger", "fountain", "sky", "sea")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "noise.mp4"
    return str(video_files.write(path, video_files.numbered(11)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Served models: colours in two versions, and one that takes no videos."""
    folder = tmp_path_factory.mktemp("models")
    view = {"frames": 4, "shorter_side": 8, "top_k": 3, "verify": False}
    for seed in (1, 2):
        export(classifier(seed=seed), folder, labels=LABELS, **view)
    write_counter(folder / "counter" / "1", 1)
    (folder / "models.config").write_text(
        'model_config_list { config { name: "colours" base_path: "/models/colours" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } '
        'config { name: "counter" base_path: "/models/counter" } }'
    )
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serve(folder, config=folder / "models.config") as server:
        yield server


@pytest.fixture
def ask(capsys, server):
    """Runs `zoo predict --server`: (exit code, output, errors)."""

    def run(*argv, by="grpc"):
        address = {"grpc": f"127.0.0.1:{server.grpc_port}"}
        address["rest"] = f"http://127.0.0.1:{server.rest_port}"
        code = main(["predict", "--server", address[by], *map(str, argv)])
        return code, *capsys.readouterr()

    return run


def test_a_server_answers_as_an_export_does(ask, capsys, folder, video):
    for version in (1, 2):
        main(["predict", video, "--model", f"{folder}/colours/{version}", "--top=3"])
        here = capsys.readouterr().out
        there = ask(video, "--model=colours", f"--version={version}", "--top=3")
        assert there == (0, here, "")
    newest = ask(video, "--model=colours", "--top=3")
    assert newest == there
    assert ask(video, "--model=colours", "--label=stable", "--top=3") != newest


def test_only_some_frames_can_be_sent(ask, server, video, monkeypatch):
    whole = ask(video, "--model=colours", "--top=2")
    sizes = []
    predict = server.core.models.find

    def find(spec):
        sizes.append(spec.name)
        return predict(spec)

    monkeypatch.setattr(server.core.models, "find", find)
    assert ask(video, "--model=colours", "--top=2", "--take=4") == whole
    assert sizes == ["colours", "colours"]  # what it takes, and what it says
    assert ask(video, "--model=colours", "--top=2", "--take=1") != whole


def test_a_long_video_is_answered_in_parts(ask, folder, video):
    code, out, err = ask(video, "--model=colours", "--window=4", "--top=1")
    assert (code, err) == (0, "")
    path, *lines = out.splitlines()
    assert path == video
    assert lines[::2] == ["  frames 0-3", "  frames 4-7", "  frames 8-10"]
    frames = read_video(video).frames
    exported = load_exported(folder / "colours")
    for part, line in enumerate(lines[1::2]):
        outputs = exported(frames[None, 4 * part : 4 * part + 4])
        score, label = line.split()
        assert label == outputs["labels"][0, 0]
        assert abs(float(score) - outputs["top_scores"][0, 0]) < 1e-4


def test_jpeg_files_by_both_ways(ask, folder, video):
    code, by_rest, err = ask(video, "--model=colours", "--top=3", by="rest")
    assert (code, err) == (0, "")
    assert ask(video, "--model=colours", "--top=3", "--signature=jpeg")[1] == by_rest
    files = encode_jpeg(read_video(video).frames)
    outputs = load_exported(folder / "colours").jpeg([files])
    expected = zip(outputs["top_scores"][0], outputs["labels"][0], strict=True)
    for line, (score, label) in zip(by_rest.splitlines()[1:], expected, strict=True):
        shown, name = line.split()
        assert name == label
        assert abs(float(shown) - score) < 1e-4
    parts = ask(video, "--model=colours", "--top=1", "--window=6", by="rest")[1]
    assert parts.splitlines()[1::2] == ["  frames 0-5", "  frames 6-10"]


def test_clients_get_what_exports_give(folder, server):
    clips = random_clips((2, 5, 40, 56, 3))
    here = load_exported(folder / "colours")(clips)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        there = client.model("colours")(clips)
    assert set(there) == set(here)
    for name, array in here.items():
        assert there[name].dtype == array.dtype
        if name == "labels":
            assert (there[name] == array).all()
        else:
            np.testing.assert_allclose(there[name], array, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=none"], "NOT_FOUND"),
        (["--model=colours", "--version=9"], "NOT_FOUND"),
        (["--model=colours", "--label=x"], "label: x"),
        (["--model=colours", "--label=x", "--version=1"], "not both"),
        (["--model=colours", "--signature=x"], "no signature 'x'; it has"),
        (["--model=counter"], "gives labels, scores; predictions need"),
        (["--model=colours", "--take=0"], "--take must be at least 1, got 0"),
        (["--model=colours", "--take=1", "--window=1"], "leave one out"),
        ([], "needs --model"),
    ],
)
def test_what_cannot_be_asked_is_said(ask, video, flags, message):
    code, out, err = ask(video, *flags)
    assert (code, out) == (2, "")
    assert message in err


def test_more_classes_than_the_server_names(ask, video):
    code, _, err = ask(video, "--model=colours", "--top=4")
    assert code == 1
    assert "names the 3 best of 4 classes; --top 4" in err


def test_flags_of_a_server_need_one(capsys, folder, video):
    argv = ["predict", video, "--model", f"{folder}/colours", "--take=2", "--label=x"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "makes no use of" in err
    assert "--take" in err and "--label" in err


def test_certificates_by_the_command_line(capsys, folder, video):
    pair = [(KEYS / f"localhost.{kind}").read_bytes() for kind in ("key", "crt")]
    credentials = grpc.ssl_server_credentials([tuple(pair)])
    with serve(folder, credentials=credentials) as server:
        argv = ["predict", video, "--model=colours", "--top=1"]
        argv += [f"--server=localhost:{server.grpc_port}"]
        assert main([*argv, f"--ca={KEYS}/localhost.crt"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
        assert main([*argv, "--ca=system", "--timeout=1"]) == 2
        assert "UNAVAILABLE" in capsys.readouterr().err


def test_nobody_there(capsys, video):
    argv = ["predict", video, "--model=x", "--server=127.0.0.1:1", "--timeout=0.3"]
    assert main(argv) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err
