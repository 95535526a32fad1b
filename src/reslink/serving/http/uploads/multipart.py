"""Uploads: ``multipart/form-data`` into memory, and never onto a disk, within limits.

Starlette's own parser writes parts of more than a megabyte to temporary files, which would be patient data on a disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from reslink.serving.http.limits import Limits
from reslink.serving.http.problems import Problem, bad_request, too_large

_FIELD_BYTES: Final = 1024
_HEADER_BYTES: Final = 4096
_FIELDS: Final = 64


@dataclass
class Part:
    """One part of a form.

    Attributes:
        name: Of the field.
        filename: As the client calls the file; None for a plain field.
        content_type: As the client declares it; an empty text where it does not.
        data: The content.
    """

    name: str
    filename: str | None
    content_type: str
    data: bytearray = field(default_factory=bytearray)


@dataclass
class _Collector:
    """Takes what the parser finds; stops at the first part beyond a limit."""

    limits: Limits
    parts: list[Part] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    ended: bool = False

    def on_part_begin(self) -> None:
        self.headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        self.headers[bytes(self.header[0]).lower()] = bytes(self.header[1])
        self.header = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self.headers.get(b"content-disposition", b"").decode("latin-1"))
        if kind != b"form-data" or b"name" not in options:
            raise _broken("a part has no name")
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                options[b"name"].decode("utf-8", "replace"),
                None if filename is None else filename.decode("utf-8", "replace"),
                self.headers.get(b"content-type", b"").decode("latin-1"),
            )
        )
        files = sum(part.filename is not None for part in self.parts)
        if files > self.limits.files or len(self.parts) - files > _FIELDS:
            raise too_large(f"More than {self.limits.files} files or {_FIELDS} fields were sent", f"{self.limits.files} files")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.data += data[start:end]
        if part.filename is None and len(part.data) > _FIELD_BYTES:
            raise too_large("A field without a file is too long", f"{_FIELD_BYTES} bytes")

    def on_end(self) -> None:
        self.ended = True


_CALLBACKS: Final = (
    "on_part_begin",
    "on_header_field",
    "on_header_value",
    "on_header_end",
    "on_headers_finished",
    "on_part_data",
    "on_end",
)


async def read_form(content_type: str, stream: AsyncIterator[bytes], limits: Limits, hold: Callable[[int], None]) -> list[Part]:
    """Reads a form.

    Args:
        content_type: Of the request.
        stream: Its body.
        limits: Of the service.
        hold: Called with the size of each chunk before it is kept; may refuse.

    Raises:
        Problem: If it is another content type, broken, or beyond a limit.
    """
    essence, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if essence != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "wrong-content-type",
            "The request has another content type",
            "Files are sent as multipart/form-data with a boundary. See /openapi.json for examples.",
        )
    found = _Collector(limits)
    try:
        callbacks: Any = {name: getattr(found, name) for name in _CALLBACKS}
        parser = MultipartParser(boundary, callbacks, max_header_count=8, max_header_size=_HEADER_BYTES)
        async for chunk in _limited(stream, limits):
            hold(len(chunk))
            parser.write(chunk)
    except FormParserError as error:
        raise _broken("it does not follow RFC 7578") from error
    if not found.ended:
        raise _broken("it breaks off")
    return found.parts


async def _limited(stream: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    total = 0
    async for chunk in stream:
        total += len(chunk)
        if total > limits.body_bytes:
            raise too_large("The body is too long", f"{limits.body_bytes} bytes")
        if chunk:
            yield chunk


def _broken(why: str) -> Problem:
    return bad_request("broken-form", "The form is broken", f"The multipart body cannot be read: {why}. Send it again.")
