"""Options that take several values in a row, such as ``--epochs 5 10 20``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

NUMBERS = "N..."


class MultiValueCommand(TyperCommand):
    """A command in which an option whose metavar ends with ``...`` takes several values.

    ``--epochs 5 10 20`` is read as ``--epochs 5 --epochs 10 --epochs 20``. The values end at the next option, at ``--`` and, if
    the metavar is ``N...``, at the first word that is not a number.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the name of such an option before each of its values."""
        metavars = {name: str(getattr(option, "metavar", "") or "") for option in self.params for name in option.opts}
        options = {name: text == NUMBERS for name, text in metavars.items() if text.endswith("...") and name[0] == "-"}
        return list(super().parse_args(ctx, repeat_option_names(args, options)))


def repeat_option_names(args: list[str], options: dict[str, bool]) -> list[str]:
    """Returns the arguments with the name of an option before each of its values.

    Args:
        args: The words of a command line.
        options: The options that take several values, and whether these are numbers.
    """
    words: list[str] = []
    current, first_value = "", False
    for i, word in enumerate(args):
        name, _, _ = word.partition("=")
        if word == "--":
            return [*words, *args[i:]]
        if word.startswith("-") and not word[1:2].isdigit():
            current, first_value = (word, True) if word in options else (name if name in options else "", False)
            words.append(word)
        elif current and (first_value or not options[current] or _is_number(word)):
            words += [word] if first_value else [current, word]
            first_value = False
        else:
            words.append(word)
            current = ""
    return words


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
