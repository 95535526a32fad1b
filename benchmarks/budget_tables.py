"""Tables and curves of ``time_to_result.py``; numbers in, text and pictures out."""

from __future__ import annotations

import fcntl
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reslink.errors import UsageError

OURS = "reslink"
COLOURS = {
    OURS: "#d1495b",
    "densenet121": "#00798c",
    "resnet18": "#6a4c93",
    "efficientnet_b0": "#7a8b00",
    "kaggle_cnn": "#8d6b48",
}
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Returns the rows of a file of results; none where it is not there.

    Raises:
        UsageError: If a line is no result.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UsageError(
                f"Line {number} of {path} is no JSON", "A file of results has one JSON object a line", "Take the line out"
            ) from error
    return rows


def append(path: Path, row: Row) -> None:
    """Adds a line to the file of results; two processes never mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps(row, allow_nan=False) + "\n")


def rate_scores(rows: Iterable[Row]) -> dict[str, dict[float, float]]:
    """Returns the validation AUROC of each learning rate of each peer, mean over data sets and seeds.

    Only runs of the shortest budget at which the peer was tried with most rates count, and of those the data sets and seeds
    that all these rates were tried on, so that later runs with the chosen rate do not change the choice.

    Raises:
        UsageError: If there is none that all of them were tried on.
    """
    found: dict[str, dict[float, dict[float, dict[tuple[Any, ...], float]]]] = {}
    for row in rows:
        if row["network"] != OURS:
            tried = found.setdefault(row["network"], {}).setdefault(row["minutes"], {}).setdefault(row["lr"], {})
            tried[row["data"], row["seed"], row["size"], row["cores"]] = row["curve"][-1]["auroc"] or 0.0
    scores = {}
    for name, by_minutes in found.items():
        minutes = min(by_minutes, key=lambda m: (-len(by_minutes[m]), m))
        rates = by_minutes[minutes]
        common = set.intersection(*(set(tried) for tried in rates.values()))
        if not common:
            raise UsageError(
                f"The learning rates of {name} were tried on different data sets or seeds",
                "Rates are compared on the same data set and seed",
                f"Run {', '.join(f'--lr {rate:g}' for rate in sorted(rates))} on one data set, or keep a file for each",
            )
        scores[name] = {rate: statistics.mean(tried[cell] for cell in common) for rate, tried in sorted(rates.items())}
    return scores


def best_rates(rows: Iterable[Row]) -> dict[str, float]:
    """Returns the learning rate of each peer with the highest validation AUROC in ``rate_scores``."""
    return {name: max(scores, key=lambda rate: scores[rate]) for name, scores in rate_scores(rows).items()}


def rate_lines(rows: Sequence[Row]) -> list[str]:
    """Returns a line a peer: what each learning rate reached on the validation part."""
    best = best_rates(rows)
    lines = []
    for name, scores in rate_scores(rows).items():
        tried = ", ".join(f"{rate:g}: {score:.4f}" for rate, score in scores.items())
        lines.append(f"{name}: best learning rate {best[name]:g} (validation AUROC {tried})")
    return lines


def judged(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that are quoted: of each peer those with its best learning rate."""
    best = best_rates(rows)
    return [row for row in rows if row["network"] == OURS or row["lr"] == best[row["network"]]]


def interval(rows: Sequence[Row], name: str) -> str:
    """Returns a figure of the test part, mean over seeds, with the mean of the lower and upper ends."""
    found = [row["test"][name] for row in rows]
    if not found or any(entry["estimate"] is None for entry in found):
        return "–"
    mean = statistics.mean(entry["estimate"] for entry in found)
    if any(entry["ci_low"] is None for entry in found):
        return f"{mean:.3f}"
    low, high = (statistics.mean(entry[key] for entry in found) for key in ("ci_low", "ci_high"))
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def until(rows: Sequence[Row], level: float) -> tuple[float, int] | None:
    """Returns seconds and images until the validation part first stood at a level, in any of the runs; None if never."""
    reached = [
        (moment["seconds"], moment["images"])
        for row in rows
        for moment in row["curve"]
        if moment["auroc"] is not None and moment["auroc"] >= level
    ]
    return min(reached) if reached else None


