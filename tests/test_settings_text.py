"""Hostile settings are refused at once, and ordinary ones are read."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from reslink import settings_text
from reslink.settings_text import MAX_YAML_BYTES, flatten, parse_json, parse_yaml, read_json, read_yaml, without_newer_defaults

BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)

HOSTILE_YAML = {
    "nested aliases": (BILLION_LAUGHS, "more than 10000 values"),
    "nested aliases in mappings": (
        "a: &a {x: 1}\n"
        + "".join(
            f"{n}: &{n} {{p: *{b}, q: *{b}, r: *{b}, s: *{b}}}\n" for b, n in zip("abcdefghij", "bcdefghijk", strict=True)
        ),
        "more than 10000",
    ),
    "aliases of merges": (
        "a: &a {x: 1}\n"
        + "".join(f"{n}: &{n} {{<<: [{', '.join([f'*{b}'] * 30)}]}}\n" for b, n in zip("abcdef", "bcdefg", strict=True)),
        "more than 10000",
    ),
    "an alias of itself": ("a: &a [*a]", "more than 10000 values"),
    "an alias of its parent": ("a: &a {b: {c: *a}}", "more than 10000 values"),
    "deep lists": ("[" * 5000, "more than 64 levels"),
    "deep closed lists": ("[" * 100 + "]" * 100, "more than 64 levels"),
    "deep mappings": ("{a: " * 100 + "1" + "}" * 100, "more than 64 levels"),
    "deep blocks": ("- " * 3000 + "1", "more than 64 levels"),
    "too large": ("a: " + "x" * MAX_YAML_BYTES, "more than 256 KiB"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(20_000)), "more than 10000 values"),
    "huge integer": ("a: " + "9" * 5000, "digits"),
    "large integer": ("a: " + "9" * 300, "digits"),
    "huge hexadecimal integer": ("a: 0x" + "f" * 20000, "digits"),
    "huge key": ("9" * 300 + ": 1", "digits"),
    "sexagesimal integer": ("a: " + ":".join(["59"] * 100), "digits"),
    "not a date": ("a: 2001-99-99", "month"),
    "date as a key": ("2001-01-01: 1", "a key is a word"),
    "list as a key": ("? [a, b]\n: 1", "unhashable"),
    "python object": ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "control characters": ("a: \x00", "characters"),
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE_YAML.values(), ids=HOSTILE_YAML.keys())
def test_hostile_yaml_is_refused(text: str, reason: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=reason) as caught:
        parse_yaml(text)
    assert time.process_time() - began < 0.5, "it was built before it was refused"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


HOSTILE_JSON = {
    "deep": "[" * 100_000,
    "deep and closed": "[" * 100 + "]" * 100,
    "deep objects": '{"a":' * 100 + "1" + "}" * 100,
    "huge integer": "9" * 5000,
    "large integer": '{"a": -' + "9" * 30 + "}",
    "cut": '{"a": ',
    "not UTF-8": b'"\xff"',
}


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_hostile_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (of json, or of the limits)
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is not a number"),
        ("[Infinity]", "Infinity is not a number"),
        ('{"a": 1e999}', "a number that is too large"),
        ("-Infinity", "-Infinity is not a number"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_on_request(text: str, reason: str) -> None:
    parse_json(text)
    with pytest.raises(ValueError, match=reason):
        parse_json(text, finite=True)


@pytest.mark.parametrize(("read", "limit"), [(read_yaml, "MAX_YAML_BYTES"), (read_json, "MAX_JSON_BYTES")])
def test_a_large_file_is_refused_and_not_read_as_a_whole(
    read: Callable[[Path], object], limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size == 1001
            return super().read(size)

    monkeypatch.setattr(settings_text, limit, 1000)
    monkeypatch.setattr(Path, "open", lambda *_: Stream(b"[" + b"1, " * 600 + b"1]"))
    with pytest.raises(ValueError, match="it has more than"):
        read(Path("large"))


def test_ordinary_settings_are_read(tmp_path) -> None:
    assert parse_yaml("a: &a [1, 2.5, yes, null, text]\nb: *a\nc: {d: 18446744073709551615}") == {
        "a": [1, 2.5, True, None, "text"],
        "b": [1, 2.5, True, None, "text"],
        "c": {"d": 2**64 - 1},
    }
    assert parse_yaml("") is None
    value = {"a": [1, -(2**63), 0.1, None, True, "ü"], "b": {"c": []}}
    assert parse_json(json.dumps(value)) == value
    path = tmp_path / "latin1.yaml"
    path.write_bytes(b"a: \xe9")
    with pytest.raises(ValueError, match="utf-8"):
        read_yaml(path)


def test_nested_settings_are_flattened() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {"d": [2]}, "e": {}}, "f": None})) == {"a.b": 1, "a.c.d": [2], "f": None}


class Settings(BaseModel):
    size: int = 3
    newer: tuple[int, ...] = ()
    newest: float | None = None


def test_newer_fields_are_left_out_at_their_defaults() -> None:
    def form(settings: Settings) -> dict[str, object]:
        return without_newer_defaults(settings, settings.model_dump(), "newer", "newest")

    assert form(Settings()) == {"size": 3}
    assert form(Settings(newer=(1,), newest=0.0)) == {"size": 3, "newer": (1,), "newest": 0.0}
