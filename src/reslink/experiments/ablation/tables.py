"""The tables of the ablation study besides the figures: stability, gates in right and wrong cases, area borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.experiments.report import Row, Table
from reslink.experiments.runner.compare_arms import COMPARED, Comparison, finite
from reslink.experiments.runner.results import Record
from reslink.experiments.runner.seed_statistics import Floats, OverSeeds, Runs, Sample
from reslink.networks.analysis import parameters
from reslink.networks.area_attention import AreaAttention
from reslink.networks.reslink import build
from reslink.reports.run.sections import signed

LAYERS = ("first", "final")
REGIONS = ("head", "lesion")
DIVERGED = ("learning-rate-diverges", "loss-not-finite")


def stability_table(found: Comparison) -> Table:
    """Returns how steadily each arm trains."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "spread_accuracy": ("SD over seeds, accuracy", "number"),
        "spread_auroc": ("SD over seeds, AUROC", "number"),
        "worst_accuracy": ("lowest accuracy of a seed", "number"),
        "gradient_median": ("gradient norm, median", "number"),
        "gradient_highest": ("gradient norm, highest", "number"),
        "clipped": ("steps clipped", "percent"),
        "diverged": ("diverged runs", "text"),
    }
    for layer in LAYERS:
        columns[f"{layer}_share"] = (f"gradient in {layer} attention", "percent")
        columns[f"{layer}_weights"] = (f"weights in {layer} attention", "percent")
    note = (
        "Gradient norms are those before clipping, at about 20 steps an epoch. Gradient in attention: share of the squared "
        "norm, median over these steps; beside it the share of the network's weights that the layer holds. A run counts as "
        "diverged if its loss ran away or was not finite."
    )
    return Table("stability", "Stability", columns, [_stability(found, arm) for arm in found.titles], note)


def _stability(found: Comparison, arm: str) -> Row:
    records, all_of_arm = found.of_arm(arm), [r for r in found.records if r.trial.arm == arm]
    steps = [step for record in records for step in record.steps]
    norms = np.array([step["gradient_norm"] for step in steps])
    clip = found.setting.recipe.optimizer.clip_norm
    diverged = sum(r.diverged or bool(set(r.findings) & set(DIVERGED)) for r in all_of_arm)
    worst = [found.runs.points[arm, r.trial.seed]["accuracy"] for r in records]
    row: Row = {
        "arm": arm,
        "title": found.titles[arm],
        "spread_accuracy": found.runs.spread(arm, "accuracy"),
        "spread_auroc": found.runs.spread(arm, "auroc"),
        "worst_accuracy": min(worst) if worst else None,
        "gradient_median": float(np.median(norms)) if len(norms) else None,
        "gradient_highest": float(norms.max()) if len(norms) else None,
        "clipped": float((norms > clip).mean()) if clip and len(norms) else None,
        "diverged": f"{diverged} of {len(all_of_arm)}",
    }
    weights = _weight_shares(found, all_of_arm[0]) if all_of_arm else {}
    for layer in LAYERS:
        shares = [step[f"{layer}_attention_gradient_share"] for step in steps if f"{layer}_attention_gradient_share" in step]
        row[f"{layer}_share"] = float(np.median(shares)) if shares else None
        row[f"{layer}_weights"] = weights.get(layer)
    return row


def _weight_shares(found: Comparison, record: Record) -> dict[str, float]:
    network = build(record.trial.recipe.network(len(found.setting.manifest.labels)), 0)
    total = parameters(network)
    modules = {name: module for name, module in network.named_modules() if isinstance(module, AreaAttention)}
    return {name.removesuffix("_attention"): parameters(module) / total for name, module in modules.items()}


def attention_table(found: Comparison) -> Table:
    """Returns the mean of α inside and outside head and lesion, in right and in wrong cases."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "layer": ("attention", "text"),
        "region": ("region", "text"),
        "right_inside": ("α inside, right cases", "number"),
        "right_outside": ("α outside, right", "number"),
        "wrong_inside": ("α inside, wrong cases", "number"),
        "wrong_outside": ("α outside, wrong", "number"),
        "contrast": ("α inside − outside, all cases", "test"),
        "difference": ("the same, right less wrong cases", "test"),
        "wrong_cases": ("wrong cases", "count"),
    }
    rows = [
        row
        for arm in found.titles
        for layer in LAYERS
        for region in REGIONS
        if (row := _attention(found, arm, layer, region)) is not None
    ]
    note = (
        "Mean of the gates α in a region, averaged over the test cases of all seeds. Lesion: against the rest of the head, in "
        "cases with a lesion. Outside the head the image is black where the head is isolated. p is not corrected."
    )
    return Table("attention", "Where the attention lies", columns, rows, note)


def _attention(found: Comparison, arm: str, layer: str, region: str) -> Row | None:
    records = [r for r in found.of_arm(arm) if f"{layer} inside {region}" in r.attention]
    pairs = [(r.attention[f"{layer} inside {region}"], r.attention[f"{layer} outside {region}"]) for r in records]
    if not any(np.isfinite(inside - outside).any() for inside, outside in pairs):
        return None
    right = np.concatenate([r.cases.right for r in records])
    inside, outside = (np.concatenate(values) for values in zip(*pairs, strict=True))
    known = np.isfinite(inside - outside)
    runs = Runs({(arm, r.trial.seed): _contrast(r, i - o) for r, (i, o) in zip(records, pairs, strict=True)})
    return {
        "arm": arm,
        "title": found.titles[arm],
        "layer": layer,
        "region": region,
        "right_inside": _average(inside, known & right),
        "right_outside": _average(outside, known & right),
        "wrong_inside": _average(inside, known & ~right),
        "wrong_outside": _average(outside, known & ~right),
        "contrast": _signed_mean(runs, arm, "contrast").as_dict(),
        "difference": _signed_mean(runs, arm, "right less wrong").as_dict(),
        "wrong_cases": int((known & ~right).sum()),
    }


def _signed_mean(runs: Runs, arm: str, figure: str) -> OverSeeds:
    return runs.mean(arm, figure, limits=(-1.0, 1.0))


def _contrast(record: Record, contrast: Floats) -> Sample:
    """The mean contrast of a run's cases, and its difference between right and wrong ones."""
    known = np.isfinite(contrast)
    values, right = np.where(known, contrast, 0.0), record.cases.right

    def mean(weights: Floats, cases: NDArray[np.bool_]) -> Floats:
        total = weights @ cases.astype(np.float64)
        summed = weights @ (values * cases)
        return np.asarray(np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0))

    def statistic(weights: Floats) -> dict[str, Floats]:
        apart = mean(weights, known & right) - mean(weights, known & ~right)
        return {"contrast": mean(weights, known), "right less wrong": apart}

    return Sample(record.cases.groups, statistic)


