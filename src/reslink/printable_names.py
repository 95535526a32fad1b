r"""Names of files as printable text: for terminals, logs, tables and pages.

A file name on Linux is a sequence of bytes. It may hold control characters, and bytes that are not UTF-8 (names in Latin-1 or
Windows-1252, as from an old zip archive or a network share). Python reads such a byte as a surrogate, which cannot be written.

Example:
    >>> escape_name("med\udce9cal\r.png")
    'med\\xe9cal\\r.png'
    >>> unescape_name("med\\xe9cal\\r.png") == "med\udce9cal\r.png"
    True
"""

from __future__ import annotations

import json
import re
from typing import Any

_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt\\])")
_NOT_ASCII = re.compile(r"[^\n -~]")
_LETTERS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SIGNS = {escape: sign for sign, escape in _LETTERS.items()} | {"\\\\": "\\"}
_BYTES = range(0xDC80, 0xDD00)
"""Surrogates that stand for the bytes 0x80 to 0xFF of a name (PEP 383)."""


def printable(text: str, keep: str = "") -> str:
    r"""Returns the text with every character that is not printable as an escape such as ``\r``, ``\x1b`` or ``\u202e``.

    Args:
        text: Any text. A byte that is not UTF-8 becomes ``\x`` and two digits.
        keep: Characters that stay as they are, such as a newline.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in keep else _escape(sign) for sign in text)


def escape_name(name: str) -> str:
    r"""Returns a file name or path as printable text without a space at its ends; most names are unchanged.

    Different names stay different, and :func:`unescape_name` returns the name: a name that needs an escape, or looks as if it
    had one, is written with ``\\`` for a backslash.
    """
    if name.isprintable() and name == name.strip() and unescape_name(name) == name:
        return name
    escaped = printable(name.replace("\\", "\\\\"))
    body = escaped.strip()
    start = len(escaped) - len(escaped.lstrip())
    return "\\x20" * start + body + "\\x20" * (len(escaped) - len(body) - start)


def unescape_name(text: str) -> str:
    """Returns the name that :func:`escape_name` wrote."""
    return _ESCAPE.sub(_unescape, text)


def json_text(value: Any, indent: int | None = None, *, only_ascii: bool = False) -> str:
    r"""Returns a value as JSON, with an escape for every character that is not printable. NaN raises ``ValueError``.

    A byte of a file name that is not UTF-8 becomes an escape of JSON, such as ``\udce9``: in Python,
    ``os.fsencode(json.loads(line)["path"])`` is the name in bytes.

    Args:
        value: The value.
        indent: Number of spaces per level; None writes one line.
        only_ascii: Whether letters outside ASCII are escaped too.
    """
    return _NOT_ASCII.sub(_json_escape, json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=only_ascii))


def _json_escape(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


def _escape(sign: str) -> str:
    code = ord(sign)
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return _LETTERS.get(sign) or f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescape(match: re.Match[str]) -> str:
    if sign := _SIGNS.get(match[0]):
        return sign
    code = int(match[0][2:], 16)
    is_byte = match[0][1] == "x" and code >= 0x80
    return chr(code + 0xDC00 if is_byte else min(code, 0x10FFFF))
