"""Measures requests per second of ``reslink serve`` on loopback, and of a plain eager-torch FastAPI handler.

    python benchmarks/serving_load.py BUNDLE [--seconds 20] [--connections 16] [--memory-seconds 60] [--out RESULT.json]

All parts run on one machine, including the load generator:

- full load: 16 connections, each with one request at a time,
- half load: half of that rate at fixed times, independent of earlier answers, so that waiting counts,
- slow senders: 20 requests per second, alone and beside slow senders, 70 s each, longer than the 60 s limit of a body,
- overload: many more connections than the service accepts, with its memory every second,
- full load on a plain handler: FastAPI, UploadFile, the same reader and preprocessing, eager torch, one image per call.

Every request is a 512 x 512 PNG of a synthetic head (``reslink.datasets.phantom.cohort``) as multipart/form-data.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

HOST = "127.0.0.1"
IMAGES = 16

EAGER = """
import sys
import torch, uvicorn
from fastapi import FastAPI, UploadFile
from reslink.bundles.bundle import Bundle
from reslink.imaging.reading import read_image

bundle = Bundle.load(sys.argv[1])
network = bundle.network()
app = FastAPI()

@app.post("/v1/predict")
def predict(files: UploadFile):
    image = read_image(files.file.read())
    pixels = torch.from_numpy(bundle.preprocess(image)[None])
    with torch.no_grad():
        probability = network(pixels).softmax(dim=1)[0]
    return {"probabilities": dict(zip(bundle.labels.names, probability.tolist()))}

@app.get("/health/ready")
def ready():
    return {}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


