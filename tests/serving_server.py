"""A server with TensorFlow Serving's interfaces, for tests where there is no real one.

    python -m tests.serving_server MODELS [--port 0] [--rest_api_port 0]
        [--model_config_file FILE]

prints its ports and serves until its standard input is closed. In a process:

    with serve(folder) as server:
        print(server.grpc_port, server.rest_port)

gRPC: Predict, GetModelMetadata and GetModelStatus on the official protobufs and stubs.
REST: predict in rows and in columns, metadata, status. Models, versions, labels and the
codes of errors are those of `tests.serving_models`. Not here: batching, classify and
regress, metrics but one, and a deadline within a session.

Source: tensorflow.org/tfx/serving and tensorflow.org/tfx/serving/api_rest;
model_servers/ of TensorFlow Serving.
"""

import argparse
import contextlib
import json
import os
import re
import ssl
import sys
import threading
import urllib.parse
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests import serving_json
from tests.serving_models import INVALID_ARGUMENT, Failure, Models

CODES = {code.value[0]: code for code in grpc.StatusCode}
PREDICT = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict"
LOOK = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?"
THREADS = 16


class Core:
    """What both interfaces do, on messages.

    Attributes:
        models: the `Models`. faults: [(code, message)] that the next requests for
            predictions get instead of an answer. calls: how many of those there were.
    """

    def __init__(self, models):
        self.models, self.faults, self.calls = models, [], 0
        self._lock = threading.Lock()

    def predict(self, request):
        """A PredictResponse."""
        with self._lock:
            self.calls += 1
            fault = self.faults.pop(0) if self.faults else None
        if fault:
            raise Failure(*fault)
        with self.models.find(request.model_spec) as version:
            signature = request.model_spec.signature_name
            response = predict_pb2.PredictResponse()
            for name, tensor in version.predict(request, signature).items():
                response.outputs[name].CopyFrom(tensor)
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version.number
            response.model_spec.signature_name = signature or "serving_default"
        return response

    def metadata(self, request):
        """A GetModelMetadataResponse: the signatures."""
        fields = list(request.metadata_field)
        if fields != ["signature_def"]:
            raise Failure(INVALID_ARGUMENT, f"Metadata fields {fields} not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.models.find(request.model_spec) as version:
            for name, signature in version.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.model_spec.version.value = version.number
        response.model_spec.name = request.model_spec.name
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, request):
        """A GetModelStatusResponse."""
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, state, code, message in self.models.statuses(request.model_spec):
            status = response.model_version_status.add(version=number, state=state)
            status.status.error_code = code
            status.status.error_message = message
        return response

    def inputs_of(self, spec, name):
        """{input: TensorInfo} of a signature, for JSON."""
        with self.models.find(spec) as version:
            return dict(version.signature(name).inputs)


# --- gRPC ----------------------------------------------------------------------------


