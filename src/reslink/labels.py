"""The class names of a task and their order: they exist here, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reslink.errors import UsageError, nearest


@dataclass(frozen=True)
class Labels:
    """Class names in the order of the network's outputs.

    With two classes the last one is the positive class, to which sensitivity, PPV and AUROC refer.

    Attributes:
        names: At least two names, no two of which differ in case only.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            found = f"only {self.names[0]!r}" if self.names else "no class"
            raise UsageError(
                f"The data has {found}",
                "A classifier needs at least two classes",
                "Add images of another class, one folder a class or one name a class in the column 'label'",
            )
        seen: dict[str, str] = {}
        for name in self.names:
            if not name.strip():
                raise UsageError("A class name is empty", "Each class needs a name", "Fill the column 'label'")
            other = seen.setdefault(name.strip().casefold(), name)
            if other is not name:
                raise UsageError(
                    f"Two classes have the same name but for case or spaces: {other!r} and {name!r}",
                    "Class names differ in more than case",
                    "Rename one of them, or merge them if they mean the same",
                )

    @classmethod
    def sorted_from(cls, names: Iterable[str]) -> Labels:
        """Returns the labels of a data set: each name once, sorted."""
        return cls(tuple(sorted(set(names))))

    @classmethod
    def ordered(cls, names: Iterable[str], order: Sequence[str] | None) -> Labels:
        """Returns the labels in a stated order, or sorted where none is stated.

        Raises:
            UsageError: If the order does not name each class of the data exactly once.
        """
        found = cls.sorted_from(names)
        if order is None:
            return found
        if sorted(order) != list(found.names):
            raise UsageError(
                f"The class order {list(order)} does not fit the classes of the data",
                f"The order names each of {list(found.names)} once",
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
        """The positive class of a two-class task, None with more classes."""
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
                nearest(name, self.names),
            ) from None
