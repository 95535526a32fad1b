"""``reslink describe``: layers, parameters and operations of a network."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from reslink.cli.main import app


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_describe_agrees_with_the_network() -> None:
    from reslink.networks.analysis import count_parameters
    from reslink.networks.reslink import ResLink, variant_config

    facts = json.loads(invoke("describe", "reslink_small", "--size", "96", "--json").stdout)
    assert facts["parameters"] == count_parameters(ResLink(variant_config("reslink_small")))
    assert facts["input"] == [3, 96, 96]
    assert facts["flops"] == sum(layer["flops"] for layer in facts["layers"])
    sides = [row["side"] for row in facts["attention_cost"]]
    growth = [row["self_attention"] / row["area"] for row in facts["attention_cost"]]
    assert sides == [24, 48, 96]
    assert growth == sorted(growth)


def test_describe_applies_set() -> None:
    both, none = (
        json.loads(invoke("describe", "reslink_paper", "--json", "--set", f"model.attention={kind}").stdout)
        for kind in ("both", "none")
    )
    assert none["parameters"] < both["parameters"]
    assert not [layer for layer in none["layers"] if "attention" in layer["name"]]


def test_describe_for_people() -> None:
    lines = invoke("describe", "reslink_small").stdout.splitlines()
    assert lines[0] == "layer\tkind\tparameters\tMFLOPs"
    assert "map\tarea attention\tdot-product self-attention" in lines


def test_describe_of_a_shipped_model_names_the_right_command(zoo_with_ct: Path) -> None:
    result = invoke("describe", "ct")
    assert result.exit_code == 2
    assert "Error: ct is a shipped model, not a network variant.\n" in result.stderr
    assert "Run reslink models ct.\n" in result.stderr


def test_describe_names_the_nearest_variant() -> None:
    result = invoke("describe", "reslink_smal")
    assert result.exit_code == 2
    assert "Did you mean 'reslink_small'" in result.stderr