def _method(act):
    def call(servicer, request, context):
        if not request.HasField("model_spec"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        try:
            return act(servicer.core, request)
        except Failure as failure:
            code, message = failure.code, failure.message
        context.abort(CODES[code], message)

    return call


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the rest answers UNIMPLEMENTED."""

    def __init__(self, core):
        self.core = core

    Predict = _method(Core.predict)
    GetModelMetadata = _method(Core.metadata)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, core):
        self.core = core

    GetModelStatus = _method(Core.status)


def _grpc_server(core, port, credentials):
    options = [
        ("grpc.max_receive_message_length", 2**31 - 1),
        ("grpc.max_send_message_length", 2**31 - 1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(core), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(core), server
    )
    address = f"127.0.0.1:{port}"
    if credentials is None:
        bound = server.add_insecure_port(address)
    else:
        bound = server.add_secure_port(address, credentials)
    server.start()
    return server, bound


# --- REST ----------------------------------------------------------------------------


class RestHandler(BaseHTTPRequestHandler):
    """One connection to the REST interface."""

    protocol_version = "HTTP/1.1"
    core = None

    def do_POST(self):
        """Predict."""
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        self._answer(lambda: self._predict(body))

    def do_GET(self):
        """Metadata, status, and the one metric that all servers have."""
        if self.path == "/monitoring/prometheus/metrics":
            line = f":tensorflow:serving:request_count {self.core.calls}\n"
            return self._send(200, line.encode(), "text/plain")
        return self._answer(self._look)

    def _answer(self, act):
        try:
            status, document = 200, act()
        except Failure as failure:
            status = serving_json.HTTP_STATUS.get(failure.code, 500)
            document = {"error": failure.message}
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content)  # to a client that may have gone

    def _spec(self, pattern):
        match = re.fullmatch(pattern, self.path)
        if not match:
            raise Failure(
                INVALID_ARGUMENT, f"Malformed request: {self.command} {self.path}"
            )
        name, version, label, *rest = match.groups()
        spec = model_pb2.ModelSpec(name=urllib.parse.unquote(name))
        if version:
            spec.version.value = int(version)
        if label:
            spec.version_label = urllib.parse.unquote(label)
        return spec, rest

    def _predict(self, body):
        spec, _ = self._spec(PREDICT)
        request, rows = serving_json.parse(
            body, spec, lambda name: self.core.inputs_of(spec, name)
        )
        response = self.core.predict(request)
        return serving_json.answer(response.outputs, rows)

    def _look(self):
        spec, (metadata,) = self._spec(LOOK)
        if not metadata:
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return _dict(self.core.status(request), preserving_proto_field_name=True)
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        response = self.core.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        names = {"preserving_proto_field_name": True}
        return {
            "model_spec": _dict(response.model_spec, **names),
            "metadata": {"signature_def": _dict(signatures, **names)},
        }

    def log_message(self, format, *args):
        """Says nothing; a test's output is its own."""


def _dict(message, **options):
    return json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, **options
    )


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Clients that go away are no error; everything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _rest_server(core, port, https):
    handler = type("Handler", (RestHandler,), {"core": core})
    server = _HttpServer(("127.0.0.1", port), handler)
    if https:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*https)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, server.server_address[1]


# --- both ----------------------------------------------------------------------------


class Server:
    """A running server.

    Attributes:
        grpc_port, rest_port: where it listens, on 127.0.0.1. core: its `Core`.
    """

    def __init__(self, core, grpc_port, rest_port):
        self.core, self.grpc_port, self.rest_port = core, grpc_port, rest_port

    def fail_next(self, count, code, message="for the test"):
        """Lets the next `count` predictions fail with a code of gRPC."""
        self.core.faults += [(code, message)] * count


@contextlib.contextmanager
def serve(
    folder,
    port=0,
    rest_port=0,
    *,
    config=None,
    poll=0.2,
    credentials=None,
    https=None,
):
    """Serves a folder of models while the context lasts.

    Args:
        folder: <folder>/<model>/<version>/. port, rest_port: 0 takes free ones.
        config: path of a models.config, read again when it changes; None serves the
            highest version of every model. poll: seconds between looks at the folder.
        credentials: of gRPC for TLS, which then is the only way in. https: files of the
            certificate and its key, for REST. (TensorFlow Serving has no https; a
            proxy before it has.)

    Yields:
        A `Server`.
    """
    tf.get_logger().setLevel("ERROR")  # of the session loader, which is deprecated
    models = Models(folder, config, poll)
    core = Core(models)
    grpc_server, port = _grpc_server(core, port, credentials)
    rest_server, rest_port = _rest_server(core, rest_port, https)
    try:
        yield Server(core, port, rest_port)
    finally:
        rest_server.shutdown()
        rest_server.server_close()
        grpc_server.stop(grace=1).wait()
        models.close()


def main(argv=None):
    """Serves until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rest_api_port", type=int, default=0)
    parser.add_argument("--model_config_file")
    options = parser.parse_args(argv)
    config = options.model_config_file
    with serve(
        options.folder, options.port, options.rest_api_port, config=config
    ) as server:
        print(f"gRPC {server.grpc_port} REST {server.rest_port}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
