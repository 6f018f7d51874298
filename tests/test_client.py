"""The client against the test server, over real sockets: answers, errors, retries."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf

from tests.serving_cases import write_counter
from tests.serving_models import Version
from tests.serving_server import serve
from zoo.exports import client as clients
from zoo.exports import transports
from zoo.exports.client import Client, Retry, encode_jpeg

ROOT = Path(__file__).resolve().parents[1]
KEYS = Path(__file__).with_name("tls")
UNAVAILABLE, INTERNAL = (
    code.value[0] for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
)
QUICK = Retry(attempts=4, first=0.02)
CLIP = np.arange(6, dtype=np.uint8).reshape(2, 3)
FILES = [[b"abc\0\0", b"", b"\xff\xd8"], [b"\0", b"12", b"3"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        write_counter(folder / "counter" / str(version), version)
    (folder / "models.config").write_text(
        'model_config_list { config { name: "counter" base_path: "/models/counter" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } }'
    )
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serve(folder, config=folder / "models.config") as server:
        yield server


@pytest.fixture(params=["grpc", "rest"])
def client(request, server):
    """A client by each of the two ways."""
    address = {
        "grpc": f"127.0.0.1:{server.grpc_port}",
        "rest": f"http://127.0.0.1:{server.rest_port}",
    }
    with Client(address[request.param], timeout=20, retry=QUICK) as client:
        yield client


@pytest.fixture
def by_grpc(server):
    address = f"127.0.0.1:{server.grpc_port}"
    with Client(address, timeout=20, retry=QUICK) as client:
        yield client


def lengths(model, clips=FILES):
    return model.jpeg(clips)["lengths"]


def test_a_client_loads_neither_keras_nor_tensorflow():
    code = "import sys, zoo.exports.client as c; c.Client('http://localhost:1'); "
    code += "print({'keras', 'tensorflow'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# --- answers -------------------------------------------------------------------------


def test_files_arrive_as_they_are(client):
    got = lengths(client.model("counter"))
    assert got.dtype == np.int32
    assert got.tolist() == [[5, 0, 2], [1, 2, 1]]


def test_clips_arrive_as_they_are(by_grpc):
    outputs = by_grpc.model("counter")(CLIP)
    np.testing.assert_array_equal(outputs["scores"], 2.0 * CLIP)
    assert outputs["labels"].tolist() == [["two"], ["two"]]


def test_versions_and_labels_are_asked_for(by_grpc):
    asked = {1: {"version": 1}, 2: {}, "stable": {"label": "stable"}}
    labels = {
        key: by_grpc.model("counter", **spec)(CLIP)["labels"][0, 0]
        for key, spec in asked.items()
    }
    assert labels == {1: "one", 2: "two", "stable": "one"}


def test_versions_and_labels_by_rest(client):
    for spec in ({"version": 1}, {"label": "stable"}):
        assert lengths(client.model("counter", **spec)).shape == (2, 3)
    with pytest.raises(clients.NotServed, match="7"):
        lengths(client.model("counter", version=7))


def test_outputs_can_be_chosen(by_grpc):
    inputs = {"clips": CLIP}
    assert set(by_grpc.model("counter").predict(inputs, outputs=["scores"])) == {
        "scores"
    }


def test_status_and_signatures(client):
    model = client.model("counter")
    assert model.status() == {1: "AVAILABLE", 2: "AVAILABLE"}
    found = model.signatures()
    assert found["jpeg"]["inputs"] == {"jpeg": ("string", (None, None))}
    assert found["serving_default"]["outputs"] == {
        "scores": ("float32", None),
        "labels": ("string", (None, 1)),
    }


def test_threads_share_a_client(client):
    model, got = client.model("counter"), {}

    def ask(number):
        got[number] = lengths(model, [[b"x" * number]]).item()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {n: n for n in range(12)}


# --- errors --------------------------------------------------------------------------


def test_the_server_s_reason_is_passed_on(by_grpc):
    model = by_grpc.model("counter")
    with pytest.raises(clients.RequestRefused, match=r"empty: \[0 3\]$") as caught:
        model(CLIP[:0])
    assert caught.value.code == "INVALID_ARGUMENT"
    assert isinstance(caught.value, ValueError)
    with pytest.raises(clients.RequestRefused, match="float"):
        model(CLIP.astype(np.float32))
    with pytest.raises(clients.RequestRefused, match="Missing: .'clips'"):
        model.predict({})
    with pytest.raises(clients.RequestRefused, match='signature "x"'):
        model.predict({"clips": CLIP}, "x")
    with pytest.raises(clients.RequestRefused, match="label: x"):
        by_grpc.model("counter", label="x")(CLIP)


def test_errors_are_the_same_by_both_ways(client, server):
    with pytest.raises(clients.NotServed, match="nothing"):
        lengths(client.model("nothing"))
    with pytest.raises(clients.RequestRefused):
        client.model("counter").predict({"jpeg": FILES}, "x")
    calls = server.core.calls
    server.fail_next(1, INTERNAL, "broken inside")
    with pytest.raises(clients.ServerError, match="broken inside") as caught:
        lengths(client.model("counter"))
    assert caught.value.code == "INTERNAL"
    assert server.core.calls == calls + 1  # only UNAVAILABLE is tried again


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("localhost", {}, r"such as localhost:8500.*got 'localhost'"),
        ("ftp://localhost:1", {}, r"http://host:port"),
        ("http://localhost:1/v1", {}, r"got 'http://localhost:1/v1'"),
        ("http://localhost:1", {"tls": clients.TLS()}, r"goes with https://"),
        ("localhost:1", {"timeout": 0}, r"timeout must be above 0 seconds, got 0"),
    ],
)
def test_wrong_addresses_are_named(address, options, message):
    with pytest.raises(ValueError, match=message):
        Client(address, **options)


def test_wrong_numbers_are_named(by_grpc):
    with pytest.raises(ValueError, match="at least 1 attempt.*attempts=0"):
        Retry(attempts=0)
    with pytest.raises(ValueError, match="not both; got version=1, label='a'"):
        by_grpc.model("counter", version=1, label="a")
    with pytest.raises(ValueError, match="got an empty one"):
        by_grpc.model("")
    with pytest.raises(ValueError, match="needs its key"):
        clients.TLS(certificate="x")
    for name in ("length", "step", "in_flight"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            by_grpc.model("counter").stream([], **{name: 0})
    with pytest.raises(ValueError, match="has no frames"):
        list(by_grpc.model("counter").stream([]))
    with pytest.raises(ValueError, match="got 1 where the first has 2"):
        by_grpc.model("counter").jpeg([[b"a", b"b"], [b"c"]])


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b""])
@pytest.mark.parametrize(("status", "code"), [(200, "INTERNAL"), (404, "NOT_FOUND")])
def test_answers_that_are_none_of_a_server_s(monkeypatch, content, status, code):
    def exchange(*arguments):
        return status, content

    monkeypatch.setattr(transports.Rest, "_exchange", exchange)
    with (
        Client("http://127.0.0.1:1", retry=QUICK) as client,
        pytest.raises(clients.ServerError, match=code) as caught,
    ):
        client.model("counter").jpeg(FILES)
    assert caught.value.code == code


def test_rest_refuses_numbers(server):
    with Client(f"http://127.0.0.1:{server.rest_port}") as client:
        with pytest.raises(
            ValueError, match=r"`clips`, uint8 \[2, 3\].*signature jpeg"
        ):
            client.model("counter")(CLIP)


def test_a_request_has_a_largest_size(by_grpc):
    frame = np.broadcast_to(np.uint8(0), (1, 2**31))
    with pytest.raises(ValueError, match="2 GiB at most.*2147483648"):
        by_grpc.model("counter")(frame)


# --- retries, deadline, TLS ----------------------------------------------------------


def test_unavailable_is_tried_again(client, server):
    calls = server.core.calls
    server.fail_next(2, UNAVAILABLE)
    assert lengths(client.model("counter")).shape == (2, 3)
    assert server.core.calls == calls + 3


def test_retries_end(client, server):
    calls = server.core.calls
    server.fail_next(QUICK.attempts, UNAVAILABLE, "no room")
    with pytest.raises(clients.Unavailable, match=r"no room \(sent 4 times\)"):
        lengths(client.model("counter"))
    assert server.core.calls == calls + QUICK.attempts


def test_pauses_grow_up_to_a_limit():
    retry = Retry(first=0.1, largest=1)
    pauses = [[retry.pause(attempt) for _ in range(50)] for attempt in range(6)]
    for longest, drawn in zip((0.1, 0.2, 0.4, 0.8, 1, 1), pauses, strict=True):
        assert longest / 2 <= min(drawn) < max(drawn) <= longest


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}"])
def test_nobody_there(form):
    with Client(form.format(free_port()), retry=QUICK, timeout=20) as client:
        with pytest.raises(clients.Unavailable, match="sent 4 times"):
            lengths(client.model("counter"))


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_server_that_starts_late_is_found(folder, kind):
    ports = {"grpc": free_port(), "rest": free_port()}
    form = {"grpc": "127.0.0.1:{}", "rest": "http://127.0.0.1:{}"}[kind]
    retry = Retry(attempts=100, first=0.1, largest=0.2)
    got = []
    with Client(form.format(ports[kind]), retry=retry, timeout=30) as client:
        model = client.model("counter")
        asking = threading.Thread(target=lambda: got.append(lengths(model)))
        asking.start()
        time.sleep(0.2)  # so that it meets nobody first
        with serve(folder, ports["grpc"], ports["rest"]):
            asking.join(20)
    assert got[0].shape == (2, 3)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}"])
def test_the_deadline_ends_a_wait(form):
    """A server that takes the connection and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = form.format(listener.getsockname()[1])
        with Client(address, timeout=0.3) as client:
            start = time.monotonic()
            # gRPC may say that it has no connection yet.
            with pytest.raises((clients.DeadlineExceeded, clients.Unavailable)):
                lengths(client.model("counter"))
            assert time.monotonic() - start < 10


