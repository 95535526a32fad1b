"""Files in object storage and on web servers: how they are listed and fetched, and what is repeated when a storage fails.

This is the only module below ``cli`` and ``serving`` that uses the network. A remote file is fetched with one request to a
temporary file, which the readers of local files read and which is then removed.
"""

from __future__ import annotations

import contextlib
import errno
import random
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from reslink.errors import InputError, ReslinkError
from reslink.files import optional_import, sha256, storage_errors
from reslink.remote_errors import RemoteFileError, chain_of, failure_of, is_transient, status_of
from reslink.remote_paths import RemotePath, parse_remote, without_secrets

_P = TypeVar("_P", bound=Path)
_T = TypeVar("_T")

_PACKAGES: Final = {"s3": ("s3fs", "remote"), "https": ("aiohttp", "remote"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure")}
"""The package of each scheme and the extra of reslink that installs it."""

_WAITS: Final = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
"""Seconds before each repetition, as a maximum: the actual wait is random, so that many workers do not repeat at once."""

START_BYTES: Final = 1 << 14
"""Bytes at the start of a file, which hold the header of most DICOM files up to its position."""

_STARTS: Final = 4096
"""Number of starts of listed files that are kept in memory: 64 MiB at most."""

_CONNECTIONS: Final = 8
"""Number of files that are fetched at once."""

_FILES_AHEAD: Final = 32
"""Number of files that are fetched before they are needed, so that a first repetition delays nothing; more need more disk."""

_COPY: Final = "The copy of a remote file in the folder of temporary files"
_MIB: Final = 1 << 20


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
    if (fetched := _fetched_ahead(remote)) is not None:
        target = fetched.result()
        try:
            yield target
        finally:
            shutil.rmtree(target.parent, ignore_errors=True)
        return
    with storage_errors(_COPY):
        folder = tempfile.TemporaryDirectory(prefix="reslink-")
    with folder as name:
        yield _fetch(remote, Path(name), most)


def _fetch(path: RemotePath, folder: Path, most: int | None) -> Path:
    target = folder / (re.sub(r"[^\w.-]", "_", path.key.rpartition("/")[2])[-100:] or "file")
    _retried(path, lambda: _download(path, target, most))
    return target


def read_ahead(items: Iterable[_T], files_of: Callable[[_T], Iterable[object]], most: int) -> Iterator[_T]:
    """Yields items, and meanwhile fetches the remote files of the next ones, which :func:`local_file` then returns.

    Args:
        items: The items. They are taken one by one, unless they have remote files.
        files_of: Returns the files of an item, in the order in which they are read.
        most: As for :func:`local_file`.
    """
    waiting: deque[tuple[_T, int]] = deque()
    n_files = 0
    with contextlib.ExitStack() as stack:
        ahead: _ReadAhead | None = None
        for item in items:
            remote = [path for file in files_of(item) if (path := parse_remote(file)) is not None]
            if remote and ahead is None:
                ahead = stack.enter_context(_ReadAhead(most))
            if ahead is not None:
                ahead.add(remote)
            waiting.append((item, len(remote)))
            n_files += len(remote)
            while waiting and (n_files - waiting[0][1] >= _FILES_AHEAD or len(waiting) > _FILES_AHEAD or n_files == 0):
                first, count = waiting.popleft()
                n_files -= count
                yield first
        yield from (item for item, _ in waiting)


class _ReadAhead:
    """Remote files that are fetched before they are needed, a few at a time, while the context is open."""

    def __init__(self, most: int) -> None:
        self._most, self.owner, self._stopped = most, threading.get_ident(), threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="reslink-")
        self._pool = _fetching_threads(self._stopped)
        self._waiting: deque[RemotePath] = deque()
        self._fetched: dict[RemotePath, Future[Path]] = {}
        self._count = 0

    def __enter__(self) -> _ReadAhead:
        with _ahead_lock:
            _reading_ahead.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _ahead_lock:
            _reading_ahead.remove(self)
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def add(self, paths: Iterable[RemotePath]) -> None:
        with _ahead_lock:
            self._waiting.extend(paths)
            self._begin()

    def take(self, path: RemotePath) -> Future[Path] | None:
        """Returns the copy of a file, to whoever asks first; the lock is held."""
        fetched = self._fetched.pop(path, None)
        self._begin()
        return fetched

    def _begin(self) -> None:
        while self._waiting and len(self._fetched) < _FILES_AHEAD:
            path = self._waiting.popleft()
            if path not in self._fetched:
                self._count += 1
                folder = Path(self._folder.name, str(self._count))
                self._fetched[path] = self._pool.submit(self._fetch, path, folder)

    def _fetch(self, path: RemotePath, folder: Path) -> Path:
        with storage_errors(_COPY):
            folder.mkdir()
        return _fetch(path, folder, self._most)


_thread = threading.local()
_reading_ahead: list[_ReadAhead] = []
_ahead_lock = threading.Lock()


def _fetched_ahead(path: RemotePath) -> Future[Path] | None:
    """Returns the copy of a file that was fetched ahead for this thread; another thread has copies of its own."""
    with _ahead_lock:
        own = [ahead for ahead in _reading_ahead if ahead.owner == threading.get_ident()]
        return next((fetched for ahead in own if (fetched := ahead.take(path)) is not None), None)


def _fetching_threads(stopped: threading.Event) -> ThreadPoolExecutor:
    """Returns threads that fetch files, and repeat nothing once ``stopped`` is set."""

    def begin() -> None:
        _thread.stopped = stopped

    return ThreadPoolExecutor(_CONNECTIONS, "reslink-fetch", begin)


def read_start(path: RemotePath, count: int) -> bytes:
    """Returns the first bytes of a remote file, or all bytes of a shorter one.

    The first ``START_BYTES`` of a file whose version was listed are kept for a while.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    if path.version and count <= START_BYTES:
        return _listed_start(path, path.version)[:count]
    return _fetch_start(path, count)


@lru_cache(maxsize=_STARTS)
def _listed_start(path: RemotePath, _version: str) -> bytes:
    return _fetch_start(path, START_BYTES)


def _fetch_start(path: RemotePath, count: int) -> bytes:
    def read() -> bytes:
        system, key = _file_system(path)
        if path.scheme == "https":  # a server may answer with all of the file, which is then read no further
            with system.open(key, "rb", block_size=START_BYTES, cache_type="none") as stream:
                return bytes(stream.read(count))
        try:
            return bytes(system.cat_file(key, start=0, end=count))
        except Exception as error:
            if status_of(error) == 416:  # no byte is in the range: the file is empty
                return b""
            raise

    return _retried(path, read)


def with_starts(paths: Iterable[_P], is_read: Callable[[Path], bool] = lambda _: True) -> Iterator[_P]:
    """Yields paths in order, and meanwhile fetches the starts of the next remote ones, several at once.

    A start that cannot be fetched raises no error here, but in :func:`read_start`.

    Args:
        paths: The paths; only those of listed remote files are fetched.
        is_read: Returns whether the start of a file is needed.
    """
    stopped = threading.Event()
    pool = _fetching_threads(stopped)
    try:
        waiting: deque[tuple[_P, Future[bytes] | None]] = deque()
        for path in paths:
            fetched = isinstance(path, RemotePath) and path.version and is_read(path)
            waiting.append((path, pool.submit(read_start, path, START_BYTES) if fetched else None))  # type: ignore[arg-type]
            if len(waiting) > _FILES_AHEAD:
                yield _when_done(*waiting.popleft())
        yield from (_when_done(*one) for one in waiting)
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _when_done(path: _P, started: Future[bytes] | None) -> _P:
    if started is not None:
        started.exception()
    return path


def version_hash(path: RemotePath) -> str | None:
    """Returns a hash that changes with the content of a remote file: of its URL, entity tag and size, without fetching it.

    If a listing of the folder stated the version, the storage is not asked again.

    User, password and signature of the URL have no effect; the other parameters of its query have.

    Returns:
        The hash; None if the storage states no entity tag for the exact bytes.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    return path.version or _version(path, _info(path))


def version_state(path: RemotePath) -> str:
    """Returns a text that differs if the content of a remote file has changed, without fetching it.

    Returns:
        The hash of :func:`version_hash`; without an entity tag for the exact bytes, a hash of URL, size and time of the last
        change; a random text if the storage states no such time either.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    if path.version:
        return path.version
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
    return sha256("\0".join(("remote", path.unsigned, *state)))


def content_hash(path: RemotePath, most: int) -> str:
    """Returns the SHA-256 of the content of a remote file of at most ``most`` bytes, which is fetched.

    Raises:
        RemoteFileError: As for :func:`local_file`, as the other errors.
    """
    with local_file(path, most) as local:
        return sha256(Path(local))


def list_folder(path: RemotePath) -> Iterator[RemotePath] | None:
    """Yields the files below a remote folder while they are listed, in the order of the storage: that of keys, in most.

    From S3 they come in pages of 1,000, of which only one is in memory, and only a page that failed is asked for again. Other
    storages give the whole list at once. Empty files that stand for folders (``folder/``) are left out.

    Returns:
        The files, with their versions if the storage states them; None if the path names a file. A web server has no folders.

    Raises:
        RemoteFileError: If there is neither a file nor a folder of that name, or the list may not be read. This and the next
            error may also come while files are listed.
        RemoteStorageError: If the storage fails in several attempts.
    """
    if path.scheme == "https":
        return None
    system, key = _file_system(path)
    is_file, entries = (_is_s3_file, _s3_entries) if path.scheme == "s3" else (_is_file, _entries)
    if _retried(path, lambda: is_file(system, key)):
        return None
    listed = ((_listed(path, name, info), info.get("size")) for name, info in entries(path, system, key))
    return (file for file, size in listed if size != 0 or not file.url.endswith("/"))


def _is_file(system: Any, key: str) -> bool:
    return bool(system.info(key)["type"] == "file")


def _is_s3_file(system: Any, key: str) -> bool:
    bucket, name, _ = system.split_path(key)
    try:
        return bool(name and system.call_s3("head_object", Bucket=bucket, Key=name))
    except FileNotFoundError:
        return False


def _s3_entries(path: RemotePath, system: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields bucket and key, and the entity tag and size, of each object below a folder."""
    bucket, folder, _ = system.split_path(key)
    options, is_empty, is_complete = {"Bucket": bucket, "Prefix": f"{folder.rstrip('/')}/" if folder else ""}, True, False
    while not is_complete:
        page = _retried(path, lambda: system.call_s3("list_objects_v2", **options))
        for entry in page.get("Contents", ()):
            is_empty = False
            yield f"{bucket}/{entry['Key']}", {"ETag": entry.get("ETag"), "size": entry["Size"]}
        is_complete = not page.get("IsTruncated")
        options["ContinuationToken"] = page.get("NextContinuationToken")
    if is_empty:
        raise failure_of(path, FileNotFoundError(str(path)), 1)


def _entries(path: RemotePath, system: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = _retried(path, lambda: system.find(key, detail=True))
    for name in sorted(found):
        yield name, found.pop(name)


def _listed(folder: RemotePath, name: str, info: dict[str, Any]) -> RemotePath:
    file = RemotePath(f"{folder.storage}/{name.partition('/')[2]}")  # a name begins with the bucket, and lacks the account
    file.version = _version(file, info) or ""
    return file


def _file_system(path: RemotePath) -> tuple[Any, str]:
    """Returns the file system of a path, with the credentials that fsspec and its storage find, and the key in it."""
    scheme = path.scheme
    fsspec = optional_import("fsspec", "remote")
    optional_import(*_PACKAGES[scheme])
    # One policy for repetitions, ours: those of botocore and s3fs would multiply it.
    own: dict[str, dict[str, Any]] = {
        "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1, "mode": "standard"}}},
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


def _download(path: RemotePath, target: Path, most: int | None) -> None:
    system, key = _file_system(path)
    callbacks = optional_import("fsspec.callbacks", "remote")
    sizes = callbacks.Callback(hooks={"limit": lambda size, value, **_: _check_size(path, max(size or 0, value), most)})
    options = {"headers": {"Accept-Encoding": "identity"}} if path.scheme == "https" else {}  # the size is that of the file
    try:
        system.get_file(key, str(target), callback=sizes, **options)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with storage_errors(_COPY):
                raise
        raise
    if sizes.size is not None and (count := target.stat().st_size) != sizes.size:
        raise ConnectionError(f"{count} of {sizes.size} bytes arrived")


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
            for known in chain_of(error):  # fsspec makes a FileNotFoundError of each error of a web server
                if isinstance(known, ReslinkError):
                    raise known from None
            if wait is None or not is_transient(error):
                raise failure_of(path, error, len(_WAITS) + 1) from None  # the error may quote the URL
            seconds, stopped = random.uniform(wait / 2, wait), getattr(_thread, "stopped", None)
            if stopped is None:
                time.sleep(seconds)
            elif stopped.wait(seconds):  # nobody waits for the file any more
                raise failure_of(path, error, len(_WAITS) + 1) from None
    raise AssertionError
