"""Resumable, verified downloads of public data sets; the caller provides the connection."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Protocol

from reslink.datasets.manifest import file_hash
from reslink.datasets.public.registry import PublicDataset, RemoteFile
from reslink.errors import CheckFailedError, InputError, StorageError, UsageError
from reslink.files import lock_folder, sha256, storage_errors, write_json
from reslink.settings_text import read_json

CHUNK_SIZE: Final = 1 << 20
MAX_TRIES: Final = 5
BUSY_STATUSES: Final = (429, 500, 502, 503, 504)
"""HTTP statuses after which a retry may succeed (RFC 9110, 15.5 and 15.6; RFC 6585, 4)."""

MAX_PAUSE: Final = 60.0
"""Longest pause before a retry in seconds, whatever the server asks for."""

CHECKSUMS: Final = "checksums.json"
LICENSE: Final = "license.json"
FIRST_DOWNLOAD: Final = "the first download"

Pause = Callable[[float], None]
OnProgress = Callable[[int, int | None], None]
"""Called with the number of downloaded bytes and the total, or None if unknown."""


class Response(Protocol):
    """An HTTP response.

    Attributes:
        status: HTTP status, such as 200, 206 or 404.
        headers: The headers; names in any case.
    """

    status: int
    headers: Mapping[str, str]

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes, empty at the end.

        Raises:
            OSError: If the connection breaks.
        """


OpenUrl = Callable[[str, Mapping[str, str]], AbstractContextManager[Response]]
"""Opens a URL with headers; raises OSError if it cannot be reached."""


def confirm_license(source: PublicDataset, folder: Path, ask: Callable[[PublicDataset], bool]) -> None:
    """Asks the user to accept the license, once per folder and wording.

    Args:
        source: The data set.
        folder: Folder of the data set; ``license.json`` records the accepted license.
        ask: Shows the license and returns whether the user accepts it.

    Raises:
        CheckFailedError: If the user does not accept.
        StorageError: If the answer cannot be stored.
    """
    terms = {"name": source.name, "terms": source.terms, "page": source.page}
    if _read_json(folder / LICENSE) == terms:
        return
    if not ask(source):
        raise CheckFailedError(
            f"The license of {source.name} was not accepted",
            "A download requires that you accept the license",
            f"Read {source.page}, then run the command again",
        )
    write_json(folder / LICENSE, terms)


def download_files(
    source: PublicDataset, folder: Path, open_url: OpenUrl, on_progress: OnProgress | None = None, *, pause: Pause = time.sleep
) -> list[Path]:
    """Downloads the files of a data set, or resumes the download; complete files are verified and kept.

    A file is written to ``NAME.part``. An interrupted download resumes at its end (RFC 9110, range requests) if the server
    confirms that the file is unchanged, and restarts otherwise. Requests to a busy server are repeated after a pause. A
    response that is not a ZIP file, such as a login page, is removed. Checksums in the registry or in ``checksums.json``
    must match; :func:`save_checksums` writes the latter after unpacking.

    Args:
        source: The data set.
        folder: The folder for the files.
        open_url: Opens a URL.
        on_progress: Called with the downloaded bytes and the total.
        pause: Sleeps for a number of seconds.

    Returns:
        The files.

    Raises:
        UsageError: If access must be requested from the owners, or another process writes to the folder.
        InputError: If a file cannot be downloaded, or does not match its checksum.
        StorageError: If a file cannot be written.
    """
    if not source.files:
        raise UsageError(
            f"{source.name} cannot be downloaded automatically. Access: {source.access}",
            "Its owners give access on request",
            f"Request access at {source.page}, then run: reslink data import FOLDER --source {source.name}",
        )
    with lock_folder(folder):
        return [
            _download_file(entry, source, folder, open_url, on_progress or (lambda *_: None), pause) for entry in source.files
        ]


def save_checksums(source: PublicDataset, folder: Path) -> None:
    """Writes the SHA-256 of unpacked files to ``checksums.json``; later downloads must match it.

    Args:
        source: The data set.
        folder: The folder of the files.

    Raises:
        InputError: If a file no longer exists.
        StorageError: If the list cannot be written.
    """
    pins = _read_json(folder / CHECKSUMS) or {}
    for entry in source.files:
        if entry.name not in pins:
            origin = "the list of data sets" if entry.sha256 else FIRST_DOWNLOAD
            pin = {"sha256": file_hash(folder / entry.name, entry.name), "bytes": _file_size(folder / entry.name)}
            write_json(folder / CHECKSUMS, pins := {**pins, entry.name: {**pin, "url": entry.url, "pinned_by": origin}})


def _download_file(
    entry: RemoteFile, source: PublicDataset, folder: Path, open_url: OpenUrl, on_progress: OnProgress, pause: Pause
) -> Path:
    target, pins = folder / entry.name, _read_json(folder / CHECKSUMS) or {}
    expected = entry.sha256 or (pins.get(entry.name) or {}).get("sha256")
    if target.is_file():
        _check_zip(target, entry, source, pins)
        _verify_checksum(target, entry, folder, expected)
        return target
    part = folder / f"{entry.name}.part"
    _download_with_retries(entry.url, source, part, open_url, on_progress, pause)
    _check_zip(part, entry, source, pins)
    _verify_checksum(part, entry, folder, expected)
    with storage_errors(folder):
        part.replace(target)
    (folder / f"{entry.name}.part.json").unlink(missing_ok=True)
    return target


