"""Errors of the Python functions name parameters, not options."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import reslink
from reslink.errors import UsageError
from reslink.parameter_names import name_parameters, with_parameter_names

NAMES = {"out", "csv", "device", "backend", "pictures", "overwrite", "resume", "settings", "recipe", "keep_given", "folds"}
FLAGS = {"overwrite", "resume", "keep_given"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Choose another --out, or add --overwrite", "Choose another out=…, or add overwrite=True"),
        ("--csv must name a file", "csv=… must name a file"),
        ("For example, use --csv my scans/predictions.csv", "For example, use csv='my scans/predictions.csv'"),
        ("Use --device cpu, or --backend torch", "Use device='cpu', or backend='torch'"),
        ("Choose another --out or --pictures", "Choose another out=… or pictures=…"),
        ("--folds and --keep-given were both given", "folds=… and keep_given=True were both given"),
        (
            "add --resume to continue it or --overwrite to replace it",
            "add resume=True to continue it or overwrite=True to replace it",
        ),
        (
            "Use grad_cam, or train with --set model.attention=both",
            "Use grad_cam, or train with settings=['model.attention=both']",
        ),
        ("The value of --set 'seed=[' cannot be read", "The value of settings=['seed=['] cannot be read"),
        ("Check the path, or omit --recipe for the defaults", "Check the path, or omit recipe=… for the defaults"),
        ("Make a split with reslink split DATA --out split.csv. Or add --overwrite", None),
        ("Run reslink train DATA --out RUN --resume", "Run reslink train DATA --out RUN --resume"),
        ("Use --coverage 0.95", "Use --coverage 0.95"),
    ],
)
def test_options_become_parameters(text: str, expected: str | None) -> None:
    expected = expected or "Make a split with reslink split DATA --out split.csv. Or add overwrite=True"
    assert name_parameters(text, NAMES, FLAGS) == expected


def test_an_error_keeps_its_class_and_the_function_its_signature() -> None:
    def save(out: str, *, overwrite: bool = False) -> None:
        raise UsageError(f"{out} exists", "Nothing is overwritten without --overwrite", "Choose another --out")

    wrapped = with_parameter_names(save)
    assert inspect.signature(wrapped) == inspect.signature(save)
    with pytest.raises(UsageError) as caught:
        wrapped("a.csv")
    assert str(caught.value) == "a.csv exists. Nothing is overwritten without overwrite=True. Choose another out=…."
    assert caught.value.args == (caught.value.given, caught.value.allowed, caught.value.next_step)


def test_a_stopped_training_names_the_parameter() -> None:
    def stop(resume: bool = False) -> None:
        raise KeyboardInterrupt("Run the same command with --resume to continue")

    with pytest.raises(KeyboardInterrupt, match="with resume=True to continue"):
        with_parameter_names(stop)()


def test_the_public_functions_name_their_parameters(tmp_path: Path) -> None:
    (tmp_path / "split.csv").touch()
    with pytest.raises(UsageError, match=r"without overwrite=True\. Choose another out=…, or add overwrite=True\."):
        reslink.split(tmp_path, tmp_path / "split.csv")
    with pytest.raises(UsageError, match=r"folds=… and keep_given=True were both given"):
        reslink.split(tmp_path, tmp_path / "split.csv", folds=3, keep_given=True)
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    with pytest.raises(UsageError, match=r"out=… must name a folder"):
        reslink.audit(tmp_path, out=tmp_path / "split.csv")
