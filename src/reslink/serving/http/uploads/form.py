"""Upload form: ``multipart/form-data`` parsed in memory, archives unpacked, the format of each file detected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from reslink.serving.http.limits import Limits
from reslink.serving.http.problems import Problem, bad_request, too_large, unsupported_format
from reslink.serving.http.uploads.content_type import ZIP, detect_format
from reslink.serving.http.uploads.zip_archives import check_name, members

FILES: Final = "files"
Hold = Callable[[int], None]

_FIELD_BYTES: Final = 1024
_MAX_FIELDS: Final = 64
_MAX_BOUNDARY: Final = 200


@dataclass
class Upload:
    """One file of a request.

    Attributes:
        name: File name given by the client.
        data: Content; empty if there is a problem.
        format: Detected file format.
        problem: Why the file is refused.
        part: Position among the files of the form; for a member of an archive, the position of the archive.
        member: Position in the archive; None outside an archive.
    """

    name: str
    data: bytes
    format: str | None = None
    problem: Problem | None = None
    part: int = 0
    member: int | None = None


@dataclass
class Form:
    """The files and fields of a request.

    Attributes:
        files: In order; an archive is replaced by its members.
        fields: Field name to values, in order.
        hold: Called with each number of bytes that are additionally kept in memory, negative when memory is freed. It raises a
            problem if the memory limit is reached.
    """

    files: list[Upload] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)
    hold: Hold = field(default=lambda _size: None, repr=False)

    def value(self, name: str) -> str | None:
        """Returns the only value of a field, None if it is missing or empty.

        Raises:
            Problem: If the field has several values.
        """
        values = [value for value in self.fields.get(name, ()) if value]
        if len(values) > 1:
            raise bad_request(
                "bad-field", "A field was given twice", f"The field {name} was given {len(values)} times. Give it once."
            )
        return values[0] if values else None

    def number(self, name: str) -> int | None:
        """Returns the only value of a field as a non-negative integer, None if it is missing.

        Raises:
            Problem: If it is not such a number.
        """
        text = self.value(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= 6):
            raise bad_request(
                "bad-field",
                "A field is not a number",
                f"The field {name} is not a number. It must be a whole number of at least 0. Correct the field.",
            )
        return int(text)


class _InMemoryParser(MultiPartParser):
    """Starlette's multipart parser without temporary files, which would write patient data to disk."""

    spool_max_size = 0  # 0 is "no limit" in SpooledTemporaryFile: the size of the whole body is limited instead
    complete = False

    def on_end(self) -> None:
        """Records that the closing boundary was received. Starlette accepts a truncated body without it."""
        self.complete = True


async def receive_form(content_type: str, stream: AsyncIterator[bytes], limits: Limits, hold: Hold) -> FormData:
    """Receives a form into memory.

    python-multipart limits each part to 8 headers of 4 kB.

    Args:
        content_type: Content type of the request.
        stream: Request body.
        limits: Limits of the service.
        hold: Called with the size of each chunk before it is kept; raises a problem if the memory limit is reached.

    Returns:
        The form. The caller closes it.

    Raises:
        Problem: If the content type is wrong, or the body is malformed, truncated or beyond a limit.
    """
    essence, options = parse_options_header(content_type)
    if essence != b"multipart/form-data" or not 1 <= len(options.get(b"boundary", b"")) <= _MAX_BOUNDARY:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "wrong-content-type",
            "The content type is not supported",
            "The request is not multipart/form-data with a boundary. Files are sent as multipart/form-data. "
            "See /openapi.json for examples.",
        )

    async def limited_body() -> AsyncGenerator[bytes, None]:
        total = 0
        async for chunk in stream:
            total += len(chunk)
            if total > limits.body_bytes:
                raise too_large("The request body is too long", f"{limits.body_bytes} bytes")
            if chunk:
                hold(len(chunk))
                yield chunk
        if not parser.complete:
            raise _malformed("it is truncated")  # raised here, the parser closes the files received so far

    parser = _InMemoryParser(
        Headers({"content-type": content_type}),
        limited_body(),
        max_files=limits.files,
        max_fields=_MAX_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        if error.message.startswith(("Too many", "Part exceeded")):
            limit = f"{limits.files} files, and {_MAX_FIELDS} other fields of {_FIELD_BYTES} bytes"
            raise too_large(error.message.rstrip("."), limit) from error
        raise _malformed("it does not follow RFC 7578") from error
    except ValueError as error:  # Starlette looks up the declared charset, which fails for a NUL character
        raise _malformed("its charset is invalid") from error


def _malformed(reason: str) -> Problem:
    return bad_request(
        "broken-form", "The form is malformed", f"The multipart body cannot be read: {reason}. Send a complete form."
    )


async def unpack_form(received: FormData, limits: Limits, hold: Hold) -> Form:
    """Returns the files and fields of a received form, with archives unpacked and formats detected.

    Args:
        received: From :func:`receive_form`.
        limits: Limits of the service.
        hold: Called with each number of bytes that are additionally kept in memory; may raise a problem.

    Raises:
        Problem: If the form has no file, or too many.
    """
    form, position = Form(hold=hold), 0
    if any(isinstance(value, str) for value in received.getlist(FILES)):
        await received.close()
        raise bad_request(
            "no-filename",
            "A file has no name",
            f"A part of the field {FILES} has no filename, so it is a text field. Send each file with a filename.",
        )
    for name, value in received.multi_items():
        if isinstance(value, str):
            form.fields.setdefault(name, []).append(value)
        elif value.size or value.filename:
            form.files += [replace(file, part=position) for file in await _uploads(value, limits, hold)]
            position += 1
    if not form.files:
        raise bad_request(
            "no-file", "No file was sent", f"The request has no file. The field {FILES} takes one or more files. Send a file."
        )
    if len(form.files) > limits.files:
        raise too_large(f"{len(form.files)} files were sent", f"{limits.files} files, including members of archives")
    return form


async def _uploads(received: UploadFile, limits: Limits, hold: Hold) -> list[Upload]:
    """Returns an uploaded file, or the members of an uploaded archive; a refused file carries its problem."""
    name, data = received.filename or "", await received.read()
    await received.close()
    try:
        check_name(name or "file")
        file_format = detect_format(data, received.content_type or "")
        if file_format == ZIP:
            return await asyncio.to_thread(_unpack, name, data, limits, hold)
        return [Upload(name, data, file_format)]
    except Problem as problem:
        if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return [Upload(name, b"", problem=problem)]


def _unpack(archive: str, data: bytes, limits: Limits, hold: Hold) -> list[Upload]:
    uploads: list[Upload] = []
    for position, (member, content) in enumerate(members(data, limits)):
        hold(len(content))
        name = f"{archive}/{member}"
        try:
            file_format = detect_format(content, "")
            if file_format == ZIP:
                raise unsupported_format(
                    "The archive contains another archive. An archive may contain images only. Send the archives one by one."
                )
            uploads.append(Upload(name, content, file_format, member=position))
        except Problem as problem:
            uploads.append(Upload(name, b"", problem=problem, member=position))
    return uploads
