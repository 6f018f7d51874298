"""Runs an export once, as a server would: the session loader, no code of the zoo.

A script, started by `zoo.exports.verification` in a process of its own:

    python -P fresh_process.py EXPORT INPUTS.npz OUTPUTS.npz

Source: the loader of TensorFlow Serving, tensorflow.org/guide/saved_model.
"""

import sys


def main(export, inputs, outputs):
    """Writes the signature's outputs on the arrays of an .npz file to another.

    Source: tensorflow.org/guide/saved_model, the serving signature.
    """
    # An export that needs the package fails here instead of on the server.
    sys.modules["zoo"] = None
    import numpy as np
    import tensorflow as tf

    # Its notice of deprecation is not for the user who exports.
    tf.get_logger().setLevel("ERROR")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], export)
        signature = meta_graph.signature_def["serving_default"]
        fetches = {key: value.name for key, value in signature.outputs.items()}
        given = np.load(inputs)
        feeds = {tensor.name: given[name] for name, tensor in signature.inputs.items()}
        results = session.run(fetches, feeds)
    labels = results.pop("labels")
    np.savez(outputs, labels=np.char.decode(labels.astype("S"), "utf-8"), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
