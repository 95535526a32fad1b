"""Reads and writes the results of ``time_to_result.py`` and makes tables and plots of them."""

from __future__ import annotations

import fcntl
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reslink.errors import UsageError

OURS = "reslink"
COLORS = {
    OURS: "#d1495b",
    "densenet121": "#00798c",
    "resnet18": "#6a4c93",
    "efficientnet_b0": "#7a8b00",
    "kaggle_cnn": "#8d6b48",
}
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Returns the rows of a results file; an empty list if there is no file.

    Raises:
        UsageError: If a line is not JSON.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UsageError(
                f"Line {number} of {path} is not JSON", "A results file has one JSON object per line", "Remove the line"
            ) from error
    return rows


def append(path: Path, row: Row) -> None:
    """Appends a line to the results file; a lock keeps processes apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps(row, allow_nan=False) + "\n")


def rate_scores(rows: Iterable[Row]) -> dict[str, dict[float, float]]:
    """Returns the validation AUROC of each learning rate of each peer, mean over data sets and seeds.

    Only runs of the budget with the most rates count (the shortest of several), and only data sets and seeds that were tried
    with all these rates. Later runs with the chosen rate do not change the choice.

    Raises:
        UsageError: If no data set and seed was tried with all rates.
    """
    by_network: dict[str, dict[float, dict[float, dict[tuple[Any, ...], float]]]] = {}
    for row in rows:
        if row["network"] != OURS:
            values = by_network.setdefault(row["network"], {}).setdefault(row["minutes"], {}).setdefault(row["lr"], {})
            values[row["data"], row["seed"], row["size"], row["cores"]] = row["curve"][-1]["auroc"] or 0.0
    scores = {}
    for name, by_minutes in by_network.items():
        minutes = min(by_minutes, key=lambda m: (-len(by_minutes[m]), m))
        rates = by_minutes[minutes]
        common = set.intersection(*(set(values) for values in rates.values()))
        if not common:
            raise UsageError(
                f"The learning rates of {name} were tried on different data sets or seeds",
                "Rates are compared on the same data set and seed",
                f"Run {', '.join(f'--lr {rate:g}' for rate in sorted(rates))} on one data set, or keep a file for each",
            )
        scores[name] = {rate: statistics.mean(values[cell] for cell in common) for rate, values in sorted(rates.items())}
    return scores


def best_rates(rows: Iterable[Row]) -> dict[str, float]:
    """Returns the learning rate of each peer with the highest validation AUROC in ``rate_scores``."""
    return {name: max(scores, key=lambda rate: scores[rate]) for name, scores in rate_scores(rows).items()}


def rate_lines(rows: Sequence[Row]) -> list[str]:
    """Returns one line per peer with the validation AUROC of each learning rate."""
    best = best_rates(rows)
    lines = []
    for name, scores in rate_scores(rows).items():
        tried = ", ".join(f"{rate:g}: {score:.4f}" for rate, score in scores.items())
        lines.append(f"{name}: best learning rate {best[name]:g} (validation AUROC {tried})")
    return lines


def rows_with_best_rates(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows for the tables: all of reslink, and of each peer those with its best learning rate."""
    best = best_rates(rows)
    return [row for row in rows if row["network"] == OURS or row["lr"] == best[row["network"]]]


def interval(rows: Sequence[Row], name: str) -> str:
    """Returns a metric of the test split, mean over seeds, with the mean lower and upper ends."""
    estimates = [row["test"][name] for row in rows]
    if not estimates or any(entry["estimate"] is None for entry in estimates):
        return "–"
    mean = statistics.mean(entry["estimate"] for entry in estimates)
    if any(entry["ci_low"] is None for entry in estimates):
        return f"{mean:.3f}"
    low, high = (statistics.mean(entry[key] for entry in estimates) for key in ("ci_low", "ci_high"))
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def time_to_level(rows: Sequence[Row], level: float) -> tuple[float, int] | None:
    """Returns seconds and images until the validation AUROC first reached a level in any of the runs; None if never."""
    reached = [
        (moment["seconds"], moment["images"])
        for row in rows
        for moment in row["curve"]
        if moment["auroc"] is not None and moment["auroc"] >= level
    ]
    return min(reached) if reached else None


