"""Downloads that go on after an interruption and are verified; the connection itself comes from the caller."""

from __future__ import annotations

import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from reslink.datasets.manifest import file_hash
from reslink.datasets.public.registry import RemoteFile, Source
from reslink.errors import GateError, InputError, StorageError, UsageError
from reslink.files import lock_folder, sha256, write_json

CHUNK: Final = 1 << 20
TRIES: Final = 5
BUSY: Final = (429, 500, 502, 503, 504)
"""Answers of a server that may do better a little later (RFC 9110, 15.5 and 15.6; RFC 6585, 4)."""

LONGEST_PAUSE: Final = 60.0
"""Seconds that are waited for a server at a time, whatever it asks for."""

CHECKSUMS: Final = "checksums.json"
LICENCE: Final = "licence.json"
FIRST: Final = "the first download"

Pause = Callable[[float], None]
Heard = Callable[[int, int | None], None]
"""Called with the bytes that are there and their total, where that is known."""


class Response(Protocol):
    """What comes back over a connection.

    Attributes:
        status: HTTP status, such as 200, 206 or 404.
        headers: Its headers; names in any case.
    """

    status: int
    headers: Mapping[str, str]

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes; none at the end.

        Raises:
            OSError: If the connection breaks.
        """


OpenUrl = Callable[[str, Mapping[str, str]], AbstractContextManager[Response]]
"""Opens an address with some headers; raises OSError where it cannot be reached."""


def agree(source: Source, folder: Path, ask: Callable[[Source], bool]) -> None:
    """Asks for the licence once for each folder and wording.

    Args:
        source: The data set.
        folder: Where it is kept; ``licence.json`` says what was agreed to.
        ask: Shows the licence and returns whether the user agrees.

    Raises:
        GateError: If the user does not agree.
        StorageError: If the answer cannot be kept.
    """
    wanted = {"name": source.name, "terms": source.terms, "page": source.page}
    if _json(folder / LICENCE) == wanted:
        return
    if not ask(source):
        raise GateError(
            f"The licence of {source.name} was not agreed to",
            "Nothing is downloaded without that",
            f"Read {source.page}, then run the command again",
        )
    write_json(folder / LICENCE, wanted)


def fetch(
    source: Source, folder: Path, open_url: OpenUrl, heard: Heard | None = None, *, pause: Pause = time.sleep
) -> list[Path]:
    """Downloads the files of a data set, or goes on with that; a file that is there whole is verified and kept.

    A file grows as ``NAME.part``; an interrupted download goes on at its end (RFC 9110, range requests) if the server
    says that the file is still the same, and begins again otherwise. A server that is busy is asked again after a pause. What
    is no ZIP file, such as a page that asks to log in, is removed. A checksum in the list of data sets or in
    ``checksums.json`` must hold; :func:`keep_checksums` puts it there once the files have been unpacked.

    Args:
        source: The data set.
        folder: Where its files go.
        open_url: Opens an address.
        heard: Hears how far it is.
        pause: Waits for some seconds.

    Returns:
        The files.

    Raises:
        UsageError: If it cannot be downloaded without asking for access, or another process writes to the folder.
        InputError: If a file cannot be had, or is not the one that its checksum states.
        StorageError: If it cannot be written.
    """
    if not source.files:
        raise UsageError(
            f"{source.name} cannot be downloaded by a program: access is {source.access}",
            "Its owners give it to those who ask",
            f"Ask at {source.page}, then run: reslink data import FOLDER --source {source.name}",
        )
    with lock_folder(folder):
        return [_fetched(entry, source, folder, open_url, heard or (lambda *_: None), pause) for entry in source.files]


def keep_checksums(source: Source, folder: Path) -> None:
    """Keeps the SHA-256 of files that have been unpacked in ``checksums.json``; it must hold from then on.

    Args:
        source: The data set.
        folder: Where its files are.

    Raises:
        InputError: If a file has vanished.
        StorageError: If the list cannot be written.
    """
    pins = _json(folder / CHECKSUMS) or {}
    for entry in source.files:
        if entry.name not in pins:
            kind = "the list of data sets" if entry.sha256 else FIRST
            found = {"sha256": file_hash(folder / entry.name, entry.name), "bytes": _size(folder / entry.name)}
            write_json(folder / CHECKSUMS, pins := {**pins, entry.name: {**found, "url": entry.url, "pinned_by": kind}})


def _fetched(entry: RemoteFile, source: Source, folder: Path, open_url: OpenUrl, heard: Heard, pause: Pause) -> Path:
    target, pins = folder / entry.name, _json(folder / CHECKSUMS) or {}
    expected = entry.sha256 or (pins.get(entry.name) or {}).get("sha256")
    if target.is_file():
        _prove(target, entry, source, pins)
        _verify(target, entry, folder, expected)
        return target
    part = folder / f"{entry.name}.part"
    _complete(entry.url, source, part, open_url, heard, pause)
    _prove(part, entry, source, pins)
    _verify(part, entry, folder, expected)
    _guarded(folder, lambda: part.replace(target))
    (folder / f"{entry.name}.part.json").unlink(missing_ok=True)
    return target


def _prove(path: Path, entry: RemoteFile, source: Source, pins: Mapping[str, Any]) -> None:
    """Removes a file that is no ZIP file, and the checksum that an earlier version may have kept of it."""
    if zipfile.is_zipfile(path):
        return
    path.unlink()
    (path.parent / f"{entry.name}.part.json").unlink(missing_ok=True)
    if (pins.get(entry.name) or {}).get("pinned_by") == FIRST and path.name == entry.name:
        write_json(path.parent / CHECKSUMS, {name: pin for name, pin in pins.items() if name != entry.name})
    raise InputError(
        f"What {entry.url} gave for {entry.name} is no ZIP file. It was removed, and nothing of it stands in {CHECKSUMS}",
        "A data set comes as a whole ZIP file; a server that wants a login may answer with a page instead",
        f"Run the same command again, or {_by_hand(source)}",
    )


def _verify(path: Path, entry: RemoteFile, folder: Path, expected: str | None) -> None:
    found = sha256(path)
    if expected is None or found == expected:
        return
    path.unlink()
    known = "the list of data sets states" if entry.sha256 else f"{folder / CHECKSUMS} keeps of the first download"
    rest = "" if entry.sha256 else f"; if you trust the new file, remove its entry from {CHECKSUMS}"
    raise InputError(
        f"{entry.name} is not the file that was expected: its SHA-256 is {found}, not {expected}. It was removed",
        f"A file is used only where its checksum is the one that {known}",
        f"Download it again; if that does not help, its publisher has changed it{rest}",
    )


class _BusyError(OSError):
    """A server that may do better a little later."""

    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(f"the server answered with the status {status}")
        self.status, self.seconds = status, seconds


def _complete(url: str, source: Source, part: Path, open_url: OpenUrl, heard: Heard, pause: Pause) -> None:
    """Makes a part whole, in several tries."""
    for attempt in range(TRIES):
        before = _size(part)
        try:
            if _grow(url, source, part, open_url, heard):
                return
            fault = "the connection ended early"
        except (InputError, StorageError):
            raise
        except _BusyError as error:
            if attempt == TRIES - 1:
                raise _refused(error.status, url, source) from error
            pause(min(LONGEST_PAUSE, 2.0 ** (attempt + 1) if error.seconds is None else error.seconds))
            continue
        except OSError as error:
            fault = str(error) or type(error).__name__
        if attempt == TRIES - 1 or (attempt and _size(part) == before):
            break
    raise InputError(
        f"{part.stem} could not be downloaded: {fault}; {_size(part)} bytes are there",
        "A download needs a connection to its server",
        "Run the same command again; it goes on from here",
    )


def _grow(url: str, source: Source, part: Path, open_url: OpenUrl, heard: Heard) -> bool:
    """Asks for what is missing and appends it; returns whether the part is whole."""
    note = part.with_name(f"{part.name}.json")
    known = _json(note) or {}
    have = _size(part) if known.get("url") == url and known.get("tag") else 0
    headers = {"Range": f"bytes={have}-", "If-Range": str(known["tag"])} if have else {}
    with open_url(url, headers) as response:
        given = {name.casefold(): value for name, value in response.headers.items()}
        if response.status == 416 and have and have == known.get("total"):
            return True
        if response.status in BUSY:
            raise _BusyError(response.status, _seconds(given.get("retry-after", "")))
        if response.status not in (200, 206):
            raise _refused(response.status, url, source)
        start, total = _span(response.status, given, have)
        write_json(note, {"url": url, "tag": given.get("etag") or given.get("last-modified"), "total": total})
        _check_space(part, total, start)
        _append(response, part, start, total, heard)
    return total is None or _size(part) == total


def _seconds(text: str) -> float | None:
    """How long a server asks to wait: a number of seconds, or a date (RFC 9110, 10.2.3)."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _span(status: int, headers: Mapping[str, str], have: int) -> tuple[int, int | None]:
    """Returns where the body begins in the file and how long the file is."""
    if status == 200:
        length = headers.get("content-length", "")
        return 0, int(length) if length.isdigit() and "content-encoding" not in headers else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", "").strip())
    if not found or int(found[1]) != have:
        raise OSError(f"the server answered with the range {headers.get('content-range')!r}, asked for {have}-")
    return have, None if found[2] == "*" else int(found[2])


