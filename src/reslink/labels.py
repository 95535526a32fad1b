"""The class names of a task and their order, or labels that can hold at once, and the spellings of labels and patient ids."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reslink.errors import UsageError, suggest
from reslink.printable_names import printable

CaseKind = Literal["slice", "series"]
"""What has one label: a slice, or a whole series."""


def case_noun(case: CaseKind) -> str:
    """Returns what the user calls a case: ``image`` or ``series``."""
    return "series" if case == "series" else "image"


MISSING: Final = frozenset({"", "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "nat", "null", "none", "-", "--", "?"})
"""How tables write a missing value, in lower case."""

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""The states of a label in a case, where several labels can hold at once."""

NO_LABEL: Final = "no label"
"""The name of a case or an answer without any label that is present."""

_PRESENT: Final = frozenset({"1", "1.0", "true", "t", "yes", "y"})
_ABSENT: Final = frozenset({"0", "0.0", "false", "f", "no", "n"})

RARE: Final = 3
"""A class with fewer cases may be a misspelled name of another class."""

_NUMBER = re.compile(r"(?=.*\d)\+?(-?)0*(\d*)(?:[.,](\d*))?")
_CODES: Final = tuple(map(frozenset, ("yn", ("yes", "no"), ("true", "false"), ("pos", "neg"), ("positive", "negative"))))
"""Pairs of words for the two answers of one question, in lower case; data sets with different pairs were put together."""
_BRITISH: Final = (("tumour", "tumor"), ("haem", "hem"), ("oedema", "edema"), ("aemi", "emi"))
_COPY: Final = re.compile(r"[\W_]*(copy|kopie|copie)?[\W_]*(\(\d+\))?$")
"""What file managers append to the name of a copied folder."""
_SHORT: Final = 3
_ROMAN_OR_SHORT = re.compile(rf"[ivx]+|.{{0,{_SHORT}}}")
"""Two such words differ on purpose: Roman numerals, single letters and abbreviations."""
_PREFIXES: Final = frozenset({"a", "ab", "an", "bi", "de", "dis", "im", "in", "ir", "mis", "no", "non", "re", "un"})
"""Beginnings that make another word of a word (normal, abnormal)."""


def clean_text(text: str) -> str:
    """Returns a label or patient id in its normal form: NFC, no invisible characters, single spaces."""
    if text.isascii() and text.isprintable():  # most names; a table can have thousands
        return " ".join(text.split())
    visible = (char for char in text if unicodedata.category(char) != "Cf")
    printed = (" " if unicodedata.category(char) in ("Cc", "Zs", "Zl", "Zp") else char for char in visible)
    return " ".join(unicodedata.normalize("NFC", "".join(printed)).split())


def is_missing(text: str) -> bool:
    """Returns whether a cell states no value: it is empty, or a word such as ``nan``, ``N/A``, ``null`` or ``-``."""
    return clean_text(text).casefold() in MISSING


def parse_state(text: str) -> int | None:
    """Returns the state of a label in a cell; None for a text that is none.

    It is ``PRESENT`` for 1, true and yes, ``ABSENT`` for 0, false and no, ``UNKNOWN`` for a missing value.
    """
    word = clean_text(text).casefold()
    if word in _PRESENT:
        return PRESENT
    return ABSENT if word in _ABSENT else UNKNOWN if is_missing(word) else None


def states_text(names: Sequence[str], states: Sequence[int]) -> str:
    """Returns the labels of a case in words: those present, such as ``epidural + subdural``, and those unknown.

    Args:
        names: The K labels.
        states: ``PRESENT``, ``ABSENT`` or ``UNKNOWN`` for each.
    """
    present = " + ".join(name for name, state in zip(names, states, strict=True) if state == PRESENT)
    unknown = ", ".join(name for name, state in zip(names, states, strict=True) if state == UNKNOWN)
    return (present or NO_LABEL) + (f" (unknown: {unknown})" if unknown else "")


