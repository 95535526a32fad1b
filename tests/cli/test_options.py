"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import reslink
from reslink.cli.main import app
from reslink.cli.options import parse_split, parse_unit_option, threads_from_environment
from reslink.errors import UsageError


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None), ("0", None), ("-1", None)])
def test_threads_of_the_environment(value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads_from_environment() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_from_environment() is None


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, word))
        else:
            yield " ".join((*words, word)), command


def test_every_command_that_reads_a_data_set_takes_columns_and_root() -> None:
    found = {}
    for name, command in commands(typer.main.get_command(app)):
        metavars = {parameter.metavar for parameter in command.params}
        options = {option for parameter in command.params for option in parameter.opts}
        if metavars & {"DATA", "DATA..."}:
            found[name] = {"--columns", "--root"} <= options
    assert found == dict.fromkeys(found, True)
    assert {"train", "split", "audit", "evaluate", "calibrate", "compare", "experiment epochs", "external"} <= {*found}


@pytest.mark.parametrize("text", ["validation", "val", "valid", "VAL", "dev"])
def test_a_split_has_the_spellings_of_data_sets(text: str) -> None:
    assert parse_split(text) == "validation"
    assert (parse_split("all"), parse_split("Testing"), parse_split("training")) == ("all", "test", "train")


def test_a_unit_is_parsed_before_the_command_runs() -> None:
    assert [parse_unit_option(text) for text in ("hu", "HU", "Mr", "grey")] == ["HU", "HU", "MR", "gray"]
    names = [name for name, command in commands(typer.main.get_command(app)) if any("--unit" in p.opts for p in command.params)]
    assert {"predict", "explain", "train", "evaluate", "audit", "external"} <= {*names}
    for name in names:
        result = CliRunner().invoke(app, [*name.split(), "--unit", "foo"])
        assert result.exit_code == 2, name
        assert "The unit 'foo' is not valid. The units are HU, MR and gray" in " ".join(
            result.output.replace("│", " ").split()
        ), name


@pytest.mark.parametrize("function", [reslink.predict, partial(reslink.explain, out="explained")])
def test_a_function_names_an_unknown_unit_before_it_loads_a_model(function: Any) -> None:
    with pytest.raises(UsageError, match="The unit 'foo' is not valid"):
        function("no-such-bundle", "no-such-file.png", unit="foo")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="'tst' is not one of 'all', 'train', 'validation', 'test'"):
        parse_split("tst")