def _levels(rows: Sequence[Row], level: float) -> str:
    """Returns the median over seeds of the time to a level, of the runs that were looked at on their way."""
    rows = [row for row in rows if len(row["curve"]) > 1]
    seeds = sorted({row["seed"] for row in rows})
    if not seeds:
        return "–"
    found = [until([row for row in rows if row["seed"] == seed], level) for seed in seeds]
    known = [entry for entry in found if entry is not None]
    if len(known) < len(seeds):
        return f"not reached with {len(seeds) - len(known)} of {len(seeds)} seeds"
    seconds, images = (statistics.median(column) for column in zip(*known, strict=True))
    return f"{seconds:.0f} s, {images:,.0f} images"


def _order(rows: Sequence[Row]) -> list[str]:
    return sorted({row["network"] for row in rows}, key=lambda name: (name != OURS, name))


def settings(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Returns rows by what must be equal for them to stand in one table: data set, side of the input, cores."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["data"], row["size"], row["cores"]), []).append(row)
    return found


def all_tables(rows: Sequence[Row], level: float) -> list[str]:
    """Returns the tables of all data sets as Markdown, and the peers' learning rates."""
    quoted = judged(rows)
    recipes = {row["recipe_digest"] for row in quoted if row["network"] == OURS and row["seed"] == quoted[0]["seed"]}
    lines = [line for key, found in settings(quoted).items() for line in _table(key, found, level)]
    if len(recipes) > 1:
        lines.append(f"Of ours {len(recipes)} different recipes stand in this file; keep a file for each recipe.")
    return [*lines, *rate_lines(rows), "Research use only."]


def _table(key: tuple[Any, ...], rows: Sequence[Row], level: float) -> list[str]:
    data, size, cores = key
    budgets = sorted({row["minutes"] for row in rows})
    first = rows[0]
    heads = [f"{minutes:g} min: {name}" for minutes in budgets for name in ("AUROC", "accuracy")]
    last = ["images a second", f"until validation AUROC {level:g}"]
    lines = [
        f"**{data}**, input {size}×{size}, {first['n_train']} training images; test part {first['n_test']} images in "
        f"{first['groups_test']} groups; 1 min on {cores:g} cores is {60 * cores:g} s of processor time on one thread.",
        "",
        "| " + " | ".join(["network", "parameters", "seeds", *heads, *last]) + " |",
        "|---|--:|--:" + "|--:" * (len(heads) + len(last)) + "|",
    ]
    for name in _order(rows):
        own = [row for row in rows if row["network"] == name]
        figures = [interval(_at(own, minutes), figure) for minutes in budgets for figure in ("auroc", "accuracy")]
        pace = statistics.median(row["images"] / row["seconds"] for row in own)
        counts = [len({row["seed"] for row in _at(own, minutes)}) for minutes in budgets]
        seeds = str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))
        cells = [name, f"{own[0]['parameters']:,}", seeds, *figures, f"{pace:.1f}", _levels(own, level)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *_verdict(rows, budgets), ""]


def _at(rows: Sequence[Row], minutes: float) -> list[Row]:
    return [row for row in rows if row["minutes"] == minutes]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row["test"][name]["estimate"] for row in rows]
    return statistics.mean(values) if values and None not in values else None


