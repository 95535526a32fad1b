"""The class names of a task and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reslink.errors import UsageError, suggest


@dataclass(frozen=True)
class Labels:
    """Class names in the order of the network's outputs.

    With two classes the last one is the positive class; sensitivity, PPV and AUROC refer to it.

    Attributes:
        names: At least two names. Names that differ only in case are not allowed.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            classes = f"only the class {self.names[0]!r}" if self.names else "no class"
            raise UsageError(
                f"The data has {classes}",
                "A classifier needs at least two classes",
                "Add images of another class: one folder per class, or one name per class in the column 'label'",
            )
        seen: dict[str, str] = {}
        for name in self.names:
            if not name.strip():
                raise UsageError("A class name is empty", "Every class needs a name", "Fill in the column 'label'")
            other = seen.setdefault(name.strip().casefold(), name)
            if other is not name:
                raise UsageError(
                    f"The class names {other!r} and {name!r} differ only in case or spaces",
                    "Class names must differ in more than case and spaces",
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
        if sorted(order) != list(labels.names):
            raise UsageError(
                f"The class order {list(order)} does not match the classes of the data",
                f"The order must name each of {list(labels.names)} exactly once",
                "Correct the setting 'data.class_order'",
            )
        return cls(tuple(order))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def binary(self) -> bool:
        """Whether there are exactly two classes."""
        return len(self.names) == 2

    @property
    def positive(self) -> str | None:
        """The positive class of a two-class task; None for more than two classes."""
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
