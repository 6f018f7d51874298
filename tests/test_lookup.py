"""Finding and fetching files of weights, from a server that also misbehaves."""

import hashlib
import http.server
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from zoo.files import WriteError
from zoo.weights import lookup
from zoo.weights.lookup import ChecksumError, digest, locate
from zoo.weights.record import WeightRecord

CONTENT = b"MATLAB 5.0 MAT-file" + bytes(range(256)) * 40
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; counts what it is asked."""

    def do_GET(self):
        self.server.asked.append(self.path)
        kind = self.path.rsplit("/")[-2]
        if kind == "missing":
            return self.send_error(404)
        body = {"page": b"<html>gone</html>", "empty": b""}.get(kind, CONTENT)
        self.send_response(200)
        length = {"short": len(body) + 7, "endless": 2**60}.get(kind, len(body))
        if kind != "unsized":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Nothing on the terminal."""


@pytest.fixture
def server():
    """A server on this machine: .asked are the paths, .url its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.asked, found.url = [], f"http://127.0.0.1:{found.server_port}"
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty cache, no folders, the network allowed."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_WEIGHTS", raising=False)
    monkeypatch.delenv("ZOO_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def record(*sources, checksum=SUM):
    return WeightRecord(
        "resnet_tiny", "t", "matconvnet", ("a.mat",), "A", 8, sources, checksum
    )


def test_urls_in_turn_then_the_cache(server, places):
    urls = [f"{server.url}/{kind}/a.mat" for kind in ("missing", "page", "good")]
    path = locate(record(*urls))
    assert path == places / "cache" / "resnet_tiny.t" / "a.mat"
    assert path.read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert locate(record(*urls)) == path
    assert len(server.asked) == 3
    assert os.listdir(path.parent) == ["a.mat"]  # nothing half written stays


def test_places_in_order(server, places, monkeypatch):
    one, two = places / "one", places / "two"
    for folder in (one, two):
        folder.mkdir()
    (two / "a.mat").write_bytes(CONTENT)
    monkeypatch.setenv("ZOO_WEIGHTS", f"{one}{os.pathsep}{two}")
    known = record(f"{server.url}/good/a.mat")
    assert locate(known) == two / "a.mat"
    (one / "a.mat").write_bytes(CONTENT)
    assert locate(known) == one / "a.mat"
    (places / "mine.bin").write_bytes(CONTENT)
    assert locate(known, places / "mine.bin") == places / "mine.bin"
    assert locate(known, two) == two / "a.mat"
    assert not server.asked


def test_failure_says_everything_that_was_tried(server, places, monkeypatch):
    kinds = ("missing", "page", "empty", "short", "endless")
    urls = [f"{server.url}/{kind}/a.mat" for kind in kinds]
    monkeypatch.setenv("ZOO_WEIGHTS", str(places / "mine"))
    with pytest.raises(FileNotFoundError) as found:
        locate(record(*urls, "ftp://example.org/a.mat", "http://127.0.0.1:1/a.mat"))
    text = str(found.value)
    for expected in (
        "weights resnet_tiny.t were not found",
        f"ZOO_WEIGHTS {places / 'mine'}: not there",
        f"the cache {places / 'cache' / 'resnet_tiny.t'}: not there",
        "/missing/a.mat: HTTP Error 404",
        "/page/a.mat: the answer is not a readable file of weights but a web page",
        "/empty/a.mat: the answer is empty",
        "/short/a.mat: broke off after",
        "/endless/a.mat: 1152921504606846976 bytes are more than",
        "ftp://example.org/a.mat: only http and https",
        "127.0.0.1:1/a.mat: <urlopen error",
        'Get the file "a.mat" elsewhere and put it into',
    ):
        assert expected in text, text
    assert not (places / "cache" / "resnet_tiny.t" / "a.mat").exists()


def test_offline_asks_nobody(server, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="not asked, ZOO_OFFLINE is set"):
        locate(record(f"{server.url}/good/a.mat"))
    assert not server.asked


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "beginning"])
def test_one_byte_flipped(algorithm, server, places):
    sums = {"sha256": SUM, "md5": f"md5:{hashlib.md5(CONTENT).hexdigest()}"}
    known = record(
        f"{server.url}/good/a.mat", checksum=sums.get(algorithm, SUM[: 7 + 8])
    )
    path = locate(known)
    flipped = bytearray(CONTENT)
    flipped[999] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ChecksumError, match="a.mat is not the file of resnet_tiny.t"):
        locate(known)
    (places / "mine.mat").write_bytes(flipped)
    with pytest.raises(ChecksumError, match="if you trust it, zoo.load"):
        locate(known, places / "mine.mat")
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="a web page"):
        locate(known)


def test_what_is_fetched_without_a_checksum_gets_one(server):
    known = record(f"{server.url}/unsized/a.mat", checksum=None)
    path = locate(known)
    note = path.with_name("a.mat.sha256")
    assert note.read_text() == f"{SUM[7:]}  a.mat\n"
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(ChecksumError, match="damaged or another version"):
        locate(known)
    note.write_text("what")
    with pytest.raises(ValueError, match="does not begin with a SHA-256"):
        locate(known)


def test_a_wrong_file_never_appears(server, places):
    known = record(f"{server.url}/good/a.mat", checksum="sha256:" + 64 * "0")
    with pytest.raises(FileNotFoundError, match=f"the file has {SUM}, not sha256:000"):
        locate(known)
    assert not list((places / "cache").rglob("a.mat"))


def test_two_processes_fetch_once(server, places):
    code = f"""
        from zoo.weights import lookup
        from zoo.weights.record import WeightRecord
        record = WeightRecord("resnet_tiny", "t", "matconvnet", ("a.mat",), "A", 8,
                              ("{server.url}/good/a.mat",), {SUM!r})
        print(lookup.locate(record))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = {process.communicate()[0].strip() for process in running}
    assert answers == {str(places / "cache" / "resnet_tiny.t" / "a.mat")}
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_written(server, places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(places / "file" / "cache"))
    with pytest.raises(WriteError, match="Could not write .*/file/cache/"):
        locate(record(f"{server.url}/good/a.mat"))


def test_explicit_paths_that_are_none(places):
    with pytest.raises(FileNotFoundError, match="does not exist; it was to hold resn"):
        locate(record(), places / "nothing.mat")
    with pytest.raises(FileNotFoundError, match="neither resnet_tiny.t nor a file cal"):
        locate(record(), places)


def test_digest(places):
    (places / "a").write_bytes(CONTENT)
    assert digest(places / "a") == SUM
    assert lookup.cache_folder() == places / "cache"
