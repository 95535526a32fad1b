"""What all verbs have in common: four options, and one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from reslink.cli.console import Console
from reslink.cli.offline import refuse_network
from reslink.errors import ReslinkError, StorageError, UsageError

P = ParamSpec("P")

_HOME = str(Path(__file__).resolve().parents[1])

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings and errors.", rich_help_panel="Everywhere")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel="Everywhere")]
Offline = Annotated[bool, typer.Option("--offline", help="Refuse every network connection.", rich_help_panel="Everywhere")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Everywhere")]

_COMMON = {"quiet": Quiet, "verbose": Verbose, "offline": Offline, "debug": Debug}


def verb(function: Callable[Concatenate[Console, P], None]) -> Callable[..., None]:
    """Makes a function a verb: gives it a console, the options of every verb, and the mapping of errors to exit codes.

    Args:
        function: Takes a Console first; its other parameters become arguments and options.

    Returns:
        A function for ``typer.Typer.command``, which ends with ``typer.Exit`` where the exit code is not 0.
    """

    @functools.wraps(function)
    def run(*, quiet: bool, verbose: bool, offline: bool, debug: bool, **options: Any) -> None:
        console = Console(quiet=quiet, verbose=verbose)
        refuse_network(offline)
        with _errors(console, debug), _warnings(console):
            function(console, **options)  # type: ignore[call-arg]

    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
    return run


def refuse_earlier(out: Path | None, file: str, what: str, overwrite: bool) -> None:
    """Refuses a folder that holds what an earlier run wrote, unless it may be replaced.

    Args:
        out: The folder; None where nothing is written.
        file: The file by which the earlier result is known.
        what: What it is called, with its article.
        overwrite: Whether it may be replaced.

    Raises:
        UsageError: If it is there and may not be replaced, or if ``out`` is a file.
    """
    if out is None:
        return
    refuse_file(out, "--out")
    if (out / file).exists() and not overwrite:
        raise replaced_unasked(out, what)


def replaced_unasked(out: Path, what: str) -> UsageError:
    """Returns the error of a folder that holds an earlier result, ``what`` with its article."""
    return UsageError(f"{out} holds {what} already", "Nothing is replaced unasked", "Choose another --out, or add --overwrite")


def refuse_file(folder: Path, option: str) -> None:
    """Refuses a file where a folder is to be made, before any work is done for it.

    Args:
        folder: The folder to be.
        option: The option that names it.

    Raises:
        UsageError: If it, or a folder above it, is a file or a link to nowhere.
    """
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise UsageError(
                f"{place} is {'a file' if place.exists() else 'a link to nowhere'}",
                f"{option} names a folder",
                f"Write for example {option} {place.with_name(f'{place.name}-folder')}",
            )


@contextmanager
def _errors(console: Console, debug: bool) -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        _fail(console, debug, error, str(error) or "Stopped by Ctrl-C.", 130)
    except ReslinkError as error:
        _fail(console, debug, error, _three_parts(error), error.exit_code)
    except MemoryError as error:
        _fail(console, debug, error, "Out of memory. Try a smaller --batch-size.", 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        _fail(console, debug, error, _three_parts(_storage(error)), 1)
    except Exception as error:  # noqa: BLE001  (the last door: what comes here is a bug, and is said to be one)
        text = f"{type(error).__name__}: {error}"
        _fail(console, debug, error, text + "\n  This is a bug in reslink. --debug shows the traceback to report.", 1)


def _fail(console: Console, debug: bool, error: BaseException, text: str, code: int) -> None:
    if debug:
        console.warn("".join(traceback.format_exception(error)).rstrip())
    console.warn(text if code == 130 else f"Error: {text}")
    raise typer.Exit(code) from None


def _three_parts(error: ReslinkError) -> str:
    return f"{error.given}.\n  {error.allowed}.\n  {error.next_step}."


def _storage(error: OSError) -> StorageError:
    return StorageError(
        f"{error.filename or 'A file'} could not be read or written: {error.strerror or error}",
        "reslink needs files that it may read and folders that it may write to, with free space",
        "See that the path is right and the disk has room, then run the same command again",
    )


@contextmanager
def _warnings(console: Console) -> Iterator[None]:
    """Says our own warnings in one line; those of other packages only with ``--verbose``."""

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        ours = category.__module__.split(".")[0] == "reslink" or filename.startswith(_HOME)
        if ours or (issubclass(category, UserWarning) and console.verbose):
            console.warn(f"Warning: {message}")

    logger = logging.getLogger("reslink")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if console.verbose else logging.WARNING)
    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
        logger.removeHandler(handler)
        logger.setLevel(level)
