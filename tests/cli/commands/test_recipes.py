"""``reslink recipes`` lists the published recipes and prints one as YAML."""

from __future__ import annotations

import json

import yaml
from typer.testing import CliRunner, Result

from reslink.cli.main import app
from reslink.training.recipe import published


def invoke(*words: str) -> Result:
    """Runs the command line in this process."""
    return CliRunner().invoke(app, words)


def test_all_recipes_are_listed_with_their_results() -> None:
    result = invoke("recipes")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == published.names()
    assert all("0." in line for line in lines[1:])
    listed = json.loads(invoke("recipes", "--json").stdout)["recipes"]
    assert [recipe["name"] for recipe in listed] == published.names()
    assert all(recipe["result"] and recipe["command"] and recipe["time"] for recipe in listed)


def test_one_recipe_is_printed_as_yaml() -> None:
    result = invoke("recipes", "context_20")
    assert yaml.safe_load(result.stdout)["trainer"]["epochs"] == 20
    assert json.loads(invoke("recipes", "context_20", "--json").stdout)["name"] == "context_20"


def test_an_unknown_recipe() -> None:
    result = invoke("recipes", "contxt_20")
    assert result.exit_code == 2
    assert "There is no published recipe 'contxt_20'" in result.stderr
    assert "Did you mean 'context_20'" in result.stderr
