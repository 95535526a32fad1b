"""A tiny cohort and a run on it, made once."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

_SETTINGS = (
    "preprocess.size=64",
    "model.variant=reslink_small",
    "trainer.batch_size=8",
    "trainer.workers=0",
    "trainer.precision=fp32",
)
QUICK = [word for setting in _SETTINGS for word in ("--set", setting)]

Invoke = Callable[..., Result]

_PREDICT = """
import sys
sys.modules["torch"] = None  # so that its import raises ImportError
import reslink
[prediction] = reslink.predict(*sys.argv[1:])
print(prediction.probabilities)
"""


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic heads: 14 patients of 2 slices."""
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    return make_cohort(tmp_path_factory.mktemp("cohort"), PhantomSettings(patients=14, slices=2, size=128, seed=3))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def trained(cohort: Path, make_once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[Path, str, str]:
    """The run folder of ``reslink train`` in a process of the tests, its stdout and its stderr."""
    from reslink.cli.main import app
    from reslink.cli.offline import block_network

    def train_first(folder: Path) -> None:
        words = ["train", str(cohort), "--out", str(folder / "run"), "--epochs", "2", "--seed", "5", "--json", "--offline"]
        try:
            done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, *QUICK])
        finally:
            block_network(False)
        assert done.exit_code == 0, done.stderr
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    folder = make_once("first_run", train_first)
    return folder / "run", (folder / "stdout").read_text(), (folder / "stderr").read_text()


@pytest.fixture(scope="session")
def run(trained: tuple[Path, str, str]) -> Path:
    return trained[0]


@pytest.fixture(scope="session")
def bundle(run: Path) -> Path:
    return run / "bundle"


@pytest.fixture
def quick() -> list[str]:
    """Settings with which a run takes a few seconds."""
    return QUICK


@pytest.fixture
def invoke() -> Invoke:
    """Runs ``reslink WORDS`` in this process."""

    def call(*words: str | Path) -> Result:
        from reslink.cli.main import app

        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])

    return call


@pytest.fixture
def predict_without_torch() -> Callable[[str | Path, Path], dict[str, float]]:
    """Returns the probabilities that a process without torch predicts for an image."""

    def call(bundle: str | Path, image: Path) -> dict[str, float]:
        words = [sys.executable, "-c", _PREDICT, str(bundle), str(image)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(ast.literal_eval(done.stdout))

    return call


@pytest.fixture
def train(invoke: Invoke) -> Invoke:
    """Runs ``reslink train WORDS`` with quick settings in this process."""

    def call(*words: str | Path) -> Result:
        return invoke("train", *words, *QUICK)

    return call


@pytest.fixture
def images(cohort: Path) -> list[Path]:
    return sorted((cohort / "images").rglob("*.png"))


@pytest.fixture
def classes(tmp_path: Path, cohort: Path) -> Path:
    """A folder of class folders with all images of the cohort."""
    from reslink.datasets.manifest import Manifest

    folder = tmp_path / "classes"
    for case in Manifest.open(cohort).cases:
        target = folder / case.label / case.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(case.path, target)
    return folder
