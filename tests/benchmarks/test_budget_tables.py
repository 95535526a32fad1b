"""The tables choose the learning rate of a peer on the validation split and show the test split."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reslink.errors import UsageError


def row(network: str, minutes: float, test: float, validation: float, *, lr: float = 1e-3, seed: int = 0) -> dict[str, Any]:
    def entry(value: float) -> dict[str, Any]:
        return {"estimate": value, "ci_low": value - 0.02, "ci_high": value + 0.01, "method": "bootstrap", "n": 50}

    curve = [
        {"seconds": 12.0 * minutes, "images": int(100 * minutes), "auroc": validation - 0.1, "weights": "raw"},
        {"seconds": 120.0 * minutes, "images": int(1000 * minutes), "auroc": validation, "weights": "average"},
    ]
    return {
        **{"data": "set", "network": network, "minutes": minutes, "cores": 2.0, "seed": seed, "size": 64, "lr": lr},
        **{"data_digest": "d", "recipe_digest": f"{network}{lr}", "parameters": 1234, "n_train": 90, "n_test": 50},
        **{"seconds": 120.0 * minutes, "images": int(1000 * minutes), "groups_test": 40, "curve": curve},
        "test": {"auroc": entry(test), "accuracy": entry(test - 0.1)},
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        row("reslink", 1, 0.96, 0.95, lr=2e-3),
        row("reslink", 10, 0.99, 0.98, lr=2e-3),
        row("resnet18", 1, 0.99, 0.80, lr=3e-3),  # better on the test split, which must not count
        row("resnet18", 1, 0.90, 0.91),
        row("resnet18", 10, 0.97, 0.96),
        row("kaggle_cnn", 10, 0.93, 0.90),
    ]


def test_the_learning_rate_is_chosen_on_the_validation_split(budget_tables: ModuleType, rows: list[dict[str, Any]]) -> None:
    assert budget_tables.best_rates(rows) == {"resnet18": 1e-3, "kaggle_cnn": 1e-3}
    assert budget_tables.rate_scores(rows)["resnet18"] == {1e-3: 0.91, 3e-3: 0.80}
    quoted = budget_tables.rows_with_best_rates(rows)
    assert len(quoted) == 5
    assert not [run for run in quoted if run["lr"] == 3e-3]


def test_later_runs_with_the_chosen_rate_do_not_change_the_choice(
    budget_tables: ModuleType, rows: list[dict[str, Any]]
) -> None:
    later = [row("resnet18", 1, 0.9, 0.5, seed=seed) for seed in (1, 2)]
    assert budget_tables.best_rates(rows + later)["resnet18"] == 1e-3


def test_the_time_to_a_level_is_the_earliest_of_any_run(budget_tables: ModuleType, rows: list[dict[str, Any]]) -> None:
    ours = [run for run in rows if run["network"] == "reslink"]
    assert budget_tables.time_to_level(ours, 0.95) == (120.0, 1000)
    assert budget_tables.time_to_level(ours, 0.97) == (1200.0, 10000)
    assert budget_tables.time_to_level(ours, 0.985) is None


def test_metrics_are_means_over_seeds_with_the_mean_ends(budget_tables: ModuleType) -> None:
    both = [row("reslink", 1, 0.90, 0.9), row("reslink", 1, 0.96, 0.9, seed=1)]
    assert budget_tables.interval(both, "auroc") == "0.930 (0.910 to 0.940)"
    assert budget_tables.interval([], "auroc") == "–"
    both[0]["test"]["auroc"]["ci_low"] = None
    assert budget_tables.interval(both, "auroc") == "0.930"


def test_the_table_shows_metrics_and_time_to_level(budget_tables: ModuleType, rows: list[dict[str, Any]]) -> None:
    text = "\n".join(budget_tables.all_tables(rows, 0.95))
    assert "auroc: reslink after 1 min 0.9600, best peer after 10 min 0.9700 (resnet18)." in text
    ours, kaggle = (next(line for line in text.splitlines() if line.startswith(f"| {name}")) for name in ("reslink", "kaggle"))
    assert ours.split(" | ")[3:5] == ["0.960 (0.940 to 0.970)", "0.860 (0.840 to 0.870)"]
    assert ours.endswith("| 120 s, 1,000 images |")
    assert kaggle.endswith("| not reached with 1 of 1 seeds |")
    assert "Research use only." in text


def test_rows_are_appended_and_read_again(budget_tables: ModuleType, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    assert budget_tables.read(path) == []
    for run in rows:
        budget_tables.append(path, run)
    assert budget_tables.read(path) == rows
    with pytest.raises(ValueError, match="not JSON compliant"):
        budget_tables.append(path, {"auroc": float("nan")})
    assert budget_tables.read(path) == rows


def test_a_line_that_is_not_json_is_reported(budget_tables: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("{}\n{half", encoding="utf-8")
    with pytest.raises(UsageError, match=r"Line 2 of .*results\.jsonl is not JSON"):
        budget_tables.read(path)


def test_rates_that_were_tried_on_different_seeds_are_not_compared(budget_tables: ModuleType) -> None:
    apart = [row("resnet18", 1, 0.9, 0.9), row("resnet18", 1, 0.9, 0.8, lr=3e-3, seed=1)]
    with pytest.raises(UsageError, match="resnet18 were tried on different data sets or seeds"):
        budget_tables.best_rates(apart)


def test_a_run_without_evaluations_during_training_has_no_time_to_a_level(
    budget_tables: ModuleType, rows: list[dict[str, Any]]
) -> None:
    ends = [row("reslink", 1, 0.9, 0.99, seed=seed) for seed in (1, 2)]
    for run in ends:
        del run["curve"][0]
    both = "\n".join(budget_tables.all_tables(rows + ends, 0.95))
    ours = next(line for line in both.splitlines() if line.startswith("| reslink"))
    assert ours.endswith("| 120 s, 1,000 images |"), "as without them"
    assert ours.split(" | ")[2] == "3, 1", "seeds of 1 and of 10 minutes"
    assert "| – |" in "\n".join(budget_tables.all_tables(ends, 0.95))


def test_curves_are_drawn(budget_tables: ModuleType, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    png, svg = budget_tables.plots(rows, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()


def test_a_network_without_the_longest_run_has_its_name(
    budget_tables: ModuleType, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    _, svg = budget_tables.plots([*rows, row("densenet121", 1, 0.8, 0.8)], tmp_path)
    for name in ("reslink", "resnet18", "kaggle_cnn", "densenet121"):
        assert svg.read_text().count(f"<!-- {name} -->") == 1