def spelling_key(text: str) -> str:
    """Returns what all spellings of a name have in common that differ only in case, spacing or number format.

    ``Tumor`` and ``tumor``, ``no tumor`` and ``No_Tumor``, ``1`` and ``1.0``, ``P1`` and ``p01`` have the same key.
    """
    plain = unicodedata.normalize("NFKC", clean_text(text)).casefold()
    if (number := _NUMBER.fullmatch(plain)) is not None:
        sign, whole, fraction = number.groups(default="")
        return f"{sign}{whole or '0'}" + (f".{fraction}" if fraction.strip("0") else "")  # 1.10 is not 1.1
    plain = re.sub(r"(?<![\d.,])(\d+)[.,]0+$", r"\1", plain)
    plain = re.sub(r"(?<![\d.,])0+(?=\d)", "", plain)
    plain = re.sub(r"(?<=\d)[\s_-]+(?=\d)", "\0", plain)  # 1-23 is not 12-3
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", "", plain)


def spelling_conflicts(names: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the pairs of different names that have the same :func:`spelling_key`."""
    first: dict[str, str] = {}
    pairs = ((first.setdefault(spelling_key(name), name), name) for name in dict.fromkeys(names))
    return [(former, name) for former, name in pairs if former != name]


def misspelled_class(counts: Mapping[str, int]) -> tuple[str, str] | None:
    """Returns a class with fewer than three cases and the larger class within two typing errors of it; None if there is none.

    Args:
        counts: The number of cases of each class.
    """
    for rare in sorted((name for name, n in counts.items() if n < RARE), key=lambda name: (counts[name], name)):
        others = [name for name in counts if counts[name] >= counts[rare] and _may_be_typo(rare, name)]
        near = [name for name in others if _edits(spelling_key(rare), spelling_key(name)) <= _allowed_edits(rare, name)]
        if near:
            return rare, min(near, key=lambda name: (_edits(spelling_key(rare), spelling_key(name)), -counts[name], name))
    return None


def alternative_spelling(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns two class names that are one word: in British and American spelling, singular and plural, or a copied folder."""
    first: dict[str, str] = {}
    for name in names:
        key = _word_key(spelling_key(name))
        former = first.get(key) or first.get(_word_key(_COPY.sub("", spelling_key(name))))
        if former is not None and former != name:
            return former, name
        first[key] = name
    return None


def _word_key(key: str) -> str:
    for british, american in _BRITISH:
        key = key.replace(british, american)
    return key.removesuffix("s") if len(key) > _SHORT and not key.endswith(("ss", "is")) else key


def mixed_codes(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns two of three or more class names that are written in different ways: ``1`` and ``Tumor``, ``yes`` and ``True``.

    Beside ``yes`` and ``no``, or at least three numbers, two words (``Healthy`` and ``Tumor``) are a different way; one
    (``unclear``) is not.
    """
    ways: dict[str, list[str]] = {}
    keys = {name: spelling_key(name) for name in names}
    for name, key in keys.items():
        codes = next((min(pair) for pair in _CODES if key in pair and pair <= set(keys.values())), "word")
        ways.setdefault("number" if _NUMBER.fullmatch(key) else codes, []).append(name)
    if len(ways.get("word", [])) == 1 and len(ways.get("number", [])) not in (1, 2):
        del ways["word"]
    first = [way[0] for way in ways.values()]
    return (first[0], first[1]) if len(keys) > 2 and len(first) > 1 else None


def _allowed_edits(name: str, other: str) -> int:
    """Returns how many typing errors two names of the same class can differ by: one if a name is short, otherwise two."""
    return 1 if min(len(name), len(other)) <= _SHORT else 2


def _may_be_typo(name: str, other: str) -> bool:
    """Returns whether two names differ in words, and neither is the other one with a prefix (normal, abnormal)."""
    a, b = sorted((name.casefold(), other.casefold()), key=len)
    if a == b or (b.endswith(a) and _is_prefix(b.removesuffix(a))):
        return False
    words, others = (re.split(r"[\s_-]+", text) for text in (a, b))
    if len(words) != len(others):
        return not any(char.isdigit() for char in name + other)
    different = [pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]]
    return not any(any(map(str.isdigit, one + two)) or _are_roman_or_short(one, two) for one, two in different)


def _is_prefix(text: str) -> bool:
    """Returns whether a text in front of a name is a word of its own, or a prefix of the language."""
    return text[-1:] in (" ", "_", "-") or text in _PREFIXES


def _are_roman_or_short(*words: str) -> bool:
    return all(map(_ROMAN_OR_SHORT.fullmatch, words))


def _edits(a: str, b: str) -> int:
    """Returns the number of inserted, removed, replaced or swapped characters between two texts."""
    rows = [list(range(len(b) + 1))]
    for i, char in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (char != other)))
            if i > 1 and j > 1 and (a[i - 2], char) == (other, b[j - 2]):
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


@dataclass(frozen=True)
class Labels:
    """Class names in the order of the network's outputs.

    With two classes the last one is the positive class; sensitivity, PPV and AUROC refer to it. Labels that are not exclusive
    can hold at once: each is a question of its own, present or absent.

    Attributes:
        names: At least two names. Names that differ only in case, spacing or number format are not allowed.
        exclusive: Whether each case has exactly one of them.
    """

    names: tuple[str, ...]
    exclusive: bool = True

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            classes = f"only the class {self.names[0]!r}" if self.names else "no class"
            raise UsageError(
                f"The data has {classes}",
                "A classifier needs at least two classes",
                "Add images of another class: one folder per class, or one name per class in the column 'label'",
            )
        if not all(name.strip() for name in self.names):
            raise UsageError("A class name is empty", "Every class needs a name", "Fill in the column 'label'")
        for name in self.names:
            if name.encode(errors="ignore").decode() != name:
                raise UsageError(
                    f"The class name '{printable(name)}' is not UTF-8",
                    "A class name is text; only names of files and folders below it may be any bytes",
                    "Rename the folder of the class",
                )
        for name, other in spelling_conflicts(self.names):
            raise UsageError(
                f"The class names {name!r} and {other!r} differ only in case, spacing or number format",
                "Class names must differ in more than that",
                "Rename one of them, or merge them if they mean the same class",
            )

    @classmethod
    def sorted_from(cls, names: Iterable[str]) -> Labels:
        """Returns the labels of a data set: the distinct names, sorted."""
        return cls(tuple(sorted(set(names))))

    @classmethod
    def ordered(cls, names: Iterable[str], order: Sequence[str] | None) -> Labels:
        """Returns the labels in the given order, or sorted if ``order`` is None.

        Raises:
            UsageError: If ``order`` does not name every class of the data exactly once.
        """
        labels = cls.sorted_from(names)
        if order is None:
            return labels
        order = [clean_text(name) for name in order]
        if sorted(order) != list(labels.names):
            raise UsageError(
                f"The class order {order} does not match the classes of the data",
                f"The order must name each of {list(labels.names)} exactly once",
                "Correct the setting 'data.class_order'",
            )
        return cls(tuple(order))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def binary(self) -> bool:
        """Whether there are exactly two classes, of which each case has one."""
        return self.exclusive and len(self.names) == 2

    def of_one(self, name: str) -> Labels:
        """Returns the two classes of one of several labels: without and with it."""
        return Labels((f"not {name}", name))

    def require_exclusive(self, what: str, next_step: str) -> None:
        """Refuses labels that can hold at once where only one class per image is supported.

        Args:
            what: What does not support them, such as ``reslink compare``.
            next_step: What the user should do instead.

        Raises:
            UsageError: If the labels are not exclusive.
        """
        if not self.exclusive:
            raise several_labels_refused(what, self.names, next_step)

    @property
    def positive(self) -> str | None:
        """The positive class of a two-class task; None for more than two classes, or for several labels at once."""
        return self.names[-1] if self.binary else None

    def index(self, name: str) -> int:
        """Returns the index of a class name.

        Raises:
            UsageError: If there is no such class.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise UsageError(
                f"There is no class {name!r}",
                f"The classes are {', '.join(self.names)}",
                suggest(name, self.names),
            ) from None


def several_labels_refused(what: str, names: Iterable[str], next_step: str) -> UsageError:
    """Returns the error for labels that can hold at once where only one class per image is supported.

    Args:
        what: What does not support them, such as ``reslink compare``.
        names: The labels.
        next_step: What the user should do instead.
    """
    return UsageError(
        f"{what} is not possible with several labels at once ({', '.join(names)})",
        f"{what} needs models and data with one class per image",
        next_step,
    )
