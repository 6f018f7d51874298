"""What kind of file holds weights, told by its first bytes and not by its name.

Source: the formats' own signatures: HDF5, MATLAB 5.0 and 7.3, ZIP, Protocol Buffers,
safetensors, pickle.
"""

import re
import struct
import zipfile
from pathlib import Path

MAX_BYTES = 4 * 2**30
"""Of a file of weights; the largest network of the thesis has 1.1 GB."""

MAX_RATIO = 64
"""Of what is in a packed file to the file itself; weights hardly pack at all."""

HDF5 = b"\x89HDF\r\n\x1a\n"
_START = 4096
_TEXT = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml|head|body|title|h1|!--)", re.I
)
_POINTER = b"version https://git-lfs"
# Fields of Caffe's NetParameter: name, layers, input..., state, debug, layer.
_CAFFE_FIELDS = (1, 2, 3, 4, 5, 6, 7, 8, 100)


def kind_of(path):
    """The kind of a file or folder of weights.

    Args:
        path: an existing file or folder.

    Returns:
        "folder", "matconvnet", "caffe", "pytorch", "keras" (a whole model),
        "weights_h5" or "keras_applications".

    Raises:
        FileNotFoundError: no such file, or a folder without a model.
        ValueError: an empty or too large file, a web page, a pointer, or nothing
            known; the message says what was found.

    Source: the formats' own signatures.
    """
    path = Path(path)
    if path.is_dir():
        return "folder"
    size = check_size(path)
    with open(path, "rb") as file:
        start = file.read(_START)
    refuse_page(start, path)
    if start.startswith(b"MATLAB "):
        return "matconvnet"  # v5, or v7.3 behind a header of 512 bytes
    if start.startswith(HDF5):
        return _kind_of_hdf5(path)
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and size > 1:
        return "pytorch"  # the form before PyTorch 1.6, or refused by the reader
    if _is_safetensors(start, size):
        return "pytorch"
    if _is_caffe(start):
        return "caffe"
    raise ValueError(
        f"{path} is no file of weights that is known here: it begins with "
        f"{start[:16]!r}. Accepted are MatConvNet's .mat, .caffemodel, .pth, "
        ".safetensors, .weights.h5, .keras, the .h5 files of keras.applications, and "
        "folders of models."
    )


def check_size(path, at_most=MAX_BYTES):
    """The size of a file in bytes, unless it is empty or too large.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty file, or one larger than `at_most`.

    Source: stat(2).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a file of weights.")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(
            f"{path} is not a readable file of weights: it is empty. Copy it again."
        )
    if size > at_most:
        raise ValueError(
            f"{path} has {size / 2**30:.1f} GiB, at most {at_most / 2**30:g} GiB are "
            "read; no network of the zoo is that large."
        )
    return size


def refuse_page(start, path):
    """Raises ValueError for the beginning of a web page or of a pointer to a file.

    A dead link often answers with a page; Git LFS leaves a pointer where it is missing.

    Args:
        start: the first bytes. path: for the message.

    Source: the HTML standard; the Git LFS specification.
    """
    if _TEXT.match(start):
        text = re.sub(rb"<[^>]*>|\s+", b" ", start[:_START]).decode("utf-8", "replace")
        raise ValueError(
            f"{path} is not a readable file of weights but a web page, as a dead link "
            f"gives: {' '.join(text.split())[:80]!r}. Get the file elsewhere."
        )
    if start.startswith(_POINTER):
        raise ValueError(
            f"{path} is a pointer of Git LFS, not the file itself; `git lfs pull` "
            "fetches it."
        )


def _kind_of_hdf5(path):
    import h5py

    try:
        with h5py.File(path) as file:
            names = set(file)
    except OSError as error:
        raise ValueError(
            f"{path} is not a readable HDF5 file ({error}): truncated or damaged. "
            "Download or save it again."
        ) from error
    if "#refs#" in names or {"net", "params"} & names:
        return "matconvnet"  # v7.3 without MATLAB's header
    if "layers" in names or "_layer_checkpoint_dependencies" in names:
        return "weights_h5"
    return "keras_applications"


def _kind_of_zip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            total = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is not a readable .keras or .pth file ({error}): a zip archive "
            "that is truncated or damaged. Download or save it again."
        ) from error
    if total > min(MAX_BYTES, MAX_RATIO * max(path.stat().st_size, 2**20)):
        raise ValueError(
            f"{path} is an archive of {path.stat().st_size} bytes that unpacks to "
            f"{total}; it is damaged or made to exhaust memory."
        )
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    if any(name.endswith("data.pkl") for name in names):
        return "pytorch"
    raise ValueError(
        f"{path} is an archive with {', '.join(names[:3]) or 'nothing'} in it, not a "
        ".keras model or a .pth file; archives are not unpacked. Give the file inside."
    )


def _is_safetensors(start, size):
    if len(start) < 9 or start[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return length <= size - 8 and start[8:10] in (b'{"', b"{ ", b"{}")


def _is_caffe(start):
    """Whether bytes begin as a NetParameter: a known field of the right wire type."""
    tag, position = _varint(start, 0)
    length, end = _varint(start, position)
    if tag is None or length is None:
        return False
    if tag & 7 != 2 or tag >> 3 not in _CAFFE_FIELDS:
        return False
    if tag >> 3 == 1:  # the name of the network
        return start[end : end + length].decode("utf-8", "replace").isprintable()
    # Otherwise a layer, whose fields are strings, messages and small numbers.
    return length > 0 and start[end : end + 1] in b"\x08\x0a\x12\x1a\x20\x22\x28\x32"


def _varint(data, position):
    """(value, next position) of a varint, (None, position) where there is none."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            return None, position
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return None, position
