"""Hostile uploads and requests: they are refused with a problem, and the service keeps working."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import io
import json
import re
import signal
import socket
import struct
import threading
import time
import zipfile

import builders
import numpy as np
import psutil
import pydicom
import pytest
from pydicom import uid
from uploaded import archive, dicom, png

MIB = 1 << 20


def deep_dicom(explicit_length: bool, depth: int = 10_000) -> bytes:
    """A DICOM file with a sequence in a sequence, many times."""
    whole = dicom(1)
    inner = b""
    if explicit_length:
        for _ in range(depth):
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
            inner = b"\x40\x00\x75\x02SQ\0\0" + struct.pack("<I", len(item)) + item
    else:
        inner = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    at = whole.index(b"\xe0\x7f\x10\x00")
    return whole[:at] + inner + whole[at:]


@functools.cache
def bomb() -> bytes:
    """An archive of 200 kB that unpacks to 200 MB."""
    return archive({"a.png": bytes(200 * MIB)})


def lying_bomb() -> bytes:
    """An archive that states a wrong size of its member."""
    packed = bytearray(archive({"a.png": bytes(50 * MIB)}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = packed.index(mark) + offset
        packed[at : at + 4] = struct.pack("<I", 1000)
    return bytes(packed)


def many_members() -> bytes:
    return archive({f"{i}.png": b"x" for i in range(20_000)})


HOSTILE = {
    "zip bomb": (bomb, 413, "far larger unpacked than packed"),
    "zip that lies": (lying_bomb, 422, "zip archive cannot be read"),
    "zip of too many": (many_members, 413, "directory of the archive"),
    "zip with ../": (lambda: archive({"../../etc/cron.d/a.png": png(1)}), 400, "contains '..'"),
    "zip with an absolute name": (lambda: archive({"/etc/passwd": png(1)}), 400, "absolute"),
    "zip with a backslash": (lambda: archive({"..\\a.png": png(1)}), 400, "contains '..'"),
    "zip in a zip": (lambda: archive({"b.zip": archive({"a.png": png(1)})}), 415, "another archive"),
    "empty zip": (lambda: archive({}), 400, "contains no file"),
    "zip with a member .": (lambda: archive({".": png(1)}), 400, "contains no file"),
    "zip with a member ./.": (lambda: archive({"./.": png(1)}), 400, "contains no file"),
    "zip cut off": (lambda: archive({"a.png": png(1)})[:-30], 422, "end is missing"),
    "png and zip": (lambda: png(1) + archive({"a.png": png(2)}), 415, "something else too"),
    "jpeg and zip": (lambda: png(1, kind="JPEG") + archive({"a.png": png(2)}), 415, "something else too"),
    "dicom and program": (lambda: b"MZ" + dicom(1)[2:], 415, "something else too"),
    "dicom and page": (lambda: b"<script>alert(1)</script>" + dicom(1)[25:], 415, "something else too"),
    "truncated dicom": (lambda: dicom(1)[:-4000], 422, "cannot be read"),
    "dicom of a header": (lambda: dicom(1)[:300], 422, "cannot be read|without pixels"),
    "png half": (lambda: png(1)[: len(png(1)) // 2], 422, "cannot be read"),
    "png that claims 2^31": (lambda: builders.png(2**31 - 1, 40, b""), 422, "limit is"),
    "gzip of nothing": (lambda: b"\x1f\x8b" + bytes(100), 422, "cannot be read"),
    "html": (lambda: b"<!doctype html><script>alert(1)</script>", 415, "not a supported image"),
    "nothing": (lambda: b"", 415, "not a supported image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str, service) -> None:
    make, status, pattern = HOSTILE[name]
    content = make()
    answer = service.post("/v1/predict", [("a", content)])
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert set(problem) >= {"type", "title", "status", "detail", "errors"}
    assert re.search(pattern, problem["detail"]), problem["detail"]
    assert service.post("/v1/predict", [("good.png", png(1))]).status_code == 200


def test_nested_sequences_of_defined_length_are_skipped(service) -> None:
    """Deeply nested sequences are skipped by their length and never parsed."""
    deep, plain = (service.post("/v1/predict", [("a.dcm", content)]).json() for content in (deep_dicom(True), dicom(1)))
    assert deep["files"] == plain["files"]
    assert deep["files"][0]["answers"][0]["slices"][0]["label"]


def test_nested_sequences_of_undefined_length_are_refused(service) -> None:
    answer = service.post("/v1/predict", [("a.dcm", deep_dicom(False))])
    assert answer.status_code == 422, answer.text
    assert "cannot be read" in answer.json()["detail"]
    assert service.post("/v1/predict", [("good.png", png(1))]).status_code == 200


@pytest.mark.parametrize(
    ("files", "data", "status", "message"),
    [
        ([], {"model": "head"}, 415, "multipart/form-data"),
        ([("../../a.png", png(1))], {}, 400, "contains '..'"),
        ([("a.png", png(1))], {"model": "haed"}, 400, "Did you mean 'head'"),
        ([("a.png", png(1))], {"slice": "-1"}, 400, "whole number"),
        ([("a.png", png(1))], {"slice": "x" * 2000}, 413, "1024 bytes"),
        ([("a.png", png(1))], {"slice": ["0", "1"]}, 400, "given 2 times"),
    ],
)
def test_an_invalid_request_is_refused(service, files, data, status: int, message: str) -> None:
    answer = service.post("/v1/predict", files, data)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"x", "multipart/form-data", 415),
        (b"x", "multipart/form-data; boundary=b", 400),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nxx',
            "multipart/form-data; boundary=b",
            400,
        ),
        (b"--b\r\nX: y\r\n\r\nxx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"", "text/plain", 415),
    ],
)
def test_a_malformed_body_is_refused(service, content: bytes, kind: str, status: int) -> None:
    with service.client() as client:
        answer = client.post("/v1/predict", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["status"]) == (status, status)


@pytest.mark.parametrize(
    ("declared", "status"), [("image/png", 200), ("application/octet-stream", 200), ("image/jpeg", 415), ("text/html", 415)]
)
def test_the_declared_type_must_match_the_content(service, declared: str, status: int) -> None:
    with service.client() as client:
        assert client.post("/v1/predict", files={"files": ("a.png", png(1), declared)}).status_code == status


def memory(service) -> float:
    process = psutil.Process(service.process.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / MIB


def exchange(service, *blocks: bytes, wait: float = 20) -> tuple[bytes, int]:
    """Sends blocks over a socket until the service responds; returns the response and the number of sent blocks."""
    sent = 0
    with socket.create_connection(("127.0.0.1", service.port), wait) as line:
        for block in blocks:
            line.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                if line.recv(1, socket.MSG_PEEK):
                    break
            line.settimeout(wait)
            try:
                line.sendall(block)
            except (ConnectionError, TimeoutError):
                break
            sent += 1
        line.settimeout(wait)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := line.recv(65536):
                answer += data
    return answer, sent


HEAD = "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'


def test_a_body_with_a_stated_length_of_5_gb(service) -> None:
    service.post("/v1/predict", [("a.png", png(1))])
    before = memory(service)
    head = f"{HEAD}Content-Length: {5 * 2**30}\r\n\r\n".encode()
    answer, sent = exchange(service, head, PART, *[bytes(MIB)] * 5000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert b"connection: close" in answer.lower()
    assert sent < 50
    assert memory(service) - before < 64


@pytest.fixture(scope="module")
def limited(serving):
    """A service with low limits of the size, the number and the time of requests."""
    sizes = {"body_bytes": 8 * MIB, "held_bytes": 12 * MIB}
    with serving({**sizes, "concurrent_requests": 2, "header_seconds": 3.0, "body_seconds": 6.0}) as running:
        yield running


def test_a_chunked_body_of_unknown_length(limited) -> None:
    before = memory(limited)
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{len(PART):x}\r\n".encode() + PART + b"\r\n"
    answer, sent = exchange(limited, head, *[chunk] * 5000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 60
    assert memory(limited) - before < 64
    assert limited.post("/v1/predict", [("a.png", png(1))]).status_code == 200


def send_all_then_read(port: int, head: str, *blocks: bytes) -> bytes:
    """Sends everything before it reads anything, as many clients do; raises if the connection is reset."""
    with socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n")
        for block in blocks:
            line.sendall(block)
        answer = b""
        while data := line.recv(65536):
            answer += data
        return answer


def test_a_client_that_sends_all_before_it_reads_sees_why_its_body_is_refused(limited) -> None:
    before = memory(limited)
    answer = send_all_then_read(limited.port, f"{HEAD}Content-Length: {15 * MIB}", PART, bytes(15 * MIB - len(PART)))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"The request body is too long" in answer
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    answer = send_all_then_read(limited.port, f"{HEAD}Transfer-Encoding: chunked", *[chunk] * 14, b"0\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
    answer = send_all_then_read(
        limited.port, f"POST /none HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {7 * MIB}", bytes(7 * MIB)
    )
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert memory(limited) - before < 64


def test_a_client_that_sends_all_before_it_reads_sees_that_the_service_is_busy(limited) -> None:
    with socket.create_connection(("127.0.0.1", limited.port), 20) as unfinished:
        unfinished.sendall(f"{HEAD}Content-Length: {8 * MIB}\r\n\r\n".encode() + PART + bytes(7 * MIB))
        for _ in range(20):  # until all that was sent has arrived; before, the body is only refused for its form
            answer = send_all_then_read(limited.port, f"{HEAD}Content-Length: {7 * MIB}", PART, bytes(7 * MIB - len(PART)))
            if not answer.startswith(b"HTTP/1.1 400 "):
                break
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after" in answer.lower()


def test_the_memory_of_all_requests_is_limited(limited) -> None:
    with socket.create_connection(("127.0.0.1", limited.port), 20) as unfinished:
        unfinished.sendall(f"{HEAD}Content-Length: {8 * MIB}\r\n\r\n".encode() + PART + bytes(7 * MIB))
        for _ in range(20):  # until all that was sent has arrived; before, the second file is only refused for its type
            answer = limited.post("/v1/predict", [("a", bytes(6 * MIB))])
            if answer.status_code != 415:
                break
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert limited.post("/v1/predict", [("a.png", png(1))]).status_code == 200
    assert limited.post("/v1/predict", [("a", bytes(6 * MIB))]).status_code == 415


def drip(service, first: bytes, stop: threading.Event) -> tuple[bytes, float]:
    """Sends the first bytes, then one byte every 0.1 s until the service closes; returns the response and the seconds."""
    began = time.monotonic()
    answer = b""
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.sendall(first)
        line.settimeout(0.1)
        while not stop.is_set():
            try:
                data = line.recv(65536)
                answer += data
                if not data:
                    break
            except TimeoutError:
                with contextlib.suppress(ConnectionError):
                    line.send(b"a")
            except ConnectionError:
                break
    return answer, time.monotonic() - began


@pytest.mark.slow
def test_slow_clients_are_disconnected_while_other_requests_succeed(limited) -> None:
    """There are more slow clients than requests that the service answers at a time."""
    slow_header, slow_body = b"POST /v1/predict HTTP/1.1\r\nX-", f"{HEAD}Content-Length: 100000\r\n\r\n".encode() + PART
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(44) as pool:
        headers = [pool.submit(drip, limited, slow_header, stop) for _ in range(20)]
        bodies = [pool.submit(drip, limited, slow_body, stop) for _ in range(20)]
        idle = [pool.submit(drip, limited, b"", stop) for _ in range(2)]
        good = [limited.post("/v1/predict", [("a.png", png(i))]).status_code for i in range(8)]
        limit = threading.Timer(60, stop.set)
        limit.start()
        ends = {name: [one.result() for one in some] for name, some in (("header", headers), ("body", bodies), ("idle", idle))}
        limit.cancel()
    assert good == [200] * 8
    assert not stop.is_set(), "a slow client was never disconnected"
    for name, least in (("header", 3.0), ("body", 6.0), ("idle", 3.0)):
        for answer, seconds in ends[name]:
            assert answer.startswith(b"HTTP/1.1 408 "), (name, answer[:80])
            assert seconds >= least - 0.1
            body = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert body["status"] == 408


def test_requests_beyond_the_limit_get_503(limited) -> None:
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: limited.post("/v1/predict", [("a.png", png(i, 512))]), range(48)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["type"] == "urn:reslink:problem:busy"
    assert limited.post("/v1/predict", [("a.png", png(1))]).status_code == 200


def test_a_killed_worker_process_is_replaced(service) -> None:
    process = psutil.Process(service.process.pid)
    [decoder] = [one for one in process.children() if "spawn_main" in " ".join(one.cmdline())]
    decoder.kill()
    answers = [service.post("/v1/predict", [("a.png", png(1))]).status_code for _ in range(3)]
    assert set(answers[:2]) <= {200, 503}
    assert answers[2] == 200


def test_sigterm_completes_active_requests(serving) -> None:
    files = {f"{i:03}.png": png(i, 256) for i in range(150)}
    with serving() as service, concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(service.post, "/v1/predict", [("a.zip", archive(files))])
        for _ in range(500):
            with service.client() as client:
                if (
                    'reslink_requests_under_way{worker="' in (text := client.get("/metrics").text)
                    and _active_requests(text) == 1
                ):
                    break
        service.process.send_signal(signal.SIGTERM)
        response = pending.result(timeout=60)
        assert response.status_code == 200
        assert len(response.json()["files"]) == 150
        assert service.process.wait(30) == 0


def _active_requests(text: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith("reslink_requests_under_way{")]
    return float(line.split()[-1])


def test_a_token_is_required(serving) -> None:
    token = "a-token-of-the-tests"
    with serving(token=token) as service, service.client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/health/ready").status_code == 200
        for shown in (None, "Bearer wrong", f"Basic {token}", "Bearer", f"Bearer {token}x", f"Bearer {token[:-1]}"):
            headers = {} if shown is None else {"authorization": shown}
            for path in ("/v1/models", "/metrics", "/openapi.json"):
                answer = client.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="reslink"'), (
                    shown,
                    path,
                )
        good = {"authorization": f"Bearer {token}"}
        assert client.get("/v1/models", headers=good).status_code == 200
        assert client.post("/v1/predict", files={"files": ("a.png", png(1))}, headers=good).status_code == 200
        assert client.get("/openapi.json", headers=good).json()["security"] == [{"token": []}]
    assert token not in service.log.read_text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(service, headers: dict[str, str], status: int) -> None:
    with service.client() as client:
        assert client.get("/v1/models", headers=headers).status_code == status
        own = {"origin": service.url}
        assert client.get("/v1/models", headers=own).status_code == 200


def test_no_path_of_a_request_reaches_the_disk(service) -> None:
    for path in ("/ui/../http.py", "/ui/%2e%2e/http.py", "/ui/..%2fhttp.py", "/ui//etc/passwd", "/ui/http.py", "/etc/passwd"):
        answer, _ = exchange(service, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), path
        assert b"root:" not in answer


def test_every_response_has_security_headers(service) -> None:
    with service.client() as client:
        for path in ("/", "/ui/app.js", "/v1/models", "/nowhere", "/metrics"):
            headers = client.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
        assert client.put("/v1/predict").status_code == 405
        assert client.get("/nowhere").json()["status"] == 404


def test_no_patient_data_is_logged_or_written(service) -> None:
    secret = "ZZCANARY"
    broken = dicom(1, PatientName=secret, PatientID=secret)
    process, logged = psutil.Process(service.process.pid), len(service.log.read_text())
    before = process.io_counters().write_bytes
    service.post("/v1/predict", [(f"{secret}.dcm", broken), (f"{secret}2.dcm", broken[:-3000])])
    service.post("/v1/predict", [(f"{secret}.zip", archive({f"{secret}/a.dcm": broken}))])
    service.post("/v1/predict", [(f"{secret}.png", png(1, 1024) + bytes(3 * MIB))], {"model": secret})
    service.post("/v1/explain", [(f"{secret}.dcm", broken)])
    with service.client() as client:
        client.get(f"/{secret}?{secret}={secret}", headers={"x-name": secret})
        client.post("/v1/predict", content=b"x", headers={"content-type": f"multipart/form-data; boundary={secret}"})
        metrics = client.get("/metrics").text
    written = process.io_counters().write_bytes - before
    log = service.log.read_text()[logged:]
    assert log.count(" request ") > 5, "the log is empty, so the test is meaningless"
    assert secret not in log
    assert secret not in metrics
    assert written < 256 * 1024, "more than the log was written"
    assert sorted(path.name for path in service.log.parent.iterdir()) == ["log", "service.py"]


def test_compressed_dicom_is_read(service) -> None:
    pixels = np.arange(96 * 96, dtype=np.uint16).reshape(96, 96)
    answer = service.post("/v1/predict", [("a.dcm", builders.compressed(pixels, uid.RLELossless))])
    assert answer.status_code == 200, answer.text


def test_the_hostile_files_are_built_as_intended() -> None:
    dataset, depth = pydicom.dcmread(io.BytesIO(deep_dicom(True, depth=7))), 0
    while "RequestAttributesSequence" in dataset:
        [dataset], depth = dataset.RequestAttributesSequence, depth + 1
    assert depth == 7
    for explicit_length in (True, False):
        assert deep_dicom(explicit_length).count(b"\x40\x00\x75\x02SQ") == 10_000
    with zipfile.ZipFile(io.BytesIO(content := bomb())) as packed:
        assert packed.getinfo("a.png").file_size == 200 * MIB
    assert len(content) < MIB
