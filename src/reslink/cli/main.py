"""The command ``reslink`` and its subcommands."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer
from typer._click.exceptions import NoSuchOption
from typer.core import TyperGroup

from reslink import __version__
from reslink.cli.command import as_command, help_text, paused_collection
from reslink.errors import nearest, suggest

if TYPE_CHECKING:
    app: typer.Typer

_INVALID_CHOICE = re.compile(r"(?:Value error, )?('.*' is not one of (.+)\.)", re.DOTALL)


def _examples(*commands: str) -> str:
    """Returns the end of a help text: one command per line."""
    return "\n\n".join(["Examples:", *(f"[bold]{command}[/bold]" for command in commands)])


class _Group(TyperGroup):
    """Suggests the nearest value if an option has an invalid one, and the nearest option if there is none of that name."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if choice := _INVALID_CHOICE.fullmatch(error.message):
                given = choice[1].removeprefix("'").split("' is not one of ", 1)[0]
                suggestion = suggest(given, re.findall(r"'([^']*)'", choice[2]))
                error.message = f"{choice[1]} {suggestion}" if suggestion.startswith("Did") else choice[1]
            raise
        except NoSuchOption as error:
            options = [] if error.ctx is None else [name for option in error.ctx.command.params for name in option.opts]
            match = nearest(error.option_name, [name for name in options if name.startswith("--")])
            error.possibilities = [match] if match else None
            raise


_TRAIN, _USE, _INSPECT = "Train and evaluate", "Use a model", "Inspect"
_COMMANDS: Final = {
    _TRAIN: [
        "demo",
        "split",
        "recipes",
        "cache",
        "train",
        "cv",
        "tune",
        "calibrate",
        "adapt",
        "evaluate",
        "external",
        "compare",
        "runs",
    ],
    _USE: ["models", "predict", "explain", "export", "serve"],
    _INSPECT: ["audit", "report", "describe", "bench", "phantom", "info", "doctor"],
}
"""The commands in the order of the help; each is a function in the module of its name."""

_GROUPS: Final = {"experiment": _TRAIN, "data": _TRAIN, "dicom": _USE}
"""Commands with commands of their own."""


def _print_version(requested: bool) -> None:
    if requested:
        sys.stdout.write(f"reslink {__version__}\n")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, evaluate, explain and run brain CT and MR tumor classifiers. Research use only."""


def make_app(first_word: str | None = None) -> typer.Typer:
    """Returns the command line.

    Args:
        first_word: If it is the name of a command, only this command is imported: all of them take 0.1 s.
    """
    app = typer.Typer(
        name="reslink",
        cls=_Group,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_examples(
            "reslink demo", "reslink train images/ --out runs/first", "reslink predict runs/first/bundle scan.dcm --json"
        ),
    )
    app.callback(help=help_text(root))(root)
    panels = {name: panel for panel, names in _COMMANDS.items() for name in names} | _GROUPS
    for name in (first_word,) if first_word in panels else panels:
        module = importlib.import_module(f"reslink.cli.commands.{name}")
        if name in _GROUPS:
            app.add_typer(module.sub_app(_examples, as_command), name=name, rich_help_panel=panels[name])
        else:
            command = as_command(getattr(module, name))
            app.command(name, epilog=_examples(*module.EXAMPLES), rich_help_panel=panels[name])(command)
    return app


def __getattr__(name: str) -> Any:
    """Makes ``app``, the command line with all commands, on first use (PEP 562)."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, make_app())


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process.

    Exit codes: 0 success, 1 an input or a write failed, 2 wrong usage, 3 a check failed, 130 stopped by Ctrl-C.

    Args:
        args: The words after ``reslink``; default: those of this process.
    """
    sys.stdout, sys.stderr = map(_output_stream, (sys.stdout, sys.stderr))
    try:
        words = sys.argv[1:] if args is None else args
        with paused_collection():
            command_line = make_app(*words[:1])
        command_line(words, prog_name="reslink")
    except KeyboardInterrupt:  # a second Ctrl-C while another error was being printed
        sys.exit(130)


def _output_stream(stream: TextIO | None) -> TextIO:
    """Returns the stream with escapes for what its encoding lacks; a stream that the process started without is discarded."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
