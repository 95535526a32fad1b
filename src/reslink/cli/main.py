"""The command ``reslink`` and its subcommands."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer._click.exceptions import NoSuchOption
from typer.core import TyperGroup

from reslink import __version__
from reslink.cli.command import as_command, help_text
from reslink.cli.commands import (
    adapt,
    audit,
    bench,
    calibrate,
    compare,
    cv,
    data,
    demo,
    describe,
    dicom,
    doctor,
    evaluate,
    experiment,
    explain,
    export,
    external,
    info,
    models,
    phantom,
    predict,
    recipes,
    report,
    runs,
    serve,
    split,
    train,
    tune,
)
from reslink.errors import nearest, suggest

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

_TRAIN, _USE, _INSPECT = "Train and evaluate", "Use a model", "Inspect"
_COMMANDS = {
    _TRAIN: (demo, split, recipes, train, cv, tune, calibrate, adapt, evaluate, external, compare, runs),
    _USE: (models, predict, explain, export, serve),
    _INSPECT: (audit, report, describe, bench, phantom, info, doctor),
}


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


app.callback(help=help_text(root))(root)

for _panel, _modules in _COMMANDS.items():
    for _module in _modules:
        _name = _module.__name__.rsplit(".", 1)[-1]
        app.command(_name, epilog=_examples(*_module.EXAMPLES), rich_help_panel=_panel)(as_command(getattr(_module, _name)))

app.add_typer(experiment.sub_app(_examples, as_command), name="experiment", rich_help_panel=_TRAIN)
app.add_typer(data.sub_app(_examples, as_command), name="data", rich_help_panel=_TRAIN)
app.add_typer(dicom.sub_app(_examples, as_command), name="dicom", rich_help_panel=_USE)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process.

    Exit codes: 0 success, 1 an input or a write failed, 2 wrong usage, 3 a check failed, 130 stopped by Ctrl-C.

    Args:
        args: The words after ``reslink``; default: those of this process.
    """
    sys.stdout, sys.stderr = map(_output_stream, (sys.stdout, sys.stderr))
    try:
        app(args, prog_name="reslink")
    except KeyboardInterrupt:  # a second Ctrl-C while another error was being printed
        sys.exit(130)


def _output_stream(stream: TextIO | None) -> TextIO:
    """Returns the stream with escapes for what its encoding lacks; a stream that the process started without is discarded."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
