"""Runs an export once, as a server would: the session loader, no code of the zoo.

A script, started by `zoo.exports.verification` in a process of its own:

    python -P fresh_process.py EXPORT INPUTS.npz OUTPUTS.npz

Source: the loader of TensorFlow Serving, tensorflow.org/guide/saved_model.
"""

import sys


def main(export, inputs, outputs):
    """Writes the outputs of all signatures on the arrays of an .npz file to another.

    The arrays are called "<signature>/<input>", and so are the outputs.

    Source: tensorflow.org/guide/saved_model, the serving signature.
    """
    # An export that needs the package fails here instead of on the server.
    sys.modules["zoo"] = None
    import numpy as np
    import tensorflow as tf

    # Its notice of deprecation is not for the user who exports.
    tf.get_logger().setLevel("ERROR")
    given, results = np.load(inputs), {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], export)
        for name in dict.fromkeys(key.split("/")[0] for key in given):
            signature = meta_graph.signature_def[name]
            fetches = {key: value.name for key, value in signature.outputs.items()}
            feeds = {
                tensor.name: given[f"{name}/{key}"]
                for key, tensor in signature.inputs.items()
            }
            for key, value in session.run(fetches, feeds).items():
                if value.dtype == object:
                    value = np.char.decode(value.astype("S"), "utf-8")
                results[f"{name}/{key}"] = value
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
