"""The smallest models of a server, for tests of what stands around models."""

import keras
import numpy as np
import tensorflow as tf

NAMES = ("zero", "one", "two", "three")


def write_counter(folder, scale):
    """Writes a SavedModel that multiplies by `scale`, which is its version's mark.

    `serving_default`: clips uint8 [B, N] to scores float32 [B, N], and labels string
    [B, 1], the name of the scale. `jpeg`: strings [B, T] to their lengths.
    """
    module = tf.Module()
    module.scale = tf.Variable(float(scale))

    def scores(clips):
        # As in exports: a server's session does not compare with the declared shape.
        fed = tf.raw_ops.PlaceholderWithDefault(input=clips, shape=None)
        shape = tf.shape(fed)
        full = tf.reduce_all(shape > 0)
        check = tf.debugging.Assert(full, ["`clips` must not be empty:", shape])
        with tf.control_dependencies([check]):
            label = tf.constant(NAMES)[tf.cast(module.scale, tf.int32)]
            return {
                "scores": tf.cast(fed, tf.float32) * module.scale,
                "labels": tf.fill([shape[0], 1], label),
            }

    def lengths(jpeg):
        return {"lengths": tf.strings.length(jpeg)}

    specs = {
        "clips": tf.TensorSpec((None, None), tf.uint8, name="clips"),
        "jpeg": tf.TensorSpec((None, None), tf.string, name="jpeg"),
    }
    signatures = {
        "serving_default": tf.function(scores, autograph=False).get_concrete_function(
            clips=specs["clips"]
        ),
        "jpeg": tf.function(lengths, autograph=False).get_concrete_function(
            jpeg=specs["jpeg"]
        ),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def classifier(num_classes=4, seed=0):
    """A classifier of mean colours, which exports and loads in no time."""
    rgb = keras.Input((None, None, None, 3), name="rgb")
    x = keras.layers.Rescaling(1 / 255)(rgb)
    x = keras.layers.Dense(num_classes, name="fc")(x)
    x = keras.layers.GlobalAveragePooling3D(name="logits")(x)
    x = keras.layers.Activation("softmax", name="predictions")(x)
    model = keras.Model(rgb, x, name="colours")
    kernel = np.random.default_rng(seed).normal(0, 5, (3, num_classes))
    model.get_layer("fc").kernel.assign(kernel)
    return model
