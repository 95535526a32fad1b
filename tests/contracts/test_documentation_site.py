"""The code behind the documentation site: pages made from the package, and the check of links."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

EXTENSIONS = Path(__file__).resolve().parents[2] / "docs" / "_ext"


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of ``docs/_ext``; needs the ``docs`` dependency group only for those that use Sphinx."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))

    def load(name: str, needs: str | None = None) -> ModuleType:
        if needs is not None:
            pytest.importorskip(needs)
        return importlib.import_module(name)

    return load


def leaves(name: str, command: Any) -> list[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [leaf for word, child in command.commands.items() for leaf in leaves(f"{name} {word}", child)]


def test_the_command_reference_has_every_command_and_option(extension: Any) -> None:
    from reslink.cli.main import app

    pages = extension("command_pages").pages()
    everywhere = pages["_generated/common_options.md"]
    for word, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        page = pages[f"reference/cli/{word}.md"]
        assert f"(/reference/cli/{word}.md)" in pages["_generated/commands.md"]
        for name, leaf in leaves(f"reslink {word}", command):
            assert f"{{program}} {name}\n" in page
            for param in leaf.params:
                spelling = param.opts[0] if param.opts[0].startswith("-") else None
                directives = re.findall(r"^````\{option\} (.*)\n(.*)$", page + everywhere, re.MULTILINE)
                described = [
                    text
                    for signature, text in directives
                    if spelling is None or spelling in signature.split() or f"{spelling}," in signature.split()
                ]
                assert described, f"{name} {param.opts}"
                assert all(text.strip() for text in described), f"{name} {param.opts} has no help"


def test_common_options_are_listed_once(extension: Any) -> None:
    pages = extension("command_pages").pages()
    assert "{option} --debug" in pages["_generated/common_options.md"]
    assert "{option} --debug" not in pages["reference/cli/train.md"]


def test_help_texts_are_not_read_as_markup(extension: Any) -> None:
    assert list(extension("command_pages")._paragraphs("a <b> *c* [d]\ne\n\nf_g")) == [
        r"a \<b\> \*c\* \[d\] e", "", r"f\_g", "",
    ]  # fmt: skip


def test_every_public_name_has_a_page(extension: Any) -> None:
    import reslink

    pages = extension("api_pages", needs="sphinx").pages()
    for name in reslink.__all__:
        if not name.startswith("_"):
            assert f"{name}\n" in pages["_generated/api.md"]
            assert re.search(rf"^\.\. auto(class|function):: {name}\b", pages[f"reference/api/{name}.md"], re.MULTILINE)


def test_model_pages_show_the_metrics_and_limitations_of_the_bundle(extension: Any) -> None:
    from reslink.bundles import zoo

    pages = extension("model_pages").pages()
    for model in zoo.shipped():
        page = pages[f"models/{model.name}.md"]
        record = json.loads((model.folder / "bundle.json").read_text())
        accuracy = record["metrics"]["metrics"]["accuracy"]
        assert f"| accuracy | {accuracy['estimate']:.3f} | {accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f} |" in page
        assert model.usage_notes in page
        assert "imitations" in page
        assert record["provenance"]["license"] in page
        assert not page.startswith("---")


def test_broken_links_are_reported(extension: Any, tmp_path: Path) -> None:
    check = extension("check_links", needs="sphinx")
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text('<h1 id="here">x</h1><a href="bad.html#there">y</a><a href="https://example.org">z</a>')
    bad.write_text(
        '<p id="there"><a href="good.html#gone">1</a><a href="missing.html">2</a><img src="missing.png">'
        '<script src="https://example.org/x.js"></script><a href="good.html#here">3</a></p>'
    )
    assert sorted(check.faults(tmp_path, [good, bad])) == [
        "bad.html: https://example.org/x.js is loaded from a network",
        "bad.html: missing.html does not exist",
        "bad.html: missing.png does not exist",
        "bad.html: the anchor good.html#gone does not exist",
    ]


def test_the_packages_that_build_the_site_are_pinned() -> None:
    import tomllib

    root = EXTENSIONS.parents[1]
    group = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["docs"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (root / "constraints.txt").read_text().splitlines()}
    assert [name for name in group if re.split(r"[><=~]", name)[0].lower() not in pinned] == []
