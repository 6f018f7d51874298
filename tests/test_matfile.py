"""MATLAB files: values of every class, in both formats, and files that lie."""

import struct
import zlib

import h5py
import numpy as np
import pytest
import scipy.io

from tests.matconvnet_files import Cell, write
from zoo.weights import matfile

VALUES = {
    "single": np.arange(24, dtype="f4").reshape(2, 3, 4),
    "double": np.array([[0.5, -2.0]]),
    "logical": np.array([[True, False, True]]),
    "word": "relu5_3",
    "nothing": "",
    "cell": Cell(["input", "label", Cell(["deeper", np.eye(2)])]),
    "none": Cell(),
    "struct": {"size": np.array([[1.0, 3.0]]), "opts": {"method": "max"}},
    "array": [{"name": "a", "value": np.ones((3, 1))}, {"name": "b", "value": Cell()}],
    "empty": np.zeros((0, 3)),
}


def same(found, wanted):
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            same(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    elif isinstance(wanted, str):
        assert found == wanted
    else:
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_values_of_every_class(version, tmp_path):
    path = write(tmp_path / "values.txt", VALUES, version)  # the name does not matter
    found = matfile.read(path)
    assert found.header.startswith(f"MATLAB {version}")
    if version == "5":  # scipy writes both as an empty array of numbers
        assert len(found.pop("none")) == 0 == len(found["array"][1].pop("value"))
        same(found["array"][1], {"name": "b"})
        found["none"], found["array"][1]["value"] = [], []
    same(found, VALUES)
    assert list(matfile.read(path, ["word", "absent"])) == ["word"]


@pytest.mark.parametrize("kind", "i1 u1 i2 u2 i4 u4 i8 u8 f4 f8".split())
def test_numbers_of_every_type(kind, tmp_path):
    for packed in (False, True):
        value = np.array([[0, 1, 100], [2, 3, 4]], kind)
        scipy.io.savemat(tmp_path / "x.mat", {"x": value}, do_compression=packed)
        same(matfile.read(tmp_path / "x.mat")["x"], value)


# --- as MATLAB itself writes version 5, which scipy does not -------------------------


def element(kind, data, order="<", small=True):
    """A tagged element, in the short form where it fits."""
    if small and 0 < len(data) <= 4:
        tag = struct.pack(f"{order}I", len(data) << 16 | kind)
        return tag + data.ljust(4, b"\0")
    tag = struct.pack(f"{order}II", kind, len(data))
    return tag + data + bytes(-len(data) % 8)


def matrix(kind, shape, parts, name=b"x", order="<", flags=0):
    """A miMATRIX of a class; `parts` are the elements after its name."""
    head = element(6, struct.pack(f"{order}II", flags << 8 | kind, 0), order)
    dims = element(5, np.array(shape, f"{order}i4").tobytes(), order)
    body = head + dims + element(1, name, order) + b"".join(parts)
    return struct.pack(f"{order}II", 14, len(body)) + body


def level5(path, *variables, order="<"):
    text = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124)
    mark = b"\x00\x01IM" if order == "<" else b"\x01\x00MI"
    path.write_bytes(text + mark + b"".join(variables))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_small_whole_doubles_are_stored_as_bytes(order, tmp_path):
    """[0 1 0 1], the padding of a pooling, takes four bytes in the tag itself."""
    pad = matrix(6, (1, 4), [element(2, bytes([0, 1, 0, 1]), order)], order=order)
    wide = np.array([[300, -2]], f"{order}i2").tobytes()
    other = matrix(7, (2, 1), [element(3, wide, order)], b"weights_of_it", order)
    found = matfile.read(level5(tmp_path / "x.mat", pad, other, order=order))
    same(found["x"], np.array([[0.0, 1.0, 0.0, 1.0]]))
    same(found["weights_of_it"], np.array([[300], [-2]], "f4"))


def test_text_in_every_encoding(tmp_path):
    texts = {
        "utf8": matrix(4, (1, 2), [element(16, "aé".encode())], b"utf8"),
        "utf16": matrix(4, (1, 2), [element(17, "aé".encode("utf-16-le"))], b"utf16"),
        "u16": matrix(4, (1, 2), [element(4, "aé".encode("utf-16-le"))], b"u16"),
    }
    rows = matrix(4, (2, 2), [element(16, b"acbd")], b"rows")
    found = matfile.read(level5(tmp_path / "x.mat", *texts.values(), rows))
    assert [found[name] for name in texts] == ["aé"] * 3
    assert found["rows"] == ["ab", "cd"]


