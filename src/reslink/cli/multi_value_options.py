"""Options that take several values in a row: ``--epochs 5 10 20``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

NUMBERS = "N..."


class Spread(TyperCommand):
    """A command in which an option whose placeholder ends with ``...`` takes its values one after the other.

    ``--epochs 5 10 20`` is read as ``--epochs 5 --epochs 10 --epochs 20``. The values end at the next option, at ``--``
    and, where the placeholder is ``N...``, at the first word that is no number.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the name of such an option before each of its values."""
        placeholders = {name: str(getattr(option, "metavar", "") or "") for option in self.params for name in option.opts}
        several = {name: text == NUMBERS for name, text in placeholders.items() if text.endswith("...") and name[0] == "-"}
        return list(super().parse_args(ctx, repeated(args, several)))


def repeated(args: list[str], several: dict[str, bool]) -> list[str]:
    """Returns arguments in which each value of an option has the option's name before it.

    Args:
        args: The words of a command line.
        several: Options that take several values, and whether these are numbers.
    """
    found: list[str] = []
    current, fresh = "", False
    for i, word in enumerate(args):
        name, _, _ = word.partition("=")
        if word == "--":
            return [*found, *args[i:]]
        if word.startswith("-") and not word[1:2].isdigit():
            current, fresh = (word, True) if word in several else (name if name in several else "", False)
            found.append(word)
        elif current and (fresh or not several[current] or _is_number(word)):
            found += [word] if fresh else [current, word]
            fresh = False
        else:
            found.append(word)
            current = ""
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
