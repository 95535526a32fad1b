"""Training on a real cluster: a killed process and a killed driver end in the weights of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.cluster import training
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.files import sha256
from reslink.training.signals import Interrupted

sys.path.insert(0, str(Path(__file__).parent))
import work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ray.data in ray.train
]

SETTINGS = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "model.area_size=4",
    "trainer.batch_size=8",
    "trainer.epochs=4",
    "trainer.precision=fp32",
    "trainer.device=cpu",
    "trainer.workers=0",
)

TORCHRUN = """
import sys
from reslink.datasets.manifest import Manifest
from reslink.training.recipe.recipe import load_recipe
from reslink.training.trainer import train

data, out, *settings = sys.argv[1:]
train(Manifest.open(data), load_recipe(None, settings), out)
"""


def weights(run: Path) -> str:
    return sha256(run / "bundle" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(toy_patients: Manifest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of two processes of torchrun."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "script.py").write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(toy_patients.root), "run", *SETTINGS], cwd=folder, env=environment, check=True)
    return weights(folder / "run")


def kill_one_after(rows: Path, n: int) -> None:
    work.wait_for(lambda: rows.exists() and len(rows.read_text().splitlines()) > n)
    work.processes_of("RayTrainWorker")[0].kill()


def test_a_killed_process_ends_in_the_weights_of_torchrun(
    cluster: Any, toy_patients: Manifest, undisturbed: str, tmp_path: Path, in_thread: Callable[..., Any]
) -> None:
    run, handler = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with in_thread(kill_one_after, run / "results.csv", 1):
        cluster_options: dict[str, Any] = {"on": cluster.address, "processes": 2, "cache": tmp_path / "decoded"}
        summary = reslink.train(str(toy_patients.root), run, settings=SETTINGS, **cluster_options)
    assert weights(run) == undisturbed
    assert ((run / "cache").exists(), (tmp_path / "decoded" / "shards").exists()) == (False, True)
    assert signal.getsignal(signal.SIGINT) is handler, "Ray sets its own"
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert (summary["epochs"], Path(summary["report"]).exists()) == (4, True)
    assert not (run / ".ray").exists()


def test_after_ctrl_c_the_same_command_resumes(
    cluster: Any, toy_patients: Manifest, undisturbed: str, tmp_path: Path, in_thread: Callable[..., Any]
) -> None:
    run, options = tmp_path / "run", {"settings": SETTINGS, "on": cluster.address, "processes": 2}

    def interrupt() -> None:
        work.wait_for(lambda: (run / "results.csv").exists())
        signal.raise_signal(signal.SIGINT)

    stopped = pytest.raises(Interrupted, match=r"^Training was stopped\. The last checkpoint is kept\. Run the same .*resume")
    with in_thread(interrupt), stopped:
        reslink.train(str(toy_patients.root), run, **options)
    assert len((run / "results.csv").read_text().splitlines()) < 5, "it was stopped before the last epoch"
    reslink.train(str(toy_patients.root), run, resume=True, **options)
    assert weights(run) == undisturbed


def test_what_does_not_fit_is_refused(
    cluster: Any, toy_patients: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(toy_patients.root)
    attempts: list[str] = []
    fit = training._fit
    monkeypatch.setattr(training, "_fit", lambda *options: (attempts.append(options[-1]), fit(*options)))
    monkeypatch.setattr(training, "_NODES_SECONDS", 1)
    with pytest.raises(UsageError, match=r"processes.* was not given with on='ray'.*Give both options"):
        reslink.train(data, tmp_path / "run", on="ray")
    with pytest.raises(UsageError, match=r"The cluster has 2 cores, and 3 processes were asked for.*Use processes='2'"):
        reslink.train(data, tmp_path / "run", settings=SETTINGS, on=cluster.address, processes=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("")
    with pytest.raises(UsageError, match="holds an unfinished run"):
        reslink.train(data, tmp_path / "other", settings=SETTINGS, on=cluster.address, processes=2)
    with pytest.raises(UsageError, match=r"The cluster has 0 GPUs, and 2 processes were asked for"):
        reslink.train(data, tmp_path / "gpu", settings=SETTINGS, device="cuda", on=cluster.address, processes=2)
    small = [*SETTINGS, "trainer.batch_size=2"]
    with pytest.raises(UsageError, match=r"trainer\.batch_size is 2 for 2 processes"):
        reslink.train(data, tmp_path / "small", settings=small, on=cluster.address, processes=2)
    assert not (tmp_path / "small" / ".ray").exists()
    assert len(attempts) == 1, "what the training raises is not repeated"
