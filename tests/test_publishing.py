"""Publishing weights, and holding what is published to its checksums and claims."""

import dataclasses
import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
from zoo.datasets import VideoList
from zoo.datasets.synthetic import write_dynamic_scenes
from zoo.evaluation import evaluate
from zoo.weights import folder, lookup, publishing, records
from zoo.weights.fetching import SUMS, ChecksumError
from zoo.weights.record import Metric
from zoo.weights.records import packaged

CLIP = np.random.default_rng(0).integers(0, 256, (1, 2, 32, 32, 3), dtype="uint8")
CLAIM = Metric("accuracy", 0.75, "my videos", "16 frames", "me", 8, 0.1)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published folder, and the model that is in it."""
    keras.utils.set_random_seed(3)
    root = tmp_path_factory.mktemp("published")
    model = zoo.load("resnet_tiny", num_classes=2, stem="keras")
    known = folder.ModelRecord(
        "resnet_tiny", 2, options={"stem": "keras"}, labels=("a", "b")
    )
    folder.save(root / "trained", model, known)
    path = publishing.publish(
        root / "trained", root, "mine", summary="Mine", licence="CC0", metrics=(CLAIM,)
    )
    return path, model


@pytest.fixture
def copy(published, tmp_path):
    """A copy of the published folder that a test may spoil."""
    return Path(shutil.copytree(published[0], tmp_path / published[0].name))


def test_what_is_in_the_folder(published):
    path, _ = published
    assert path.name == "resnet_tiny.mine"
    assert {p.name for p in path.iterdir()} == {*publishing.FILES, SUMS}
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=path, check=1)
    assert (path / "labels.txt").read_text() == "a\nb\n"
    card = (path / "README.md").read_text()
    for text in (
        "# resnet_tiny.mine\n",
        'zoo.load("resnet_tiny.mine", weights="PATH',
        "- `stem='keras'`",
        "2: a, b.",
        "| accuracy | 75.0 % ± 10.0 | my videos | 8 | 16 frames | me |",
        "Weights: CC0.",
        "## Limits",
    ):
        assert text in card


@pytest.mark.parametrize("way", ["path", "name and path", "ZOO_WEIGHTS", "tag"])
def test_ways_to_load_it(way, published, monkeypatch):
    path, model = published
    if way in ("ZOO_WEIGHTS", "tag"):
        monkeypatch.setenv("ZOO_WEIGHTS", str(path.parent))
    again = {
        "path": lambda: zoo.load("resnet_tiny", weights=path),
        "name and path": lambda: zoo.load("resnet_tiny.mine", weights=path),
        "ZOO_WEIGHTS": lambda: zoo.load("resnet_tiny.mine"),
        "tag": lambda: zoo.load("resnet_tiny", weights="mine"),
    }[way]()
    np.testing.assert_array_equal(again(CLIP), model(CLIP))
    assert again.get_layer("rgb_normalization").mean[0] == 123.68


@pytest.mark.parametrize("file", publishing.FILES)
def test_one_byte_flipped_in_any_file(file, copy):
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    for load in (
        lambda: zoo.load("resnet_tiny", weights=copy),
        lambda: zoo.load("resnet_tiny.mine", weights=copy),
        lambda: folder.load(copy),
    ):
        with pytest.raises(ValueError, match=rf"{file} is not .* published|readable"):
            load()


def test_incomplete_folders(copy, tmp_path):
    (copy / "weights.json").rename(tmp_path / "weights.json")
    with pytest.raises(ChecksumError, match="is incomplete: weights.json is missing"):
        zoo.load("resnet_tiny", weights=copy)
    (tmp_path / "weights.json").rename(copy / "weights.json")
    (copy / "labels.txt").unlink()
    with pytest.raises(ChecksumError, match="is incomplete: labels.txt is missing"):
        zoo.load("resnet_tiny", weights=copy)
    (copy / SUMS).write_text("\n".join([f"{64 * '0'}  a"]))
    with pytest.raises(ChecksumError, match="is incomplete: a is missing"):
        folder.load(copy)
    (copy / SUMS).unlink()
    with pytest.raises(ChecksumError, match="SHA256SUMS is missing"):
        zoo.load("resnet_tiny", weights=copy)


def test_checksums_of_files_elsewhere(copy):
    (copy / SUMS).write_text(f"{64 * '0'}  ../../etc/passwd\n")
    with pytest.raises(ChecksumError, match="a line that is no checksum"):
        folder.load(copy)


def test_wrong_names(published, tmp_path):
    path, _ = published
    with pytest.raises(ValueError, match="holds the weights resnet_tiny.mine, not res"):
        zoo.load("resnet_tiny.yours", weights=path)
    for tag in ("", "My Videos", "../x", "a.b"):
        with pytest.raises(ValueError, match="must be small letters, digits"):
            publishing.publish(path, tmp_path, tag)
    (tmp_path / "resnet_tiny.mine").mkdir()
    with pytest.raises(
        ValueError, match="exists and is not an earlier resnet_tiny.min"
    ):
        publishing.publish(path, tmp_path, "mine")
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        publishing.publish(tmp_path, tmp_path, "mine")


def test_publishing_again_replaces(copy):
    publishing.publish(copy, copy.parent, "mine", summary="Better")
    record = publishing.read_record(copy)
    assert record.summary == "Better" and record.metrics == ()
    assert "Nothing was measured" in (copy / "README.md").read_text()
    folder.load(copy)


class TestHosted:
    @pytest.fixture
    def server(self, copy):
        """The address of a server of the folder around a published one."""
        handler = functools.partial(Silent, directory=copy.parent)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
            thread = threading.Thread(target=found.serve_forever, args=(0.01,))
            thread.start()
            yield f"http://127.0.0.1:{found.server_port}"
            found.shutdown()
            thread.join()

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        return tmp_path / "cache"

    def test_by_address(self, server, published, copy, monkeypatch):
        url = f"{server}/{copy.name}"
        for name in ("resnet_tiny", "resnet_tiny.mine"):
            again = zoo.load(name, weights=url)
            np.testing.assert_array_equal(again(CLIP), published[1](CLIP))
        shutil.rmtree(copy)  # it is in the cache by now
        monkeypatch.setenv("ZOO_OFFLINE", "1")
        zoo.load("resnet_tiny.mine", weights=url)
        with pytest.raises(
            FileNotFoundError, match="was not asked, ZOO_OFFLINE is set"
        ):
            zoo.load("resnet_tiny.mine", weights=f"{server}/other")

    def test_by_the_sources_of_a_record(self, server, copy, monkeypatch, cache):
        known = publishing.read_record(copy)
        urls = (f"{server}/nothing", f"{server}/{copy.name}")
        table = {known.name: dataclasses.replace(known, sources=urls)}
        monkeypatch.setattr(records, "all_records", lambda: table)
        zoo.load("resnet_tiny.mine")
        assert publishing.read_record(cache / known.name).name == known.name

    def test_spoiled_on_the_way(self, server, copy, cache):
        content = bytearray((copy / folder.WEIGHTS).read_bytes())
        content[5000] ^= 1
        (copy / folder.WEIGHTS).write_bytes(content)
        with pytest.raises(
            FileNotFoundError, match="fetched from .*the file has sha256"
        ):
            zoo.load("resnet_tiny", weights=f"{server}/{copy.name}")
        (copy / SUMS).write_text(f"{64 * '0'}  ../../escape")
        with pytest.raises(FileNotFoundError, match="a line that is no checksum"):
            zoo.load("resnet_tiny", weights=f"{server}/{copy.name}")
        with pytest.raises(FileNotFoundError, match="HTTP Error 404"):
            zoo.load("resnet_tiny", weights=f"{server}/nothing")
        with pytest.raises(ValueError, match="does not end in the name of a published"):
            lookup.hosted(f"{server}/..")
        assert not list(cache.rglob("*.h5")) and not list(cache.rglob("escape"))


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments):
        """Nothing on the terminal."""


# --- the networks inside the package -------------------------------------------------


def test_the_package_stays_small():
    files = [p for p in packaged.FOLDER.parent.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 5e6


@pytest.mark.parametrize("name", ["t_resnet_tiny", "resnet_tiny"])
def test_packaged_weights_load_offline(name, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    model = zoo.load(name, weights="synthetic_scenes")
    again, record = folder.load(packaged.FOLDER / f"{name}.synthetic_scenes")
    expected = again(CLIP)
    np.testing.assert_array_equal(model(CLIP), expected)
    assert record.labels == records.find(f"{name}.synthetic_scenes").class_names
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The first five videos of each class and camera of the demo's test videos."""
    root = tmp_path_factory.mktemp("scenes")
    write_dynamic_scenes(root, 5, size=(32, 32), frames=12, seed=1)
    return VideoList.from_folder(root)


@pytest.mark.parametrize("name", ["t_resnet_tiny", "resnet_tiny"])
def test_packaged_weights_keep_their_claims(name, scenes):
    """The claim on these videos, and the one on all within four standard errors."""
    model, known = folder.load(packaged.FOLDER / f"{name}.synthetic_scenes")
    view = (known.frames, known.shorter_side, known.flip)
    results = evaluate(model, scenes, *view, labels=known.labels)
    claims = {m.count: m for m in records.find(f"{name}.synthetic_scenes").metrics}
    found = results.accuracy()
    same = claims[len(scenes)]
    assert abs(found - same.value) <= same.tolerance + 1e-9
    overall = claims[400].value
    error = np.sqrt(overall * (1 - overall) / len(scenes))
    assert abs(found - overall) <= 4 * error


def test_the_record_on_disk_is_json_with_hashes():
    path = packaged.FOLDER / "t_resnet_tiny.synthetic_scenes"
    fields = json.loads((path / publishing.RECORD).read_text())
    assert fields["checksum"].startswith("sha256:")
    publishing.verify(path)