def pictures() -> list[bytes]:
    """Returns PNG files of synthetic CT heads in the brain window with scanner-like noise."""
    from reslink.datasets.phantom.cohort import render_slice

    rng, files = np.random.default_rng(0), []
    for i in range(IMAGES):
        plane = render_slice(0, i + 1, tumor=i % 2 == 1, sequence="CT", size=512).pixels
        gray = np.clip((plane + rng.normal(0, 3, plane.shape)) / 80 * 255, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(gray).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def request_of(png: bytes, port: int) -> bytes:
    """Returns the bytes of a request with one file."""
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head + png + b"\r\n--b--\r\n"
    lines = f"POST /v1/predict HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """One keep-alive connection; opened again when the service closes it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int | str:
        """Sends a request and returns the status of the answer, or the name of the error."""
        try:
            if self.streams is not None and self.streams[0].at_eof():  # the service closed it while it was idle
                self.close()
            if self.streams is None:
                self.streams = await asyncio.open_connection(HOST, self.port)
            reader, writer = self.streams
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 120)
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields[b"content-length"]))
            if fields.get(b"connection") == b"close":
                self.close()
            return int(head[9:12])
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            return type(error).__name__

    def close(self) -> None:
        """Closes the connection."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


@dataclasses.dataclass
class Load:
    """Results of a number of requests.

    Attributes:
        seconds: Duration.
        answered: Answers with status 200.
        results: Answers by status, errors by name.
        rate: Answers with status 200 per second.
        p50_ms: Median time of answers with status 200.
        p99_ms: 99th percentile of the same.
        refused_p99_ms: 99th percentile of all other answers.
        cpu_ms: Processor time of the service per answer with status 200; more reliable than the rate on a busy machine.
        generator_cpu_ms: Processor time of the load generator per answer with status 200.
    """

    seconds: float
    answered: int
    results: dict[str, int]
    rate: float
    p50_ms: float | None
    p99_ms: float | None
    refused_p99_ms: float | None
    cpu_ms: float | None = None
    generator_cpu_ms: float | None = None


def summary(rows: list[tuple[int | str, float]], seconds: float) -> Load:
    """Counts answers and their times."""
    good = [taken for result, taken in rows if result == 200]
    refused = [taken for result, taken in rows if result != 200]
    counts = {str(key): n for key, n in sorted(Counter(result for result, _ in rows).items(), key=str)}

    def percentile(times: list[float], q: float) -> float | None:
        return round(1000 * float(np.percentile(times, q)), 1) if times else None

    return Load(
        round(seconds, 1), len(good), counts, round(len(good) / seconds, 1), percentile(good, 50), percentile(good, 99),
        percentile(refused, 99),
    )  # fmt: skip


async def closed_loop(port: int, requests: list[bytes], connections: int, seconds: float, pause: float = 0.0) -> Load:
    """Sends the next request on each connection when the answer arrives; waits a little after a refusal."""
    rows: list[tuple[int | str, float]] = []
    began = time.perf_counter()

    async def keep_sending(number: int) -> None:
        client, draw = Client(port), random.Random(number)
        while time.perf_counter() - began < seconds:
            sent = time.perf_counter()
            result = await client.ask(draw.choice(requests))
            rows.append((result, time.perf_counter() - sent))
            if result != 200 and pause:
                await asyncio.sleep(pause * draw.random())
        client.close()

    await asyncio.gather(*(keep_sending(i) for i in range(connections)))
    return summary(rows, time.perf_counter() - began)


async def open_loop(port: int, requests: list[bytes], rate: float, seconds: float) -> Load:
    """Sends requests at fixed times, independent of earlier answers; each time counts from the planned start."""
    rows: list[tuple[int | str, float]] = []
    idle: list[Client] = []
    began = time.perf_counter()

    async def send(due: float, request: bytes) -> None:
        client = idle.pop() if idle else Client(port)
        result = await client.ask(request)
        rows.append((result, time.perf_counter() - due))
        idle.append(client)

    tasks, draw = [], random.Random(0)
    for i in range(int(rate * seconds)):
        due = began + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(send(due, draw.choice(requests))))
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return summary(rows, time.perf_counter() - began)


async def send_slowly(port: int, start: bytes, ended: asyncio.Event, cut: list[float]) -> None:
    """Sends one byte per second after the start of a request, repeatedly; records when the service disconnects."""
    while not ended.is_set():
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(start)
        while not ended.is_set():
            writer.write(b"a")
            try:
                await asyncio.wait_for(reader.read(4096), 1)
            except TimeoutError:
                continue
            except OSError:
                pass
            cut.append(time.perf_counter() - began)
            break
        writer.close()


async def slow_senders(port: int, requests: list[bytes], seconds: float, count: int) -> dict[str, object]:
    """Measures 20 requests per second alone, then beside slow senders: half send headers slowly, half bodies."""
    alone = await open_loop(port, requests, 20.0, seconds)
    starts = (b"POST /v1/predict HTTP/1.1\r\nX-", requests[0].partition(b"\x89PNG")[0])
    ended = asyncio.Event()
    cut: list[float] = []
    slow = [asyncio.create_task(send_slowly(port, starts[i % 2], ended, cut)) for i in range(count)]
    beside = await open_loop(port, requests, 20.0, seconds)
    ended.set()
    await asyncio.gather(*slow)
    ratio = round((beside.p99_ms or 0) / max(alone.p99_ms or 0, 1e-9), 2)
    loads = {"alone": dataclasses.asdict(alone), "beside": dataclasses.asdict(beside), "times_p99": ratio}
    after = [round(pick(cut, default=0.0), 1) for pick in (min, max)]
    return loads | {"senders": count, "cut_off": len(cut), "cut_off_after_s": after}


async def memory_over_time(process: psutil.Process, work: asyncio.Task[Load]) -> list[float]:
    """Returns the memory of a process and its children, in MiB, every second until a task is done."""
    values = []
    while not work.done():
        values.append(memory(process))
        await asyncio.wait([work], timeout=1)
    return values


def memory(process: psutil.Process) -> float:
    """Returns the resident memory of a process and its children, in MiB."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return round(total / 2**20, 1)


