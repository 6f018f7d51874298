"""Which devices train: one, or several that hold equal copies of the model.

Source: tf.distribute.MirroredStrategy; thesis 7.3.3 splits a batch over sub-batches.
"""

import tensorflow as tf


def make_strategy(devices=None):
    """The tf.distribute strategy for a list of devices.

    Args:
        devices: names such as ("GPU:0", "GPU:1") or ("CPU:0",); None takes all GPUs
            there are, or the CPU.

    Returns:
        MirroredStrategy for several devices, else a strategy of one device.

    Raises:
        ValueError: a device that does not exist, or one named twice.

    Source: tf.distribute.
    """
    found = [d.name for d in tf.config.list_logical_devices()]
    known = [name.removeprefix("/device:") for name in found]
    if devices is None:
        gpus = [name for name in known if name.startswith("GPU")]
        if len(gpus) < 2:
            return tf.distribute.get_strategy()
        devices = gpus
    unknown = [name for name in devices if name not in known]
    if unknown or not devices or len(set(devices)) < len(devices):
        raise ValueError(
            f"Cannot train on the devices {', '.join(devices) or '(none)'}; name each "
            f"once, of those that there are: {', '.join(known)}."
        )
    if len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(devices[0])
    # Between CPUs the collectives of two trainings in one process meet and fail.
    on_cpus = all(name.startswith("CPU") for name in devices)
    sums = tf.distribute.ReductionToOneDevice() if on_cpus else None
    return tf.distribute.MirroredStrategy(list(devices), cross_device_ops=sums)


def check_batch(recipe, options, replicas):
    """Makes sure that every device computes whole groups of batch normalisation.

    Args:
        recipe: a `Recipe`. options: of the model. replicas: number of devices.

    Raises:
        ValueError: the batch cannot be shared out; the message says how it could.

    Source: groups of clips of thesis Table 4.2.
    """
    if replicas > 1 and recipe.accumulation > 1 and recipe.optimizer != "sgd":
        raise ValueError(
            f"accumulation={recipe.accumulation} with optimizer={recipe.optimizer!r} "
            f"works on one device only; {replicas} devices share a batch already, so "
            "set accumulation=1, or optimizer=sgd."
        )
    parts = replicas * recipe.accumulation
    clips = options.get("sub_batch") or 1
    if recipe.batch_size % (parts * clips):
        raise ValueError(
            f"A batch of {recipe.batch_size} clips cannot be cut into {parts} equal "
            f"parts of whole groups of {clips} clips; make batch_size a multiple of "
            f"{parts * clips}, or lower accumulation."
        )
