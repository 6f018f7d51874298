"""The JSON of TensorFlow Serving's REST interface: requests, answers, errors.

Source: tensorflow.org/tfx/serving/api_rest; util/json_tensor.cc of TensorFlow Serving.
"""

import base64
import binascii
import json

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.serving_models import INVALID_ARGUMENT, Failure

# Of util/net_http, by the code of the error.
HTTP_STATUS = {0: 200, 3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409}
HTTP_STATUS |= {11: 400, 12: 501, 14: 503, 16: 401}


def _wrong(text):
    return Failure(INVALID_ARGUMENT, text)


def parse(body, spec, inputs_of):
    """A request and whether it came in rows.

    Args:
        body: bytes. spec: ModelSpec. inputs_of: from the name of a signature to
            {input: TensorInfo}.

    Returns:
        PredictRequest, and True for "instances", False for "inputs".
    """
    try:
        document = json.loads(body)
    except ValueError as error:
        raise _wrong(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise _wrong("JSON Value: Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _wrong("'signature_name' key must be a string value.")
    infos = inputs_of(name)
    keys = {"instances", "inputs"} & set(document)
    if len(keys) != 1:
        raise _wrong("There must be one of the keys 'inputs' and 'instances'.")
    rows = "instances" in keys
    values = (_of_rows if rows else _of_columns)(document[keys.pop()], infos)
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = name
    for key, value in values.items():
        tensor = _array(key, value, infos[key].dtype)
        request.inputs[key].CopyFrom(tf.make_tensor_proto(tensor))
    return request, rows


def _of_rows(rows, infos):
    if not isinstance(rows, list) or not rows:
        raise _wrong("'instances' must be a list with at least one element.")
    if _is_object(rows[0]):
        for number, row in enumerate(rows):
            if not _is_object(row) or set(row) != set(infos):
                raise _wrong(
                    f"Failed to process element: {number} of 'instances' list. "
                    f"Keys must be equal to: {','.join(sorted(infos))}"
                )
        return {key: [row[key] for row in rows] for key in infos}
    if len(infos) > 1:
        raise _wrong("instances is a plain list, but there are several inputs.")
    return {next(iter(infos)): rows}


def _of_columns(value, infos):
    if not _is_object(value):
        if len(infos) > 1:
            raise _wrong("inputs is a plain value, but there are several inputs.")
        return {next(iter(infos)): value}
    missing = sorted(set(infos) - set(value))
    if missing:
        raise _wrong(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {key: value[key] for key in infos}


def _is_object(value):
    return isinstance(value, dict) and set(value) != {"b64"}


def _array(key, value, dtype):
    shape = _shape(value)
    flat = []
    _flatten(value, shape, dtype, flat)
    if dtype == tf.string.as_datatype_enum:
        array = np.empty(len(flat), object)
        array[:] = flat
    else:
        array = np.array(flat, tf.as_dtype(dtype).as_numpy_dtype)
    return array.reshape(shape)


def _shape(value):
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _flatten(value, shape, dtype, flat):
    if isinstance(value, list):
        if not shape or len(value) != shape[0]:
            raise _wrong(f"Encountered list at unexpected size: {len(value)}")
        for item in value:
            _flatten(item, shape[1:], dtype, flat)
    elif shape:
        raise _wrong("A value was found at the level of a list.")
    else:
        flat.append(_scalar(value, tf.as_dtype(dtype)))


def _scalar(value, dtype):
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and isinstance(value.get("b64"), str):
            try:
                return base64.b64decode(value["b64"], validate=True)
            except binascii.Error as error:
                raise _wrong("Unable to base64 decode") from error
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and dtype.is_floating:
        return value
    if number and dtype.is_integer and isinstance(value, int):
        if dtype.min <= value <= dtype.max:
            return value
    raise _wrong(
        f"JSON Value: {str(value)[:256]} is not of expected type: {dtype.name}"
    )


def answer(outputs, rows):
    """The JSON of {name: TensorProto}, in rows or columns."""
    arrays = {key: tf.make_ndarray(value) for key, value in outputs.items()}
    if rows:
        sizes = {key: value.shape[:1] for key, value in arrays.items()}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            raise _wrong(f"The outputs have inconsistent batch sizes: {sizes}")
    values = {key: _jsonable(key, value.tolist()) for key, value in arrays.items()}
    if not rows:
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    columns = zip(*values.values(), strict=True)
    if len(values) == 1:
        return {"predictions": [value for (value,) in columns]}
    return {"predictions": [dict(zip(values, row, strict=True)) for row in columns]}


def _jsonable(key, value):
    if isinstance(value, list):
        return [_jsonable(key, item) for item in value]
    if isinstance(value, bytes):
        if key.endswith("_bytes"):
            return {"b64": base64.b64encode(value).decode()}
        return value.decode("utf-8", "replace")
    return value