@contextmanager
def running(words: list[str], port: int) -> Iterator[psutil.Process]:
    """Runs a service until the block ends; the block starts when the service is ready."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            asyncio.run(_until_ready(process, port))
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


async def _until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    request = f"GET /health/ready HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        client = Client(port)
        result = await client.ask(request)
        client.close()
        if result == 200:
            return
        await asyncio.sleep(0.2)
    raise SystemExit("the service did not become ready within two minutes")


def cpu(process: psutil.Process) -> float:
    """Returns the processor time of a process and its children, in seconds."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def full_load(process: psutil.Process, requests: list[bytes], port: int, args: argparse.Namespace) -> Load:
    """Measures full load after a warm-up of two seconds."""
    await closed_loop(port, requests, args.connections, 2)
    before, own_before = cpu(process), time.process_time()
    load = await closed_loop(port, requests, args.connections, args.seconds)
    each = 1000 / max(load.answered, 1)
    spent, driven = round((cpu(process) - before) * each, 2), round((time.process_time() - own_before) * each, 2)
    return dataclasses.replace(load, cpu_ms=spent, generator_cpu_ms=driven)


async def measure(process: psutil.Process, port: int, args: argparse.Namespace) -> dict[str, object]:
    """Measures the service: full load, half load, slow senders, overload with memory."""
    requests = [request_of(png, port) for png in pictures()]
    full = await full_load(process, requests, port, args)
    half = await open_loop(port, requests, full.rate / 2, args.seconds)
    slow = await slow_senders(port, requests, max(args.seconds, 70.0), args.slow)
    before = memory(process)
    work = asyncio.create_task(closed_loop(port, requests, args.overload, args.memory_seconds, pause=0.5))
    over_time = await memory_over_time(process, work)
    return {
        "full": dataclasses.asdict(full),
        "half": dataclasses.asdict(half),
        "slow_senders": slow,
        "overload": dataclasses.asdict(work.result()) | {"connections": args.overload},
        "memory_mib": {
            "before": before,
            "first_quarter": _peak(over_time, 0, 0.25),
            "last_quarter": _peak(over_time, 0.75, 1),
            "peak": max(over_time),
        },
    }


def _peak(values: list[float], start: float, end: float) -> float:
    return max(values[int(start * len(values)) : max(int(end * len(values)), 1)])


async def measure_eager(process: psutil.Process, port: int, args: argparse.Namespace) -> dict[str, object]:
    """Measures the plain handler: full load only."""
    requests = [request_of(png, port) for png in pictures()]
    return dataclasses.asdict(await full_load(process, requests, port, args))


def main() -> int:
    """Prints one JSON object; returns 1 if an answer of the service was an error other than 503 under overload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="bundle folder or name of a shipped model")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of full load and of half load")
    parser.add_argument("--memory-seconds", type=float, default=30.0, help="seconds of overload")
    parser.add_argument("--connections", type=int, default=16, help="connections of full load")
    parser.add_argument("--overload", type=int, default=256, help="connections of overload")
    parser.add_argument("--slow", type=int, default=64, help="number of slow senders")
    parser.add_argument("--workers", type=int, default=1, help="workers of the service")
    parser.add_argument("--port", type=int, default=8123, help="port of the service; the plain handler uses the next one")
    parser.add_argument("--no-eager", action="store_true", help="skip the plain handler")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    words = [sys.executable, "-m", "reslink", "serve", args.bundle, "--port", str(args.port), "--workers", str(args.workers)]
    with running([*words, "--quiet"], args.port) as process:
        results = asyncio.run(measure(process, args.port, args))
    if not args.no_eager:
        port = args.port + 1
        with running([sys.executable, "-c", EAGER, args.bundle, str(port)], port) as process:
            results["eager"] = asyncio.run(measure_eager(process, port, args))
        results["times_eager"] = round(results["full"]["rate"] / max(results["eager"]["rate"], 1e-9), 2)  # type: ignore[index]
    results |= {"cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2), "machine": platform.machine()}
    text = json.dumps(results, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    clean = set(results["full"]["results"]) | set(results["half"]["results"]) <= {"200"}  # type: ignore[index]
    clean &= set(results["slow_senders"]["beside"]["results"]) <= {"200"}  # type: ignore[index]
    return 0 if clean and set(results["overload"]["results"]) <= {"200", "503"} else 1  # type: ignore[index]


if __name__ == "__main__":
    raise SystemExit(main())
