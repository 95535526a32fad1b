"""Names of files as printable text."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reslink.printable_names import escape_name, printable, unescape_name

SIGNS = "a\\xnrtu0e9é \r\n\t\x1b\x7f\x9b\xa0\u200d\u202e\udce9\udcff\ud800😀"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Über die Köpfe 日本 😀.png", "Über die Köpfe 日本 😀.png"),
        ("C:\\scans\\no1.png", "C:\\scans\\no1.png"),
        (os.fsdecode(b"m\xe9d.png"), r"m\xe9d.png"),
        ("a\rHealthy 0.001", r"a\rHealthy 0.001"),
        ("a\x1b[31m\x9b1m\x00", r"a\x1b[31m\u009b1m\x00"),
        ("gnp\u202e.exe\u200d", r"gnp\u202e.exe\u200d"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
    ],
)
def test_what_is_not_printable_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text + "\n", keep="\n") == shown + "\n"


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("scan 1.png", "scan 1.png"),
        ("m\u00e9d.png", "m\u00e9d.png"),
        (os.fsdecode(b"m\xe9d.png"), r"m\xe9d.png"),
        (r"m\xe9d.png", r"m\\xe9d.png"),
        (r"Tumor\a.png", r"Tumor\a.png"),
        (" scan.png ", r"\x20scan.png\x20"),
        ("  ", r"\x20\x20"),
    ],
)
def test_an_escaped_name(name: str, escaped: str) -> None:
    assert escape_name(name) == escaped


@given(st.lists(st.text(st.sampled_from(SIGNS), max_size=6), min_size=2, max_size=2))
@example([r"\xe9", os.fsdecode(b"\xe9")])
def test_escaped_names_are_text_that_can_be_turned_back(names: list[str]) -> None:
    escaped = [escape_name(name) for name in names]
    for name, text in zip(names, escaped, strict=True):
        assert text.isprintable()
        assert text == text.strip()
        assert json.loads(json.dumps(text).encode()) == text
        assert unescape_name(text) == name
    assert (escaped[0] == escaped[1]) == (names[0] == names[1])
