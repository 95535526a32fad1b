"""Published recipes are found by name, describe their results and can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reslink.errors import UsageError
from reslink.training.recipe import published
from reslink.training.recipe.recipe import load_recipe


@pytest.mark.parametrize("name", published.names())
def test_every_published_recipe_can_be_loaded(name: str) -> None:
    assert load_recipe(name).network(2).in_channels in (1, 3)
    assert yaml.safe_load((published.PUBLISHED / f"{name}.yaml").read_text())


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("seed: 8\n")
    assert load_recipe("mine").seed == 8
    assert published.find_recipe("context_20") == published.PUBLISHED / "context_20.yaml"
    assert published.find_recipe("context_20.yaml") == Path("context_20.yaml")


@pytest.mark.parametrize("file", ["context_20", "context_20.yaml"])
def test_a_published_name_wins_over_a_file_with_a_warning(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).write_text("seed: 9\n")
    with pytest.warns(UserWarning, match=f"context_20 is the published recipe; write ./{file} to use the file"):
        assert load_recipe("context_20").seed == 0
    assert load_recipe(f"./{file}").seed == load_recipe(Path(file)).seed == load_recipe(tmp_path / file).seed == 9


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'contxt_20'.*reslink recipes lists them.*Did you mean 'context_20'"):
        load_recipe("contxt_20")


def test_the_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    header = "# A test\n# network.\n# Command: reslink train DATA\n# Result:  AUROC 0.9\n# Time:    2 minutes\n"
    path.write_text(header + "seed: 1\n")
    recipe = published.PublishedRecipe.read(path)
    assert recipe.as_dict() == {
        "name": "own",
        "description": "A test network.",
        "command": "reslink train DATA",
        "result": "AUROC 0.9",
        "time": "2 minutes",
    }
    path.write_text("# A test\nseed: 1\n")
    with pytest.raises(ValueError, match=r"own\.yaml has no header"):
        published.PublishedRecipe.read(path)