def _levels(rows: Sequence[Row], level: float) -> str:
    """Returns the median over seeds of the time to a level, of the runs that were evaluated during training."""
    rows = [row for row in rows if len(row["curve"]) > 1]
    seeds = sorted({row["seed"] for row in rows})
    if not seeds:
        return "–"
    times = [time_to_level([row for row in rows if row["seed"] == seed], level) for seed in seeds]
    reached = [entry for entry in times if entry is not None]
    if len(reached) < len(seeds):
        return f"not reached with {len(seeds) - len(reached)} of {len(seeds)} seeds"
    seconds, images = (statistics.median(column) for column in zip(*reached, strict=True))
    return f"{seconds:.0f} s, {images:,.0f} images"


def _order(rows: Sequence[Row]) -> list[str]:
    return sorted({row["network"] for row in rows}, key=lambda name: (name != OURS, name))


def settings(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Returns the rows of each table, by data set, side of the input and cores."""
    tables: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        tables.setdefault((row["data"], row["size"], row["cores"]), []).append(row)
    return tables


def all_tables(rows: Sequence[Row], level: float) -> list[str]:
    """Returns the tables of all data sets as Markdown, and the peers' learning rates."""
    quoted = rows_with_best_rates(rows)
    recipes = {row["recipe_digest"] for row in quoted if row["network"] == OURS and row["seed"] == quoted[0]["seed"]}
    lines = [line for key, group in settings(quoted).items() for line in _table(key, group, level)]
    if len(recipes) > 1:
        lines.append(f"This file has runs of {len(recipes)} reslink recipes; keep one file per recipe.")
    return [*lines, *rate_lines(rows), "Research use only."]


def _table(key: tuple[Any, ...], rows: Sequence[Row], level: float) -> list[str]:
    data, size, cores = key
    budgets = sorted({row["minutes"] for row in rows})
    first = rows[0]
    heads = [f"{minutes:g} min: {name}" for minutes in budgets for name in ("AUROC", "accuracy")]
    last = ["images a second", f"until validation AUROC {level:g}"]
    lines = [
        f"**{data}**, input {size}×{size}, {first['n_train']} training images; test split {first['n_test']} images in "
        f"{first['groups_test']} groups; 1 min on {cores:g} cores is {60 * cores:g} s of processor time on one thread.",
        "",
        "| " + " | ".join(["network", "parameters", "seeds", *heads, *last]) + " |",
        "|---|--:|--:" + "|--:" * (len(heads) + len(last)) + "|",
    ]
    for name in _order(rows):
        of_network = [row for row in rows if row["network"] == name]
        intervals = [interval(_at(of_network, minutes), metric) for minutes in budgets for metric in ("auroc", "accuracy")]
        pace = statistics.median(row["images"] / row["seconds"] for row in of_network)
        counts = [len({row["seed"] for row in _at(of_network, minutes)}) for minutes in budgets]
        seeds = str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))
        cells = [name, f"{of_network[0]['parameters']:,}", seeds, *intervals, f"{pace:.1f}", _levels(of_network, level)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *_verdict(rows, budgets), ""]


def _at(rows: Sequence[Row], minutes: float) -> list[Row]:
    return [row for row in rows if row["minutes"] == minutes]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row["test"][name]["estimate"] for row in rows]
    return statistics.mean(values) if values and None not in values else None


