"""The files with which TensorFlow Serving serves a folder of exports.

    models.config      every model, how many versions, the labels stable and canary
    batching.config    how requests are put together, where that is wanted
    monitoring.config  metrics for Prometheus
    compose.yaml       the official image with all of these

They are text, and are read by the server's own protocol buffers.

Source: tensorflow.org/tfx/serving/serving_config; the fields are those of
model_server_config.proto, session_bundle_config.proto and monitoring_config.proto, and
which transitions of labels a server accepts is in model_servers/server_core.cc.
"""

import dataclasses
import json
import os
from pathlib import Path

from zoo.exports.folder import versions
from zoo.exports.saved_model import EXTRA, RECORD, checked_name
from zoo.files import replacing

GRAPH = "saved_model.pb"
METRICS = "/monitoring/prometheus/metrics"
LARGEST_BATCH = 16
# Where the image sees the exports and these files.
MODELS, CONFIG = "/models", "/config"

_MODEL = """\
  config {{
    name: "{name}"
    base_path: "{base}/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: {count} }} }}
    version_labels {{ key: "canary" value: {canary} }}
    version_labels {{ key: "stable" value: {stable} }}
  }}
"""
_BATCHING = """\
# Requests that wait are computed together, up to this many clips. If their frames,
# height and width are not the same, or if the model refuses one, the server refuses
# them all: only for clients that send clips of one size.
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 20000 }}
max_enqueued_batches {{ value: 16 }}
num_batch_threads {{ value: 2 }}
{sizes}
"""
_MONITORING = """\
prometheus_config {{
  enable: true
  path: "{path}"
}}
"""
_COMPOSE = """\
# Start: docker compose up --detach --wait
# Another image, such as one for GPUs: SERVING_IMAGE=tensorflow/serving:latest-gpu
services:
  serving:
    image: "${{SERVING_IMAGE:-tensorflow/serving:latest}}"
    command:
{flags}
    ports:
      - "${{GRPC_PORT:-8500}}:8500"
      - "${{REST_PORT:-8501}}:8501"
    volumes:
      - {{ type: bind, source: {models}, target: {at}, read_only: true }}
      - {{ type: bind, source: ".", target: {config}, read_only: true }}
    healthcheck:  # the port opens when all models are loaded
      test: ["CMD", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8501"]
      interval: 5s
      start_period: 300s
    restart: unless-stopped
"""


@dataclasses.dataclass(frozen=True)
class Served:
    """A model of the folder.

    Attributes:
        name: of the model. versions: all that are there, ascending. stable: the one
            with this label; the highest has the label canary.

    Source: tensorflow.org/tfx/serving/serving_config.
    """

    name: str
    versions: tuple
    stable: int

    @property
    def count(self):
        """How many of the highest versions are kept loaded.

        As many as there are from the stable one up, and one more, so that the next
        export loads beside them and the labels can be moved to it afterwards.
        """
        return sum(version >= self.stable for version in self.versions) + 1


def write_serving_config(models, out=None, stable=None, batching=False):
    """Writes models.config, batching.config, monitoring.config and compose.yaml.

    A server that runs reads models.config again by itself. New versions are loaded as
    they appear, and answer requests without version and label; the labels stay where
    they are until this is called again.

    Args:
        models: folder of all exports, <models>/<name>/<version>/.
        out: folder to write into, made if missing; None takes `models`.
        stable: {name: version} of models whose highest version is not the stable one.
        batching: let compose.yaml switch batching.config on.

    Returns:
        The models, a list of `Served`.

    Raises:
        ValueError: no exports, damaged ones, or a stable version that is not there.
        OSError: the folder cannot be read or written.

    Source: tensorflow.org/tfx/serving/serving_config.
    """
    models = Path(models)
    out = models if out is None else Path(out)
    found = find_models(models, stable or {})
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "models.config": models_config(found),
        "batching.config": batching_config(_largest_batch(models, found)),
        "monitoring.config": _MONITORING.format(path=METRICS),
        "compose.yaml": compose(os.path.relpath(models, out), batching),
    }
    for name, text in files.items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return found