def test_tls_by_grpc(folder):
    pair = [(KEYS / f"localhost.{kind}").read_bytes() for kind in ("key", "crt")]
    credentials = grpc.ssl_server_credentials([tuple(pair)])
    with serve(folder, credentials=credentials) as server:
        address = f"localhost:{server.grpc_port}"
        tls = clients.TLS(ca=str(KEYS / "localhost.crt"))
        with Client(address, tls=tls) as client:
            assert client.model("counter")(CLIP)["scores"].shape == (2, 3)
        once = Retry(attempts=1)
        for untrusting in (clients.TLS(), None):
            with Client(address, tls=untrusting, retry=once, timeout=5) as client:
                with pytest.raises(clients.ServerError):
                    client.model("counter")(CLIP)


def test_tls_by_rest(folder):
    with serve(
        folder, https=(KEYS / "localhost.crt", KEYS / "localhost.key")
    ) as server:
        address = f"https://localhost:{server.rest_port}"
        tls = clients.TLS(ca=str(KEYS / "localhost.crt"))
        with Client(address, tls=tls) as client:
            assert lengths(client.model("counter")).shape == (2, 3)
        with Client(address) as client:
            with pytest.raises(ssl.SSLCertVerificationError):
                lengths(client.model("counter"))


# --- long videos ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "length", "step", "expected"),
    [
        (7, 3, None, [(0, 3), (3, 3), (6, 1)]),
        (6, 3, None, [(0, 3), (3, 3)]),
        (7, 4, 2, [(0, 4), (2, 4), (4, 3)]),
        (6, 4, 2, [(0, 4), (2, 4)]),
        (9, 2, 4, [(0, 2), (4, 2), (8, 1)]),
        (2, 5, None, [(0, 2)]),
    ],
)
def test_windows_of_a_stream(client, count, length, step, expected):
    frames = (b"x" * number for number in range(count))
    windows = list(client.model("counter").stream(frames, length, step))
    assert [(w.first, w.count) for w in windows] == expected
    for window in windows:
        sizes = list(range(window.first, window.first + window.count))
        assert window.outputs["lengths"].tolist() == [sizes]


