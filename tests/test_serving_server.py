"""The test server keeps TensorFlow Serving's contract: routing, codes, both formats."""

import base64
import json
import shutil
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving_cases import write_counter
from tests.serving_server import serve

ZEROS = np.zeros((2, 3), np.uint8)
STATES = get_model_status_pb2.ModelVersionStatus.State


def until(condition, seconds=20):
    """Waits for a condition that another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        write_counter(folder / "counter" / str(version), version)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    config = folder / "models.config"
    config.write_text(
        'model_config_list { config { name: "counter" base_path: "/models/counter" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } }'
    )
    with serve(folder, config=config) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture
def predict(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return lambda request: stub.Predict(request, timeout=20)


def request(clips=ZEROS, name="counter", **spec):
    """A PredictRequest; `spec` is its version, version_label or signature_name."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name = name
    if "version" in spec:
        message.model_spec.version.value = spec.pop("version")
    for key, value in spec.items():
        setattr(message.model_spec, key, value)
    message.inputs["clips"].CopyFrom(tf.make_tensor_proto(clips))
    return message


def refused(call, message):
    """(code, text) of the error that a call gets."""
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    return caught.value.code(), caught.value.details()


def test_versions_and_labels_are_routed(predict):
    asked = {"highest": {}, "one": {"version": 1}, "label": {"version_label": "stable"}}
    scales = {}
    for key, spec in asked.items():
        answer = predict(request(np.ones((1, 3), np.uint8), **spec))
        scales[key] = tf.make_ndarray(answer.outputs["scores"])[0, 0]
        assert answer.model_spec.version.value == scales[key]
        assert answer.model_spec.signature_name == "serving_default"
    assert scales == {"highest": 2, "one": 1, "label": 1}


def test_output_filter_takes_some(predict):
    message = request()
    message.output_filter.append("labels")
    assert set(predict(message).outputs) == {"labels"}
    message.output_filter.append("labels")
    assert refused(predict, message)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_codes_of_errors(predict):
    code = grpc.StatusCode
    extra = request()
    extra.inputs["flow"].CopyFrom(extra.inputs["clips"])
    broken = request()
    broken.inputs["clips"].tensor_content = b"1"
    cases = {
        "name": (request(name="none"), code.NOT_FOUND, r"none"),
        "no name": (request(name=""), code.INVALID_ARGUMENT, r"no model"),
        "version": (request(version=7), code.NOT_FOUND, r"counter, 7"),
        "label": (request(version_label="x"), code.INVALID_ARGUMENT, r"label: x"),
        "signature": (
            request(signature_name="x"),
            code.FAILED_PRECONDITION,
            r'signature "x"',
        ),
        "inputs": (extra, code.INVALID_ARGUMENT, r"extra: \['flow'\]"),
        "dtype": (request(np.zeros((1, 3), "f")), code.INVALID_ARGUMENT, r"float"),
        "assertion": (
            request(np.zeros((0, 3), np.uint8)),
            code.INVALID_ARGUMENT,
            r"must not be empty",
        ),
        "broken tensor": (broken, code.INVALID_ARGUMENT, r"tensor parsing error"),
        "no spec": (predict_pb2.PredictRequest(), code.INVALID_ARGUMENT, r"ModelSpec"),
    }
    got = {key: refused(predict, message) for key, (message, _, _) in cases.items()}
    for key, (_, code, pattern) in cases.items():
        assert got[key][0] == code, key
        assert tf.strings.regex_full_match(got[key][1], f"(?s).*{pattern}.*"), key


