"""The server's files: read by the official protocol buffers, and by the test server."""

import json
import re

import numpy as np
import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401  (registers what the fields refer to)
)
from tensorflow_serving.config import model_server_config_pb2

from tests.serving_cases import write_counter
from tests.serving_server import serve
from zoo.__main__ import main
from zoo.exports.client import Client
from zoo.exports.serving_config import write_serving_config

CLIP = np.ones((1, 1), np.uint8)
# (number, type) of the fields that are set in session_bundle_config.proto and
# monitoring_config.proto, of which there is no Python package.
NUMBER, TEXT = ".google.protobuf.Int64Value", "string"
FIELDS = {
    "BatchingParameters": {
        "max_batch_size": (1, NUMBER),
        "batch_timeout_micros": (2, NUMBER),
        "max_enqueued_batches": (3, NUMBER),
        "num_batch_threads": (4, NUMBER),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, "int64 repeated"),
        "pad_variable_length_inputs": (7, "bool"),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, NUMBER),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, TEXT)},
    "MonitoringConfig": {"prometheus_config": (1, ".serving.PrometheusConfig")},
}
# Of model_servers/main.cc.
SERVER_FLAGS = {
    *{"model_config_file", "model_config_file_poll_wait_seconds"},
    *{"file_system_poll_wait_seconds", "monitoring_config_file", "enable_batching"},
    *{"allow_version_labels_for_unavailable_models", "batching_parameters_file"},
}