def _append(response: Response, part: Path, start: int, total: int | None, heard: Heard) -> None:
    done = start
    stream = _guarded(part, lambda: part.open("r+b" if start else "wb"))
    with stream:
        stream.seek(start)
        stream.truncate()
        while block := response.read(CHUNK):
            _guarded(part, partial(stream.write, block))
            done += len(block)
            heard(done, total)


def _refused(status: int, url: str, source: Source) -> InputError:
    account = status in (401, 403)
    return InputError(
        f"{url} answered with the status {status}",
        "Its server gives it to those with an account only" if account else "A download is answered with 200 or 206",
        f"D{_by_hand(source)[1:]}",
    )


def _by_hand(source: Source) -> str:
    return (
        f"download it with a browser from {source.page}, unpack it and run: reslink data import FOLDER --source {source.name}"
    )


def _check_space(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise StorageError(
            f"{part.stem} needs {total - start} more bytes, and {free} are free",
            "A download needs room for the whole file",
            "Free some space or choose another folder, then run the same command again",
        )


def _guarded(path: Path, work: Callable[[], Any]) -> Any:
    """Does something with the disk; its errors are not those of a connection."""
    try:
        return work()
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}",
            "A download needs a folder that may be written to, with free space",
            "Free some space or choose another folder, then run the same command again; it goes on from here",
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
