"""Who is learned from and who is judged by: whole groups, the classes in equal shares on every side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from sklearn.model_selection import StratifiedGroupKFold

from reslink.datasets.leakage import check_torn
from reslink.datasets.manifest import SPLITS, Manifest, Split
from reslink.errors import UsageError

_TRIES = 8
_PATIENCE = 10.0

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class _Groups:
    """The groups of a data set, whatever the order of its files.

    Attributes:
        of_case: (n,) index of each case's group; groups are numbered by the first of their case names.
        counts: (groups, K) cases of each class in each group.
    """

    of_case: NDArray[np.int64]
    counts: Counts


def assign(
    manifest: Manifest,
    groups: Sequence[str],
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    *,
    allow_leakage: bool = False,
) -> list[Split]:
    """Divides the cases into train, validation and test.

    No group stands on two sides; each class has nearly the same share of each side, and at least one case on it. The
    result depends on the names, labels and groups of the cases and on the seed, not on the order of the cases.

    Where the manifest gives splits they are kept; a side that it does not give (a data set with train and test alone)
    is taken from its training cases.

    scikit-learn's ``StratifiedGroupKFold`` makes equal parts only, and on small sets leaves a class out of a part, so
    the same greedy idea is done here for unequal parts.

    Args:
        manifest: The cases.
        groups: The group of each case (``twins.groups``): patient, near copies, or both joined.
        fractions: Shares of train, validation and test; a side with share 0 stays empty.
        seed: Chooses among the divisions that are equally good.
        allow_leakage: Accept a given split that has a group on two sides.

    Returns:
        The side of each case, in the order of the manifest.

    Raises:
        UsageError: If a class has too few groups for the sides, or the given split cannot be used.
        GateError: If a patient or a set of near copies stands on two sides of the given split.
    """
    _check_fractions(fractions)
    table = _group_table(manifest, groups)
    given = [case.split for case in manifest.cases]
    if not any(given):
        return _named(_divide(table, manifest, dict(zip(SPLITS, fractions, strict=True)), seed), table)
    _check_given(manifest, groups, given, allow_leakage)
    return _complete(manifest, groups, given, dict(zip(SPLITS, fractions, strict=True)), seed)


def folds(manifest: Manifest, groups: Sequence[str], k: int, seed: int = 0) -> list[int]:
    """Divides the cases into k parts of nearly equal size and class shares, whole groups, for cross-validation.

    A split given by the manifest plays no part.

    Args:
        manifest: The cases.
        groups: The group of each case.
        k: Number of parts, at least 2.
        seed: Shuffles the groups.

    Returns:
        The part of each case, 0 to k - 1, in the order of the manifest.

    Raises:
        UsageError: If k is below 2 or a class has fewer than k groups.
    """
    if k < 2:
        raise UsageError(f"{k} folds were asked for", "Cross-validation needs at least 2 folds", "Ask for 5")
    table = _group_table(manifest, groups)
    _check_enough(table, manifest, k, f"{k} folds")
    order = _by_name(manifest)
    targets = np.array(manifest.targets)[order]
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    result = np.empty(len(manifest), np.int64)
    for fold, (_, inside) in enumerate(splitter.split(order, targets, table.of_case[order])):
        result[order[inside]] = fold
    return [int(fold) for fold in result]


def given_folds(manifest: Manifest, groups: Sequence[str], k: int, *, allow_leakage: bool = False) -> list[int] | None:
    """Returns the folds that the column ``fold`` of the data set states, None where it has no such column.

    Args:
        manifest: The cases.
        groups: The group of each case.
        k: Number of folds wanted.
        allow_leakage: Accept folds that have a group on two sides.

    Raises:
        UsageError: If the column does not number exactly k folds from 0.
        GateError: If a patient or a set of near copies stands in two folds.
    """
    stated = [case.extra.get("fold", "") for case in manifest.cases]
    if not any(stated):
        return None
    if set(stated) != {str(fold) for fold in range(k)}:
        raise UsageError(
            f"{k} folds were asked for, and the column 'fold' holds {', '.join(sorted(set(stated))[:8])}",
            f"With {k} folds it holds the numbers 0 to {k - 1}",
            "Set data.folds to the number of folds of the table, or remove the column",
        )
    if not allow_leakage:
        check_torn(manifest, groups, [f"fold {fold}" for fold in stated], "given folds")
    return [int(fold) for fold in stated]


def _by_name(manifest: Manifest) -> NDArray[np.int64]:
    return np.array(sorted(range(len(manifest)), key=lambda i: manifest.cases[i].name), np.int64)


def _group_table(manifest: Manifest, groups: Sequence[str]) -> _Groups:
    if len(groups) != len(manifest):
        raise UsageError(
            f"{len(groups)} groups were given for {len(manifest)} cases",
            "Each case has one group",
            "Make the groups from the same manifest",
        )
    numbers: dict[str, int] = {}
    of_case = np.empty(len(manifest), np.int64)
    for i in _by_name(manifest):
        of_case[i] = numbers.setdefault(groups[i], len(numbers))
    counts = np.zeros((len(numbers), len(manifest.labels)))
    np.add.at(counts, (of_case, np.array(manifest.targets, np.int64)), 1)
    return _Groups(of_case, counts)


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    shares = len(fractions) == 3 and all(share >= 0 for share in fractions)  # not a number is not >= 0
    if not shares or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise UsageError(
            f"The fractions are {fractions}",
            "Three shares for train, validation and test that sum to 1; train has some",
            "Use 0.7, 0.15, 0.15",
        )


def _check_enough(table: _Groups, manifest: Manifest, needed: int, what: str) -> None:
    for label, n in zip(manifest.labels.names, np.count_nonzero(table.counts, axis=0), strict=True):
        if n < needed:
            raise UsageError(
                f"The class {label!r} has {n} {'group' if n == 1 else 'groups'} of independent cases",
                f"For {what} each class needs at least {needed} groups; a patient, and images that are near copies of "
                "one another, count as one",
                f"Add cases of {label!r} from other patients, or leave the class out",
            )


def _divide(table: _Groups, manifest: Manifest, shares: dict[Split, float], seed: int) -> dict[int, Split]:
    """Gives each group that has cases a side; the best of a few shuffles."""
    sides = [side for side, share in shares.items() if share > 0]
    target = np.array([shares[side] for side in sides])
    target /= target.sum()
    _check_enough(table, manifest, len(sides), f"{', '.join(sides[:-1])} and {sides[-1]}" if sides[1:] else sides[0])
    present = np.flatnonzero(table.counts.sum(axis=1))
    parts = table.counts[present] / np.maximum(table.counts.sum(axis=0), 1)
    random = np.random.default_rng(seed)
    found = [_greedy(parts, target, random) for _ in range(_TRIES)]
    best = min(found, key=lambda sides_of: _badness(parts, sides_of, target))
    if np.isinf(_badness(parts, best, target)):
        best = _covering(parts, target)
    return {int(group): sides[side] for group, side in zip(present, best, strict=True)}


def _greedy(parts: Counts, target: Counts, random: np.random.Generator) -> NDArray[np.int64]:
    """Puts the groups, roughly largest first, where the class shares then come nearest to the target.

    A side that then lacks a class is mended. The squared error of each side is divided by its target, so that large
    groups do not all fall to the largest side.

    Args:
        parts: (groups, K) share of each class's cases that the group holds.
        target: (sides,) share of each side.
        random: Makes the order rough, so that each seed gives another division.

    Returns:
        (groups,) side of each group.
    """
    sides = np.empty(len(parts), np.int64)
    filled = np.zeros((len(target), parts.shape[1]))
    rough = parts.sum(axis=1) * random.uniform(0.5, 1.5, len(parts))
    for g in np.argsort(-rough, kind="stable"):
        change = (parts[g] * (2 * (filled - target[:, None]) + parts[g])).sum(axis=1) / target
        sides[g] = side = int(np.argmin(change))
        filled[side] += parts[g]
    return _mended(parts, sides, target)


def _mended(parts: Counts, sides: NDArray[np.int64], target: Counts) -> NDArray[np.int64]:
    """Moves single groups as long as that gives a missing class to a side without taking it from another."""
    for _ in range(parts.shape[1] * len(target)):
        missing = np.argwhere(_groups_on(parts, sides, len(target)) == 0)
        moves = [move for side, label in missing for move in _moves(parts, sides, side, label, len(target))]
        if not moves:
            break
        _, group, side = min((_error(parts, _moved(sides, g, s), target), g, s) for g, s in moves)
        sides = _moved(sides, group, side)
    return sides


def _moves(parts: Counts, sides: NDArray[np.int64], side: int, label: int, n_sides: int) -> Iterable[tuple[int, int]]:
    """Yields the groups with a class that their own side can spare, and the side that lacks it."""
    spare = _groups_on(parts, sides, n_sides)
    for group in np.flatnonzero(parts[:, label]):
        held = parts[group] > 0
        if np.all(spare[sides[group]][held] > 1):
            yield int(group), int(side)


def _moved(sides: NDArray[np.int64], group: int, side: int) -> NDArray[np.int64]:
    changed = sides.copy()
    changed[group] = side
    return changed


def _groups_on(parts: Counts, sides: NDArray[np.int64], n_sides: int) -> NDArray[np.int64]:
    """(sides, K) number of groups with each class on each side."""
    return np.stack([np.count_nonzero(parts[sides == side], axis=0) for side in range(n_sides)])


def _error(parts: Counts, sides: NDArray[np.int64], target: Counts) -> float:
    filled = np.stack([parts[sides == side].sum(axis=0) for side in range(len(target))])
    return float((((filled - target[:, None]) ** 2).sum(axis=1) / target).sum())


def _badness(parts: Counts, sides: NDArray[np.int64], target: Counts) -> float:
    classes = parts.sum(axis=0) > 0
    if (_groups_on(parts, sides, len(target))[:, classes] == 0).any():
        return float("inf")
    return _error(parts, sides, target)


def _covering(parts: Counts, target: Counts) -> NDArray[np.int64]:
    """A division with each class on each side for few groups, where the greedy one finds none: an integer programme.

    Raises:
        UsageError: If there is none.
    """
    n, n_sides = len(parts), len(target)
    one_side = np.kron(np.eye(n), np.ones(n_sides))
    held = (parts[:, parts.sum(axis=0) > 0] > 0).astype(float)
    covered = np.kron(held.T, np.eye(n_sides))
    cost = np.outer(parts.sum(axis=1), 1 - target).ravel()
    rules = [LinearConstraint(one_side, 1, 1), LinearConstraint(covered, 1, np.inf)]
    whole = np.ones(n * n_sides, np.int64)
    found = milp(cost, integrality=whole, bounds=Bounds(0, 1), constraints=rules, options={"time_limit": _PATIENCE})
    if found.x is None:
        raise UsageError(
            "The groups cannot be divided so that each side has a case of each class",
            "A patient, with all images and near copies, stands on one side",
            "Add cases from other patients",
        )
    return np.asarray(found.x.reshape(n, n_sides).argmax(axis=1), np.int64)


def _named(side_of: dict[int, Split], table: _Groups) -> list[Split]:
    return [side_of[int(group)] for group in table.of_case]


def _check_given(manifest: Manifest, groups: Sequence[str], given: Sequence[Split | None], allow_leakage: bool) -> None:
    empty = sum(split is None for split in given)
    if empty:
        raise UsageError(
            f"{empty} of {len(given)} cases have no split although the others have one",
            "The column 'split' is filled for every case or for none",
            "Fill it, or remove the column",
        )
    trained = {case.label for case in manifest.cases if case.split == "train"}
    for label in manifest.labels.names:
        if label not in trained:
            raise UsageError(
                f"The given split has no training case of {label!r}",
                "Each class needs training cases",
                "Correct the column 'split'",
            )
    if not allow_leakage:
        check_torn(manifest, groups, given, "given split")


def _complete(
    manifest: Manifest,
    groups: Sequence[str],
    given: Sequence[Split | None],
    shares: dict[Split, float],
    seed: int,
) -> list[Split]:
    """Takes the sides that are not given from the training cases, in the proportions of the fractions."""
    wanted = {side: share for side, share in shares.items() if side == "train" or side not in given}
    result: list[Split] = [split or "train" for split in given]
    inside = [i for i, split in enumerate(given) if split == "train"]
    part = manifest.subset(inside)
    table = _group_table(part, [groups[i] for i in inside])
    for i, side in zip(inside, _named(_divide(table, part, wanted, seed), table), strict=True):
        result[i] = side
    return result