def test_a_stream_takes_frames_as_it_needs_them(client):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield b"frame"

    stream = client.model("counter").stream(endless(), length=2, in_flight=3)
    for answered in range(5):
        next(stream)
        assert taken <= 2 * (answered + 3)
    stream.close()


def test_requests_in_flight_are_bounded(by_grpc, monkeypatch):
    now, most, lock = 0, 0, threading.Lock()
    predict = Version.predict

    def counting(*arguments):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)  # so that the others come in
        with lock:
            now -= 1
        return predict(*arguments)

    monkeypatch.setattr(Version, "predict", counting)
    stream = by_grpc.model("counter").stream([b"x"] * 20, length=2, in_flight=3)
    assert len(list(stream)) == 10
    assert most == 3


def test_a_stream_passes_errors_on(client):
    stream = client.model("nothing").stream([b"x"] * 4, length=2)
    with pytest.raises(clients.NotServed):
        next(stream)


# --- JPEG files ----------------------------------------------------------------------


def test_frames_as_jpeg_files():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
    frames = small.repeat(16, 1).repeat(16, 2)
    for frame, file in zip(frames, encode_jpeg(frames), strict=True):
        decoded = tf.io.decode_jpeg(file).numpy()
        assert np.abs(decoded.astype(int) - frame).mean() < 3
    with pytest.raises(ValueError, match=r"got float64 of shape \(1, 2\)"):
        encode_jpeg(np.zeros((1, 2)))


def test_a_stream_of_arrays_goes_to_the_input_that_is_named(by_grpc):
    """As detectors want it, whose input is called `frames`."""
    stream = by_grpc.model("counter").stream([np.uint8([1])] * 2, name="frames")
    with pytest.raises(clients.RequestRefused, match="frames"):
        next(stream)
