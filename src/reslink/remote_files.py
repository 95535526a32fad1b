"""Files in object storage and on web servers: which paths are remote, how they are fetched, and what is never shown of them.

This is the only module below ``cli`` and ``serving`` that uses the network. A remote file is fetched to a temporary file, which
the readers of local files read and which is then removed.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import random
import re
import ssl
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from reslink.errors import InputError, ReslinkError, UsageError
from reslink.files import optional_import, sha256, storage_errors

_T = TypeVar("_T")

SCHEMES: Final = "s3://, gs://, az:// and https://"

_REMOTE: Final = re.compile(
    r"(?P<scheme>s3|gs|az|https?):/+(?P<user>[^/]*@)?(?P<place>[^/?#]+)(?P<key>[^?]*)(?P<query>\?.*)?", re.I | re.S
)
_PACKAGES: Final = {"s3": ("s3fs", "remote"), "https": ("aiohttp", "remote"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure")}
"""The package of each scheme and the extra of reslink that installs it."""

_WAITS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
"""Seconds before each repetition, as a maximum: the actual wait is random, so that many workers do not repeat at once."""

_CHUNK: Final = 8 << 20
_MIB: Final = 1 << 20
_CONNECTION_ERRORS: Final = {
    "ConnectionError",
    "TimeoutError",
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
}
"""Names of the base classes of Python, botocore and aiohttp for failures of a connection."""

_SIGNATURES: Final = {
    "x-amz-signature": r"x-amz-.*",
    "x-goog-signature": r"x-goog-.*",
    "signature": r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid",
    "sig": r"s(ig|[vetprs]|ip|pr|rt|dd|k\w+)",
}
"""The parameter of a URL that holds a signature, and those that belong to it: of S3, Google, CloudFront and Azure."""

_PERMANENT: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_state = {"offline": False}


class RemoteFileError(InputError):
    """A remote file does not exist, or may not be read; other inputs are still processed."""


class RemoteStorageError(ReslinkError):
    """A storage could not be reached, or failed, in all attempts; data sets are not read without the file (exit code 1)."""


class RemotePath(type(Path())):  # type: ignore[misc]  # PosixPath or WindowsPath
    """The URL of a remote file where a path is expected. Its text holds neither credentials nor the query of the URL.

    Functions of the file system find no such file; the readers of reslink use :func:`local_file`.

    Args:
        url: The URL, as given by the user.
    """

    __slots__ = ("_shown", "_url")
    _shown: str
    _url: str

    def __new__(cls, url: str) -> RemotePath:
        """Creates the path from its text without credentials."""
        path: RemotePath = super().__new__(cls, without_secrets(url))
        path._url, path._shown = url, without_secrets(url)
        return path

    def __init__(self, url: str) -> None:
        if sys.version_info >= (3, 12):
            super().__init__(without_secrets(url))

    if sys.version_info < (3, 12):

        @classmethod
        def _from_parsed_parts(cls, *parts: Any) -> Path:
            """Returns a plain path: a part of a URL is no URL."""
            return type(Path())._from_parsed_parts(*parts)  # type: ignore[attr-defined,no-any-return]

    def with_segments(self, *segments: str | os.PathLike[str]) -> Path:
        """Returns a plain path, as Python 3.12 and later ask for a part of a path."""
        return Path(*segments)

    @property
    def url(self) -> str:
        """The whole URL, with credentials and query. Never show it."""
        return self._url

    @property
    def parent(self) -> RemotePath:
        """The folder of the file, without the query of the URL."""
        start, _, _ = self._url.partition("?")[0].rpartition("/")
        return RemotePath(start) if start.count("/") > 2 else RemotePath(f"{start.rstrip('/')}/") if "//" in start else self

    def __truediv__(self, key: str | os.PathLike[str]) -> RemotePath:
        """Returns a file below this folder; the key may hold ``..``."""
        matched = _matched(self._url)
        below = posixpath.normpath(f"{matched['key']}/{os.fspath(key)}").lstrip("/")
        return RemotePath(f"{matched['scheme']}://{matched['user'] or ''}{matched['place']}/{below}")

    def is_relative_to(self, other: str | os.PathLike[str], *_: str | os.PathLike[str]) -> bool:
        """Returns whether it is a file below another remote path."""
        return isinstance(other, RemotePath) and self.parts[: len(other.parts)] == other.parts

    def relative_to(self, other: str | os.PathLike[str], *_: str | os.PathLike[str], walk_up: bool = False) -> Path:  # noqa: ARG002
        """Returns the path from a remote folder to it.

        Raises:
            ValueError: If it is not below that folder.
        """
        if not isinstance(other, RemotePath) or not self.is_relative_to(other):
            raise ValueError(f"{self} is not below {other}")
        return Path(*self.parts[len(other.parts) :])

    def resolve(self, strict: bool = False) -> RemotePath:  # noqa: ARG002
        """Returns itself: a remote path has no links."""
        return self

    def absolute(self) -> RemotePath:
        """Returns itself."""
        return self

    def __str__(self) -> str:
        return self._shown

    def __fspath__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"RemotePath({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (self._url,)


def refuse_remote(offline: bool) -> None:
    """Refuses remote paths in this process, or allows them again; set by ``--offline``."""
    _state["offline"] = offline


def parse_remote(path: object) -> RemotePath | None:
    """Returns a text or a path as a remote path, or None if it is not one.

    ``Path("s3://bucket/key")`` joins the two slashes, so ``s3:/bucket/key`` is accepted too.

    Raises:
        UsageError: If it is remote and ``--offline`` was given, or its scheme or its credentials cannot be used.
    """
    if isinstance(path, RemotePath):
        remote = path
    elif not isinstance(path, str | os.PathLike) or (matched := _REMOTE.fullmatch(os.fspath(path))) is None:
        return None
    else:
        scheme = matched["scheme"].lower()
        parts = (matched["user"], matched["place"], matched["key"], matched["query"])
        remote = RemotePath(f"{scheme}://{''.join(part or '' for part in parts)}")
        _check_form(remote, scheme, matched["user"] or "")
    if _state["offline"]:
        raise UsageError(
            f"{remote} is a remote path, and --offline was given",
            "--offline allows no connection",
            "Remove --offline, or copy the file to this computer and give its path",
        )
    return remote


def _check_form(remote: RemotePath, scheme: str, user: str) -> None:
    if scheme == "http":
        raise UsageError(
            f"{remote} is not encrypted",
            f"Remote paths begin with {SCHEMES}",
            "Use https://, or copy the file to this computer and give its path",
        )
    if ":" in user and scheme != "https":
        raise UsageError(
            f"{remote} was given with credentials in its URL",
            f"Credentials for {scheme}:// come from the environment or the configuration files of its storage",
            "Remove them from the URL, and set the variables of the storage, such as AWS_ACCESS_KEY_ID",
        )


def _matched(url: str) -> re.Match[str]:
    matched = _REMOTE.fullmatch(url)
    assert matched is not None  # noqa: S101  (RemotePath is made of a URL that matches)
    return matched


def without_secrets(path: object) -> str:
    """Returns a path as text for people: a URL without user, password and query, any other path as it is."""
    text = str(path)
    matched = _REMOTE.fullmatch(text)
    if matched is None:
        return text
    scheme, user = matched["scheme"], matched["user"] or ""
    shown = user if scheme == "az" and ":" not in user else ""  # the container, in az://container@account/…
    return f"{scheme}://{shown}{matched['place']}{matched['key']}{'?…' if matched['query'] else ''}"


@contextlib.contextmanager
def local_file(path: _T, most: int | None = None) -> Iterator[_T | Path]:
    """Yields a local path, and a remote one as a temporary file, which is removed at the end of the block.

    Args:
        path: Any path; one that is not remote is yielded unchanged.
        most: The largest accepted size of a remote file in bytes; None for no limit.

    Raises:
        RemoteFileError: If there is no such remote file, or it may not be read.
        RemoteStorageError: If a connection, or the storage, fails in several attempts.
        InputError: If a remote file is larger than ``most``.
        StorageError: If it cannot be written to the folder of temporary files.
        UsageError: If a package is missing, or as for :func:`parse_remote`.
    """
    remote = parse_remote(path)
    if remote is None:
        yield path
        return
    with storage_errors("The copy of a remote file in the folder of temporary files"):
        folder = tempfile.TemporaryDirectory(prefix="reslink-")
    with folder as name:
        key = _matched(remote.url)["key"].rpartition("/")[2]
        target = Path(name, re.sub(r"[^\w.-]", "_", key)[-100:] or "file")
        _retried(remote, lambda: _download(remote, target, most))
        yield target


def read_start(path: RemotePath, count: int) -> bytes:
    """Returns the first bytes of a remote file, or all bytes of a shorter one.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """

    def read() -> bytes:
        with _open(path) as stream:
            return bytes(stream.read(count))

    return _retried(path, read)


def version_hash(path: RemotePath) -> str | None:
    """Returns a hash that changes with the content of a remote file: of its URL, entity tag and size, without fetching it.

    User, password and signature of the URL have no effect; the other parameters of its query have.

    Returns:
        The hash; None if the storage states no entity tag for the exact bytes.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    return _version(path, _info(path))


