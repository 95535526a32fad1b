"""The cores of a process in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.cores import available_cores, cpu_limit


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", None)]
)
def test_a_container_has_the_cores_of_its_limit(limit: str, cores: int | None, tmp_path: Path) -> None:
    group = tmp_path / "groups" / "kubepods" / "pod1"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(f"{limit}\n")
    own = tmp_path / "cgroup"
    own.write_text("1:name=systemd:/elsewhere\n0::/kubepods/pod1\n")
    assert cpu_limit(tmp_path / "groups", own) == cores


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path, tmp_path / "missing") is None
    (tmp_path / "cgroup").write_text("0::/\n")
    assert cpu_limit(tmp_path, tmp_path / "cgroup") is None


def test_the_limit_reduces_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslink.cores.os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr("reslink.cores.cpu_limit", lambda: 2)
    assert available_cores() == 2
    monkeypatch.setattr("reslink.cores.cpu_limit", lambda: None)
    assert available_cores() == 64
