"""The command ``reslink``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from reslink import __version__
from reslink.cli.command import verb
from reslink.cli.commands import (
    audit,
    bench,
    calibrate,
    compare,
    data,
    demo,
    describe,
    dicom,
    doctor,
    evaluate,
    experiment,
    explain,
    export,
    info,
    models,
    phantom,
    predict,
    report,
    serve,
    split,
    train,
)
from reslink.errors import nearest

_NO_CHOICE = re.compile(r"(?:Value error, )?('.*' is not one of (.+)\.)", re.DOTALL)


def _examples(*commands: str) -> str:
    """Returns the end of a help text: a command a line."""
    return "\n\n".join(["Examples:", *(f"[bold]{command}[/bold]" for command in commands)])


class _Group(TyperGroup):
    """Names the nearest value where an option was given one that it does not have."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a verb."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if found := _NO_CHOICE.fullmatch(error.message):
                given = found[1].removeprefix("'").split("' is not one of ", 1)[0]
                near = nearest(given, re.findall(r"'([^']*)'", found[2]))
                error.message = f"{found[1]} {near}?" if near.startswith("Did") else found[1]
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

_VERBS = {
    "Learn": (demo, split, train, calibrate, evaluate, compare),
    "Use": (models, predict, explain, export, serve),
    "Look": (audit, report, describe, bench, phantom, info, doctor),
}


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"reslink {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train, judge, explain and run brain CT and MR tumour classifiers. Research use only."""


for _panel, _modules in _VERBS.items():
    for _module in _modules:
        _name = _module.__name__.rsplit(".", 1)[-1]
        app.command(_name, epilog=_examples(*_module.EXAMPLES), rich_help_panel=_panel)(verb(getattr(_module, _name)))

app.add_typer(experiment.sub_app(_examples, verb), name="study", rich_help_panel="Learn")
app.add_typer(data.sub_app(_examples, verb), name="data", rich_help_panel="Learn")
app.add_typer(dicom.sub_app(_examples, verb), name="dicom", rich_help_panel="Use")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process.

    Exit codes: 0 done, 1 something failed, 2 wrong usage, 3 a check said no, 130 stopped by Ctrl-C.

    Args:
        args: The words after ``reslink``; those of this process where not given.
    """
    try:
        app(args, prog_name="reslink")
    except KeyboardInterrupt:  # one that came while another error was being told
        sys.exit(130)