def find_models(folder, stable):
    """The models of a folder, as `Served`.

    Args:
        folder: of all exports. stable: as for `write_serving_config`.

    Raises:
        ValueError: as `write_serving_config`.

    Source: TensorFlow Serving, integer folders are versions.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; `zoo export --out` fills one.")
    found = {p.name: tuple(versions(p)) for p in sorted(folder.iterdir()) if p.is_dir()}
    found = {name: numbers for name, numbers in found.items() if numbers}
    if not found:
        hint = (
            " It is that of one model; give the one above." if versions(folder) else ""
        )
        raise ValueError(
            f"{folder} holds no exports, <name>/<version>/; `zoo export --out {folder}`"
            f" writes one.{hint}"
        )
    unknown = sorted(set(stable) - set(found))
    if unknown:
        raise ValueError(
            f"There is no model {unknown[0]!r} in {folder}; it holds "
            f"{', '.join(found)}."
        )
    for name, numbers in found.items():
        checked_name(name)
        _check_versions(folder / name, numbers, stable.get(name))
    return [Served(k, v, stable.get(k, v[-1])) for k, v in found.items()]


def _check_versions(folder, numbers, stable):
    damaged = [n for n in numbers if not (folder / str(n) / GRAPH).is_file()]
    if damaged:
        raise ValueError(
            f"{folder}/{damaged[0]} is no SavedModel ({GRAPH} is missing), and the "
            "server could not load it; remove it."
        )
    if stable is not None and stable not in numbers:
        raise ValueError(
            f"{folder} has no version {stable}; it has {', '.join(map(str, numbers))}."
        )


def models_config(found):
    """The text of models.config, a ModelServerConfig, for a list of `Served`.

    Source: model_server_config.proto of TensorFlow Serving.
    """
    text = "".join(
        _MODEL.format(
            name=model.name,
            base=MODELS,
            count=model.count,
            canary=model.versions[-1],
            stable=model.stable,
        )
        for model in found
    )
    return f"model_config_list {{\n{text}}}\n"


def batching_config(largest):
    """The text of batching.config, BatchingParameters.

    Args:
        largest: clips of a batch, a power of two.

    Source: session_bundle_config.proto of TensorFlow Serving.
    """
    sizes = (2**power for power in range(largest.bit_length()))
    lines = "\n".join(f"allowed_batch_sizes: {size}" for size in sizes)
    return _BATCHING.format(largest=largest, sizes=lines)


def _largest_batch(models, found):
    """The largest power of two of clips that every export accepts at once."""
    limits = [
        _clips_of(models / model.name / str(version) / EXTRA / RECORD)
        for model in found
        for version in model.versions
    ]
    largest = max(1, min([LARGEST_BATCH, *limits]))
    return 2 ** (largest.bit_length() - 1)


def _clips_of(path):
    """How many clips of 16:9 an export takes, by its zoo.json."""
    if not path.is_file():  # written by others
        return 1
    record = json.loads(path.read_text("utf-8"))
    if record.get("task") == "detection":
        return record["max_pixels"] // (2 * 1920 * 1080)
    side = record["shorter_side"]
    return record["max_view_pixels"] // (record["frames"] * side * (side * 16 // 9))


def compose(models, batching):
    """The text of compose.yaml.

    Args:
        models: the folder of exports as seen from that of compose.yaml. batching:
            switch batching on.

    Source: compose-spec.io; the flags are those of tensorflow_model_server.
    """
    flags = [
        f"--model_config_file={CONFIG}/models.config",
        "--model_config_file_poll_wait_seconds=10",
        "--file_system_poll_wait_seconds=5",
        # Without it a server that starts knows no version yet, and takes no labels.
        "--allow_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={CONFIG}/monitoring.config",
    ]
    if batching:
        flags += [
            "--enable_batching=true",
            f"--batching_parameters_file={CONFIG}/batching.config",
        ]
    return _COMPOSE.format(
        flags="\n".join(f"      - {flag}" for flag in flags),
        models=json.dumps(f"{models}/"),  # quoted as YAML takes it, too
        at=MODELS,
        config=CONFIG,
    )
