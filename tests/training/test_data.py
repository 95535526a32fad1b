"""The readable cases of a run and their splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import Case
from reslink.datasets.manifest import DataSet, Manifest
from reslink.errors import CheckFailedError, UsageError
from reslink.labels import Labels
from reslink.training.data import assign_splits, has_given_split, open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import Recipe


def manifest_of(n: int, **columns: Any) -> tuple[Manifest, list[str]]:
    """Returns a data set of two classes and ``n`` groups of two cases; ``columns`` maps a row to its values."""
    rows = range(2 * n)
    cases = tuple(
        Case(Path(f"/{i}.png"), "ab"[i // 2 % 2], name=f"{i}.png", **{name: value(i) for name, value in columns.items()})
        for i in rows
    )
    return Manifest(cases, Labels(("a", "b")), Path("/")), [f"g{i // 2}" for i in rows]


def test_groups_are_never_divided_and_the_seed_decides(recipe: Callable[..., Recipe]) -> None:
    manifest, groups = manifest_of(16)
    splits = assign_splits(manifest, groups, recipe("seed=1"))
    assert splits == assign_splits(manifest, groups, recipe("seed=2", "data.split_seed=1"))
    assert splits != assign_splits(manifest, groups, recipe("seed=2"))
    assert set(splits) == {"train", "validation", "test"}
    assert all(splits[i] == splits[i + 1] for i in range(0, 32, 2))


def test_every_case_is_once_in_the_test_fold(recipe: Callable[..., Recipe]) -> None:
    manifest, groups = manifest_of(16)
    by_fold = [assign_splits(manifest, groups, recipe("data.folds=4", f"data.fold={fold}")) for fold in range(4)]
    for splits in zip(*by_fold, strict=True):
        assert sorted(splits) == ["test", "train", "train", "validation"]


def test_every_fold_has_the_same_holdout_that_no_run_trains_on(recipe: Callable[..., Recipe]) -> None:
    manifest, groups = manifest_of(20)
    folds = [assign_splits(manifest, groups, recipe("data.folds=4", f"data.fold={k}", "data.holdout=0.2")) for k in range(4)]
    holdouts = [{i for i, split in enumerate(splits) if split == "holdout"} for splits in folds]
    assert all(holdout == holdouts[0] for holdout in holdouts)
    assert sorted(manifest.cases[i].label for i in holdouts[0]) == ["a"] * 4 + ["b"] * 4
    assert {groups[i] for i in holdouts[0]}.isdisjoint(groups[i] for i in range(40) if i not in holdouts[0])
    for i in set(range(40)) - holdouts[0]:
        assert sorted(splits[i] for splits in folds) == ["test", "train", "train", "validation"]
    other = assign_splits(manifest, groups, recipe("data.folds=4", "data.holdout=0.2", "data.split_seed=5"))
    assert {i for i, split in enumerate(other) if split == "holdout"} != holdouts[0]


def test_cases_without_a_given_fold_are_the_holdout(recipe: Callable[..., Recipe]) -> None:
    manifest, groups = manifest_of(16, extra=lambda i: {"fold": ["0", "1", "2", ""][i // 4 % 4]})
    splits = assign_splits(manifest, groups, recipe("data.folds=3", "data.fold=2", "data.holdout=0.25"))
    assert splits == [["validation", "train", "test", "holdout"][i // 4 % 4] for i in range(32)]
    with pytest.raises(UsageError, match="3 folds, but the column 'fold' holds empty cells, 0, 1, 2"):
        assign_splits(manifest, groups, recipe("data.folds=3"))
    full, groups = manifest_of(16, extra=lambda i: {"fold": str(i // 4 % 3)})
    with pytest.raises(UsageError, match="3 folds and a hold-out, but the column 'fold' holds 0, 1, 2"):
        assign_splits(full, groups, recipe("data.folds=3", "data.holdout=0.25"))


def test_a_holdout_needs_folds_and_leaves_enough_groups(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UsageError, match=r"holdout is 0\.2, but there are no folds"):
        recipe("data.holdout=0.2")
    with pytest.raises(UsageError, match="For 4 folds and a hold-out each class needs at least 5 groups"):
        assign_splits(*manifest_of(8), recipe("data.folds=4", "data.holdout=0.2"))
    with pytest.raises(UsageError, match=r"Outside a hold-out of 0\.5, the class 'a' has 3 .* a smaller hold-out"):
        assign_splits(*manifest_of(12), recipe("data.folds=4", "data.holdout=0.5"))


def test_joined_data_sets_of_which_one_states_a_split(
    toy_patients: Manifest, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    half = len(toy_patients) // 2
    given = [*(["train"] * (half // 2)), *(["test"] * (half - half // 2)), *([None] * half)]
    cases = tuple(
        replace(case, name=f"{'ab'[i >= half]}/{case.name}", source="ab"[i >= half], split=split)
        for i, (case, split) in enumerate(zip(toy_patients.cases, given, strict=True))
    )
    manifest = replace(toy_patients, cases=cases, sets=tuple(DataSet(name, Path(name), True) for name in "ab"))
    data = open_training_data(manifest, recipe(), tmp_path, SilentProgress())
    assert data.split_source() == "partly given"
    assert [split for split, stated in zip(data.splits, given, strict=True) if stated == "test"] == ["test"] * (
        half - half // 2
    )
    assert set(data.splits[half:]) == {"train", "validation", "test"}
    assert sum(sum(n.values()) for n in data.sources().values()) == len(manifest)
    assert set(data.sources()) == {"a", "b"}
    [line] = [line for line in data.summary() if line.startswith("Sources: ")]
    assert line.startswith(f"Sources: a {half} (train ")
    without = replace(manifest, cases=tuple(replace(case, source=None) for case in cases))
    assert replace(data, manifest=without).sources() == {}


def test_a_recipe_without_a_holdout_keeps_its_digest(recipe: Callable[..., Recipe]) -> None:
    assert "holdout" not in recipe("data.folds=4").published()["data"]
    assert recipe("data.folds=4", "data.holdout=0.1").published()["data"]["holdout"] == 0.1


def test_given_splits_and_folds_are_kept(recipe: Callable[..., Recipe]) -> None:
    names = ("train", "train", "validation", "test")
    manifest, groups = manifest_of(8, split=lambda i: names[i // 2 % 4])
    assert has_given_split(manifest, None)
    assert not has_given_split(manifest, 4)
    assert assign_splits(manifest, groups, recipe()) == [names[i // 2 % 4] for i in range(16)]
    manifest, groups = manifest_of(8, extra=lambda i: {"fold": str(i // 4 % 2)})
    assert has_given_split(manifest, 2)
    assert not has_given_split(manifest, None)


def test_the_training_data_of_a_run(marked: Manifest, recipe: Callable[..., Recipe], cache: Path, listener: Any) -> None:
    data = open_training_data(marked, recipe("data.group_by=patient", "data.allow_leakage=false"), cache, listener)
    counts = data.counts()
    assert {label: sum(counts[split][label] for split in counts) for label in ("Healthy", "Tumor")} == {
        "Healthy": 24,
        "Tumor": 24,
    }
    rows = [data.indices(split) for split in counts]
    assert sorted(row for part in rows for row in part) == list(range(48))
    assert data.names(rows[0])[:1] == [data.manifest.cases[rows[0][0]].name]
    assert (data.split_source(), data.leaked_cases()) == ("drawn", {})
    assert listener.open == 0
    [summary] = data.summary()
    validation = f"validation {len(rows[1])} (Healthy {counts['validation']['Healthy']}, Tumor {counts['validation']['Tumor']})"
    patients = {case.patient_id for case in data.manifest.cases}
    assert summary.startswith(f"Images: train {len(rows[0])} (Healthy ")
    assert validation in summary
    assert summary.endswith(f"; {len(patients)} patients; the split is drawn.")


def test_a_class_that_a_given_split_lacks_is_named(
    marked: Manifest, recipe: Callable[..., Recipe], cache: Path, listener: Any
) -> None:
    drawn = open_training_data(marked, recipe("data.group_by=patient", "data.allow_leakage=false"), cache, listener)
    pairs = zip(drawn.manifest.cases, drawn.splits, strict=True)
    given = [replace(case, split=split) for case, split in pairs if (case.label, split) != ("Tumor", "validation")]
    data = open_training_data(replace(marked, cases=tuple(given)), recipe("data.allow_leakage=false"), cache, listener)
    assert data.counts()["validation"]["Tumor"] == 0
    summary, lacking = data.summary()
    assert "Tumor 0)" in summary
    assert summary.endswith("the split is given.")
    assert lacking == "The validation split has no case of Tumor; metrics that need them are undefined."


def test_an_image_with_two_labels_stops_the_run(
    marked: Manifest, recipe: Callable[..., Recipe], cache: Path, listener: Any
) -> None:
    healthy = next(case for case in marked.cases if case.label == "Healthy")
    again = replace(healthy, label="Tumor", name="again.png")
    conflicting = replace(marked, cases=(*marked.cases, again))
    with pytest.raises(
        CheckFailedError, match=r"2 of 49 images .*Healthy/000\.png \(Healthy\) and again\.png .*--allow-conflicts"
    ):
        open_training_data(conflicting, recipe(), cache, listener)
    allowed = open_training_data(conflicting, recipe("data.allow_conflicts=true"), cache, listener)
    assert (allowed.label_conflicts or "").startswith("2 of 49 images")
    assert open_training_data(marked, recipe(), cache, listener).label_conflicts is None


def test_a_patient_in_two_splits_stops_the_run(
    marked: Manifest, recipe: Callable[..., Recipe], cache: Path, listener: Any
) -> None:
    with pytest.raises(CheckFailedError, match=r"A patient appears in two .*--allow-leakage"):
        open_training_data(marked, recipe("data.group_by=none", "data.allow_leakage=false"), cache, listener)
    allowed = open_training_data(marked, recipe("data.group_by=none"), cache, listener)
    assert set(allowed.leaked_cases()) <= set(
        allowed.names(allowed.indices("test")) + allowed.names(allowed.indices("validation"))
    )
    assert allowed.leaked_cases()


def test_each_class_needs_two_images(marked: Manifest, recipe: Callable[..., Recipe], cache: Path, listener: Any) -> None:
    few = marked.subset([*range(24), 30])
    with pytest.raises(UsageError, match="1 case of the class 'Tumor' could be read, and 0 could not"):
        open_training_data(few, recipe(), cache, listener)


def test_sources_that_lack_a_class_are_named(
    marked: Manifest, recipe: Callable[..., Recipe], cache: Path, listener: Any
) -> None:
    def messages(source_of: Callable[[int, Case], str | None]) -> list[str]:
        listener.messages.clear()
        cases = (replace(case, source=source_of(i, case)) for i, case in enumerate(marked.cases))
        open_training_data(replace(marked, cases=tuple(cases)), recipe("data.balance_sources=true"), cache, listener)
        return [text for text in listener.messages if "balance_sources" in text]

    assert messages(lambda i, _: "ab"[i // 2 % 2]) == []
    [text] = messages(lambda i, case: "a" if case.label == "Tumor" else ("a", None)[i // 2 % 2])
    assert text == (
        "data.balance_sources cannot balance 1 source without training images of some class: not stated (no Tumor). "
        "The source still tells something about the class there."
    )


@pytest.mark.parametrize(("source", "reason"), [(None, "no source"), ("hospital A", "one source")])
def test_balancing_needs_two_sources(
    source: str | None,
    reason: str,
    marked: Manifest,
    recipe: Callable[..., Recipe],
    cache: Path,
    listener: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check comes before the images are decoded."""
    monkeypatch.setattr("reslink.training.data._open_cache", lambda *_: pytest.fail("the images are decoded"))
    stated = replace(marked, cases=tuple(replace(case, source=source) for case in marked.cases))
    with pytest.raises(UsageError, match=f"the images state {reason}.*two or more sources.*--columns source=COLUMN"):
        open_training_data(stated, recipe("data.balance_sources=true"), cache, listener)


def test_files_are_hashed_again_on_request(
    toy: Manifest, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[bool] = []
    plain = PixelCache.open.__func__  # type: ignore[attr-defined]

    def watched(cls: type[PixelCache], *args: Any, verify: bool) -> PixelCache:
        requested.append(verify)
        opened: PixelCache = plain(cls, *args, verify=verify)
        return opened

    monkeypatch.setattr(PixelCache, "open", classmethod(watched))
    for settings in ([], ["trainer.verify_files=true"]):
        open_training_data(toy, recipe(*settings), tmp_path, SilentProgress())
    assert requested == [False, True]
