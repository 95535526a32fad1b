"""From a request to files: the form, its archives unpacked, each file with its kind or its problem."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from reslink.serving.http.limits import Limits
from reslink.serving.http.problems import Problem, bad_request, too_large, wrong_kind
from reslink.serving.http.uploads.content_type import ZIP, uploaded_kind
from reslink.serving.http.uploads.multipart import Part
from reslink.serving.http.uploads.zip_archives import check_name, members

FILES: Final = "files"
Hold = Callable[[int], None]


@dataclass
class Upload:
    """A file of a request.

    Attributes:
        name: As the client calls it.
        data: Its content; empty where there is a problem.
        kind: What it is.
        problem: Why it is not taken.
        part: Its place among the files of the form, or that of its archive.
        member: Its place in its archive; None outside one.
    """

    name: str
    data: bytes
    kind: str | None = None
    problem: Problem | None = None
    part: int = 0
    member: int | None = None


@dataclass
class Form:
    """What a request holds.

    Attributes:
        files: In order; the members of an archive in its place.
        fields: Values by the name of the field, in order.
        hold: Called with each number of bytes that will be kept besides, or less than 0 where some are given back; may refuse.
    """

    files: list[Upload] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)
    hold: Hold = field(default=lambda _size: None, repr=False)

    def one(self, name: str) -> str | None:
        """Returns the only value of a field, None where it is not there or empty.

        Raises:
            Problem: If there are several.
        """
        values = [value for value in self.fields.get(name, ()) if value]
        if len(values) > 1:
            raise bad_request(
                "bad-field", "A field was given twice", f"The field {name} was given {len(values)} times. Give one."
            )
        return values[0] if values else None

    def number(self, name: str) -> int | None:
        """Returns a whole number from 0 on, None where it is not there.

        Raises:
            Problem: If it is something else.
        """
        text = self.one(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= 6):
            raise bad_request("bad-field", "A field is not a number", f"The field {name} is a whole number from 0 on.")
        return int(text)


async def form_of(parts: list[Part], limits: Limits, hold: Hold) -> Form:
    """Returns what a request holds, with its archives unpacked.

    Args:
        parts: Of the request; their content is taken out of them.
        limits: Of the service.
        hold: Called with each number of bytes that will be kept besides; may refuse.

    Raises:
        Problem: If it holds no file, or too many.
    """
    form, place = Form(hold=hold), 0
    for part in parts:
        if part.filename is None and part.name != FILES:
            form.fields.setdefault(part.name, []).append(part.data.decode("utf-8", "replace"))
        elif part.data or part.filename:
            form.files += [replace(file, part=place) for file in await _files(part, limits, hold)]
            place += 1
    if not form.files:
        raise bad_request("no-file", "No file was sent", f"The field {FILES} holds at least one file. Send one.")
    if len(form.files) > limits.files:
        raise too_large(f"{len(form.files)} files were sent", f"{limits.files} files, those in archives included")
    return form


async def _files(part: Part, limits: Limits, hold: Hold) -> list[Upload]:
    """Returns the file of a part, or the members of its archive; a problem takes the place of what it hit."""
    name, data = part.filename or "", bytes(part.data)
    part.data = bytearray()
    try:
        check_name(name or "file")
        kind = uploaded_kind(data, part.content_type)
        if kind == ZIP:
            return await asyncio.to_thread(_unpacked, name, data, limits, hold)
        return [Upload(name, data, kind)]
    except Problem as problem:
        if problem.status == 503:
            raise
        return [Upload(name, b"", problem=problem)]


def _unpacked(name: str, data: bytes, limits: Limits, hold: Hold) -> list[Upload]:
    found: list[Upload] = []
    for place, (member, content) in enumerate(members(data, limits)):
        hold(len(content))
        shown = f"{name}/{member}"
        try:
            kind = uploaded_kind(content, "")
            if kind == ZIP:
                raise wrong_kind("The archive holds another archive. Archives hold images. Send them one by one.")
            found.append(Upload(shown, content, kind, member=place))
        except Problem as problem:
            found.append(Upload(shown, b"", problem=problem, member=place))
    return found
