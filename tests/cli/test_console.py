"""Output of commands."""

from __future__ import annotations

import io
import json
import os
import re

import pytest

from reslink.cli.console import RESEARCH_USE, Console, ProgressBar, ProgressLines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_is_one_line_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    Console().json({"label": "Tumör", "p": 0.5})
    assert json.loads(capsys.readouterr().out) == {"label": "Tumör", "p": 0.5}
    with pytest.raises(ValueError, match="Out of range float"):
        Console().json({"p": float("nan")})


def test_a_table_is_tab_separated_if_stdout_is_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table(("name", ">value"), [("a", "1"), ("b", "[red]2")], title="Title")
    assert capsys.readouterr().out == "name\tvalue\na\t1\nb\t[red]2\n"


def test_a_table_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    Console().table(("name", ">value"), [("a", "[red]2")], title="Title")
    assert "┃" in stream.getvalue()
    assert "[red]2" in stream.getvalue()


def test_the_research_use_notice_is_printed_also_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Console(quiet=True).research_use_only()
    assert capsys.readouterr().err == RESEARCH_USE + "\n"


def test_lines_show_the_remaining_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 5.0, 20.0, 21.0, 22.5])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines = ProgressLines(Console())
    lines.start(100, "Epoch 1 of 2")
    lines.step(10, loss=0.9)
    lines.step(10, loss=0.51234, lr=1)
    lines.step(80)
    lines.message("done")
    lines.end()
    assert capsys.readouterr().err.splitlines() == [
        "Epoch 1 of 2: 100 steps",
        "Epoch 1 of 2: 20/100 steps, 80 s left loss 0.5123 lr 1",
        "done",
        "Epoch 1 of 2: 100 steps in 22.5 s loss 0.5123 lr 1",
    ]


def test_a_task_without_a_step_ends_without_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(Console())
    lines.start(2, "Explaining")
    lines.end()
    lines.start(1, "Next")
    assert capsys.readouterr().err == "Explaining: 2 steps\nNext: 1 step\n"


@pytest.mark.parametrize(
    ("noun", "one", "two"), [("image", "1 image", "2 images"), ("series", "1 series", "2 series"), ("MiB", "1 MiB", "2 MiB")]
)
def test_lines_say_what_a_step_is(capsys: pytest.CaptureFixture[str], noun: str, one: str, two: str) -> None:
    lines = ProgressLines(Console())
    lines.seconds_between = 0
    lines.start(2, "Reading", noun)
    lines.step(1)
    lines.end()
    first, between, last = capsys.readouterr().err.splitlines()
    assert first == f"Reading: {two}"
    assert between.startswith(f"Reading: 1/{two}, ")
    assert last.startswith(f"Reading: {one} in ")
    lines.start(3, "Next")
    assert capsys.readouterr().err == "Next: 3 steps\n", "the noun is that of its task only"


def test_quiet_lines_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Console(quiet=True).progress()
    lines.start(1, "x")
    lines.step()
    lines.message("x")
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Console().progress(), ProgressLines)
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    bar = Console().progress()
    assert isinstance(bar, ProgressBar)
    bar.start(4, "Epoch 1 of 1", "image")
    bar.step(4, loss=0.25)
    bar.message("[epoch] done")
    bar.end()
    bar.message("after")
    text = stream.getvalue()
    assert "Epoch 1 of 1" in text
    assert re.search(r"4/4\S* images ", text), "colors are between"
    assert "loss 0.25" in text
    assert "[epoch] done" in text
    assert text.endswith("after\n")


FORGED = os.fsdecode(b"m\xe9d\r\x1b[2KHealthy\t0.001\n.png")
SHOWN = r"m\xe9d\r\x1b[2KHealthy\t0.001\n.png"


def test_a_name_cannot_write_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(verbose=True)
    for write in (console.note, console.detail, console.warn, console.data):
        write(f"{FORGED} cannot be read")
    console.row("Tumor", FORGED)
    console.table(("name",), [(FORGED,)])
    console.warn("first", "second")
    out, err = capsys.readouterr()
    assert err == f"{SHOWN} cannot be read\n" * 3 + "first\nsecond\n"
    assert out == f"{SHOWN} cannot be read\nTumor\t{SHOWN}\nname\n{SHOWN}\n"


def test_a_table_on_a_terminal_shows_names_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    Console().table(("[red]name",), [(FORGED,)], title=f"[bold]{FORGED}")
    text = stream.getvalue()
    assert SHOWN in text
    assert "[red]name" in text
    assert not set(text) & set("\r\t\udce9")
    assert "\x1b[2K" not in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1", "cp1252"])
@pytest.mark.parametrize("name", [FORGED, "Köpfe → 日本 😀", "c1 \x9b2K", "\u202egnp", "\ud800"])
def test_json_is_utf8_for_any_name_and_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str, name: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    monkeypatch.setattr("sys.stdout", stream)
    Console().json({"path": name})
    Console().json({name: [name]}, indent=2)
    line, rest = raw.getvalue().decode("utf-8").split("\n", 1)
    assert json.loads(line) == {"path": name}
    assert json.loads(rest) == {name: [name]}
    assert (line + rest.replace("\n", "")).isprintable()
    assert "日" not in name or ("日" in line) == (encoding == "utf-8")


def test_progress_escapes_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBar().message(FORGED)
    lines = Console().progress()
    lines.start(1, FORGED)
    lines.message(FORGED)
    assert capsys.readouterr().err == f"{SHOWN}\n{SHOWN}: 1 step\n{SHOWN}\n"
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    bar = ProgressBar()
    bar.start(1, f"[red]{FORGED}")
    bar.message(FORGED)
    bar.end()
    assert "[red]m" in stream.getvalue()
    assert not set(stream.getvalue()) & set("\t\udce9")
    assert "\x1b[2KHealthy" not in stream.getvalue()
