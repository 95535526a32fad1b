"""The import contract of pyproject.toml holds, and it would notice a breach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "--no-cache", *options], cwd=folder, capture_output=True, text=True, check=False
    )


def test_imports_point_down_only(root: Path) -> None:
    result = lint_imports(root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_a_room_that_imports_upwards_is_noticed(tmp_path: Path) -> None:
    for name, text in {"__init__": "", "low": "import storeys.high", "high": ""}.items():
        file = tmp_path / "storeys" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "contract.ini").write_text(
        "[importlinter]\nroot_package = storeys\n[importlinter:contract:1]\nname = floors\ntype = layers\n"
        "layers =\n    storeys.high\n    storeys.low\n"
    )
    result = lint_imports(tmp_path, "--config", "contract.ini")
    assert result.returncode == 1
    assert "storeys.low -> storeys.high" in result.stdout
