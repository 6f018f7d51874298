"""Optical flow in TFRecord shards: one tf.train.Example per video, and their reader.

An Example has the features ``video`` (``<class>/<video>``), ``count`` (fields),
``width``, ``height``, and ``u`` and ``v``, a grey JPEG per field each, in the codes of
``zoo.datasets.flow.to_codes``. Shards are ``flow-00000-of-00016.tfrecord``; where a
video lies says ``manifest.jsonl`` beside them.

Source: thesis 3.3.5 for the fields; the TFRecord format of TensorFlow.
"""

import errno
import struct
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from zoo.datasets.flow import video_name
from zoo.datasets.video import VideoError

# A record is: length, checksum of it, the bytes, checksum of them.
_HEADER, _FOOTER = struct.Struct("<QI"), 4
_MAX_BYTES = 2**31 - 2**20  # protobuf's bound on a message
_AGAIN = (
    "remove this file and run the same zoo flow again, which extracts its videos anew."
)


def write_record(path, entry, u, v):
    """Writes a file with the record of one video.

    Args:
        path: Of the file.
        entry: {"video", "width", "height", ...}.
        u, v: JPEG bytes of each field.

    Raises:
        VideoError: If the video has more flow than a record can hold, 2 GiB.
    """
    size = sum(map(len, u)) + sum(map(len, v))
    if size > _MAX_BYTES:
        raise VideoError(
            f"{entry['source']['path']}: {size} bytes of flow don't fit into a record "
            f"of {_MAX_BYTES}; cut the video, or store JPEG files (--format jpeg)."
        )
    features = {
        "video": _bytes([entry["video"].encode()]),
        "count": _ints(len(u)),
        "width": _ints(entry["width"]),
        "height": _ints(entry["height"]),
        "u": _bytes(u),
        "v": _bytes(v),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(example.SerializeToString(deterministic=True))
    except tf.errors.ResourceExhaustedError as error:  # TensorFlow's are no OSErrors
        raise OSError(errno.ENOSPC, error.message, str(path)) from error
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, error.message, str(path)) from error


def names_in(path):
    """Yields (video, offset, length) of every record of a shard, none if it's absent.

    Args:
        path: Of the shard.

    Raises:
        VideoError: If the file ends inside of a record or holds something else.
    """
    if not Path(path).is_file():
        return
    offset, end = 0, Path(path).stat().st_size
    while offset < end:
        example, length = _read(path, offset)
        yield _text(example), offset, length
        offset += length


class FlowRecords:
    """Fields stored by ``zoo flow --format tfrecord``; the interface of FlowFolder.

    Attributes:
        name: What a record of training says of it.
    """

    needs_frames = False
    name = "folder"

    def __init__(self, root):
        """Opens a folder.

        Args:
            root: Folder that holds the shards and ``manifest.jsonl``.

        Raises:
            ValueError: If the manifest is missing or lists no video in a shard.
        """
        # Only here: the reader of a manifest belongs to the extraction.
        from zoo.datasets.extraction.manifest import Manifest

        self.root = Path(root)
        entries = Manifest(self.root).entries
        self._entries = {name: e for name, e in entries.items() if "shard" in e}
        if not self._entries:
            raise ValueError(
                f"{root} is no folder of TFRecords of optical flow: its manifest.jsonl "
                "lists no video in a shard. Run zoo flow --format tfrecord again."
            )

    def __str__(self):
        return str(self.root)

    def count(self, video):
        """Number of fields stored for a video.

        Args:
            video: Path of the video file.

        Raises:
            VideoError: If there are none.
        """
        return self._entry(video)["fields"]

    def fields(self, video, indices):
        """Reads fields as codes, uint8 [N, H, W, 2].

        Args:
            video: Path of the video file.
            indices: Field numbers from 0, [N].

        Raises:
            VideoError: If the shard is missing or damaged, or isn't the one of the
                manifest.
        """
        indices = list(indices)
        u, v = self.images(self._entry(video))
        if indices and not 0 <= min(indices) <= max(indices) < len(u):
            raise VideoError(
                f"{video}: {self.root} holds fields 0...{len(u) - 1} of it, asked for "
                f"were {min(indices)}...{max(indices)}; extract its flow again."
            )
        decoded = [[self._decode(video, c[i]) for i in indices] for c in (u, v)]
        return np.stack([np.stack(component) for component in decoded], axis=-1)

    def images(self, entry):
        """The JPEGs of a video: two lists of bytes, u and v.

        Args:
            entry: Of the manifest.

        Raises:
            VideoError: If the shard is missing or damaged, or isn't the one of the
                manifest.
        """
        path = self.root / entry["shard"]
        if not path.is_file():
            raise VideoError(
                f"{entry['video']}: {path} is missing; run zoo flow again."
            )
        example, _ = _read(path, entry["offset"])
        feature = example.features.feature
        u, v = (list(feature[component].bytes_list.value) for component in "uv")
        if _text(example) != entry["video"] or not len(u) == len(v) == entry["fields"]:
            raise VideoError(
                f"{entry['video']}: {path} holds another video where manifest.jsonl "
                f"says it lies; {_AGAIN}"
            )
        return u, v

    def _entry(self, video):
        stem = Path(video).stem
        for name in (video_name(video), stem):
            if name in self._entries:
                return self._entries[name]
        raise VideoError(
            f"{video}: no flow in {self.root}: neither {video_name(video)} nor {stem} "
            "is in its manifest.jsonl; extract it (zoo flow), or give another folder."
        )

    @staticmethod
    def _decode(video, data):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise VideoError(
                f"{video}: a field of its flow is no image; extract it again."
            )
        return image


def _read(path, offset):
    """The Example of the record at an offset, and the bytes that the record takes."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        header = stream.read(_HEADER.size)
        size = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else None
        data = stream.read(size) if size is not None and size <= _MAX_BYTES * 2 else b""
        whole = size and len(data) == size and len(stream.read(_FOOTER)) == _FOOTER
    try:
        if not whole:
            raise ValueError("the record is incomplete")
        example = tf.train.Example.FromString(data)
        if "video" not in example.features.feature:
            raise ValueError("no feature 'video'")
        return example, _HEADER.size + size + _FOOTER
    except Exception as error:  # protobuf's own is no ValueError
        raise VideoError(
            f"{path}: no record of optical flow at byte {offset} ({error}); {_AGAIN}"
        ) from error


def _text(example):
    return example.features.feature["video"].bytes_list.value[0].decode()


def _bytes(values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _ints(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