def version_state(path: RemotePath) -> str:
    """Returns a text that differs if the content of a remote file has changed, without fetching it.

    Returns:
        The hash of :func:`version_hash`; without an entity tag for the exact bytes, a hash of URL, size and time of the last
        change; a random text if the storage states no such time either.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    info = _info(path)
    changed = next(
        (str(info[key]) for key in ("Last-Modified", "LastModified", "last_modified", "updated") if info.get(key)), ""
    )
    return _version(path, info) or (_hashed(path, changed, _tag(info), str(info.get("size"))) if changed else uuid.uuid4().hex)


def _info(path: RemotePath) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        system, key = _file_system(path)
        return dict(system.info(key))

    return _retried(path, read)


def _tag(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in ("ETag", "etag", "md5Hash") if info.get(key)), "")


def _version(path: RemotePath, info: dict[str, Any]) -> str | None:
    tag = _tag(info)
    return None if not tag or tag.startswith("W/") else _hashed(path, tag, str(info.get("size")))


def _hashed(path: RemotePath, *state: str) -> str:
    return sha256("\0".join(("remote", f"{path}{_unsigned_query(path.url)}", *state)))


def _unsigned_query(url: str) -> str:
    """Returns the parameters of the query of a URL that do not belong to a signature."""
    parameters = [part for part in (_matched(url)["query"] or "")[1:].split("&") if part]
    names = [part.partition("=")[0].lower() for part in parameters]
    signed = "|".join(pattern for name, pattern in _SIGNATURES.items() if name in names)
    return "&".join(part for part, name in zip(parameters, names, strict=True) if not re.fullmatch(signed, name))


def content_hash(path: RemotePath, most: int) -> str:
    """Returns the SHA-256 of the content of a remote file of at most ``most`` bytes, which is fetched.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    with local_file(path, most) as local:
        return sha256(Path(local))


