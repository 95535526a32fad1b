"""Sources: conflicts between them, and whether they give the label away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reslink.audit.checks.sources import (
    check_source,
    check_sources,
    conflicts_between_sources,
    cramers_v,
    describe_source_conflicts,
    source_names,
)
from reslink.datasets.case import Case
from reslink.datasets.manifest import DataSet, Manifest
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.errors import UsageError
from reslink.labels import Labels

pytestmark = pytest.mark.usefixtures("few_trees")


def data(labels: Sequence[str], sources: Sequence[str | None]) -> Manifest:
    cases = tuple(
        Case(Path(f"{i}.png"), label, source=source, name=f"{i}.png")
        for i, (label, source) in enumerate(zip(labels, sources, strict=True))
    )
    return Manifest(cases, Labels(("Healthy", "Tumor")), Path())


def features(values: Sequence[float], seed: int = 0) -> list[Any]:
    """Features outside the head: the given value and noise."""
    rng = np.random.default_rng(seed)
    return [SimpleNamespace(outside_head=np.array([value, *rng.normal(size=77)], np.float32)) for value in values]


def test_the_source_of_a_joined_case_is_its_data_set() -> None:
    manifest = data(["Healthy", "Tumor"], ["a: x", None])
    assert source_names(manifest) == ["a: x", ""]
    joined = replace(
        manifest,
        cases=(replace(manifest.cases[0], name="a/0.png"), replace(manifest.cases[1], name="b/1.png")),
        sets=(DataSet("a", Path(), True), DataSet("b", Path(), True)),
    )
    assert source_names(joined) == ["a", "b"]


def test_a_trusted_source_exists_and_is_not_the_only_one() -> None:
    manifest = data(["Healthy", "Tumor"], ["north", "south"])
    check_source(manifest, "north")
    with pytest.raises(UsageError, match=r"--labels-from names 'sout'.*The sources are north, south\. Did you mean 'south'\?"):
        check_source(manifest, "sout")
    with pytest.raises(UsageError, match=r"the only source of the data"):
        check_source(data(["Healthy", "Tumor"], ["north", None]), "north")
    with pytest.raises(UsageError, match=r"The data states no sources"):
        check_source(data(["Healthy", "Tumor"], [None, None]), "north")
    with pytest.raises(UsageError, match=r"--labels-from"):
        check_source(replace(manifest, labels=Labels(("a", "b"), exclusive=False)), "north")


def test_conflicts_are_between_sources_and_almost_identical_images() -> None:
    cases = data(["Healthy", "Tumor", "Tumor", "Healthy", "Tumor"], ["a", "b", "a", "b", None]).cases
    sources = ["a", "b", "a", "b", ""]
    pairs = [
        DuplicatePair(0, 1, 0.95, 4),
        DuplicatePair(0, 2, 0.99, 0),  # one source
        DuplicatePair(2, 3, 0.99, 0),
        DuplicatePair(1, 2, 0.99, 0),  # one label
        DuplicatePair(0, 4, 0.99, 0),  # unknown source
    ]
    found = conflicts_between_sources(cases, sources, [*pairs, DuplicatePair(1, 3, 0.93, 0)])
    assert found == [pairs[2], pairs[0]]
    assert describe_source_conflicts(cases, sources, found) == [
        "a and b label the same images differently (Healthy in a and Tumor in b: 1 pair, correlation 0.950 to 0.950; "
        "Tumor in a and Healthy in b: 1 pair, correlation 0.990 to 0.990)"
    ]


def test_cramers_v() -> None:
    first = np.repeat([0, 1], 50)
    assert cramers_v(first, first) == pytest.approx(1)
    assert cramers_v(first, np.tile([0, 1], 50)) == pytest.approx(0)
    assert cramers_v(first, np.zeros(100, np.int64)) == 0
    table = np.repeat([0, 0, 1, 1], [30, 20, 10, 40]), np.repeat([0, 1, 0, 1], [30, 20, 10, 40])
    assert cramers_v(*table) == pytest.approx(0.4082, abs=1e-4), "as sqrt(chi2 / n), chi2 = 16.667"


class TestSources:
    """A planted source that gives the label away, and one that does not."""

    def test_confounded(self) -> None:
        labels = ["Healthy"] * 54 + ["Tumor"] * 6 + ["Tumor"] * 54 + ["Healthy"] * 6
        manifest = data(labels, ["a"] * 60 + ["b"] * 60)
        found = check_sources(features([0] * 60 + [3] * 60), manifest, [f"g{i}" for i in range(120)])
        assert found is not None
        assert found.counts == {"a": {"Healthy": 54, "Tumor": 6}, "b": {"Healthy": 6, "Tumor": 54}}
        assert found.outside_head is not None
        assert found.outside_head.balanced_accuracy.estimate > 0.7
        [one] = found.labels
        assert one.balanced_accuracy.estimate == pytest.approx(0.9)
        assert one.balanced_accuracy.ci_low is not None
        assert one.balanced_accuracy.ci_low > 0.8
        assert one.cramers_v == pytest.approx(0.8)
        assert found.conclusion().startswith("Source and label are confounded")
        assert "data.balance_sources" in found.conclusion()
        result = found.as_dict()
        assert result["outside_head"]["above_chance"]
        assert result["labels"][0]["predicts"]

    def test_not_confounded(self) -> None:
        manifest = data(["Healthy", "Tumor"] * 60, ["a"] * 60 + ["b"] * 60)
        found = check_sources(features([0] * 120), manifest, [f"g{i}" for i in range(120)])
        assert found is not None
        assert found.outside_head is not None
        assert not found.outside_head.above_chance
        assert found.labels[0].cramers_v == pytest.approx(0)
        assert found.conclusion().startswith("No sign that the source predicts the class: balanced accuracy 0.")
        assert " (95 % interval 0." in found.conclusion()
        assert found.conclusion().endswith("), chance 0.500.")

    def test_too_few_groups_to_tell(self) -> None:
        labels = ["Healthy", "Tumor"] * 6 + ["Healthy"] * 4 + ["Tumor"] * 8
        manifest = data(labels, ["a"] * 12 + ["b"] * 12)
        found = check_sources(features([0] * 24), manifest, [f"g{i}" for i in range(24)])
        assert found is not None
        assert found.labels[0].cramers_v > 0.1
        assert found.conclusion().startswith("Too few groups to tell whether the source predicts the class: Cramér's V 0.1")
        result = found.as_dict()["labels"][0]
        assert (result["predicts"], result["undecided"]) == (False, True)

    def test_the_source_predicts_but_is_hidden_outside_the_head(self) -> None:
        manifest = data(["Healthy"] * 60 + ["Tumor"] * 60, ["a"] * 60 + ["b"] * 60)
        found = check_sources(features([0] * 120), manifest, [f"g{i}" for i in range(120)])
        assert found is not None
        assert found.conclusion().startswith("The source predicts the class, and a model may recognize it from the brain too")

    def test_several_labels_are_measured_one_by_one(self) -> None:
        manifest = data(["x"] * 80, ["a"] * 40 + ["b"] * 40)
        states = [(int(i < 40), i % 2) if i != 5 else (-1, 0) for i in range(80)]
        cases = tuple(replace(case, states=state) for case, state in zip(manifest.cases, states, strict=True))
        manifest = replace(manifest, cases=cases, labels=Labels(("one", "two"), exclusive=False))
        found = check_sources(features([0] * 80), manifest, [f"g{i}" for i in range(80)])
        assert found is not None
        assert [(one.label, one.predicts) for one in found.labels] == [("one", True), ("two", False)]
        assert found.labels[0].balanced_accuracy.n == 79
        assert "it predicts 'one'" in found.conclusion() or "The source predicts 'one'" in found.conclusion()

    def test_too_few(self) -> None:
        assert check_sources(features([0] * 4), data(["Healthy", "Tumor"] * 2, ["a", "a", None, None]), list("abcd")) is None
        few = check_sources(features([0] * 4), data(["Healthy", "Tumor"] * 2, ["a", "a", "b", "b"]), list("aabb"))
        assert few is not None
        assert few.outside_head is None
        assert few.labels == ()
        assert set(few.skipped) == {"sources: outside_head", "sources: class"}
        assert few.conclusion() == ""
        assert few.as_dict()["outside_head"] is None
        sources = [f"s{i}" for i in range(30)]
        many = check_sources(features([0] * 30), data(["Healthy", "Tumor"] * 15, sources), sources)
        assert many is not None
        assert many.skipped == {"sources": "there are 30 sources, and at most 20 are compared"}
