"""An audit on a real cluster writes what one process writes, and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.errors import UsageError
from reslink.training.monitoring.progress import SilentProgress

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::reslink.imaging.limits.ImagingWarning")]


@pytest.fixture
def data(write_toy_heads: Any, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    folder = Path(write_toy_heads(tmp_path / "data", 12, duplicates=True))
    min(folder.glob("*.png")).write_bytes(b"\x89PNG no picture")
    return folder


class Messages(SilentProgress):
    """Remembers the messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_audit_in_shards_writes_what_one_process_writes(cluster: Any, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    one = reslink.audit(data, out=tmp_path / "one", workers=0)
    parts = tmp_path / "several" / ".parts"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reslink.audit.audit.check_sources", stop)  # all files were read
        with pytest.raises(KeyboardInterrupt):
            reslink.audit(data, out=tmp_path / "several", on=cluster.address, shard_size=10)
    assert len(list(parts.glob("*.part"))) == 3
    min(parts.glob("*.part")).unlink()
    told = Messages()
    several = reslink.audit(data, out=tmp_path / "several", on=cluster.address, shard_size=10, progress=told)
    assert "2 of 3 parts are there already" in told.texts
    assert not parts.exists()
    assert json.dumps(several, sort_keys=True) == json.dumps(one, sort_keys=True)
    assert files_of(tmp_path / "several") == files_of(tmp_path / "one")


def test_parts_need_a_folder(data: Path) -> None:
    with pytest.raises(UsageError, match=r"on=… was given without out=…\. Nodes of a cluster write their parts to out"):
        reslink.audit(data, on="ray")
