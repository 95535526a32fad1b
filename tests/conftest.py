"""Fixtures that every test may use."""

from __future__ import annotations

import csv
import fcntl
import functools
import gc
import importlib.util
import json
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: weights are compared to the byte, and threads change sums

import numpy as np
import pytest
import typer.testing
import yaml

from reslink.files import TELEMETRY_PACKAGES, switch_telemetry_off

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.experiments.runner.experiment import Experiment
    from reslink.experiments.runner.scheduler import QueueRunner

for package in TELEMETRY_PACKAGES:  # before a test imports one of them, with pytest.importorskip for example
    switch_telemetry_off(package)
gc.disable()  # until all test files are imported: what they import stays, and searching it for garbage takes half of the time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts a job in the background ignores it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that have slow tests, so that none of them is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Enables garbage collection, without what was imported, and less often than by default."""
    gc.freeze()
    gc.set_threshold(5000, 10, 10)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escapes surrogates in captured output, because pytest-xdist sends only UTF-8 and would end the whole run."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Says how a worker of pytest-xdist died, which pytest-xdist does not: -9 is SIGKILL, -15 SIGTERM."""
    if error is not None:
        status = node.gateway._io.popen.wait(10)
        print(f"\n{node.gateway.id} ended with status {status}", file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session", autouse=True)
def cache_folder_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Failed audits are remembered in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(autouse=True)
def log_of_the_service() -> Iterator[None]:
    """A service in the process of the tests sends its log to stderr alone; the next test gets the log as it was."""
    logger = logging.getLogger("reslink.serving")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def online() -> Iterator[None]:
    """A command with --offline would leave this process offline for the tests after it."""
    yield
    if (offline := sys.modules.get("reslink.cli.offline")) is not None:
        offline.block_network(False)


@pytest.fixture(scope="session", autouse=True)
def one_command_line() -> Iterator[None]:
    """A ``CliRunner`` would build all commands again for each call, which takes longer than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def onnx_functions_of_torch() -> Iterator[None]:
    """Each export to ONNX would parse the source of torch's ONNX functions again, which takes a third of its time."""
    if "torch" not in sys.modules:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fills a folder that no test changes, once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture
def shared_data() -> Path:
    """The development images beside the checkout; the test is skipped where they are missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "ct" / "manifest.csv").exists():
        pytest.skip("the development images are not here (../shared/data)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def few_trees() -> Iterator[None]:
    """Lets the models of an audit have few trees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.audit.checks.shortcuts.TREES", 10)
        patch.setattr("reslink.audit.checks.label_errors.TREES", 10)
        patch.setattr("reslink.audit.checks.label_errors.SMALL_DATA_FOLDS", 5)
        yield


@pytest.fixture
def without_onnx_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a training end without ``model.onnx``, which takes longer to export than a tiny network to train."""
    monkeypatch.setattr("reslink.api.train.add_onnx_model", lambda bundle: bundle)


@pytest.fixture(scope="session")
def make_bundles() -> ModuleType:
    """The script that builds the bundles that ship."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "make_bundles.py"
    spec = importlib.util.spec_from_file_location("make_bundles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ring_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ninety pictures of heads, a patient each, with a bright spot in those called Tumor."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("ring_heads"), np.random.default_rng(5)
    y, x = np.mgrid[:96, :96]
    rows = []
    for i in range(90):
        r = np.hypot(y - 48 + rng.normal(), (x - 48) * rng.uniform(1.0, 1.2))
        grey = (r < 40) * (90 + np.kron(rng.integers(0, 60, (12, 12)), np.ones((8, 8)))) + (abs(r - 42) < 3) * 250
        grey += (np.hypot(y - rng.integers(35, 60), x - rng.integers(35, 60)) < rng.uniform(3, 9)) * 70 * (i % 2)
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
        rows.append([f"{i:02d}.png", ("Healthy", "Tumor")[i % 2], f"p{i}", "validation" if i < 60 else "test"])
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id", "split"], *rows])
    return root


@pytest.fixture(scope="session")
def finished_run(ring_heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run leaves, with random weights: a bundle, and a split in which no picture was learned from."""
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.fingerprints import TrainingImages
    from reslink.imaging.preprocess import Preprocess
    from reslink.labels import Labels
    from reslink.networks.reslink import ResLinkConfig, build_network
    from reslink.training.recipe.recipe import load_recipe

    run = tmp_path_factory.mktemp("finished") / "run"
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_network(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    Bundle(
        {"name": "tiny", **config.model_dump(mode="json")},
        Preprocess(size=64, channels=1),
        Labels(("Healthy", "Tumor")),
        provenance={"data": {"digest": "ab" * 32}, "recipe": load_recipe(None, ["seed=3"]).published(), "seed": 3},
        training_images=TrainingImages(np.zeros((0, 128), np.uint8), np.zeros((0, 32), np.uint8)),
    ).save(run / "bundle", state)
    with (ring_heads / "manifest.csv").open(newline="") as stream:
        rows = [[row["path"], row["label"], row["split"], row["patient_id"]] for row in csv.DictReader(stream)]
    with (run / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["sample_id", "label", "split", "group"], *rows])
    return run


@pytest.fixture(scope="session")
def ship_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two bundles, in the form of ``benchmarks/shipped.yaml``."""
    entry = {
        "title": "Rings",
        "usage_notes": "Its heads are drawn.",
        "task": "heads with a spot from heads without",
        "modality": "drawings",
        "source": "ct_mri_kaggle",
        "license": "CC BY-NC-SA 4.0; research use only",
        "limitations": ["It was never trained."],
        "calibrate": {"operating_point": "youden"},
        "reproduce": ["OMP_NUM_THREADS=1 reslink train DATA --out RUN --seed 3"],
    }
    path = tmp_path_factory.mktemp("texts") / "shipped.yaml"
    path.write_text(yaml.safe_dump({"ct": entry, "lgg": entry}))
    return path


@pytest.fixture(scope="session")
def built_zoo(
    make_bundles: ModuleType,
    finished_run: Path,
    ring_heads: Path,
    ship_texts: Path,
    make_once: Callable[[str, Callable[[Path], None]], Path],
) -> Path:
    """A folder of shipped bundles with one, called ct, that was built as the real ones are."""

    def build(folder: Path) -> None:
        make_bundles.build("ct", finished_run, folder / "shipped", ship_texts, data=make_bundles.RunData([ring_heads]))

    return make_once("zoo", build) / "shipped"


@pytest.fixture
def zoo_with_ct(built_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As ``built_zoo``, and it is the one of this installation."""
    from reslink.bundles import zoo

    monkeypatch.setattr(zoo, "SHIPPED", built_zoo)
    return built_zoo


@pytest.fixture(scope="session")
def known_outside(built_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``built_zoo`` with a decision that always answers, and an evaluation on data of another hospital."""
    from dataclasses import replace

    from reslink.bundles.bundle import Bundle
    from reslink.bundles.decision.decision import Decision

    entry = {"data": "B", "date": "2026-11-30", "sha256": "ab" * 32, "n": 663, "n_refused": 9, "n_groups": 458, "seen": False}
    entry |= {"auroc": None, "accuracy": 0.518, "ece": None, "coverage": 0.62, "silent_errors": 0.256}
    bundle, folder = Bundle.load(built_zoo / "ct"), tmp_path_factory.mktemp("known") / "bundle"
    described = bundle.provenance | {"pretrained": bundle.provenance["pretrained"] | {"ledger": [entry]}}
    replace(bundle, provenance=described).with_decision(Decision(temperature=2.0), folder)
    return folder


TINY_RECIPE = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "model.area_size=4",
    "optimizer.name=adamw",
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "trainer.precision=fp32",
    "trainer.device=cpu",
    "trainer.workers=0",
)


def toy_head(rng: np.random.Generator, lesion: bool, size: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A textured ellipse, optionally with a bright spot, and the mask of the spot."""
    from scipy import ndimage

    y, x = np.mgrid[:size, :size] - size / 2
    inside = (y / 0.4 / size) ** 2 + (x / 0.36 / size) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(0, 1, (size, size)), 2.5)
    image = inside * (110 + 30 * texture / texture.std())
    spot = (y - rng.uniform(-10, 10)) ** 2 + (x - rng.uniform(-10, 10)) ** 2 < 36
    if lesion:
        image = np.where(spot & inside, 230, image)
    return np.clip(image, 0, 255).astype(np.uint8), (spot & inside & lesion).astype(np.uint8) * 255


@pytest.fixture(scope="session")
def write_toy_heads() -> Callable[..., Path]:
    """Writes toy heads of two classes, two images per patient.

    With ``duplicates``, the second image repeats the first and the patients are unknown.
    """
    from PIL import Image

    def write(folder: Path, patients: int, *, masks: bool = False, duplicates: bool = False) -> Path:
        rng = np.random.default_rng(0)
        rows = ["path,label,patient_id,mask"]
        (folder / "masks").mkdir()
        for i in range(2 * patients):
            label = ("Healthy", "Tumor")[i // 2 % 2]
            if not (duplicates and i % 2):
                image, mask = toy_head(rng, label == "Tumor")
            Image.fromarray(image).save(folder / f"{i:03d}.png")
            mask_path = f"masks/{i:03d}.png" if masks and mask.any() else ""
            if mask_path:
                Image.fromarray(mask).save(folder / mask_path)
            rows.append(f"{i:03d}.png,{label},{'' if duplicates else i // 2},{mask_path}")
        (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
        return folder

    return write


@pytest.fixture(scope="session")
def toy_patients(write_toy_heads: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """96 toy heads of 48 patients, with lesion masks."""
    from reslink.datasets.manifest import Manifest

    return Manifest.open(write_toy_heads(tmp_path_factory.mktemp("patients"), 48, masks=True))


@pytest.fixture(scope="session")
def experiments_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of experiments whose trials the tests share."""
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture(scope="session")
def make_experiment(experiments_folder: Path) -> Callable[..., Experiment]:
    """Makes an experiment that trains a tiny network in this process."""
    from reslink.experiments.runner.experiment import Experiment
    from reslink.training.monitoring.progress import SilentProgress
    from reslink.training.recipe.recipe import load_recipe

    def make(
        manifest: Manifest,
        *overrides: str,
        out: Path = experiments_folder,
        seeds: tuple[int, ...] = (0,),
        jobs: int = 0,
        cluster: QueueRunner | None = None,
    ) -> Experiment:
        recipe = load_recipe(None, [*TINY_RECIPE, *overrides])
        return Experiment(manifest, recipe, out, seeds, jobs, SilentProgress(), cluster)

    return make


@pytest.fixture(scope="session")
def write_run_files() -> Callable[..., Path]:
    """Writes the files of a run that ``reslink runs`` reads: of three planned epochs, finished or interrupted."""
    interval = {"ci_low": 0.7, "ci_high": 0.95, "method": "BCa bootstrap over 40 groups, 1000 draws", "n": 40}
    best = {"loss": 0.6, "accuracy": 0.8, "auroc": 0.85}

    def write(
        folder: Path,
        *,
        epochs: int = 3,
        finished: bool = True,
        auroc: float = 0.9,
        seed: int = 7,
        data: dict[str, object] | None = None,
        **trainer: object,
    ) -> Path:
        rows = [
            {"kind": "epoch", "epoch": e, "train_loss": 1 / e, "val_loss": 1.2 / e, "val_auroc": 1 - 0.3 / e}
            for e in range(1, epochs + 1)
        ]
        files: dict[str, object] = {
            "config.yaml": {
                "seed": seed,
                "model": {"variant": "reslink_small"},
                "data": data or {},
                "trainer": {"epochs": 3, **trainer},
            },
            "checkpoints/000002-step-8/state.json": {"sources": {"data": "cd" * 32}, "training": {"best": [2, best]}},
        }
        if finished:
            metrics = {"accuracy": {"estimate": auroc - 0.05, **interval}, "auroc": {"estimate": auroc, **interval}}
            leakage = {"status": "none found", "message": "No case is a near duplicate of a training image"}
            validation = {f"val_{name}": value for name, value in best.items()}
            files |= {
                "checkpoints/finished.json": {"epochs": 3, "best_epoch": 2, "validation": validation},
                "bundle/bundle.json": {"provenance": {"data": {"digest": "cd" * 32}}, "weights": {"sha256": "ab" * 32}},
                "evaluation.json": {"n": 40, "metrics": metrics, "leakage": leakage, "bundle_sha256": "ab" * 32},
            }
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content))  # JSON is YAML too
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "splits.csv").write_text("sample_id,split\n" + "".join(f"{i}.png,train\n" for i in range(5)))
        return folder

    return write


@pytest.fixture(scope="session")
def storage_server() -> Iterator[Any]:
    """An S3 server on this machine (``storage_server.Storage``)."""
    pytest.importorskip("moto")
    spec = importlib.util.spec_from_file_location("storage_server", Path(__file__).with_name("storage_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.running_storage() as storage:
        yield storage


@pytest.fixture
def s3(storage_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The S3 server without faults, named with its credentials in the environment; repetitions do not wait."""
    from s3fs import S3FileSystem

    from reslink.remote_files import _listed_start

    storage_server.reset()
    S3FileSystem.clear_instance_cache()  # instances keep their credentials
    _listed_start.cache_clear()
    for name, value in {
        "AWS_ENDPOINT_URL": storage_server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("reslink.remote_files._WAITS", (0.0, 0.0, 0.0, 0.0))
    return storage_server