def list_folder(path: RemotePath) -> list[RemotePath] | None:
    """Returns the files below a remote folder, sorted by their keys.

    Returns:
        The files; None if the path names a file. A web server has no folders.

    Raises:
        RemoteFileError: If there is neither a file nor a folder of that name.
    """
    scheme = _matched(path.url)["scheme"]
    if scheme == "https":
        return None
    system, key = _file_system(path)

    def keys() -> list[str] | None:
        return None if system.info(key)["type"] == "file" else sorted(system.find(key))

    names = _retried(path, keys)
    matched = _matched(path.url)
    start = f"{scheme}://{matched['user'] or ''}{matched['place']}"  # a name begins with the bucket, and lacks the account
    return None if names is None else [RemotePath(f"{start}/{name.partition('/')[2]}") for name in names]


def _file_system(path: RemotePath) -> tuple[Any, str]:
    """Returns the file system of a path, with the credentials that fsspec and its storage find, and the key in it."""
    scheme = _matched(path.url)["scheme"]
    fsspec = optional_import("fsspec", "remote")
    optional_import(*_PACKAGES[scheme])
    # One policy for repetitions, ours: those of botocore and s3fs would multiply it.
    own: dict[str, dict[str, Any]] = {
        "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}},
        "https": {"get_client": _web_client},
    }
    options = own.get(scheme, {})
    system, key = fsspec.url_to_fs(path.url, use_listings_cache=False, **options)
    if scheme == "s3":
        system.retries = 1
    return system, key


async def _web_client(**options: Any) -> Any:
    """Returns a client that follows redirects to https:// only."""
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_check_redirect)
    return aiohttp.ClientSession(trace_configs=[trace], **options)


