"""Publishing an export: versions, whole or not at all, nothing that is wrong."""

import os
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tests.test_export import (
    QUICK,
    ROOT,
    SMALL,
    listing,
    mini,
    thin,
)
from zoo.exports import export, load_exported, verification
from zoo.exports import folder as folders
from zoo.exports import saved_model as exporting
from zoo.exports.verification import VerificationError


def test_next_free_version(tmp_path):
    first = export(mini(), tmp_path, name="m", **QUICK)
    (tmp_path / "m" / "9").mkdir()
    (tmp_path / "m" / "notes").mkdir()
    second = export(mini(), tmp_path, name="m", **QUICK)
    assert (first.name, second.name) == ("1", "10")
    assert load_exported(tmp_path / "m").path == second
    assert export(mini(), tmp_path, name="m", version=4, **QUICK).name == "4"
    with pytest.raises(FileExistsError, match="version 4 already.*next free one, 11"):
        export(mini(), tmp_path, name="m", version=4, **QUICK)


def test_other_users_may_read(tmp_path):
    path = export(mini(), tmp_path, **QUICK)
    assert path.stat().st_mode & 0o777 == 0o777 & ~folders._umask()


def no_space(*args, **kwargs):
    text = f"variables_temp/part-00000; {os.strerror(28)}"
    raise tf.errors.ResourceExhaustedError(None, None, text)


def test_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    export(mini(), tmp_path / "old", **QUICK)
    before = listing(tmp_path)
    monkeypatch.setattr(tf.saved_model, "save", no_space)
    for folder in ("old", "new"):
        with pytest.raises(OSError, match="No space left.*MB are free") as error:
            export(mini(), tmp_path / folder, **QUICK)
        assert error.value.errno == 28
        assert listing(tmp_path) == before


def test_a_real_limit_on_file_sizes(tmp_path):
    model = thin()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large while writing the export"):
            export(model, tmp_path, verify=False, **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert listing(tmp_path) == []


KILLED = """
    import sys, time
    from tests.test_export import QUICK, mini
    from zoo.exports import export, saved_model

    def hang(*args):
        print("written", flush=True)
        time.sleep(600)

    saved_model.verify_export = hang
    export(mini(), sys.argv[1], **{**QUICK, "verify": True})
"""


def test_kill_during_export_leaves_no_version_and_is_cleaned_up(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    (left,) = (tmp_path / "mini").iterdir()
    assert left.name.startswith(".") and (left / "saved_model.pb").exists()
    with pytest.raises(FileNotFoundError, match="is no export"):
        load_exported(tmp_path / "mini")
    path = export(mini(), tmp_path, **QUICK)
    assert path.name == "1"
    assert list((tmp_path / "mini").iterdir()) == [path]


def test_two_exports_at_a_time(tmp_path):
    with folders.publishing(tmp_path) as one:
        (one.temporary / "who").write_text("one")
        with folders.publishing(tmp_path) as two:
            assert one.temporary.exists()  # not taken for a leftover
        assert two.path == tmp_path / "1"
    assert one.path == tmp_path / "2"
    assert (one.path / "who").read_text() == "one"


def test_the_same_version_twice_at_a_time(tmp_path):
    with pytest.raises(FileExistsError, match="version 3 already"):
        with folders.publishing(tmp_path, 3) as one:
            with folders.publishing(tmp_path, 3):
                pass
    assert one.path is None
    assert listing(tmp_path) == ["3"]


def test_a_wrong_export_is_not_published(tmp_path, monkeypatch):
    write = exporting.write

    def spoil(folder, served, record):
        first = served.module.trained[0]
        first.assign_add(tf.ones_like(first))
        write(folder, served, record)
        first.assign_sub(tf.ones_like(first))

    monkeypatch.setattr(exporting, "write", spoil)
    with pytest.raises(VerificationError, match="differ from the model's by"):
        export(mini(), tmp_path, **{**QUICK, "verify": True})
    assert listing(tmp_path) == []


def test_an_export_that_does_not_load_is_not_published(tmp_path, monkeypatch):
    write = exporting.write

    def lose(folder, *args):
        write(folder, *args)
        os.remove(folder / "variables" / "variables.index")

    monkeypatch.setattr(exporting, "write", lose)
    with pytest.raises(VerificationError, match="does not run in a fresh process"):
        export(mini(), tmp_path, **{**QUICK, "verify": True})
    assert listing(tmp_path) == []


def test_verification_compares_everything():
    logits = np.array([[1.0, 3.0]], "float32")
    expected = {"logits": logits, "scores": logits / 4}
    compare, consistent = verification.compare, verification.require_consistent
    assert compare(expected, expected, 1e-5) == 0
    near = {**expected, "logits": logits + 2e-5}  # accepted: 3e-5, of the largest score
    assert 1e-5 < compare(expected, near, 1e-5) < 3e-5
    for key, value, message in [
        ("logits", logits + 4e-5, "`logits` differ.*serving_default"),
        ("scores", logits * np.nan, "`scores` differ"),
    ]:
        with pytest.raises(VerificationError, match=message):
            compare(expected, {**expected, key: value}, 1e-5)
    with pytest.raises(VerificationError, match="not finite"):
        compare({"logits": logits * np.nan}, expected, 1e-5)
    maps = {"res4": np.full((1, 2, 2), 100.0)}
    assert compare(maps, {"res4": maps["res4"] + 9e-4}, 1e-5, "features") > 8e-4
    with pytest.raises(VerificationError, match="`res4` differ.*features"):
        compare(maps, {"res4": maps["res4"] + 2e-3}, 1e-5, "features")

    good = {
        **expected,
        "classes": np.array([[1]]),
        "labels": np.array([["b"]]),
        "top_scores": np.array([[0.75]], "float32"),
    }
    consistent(good, ("a", "b"))
    for key, value in [
        ("labels", np.array([["a"]])),
        ("top_scores", good["top_scores"] + 0.1),
    ]:
        with pytest.raises(VerificationError, match="do not belong together"):
            consistent({**good, key: value}, ("a", "b"))
