"""Files that are whole or not there: atomic writes, hashes, a lock on a folder, optional packages."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from reslink.errors import StorageError, UsageError


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Writes a whole file or none: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: The file to write; its folder is made if missing.
        content: Bytes, or text that is written as UTF-8.

    Returns:
        The path written.

    Raises:
        StorageError: If the file cannot be written (no space, no permission); what stood at ``path`` before is untouched.
    """
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"{target} could not be written: {error.strerror or error}",
            "reslink needs a folder that it may write to, with free space",
            "Free some space or choose another folder, then run the same command again",
        ) from error
    return target


def sync_folder(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes a JSON file atomically, keys in the order given, NaN refused."""
    return write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(content: bytes | str | Path) -> str:
    """Returns the SHA-256 of bytes, of a text, or of a file's content, as hex."""
    if isinstance(content, Path):
        with content.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@contextlib.contextmanager
def lock_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder for this process; the lock ends with the process, even when that is killed.

    Args:
        folder: The folder; made where it is missing.
        wait: Whether to wait as long as another process holds it.

    Raises:
        UsageError: If another process holds it, and this one does not wait.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{path} is in use by another reslink process",
                "One process writes to a folder at a time",
                "Wait for it to end, or choose another folder",
            ) from None
        yield


_SILENCED: Final = {"onnxruntime": ("ORT_DISABLE_TELEMETRY",)}
"""What native code must find in its environment before a package is loaded.

ONNX Runtime from 1.29 on reports to its maker over the network, and keeps a device number and a database in the home folder;
only this variable, set before it is loaded, keeps it from both (its Privacy.md). Images of patients are near: it is always set.
"""


def optional_import(name: str, extra: str) -> ModuleType:
    """Imports an optional package where it is used.

    Args:
        name: The module, such as ``captum.attr``.
        extra: The extra of reslink that installs it.

    Raises:
        UsageError: If it is not installed, with the command that installs it.
    """
    for variable in _SILENCED.get(name.split(".")[0], ()):
        os.putenv(variable, "1")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"The package {name.split('.')[0]!r} is not installed",
            f"This needs the extra {extra!r}",
            f'Run: pip install "reslink[{extra}]"',
        ) from error


def spreadsheet_text(text: str) -> str:
    """Returns a text that no spreadsheet runs as a formula: one that would be gets a ``'`` before it (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
