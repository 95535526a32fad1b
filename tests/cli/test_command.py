"""Errors as messages and exit codes, and common options."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from reslink.cli.command import as_command
from reslink.cli.console import Console
from reslink.errors import CheckFailedError, InputError, UsageError
from reslink.imaging.limits import ImagingWarning

runner = CliRunner()


def invoke(action: Callable[[Console], object], *words: str) -> tuple[int, str, str]:
    def act(console: Console, number: int = 1) -> None:
        action(console)

    app = typer.Typer()
    app.command()(as_command(act))
    result = runner.invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def raising(error: BaseException) -> Callable[[Console], object]:
    def act(_: Console) -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("A", "B", "C"), 1), (UsageError("A", "B", "C"), 2), (CheckFailedError("A", "B", "C"), 3)],
)
def test_a_reslink_error_has_three_parts(error: BaseException, code: int) -> None:
    assert invoke(raising(error)) == (code, "", "Error: A.\n  B.\n  C.\n")


def test_debug_adds_the_traceback() -> None:
    code, out, err = invoke(raising(InputError("A", "B", "C")), "--debug")
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith("Error: A.\n  B.\n  C.\n")


def test_an_unexpected_exception_is_called_a_bug() -> None:
    code, _, err = invoke(raising(ZeroDivisionError("division by zero")))
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    assert "bug in reslink" in err
    assert "--debug" in err
    assert "Traceback" not in err


def test_ctrl_c_ends_with_130_and_the_message_of_the_command() -> None:
    assert invoke(raising(KeyboardInterrupt())) == (130, "", "Stopped by Ctrl-C.\n")
    assert invoke(raising(KeyboardInterrupt("Saved."))) == (130, "", "Saved.\n")


def test_an_operating_system_error_names_the_file() -> None:
    code, _, err = invoke(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/disk")))
    assert code == 1
    assert "/full/disk could not be read or written: No space left on device" in err
    assert "bug" not in err


def test_no_memory_names_the_batch_size() -> None:
    assert invoke(raising(MemoryError()))[2] == "Error: Out of memory. Try a smaller --batch-size.\n"


def test_the_exit_code_of_a_command_is_kept() -> None:
    assert invoke(raising(typer.Exit(3)))[0] == 3


def test_quiet_and_verbose_select_the_messages() -> None:
    def talk(console: Console) -> None:
        console.detail("detail")
        console.note("note")
        console.warn("warning")
        console.data("data")
        logging.getLogger("reslink.somewhere").info("logged")

    assert invoke(talk) == (0, "data\n", "note\nwarning\n")
    assert invoke(talk, "-q") == (0, "data\n", "warning\n")
    assert invoke(talk, "-v") == (0, "data\n", "detail\nnote\nwarning\nlogged\n")


def test_a_warning_becomes_one_line_and_the_hook_is_restored() -> None:
    before = warnings.showwarning

    def warn(_: Console) -> None:
        warnings.warn_explicit("first frame of three", ImagingWarning, "contextlib.py", 1)
        warnings.warn_explicit("of another package", UserWarning, "site-packages/reslink-like/x.py", 1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert invoke(warn) == (0, "", "Warning: first frame of three\n")
    assert warnings.showwarning is before


def test_a_misspelt_option_names_the_right_one() -> None:
    code, _, err = invoke(lambda _: None, "--numbr", "2")
    assert code == 2
    assert "--number" in err


def test_the_help_lists_the_common_options() -> None:
    _, out, _ = invoke(lambda _: None, "--help")
    assert all(option in out for option in ("--quiet", "--verbose", "--offline", "--debug"))


@pytest.mark.filterwarnings("default")
def test_messages_and_logs_escape_names() -> None:
    name = os.fsdecode(b"m\xe9d\r\n.png")
    assert invoke(raising(InputError(f"{name} is broken", "B", "C"))) == (
        1,
        "",
        "Error: m\\xe9d\\r\\n.png is broken.\n  B.\n  C.\n",
    )

    def act(_: Console) -> None:
        logging.getLogger("reslink.test").warning("%s is left out", name)
        warnings.warn(f"{name} is odd", ImagingWarning, stacklevel=2)

    assert invoke(act)[2].splitlines() == [r"m\xe9d\r\n.png is left out", r"Warning: m\xe9d\r\n.png is odd"]


def test_help_texts_do_not_need_docstrings() -> None:
    program = (
        "from reslink.cli.command import help_text; from reslink.cli.commands.train import train; "
        "print(train.__doc__, help_text(train))"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None Train a classifier, evaluate it on held-out cases")
