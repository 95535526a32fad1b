"""Atomic writes of files and folders, CSV, hashes, folder locks, and imports of optional packages."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import importlib
import io
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TextIO

from reslink.errors import RETRY_WRITE, UsageError, write_failed
from reslink.remote_paths import check_local

if TYPE_CHECKING:
    from _csv import Writer as CsvWriter


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    r"""Writes a file atomically: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: The file to write; its folder is created if missing.
        content: Bytes, or text that is written as UTF-8; a surrogate, which UTF-8 cannot hold, becomes ``\udce9``. In JSON
            that is its escape.

    Returns:
        The path of the written file.

    Raises:
        StorageError: If the file cannot be written (no space, no permission); an existing file stays unchanged.
    """
    target = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
        fsync_folder(target.parent)
    except BaseException as error:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise write_failed(target, error) from error
    return target


_PART_NAME: Final = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.part")


def remove_parts(folder: Path) -> None:
    """Removes the parts that :func:`write_atomic` left in a folder, also in its subfolders, when its process was killed.

    Call it only while no other process writes there, see :func:`lock_folder`.
    """
    for path in folder.rglob("*.part"):
        if _PART_NAME.fullmatch(path.name) and path.is_file():
            path.unlink()


@contextlib.contextmanager
def storage_errors(target: Path | str, next_step: str = RETRY_WRITE) -> Iterator[None]:
    """Turns an ``OSError`` inside the block into a ``StorageError`` that names the target.

    Args:
        target: The file or folder that is written, or a phrase that names it.
        next_step: What the user should do next.

    Raises:
        StorageError: If the block raises an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise write_failed(target, error, next_step) from error


def check_folder_path(folder: Path, option: str = "--out") -> None:
    """Checks that a path can become a folder: neither it nor a parent is a file or a broken link.

    Args:
        folder: The path.
        option: The option that sets it, for the message.

    Raises:
        UsageError: If it cannot become a folder, or is a URL.
    """
    check_local(folder, option)
    for path in (folder, *folder.parents):
        if os.path.lexists(path) and not path.is_dir():
            raise UsageError(
                f"{path} is {'a file' if path.exists() else 'a broken link'}",
                f"{option} must name a folder",
                f"For example, use {option} {path.with_name(f'{path.name}-folder')}",
            )


def check_overwrite(out: Path | None, file: str, content: str, overwrite: bool) -> None:
    """Checks that an output folder holds no earlier result, unless it may be overwritten.

    Args:
        out: The folder; None if nothing is written.
        file: The file that marks an earlier result.
        content: The result with its article, such as ``an evaluation``.
        overwrite: Whether an earlier result may be overwritten.

    Raises:
        UsageError: If the folder holds an earlier result and ``overwrite`` is false, or its path is a file.
    """
    if out is None:
        return
    check_folder_path(out)
    if (out / file).exists() and not overwrite:
        raise exists_error(out, content)


def check_output_file(path: Path, option: str, kind: str, example: str, overwrite: bool) -> None:
    """Checks that a file can be written: its path is not a folder, and it is new or may be overwritten.

    Args:
        path: The file.
        option: The option that sets it, for the message.
        kind: The kind of file with its article, such as ``a CSV file``.
        example: A file name for the advice.
        overwrite: Whether an existing file may be overwritten.

    Raises:
        UsageError: If it cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", f"{option} must name {kind}", f"Use {option} {path / example}")
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists",
            "Existing files are not overwritten without --overwrite",
            f"Choose another {option}, or add --overwrite",
        )


def exists_error(out: Path, content: str) -> UsageError:
    """Returns the error for a folder that already holds a result; ``content`` names it with its article."""
    return UsageError(
        f"{out} already holds {content}",
        "Existing results are not overwritten without --overwrite",
        "Choose another --out, or add --overwrite",
    )


@contextlib.contextmanager
def replace_folder(target: Path, marker: str, what: str) -> Iterator[Path]:
    """Yields an empty folder to fill, and renames it to ``target`` when the block ends without an error.

    An existing ``target`` is moved aside first and moved back if the rename fails. If the process is killed between these
    two renames, the old folder remains beside ``target`` under a hidden name.

    Args:
        target: The folder.
        marker: The file that identifies an old ``target``; no other folder with content is replaced.
        what: Name of the content for messages, such as ``bundle``.

    Raises:
        UsageError: If ``target`` is a file or a folder with other content.
        StorageError: If the folder cannot be created or renamed.
    """
    check_replaceable(target, marker, what)
    with storage_errors(f"The {what} {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
    try:
        yield part
        with storage_errors(f"The {what} {target}"):
            _swap(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(target: Path, marker: str, what: str) -> None:
    """Checks that :func:`replace_folder` accepts a folder; call it before long work whose result is written there.

    Args:
        target: The folder.
        marker: As in :func:`replace_folder`.
        what: As in :func:`replace_folder`.

    Raises:
        UsageError: If ``target`` is a file or a folder with other content.
    """
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / marker).is_file()):
        article = "an" if what[0] in "aeiou" else "a"
        raise UsageError(
            f"{target} exists and is not {article} {what}",
            f"{article.capitalize()} {what} is written to a new folder, an empty one, or over an older {what}",
            "Choose another folder",
        )


def _swap(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)
        return
    old = part.with_suffix(".old")
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def fsync_folder(folder: Path) -> None:
    """Flushes a folder's entries (new and renamed files) to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes a JSON file atomically. Keys keep their order; NaN raises ``ValueError``."""
    return write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(content: bytes | str | Path) -> str:
    """Returns the SHA-256 of bytes, text or a file's content as a hexadecimal string."""
    if isinstance(content, Path):
        with content.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@contextlib.contextmanager
