"""Paths of files in object storage and on web servers: which texts are remote paths, and what is never shown of them."""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any, Final

from reslink.errors import UsageError

SCHEMES: Final = "s3://, gs://, az:// and https://"

_REMOTE: Final = re.compile(
    r"(?P<scheme>s3|gs|az|https?):/+(?P<user>[^/]*@)?(?P<place>[^/?#]+)(?P<key>[^?]*)(?P<query>\?.*)?", re.I | re.S
)

_SIGNATURES: Final = {
    "x-amz-signature": r"x-amz-.*",
    "x-goog-signature": r"x-goog-.*",
    "signature": r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid",
    "sig": r"s(ig|[vetprs]|ip|pr|rt|dd|k\w+)",
}
"""The parameter of a URL that holds a signature, and those that belong to it: of S3, Google, CloudFront and Azure."""

_state = {"offline": False}


class RemotePath(type(Path())):  # type: ignore[misc]  # PosixPath or WindowsPath
    """The URL of a remote file where a path is expected. Its text holds neither credentials nor the query of the URL.

    Functions of the file system find no such file; the readers of reslink use :func:`reslink.remote_files.local_file`.

    Args:
        url: The URL, as given by the user.
        version: What :func:`reslink.remote_files.version_hash` returns, if a listing of the folder stated it. Two paths that
            differ only in it are equal.
    """

    __slots__ = ("_shown", "_url", "version")
    _shown: str
    _url: str
    version: str

    def __new__(cls, url: str, version: str = "") -> RemotePath:
        """Creates the path from its text without credentials."""
        shown = without_secrets(url)
        path: RemotePath = super().__new__(cls, shown)
        path._url, path._shown, path.version = url, url if shown == url else shown, version  # one text in memory
        return path

    def __init__(self, url: str, version: str = "") -> None:  # noqa: ARG002
        if sys.version_info >= (3, 12):
            super().__init__(self._shown)

    if sys.version_info < (3, 12):

        @classmethod
        def _from_parsed_parts(cls, *parts: Any) -> Path:
            """Returns a plain path: a part of a URL is not a URL."""
            return type(Path())._from_parsed_parts(*parts)  # type: ignore[attr-defined,no-any-return]

    def with_segments(self, *segments: str | os.PathLike[str]) -> Path:
        """Returns a plain path, as Python 3.12 and later ask for a part of a path."""
        return Path(*segments)

    @property
    def url(self) -> str:
        """The whole URL, with credentials and query. Never show it."""
        return self._url

    @property
    def scheme(self) -> str:
        """``s3``, ``gs``, ``az`` or ``https``."""
        return _matched(self._url)["scheme"]

    @property
    def storage(self) -> str:
        """The URL up to the bucket, container or server."""
        matched = _matched(self._url)
        return f"{matched['scheme']}://{matched['user'] or ''}{matched['place']}"

    @property
    def key(self) -> str:
        """What follows the bucket or server in the URL, without its query."""
        return _matched(self._url)["key"]

    @property
    def unsigned(self) -> str:
        """A text that tells files apart: the URL with the parameters of its query that do not belong to a signature."""
        return f"{self}{_unsigned_query(self._url)}"

    @property
    def parent(self) -> RemotePath:
        """The folder of the file, without the query of the URL."""
        start, _, _ = self._url.partition("?")[0].rpartition("/")
        return RemotePath(start) if start.count("/") > 2 else RemotePath(f"{start.rstrip('/')}/") if "//" in start else self

    def __truediv__(self, key: str | os.PathLike[str]) -> RemotePath:
        """Returns a file below this folder; the key may hold ``..``."""
        below = posixpath.normpath(f"{self.key}/{os.fspath(key)}").lstrip("/")
        return RemotePath(f"{self.storage}/{below}")

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

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str, str]]:
        return RemotePath, (self._url, self.version)


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


def check_local(path: object, option: str) -> None:
    """Checks that an output is on this machine or on mounted storage.

    Raises:
        UsageError: If it is a URL.
    """
    if isinstance(path, str | os.PathLike) and _REMOTE.fullmatch(os.fspath(path)):
        raise UsageError(
            f"{option} {without_secrets(path)} is a URL",
            "Only inputs may be URLs; outputs are written to a disk or to mounted storage",
            f"Give {option} a path on this machine, and copy the result",
        )


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


def _unsigned_query(url: str) -> str:
    """Returns the parameters of the query of a URL that do not belong to a signature."""
    parameters = [part for part in (_matched(url)["query"] or "")[1:].split("&") if part]
    names = [part.partition("=")[0].lower() for part in parameters]
    signed = "|".join(pattern for name, pattern in _SIGNATURES.items() if name in names)
    return "&".join(part for part, name in zip(parameters, names, strict=True) if not re.fullmatch(signed, name))