def _verdict(rows: Sequence[Row], budgets: Sequence[float]) -> list[str]:
    """Returns a line a figure: ours after the shortest budget beside the best peer after the longest."""
    lines = []
    for name in ("auroc", "accuracy"):
        ours = _mean([row for row in _at(rows, budgets[0]) if row["network"] == OURS], name)
        peers = {
            peer: found
            for peer in _order(rows)
            if peer != OURS and (found := _mean([r for r in _at(rows, budgets[-1]) if r["network"] == peer], name)) is not None
        }
        if ours is None or not peers:
            continue
        best = max(peers, key=lambda peer: peers[peer])
        lines.append(
            f"{name}: ours after {budgets[0]:g} min {ours:.4f}, best peer after {budgets[-1]:g} min {peers[best]:.4f} ({best})."
        )
    return lines


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws one picture a data set, as PNG and SVG: validation AUROC as it rises, test AUROC and accuracy at each budget."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "reslink", "axes.spines.top": False, "axes.spines.right": False}):
        for (data, size, cores), found in settings(judged(rows)).items():
            figure = Figure(figsize=(11, 3.8), layout="constrained")
            left, middle, right = figure.subplots(1, 3)
            _rising(left, found)
            _at_budgets(middle, found, "auroc", "AUROC, test part")
            _at_budgets(right, found, "accuracy", "accuracy, test part")
            time = f"1 min is {60 * cores:g} s of processor time of training on one thread"
            figure.suptitle(f"{data}, {size}×{size}; {time}; bars: 95 % interval over groups", fontsize=10)
            figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
            for kind in ("png", "svg"):
                path = folder / f"time_to_result_{data}_{size}.{kind}"
                figure.savefig(path, dpi=150, metadata={"Date": None} if kind == "svg" else None)
                written.append(path)
    return written


def _rising(axes: Any, rows: Sequence[Row]) -> None:
    """Draws a curve for each run that was looked at on its way, and the end of each run as a point."""
    for name in _order(rows):
        for row in (row for row in rows if row["network"] == name):
            moments = [moment for moment in row["curve"] if moment["auroc"] is not None]
            x, y = [m["seconds"] for m in moments], [m["auroc"] for m in moments]
            axes.plot(x, y, marker=".", ms=3, lw=2 if name == OURS else 1.2, color=COLOURS[name])
            axes.plot(x[-1:], y[-1:], ls="", marker="D", ms=4, color=COLOURS[name])
    _time_axis(axes, sorted({row["minutes"] for row in rows}), rows[0]["cores"])
    axes.set_ylabel("AUROC, validation part")
    axes.set_title("each run as it goes on; ◆ its end", fontsize=9)


def _at_budgets(axes: Any, rows: Sequence[Row], figure: str, title: str) -> None:
    budgets = sorted({row["minutes"] for row in rows})
    names = _order(rows)
    for place, name in enumerate(names):
        shift = 1.04 ** (place - (len(names) - 1) / 2)  # side by side on the logarithmic axis
        points = [
            (row["minutes"] * row["cores"] * 60 * shift, row["test"][figure])
            for row in rows
            if row["network"] == name and row["test"][figure]["estimate"] is not None
        ]
        for x, entry in points:
            if entry["ci_low"] is not None:
                axes.plot([x, x], [entry["ci_low"], entry["ci_high"]], color=COLOURS[name], lw=1, alpha=0.5)
        each = [(m, _mean([row for row in _at(rows, m) if row["network"] == name], figure)) for m in budgets]
        means = [(m, value) for m, value in each if value is not None]
        seconds = [m * rows[0]["cores"] * 60 * shift for m, _ in means]
        line = {"marker": "o", "ms": 4, "lw": 2 if name == OURS else 1.2, "color": COLOURS[name], "label": name}
        axes.plot(seconds, [v for _, v in means], **line)
    _time_axis(axes, budgets, rows[0]["cores"])
    axes.set_ylabel(title)
    axes.set_title(f"{title}, mean of seeds", fontsize=9)


def _time_axis(axes: Any, minutes: Sequence[float], cores: float) -> None:
    """Marks some moments on a logarithmic axis of seconds, in minutes on the cores."""
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([m * 60 * cores for m in minutes], [f"{m:g} min" for m in minutes])
    axes.grid(alpha=0.25)