def test_other_methods_are_unimplemented(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    message = classification_pb2.ClassificationRequest()
    assert refused(stub.Classify, message)[0] == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_and_status(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    asked = get_model_metadata_pb2.GetModelMetadataRequest()
    asked.model_spec.name = "counter"
    assert refused(stub.GetModelMetadata, asked)[0] == grpc.StatusCode.INVALID_ARGUMENT
    asked.metadata_field.append("signature_def")
    answer = stub.GetModelMetadata(asked)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    assert answer.model_spec.version.value == 2
    assert set(signatures.signature_def["jpeg"].inputs) == {"jpeg"}
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "counter"
    statuses = stub.GetModelStatus(asked).model_version_status
    found = {(s.version, s.state, s.status.error_code) for s in statuses}
    assert found == {(1, STATES.AVAILABLE, 0), (2, STATES.AVAILABLE, 0)}
    asked.model_spec.version.value = 9
    assert refused(stub.GetModelStatus, asked)[0] == grpc.StatusCode.NOT_FOUND


def rest(server, path, document=None):
    """(HTTP status, JSON) of a request."""
    body = document if document is None else json.dumps(document).encode()
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{path}"
    try:
        with urllib.request.urlopen(url, body, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def test_rest_takes_rows_and_columns(server):
    rows = {"instances": [[1, 2, 3], [4, 5, 6]]}
    status, answer = rest(server, "counter:predict", rows)
    assert status == 200
    assert answer["predictions"][1]["scores"] == [8.0, 10.0, 12.0]
    assert answer["predictions"][1]["labels"] == ["two"]
    columns = {"inputs": {"clips": [[1, 2, 3]]}}
    status, answer = rest(server, "counter/versions/1:predict", columns)
    assert answer["outputs"]["scores"] == [[1.0, 2.0, 3.0]]
    files = {"signature_name": "jpeg", "inputs": [[b64(b"ab\0"), b64(b"")]]}
    status, answer = rest(server, "counter/labels/stable:predict", files)
    assert answer == {"outputs": [[3, 0]]}
    files = {"signature_name": "jpeg", "instances": [{"jpeg": [b64(b"\xff")]}]}
    assert rest(server, "counter:predict", files) == (200, {"predictions": [[1]]})


def test_rest_errors_are_json(server):
    good = {"inputs": [[1]]}
    wrong = {
        "no JSON": ("counter:predict", "1", 400, "object"),
        "no key": ("counter:predict", {}, 400, "instances"),
        "both": ("counter:predict", {**good, "instances": [[1]]}, 400, "one of"),
        "ragged": ("counter:predict", {"inputs": [[1], [2, 3]]}, 400, "size"),
        "type": ("counter:predict", {"inputs": [["x"]]}, 400, "uint8"),
        "empty": ("counter:predict", {"inputs": []}, 400, "must not be empty"),
        "signature": ("counter:predict", {**good, "signature_name": "x"}, 400, "x"),
        "model": ("none:predict", good, 404, "none"),
        "version": ("counter/versions/7:predict", good, 404, "7"),
        "label": ("counter/labels/x:predict", good, 400, "label"),
        "method": ("counter:fly", good, 400, "Malformed"),
        "base64": (
            "counter:predict",
            {"signature_name": "jpeg", "inputs": [[{"b64": "?"}]]},
            400,
            "base64",
        ),
    }
    for key, (path, document, status, text) in wrong.items():
        got, answer = rest(server, path, document)
        assert got == status, key
        assert text in answer["error"], key


def test_rest_metadata_and_status(server):
    status, answer = rest(server, "counter")
    assert [s["state"] for s in answer["model_version_status"]] == ["AVAILABLE"] * 2
    assert rest(server, "none")[0] == 404
    status, answer = rest(server, "counter/metadata")
    inputs = answer["metadata"]["signature_def"]["signature_def"]["jpeg"]["inputs"]
    assert inputs["jpeg"]["dtype"] == "DT_STRING"


def test_new_versions_replace_old_ones(folder, tmp_path):
    shutil.copytree(folder / "counter" / "1", tmp_path / "counter" / "1")
    with (
        serve(tmp_path, poll=0.05) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = "counter"

        def states():
            found = stub.GetModelStatus(asked).model_version_status
            return {s.version: (s.state, s.status.error_code) for s in found}

        assert states() == {1: (STATES.AVAILABLE, 0)}
        broken = tmp_path / "counter" / "2"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"no model")
        until(lambda: states().get(2, (0, 0))[0] == STATES.END)
        assert states()[2][1] != 0
        assert states()[1] == (STATES.AVAILABLE, 0)  # stays: there is no better one
        copy = tmp_path / "counter" / ".3"
        shutil.copytree(folder / "counter" / "2", copy)
        copy.rename(tmp_path / "counter" / "3")
        until(lambda: states().get(3) == (STATES.AVAILABLE, 0))
        until(lambda: states()[1] == (STATES.END, 0))
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        assert predict(request()).model_spec.version.value == 3


def test_a_label_moves_only_to_a_version_that_is_there(folder, tmp_path):
    shutil.copytree(folder / "counter", tmp_path / "counter")
    text = (folder / "models.config").read_text()
    config = tmp_path / "models.config"
    config.write_text(text)
    with serve(tmp_path, config=config, poll=0.05) as server:
        spec = request(version_label="stable").model_spec

        def version():
            with server.core.models.find(spec) as found:
                return found.number

        assert version() == 1
        config.write_text(text.replace("value: 1", "value: 5"))
        server.core.models.look()
        assert version() == 1
        config.write_text(text.replace("value: 1", "value: 2"))
        until(lambda: version() == 2)


def test_failures_can_be_ordered(server, predict):
    server.fail_next(1, grpc.StatusCode.UNAVAILABLE.value[0])
    assert refused(predict, request())[0] == grpc.StatusCode.UNAVAILABLE
    assert predict(request()).outputs