def _average(values: Floats, chosen: NDArray[np.bool_]) -> float | None:
    return float(values[chosen].mean()) if chosen.any() else None


def border_table(found: Comparison) -> Table:
    """Returns what the borders between areas cost: how much changes where the grid of areas is moved by half an area."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "probability_change": ("mean change of the probability", "number"),
        "flipped": ("other label", "percent"),
        "accuracy": ("accuracy, grid moved less grid as trained", "test"),
    }
    for layer in LAYERS:
        columns[f"{layer}_ratio"] = (f"step of α at borders / within areas, {layer}", "number")
    rows = [row for arm in found.titles if (row := _borders(found, arm)) is not None]
    note = (
        "The grid of areas is moved by half an area while the image stays, so whatever changes is due to where borders fall. "
        "Steps of α: mean difference between neighbouring pixels of two areas, divided by that within an area; 1 means that "
        "borders cannot be seen in the gates. An area of one pixel has no half to be moved by."
    )
    return Table("borders", "What the borders between areas cost", columns, rows, note)


def _borders(found: Comparison, arm: str) -> Row | None:
    records = [r for r in found.of_arm(arm) if r.attention]
    if not records or records[0].trial.recipe.network(len(found.setting.manifest.labels)).area_size < 2:
        return None
    names = found.setting.manifest.labels.names
    moved = {r.trial.seed: np.stack([r.attention[f"shifted p_{name}"] for name in names], axis=1) for r in records}
    change = np.concatenate([np.abs(moved[r.trial.seed] - r.cases.scores).sum(axis=1) / 2 for r in records])
    calls = {r.trial.seed: _calls(r, moved[r.trial.seed]) for r in records}
    flipped = np.concatenate([calls[r.trial.seed] != r.cases.calls for r in records])
    runs = Runs({(arm, r.trial.seed): _moved_accuracy(r, calls[r.trial.seed]) for r in records})
    row: Row = {
        "arm": arm,
        "title": found.titles[arm],
        "probability_change": float(change.mean()),
        "flipped": float(flipped.mean()),
        "accuracy": _signed_mean(runs, arm, "accuracy").as_dict(),
    }
    return row | {f"{layer}_ratio": _ratio(records, layer) for layer in LAYERS}


def _calls(record: Record, scores: Floats) -> NDArray[np.int64]:
    """Labels of probabilities by the threshold that the run's own calls were made with."""
    from reslink.bundles.bundle import Bundle

    return np.asarray(Bundle.load(record.folder / "bundle").decision.predict(scores), np.int64)


def _moved_accuracy(record: Record, calls: NDArray[np.int64]) -> Sample:
    change = np.asarray(calls == record.cases.truth, np.float64) - record.cases.right

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"accuracy": weights @ change / np.maximum(weights.sum(axis=1), 1e-9)}

    return Sample(record.cases.groups, statistic)


def _ratio(records: Sequence[Record], layer: str) -> float | None:
    at, within = f"{layer} step at borders", f"{layer} step within areas"
    if not all(at in r.attention for r in records):
        return None
    above = float(np.mean([np.nanmean(r.attention[at]) if np.isfinite(r.attention[at]).any() else np.nan for r in records]))
    below = float(np.mean([np.nanmean(r.attention[within]) for r in records]))
    return finite(above / below) if below > 0 else None


def answers(found: Comparison) -> list[str]:
    """Returns what the ablation says, in sentences."""
    said = [sentence for figure in COMPARED for sentence in found.summary(figure)]
    for row in attention_table(found).rows:
        low, high = row["difference"]["ci_low"], row["difference"]["ci_high"]
        if row["arm"] == found.reference and low is not None and high is not None:
            verdict = "no difference was shown" if low <= 0 <= high else "a difference"
            said.append(
                f"α inside less outside the {row['region']}, {row['layer']} attention: in right cases less in wrong cases "
                f"{signed(row['difference']['estimate'])} ({signed(low)} to {signed(high)}): {verdict}."
            )
    return said
