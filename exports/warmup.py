"""The request that TensorFlow Serving replays when it loads a version.

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


def write(path, model, shapes):
    """Writes a file with one request of a hundred bytes an input, whatever its size.

    Args:
        path: of the file.
        model: name under which it is served.
        shapes: {input: (B, T, H, W, C)}.

    Source: tensorflow.org/tfx/serving/saved_model_warmup.
    """
    model_spec = _field(1, model.encode()) + _field(3, b"serving_default")
    predict_request = _field(1, model_spec)
    for name, shape in shapes.items():
        tensor = tf.make_tensor_proto(*VALUES[name], shape).SerializeToString()
        predict_request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    predict_log = _field(1, predict_request)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(_field(6, predict_log))


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
