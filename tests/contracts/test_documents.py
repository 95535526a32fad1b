"""Documents are tested facts: commands run, links lead somewhere, recipes load, references are up to date."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

VERBS = (
    "demo",
    "split",
    "train",
    "calibrate",
    "evaluate",
    "compare",
    "models",
    "predict",
    "explain",
    "export",
    "serve",
    "dicom",
    "audit",
    "study",
    "report",
    "data",
    "describe",
    "bench",
    "phantom",
    "info",
    "doctor",
)


def commands_of(text: str) -> list[list[str]]:
    """The lines of the ``bash`` blocks that stand below ``<!-- tested -->``, as words."""
    blocks = re.findall(r"<!-- tested -->\n```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def test_the_commands_of_the_readme_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reslink.cli.main import app

    monkeypatch.chdir(tmp_path)
    commands = commands_of((root / "README.md").read_text())
    assert [words[:2] for words in commands] == [
        ["reslink", verb] for verb in ("phantom", "audit", "train", "predict", "evaluate", "explain", "describe")
    ]
    for words in commands:
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.stderr}"
    for written in ("runs/first/report.html", "runs/first/bundle/bundle.json", "judged/evaluation.json", "explained"):
        assert Path(written).exists()


def test_links_between_documents_lead_somewhere(root: Path) -> None:
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(root)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


def test_the_reference_of_recipe_keys_is_up_to_date(root: Path) -> None:
    script = root / "scripts" / "recipe_reference.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_names_every_verb(root: Path) -> None:
    found = re.findall(r"^\| `(\w+)", (root / "docs" / "reference" / "commands.md").read_text(), re.MULTILINE)
    assert tuple(found) == VERBS


def test_every_shipped_recipe_loads(root: Path) -> None:
    from reslink.training.recipe.recipe import load_recipe

    for path in sorted((root / "recipes").glob("*.y*ml")):
        load_recipe(path)


def test_ci_runs_make_test_and_nothing_else(root: Path) -> None:
    lines = (root / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if "make" in line and not line.startswith("#")] == ["make test"]
    assert "set -euo pipefail" in lines


def test_the_container_installs_nothing_but_the_versions_that_are_tested(root: Path) -> None:
    text = (root / "deploy" / "container" / "Containerfile").read_text()
    installs = re.findall(r"pip install [^&\\]*", text)
    assert len(installs) == 2
    assert [one for one in installs if "-c /src/constraints.txt" not in one] == []
