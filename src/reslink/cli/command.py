"""The wrapper of every command: common options, checks of output folders, and errors as messages and exit codes."""

from __future__ import annotations

import ast
import errno
import functools
import gc
import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_args

import typer
from typer.models import ParameterInfo

from reslink.cli.console import Console
from reslink.cli.offline import block_network
from reslink.cli.options import FolderOption
from reslink.errors import ReslinkError, StorageError
from reslink.files import check_folder_path, missing_package
from reslink.printable_names import printable

P = ParamSpec("P")

_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[1])
_TRAIN_PACKAGES = ("torch", "accelerate", "captum")
"""Packages of the extra ``train``, which modules import at their top."""

_PANEL = "Common options"
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.", rich_help_panel=_PANEL)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details.", rich_help_panel=_PANEL)]
Offline = Annotated[bool, typer.Option("--offline", help="Block every network connection.", rich_help_panel=_PANEL)]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.", rich_help_panel=_PANEL)]

_COMMON = {"quiet": Quiet, "verbose": Verbose, "offline": Offline, "debug": Debug}


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pauses garbage collection while modules are imported: it takes a tenth of the start, and what they hold stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def as_command(function: Callable[Concatenate[Console, P], None]) -> Callable[..., None]:
    """Wraps a function for ``typer.Typer.command``.

    The result has the common options, checks every option marked with :class:`FolderOption`, and turns errors into messages and
    exit codes.

    Args:
        function: A function that takes a Console first; its other parameters become arguments and options.

    Returns:
        The wrapped function. It raises ``typer.Exit`` if the exit code is not 0.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    folders = {parameter.name: name for parameter in own if (name := _folder_option(parameter.annotation))}

    @functools.wraps(function)
    def run(*, quiet: bool, verbose: bool, offline: bool, debug: bool, **options: Any) -> None:
        console = Console(quiet=quiet, verbose=verbose)
        block_network(offline)
        with _errors(console, debug), _warnings(console):
            for parameter, option in folders.items():
                if options[parameter] is not None:
                    check_folder_path(options[parameter], option)
            function(console, **options)  # type: ignore[call-arg]

    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    run.__doc__ = help_text(function)
    run.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
    return run


def help_text(function: Callable[..., Any]) -> str | None:
    """Returns the docstring of a function, also where ``python -OO`` has removed it: then it is read from the source."""
    if function.__doc__ is not None or sys.flags.optimize < 2:
        return function.__doc__
    try:
        [definition] = ast.parse(inspect.getsource(function)).body
    except OSError:  # an installation without sources
        return None
    return ast.get_docstring(definition) if isinstance(definition, ast.FunctionDef) else None


def _folder_option(annotation: Any) -> str | None:
    """Returns the name of an option that is marked with :class:`FolderOption`, such as ``--out``; None for other parameters."""
    metadata = get_args(annotation)[1:]
    if not any(isinstance(item, FolderOption) for item in metadata):
        return None
    [info] = (item for item in metadata if isinstance(item, ParameterInfo))
    names = (info.default, *(info.param_decls or ()))  # in an Annotated type, typer keeps the first name as the default
    return next(name for name in names if isinstance(name, str) and name.startswith("--"))


@contextmanager
def _errors(console: Console, debug: bool) -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        _fail(console, debug, error, (str(error) or "Stopped by Ctrl-C.").splitlines(), 130)
    except ReslinkError as error:
        _fail(console, debug, error, error.sentences(), error.exit_code)
    except MemoryError as error:
        _fail(console, debug, error, ["Out of memory. Try a smaller --batch-size."], 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        _fail(console, debug, error, _storage_error(error).sentences(), 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _TRAIN_PACKAGES:
            _fail_with_bug(console, debug, error)
        missing = missing_package(package, "train")
        _fail(console, debug, error, missing.sentences(), missing.exit_code)
    except Exception as error:  # noqa: BLE001  (any other exception is a bug, and is reported as one)
        _fail_with_bug(console, debug, error)


def _fail_with_bug(console: Console, debug: bool, error: Exception) -> None:
    advice = "This is a bug in reslink. Run again with --debug and report the traceback."
    _fail(console, debug, error, [f"{type(error).__name__}: {error}", advice], 1)


def _fail(console: Console, debug: bool, error: BaseException, lines: Sequence[str], code: int) -> None:
    if debug:
        console.warn(*"".join(traceback.format_exception(error)).rstrip().splitlines())
    first, *others = lines
    console.warn(first if code == 130 else f"Error: {first}", *(f"  {line.strip()}" for line in others))
    raise typer.Exit(code) from None


def _storage_error(error: OSError) -> StorageError:
    return StorageError(
        f"{error.filename or 'A file'} could not be read or written: {error.strerror or error}",
        "reslink needs read and write permission and free disk space there",
        "Check the path and the disk space, then run the same command again",
    )


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(record.message)


@contextmanager
def _warnings(console: Console) -> Iterator[None]:
    """Prints warnings and log records of reslink as single lines; warnings of other packages only with ``--verbose``."""

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        ours = category.__module__.split(".")[0] == "reslink" or filename.startswith(_PACKAGE_FOLDER)
        if ours or (issubclass(category, UserWarning) and console.verbose):
            console.warn(f"Warning: {message}")

    logger = logging.getLogger("reslink")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if console.verbose else logging.WARNING)
    original = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = original
        logger.removeHandler(handler)
        logger.setLevel(level)
