"""Documents are tested facts: commands run, links lead somewhere, recipes load, references are up to date."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = ("_build", "_generated", "auto_examples")
WRITTEN_BESIDE_GENERATED = {"index.md", "weights-license.md"}
FILE_ENDINGS = {"json", "keras", "onnx", "pt", "pt2", "safetensors"}


def written_pages() -> list[Path]:
    """The pages of the site that people write; the build writes the others."""
    pages = [path for path in sorted(DOCS.rglob("*.md")) if path.relative_to(DOCS).parts[0] not in GENERATED]
    mixed = {DOCS / "reference" / "cli", DOCS / "reference" / "api", DOCS / "models"}
    return [path for path in pages if path.parent not in mixed or path.name in WRITTEN_BESIDE_GENERATED]


PAGES = written_pages()
TESTED = [path for path in PAGES if "<!-- tested -->\n```" in path.read_text()]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def generated_pages() -> set[Path]:
    """The files that the build writes and that pages link to."""
    from reslink import __all__ as names
    from reslink.bundles import zoo

    commands = command_line().commands
    examples = [path.stem for path in (DOCS / "examples").glob("plot_*.py")]
    return {
        *(DOCS / "reference" / "cli" / f"{name}.md" for name in commands),
        *(DOCS / "reference" / "api" / f"{name}.md" for name in names),
        *(DOCS / "models" / f"{name}.md" for name in zoo.names()),
        *(DOCS / "auto_examples" / f"{name}.rst" for name in ("index", *examples)),
        *(DOCS / "_generated" / f"{name}.md" for name in ("commands", "common_options", "api", "models")),
    }


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands_of(text: str) -> list[list[str]]:
    """The lines of the ``bash`` blocks that stand below ``<!-- tested -->``, as words."""
    blocks = re.findall(r"<!-- tested -->\n```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


LESS_WORK = {
    "phantom": ("--patients", "16", "--set", "size=128"),
    "train": ("--epochs", "1"),
    "explain": ("--limit", "1"),
}
"""Options that are added to commands of the README. What its model learns is measured by the benchmarks, not here."""


@pytest.mark.slow
@pytest.mark.usefixtures("few_trees")
def test_the_commands_of_the_readme_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reslink.cli.main import app

    monkeypatch.chdir(tmp_path)
    commands = commands_of((root / "README.md").read_text())
    assert [words[:2] for words in commands] == [
        ["reslink", verb] for verb in ("phantom", "audit", "train", "predict", "explain")
    ]
    for words in commands:
        result = CliRunner().invoke(app, [*words[1:], *LESS_WORK.get(words[1], ())])
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.stderr}"
    for written in ("audited/report.html", "runs/first/report.html", "runs/first/bundle/bundle.json", "explained/explain.json"):
        assert Path(written).exists()
    page = (root / "docs" / "reference" / "outputs.md").read_text()
    for written in ("audited/audit.json", "runs/first/evaluation.json", "explained/explain.json"):
        keys = json.loads(Path(written).read_text())
        assert [key for key in keys if f"`{key}`" not in page] == [], f"keys of {written} that the reference does not describe"


@pytest.mark.parametrize("page", TESTED, ids=name_of)
def test_tested_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reslink.cli.main import app

    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"<!-- tested -->\n```(bash|python)\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(snippets) == page.read_text().count("<!-- tested -->\n```")
    for number, (language, code) in enumerate(snippets):
        if language == "python":
            script = tmp_path / f"snippet_{number}.py"
            script.write_text(code)
            runpy.run_path(str(script))
            continue
        for words in commands_of(f"<!-- tested -->\n```bash\n{code}```"):
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.stderr}"


@cache
def command_line() -> Any:
    from reslink.cli.main import app

    return typer.main.get_command(app)


def reslink_commands(text: str) -> Iterator[list[str]]:
    """The words after ``reslink`` of each command in a block for the shell, without prompts, pipes and variables."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"(?:\w+=\S+ )*reslink (.*)", line.strip())
            if match:
                words = shlex.split(match[1], comments=True)
                yield list(takewhile(lambda word: word not in (">", "|"), words))