@pytest.fixture(scope="module")
def messages():
    """{name: class} of the messages of FIELDS."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto",
        package="serving",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            kind, _, repeated = kind.partition(" ")
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = message.field.add(name=key, number=number, label=label)
            if kind.startswith("."):
                added.type, added.type_name = field.TYPE_MESSAGE, kind
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"serving.{name}")
        )
        for name in FIELDS
    }


@pytest.fixture
def models(tmp_path):
    """A folder of two models, of which one has three versions."""
    for name, versions in {"scenes": (1, 3, 10), "people.v2": (7,)}.items():
        for version in versions:
            folder = tmp_path / "served" / name / str(version)
            (folder / "assets.extra").mkdir(parents=True)
            (folder / "saved_model.pb").touch()
            record = {"max_view_pixels": 2**25, "frames": 16, "shorter_side": 256}
            (folder / "assets.extra" / "zoo.json").write_text(json.dumps(record))
    return tmp_path / "served"


def read_models(folder):
    """{name: ModelConfig} of a models.config."""
    text = (folder / "models.config").read_text("utf-8")
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return {config.name: config for config in parsed.model_config_list.config}


def test_every_model_is_served(models):
    write_serving_config(models)
    configs = read_models(models)
    assert set(configs) == {"scenes", "people.v2"}
    for name, config in configs.items():
        assert config.base_path == f"/models/{name}"
        assert config.model_platform == "tensorflow"
        assert config.model_version_policy.latest.num_versions == 2
    assert dict(configs["scenes"].version_labels) == {"stable": 10, "canary": 10}
    assert dict(configs["people.v2"].version_labels) == {"stable": 7, "canary": 7}


def test_an_older_version_stays_stable_and_loaded(models):
    write_serving_config(models, stable={"scenes": 3})
    config = read_models(models)["scenes"]
    assert dict(config.version_labels) == {"stable": 3, "canary": 10}
    # 3, 10 and the next export.
    assert config.model_version_policy.latest.num_versions == 3


def test_batching_is_within_the_exports_limits(models, messages):
    write_serving_config(models)
    text = (models / "batching.config").read_text()
    parsed = text_format.Parse(text, messages["BatchingParameters"]())
    # 2^25 pixels hold 18 clips of 16 frames of 256 x 455.
    assert parsed.max_batch_size.value == 16
    assert list(parsed.allowed_batch_sizes) == [1, 2, 4, 8, 16]
    assert parsed.max_enqueued_batches.value > 0  # the queue is bounded
    record = {"max_view_pixels": 2**25, "frames": 40, "shorter_side": 256}
    path = models / "scenes" / "3" / "assets.extra" / "zoo.json"
    path.write_text(json.dumps(record))
    write_serving_config(models)
    text = (models / "batching.config").read_text()
    parsed = text_format.Parse(text, messages["BatchingParameters"]())
    assert list(parsed.allowed_batch_sizes) == [1, 2, 4]


def test_monitoring_is_on(models, messages):
    write_serving_config(models)
    text = (models / "monitoring.config").read_text()
    parsed = text_format.Parse(text, messages["MonitoringConfig"]())
    assert parsed.prometheus_config.enable
    assert parsed.prometheus_config.path == "/monitoring/prometheus/metrics"


@pytest.mark.parametrize("batching", [False, True])
def test_compose_starts_the_server_on_these_files(models, batching):
    out = models.parent / "config"
    write_serving_config(models, out, batching=batching)
    text = (out / "compose.yaml").read_text()
    flags = dict(re.findall(r"^      - --(\w+)=(\S+)$", text, flags=re.M))
    assert set(flags) <= SERVER_FLAGS
    assert ("enable_batching" in flags) == batching
    files = [x for x in flags.values() if x.startswith("/")]
    assert all((out / x.removeprefix("/config/")).is_file() for x in files)
    (source,) = re.findall(r'source: "([^"]+)", target: /models,', text)
    assert (out / source).resolve() == models.resolve()


def test_the_command_writes_and_says_which(models, capsys):
    out = models.parent / "config"
    argv = ["serve-config", str(models), "--out", str(out), "--stable=scenes=3"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "scenes: stable 3, canary 10\n" in printed
    assert "people.v2: stable 7, canary 7\n" in printed
    names = {"models.config", "batching.config", "monitoring.config", "compose.yaml"}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize(
    ("folder", "flags", "message"),
    [
        ("nowhere", [], "nowhere is no folder"),
        ("served", ["--stable=scenes=2"], "scenes has no version 2; it has 1, 3, 10"),
        ("served", ["--stable=x=1"], "no model 'x' in .*holds people.v2, scenes"),
        ("served", ["--stable=scenes"], "takes NAME=VERSION.*got 'scenes'"),
        ("served/scenes", [], "that of one model; give the one above"),
        ("served/scenes/1", [], "holds no exports"),
    ],
)
def test_what_cannot_be_served_is_said(models, capsys, folder, flags, message):
    path = models.parent / folder
    assert main(["serve-config", str(path), *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (path / "models.config").exists()


def test_a_damaged_version_is_named(models, capsys):
    (models / "scenes" / "3" / "saved_model.pb").unlink()
    assert main(["serve-config", str(models)]) == 2
    assert "scenes/3 is no SavedModel" in capsys.readouterr().err


def test_a_canary_is_promoted_while_the_server_runs(tmp_path):
    """A new version answers by its label only when the server has loaded it."""
    counter = tmp_path / "counter"
    write_counter(counter / "1", 1)
    write_serving_config(tmp_path)
    with serve(tmp_path, config=tmp_path / "models.config", poll=600) as server:
        look = server.core.models.look

        def versions(client):
            specs = {label: {"label": label} for label in ("stable", "canary")}
            models = {k: client.model("counter", **v) for k, v in specs.items()}
            models["neither"] = client.model("counter")
            return {k: model(CLIP)["labels"].item() for k, model in models.items()}

        with Client(f"127.0.0.1:{server.grpc_port}") as client:
            found = [versions(client)]
            write_counter(counter / "2", 2)
            look()
            found.append(versions(client))
            write_serving_config(tmp_path, stable={"counter": 1})
            look()
            found.append(versions(client))
            write_serving_config(tmp_path)
            look()
            found.append(versions(client))
    names = "stable", "canary", "neither"
    expected = [
        ("one",) * 3,
        ("one", "one", "two"),
        ("one", "two", "two"),
        ("two",) * 3,
    ]
    assert found == [dict(zip(names, row, strict=True)) for row in expected]
