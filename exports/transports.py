"""The two ways to a server: gRPC, which carries tensors, and REST, which carries JSON.

gRPC needs `pip install spacetime-zoo[serving]`. REST needs nothing, but has no other
form for pixels than JSON numbers, so that here it carries JPEG files alone, in base64.

Source: tensorflow.org/tfx/serving/api_rest; tensorflow_serving/apis of TensorFlow
Serving.
"""

import base64
import dataclasses
import http.client
import json
import ssl
import urllib.parse
from pathlib import Path

import numpy as np

from zoo.exports.server_errors import code_of_http, server_error

# Of types that are called otherwise in protocol buffers.
_NAMES = {"half": "float16", "float": "float32", "double": "float64"}
MAX_BYTES = 2**31 - 1  # of one message, in protocol buffers
# A channel that lost its server looks for it again this often; by default its pauses
# grow to two minutes, longer than any retry here.
_RECONNECT = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.enable_retries": 0,
}


@dataclasses.dataclass(frozen=True)
class TLS:
    """How to encrypt, and whom to trust.

    Attributes:
        ca: file of certificates (PEM) of who vouches for the server; None takes the
            system's. certificate, key: files by which the client shows who it is.

    Source: grpc.io/docs/guides/auth.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self):
        if (self.certificate is None) != (self.key is None):
            raise ValueError(
                "A client certificate needs its key, and the other way round; got "
                f"certificate={self.certificate!r}, key={self.key!r}."
            )

    def credentials(self):
        """Of gRPC."""
        import grpc

        files = (self.ca, self.key, self.certificate)
        return grpc.ssl_channel_credentials(
            *(None if name is None else Path(name).read_bytes() for name in files)
        )

    def context(self):
        """Of Python's ssl, for HTTP."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which model of a server, and which of its signatures.

    Attributes:
        name: of the model. version: number, or None. label: of a version, or None;
            with neither, the server takes the highest version. signature: its name.

    Raises:
        ValueError: a version and a label.

    Source: ModelSpec of TensorFlow Serving.
    """

    name: str
    version: int | None = None
    label: str | None = None
    signature: str = "serving_default"

    def __post_init__(self):
        if not self.name:
            raise ValueError("The name of a model is needed; got an empty one.")
        if self.version is not None and self.label is not None:
            raise ValueError(
                f"A version or a label, not both; got version={self.version!r}, "
                f"label={self.label!r}."
            )

    def path(self):
        """Of REST."""
        quote = urllib.parse.quote
        path = f"/v1/models/{quote(self.name, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, '')}"


def open_transport(address, tls):
    """The transport of an address.

    Args:
        address: "host:8500" for gRPC; "http://host:8501" or "https://..." for REST.
        tls: `TLS`, or None.

    Raises:
        ValueError: another kind of address, or TLS for http://.
        ImportError: gRPC without its package.

    Source: none; see the module.
    """
    kind, _, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    wrong = kind not in ("", "http", "https") or not host or not port.isdecimal()
    if wrong or "/" in rest:
        raise ValueError(
            "The address of a server is host:port for gRPC, such as localhost:8500, or "
            f"http://host:port for REST, such as http://localhost:8501; got "
            f"{address!r}."
        )
    if not kind:
        return Grpc(rest, tls)
    if kind == "http" and tls is not None:
        raise ValueError(f"TLS goes with https://, got {address!r}.")
    host = host.strip("[]")
    return Rest(host, int(port), (tls or TLS()) if kind == "https" else None)


class Grpc:
    """TensorFlow Serving's gRPC interface.

    Args:
        address: host:port. tls: `TLS`, or None.

    Source: tensorflow_serving/apis of TensorFlow Serving.
    """

    def __init__(self, address, tls):
        try:
            import grpc
            from tensorflow_serving.apis import (
                model_service_pb2_grpc,
                prediction_service_pb2_grpc,
            )
        except ImportError as error:
            raise ImportError(
                "gRPC needs TensorFlow Serving's protobufs: "
                "pip install spacetime-zoo[serving]; an address http://... does not."
            ) from error
        self.address = address
        self._error = grpc.RpcError
        options = {
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": -1,
            **_RECONNECT,
        }
        options = list(options.items())
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            credentials = tls.credentials()
            self._channel = grpc.secure_channel(address, credentials, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self):
        """Ends the connection."""
        self._channel.close()

    def predict(self, wanted, inputs, outputs, timeout):
        """{output: array} of {input: array}.

        Args:
            wanted: `Wanted`. inputs: arrays by name. outputs: names of those wanted,
                empty for all. timeout: seconds.

        Raises:
            ServerError: as the server says. ValueError: a request too large.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=outputs)
        self._fill(request.model_spec, wanted)
        request.model_spec.signature_name = wanted.signature
        _check_size(inputs)
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        response = self._call(self._prediction.Predict, request, timeout)
        return {key: tf.make_ndarray(x) for key, x in response.outputs.items()}

    def status(self, wanted, timeout):
        """{version: state}, such as {1: "AVAILABLE"}; arguments as for `predict`."""
        from tensorflow_serving.apis import get_model_status_pb2 as status

        request = status.GetModelStatusRequest()
        self._fill(request.model_spec, wanted)
        response = self._call(self._models.GetModelStatus, request, timeout)
        name = status.ModelVersionStatus.State.Name
        return {s.version: name(s.state) for s in response.model_version_status}

    def signatures(self, wanted, timeout):
        """{signature: {"inputs" or "outputs": {tensor: (type, shape)}}}.

        Arguments as for `predict`.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import get_model_metadata_pb2 as metadata

        request = metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill(request.model_spec, wanted)
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        found = metadata.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)

        def facts(infos):
            return {
                name: (tf.as_dtype(x.dtype).name, _shape(x.tensor_shape))
                for name, x in infos.items()
            }

        return {
            name: {"inputs": facts(x.inputs), "outputs": facts(x.outputs)}
            for name, x in found.signature_def.items()
            if x.method_name
        }

    def _fill(self, spec, wanted):
        spec.name = wanted.name
        if wanted.version is not None:
            spec.version.value = wanted.version
        if wanted.label is not None:
            spec.version_label = wanted.label

    def _call(self, method, request, timeout):
        try:
            return method(request, timeout=timeout)
        except self._error as error:
            code = error.code().name
            raise server_error(code, error.details(), self.address) from error


def _shape(proto):
    if proto.unknown_rank:
        return None
    return tuple(None if d.size < 0 else d.size for d in proto.dim)


def _check_size(inputs):
    sizes = {
        name: sum(map(len, x.flat)) if x.dtype == object else x.nbytes
        for name, x in inputs.items()
    }
    if sum(sizes.values()) > MAX_BYTES - 2**16:
        raise ValueError(
            f"A request holds 2 GiB at most, got {sizes} bytes; send fewer or smaller "
            "frames, JPEG files (signature jpeg), or windows (stream)."
        )


class Rest:
    """TensorFlow Serving's REST interface, for inputs that are files.

    Args:
        host, port: of the server. tls: `TLS`, or None.

    Source: tensorflow.org/tfx/serving/api_rest.
    """

    def __init__(self, host, port, tls):
        self._host, self._port = host, port
        self._context = None if tls is None else tls.context()
        kind = "http" if tls is None else "https"
        self.address = f"{kind}://{host}:{port}"

    def close(self):
        """Nothing to do: every request has its own connection."""

    def predict(self, wanted, inputs, outputs, timeout):
        """As that of `Grpc`; all outputs are sent, the wanted ones returned."""
        for name, array in inputs.items():
            if array.dtype != object:
                raise ValueError(
                    f"REST would carry `{name}`, {array.dtype} {list(array.shape)}, as "
                    "JSON numbers. Send JPEG files (signature jpeg), or use gRPC: an "
                    "address without http://."
                )
        body = {
            "signature_name": wanted.signature,
            "inputs": {name: _b64(x.tolist()) for name, x in inputs.items()},
        }
        path = f"{wanted.path()}:predict"
        answer = self._call("POST", path, timeout, json.dumps(body))["outputs"]
        if not isinstance(answer, dict):  # the name of a single one is left out
            known = self.signatures(wanted, timeout)[wanted.signature]["outputs"]
            answer = {name: answer for name in known}
        return {k: _array(v) for k, v in answer.items() if not outputs or k in outputs}

    def status(self, wanted, timeout):
        """As that of `Grpc`."""
        answer = self._call("GET", wanted.path(), timeout)["model_version_status"]
        return {int(s["version"]): s["state"] for s in answer}

    def signatures(self, wanted, timeout):
        """As that of `Grpc`."""
        answer = self._call("GET", f"{wanted.path()}/metadata", timeout)
        found = answer["metadata"]["signature_def"]["signature_def"]
        return {
            name: {
                kind: {key: _facts(info) for key, info in x[kind].items()}
                for kind in ("inputs", "outputs")
            }
            for name, x in found.items()
            if x["method_name"]
        }

    def _call(self, method, path, timeout, body=None):
        try:
            status, content = self._exchange(method, path, timeout, body)
        except TimeoutError as error:
            text = f"no answer in {timeout:.3g} s"
            raise server_error("DEADLINE_EXCEEDED", text, self.address) from error
        except ssl.SSLCertVerificationError:
            raise  # stays as it is, however often it is tried
        except (OSError, http.client.HTTPException) as error:
            raise server_error("UNAVAILABLE", str(error), self.address) from error
        text = content[:500].decode("utf-8", "replace")
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        is_object = isinstance(answer, dict)
        if status != 200:
            message = answer.get("error", text) if is_object else text
            raise server_error(code_of_http(status), message, self.address)
        if not is_object:  # of another server, or of a proxy before it
            text = f"HTTP status 200 without a JSON object: {text}"
            raise server_error("INTERNAL", text, self.address)
        return answer

    def _exchange(self, method, path, timeout, body):
        where = (self._host, self._port)
        if self._context is None:
            connection = http.client.HTTPConnection(*where, timeout=timeout)
        else:
            connection = http.client.HTTPSConnection(
                *where, timeout=timeout, context=self._context
            )
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _b64(value):
    if isinstance(value, list):
        return [_b64(item) for item in value]
    content = value.encode() if isinstance(value, str) else value
    return {"b64": base64.b64encode(content).decode("ascii")}


def _array(value):
    array = np.asarray(value)
    narrow = {"f": np.float32, "i": np.int32}.get(array.dtype.kind)
    return array if narrow is None else array.astype(narrow)


def _facts(info):
    shape = info["tensor_shape"]
    sizes = [int(d["size"]) for d in shape["dim"]]
    shape = (
        None if shape["unknown_rank"] else tuple(n if n >= 0 else None for n in sizes)
    )
    name = info["dtype"].removeprefix("DT_").lower()
    return _NAMES.get(name, name), shape