def parse(words: list[str]) -> None:
    """Parses a command as the command line does, without running it.

    Raises:
        typer.BadParameter: And its like, for a command, an option or a value that does not exist.
    """
    command, name = command_line(), "reslink"
    while hasattr(command, "commands"):
        assert words[:1], f"{name} wants a command"
        assert words[0] in command.commands, f"{name} has no command {words[0]}"
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    command.make_context(name, list(words))


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(page for page in PAGES if page.parent.name != "benchmarks")], ids=name_of
)
def test_every_command_of_a_page_is_one_that_reslink_has(page: Path) -> None:
    for words in reslink_commands(page.read_text()):
        try:
            parse(words)
        except Exception as error:
            raise AssertionError(f"reslink {shlex.join(words)}: {error}") from error


def test_a_command_that_does_not_exist_is_noticed() -> None:
    text = "```bash\nFOO=1 reslink predict ct scan.png --jsonn > out.json  # a comment\n```"
    [words] = reslink_commands(text)
    assert words == ["predict", "ct", "scan.png", "--jsonn"]
    with pytest.raises(Exception, match="jsonn"):
        parse(words)
    with pytest.raises(AssertionError, match="no command studdy"):
        parse(["studdy", "epochs"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_named_in_the_text_exist(page: Path) -> None:
    """Commands in text, tables and blocks, whatever the values: ``reslink audit --fix``."""
    text = page.read_text()
    for code in [*re.findall(r"`reslink ([^`]+)`", text), *map(shlex.join, reslink_commands(text))]:
        command = command_line()
        words = code.replace("…", "").split()
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command, words = command.commands[words.pop(0)], words
        if hasattr(command, "commands"):  # a group: `reslink experiment`, or a placeholder, `reslink COMMAND --help`
            assert not words or words[0].isupper() or words[0].startswith("-"), f"`reslink {code}`"
            continue
        known = {spelling for param in command.get_params(typer.Context(command)) for spelling in param.opts}
        known |= {spelling for param in command.params for spelling in param.secondary_opts}
        known.add("--help")
        unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
        assert not unknown, f"`reslink {code}` has {unknown}"


def test_recipe_keys_named_in_the_text_exist() -> None:
    known = set(re.findall(r"^\| `([\w.]+)` \|", (DOCS / "reference" / "recipe.md").read_text(), re.MULTILINE))
    sections = {key.split(".")[0] for key in known if "." in key}
    for page in PAGES:
        text = page.read_text()
        named = {*re.findall(r"--set (\w+\.\w+)=", text), *re.findall(r"[`\"](\w+\.\w+)[`\"=]", text)}
        keys = {name for name in named if name.split(".")[0] in sections and name.split(".")[1] not in FILE_ENDINGS}
        assert keys <= known, f"{name_of(page)}: {sorted(keys - known)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_compile_and_name_what_reslink_has(page: Path) -> None:
    import reslink

    text = page.read_text()
    codes = [*blocks(text, "python"), *re.findall(r"`(reslink\.\w+)[^`]*`", text)]
    for code in codes:
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "reslink":
                named = node.attr in [*reslink.__all__, "__all__"] or importlib.util.find_spec(f"reslink.{node.attr}")
                assert named, f"reslink.{node.attr}"
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "reslink":
                assert node.module is not None
                module = importlib.import_module(node.module)
                assert importlib.util.find_spec(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_links_between_documents_lead_somewhere() -> None:
    built = generated_pages()
    broken = [
        f"{name_of(page)}: {link}"
        for page in [*ROOT.glob("*.md"), *PAGES]
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists() and (page.parent / link).resolve() not in built
    ]
    assert broken == []


def test_the_reference_of_recipe_keys_is_up_to_date(root: Path) -> None:
    script = root / "scripts" / "recipe_reference.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_tests_and_builds_the_documentation(root: Path) -> None:
    lines = (root / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if "make" in line and not line.startswith("#")] == ["make test", "make docs"]
    assert "set -euo pipefail" in lines


def test_the_security_page_says_how_to_report_and_what_is_exposed() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[:2] == ["Report a vulnerability", "Scope"]
    assert "Bundled native libraries" in headings
    libraries = text.partition("## Bundled native libraries")[2]
    assert all(word in libraries for word in ("OpenCV", "FFmpeg", "OpenSSL", "reslink doctor --json"))
    assert "SECURITY.md" in (DOCS / "user-guide" / "security.md").read_text()
