"""Group-wise, stratified splits: train, validation and test, or cross-validation folds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.case import DEFAULT_FRACTIONS, HOLDOUT, SPLITS, Split
from reslink.datasets.leakage import check_group_leakage
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.labels import NO_LABEL, PRESENT
from reslink.metrics.several_labels.states import strata

IN_FOLDS = "folds"
"""Part of a data set that is not in the hold-out."""

Part = TypeVar("Part", bound=str)

_MIN_FOLDS = 3
"""Fewest folds of a cross-validation: one for the test, one for validation, and one to train on."""

_SHUFFLES = 8
_TIME_LIMIT = 10.0  # seconds for the integer program

Counts = NDArray[np.float64]
SplitIndices = NDArray[np.int64]


@dataclass(frozen=True)
class _Groups:
    """The groups of a data set, independent of the order of its cases.

    Attributes:
        of_case: (n,) group index of each case; groups are numbered by the first of their case names.
        counts: (groups, K) number of cases of each class in each group.
        names: The K classes; of several labels at once, the labels with enough groups, and ``no label``.
    """

    of_case: NDArray[np.int64]
    counts: Counts
    names: tuple[str, ...]


def assign_splits(
    manifest: Manifest,
    groups: Sequence[str],
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    *,
    allow_leakage: bool = False,
    drawn_groups: Sequence[str] | None = None,
) -> list[Split]:
    """Assigns each case to train, validation or test.

    All cases of a group get the same split. Each class has nearly the same share in every split, and at least one case in
    each; of several labels at once, each that is present in as many groups. The result depends on the names, labels and groups
    of the cases and on the seed, not on the order of the cases.

    Splits that the manifest states are kept. A split that it lacks (a data set with train and test only) is drawn from its
    training cases. If several data sets were joined and some of them state no split, their split is drawn; a case whose group
    has a case of a stated split gets that split. ``groups`` come first, and ``drawn_groups`` second.

    scikit-learn's ``StratifiedGroupKFold`` makes parts of equal size only and can leave a class out of a part of a small
    data set. This function applies the same greedy idea to unequal parts.

    Args:
        manifest: The cases.
        groups: The group of each case (``grouping.group_cases``).
        fractions: Shares of train, validation and test, which sum to 1. A split with share 0 stays empty.
        seed: Selects among equally good splits.
        allow_leakage: Accept a stated split that has a group in more than one part.
        drawn_groups: The groups of the cases whose split is drawn although that of others is stated; None for ``groups``.

    Returns:
        The split of each case, in the order of the manifest.

    Raises:
        UsageError: If a class has too few groups, or the stated split cannot be used.
        CheckFailedError: If a patient or a duplicate group appears in two parts of the stated split.
    """
    _check_fractions(fractions)
    given = [case.split for case in manifest.cases]
    shares = dict(zip(SPLITS, fractions, strict=True))
    table = _group_table(manifest, groups, sum(share > 0 for share in fractions))
    if not any(given):
        return _splits_of_cases(_divide(table, shares, seed), table)
    without = without_split(manifest)
    stated = [i for i, lacks in enumerate(without) if not lacks]
    part, part_groups, part_given = manifest.subset(stated), [groups[i] for i in stated], [given[i] for i in stated]
    _check_given(part, part_groups, part_given, allow_leakage)
    completed = _complete(part, part_groups, part_given, shares, seed)
    if not any(without):
        return completed
    known = dict(zip(stated, completed, strict=True))
    return _draw_others(manifest, groups, groups if drawn_groups is None else drawn_groups, known, shares, seed)


def assign_folds(manifest: Manifest, groups: Sequence[str], n_folds: int, seed: int = 0) -> list[int]:
    """Assigns each case to a cross-validation fold.

    The folds have nearly equal sizes and class shares, and keep groups whole. A split stated by the manifest is ignored.

    Args:
        manifest: The cases.
        groups: The group of each case.
        n_folds: Number of folds, at least 2.
        seed: Shuffles the groups.

    Returns:
        The fold of each case, 0 to ``n_folds - 1``, in the order of the manifest.

    Raises:
        UsageError: If there are fewer than 2 folds, or a class has fewer groups than folds.
    """
    if n_folds < 2:
        raise UsageError(f"The number of folds is {n_folds}", "Cross-validation needs at least 2 folds", "Use 5 folds")
    table = _group_table(manifest, groups, n_folds)
    _check_enough(table, n_folds, f"{n_folds} folds", folds=n_folds)
    order = _order_by_name(manifest)
    targets = strata(_held(manifest) > 0)[order]
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    result = np.empty(len(manifest), np.int64)
    with warnings.catch_warnings():  # a rare one of several labels can be in fewer groups than there are folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, inside) in enumerate(splitter.split(order, targets, table.of_case[order])):
            result[order[inside]] = fold
    return [int(fold) for fold in result]


def assign_folds_and_holdout(
    manifest: Manifest, groups: Sequence[str], n_folds: int, holdout: float, seed: int = 0
) -> list[int | None]:
    """Assigns each case to a cross-validation fold, or to a hold-out that is in no fold.

    The hold-out is drawn before the folds, stratified by class, and keeps groups whole. It depends on the seed and its share,
    so all folds have the same one.

    Args:
        manifest: The cases.
        groups: The group of each case.
        n_folds: Number of folds, at least 2.
        holdout: Share of the hold-out, 0 to 0.5; 0 is none.
        seed: Selects among equally good hold-outs, and shuffles the groups.

    Returns:
        The fold of each case, None for the hold-out, in the order of the manifest.

    Raises:
        UsageError: If there are fewer than 2 folds, or a class has too few groups for the folds and the hold-out.
    """
    if not holdout:
        return list(assign_folds(manifest, groups, n_folds, seed))
    table = _group_table(manifest, groups, n_folds + 1)
    _check_enough(table, n_folds + 1, f"{n_folds} folds and a hold-out", folds=n_folds)
    parts = _divide(table, {IN_FOLDS: 1 - holdout, HOLDOUT: holdout}, seed)
    rows = [i for i, group in enumerate(table.of_case) if parts[int(group)] == IN_FOLDS]
    result: list[int | None] = [None] * len(manifest)
    try:
        folds = assign_folds(manifest.subset(rows), [groups[i] for i in rows], n_folds, seed)
    except UsageError as error:
        raise UsageError(
            f"Outside a hold-out of {holdout:g}, {error.given[0].lower()}{error.given[1:]}",
            error.allowed,
            f"{error.next_step}. Or use a smaller hold-out",
        ) from None
    for i, fold in zip(rows, folds, strict=True):
        result[i] = fold
    return result


def given_folds(
    manifest: Manifest, groups: Sequence[str], n_folds: int, *, holdout: bool = False, allow_leakage: bool = False
) -> list[int | None] | None:
    """Returns the folds stated in the ``fold`` column of the data set, or None if it has no such column.

    Args:
        manifest: The cases.
        groups: The group of each case.
        n_folds: Expected number of folds.
        holdout: Whether cases without a fold are the hold-out.
        allow_leakage: Accept folds that share a group.

    Returns:
        The fold of each case, None for the hold-out.

    Raises:
        UsageError: If the column does not hold exactly the numbers 0 to ``n_folds - 1`` and, with a hold-out, empty cells.
        CheckFailedError: If a patient or a duplicate group appears in two folds.
    """
    stated = [case.extra.get("fold", "") for case in manifest.cases]
    if not any(stated):
        return None
    if set(stated) != {*map(str, range(n_folds)), *([""] if holdout else [])}:
        values = [value or "empty cells" for value in sorted(set(stated))]
        raise UsageError(
            f"The recipe has {n_folds} folds{' and a hold-out' if holdout else ''}, but the column 'fold' holds "
            f"{', '.join(values[:8])}",
            f"With {n_folds} folds the column holds the numbers 0 to {n_folds - 1}, and with data.holdout above 0 empty cells "
            "for the hold-out",
            "Set data.folds and data.holdout to what the table holds, or remove the column",
        )
    if not allow_leakage:
        check_group_leakage(manifest, groups, [f"fold {fold}" if fold else HOLDOUT for fold in stated], "given folds")
    return [int(fold) if fold else None for fold in stated]


def _order_by_name(manifest: Manifest) -> NDArray[np.int64]:
    return np.array(sorted(range(len(manifest)), key=lambda i: manifest.cases[i].name), np.int64)


def _group_table(manifest: Manifest, groups: Sequence[str], needed: int) -> _Groups:
    """Returns the groups of a data set, for as many splits as ``needed``."""
    if len(groups) != len(manifest):
        raise UsageError(
            f"{len(groups)} groups were given for {len(manifest)} cases",
            "Each case has one group",
            "Make the groups from the same manifest",
        )
    numbers: dict[str, int] = {}
    of_case = np.empty(len(manifest), np.int64)
    for i in _order_by_name(manifest):
        of_case[i] = numbers.setdefault(groups[i], len(numbers))
    held, names = _held(manifest), manifest.labels.names
    counts = np.zeros((len(numbers), held.shape[1]))
    np.add.at(counts, of_case, held)
    if manifest.labels.exclusive:
        return _Groups(of_case, counts, names)
    # A label in fewer groups than there are splits cannot be in all of them, and does not decide.
    enough = np.count_nonzero(counts, axis=0) >= needed
    rest = np.bincount(of_case, ~held[:, enough].any(axis=1), len(numbers))
    return _Groups(of_case, np.column_stack([counts[:, enough], rest]), (*np.array(names)[enough].tolist(), NO_LABEL))


def _select_classes(table: _Groups, selected: NDArray[np.bool_]) -> _Groups:
    names = tuple(name for name, kept in zip(table.names, selected, strict=True) if kept)
    return _Groups(table.of_case, table.counts[:, selected], names)


def _held(manifest: Manifest) -> Counts:
    """Returns (n, K) whether each case is of each class, or has each of several labels at once."""
    targets = np.array(manifest.targets, np.int64)
    return np.eye(len(manifest.labels))[targets] if manifest.labels.exclusive else (targets == PRESENT).astype(float)


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    valid = len(fractions) == 3 and all(share >= 0 for share in fractions)  # NaN is not >= 0 either
    if not valid or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise UsageError(
            f"The fractions are {fractions}",
            "Give three shares for train, validation and test that sum to 1; the share of train is above 0",
            "Use 0.75, 0.1, 0.15",
        )


def _check_enough(table: _Groups, needed: int, purpose: str, folds: int | None = None) -> None:
    """Checks that each class has enough groups; the error for too many ``folds`` says how many the rarest class allows."""
    counts = np.count_nonzero(table.counts, axis=0)
    most = None if folds is None else min(counts) - (needed - folds)
    for label, n in zip(table.names, counts, strict=True):
        if n < needed:
            cases = f"dd cases of {label!r} from other patients, or leave the class out"
            raise UsageError(
                f"The class {label!r} has {n} independent {'group' if n == 1 else 'groups'} of cases",
                f"For {purpose} each class needs at least {needed} groups; all images of a patient, and all near duplicates "
                "of an image, count as one group",
                f"A{cases}" if most is None or most < _MIN_FOLDS else f"Use at most {most} folds. Or a{cases}",
            )


def _divide(table: _Groups, shares: dict[Part, float], seed: int) -> dict[int, Part]:
    """Returns the split of each group that has cases: the best of a few greedy assignments."""
    names = [name for name, share in shares.items() if share > 0]
    target = np.array([shares[name] for name in names])
    target /= target.sum()
    _check_enough(table, len(names), f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else names[0])
    present = np.flatnonzero(table.counts.sum(axis=1))
    class_shares = table.counts[present] / np.maximum(table.counts.sum(axis=0), 1)
    rng = np.random.default_rng(seed)
    candidates = [_greedy(class_shares, target, rng) for _ in range(_SHUFFLES)]
    best = min(candidates, key=lambda splits: _cost(class_shares, splits, target))
    if np.isinf(_cost(class_shares, best, target)):
        best = _solve_exactly(class_shares, target)
    return {int(group): names[split] for group, split in zip(present, best, strict=True)}


def _greedy(class_shares: Counts, target: Counts, rng: np.random.Generator) -> SplitIndices:
    """Assigns the groups, roughly largest first, to the split that brings the class shares nearest to the target.

    Afterwards, a split without a class takes a group of it from another. The squared error of each split is divided by its
    target, so that large groups do not all go to the largest split.

    Args:
        class_shares: (groups, K) share of each class's cases that the group holds.
        target: (splits,) share of each split.
        rng: Perturbs the order, so that each seed gives another assignment.

    Returns:
        (groups,) split of each group.
    """
    splits = np.empty(len(class_shares), np.int64)
    filled = np.zeros((len(target), class_shares.shape[1]))
    perturbed = class_shares.sum(axis=1) * rng.uniform(0.5, 1.5, len(class_shares))
    for g in np.argsort(-perturbed, kind="stable"):
        change = (class_shares[g] * (2 * (filled - target[:, None]) + class_shares[g])).sum(axis=1) / target
        splits[g] = split = int(np.argmin(change))
        filled[split] += class_shares[g]
    return _fill_missing_classes(class_shares, splits, target)


def _fill_missing_classes(class_shares: Counts, splits: SplitIndices, target: Counts) -> SplitIndices:
    """Moves single groups while that gives a split a missing class without taking the class from another split."""
    for _ in range(class_shares.shape[1] * len(target)):
        missing = np.argwhere(_group_counts(class_shares, splits, len(target)) == 0)
        moves = [move for split, label in missing for move in _possible_moves(class_shares, splits, split, label, len(target))]
        if not moves:
            break
        _, group, split = min((_error(class_shares, _move(splits, g, s), target), g, s) for g, s in moves)
        splits = _move(splits, group, split)
    return splits


def _possible_moves(
    class_shares: Counts, splits: SplitIndices, split: int, label: int, n_splits: int
) -> Iterable[tuple[int, int]]:
    """Yields (group, split) for groups of a class that their present split can spare."""
    counts = _group_counts(class_shares, splits, n_splits)
    for group in np.flatnonzero(class_shares[:, label]):
        held = class_shares[group] > 0
        if np.all(counts[splits[group]][held] > 1):
            yield int(group), int(split)


def _move(splits: SplitIndices, group: int, split: int) -> SplitIndices:
    changed = splits.copy()
    changed[group] = split
    return changed


def _group_counts(class_shares: Counts, splits: SplitIndices, n_splits: int) -> NDArray[np.int64]:
    """(splits, K) number of groups with each class in each split."""
    return np.stack([np.count_nonzero(class_shares[splits == split], axis=0) for split in range(n_splits)])


def _error(class_shares: Counts, splits: SplitIndices, target: Counts) -> float:
    filled = np.stack([class_shares[splits == split].sum(axis=0) for split in range(len(target))])
    return float((((filled - target[:, None]) ** 2).sum(axis=1) / target).sum())


def _cost(class_shares: Counts, splits: SplitIndices, target: Counts) -> float:
    """The error of an assignment, infinite if a split lacks a class."""
    present = class_shares.sum(axis=0) > 0
    if (_group_counts(class_shares, splits, len(target))[:, present] == 0).any():
        return float("inf")
    return _error(class_shares, splits, target)


def _solve_exactly(class_shares: Counts, target: Counts) -> SplitIndices:
    """Finds an assignment with each class in each split by an integer program, for few groups where greedy search fails.

    Raises:
        UsageError: If there is no such assignment.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import

    n, n_splits = len(class_shares), len(target)
    one_split_per_group = np.kron(np.eye(n), np.ones(n_splits))
    held = (class_shares[:, class_shares.sum(axis=0) > 0] > 0).astype(float)
    classes_covered = np.kron(held.T, np.eye(n_splits))
    cost = np.outer(class_shares.sum(axis=1), 1 - target).ravel()
    constraints = [LinearConstraint(one_split_per_group, 1, 1), LinearConstraint(classes_covered, 1, np.inf)]
    integrality = np.ones(n * n_splits, np.int64)
    solution = milp(
        cost, integrality=integrality, bounds=Bounds(0, 1), constraints=constraints, options={"time_limit": _TIME_LIMIT}
    )
    if solution.x is None:
        raise UsageError(
            "The groups cannot be divided so that each split has a case of each class",
            "All images of a patient, and all near duplicates, must be in the same split",
            "Add cases from other patients",
        )
    return np.asarray(solution.x.reshape(n, n_splits).argmax(axis=1), np.int64)