def _verdict(rows: Sequence[Row], budgets: Sequence[float]) -> list[str]:
    """Returns one line per metric: reslink after the shortest budget and the best peer after the longest."""
    lines = []
    for name in ("auroc", "accuracy"):
        ours = _mean([row for row in _at(rows, budgets[0]) if row["network"] == OURS], name)
        peers = {
            peer: mean
            for peer in _order(rows)
            if peer != OURS and (mean := _mean([r for r in _at(rows, budgets[-1]) if r["network"] == peer], name)) is not None
        }
        if ours is None or not peers:
            continue
        best = max(peers, key=lambda peer: peers[peer])
        peer = f"best peer after {budgets[-1]:g} min {peers[best]:.4f} ({best})"
        lines.append(f"{name}: reslink after {budgets[0]:g} min {ours:.4f}, {peer}.")
    return lines


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Plots one figure per data set, as PNG and SVG: validation AUROC during training, test AUROC and accuracy by budget."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "reslink", "axes.spines.top": False, "axes.spines.right": False}):
        for (data, size, cores), group in settings(rows_with_best_rates(rows)).items():
            figure = Figure(figsize=(11, 3.8), layout="constrained")
            left, middle, right = figure.subplots(1, 3)
            _draw_curves(left, group)
            _draw_budgets(middle, group, "auroc", "AUROC, test split")
            _draw_budgets(right, group, "accuracy", "accuracy, test split")
            time = f"1 min is {60 * cores:g} s of processor time of training on one thread"
            figure.suptitle(f"{data}, {size}×{size}; {time}; bars: 95 % interval over groups", fontsize=10)
            figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
            for kind in ("png", "svg"):
                path = folder / f"time_to_result_{data}_{size}.{kind}"
                figure.savefig(path, dpi=150, metadata={"Date": None} if kind == "svg" else None)
                written.append(path)
    return written


def _draw_curves(axes: Any, rows: Sequence[Row]) -> None:
    """Draws a curve for each run that was evaluated during training, and the end of each run as a point."""
    for name in _order(rows):
        for row in (row for row in rows if row["network"] == name):
            moments = [moment for moment in row["curve"] if moment["auroc"] is not None]
            x, y = [m["seconds"] for m in moments], [m["auroc"] for m in moments]
            axes.plot(x, y, marker=".", ms=3, lw=2 if name == OURS else 1.2, color=COLORS[name])
            axes.plot(x[-1:], y[-1:], ls="", marker="D", ms=4, color=COLORS[name])
    _time_axis(axes, sorted({row["minutes"] for row in rows}), rows[0]["cores"])
    axes.set_ylabel("AUROC, validation split")
    axes.set_title("each run during training; ◆ end", fontsize=9)


def _draw_budgets(axes: Any, rows: Sequence[Row], metric: str, title: str) -> None:
    budgets = sorted({row["minutes"] for row in rows})
    names = _order(rows)
    for i, name in enumerate(names):
        shift = 1.04 ** (i - (len(names) - 1) / 2)  # side by side on the logarithmic axis
        points = [
            (row["minutes"] * row["cores"] * 60 * shift, row["test"][metric])
            for row in rows
            if row["network"] == name and row["test"][metric]["estimate"] is not None
        ]
        for x, entry in points:
            if entry["ci_low"] is not None:
                axes.plot([x, x], [entry["ci_low"], entry["ci_high"]], color=COLORS[name], lw=1, alpha=0.5)
        each = [(m, _mean([row for row in _at(rows, m) if row["network"] == name], metric)) for m in budgets]
        means = [(m, value) for m, value in each if value is not None]
        seconds = [m * rows[0]["cores"] * 60 * shift for m, _ in means]
        line = {"marker": "o", "ms": 4, "lw": 2 if name == OURS else 1.2, "color": COLORS[name], "label": name}
        axes.plot(seconds, [v for _, v in means], **line)
    _time_axis(axes, budgets, rows[0]["cores"])
    axes.set_ylabel(title)
    axes.set_title(f"{title}, mean of seeds", fontsize=9)


def _time_axis(axes: Any, minutes: Sequence[float], cores: float) -> None:
    """Labels a logarithmic axis of seconds with minutes on the cores."""
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([m * 60 * cores for m in minutes], [f"{m:g} min" for m in minutes])
    axes.grid(alpha=0.25)