def _check_zip(path: Path, entry: RemoteFile, source: PublicDataset, pins: Mapping[str, Any]) -> None:
    """Removes a file that is not a ZIP file, and a checksum of it that an earlier version may have written."""
    if zipfile.is_zipfile(path):
        return
    path.unlink()
    (path.parent / f"{entry.name}.part.json").unlink(missing_ok=True)
    if (pins.get(entry.name) or {}).get("pinned_by") == FIRST_DOWNLOAD and path.name == entry.name:
        write_json(path.parent / CHECKSUMS, {name: pin for name, pin in pins.items() if name != entry.name})
    raise InputError(
        f"The response of {entry.url} for {entry.name} is not a ZIP file. It was removed, with its checksum in {CHECKSUMS}",
        "A data set is a complete ZIP file; a server that requires a login may send a web page instead",
        f"Run the same command again, or {_manual_download(source)}",
    )


def _verify_checksum(path: Path, entry: RemoteFile, folder: Path, expected: str | None) -> None:
    digest = sha256(path)
    if expected is None or digest == expected:
        return
    path.unlink()
    reference = "the list of data sets" if entry.sha256 else f"{folder / CHECKSUMS} (from the first download)"
    advice = "" if entry.sha256 else f"; if you trust the new file, remove its entry from {CHECKSUMS}"
    raise InputError(
        f"{entry.name} is not the expected file: its SHA-256 is {digest}, not {expected}. It was removed",
        f"The checksum must match the one in {reference}",
        f"Download it again. If the error persists, the publisher has changed the file{advice}",
    )


class _BusyError(OSError):
    """A server status after which a retry may succeed."""

    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(f"the server answered with the status {status}")
        self.status, self.seconds = status, seconds


def _download_with_retries(
    url: str, source: PublicDataset, part: Path, open_url: OpenUrl, on_progress: OnProgress, pause: Pause
) -> None:
    """Completes a partial file, with retries."""
    for attempt in range(MAX_TRIES):
        before = _file_size(part)
        try:
            if _resume_download(url, source, part, open_url, on_progress):
                return
            problem = "the connection ended early"
        except (InputError, StorageError):
            raise
        except _BusyError as error:
            if attempt == MAX_TRIES - 1:
                raise _status_error(error.status, url, source) from error
            pause(min(MAX_PAUSE, 2.0 ** (attempt + 1) if error.seconds is None else error.seconds))
            continue
        except OSError as error:
            problem = str(error) or type(error).__name__
        if attempt == MAX_TRIES - 1 or (attempt and _file_size(part) == before):
            break
    raise InputError(
        f"{part.stem} could not be downloaded: {problem}; {_file_size(part)} bytes are complete",
        "A download needs a connection to the server",
        "Run the same command again; the download resumes from here",
    )


def _resume_download(url: str, source: PublicDataset, part: Path, open_url: OpenUrl, on_progress: OnProgress) -> bool:
    """Requests the missing bytes and appends them; returns whether the file is complete."""
    note = part.with_name(f"{part.name}.json")
    saved = _read_json(note) or {}
    have = _file_size(part) if saved.get("url") == url and saved.get("tag") else 0
    headers = {"Range": f"bytes={have}-", "If-Range": str(saved["tag"])} if have else {}
    with open_url(url, headers) as response:
        received = {name.casefold(): value for name, value in response.headers.items()}
        if response.status == 416 and have and have == saved.get("total"):
            return True
        if response.status in BUSY_STATUSES:
            raise _BusyError(response.status, _retry_after(received.get("retry-after", "")))
        if response.status not in (200, 206):
            raise _status_error(response.status, url, source)
        start, total = _parse_range(response.status, received, have)
        write_json(note, {"url": url, "tag": received.get("etag") or received.get("last-modified"), "total": total})
        _check_space(part, total, start)
        _append_body(response, part, start, total, on_progress)
    return total is None or _file_size(part) == total


def _retry_after(text: str) -> float | None:
    """Returns the seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _parse_range(status: int, headers: Mapping[str, str], have: int) -> tuple[int, int | None]:
    """Returns the offset of the body in the file, and the length of the file."""
    if status == 200:
        length = headers.get("content-length", "")
        return 0, int(length) if length.isdigit() and "content-encoding" not in headers else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", "").strip())
    if not match or int(match[1]) != have:
        raise OSError(f"the server sent the range {headers.get('content-range')!r} instead of {have}-")
    return have, None if match[2] == "*" else int(match[2])


def _append_body(response: Response, part: Path, start: int, total: int | None, on_progress: OnProgress) -> None:
    done = start
    with storage_errors(part):
        stream = part.open("r+b" if start else "wb")
    with stream:
        stream.seek(start)
        stream.truncate()
        while block := response.read(CHUNK_SIZE):
            with storage_errors(part):
                stream.write(block)
            done += len(block)
            on_progress(done, total)


def _status_error(status: int, url: str, source: PublicDataset) -> InputError:
    account = status in (401, 403)
    return InputError(
        f"{url} answered with the status {status}",
        "The server requires an account" if account else "A download needs the status 200 or 206",
        f"D{_manual_download(source)[1:]}",
    )


def _manual_download(source: PublicDataset) -> str:
    return (
        f"download it with a browser from {source.page}, unpack it and run: reslink data import FOLDER --source {source.name}"
    )


def _check_space(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise StorageError(
            f"{part.stem} needs {total - start} more bytes, but {free} are free",
            "A download needs space for the whole file",
            "Free some space or choose another folder, then run the same command again",
        )


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
