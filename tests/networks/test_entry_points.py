"""Entry points: code of the user that builds a network."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reslink.errors import UsageError
from reslink.networks.entry_points import as_builder, code_digest, entry_point_name, entry_point_of, load_entry_point

CODE = """
from neighbor import WIDTH

def build(in_channels, num_classes):
    return WIDTH, in_channels, num_classes

class Nets:
    build = staticmethod(build)

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file, a package, and a module beside the file."""
    (tmp_path / "neighbor.py").write_text("WIDTH = 8\n")
    (tmp_path / "nets.py").write_text(CODE)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "nets.py").write_text("def build(in_channels, num_classes):\n    return 'package'\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.chdir(tmp_path)
    for name in ("neighbor", "own_package", "own_package.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # of another test
    return tmp_path


def test_a_file_and_a_package_of_the_working_folder(folder: Path) -> None:
    path = list(sys.path)
    assert load_entry_point("nets.py:build")(3, 2) == (8, 3, 2)
    assert load_entry_point(f"{folder}/nets.py:Nets.build")(1, 4) == (8, 1, 4)
    assert load_entry_point("own_package.nets:build")(3, 2) == "package"
    assert sys.path == path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("nets.py", "it has no module and callable"),
        (":build", "it has no module and callable"),
        ("missing.py:build", "cannot be imported .FileNotFoundError: there is no file missing.py"),
        ("no_such_package.nets:build", "cannot be imported .ModuleNotFoundError"),
        ("broken.py:build", "cannot be imported .RuntimeError: not today"),
        ("nets.py:biuld", "nets.py has no biuld.*Did you mean 'build'"),
        ("nets.py:number", "number is not callable"),
    ],
)
def test_what_is_no_entry_point(entry_point: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_entry_point(entry_point)


def test_names() -> None:
    assert entry_point_name("path/to/nets.py:build") == "nets.build"
    assert entry_point_name("package.nets:Nets") == "nets.Nets"
    assert entry_point_of(nn.Linear) == "torch.nn.modules.linear:Linear"
    assert entry_point_of(nn.Linear(2, 2)) == "torch.nn.modules.linear:Linear"
    assert entry_point_of(build_linear) == f"{__name__}:build_linear"


def build_linear(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_channels, num_classes)


def test_a_module_is_copied_and_a_callable_is_called() -> None:
    module = nn.Linear(2, 2)
    copy = as_builder(module)(3, 2)
    assert copy is not module
    assert torch.equal(copy.weight, module.weight)
    assert as_builder(build_linear) is build_linear
    assert as_builder(nn.Linear) is nn.Linear


def test_the_digest_of_the_code_changes_with_its_file(folder: Path) -> None:
    for name, path in (("nets.py:build", folder / "nets.py"), ("own_package.nets:build", folder / "own_package" / "nets.py")):
        before = code_digest(name)
        assert before == hashlib.sha256(path.read_bytes()).hexdigest()
        path.write_text(path.read_text() + "# another network\n")
        assert code_digest(name) not in (before, None)
    assert code_digest("missing.py:build") is code_digest("no_such_package.nets:build") is None
