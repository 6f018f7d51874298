"""The models of the test server: versions that come and go, as TensorFlow Serving's do.

A version is loaded by TensorFlow's session loader, which is what TensorFlow Serving
runs, its warm-up requests are replayed, and only then does it take over; the version
before is unloaded when its last request is done. Which versions are served and which
labels they have comes from a ModelServerConfig, read again when it changes.

Source: tensorflow.org/tfx/serving; model_servers/server_core.cc and
servables/tensorflow/predict_util.cc of TensorFlow Serving for the rules and codes.
"""

import contextlib
import re
import threading
from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.config import model_server_config_pb2

WARMUP = "assets.extra/tf_serving_warmup_requests"
DEFAULT_SIGNATURE = "serving_default"
# Codes of tensorflow/core/protobuf/error_codes.proto, the same as gRPC's.
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, FAILED_PRECONDITION = 3, 4, 5, 9
INTERNAL, UNAVAILABLE = 13, 14


class Failure(Exception):
    """A request that gets an error: a code of gRPC, and a message."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class Version:
    """One version of a model in a session.

    Attributes:
        number: of the version. signatures: {name: SignatureDef}.
    """

    def __init__(self, folder):
        self.number = int(folder.name)
        self._users, self._idle = 0, threading.Condition()
        self._callables = {}
        with tf.Graph().as_default() as graph:
            self._session = tf.compat.v1.Session(graph=graph)
            meta = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self.signatures = dict(meta.signature_def)
        self._warm_up(folder / WARMUP)

    def _warm_up(self, path):
        if not path.exists():
            return
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = log.predict_log.request
            self.predict(request, request.model_spec.signature_name)

    @contextlib.contextmanager
    def used(self):
        """While it is used it is not closed."""
        with self._idle:
            self._users += 1
        try:
            yield self
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def close(self):
        """Waits for the requests that it answers, and frees its memory."""
        with self._idle:
            self._idle.wait_for(lambda: not self._users)
        self._callables.clear()
        self._session.close()

    def signature(self, name):
        """The SignatureDef of a name; the default one for none."""
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise Failure(FAILED_PRECONDITION, f'No serving signature "{name}".')
        return self.signatures[name]

    def predict(self, request, signature_name):
        """Outputs {name: TensorProto} of a PredictRequest."""
        signature = self.signature(signature_name)
        given, wanted = set(request.inputs), set(signature.inputs)
        if given != wanted:
            raise Failure(
                INVALID_ARGUMENT,
                f"The inputs do not fit the signature. Sent extra: "
                f"{sorted(given - wanted)}. Missing: {sorted(wanted - given)}.",
            )
        names = list(request.output_filter) or sorted(signature.outputs)
        if len(set(names)) < len(names) or not set(names) <= set(signature.outputs):
            raise Failure(
                INVALID_ARGUMENT,
                f"The output filter {names} names an output twice, or one that is "
                f"none of {sorted(signature.outputs)}.",
            )
        arrays = [array_of(name, request.inputs[name]) for name in signature.inputs]
        outputs = self._run(signature, tuple(names), arrays)
        protos = map(tf.make_tensor_proto, outputs)
        return dict(zip(names, protos, strict=True))

    def _run(self, signature, names, arrays):
        # By options and not by Session.run, which compares shapes in Python and
        # converts types: TensorFlow Serving does neither.
        feed = tuple(signature.inputs[name].name for name in signature.inputs)
        fetch = tuple(signature.outputs[name].name for name in names)
        if (feed, fetch) not in self._callables:
            options = config_pb2.CallableOptions(feed=feed, fetch=fetch)
            run = self._session._make_callable_from_options(options)
            self._callables[feed, fetch] = run
        try:
            return self._callables[feed, fetch](*arrays)
        except tf.errors.OpError as error:
            raise Failure(error.error_code, error.message) from error


def array_of(name, proto):
    """The array of a TensorProto, or a `Failure` if it is none."""
    try:
        return tf.make_ndarray(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise Failure(
            INVALID_ARGUMENT, f"tensor parsing error: {name}: {error}"
        ) from error


class Models:
    """All models of a folder, watched: new versions are loaded, old ones unloaded.

    Args:
        folder: of all models. config: path of a models.config, or None to serve the
            highest version of every model of the folder. poll: seconds between two
            looks at the folder.
    """

    def __init__(self, folder, config=None, poll=0.2):
        self._folder, self._config, self._poll = Path(folder), config, poll
        self._lock = threading.Lock()
        self._loaded = {}  # {model: {number: Version}}
        self._states = {}  # {model: {number: (state, code, message)}}
        self._accepted, self._labels = [], {}  # of the configuration
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.look()
        self._thread.start()

    def close(self):
        """Stops watching and unloads everything."""
        self._stopped.set()
        self._thread.join()
        for versions in self._loaded.values():
            for version in versions.values():
                version.close()

    def _watch(self):
        while not self._stopped.wait(self._poll):
            self.look()

    def look(self):
        """Loads what has appeared and unloads what is no longer to be served."""
        config = self._read_config()
        labels = {
            (c.name, label): n for c in config for label, n in c.version_labels.items()
        }
        if self._may_be(labels):
            self._accepted, self._labels = config, labels
        aspired = {c.name: _aspired(c, self._folder) for c in self._accepted}
        for model in {*self._loaded, *aspired}:
            self._load(model, aspired.get(model, {}))

    def _may_be(self, labels):
        """A label moves only to a version that is available; a new one may wait.

        As with --allow_version_labels_for_unavailable_models. Otherwise nothing of the
        new configuration is taken, until the version is there.
        """
        return all(
            number == self._labels.get(key, number)
            or number in self._loaded.get(key[0], {})
            for key, number in labels.items()
        )

    def _read_config(self):
        if self._config is None:
            names = sorted(p.name for p in self._folder.iterdir() if p.is_dir())
            # base_path as in the official image.
            return [
                model_server_config_pb2.ModelConfig(name=n, base_path=f"/models/{n}")
                for n in names
                if _numbers(self._folder / n)
            ]
        text = Path(self._config).read_text("utf-8")
        parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        return list(parsed.model_config_list.config)

    def _load(self, model, aspired):
        """Loads before it unloads, so that there is always a version to answer."""
        loaded = self._loaded.setdefault(model, {})
        states = self._states.setdefault(model, {})
        failed = {n for n, (_, code, _) in states.items() if code}
        for number in sorted(set(aspired) - set(loaded) - failed):
            states[number] = (ModelVersionStatus.LOADING, 0, "")
            try:
                version = Version(aspired[number])
            except (tf.errors.OpError, OSError, ValueError, Failure) as error:
                code = getattr(error, "code", getattr(error, "error_code", INTERNAL))
                states[number] = (ModelVersionStatus.END, code, str(error))
                continue
            with self._lock:
                loaded[number] = version
                states[number] = (ModelVersionStatus.AVAILABLE, 0, "")
        old = sorted(set(loaded) - set(aspired))
        if aspired and not set(aspired) & set(loaded):
            return
        for number in old:
            with self._lock:
                version = loaded.pop(number)
                states[number] = (ModelVersionStatus.UNLOADING, 0, "")
            version.close()
            states[number] = (ModelVersionStatus.END, 0, "")
        if not aspired and not loaded:
            self._states.pop(model)
            self._loaded.pop(model)

    @contextlib.contextmanager
    def find(self, spec):
        """The `Version` that a ModelSpec asks for, in use.

        Raises:
            Failure: no name, no such model, version or label.
        """
        if not spec.name:
            raise Failure(INVALID_ARGUMENT, "The ModelSpec names no model.")
        number = self._number(spec)
        with self._lock:
            versions = self._loaded.get(spec.name, {})
            chosen = max(versions, default=None) if number is None else number
            if chosen not in versions:
                wanted = "Latest" if number is None else "Specific"
                what = spec.name if number is None else f"{spec.name}, {number}"
                raise Failure(
                    NOT_FOUND, f"Servable not found for request: {wanted}({what})"
                )
            used = versions[chosen].used()
            version = used.__enter__()
        try:
            yield version
        finally:
            used.__exit__(None, None, None)

    def _number(self, spec):
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            key = spec.name, spec.version_label
            if key not in self._labels:
                raise Failure(
                    INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {spec.version_label}",
                )
            return self._labels[key]
        return spec.version.value if choice == "version" else None

    def statuses(self, spec):
        """[(number, state, code, message)] of a model, or of the one version asked for.

        Raises:
            Failure: no such model or version.
        """
        states = dict(self._states.get(spec.name, {}))
        if spec.WhichOneof("version_choice") == "version":
            number = spec.version.value
            if number not in states:
                raise Failure(
                    NOT_FOUND, f"Could not find version {number} of model {spec.name}"
                )
            states = {number: states[number]}
        if not states:
            raise Failure(
                NOT_FOUND, f"Could not find any versions of model {spec.name}"
            )
        return [(number, *state) for number, state in sorted(states.items())]


def _aspired(config, folder):
    """{number: folder} of the versions that a ModelConfig wants, as far as there."""
    # The folder that the official image sees as /models.
    base = folder / Path(config.base_path).relative_to("/models")
    found = _numbers(base)
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice") or "latest"
    if kind == "specific":
        chosen = [n for n in policy.specific.versions if n in found]
    else:
        count = len(found) if kind == "all" else policy.latest.num_versions or 1
        chosen = found[-count:] if count else []
    return {number: base / str(number) for number in chosen}


def _numbers(folder):
    names = (p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))