def test_objects_are_named_and_not_decoded(tmp_path):
    handle = matrix(16, (1, 1), [matrix(7, (0, 0), [], b"")], b"")
    head = element(6, struct.pack("<II", 17, 0))
    names = [element(1, s) for s in (b"net", b"MCOS", b"dagnn.DagNN")]
    body = head + b"".join(names) + matrix(13, (1, 1), [element(6, bytes(4))], b"")
    opaque = struct.pack("<II", 14, len(body)) + body
    fields = [element(5, struct.pack("<i", 4)), element(1, b"f\0\0\0g\0\0\0")]
    holder = matrix(2, (1, 1), [*fields, handle, matrix(6, (0, 0), [], b"")], b"s")
    part = element(9, bytes(8))
    imaginary = matrix(6, (1, 1), [part, part], b"i", flags=0x08)
    bare = matrix(2, (1, 1), [element(5, bytes(4)), element(1, b"")], b"bare")
    found = matfile.read(level5(tmp_path / "x.mat", opaque, holder, imaginary, bare))
    assert found["bare"] == {}
    assert found["net"] == matfile.Unread("object")
    assert found["s"]["f"] == matfile.Unread("function handle")
    assert found["i"] == matfile.Unread("complex array")


# --- files that lie ------------------------------------------------------------------


def test_what_is_no_matlab_file(tmp_path):
    path = tmp_path / "net.mat"
    for data, words in (
        (
            b"<!DOCTYPE html><html>404 Not Found",
            "it is a page of HTML",
        ),
        (b"", "it begins with b''"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "version 7.3, but no HDF5 follows"),
        (bytes(200), "is no MATLAB file of version 5 to 7.3"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            matfile.read(path)
    with pytest.raises(FileNotFoundError, match="give a .mat file"):
        matfile.read(tmp_path / "absent.mat")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_truncated_file_says_so(version, tmp_path):
    whole = write(tmp_path / "whole.mat", {"array": VALUES["array"]}, version)
    data = whole.read_bytes()
    start = 130 if version == "5" else 530
    for end in np.linspace(start, len(data) - 1, 12).astype(int):
        (tmp_path / "cut.mat").write_bytes(data[:end])
        with pytest.raises(ValueError, match="damaged or truncated MATLAB file"):
            matfile.read(tmp_path / "cut.mat")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_damage_ends_in_no_other_error(version, tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"a": np.eye(3), "s": {"n": "text"}})
    if version == "7.3":
        write(tmp_path / "x.mat", {"cell": VALUES["cell"]}, version)
    data, rng = (tmp_path / "x.mat").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(data)
        damaged[rng.integers(128, len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "d.mat").write_bytes(damaged)
        try:
            matfile.read(tmp_path / "d.mat")
        except ValueError:
            refused += 1
    assert refused > 0


def test_sizes_are_compared_before_anything_is_allocated(tmp_path):
    huge = (2**30, 2**30)
    packed = zlib.compress(struct.pack("<II", 14, 2**32 - 8) + bytes(64))
    nested = matrix(6, (0, 0), [], b"")
    for _ in range(70):
        nested = matrix(1, (1, 1), [nested], b"")
    for variable, words in (
        (matrix(1, huge, []), "values in 0 bytes"),
        (matrix(6, huge, [element(2, b"abcd")]), "4 numbers in an array of"),
        (matrix(6, (-1, 4), []), "dimensions"),
        (struct.pack("<II", 15, len(packed)) + packed, "ends after 64"),
        (matrix(1, (1, 1), [nested]), "nested more than 64 deep"),
    ):
        with pytest.raises(ValueError, match=words):
            matfile.read(level5(tmp_path / "x.mat", variable))


def test_shared_cells_do_not_grow(tmp_path, monkeypatch):
    """Forty cells, each of the one before twice: 2^40 values if all were made."""
    monkeypatch.setattr(matfile, "EACH", 1 << 22)
    path = write(tmp_path / "x.mat", {"a": np.eye(2)}, "7.3")
    with h5py.File(path, "r+") as file:
        last = file["a"]
        for level in range(40):
            cell = file.create_dataset(f"c{level}", (2, 1), h5py.ref_dtype)
            cell.attrs["MATLAB_class"] = np.bytes_("cell")
            cell[0, 0] = cell[1, 0] = last.ref
            last = cell
    assert len(matfile.read(path, ["c3"])["c3"]) == 2
    with pytest.raises(ValueError, match="arrays would take more than"):
        matfile.read(path, ["c39"])


def test_hdf5_stays_in_its_file(tmp_path):
    path, secret = write(tmp_path / "x.mat", {"a": np.eye(2)}, "7.3"), tmp_path / "s"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.eye(2)
    secret.with_suffix(".raw").write_bytes(bytes(32))
    with h5py.File(path, "r+") as file:
        file["link"] = h5py.ExternalLink(str(secret), "secret")
        raw = [(str(secret.with_suffix(".raw")), 0, 32)]
        file.create_dataset("raw", (4,), "f8", external=raw)
        file.create_dataset("unstored", (2**16, 2**16), "f4", chunks=(1, 1))
        cell = file.create_dataset("cycle", (1, 1), h5py.ref_dtype)
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
        cell[0, 0] = cell.ref
    found = matfile.read(path, ["a", "link", "raw"])
    same(found["a"], np.eye(2))
    assert found["link"] == found["raw"] == matfile.Unread("link")
    with pytest.raises(ValueError, match="bytes of which it has 0"):
        matfile.read(path, ["unstored"])
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        matfile.read(path, ["cycle"])
