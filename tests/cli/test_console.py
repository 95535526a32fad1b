"""Output of commands."""

from __future__ import annotations

import io
import json

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
        "Epoch 1 of 2: 20/100, 80 s left loss 0.5123 lr 1",
        "done",
        "Epoch 1 of 2: 100 steps in 22.5 s loss 0.5123 lr 1",
    ]


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
    bar.start(4, "Epoch 1 of 1")
    bar.step(4, loss=0.25)
    bar.message("[epoch] done")
    bar.end()
    bar.message("after")
    text = stream.getvalue()
    assert "Epoch 1 of 1" in text
    assert "4/4" in text
    assert "loss 0.25" in text
    assert "[epoch] done" in text
    assert text.endswith("after\n")