def lock_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Locks a folder for this process; the lock is released when the process ends, also when it is killed.

    On NFS the lock holds for all hosts: Linux turns it into a lock of the server, which is released when its host dies.

    Args:
        folder: The folder; created if missing.
        wait: Whether to wait until another process releases the lock.

    Raises:
        UsageError: If another process holds the lock and ``wait`` is false, or the file system has no locks.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{path} is in use by another reslink process",
                "Only one process may write to a folder at a time",
                "Wait until it has finished, or choose another folder",
            ) from None
        except OSError as error:
            raise UsageError(
                f"{path} cannot be locked: {error.strerror}",
                "reslink writes only to file systems with locks (flock), such as local ones and NFS with its lock service",
                "Mount it with locks, or choose a folder on another file system",
            ) from error
        yield


def is_locked(folder: Path) -> bool:
    """Returns whether a process holds the lock of a folder; nothing is written."""
    try:
        with (folder / ".lock").open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


_TELEMETRY_VARIABLES: Final = {
    "onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"},
    "mlflow": {"MLFLOW_DISABLE_TELEMETRY": "true"},
    "wandb": {"WANDB_ERROR_REPORTING": "false"},
    "ray": {"RAY_USAGE_STATS_ENABLED": "0"},
}
"""Environment variables, by package, that are set before the package is imported.

ONNX Runtime 1.29 and later sends telemetry to its vendor and keeps a device ID and a database in the home folder. Only this
variable, set before the import, prevents both (see its Privacy.md). MLflow 3.2 and later sends telemetry from a thread that its
import starts; wandb reports its errors; Ray sends usage statistics. reslink handles patient images, so these variables are
always set.
"""

TELEMETRY_MODULES: Final = {"openvino": "openvino_telemetry"}
"""Modules that send telemetry, by the package that imports them. They are made impossible to import before the package is.

OpenVINO sends an event to an analytics host when it is imported, and keeps an ID in ``~/intel``. No variable prevents this. If
the module is missing, OpenVINO uses a module of its own without function.
"""

TELEMETRY_PACKAGES: Final = (*_TELEMETRY_VARIABLES, *TELEMETRY_MODULES)
"""Packages whose telemetry is switched off by :func:`optional_import`."""


def optional_import(name: str, extra: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        name: The module, such as ``captum.attr``.
        extra: The extra of reslink that installs the package.

    Raises:
        UsageError: If the package is not installed. The message holds the command that installs it.
    """
    switch_telemetry_off(name.split(".")[0])
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_package(name.split(".")[0], extra) from error


def switch_telemetry_off(package: str) -> None:
    """Switches the telemetry of a package off, if it has any. Call it before the package is imported."""
    os.environ.update(_TELEMETRY_VARIABLES.get(package, {}))
    module = TELEMETRY_MODULES.get(package)
    if module is not None and package not in sys.modules:
        sys.modules[module] = None  # type: ignore[assignment]  # so that its import raises ImportError


def missing_package(package: str, extra: str) -> UsageError:
    """Returns the error for a package that is not installed, with the command that installs its extra."""
    return UsageError(
        f"The package {package!r} is not installed",
        f"It belongs to the extra {extra!r} of reslink",
        f"Run: {install_command(extra)}",
    )


def install_command(*extras: str) -> str:
    """Returns the command that installs the packages of one or more extras.

    The command names the packages instead of ``reslink[EXTRA]``, so it works however reslink was installed: from a wheel, from
    a clone or from an index.

    Args:
        extras: Extras of reslink, such as ``serve``.

    Raises:
        ValueError: If reslink declares no such extra.
    """
    try:
        packages_of = {extra: set(_packages_of(extra, set())) for extra in extras}
    except metadata.PackageNotFoundError:  # imported from a clone that is not installed
        return f'python -m pip install -e ".[{",".join(extras)}]"'
    if unknown := [extra for extra, packages in packages_of.items() if not packages]:
        raise ValueError(f"reslink has no extra {unknown[0]!r}")
    return f"python -m pip install {' '.join(sorted(set().union(*packages_of.values())))}"


def _packages_of(extra: str, visited: set[str]) -> Iterator[str]:
    """Yields the requirements of an extra, quoted for a shell; extras of reslink within the extra are resolved."""
    from packaging.requirements import Requirement

    visited.add(extra)
    for text in metadata.requires("reslink") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or not marker.evaluate({"extra": extra}) or marker.evaluate({"extra": ""}):
            continue  # a core requirement, another extra, or another platform
        if requirement.name == "reslink":
            for other in sorted(requirement.extras - visited):
                yield from _packages_of(other, visited)
        else:
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            yield f'"{requirement.name}{extras}{requirement.specifier}"'


def escape_formula(text: str) -> str:
    """Returns the text with a leading ``'`` if a spreadsheet would run it as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


class _NewlineStream:
    r"""Ends each row of a CSV with a newline.

    With ``lineterminator="\\n"``, Python 3.11 does not quote a carriage return in a cell, and the table cannot be read again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        return self._stream.write(row.removesuffix("\r\n") + "\n")


def csv_writer(stream: TextIO) -> CsvWriter:
    """Returns a CSV writer: rows end with a newline, and cells with a separator, a quote or any line end are quoted."""
    return csv.writer(_NewlineStream(stream), lineterminator="\r\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Returns a CSV table with a header. A missing value is an empty cell; keys that are not columns are ignored."""
    stream = io.StringIO()
    writer = csv_writer(stream)
    writer.writerow(columns)
    writer.writerows([row.get(name) for name in columns] for row in rows)
    return stream.getvalue()