def _splits_of_cases(split_of_group: dict[int, Split], table: _Groups) -> list[Split]:
    return [split_of_group[int(group)] for group in table.of_case]


def _check_given(manifest: Manifest, groups: Sequence[str], given: Sequence[Split | None], allow_leakage: bool) -> None:
    empty = sum(split is None for split in given)
    if empty:
        raise UsageError(
            f"{empty} of {len(given)} cases have no split although the others have one",
            "The column 'split' is filled for every case or for none",
            "Fill the column, or remove it",
        )
    training = manifest.subset(i for i, split in enumerate(given) if split == "train").label_counts()
    counts = manifest.label_counts()  # of several data sets, those with a split may lack a class
    for label in manifest.labels.names:
        if counts[label] and not training[label]:
            raise UsageError(
                f"The given split has no training case of {label!r}",
                "Each class needs training cases",
                "Correct the column 'split'",
            )
    if not allow_leakage:
        check_group_leakage(manifest, groups, given, "given split")


def without_split(manifest: Manifest) -> list[bool]:
    """Returns whether each case is of a data set that states no split, of several that were joined."""
    states = {manifest.set_of(case) for case in manifest.cases if case.split}
    return [bool(manifest.sets) and manifest.set_of(case) not in states for case in manifest.cases]


def _draw_others(
    manifest: Manifest,
    strict_groups: Sequence[str],
    groups: Sequence[str],
    known: Mapping[int, Split],
    shares: dict[Split, float],
    seed: int,
) -> list[Split]:
    """Draws the splits of the other cases than ``known``, by row; a group with a known case gets its split.

    Of ``groups``, one can have known cases of several splits, so the strict group of a case decides first. A class with fewer
    groups than there are splits does not decide, as the rest of the data has cases of it.
    """
    of_strict, of_group = ({names[i]: split for i, split in reversed([*known.items()])} for names in (strict_groups, groups))
    follows = [of_strict.get(strict) or of_group.get(group) for strict, group in zip(strict_groups, groups, strict=True)]
    rows = [i for i, split in enumerate(follows) if split is None]
    needed = sum(share > 0 for share in shares.values())
    table = _group_table(manifest.subset(rows), [groups[i] for i in rows], needed)
    enough = np.count_nonzero(table.counts, axis=0) >= needed
    drawn = _divide(_select_classes(table, enough), shares, seed) if enough.any() else {}
    drawn_of_row = {i: drawn.get(int(group), "train") for i, group in zip(rows, table.of_case, strict=True)}
    return [known.get(i) or split or drawn_of_row[i] for i, split in enumerate(follows)]


def _complete(
    manifest: Manifest,
    groups: Sequence[str],
    given: Sequence[Split | None],
    shares: dict[Split, float],
    seed: int,
) -> list[Split]:
    """Draws the splits that are not given from the training cases, in proportion to their shares."""
    missing = {name: share for name, share in shares.items() if name == "train" or name not in given}
    result: list[Split] = [split or "train" for split in given]
    training_rows = [i for i, split in enumerate(given) if split == "train"]
    training_cases = manifest.subset(training_rows)
    n_splits = sum(share > 0 for share in missing.values())
    table = _group_table(training_cases, [groups[i] for i in training_rows], n_splits)
    drawn = _splits_of_cases(_divide(_select_classes(table, table.counts.sum(axis=0) > 0), missing, seed), table)
    for i, split in zip(training_rows, drawn, strict=True):
        result[i] = split
    return result
