"""Ctrl-C and a full disk: the training state is kept, and the message says how to resume."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]


def start(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "reslink", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_saves_the_state_and_says_how_to_resume(
    cohort: Path, tmp_path: Path, environment: dict[str, str], quick: list[str], invoke: Invoke
) -> None:
    words = ["train", str(cohort), "--out", str(tmp_path / "run"), "--epochs", "400", "--seed", "1", *quick]
    process = start(words, environment)
    results = tmp_path / "run" / "results.csv"
    wait_for(results.exists, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert not list((tmp_path / "run").rglob("*.part"))
    changed = [word if word != "400" else "401" for word in words]
    other = invoke(*changed, "--resume")
    assert other.exit_code == 2
    assert "trainer.epochs" in other.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("without_onnx_model")
def test_disk_full_while_writing_a_checkpoint(
    cohort: Path, tmp_path: Path, trained: tuple[Path, str, str], quick: list[str], invoke: Invoke
) -> None:
    """A file-size limit between the size of the cache and that of a checkpoint stops exactly the checkpoint."""
    run, limit = tmp_path / "run", 600_000
    sizes = {path.name: path.stat().st_size for path in (trained[0] / "checkpoints").rglob("*") if path.is_file()}
    assert max(sizes.values()) > limit
    assert all(path.stat().st_size < limit for path in (trained[0] / "cache").rglob("*"))
    words = ["train", str(cohort), "--out", str(run), "--epochs", "2", "--seed", "5", *quick]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        full = invoke(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert full.exit_code == 1, full.stderr
    assert "could not be written" in full.stderr
    assert "space" in full.stderr
    assert "Traceback" not in full.stderr
    assert "bug in reslink" not in full.stderr
    again = invoke(*words, "--resume")
    assert again.exit_code == 0, again.stderr
    first, second = ((folder / "bundle" / "model.safetensors").read_bytes() for folder in (trained[0], run))
    assert first == second


def test_a_run_in_use_is_refused(cohort: Path, tmp_path: Path, quick: list[str], invoke: Invoke) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        result = invoke("train", cohort, "--out", tmp_path / "run", "--epochs", "1", *quick)
    assert result.exit_code == 2
    assert "in use" in result.stderr


def test_ctrl_c_before_training_is_quiet_too(
    cohort: Path, tmp_path: Path, environment: dict[str, str], quick: list[str]
) -> None:
    process = start(["train", str(cohort), "--out", str(tmp_path / "run"), *quick], environment)
    wait_for((tmp_path / "run" / ".lock").exists, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (1, 130)
    assert "Traceback" not in stderr
