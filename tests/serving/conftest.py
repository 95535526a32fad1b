"""A service in its own process, with two small bundles of random weights."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1] / "imaging")]

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

TINY = {"stem_dim": 8, "dims": (8, 16), "depths": (1, 1)}
RUNNER = """
import sys, json

if __name__ == "__main__":  # the worker processes run this file too, and need none of it, as under the command line
    from reslink.serving.http import server
    from reslink.serving.http.app import Settings
    from reslink.serving.http.limits import Limits

    settings, limits, port, workers = json.loads(sys.argv[1])
    settings["bundles"] = tuple(settings["bundles"])
    server.serve(Settings(**settings, limits=Limits(**limits)), port, workers)
"""


@pytest.fixture(scope="session")
def bundles(make_once: Callable[[str, Callable[[Path], None]], Path]) -> list[Path]:
    """Two bundles with graphs, one for two classes and one for three; images differ in their probabilities."""
    root = make_once("served_bundles", _make_bundles)
    return [root / "head", root / "three"]


def _make_bundles(root: Path) -> None:
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.decision.decision import Decision
    from reslink.export.onnx import to_onnx
    from reslink.imaging.preprocess import Preprocess
    from reslink.labels import Labels
    from reslink.networks.reslink import ResLinkConfig, build_network

    for name, names in (("head", ("Healthy", "Tumor")), ("three", ("glioma", "none", "other"))):
        config = ResLinkConfig(num_classes=len(names), **TINY)
        state = build_network(config, seed=1).state_dict()
        state["head.1.weight"] *= 30
        bundle = Bundle(
            {"name": "tiny", **config.model_dump(mode="json")},
            Preprocess(size=64),
            Labels(names),
            Decision.default(len(names)),
        ).save(root / name, state)
        bundle.with_onnx(to_onnx(bundle))


@pytest.fixture(scope="session")
def series_bundle(make_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A bundle whose cases are series; slices differ in their weights."""
    return make_once("served_series", lambda folder: _make_series_bundle(folder / "whole")) / "whole"


def _make_series_bundle(folder: Path) -> None:
    from reslink.bundles.bundle import Bundle
    from reslink.export.onnx import to_onnx
    from reslink.imaging.preprocess import Preprocess
    from reslink.labels import Labels
    from reslink.networks.build import build_network
    from reslink.networks.reslink import ResLinkConfig

    config = ResLinkConfig(num_classes=2, in_channels=1, **TINY)
    state = build_network(config, 1, case="series").state_dict()
    for name in ("head.1.weight", "pooling.value.weight", "pooling.gate.weight", "pooling.score.weight"):
        state[name] *= 30
    architecture = {"name": "tiny", **config.model_dump(mode="json"), "case": "series"}
    bundle = Bundle(architecture, Preprocess(size=64, channels=1), Labels(("Healthy", "Tumor"))).save(folder, state)
    bundle.with_onnx(to_onnx(bundle))


@dataclass
class Service:
    """A running service.

    Attributes:
        url: Base URL.
        port: TCP port.
        process: Process of the service.
        log: File with its standard error.
    """

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)  # type: ignore[arg-type]

    def post(self, path: str, files: list[tuple[str, bytes]], data: dict[str, object] | None = None, **options: object):
        with self.client() as client:
            parts = [("files", (name, content, "application/octet-stream")) for name, content in files]
            return client.post(path, files=parts, data=data, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def serving(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Returns a context manager that runs a service with the given settings and limits."""

    @contextmanager
    def run(limits: dict[str, object] | None = None, workers: int = 1, **settings: object) -> Iterator[Service]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("service")
        (folder / "service.py").write_text(RUNNER)
        words = json.dumps([{"bundles": [str(path) for path in bundles], **settings}, limits or {}, port, workers])
        environment = {
            **os.environ,
            "TMPDIR": str(folder / "none"),
            "PYTHONFAULTHANDLER": "1",
        }  # no temporary files
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, folder / "service.py", words], stderr=log, env=environment)
        service = Service(f"http://127.0.0.1:{port}", port, process, folder / "log")
        try:
            wait_until_ready(service)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return run


def wait_until_ready(service: Service) -> None:
    for _ in range(2400):
        assert service.process.poll() is None, service.log.read_text()
        try:
            if httpx.get(f"{service.url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the service did not become ready: " + service.log.read_text())


@pytest.fixture(scope="session")
def service(serving) -> Iterator[Service]:
    """A service with default settings."""
    with serving() as running:
        yield running


def make_bundle(folder: Path, **changes: object) -> Path:
    """Saves a small bundle with random weights and its ONNX graph."""
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.decision.decision import Decision
    from reslink.export.onnx import to_onnx
    from reslink.imaging.preprocess import Preprocess
    from reslink.labels import Labels
    from reslink.networks.reslink import build_network, variant_config

    names = changes.pop("names", ("Healthy", "Tumor"))
    config = variant_config(
        "reslink_small", num_classes=len(names), stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1, **changes
    )
    state = build_network(config, seed=1).state_dict()
    rng = np.random.default_rng(0)
    for name, value in state.items():
        if "norm" in name and value.is_floating_point():
            low, high = (0.5, 2.0) if name.endswith(("weight", "var")) else (-0.5, 0.5)
            value.copy_(value.new_tensor(rng.uniform(low, high, value.shape)))
    state["head.1.weight"] *= 30
    architecture = {"name": "reslink_small", **config.model_dump(mode="json")}
    preprocess = Preprocess(size=64, channels=1)
    bundle = Bundle(architecture, preprocess, Labels(names), Decision.default(len(names))).save(folder, state)
    bundle.with_onnx(to_onnx(bundle))
    return folder


@pytest.fixture(scope="session")
def bundle(make_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A bundle of two classes with both attentions."""
    return make_once("bundle_for_pacs", lambda folder: make_bundle(folder / "tiny")) / "tiny"


@pytest.fixture
def need_orthanc() -> None:
    """Skips if the programs of a PACS are not installed; scripts/install-debian-packages installs them."""
    import pacs

    there = {"orthanc": pacs.ORTHANC, "dicom3tools": pacs.DCIODVFY}
    there |= {f"orthanc-{name.lower()}": path for name, path in pacs.PLUGINS.items()}
    missing = [name for name, path in there.items() if path is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: scripts/install-debian-packages installs them")


@pytest.fixture
def need_dciodvfy() -> None:
    """Skips if dicom3tools is not installed."""
    import pacs

    if pacs.DCIODVFY is None:
        pytest.skip("no dicom3tools here: scripts/install-debian-packages installs it")
