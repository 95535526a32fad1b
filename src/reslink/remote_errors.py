"""Errors of object storage and web servers: which may be temporary, and their messages."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Final

from reslink.errors import InputError, ReslinkError
from reslink.remote_paths import SCHEMES, RemotePath

_CONNECTION_ERRORS: Final = {
    "ConnectionError",
    "TimeoutError",
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
}
"""Names of the base classes of Python, botocore and aiohttp for failures of a connection."""

_NOT_FETCHED: Final = "cannot be fetched"

_PERMANENT: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class RemoteFileError(InputError):
    """A remote file does not exist, or may not be read; other inputs are still processed."""


class RemoteStorageError(ReslinkError):
    """A storage could not be reached, or failed, in all attempts; data sets are not read without the file (exit code 1)."""


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status that an error of botocore, aiohttp, gcsfs or Azure states."""
    response = getattr(error, "response", None)
    names = (name for name in ("status", "status_code", "code") if hasattr(type(error), name) or name in vars(error))
    value = getattr(error, next(names, ""), None)
    if isinstance(response, dict):
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return value if isinstance(value, int) and value >= 400 else None


def status_of(error: Exception) -> int | None:
    """Returns the first HTTP status that an error or one of its causes states; None if none does."""
    return next((status for one in chain_of(error) if (status := _status(one)) is not None), None)


def is_transient(error: Exception) -> bool:
    """Returns whether a repetition may succeed: a failed connection, a timeout, or a server that is busy or has a fault."""
    chain = list(chain_of(error))
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return False
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    if not names.isdisjoint(_CONNECTION_ERRORS):  # of which fsspec makes a FileNotFoundError for https
        return True
    return isinstance(error, OSError) and not isinstance(error, _PERMANENT)


def failure_of(path: RemotePath, error: Exception, attempts: int) -> ReslinkError:
    """Returns the error for a file that cannot be fetched, in words for people.

    Args:
        path: The file.
        error: What was raised.
        attempts: How often a failure was tried that a repetition may overcome.
    """
    transient = is_transient(error)
    status = status_of(error)
    tried = f" in {attempts} attempts" if transient else ""
    if transient:
        next_step = "Check the network and the storage, and run the command again"
    elif any(isinstance(one, ssl.SSLCertVerificationError) for one in chain_of(error)):
        next_step = "Check the certificate of the server, and SSL_CERT_FILE if it is your own"
    elif status == 404 or (status is None and isinstance(error, FileNotFoundError)):
        next_step = "Check the path: the bucket and the key"
    else:
        next_step = "Check the credentials in the environment, and that they may read this file"
    given = f"{path} {_NOT_FETCHED}{tried}: {_said(path, error)}"
    kind = RemoteStorageError if transient else RemoteFileError
    return kind(given, f"A remote path names a readable file at {SCHEMES}", next_step)


def is_fetch_failure(message: str) -> bool:
    """Returns whether a message is that of an error of :func:`failure_of`, so that a later run may succeed."""
    return "://" in message and _NOT_FETCHED in message


def _said(path: RemotePath, error: BaseException) -> str:
    """Returns what the first cause of an error states, in one line, without a secret of a URL."""
    *_, error = chain_of(error)
    text = " ".join(str(error).split()).replace(path.url, str(path)) or type(error).__name__
    text = re.sub(r" \(reached max retries: \d+\)", "", text)  # botocore counts its own repetitions, which are off
    text = re.sub(r"(?<=//)[^/\s]*@", "", re.sub(r"\?[^\s'\")]+", "?…", text))
    text = text[:200].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text == str(path) or " " not in text else text
