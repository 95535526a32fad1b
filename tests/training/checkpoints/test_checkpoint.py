"""Checkpoints: whole or not there, checked before use, two kept."""

from __future__ import annotations

import contextlib
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reslink.errors import StorageError, TrainingError
from reslink.training.checkpoints import checkpoint as module
from reslink.training.checkpoints.checkpoint import Checkpoint, Checkpoints


def state(step: int, size: int = 100) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "network": {"w": torch.randn(size, 3, generator=generator), "n": torch.tensor(step), "empty": torch.zeros(0)},
        "optimizer": {"0.exp_avg": torch.randn(4, 2, 3, 3, generator=generator).to(memory_format=torch.channels_last)},
    }
    return Checkpoint(step, {"position": {"epoch": step, "loss": 0.1 + step / 3}}, tensors)


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.step, found.state) == (expected.step, expected.state)
    assert found.tensors.keys() == expected.tensors.keys()
    for group, tensors in expected.tensors.items():
        assert all(torch.equal(found.tensors[group][name], value) for name, value in tensors.items())


@pytest.fixture
def checkpoints(tmp_path: Path, listener: Any) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", listener)


def test_an_empty_folder_has_no_checkpoint(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None


def test_the_newest_is_loaded_and_two_are_kept(checkpoints: Checkpoints) -> None:
    for step in (0, 7, 7, 120):
        checkpoints.save(state(step))
    assert_same(checkpoints.load(), state(120))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["000003-step-7", "000004-step-120"]


def test_any_flipped_bit_is_detected_and_the_one_before_is_loaded(checkpoints: Checkpoints, listener: Any) -> None:
    checkpoints.save(state(1))
    newest = checkpoints.save(state(2))
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 25)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            found = checkpoints.load()
            assert found is not None
            if found.step == 2:  # a flipped line end in the list of sums leaves every name and sum as it was
                assert path.name == "SHA256SUMS"
                assert_same(found, state(2))
        path.write_bytes(whole)
    assert_same(checkpoints.load(), state(2))
    assert "000002-step-2 is damaged" in listener.messages[0]


@pytest.mark.parametrize("fault", ["empty", "gone", "half"])
def test_a_missing_file_is_detected(checkpoints: Checkpoints, fault: str) -> None:
    checkpoints.save(state(1))
    victim = checkpoints.save(state(2)) / "network.safetensors"
    if fault == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[: 50 if fault == "half" else 0])
    assert_same(checkpoints.load(), state(1))


def test_only_damaged_checkpoints_are_an_error(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        (checkpoints.save(state(step)) / "state.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"Every checkpoint in .* is damaged.*--overwrite"):
        checkpoints.load()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("at", range(1, 6))
def test_a_kill_at_any_write_leaves_an_intact_checkpoint(
    checkpoints: Checkpoints, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(state(1))
    calls = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed
            return real(*args)

        return call

    with monkeypatch.context() as patched:
        for name in ("write_atomic", "write_json", "fsync_folder"):
            patched.setattr(module, name, dying(getattr(module, name)))
        patched.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)  # a killed process does not clean up
        with pytest.raises(Killed):
            checkpoints.save(state(2))
    assert_same(checkpoints.load(), state(2 if at == 5 else 1))
    assert not list(checkpoints.folder.glob(".part-*"))
    checkpoints.save(state(3))
    assert_same(checkpoints.load(), state(3))


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 kB inside the block, as on a full disk; pytest's own log may be such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1))
    with small_disk(), pytest.raises(StorageError, match=r"000002-step-2 could not be written: File too large.*--resume"):
        checkpoints.save(state(2, size=5000))
    assert_same(checkpoints.load(), state(1))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["000001-step-1"]
