"""The requests that TensorFlow Serving replays when it loads a version.

Without it the first client waits until the graph is optimised and memory is taken.
Serving reads `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
PredictionLog messages. All their fields here are strings and messages, which protocol
buffers write alike, so that no package of TensorFlow Serving is needed.

Source: tensorflow.org/tfx/serving/saved_model_warmup; the field numbers are those of
tensorflow_serving/apis: prediction_log.proto, predict.proto and model.proto;
protobuf.dev/programming-guides/encoding.
"""

import tensorflow as tf

FILE = "tf_serving_warmup_requests"
# One value stands for all of an input: a TensorProto repeats its last.
VALUES = {  # grey, no motion
    "clips": (128, tf.uint8),
    "frames": (128, tf.uint8),
    "flow": (0.0, tf.float32),
}


def requests(served, contract):
    """Requests of the signatures that clients call first, of the length of the view.

    Args:
        served: `zoo.exports.signature.Served` of a classifier.
        contract: its `Contract`.

    Returns:
        {signature: {input: TensorProto}}.

    Source: tensorflow.org/tfx/serving/saved_model_warmup.
    """
    frames = min(max(contract.frames, 2), contract.max_frames)
    height, width = _size(contract, frames)
    specs = served.functions["serving_default"].structured_input_signature[1]
    shape = (1, frames, height, width)
    found = {
        "serving_default": {
            name: constant(name, (*shape, spec.shape[-1]))
            for name, spec in specs.items()
        }
    }
    if "jpeg" in served.functions:
        found["jpeg"] = {"jpeg": files((1, frames), height, width)}
    return found


def _size(contract, frames):
    """The first size that the limits accept; a refused request would stop the server.

    Raises:
        ValueError: they accept none.
    """
    side = contract.shorter_side
    for height, width in ((side, side * 4 // 3), (side, side), (1, 1)):
        view = max(contract.frames, frames // 4) * side * (side * width // height)
        few = frames * height * width <= contract.max_pixels
        if few and view <= contract.max_view_pixels:
            return height, width
    raise ValueError(
        f"No clip keeps these limits: {contract.frames} frames of {side} x {side} are "
        f"{contract.frames * side * side} pixels that the network sees, at most "
        f"{contract.max_view_pixels} are accepted (max_view_pixels), and {frames} "
        f"frames of one pixel at most {contract.max_pixels} (max_pixels)."
    )


def constant(name, shape):
    """A TensorProto of one grey or motionless input of a hundred bytes.

    Args:
        name: of the input, a key of `VALUES`. shape: (B, T, H, W, C).

    Source: tensorflow/core/framework/tensor.proto.
    """
    return tf.make_tensor_proto(*VALUES[name], shape)


def files(shape, height, width):
    """A TensorProto of the same grey JPEG file [B, T] times.

    Args:
        shape: (B, T). height, width: of the file, in pixels.

    Source: tensorflow/core/framework/tensor.proto.
    """
    file = tf.io.encode_jpeg(tf.fill((height, width, 3), tf.constant(128, tf.uint8)))
    proto = tf.make_tensor_proto(file.numpy(), tf.string, ())
    proto.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return proto


def write(path, model, requests):
    """Writes a file with one record per signature.

    Args:
        path: of the file.
        model: name under which it is served.
        requests: {signature: {input: TensorProto}}.

    Source: tensorflow.org/tfx/serving/saved_model_warmup.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            request = _predict_request(model, signature, inputs)
            writer.write(_field(6, _field(1, request)))


def _predict_request(model, signature, inputs):
    model_spec = _field(1, model.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for name, tensor in inputs.items():
        entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())
        request += _field(2, entry)
    return request


def _field(number, content):
    """A string or message field: its tag, its length, its bytes."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
    """Seven bits a byte, the lowest first, the eighth bit set while more follow."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