async def _check_redirect(_session: object, _context: object, answer: Any) -> None:
    headers = answer.response.headers
    target = type(answer.url)(headers.get("Location") or headers.get("URI") or "")
    scheme = answer.url.join(target).scheme
    if scheme != "https":
        raise RemoteFileError(
            f"{without_secrets(answer.url)} redirects to a URL of {scheme}://",
            "A redirect of https:// leads to https://",
            "Give the https:// URL of the file itself, or copy the file to this computer and give its path",
        )


def _open(path: RemotePath) -> Any:
    system, key = _file_system(path)
    return system.open(key, "rb", block_size=_CHUNK, cache_type="none")


def _download(path: RemotePath, target: Path, most: int | None) -> None:
    with _open(path) as source:
        size = getattr(source, "size", None)
        _check_size(path, size or 0, most)
        count = 0
        with storage_errors("The copy of a remote file in the folder of temporary files"):
            stream = target.open("wb")
        with stream:
            while chunk := source.read(_CHUNK if size is None else min(_CHUNK, size - count)):
                count += len(chunk)
                _check_size(path, count, most)
                with storage_errors("The copy of a remote file in the folder of temporary files"):
                    stream.write(chunk)
    if size is not None and count != size:
        raise ConnectionError(f"{count} of {size} bytes arrived")


def _check_size(path: RemotePath, size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise InputError(
            f"{path} has {'more than ' if size < most + _MIB else ''}{size // _MIB} MiB",
            f"The limit is {most // _MIB} MiB per file",
            "Crop, split or downsample the image",
        )


def _retried(path: RemotePath, action: Callable[[], _T]) -> _T:
    for wait in (*_WAITS, None):
        try:
            return action()
        except ReslinkError:
            raise
        except Exception as error:  # noqa: BLE001 - each storage has its own kinds of errors
            for known in _chain(error):  # fsspec makes a FileNotFoundError of each error of a web server
                if isinstance(known, ReslinkError):
                    raise known from None
            transient = _is_transient(error)
            if wait is None or not transient:
                raise _failure(path, error, transient) from None  # the error may quote the URL
            time.sleep(random.uniform(wait / 2, wait))
    raise AssertionError


def _chain(error: BaseException) -> Iterator[BaseException]:
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


def _is_transient(error: Exception) -> bool:
    """Returns whether a repetition may succeed: a failed connection, a timeout, or a server that is busy or has a fault."""
    chain = list(_chain(error))
    status = next((status for one in chain if (status := _status(one)) is not None), None)
    if status is not None:
        return status >= 500 or status in (408, 429)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return False
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    if not names.isdisjoint(_CONNECTION_ERRORS):  # of which fsspec makes a FileNotFoundError for https
        return True
    return isinstance(error, OSError) and not isinstance(error, _PERMANENT)


def _failure(path: RemotePath, error: Exception, transient: bool) -> ReslinkError:
    status = next((status for one in _chain(error) if (status := _status(one)) is not None), None)
    attempts = f" in {len(_WAITS) + 1} attempts" if transient else ""
    if transient:
        next_step = "Check the network and the storage, and run the command again"
    elif any(isinstance(one, ssl.SSLCertVerificationError) for one in _chain(error)):
        next_step = "Check the certificate of the server, and SSL_CERT_FILE if it is your own"
    elif status == 404 or (status is None and isinstance(error, FileNotFoundError)):
        next_step = "Check the path: the bucket and the key"
    else:
        next_step = "Check the credentials in the environment, and that they may read this file"
    given = f"{path} cannot be fetched{attempts}: {_said(path, error)}"
    kind = RemoteStorageError if transient else RemoteFileError
    return kind(given, f"A remote path names a readable file at {SCHEMES}", next_step)


def _said(path: RemotePath, error: BaseException) -> str:
    """Returns what the first cause of an error states, in one line, without a secret of a URL."""
    *_, error = _chain(error)
    text = " ".join(str(error).split()).replace(path.url, str(path)) or type(error).__name__
    text = re.sub(r" \(reached max retries: \d+\)", "", text)  # botocore counts its own repetitions, which are off
    text = re.sub(r"(?<=//)[^/\s]*@", "", re.sub(r"\?[^\s'\")]+", "?…", text))
    text = text[:200].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text == str(path) or " " not in text else text
