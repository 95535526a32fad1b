"""Parsing of ``multipart/form-data``: in memory only, within limits, and never an unexpected exception."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator

import pytest
from starlette.datastructures import FormData, UploadFile

from reslink.serving.http.limits import MIB, Limits
from reslink.serving.http.problems import Problem, busy
from reslink.serving.http.uploads.form import Hold, receive_form, unpack_form

CLOSE = b"--b--\r\n"


def part(content: bytes = b"x", name: str = "files", filename: str | None = "a.png", headers: bytes = b"") -> bytes:
    file = b"" if filename is None else b'; filename="' + filename.encode() + b'"'
    disposition = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + file
    return b"--b\r\n" + disposition + b"\r\n" + headers + b"\r\n" + content + b"\r\n"


def receive(body: bytes, content_type: str = "multipart/form-data; boundary=b", hold: Hold = lambda _size: None) -> FormData:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    return asyncio.run(receive_form(content_type, stream(), Limits(body_bytes=8 * MIB, files=3), hold))


def test_files_and_fields_keep_their_order_and_types() -> None:
    image = part(b"\x89PNG", headers=b"Content-Type: image/png\r\n")
    form = receive(part(b"ct", "model", None) + image + part(b"mr", "model", None) + CLOSE)
    assert form.getlist("model") == ["ct", "mr"]
    [file] = form.getlist("files")
    assert isinstance(file, UploadFile)
    assert (file.filename, file.content_type, file.file.read()) == ("a.png", "image/png", b"\x89PNG")
    asyncio.run(form.close())


def test_a_large_file_is_never_written_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was opened")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    content = bytes(range(256)) * (5 * MIB // 256)
    form = receive(part(content) + CLOSE)
    [file] = form.getlist("files")
    assert isinstance(file, UploadFile)
    assert file.file.read() == content
    asyncio.run(form.close())


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (part(), 400, "it is truncated"),
        (part() + part()[:-9], 400, "it is truncated"),
        (b"", 400, "it is truncated"),
        (part() + b"--c--\r\n", 400, "it is truncated"),
        (b"--b\r\nX: y\r\n\r\nx\r\n" + CLOSE, 400, "RFC 7578"),
        (part(headers=b"X: y\r\n" * 9) + CLOSE, 400, "RFC 7578"),
        (part(headers=b"X: " + b"y" * 9000 + b"\r\n") + CLOSE, 400, "RFC 7578"),
        (part() * 4 + CLOSE, 413, "Too many files"),
        (part(b"x", "slice", None) * 65 + CLOSE, 413, "Too many fields"),
        (part(bytes(1025), "slice", None) + CLOSE, 413, "1024 bytes"),
        (part(bytes(9 * MIB)) + CLOSE, 413, "body is too long"),
    ],
    ids=["no end", "half part", "empty", "other boundary", "no name", "headers", "header", "files", "fields", "field", "body"],
)
def test_a_malformed_or_too_large_form_is_refused(body: bytes, status: int, message: str) -> None:
    with pytest.raises(Problem) as caught:
        receive(body)
    assert caught.value.status == status
    assert message in caught.value.detail


@pytest.mark.parametrize("charset", ["punycode", "idna", "rot13", "zlib", "utf-7", "no-such-charset", "a\0b", "unicode_escape"])
def test_a_hostile_charset_is_ignored_or_refused(charset: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="\xff\\x"\r\n\r\nxn--\xff\r\n' + CLOSE
    outcome: FormData | int
    try:
        outcome = receive(body, f'multipart/form-data; boundary=b; charset="{charset}"')
    except Problem as problem:
        outcome = problem.status
    assert outcome == 400 or len(outcome) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("content_type", ["multipart/mixed; boundary=b", "multipart/form-data", "x; boundary=b", ""])
def test_another_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(Problem) as caught:
        receive(part() + CLOSE, content_type)
    assert caught.value.status == 415


@pytest.mark.parametrize(("length", "accepted"), [(200, True), (201, False)])
def test_the_boundary_has_a_maximum_length(length: int, accepted: bool) -> None:
    boundary = "b" * length
    body = part().replace(b"--b\r\n", f"--{boundary}\r\n".encode()) + f"--{boundary}--\r\n".encode()
    if accepted:
        form = receive(body, f"multipart/form-data; boundary={boundary}")
        assert len(form) == 1
        asyncio.run(form.close())
        return
    with pytest.raises(Problem) as caught:
        receive(body, f"multipart/form-data; boundary={boundary}")
    assert caught.value.status == 415


def test_memory_is_held_before_a_chunk_is_kept() -> None:
    held: list[int] = []

    def hold(size: int) -> None:
        if sum(held) + size > MIB:
            raise busy("no memory")
        held.append(size)

    with pytest.raises(Problem) as caught:
        receive(part(bytes(3 * MIB)) + CLOSE, hold=hold)
    assert caught.value.status == 503
    assert sum(held) <= MIB


def test_a_file_without_a_filename_is_refused_and_not_dropped() -> None:
    async def receive_and_unpack() -> None:
        async def stream() -> AsyncIterator[bytes]:
            yield part(filename=None) + part() + CLOSE

        limits, hold = Limits(), lambda _size: None
        await unpack_form(await receive_form("multipart/form-data; boundary=b", stream(), limits, hold), limits, hold)

    with pytest.raises(Problem, match="A file has no name"):
        asyncio.run(receive_and_unpack())
