"""Options that take several values in a row."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from reslink.cli.commands.experiment import expand_seeds
from reslink.cli.main import app
from reslink.cli.multi_value_options import repeat_option_names
from reslink.errors import UsageError

SEVERAL = {"--epochs": True, "--conditions": False}


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("data --epochs 5 10 20", "data --epochs 5 --epochs 10 --epochs 20"),
        ("--epochs 5 10 data --out x", "--epochs 5 --epochs 10 data --out x"),
        ("--epochs 5 --epochs 10 data", "--epochs 5 --epochs 10 data"),
        ("--epochs=5 10 data", "--epochs=5 --epochs 10 data"),
        ("--epochs -1 2 data", "--epochs -1 --epochs 2 data"),
        ("data --conditions a b --json", "data --conditions a --conditions b --json"),
        ("--epochs 5 -- 10 20", "--epochs 5 -- 10 20"),
        ("--out 5 10", "--out 5 10"),
    ],
)
def test_values_in_a_row(words: str, read: str) -> None:
    assert repeat_option_names(words.split(), SEVERAL) == read.split()


def test_one_number_is_the_number_of_seeds_and_several_are_the_seeds() -> None:
    assert expand_seeds([3]) == (0, 1, 2)
    assert expand_seeds([4, 7]) == (4, 7)
    with pytest.raises(UsageError, match="at least one run"):
        expand_seeds([0])


def test_a_value_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["experiment", "epochs", str(tmp_path), "--out", str(tmp_path / "s"), "--epochs", "5", "ten"]
    )
    assert done.exit_code == 2
