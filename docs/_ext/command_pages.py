"""The pages of the command line reference, made from the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from reslink.cli.main import app

FOLDER = "reference/cli"
TYPES = {"int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "path": "PATH"}
COMMON_NOTE = "This command also accepts the [options of every command](index.md#options-of-every-command).\n"


def pages() -> dict[str, str]:
    """Returns a page for each command, and the two tables of the index."""
    root = typer.main.get_command(app)
    commands = {name: root.commands[name] for name in root.list_commands(typer.Context(root))}
    common = _common_options(commands)
    texts = {f"{FOLDER}/{name}.md": _page(name, command, common) for name, command in commands.items()}
    texts["_generated/commands.md"] = _table(commands)
    texts["_generated/common_options.md"] = "\n".join(_options("reslink", next(_leaves("reslink", root))[1], keep=common))
    return texts


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yields each command that does something, with its whole name."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, child in command.commands.items():
        yield from _leaves(f"{name} {word}", child)


def _common_options(commands: dict[str, Any]) -> set[str]:
    """Returns the first spelling of each option that all commands have."""
    leaves = [command for name, child in commands.items() for _, command in _leaves(name, child)]
    spellings = [{param.opts[0] for param in _params(command) if param.opts[0].startswith("-")} for command in leaves]
    return set.intersection(*spellings)


def _params(command: Any) -> list[Any]:
    return [param for param in command.get_params(typer.Context(command)) if not getattr(param, "hidden", False)]


def _page(name: str, command: Any, common: set[str]) -> str:
    """Returns the page of a command; the commands of a group follow each other on one page."""
    lines = [f"# reslink {name}", ""]
    if not hasattr(command, "commands"):
        return "\n".join([*lines, *_body(f"reslink {name}", command, common, "##")])
    lines += [*_paragraphs(command.help or ""), ""]
    for whole, child in _leaves(f"reslink {name}", command):
        lines += [f"## {whole}", "", *_body(whole, child, common, "###")]
    return "\n".join(lines)


def _body(name: str, command: Any, common: set[str], level: str) -> Iterator[str]:
    """Yields the lines of a page about one command."""
    context = typer.Context(command, info_name=name)
    yield from _paragraphs(command.help or "")
    usage = re.sub(r"[{}]", "", " ".join(command.get_usage(context).removeprefix("Usage: ").split()))
    usage = usage.replace("......", "...").replace("[[", "[").replace("]]", "]")
    yield from ("```text", usage, "```", "")
    yield from _options(name, command, drop=common)
    yield COMMON_NOTE
    examples = re.findall(r"\[bold\](.*?)\[/bold\]", command.epilog or "", re.DOTALL)
    if examples:
        title = "Examples" if level == "##" else f"Examples of {name}"
        yield from (f"{level} {title}", "", "```bash", *(" ".join(one.split()) for one in examples), "```", "")


def _options(name: str, command: Any, drop: set[str] | None = None, keep: set[str] | None = None) -> Iterator[str]:
    """Yields the arguments and options of a command as Sphinx's ``option`` directives."""
    context = typer.Context(command, info_name=name)
    yield from (f"```{{program}} {name}", "```", "")
    for param in _params(command):
        record = param.get_help_record(context)
        if record is None or param.opts[0] in (drop or ()) or (keep is not None and param.opts[0] not in keep):
            continue
        text = "".join(_paragraphs(_without_extra(record[1])))
        yield from (f"````{{option}} {_signature(record[0])}", f"{text} {_extra(record[1])}".strip(), "````", "")


def _signature(text: str) -> str:
    """Returns an option in the notation of Sphinx: long spellings first, each with its value.

    ``-o, --out DIR`` becomes ``--out DIR, -o DIR``; an argument keeps its name alone.
    """
    text = re.sub(r"<(?:list\[)?([^\]>]+)\]?>", lambda match: TYPES.get(match[1], match[1]), text)
    match = re.fullmatch(r"((?:--?[\w-]+(?:, | / )?)+)\s*(.*)", text)
    if match is None:
        return text.split(" ")[0].strip("[]")
    spellings = sorted(re.split(r", | / ", match[1].strip()), key=lambda one: not one.startswith("--"))
    return ", ".join(f"{one} {match[2]}".strip() for one in spellings)


def _without_extra(text: str) -> str:
    return re.sub(r"\s*\[[^\]]*\]$", "", text)


def _extra(text: str) -> str:
    """Returns the text in brackets at the end of an option's help: whether it is required, its default, its range."""
    match = re.search(r"\[([^\]]*)\]$", text)
    if match is None:
        return ""
    sentences = []
    for part in match[1].split("; "):
        name, _, value = part.partition(": ")
        words = {"required": "**Required.**", "default": f"Default: `{value}`.", "env var": f"Environment variable: `{value}`."}
        sentences.append(words.get(name, f"Range: `{part}`."))
    return " ".join(sentences)


def _paragraphs(text: str) -> Iterator[str]:
    """Yields a help text as Markdown: paragraphs, nothing of it read as markup."""
    for paragraph in text.split("\n\n"):
        yield re.sub(r"([\\*_<>\[\]{}|$~^#])", r"\\\1", " ".join(paragraph.split()))
        yield ""


def _table(commands: dict[str, Any]) -> str:
    """Returns the tables of the index, a command a row, in the groups of ``reslink --help``, and the table of contents."""
    panels: dict[str, list[str]] = {}
    for name, command in commands.items():
        summary = re.split(r"(?<=[.]) ", next(_paragraphs(command.help or "")))[0]
        row = f"| [`reslink {name}`](/reference/cli/{name}.md) | {summary} |"
        panels.setdefault(str(getattr(command, "rich_help_panel", "")), []).append(row)
    lines = [
        line
        for panel, rows in panels.items()
        for line in (f"**{panel}**", "", "| command | description |", "|---|---|", *rows, "")
    ]
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *commands, "```", ""])
