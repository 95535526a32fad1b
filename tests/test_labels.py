"""Class names, their order, and the positive class."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.labels import Labels


def test_sorted_by_name_and_the_last_of_two_is_positive() -> None:
    labels = Labels.sorted_from(["Tumor", "Healthy", "Tumor"])
    assert labels.names == ("Healthy", "Tumor")
    assert labels.positive == "Tumor"
    assert labels.index("Healthy") == 0
    assert Labels.sorted_from("abc").positive is None


def test_a_stated_order_is_kept_and_must_fit() -> None:
    assert Labels.ordered(["a", "b"], ["b", "a"]).positive == "a"
    with pytest.raises(UsageError, match=r"class order \['a'\] does not match"):
        Labels.ordered(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class"),
        (["Tumor"], "only the class 'Tumor'.*at least two classes"),
        (["tumor", "Tumor"], "'tumor' and 'Tumor' differ only in case or spaces"),
        (["a", "a "], "differ only in case or spaces"),
        (["a", " "], "class name is empty"),
    ],
)
def test_names_that_cannot_be_classes(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Labels(tuple(names))


def test_unknown_class_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no class 'Tumour'.*Did you mean 'Tumor'"):
        Labels(("Healthy", "Tumor")).index("Tumour")
