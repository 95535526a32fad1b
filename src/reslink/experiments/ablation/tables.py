"""Tables of the ablation experiment: training stability, attention by region, effect of area borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.experiments.report import Row, Table
from reslink.experiments.runner.comparison import COMPARED_METRICS, Comparison, none_if_nan
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.seed_statistics import Floats, SeedBootstrap, SeedEstimate, TrialSample
from reslink.networks.analysis import count_parameters
from reslink.networks.area_attention import AreaAttention
from reslink.networks.reslink import build_network
from reslink.reports.formatting import format_difference

LAYERS = ("first", "final")
REGIONS = ("head", "lesion")
DIVERGENCE_FINDINGS = ("learning-rate-diverges", "loss-not-finite")


def stability_table(comparison: Comparison) -> Table:
    """Returns the stability of the training of each condition."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "spread_accuracy": ("SD over seeds, accuracy", "number"),
        "spread_auroc": ("SD over seeds, AUROC", "number"),
        "worst_accuracy": ("lowest accuracy of a seed", "number"),
        "gradient_median": ("gradient norm, median", "number"),
        "gradient_max": ("gradient norm, maximum", "number"),
        "clipped": ("clipped steps", "percent"),
        "diverged": ("diverged runs", "text"),
    }
    for layer in LAYERS:
        columns[f"{layer}_gradient_share"] = (f"gradient in {layer} attention", "percent")
        columns[f"{layer}_parameter_share"] = (f"parameters in {layer} attention", "percent")
    note = (
        "Gradient norms are measured before clipping, at about 20 steps per epoch. Gradient in attention: share of the squared "
        "norm, median over these steps; compare with the share of the network's parameters in the layer. A run counts as "
        "diverged if its loss grew without bound or was not finite."
    )
    rows = [_stability_row(comparison, condition) for condition in comparison.titles]
    return Table("stability", "Stability", columns, rows, note)


def _stability_row(comparison: Comparison, condition: str) -> Row:
    successful = comparison.successful_of(condition)
    results = [result for result in comparison.results if result.trial.condition == condition]
    steps = [step for result in successful for step in result.steps]
    norms = np.array([step["gradient_norm"] for step in steps])
    clip_norm = comparison.experiment.recipe.optimizer.clip_norm
    diverged = sum(result.diverged or bool(set(result.findings) & set(DIVERGENCE_FINDINGS)) for result in results)
    accuracies = [comparison.bootstrap.points[condition, result.trial.seed]["accuracy"] for result in successful]
    row: Row = {
        "condition": condition,
        "title": comparison.titles[condition],
        "spread_accuracy": comparison.bootstrap.spread(condition, "accuracy"),
        "spread_auroc": comparison.bootstrap.spread(condition, "auroc"),
        "worst_accuracy": min(accuracies) if accuracies else None,
        "gradient_median": float(np.median(norms)) if len(norms) else None,
        "gradient_max": float(norms.max()) if len(norms) else None,
        "clipped": float((norms > clip_norm).mean()) if clip_norm and len(norms) else None,
        "diverged": f"{diverged} of {len(results)}",
    }
    parameter_shares = _parameter_shares(comparison, results[0]) if results else {}
    for layer in LAYERS:
        column = f"{layer}_attention_gradient_share"
        shares = [step[column] for step in steps if column in step]
        row[f"{layer}_gradient_share"] = float(np.median(shares)) if shares else None
        row[f"{layer}_parameter_share"] = parameter_shares.get(layer)
    return row


def _parameter_shares(comparison: Comparison, result: TrialResult) -> dict[str, float]:
    network = build_network(result.trial.recipe.reslink(len(comparison.experiment.manifest.labels)), 0)
    total = count_parameters(network)
    modules = {name: module for name, module in network.named_modules() if isinstance(module, AreaAttention)}
    return {name.removesuffix("_attention"): count_parameters(module) / total for name, module in modules.items()}


def attention_table(comparison: Comparison) -> Table:
    """Returns the mean of α inside and outside head and lesion, for correct and for wrong cases."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "layer": ("attention", "text"),
        "region": ("region", "text"),
        "correct_inside": ("α inside, correct cases", "number"),
        "correct_outside": ("α outside, correct cases", "number"),
        "wrong_inside": ("α inside, wrong cases", "number"),
        "wrong_outside": ("α outside, wrong cases", "number"),
        "contrast": ("α inside − outside, all cases", "test"),
        "difference": ("α inside − outside, correct minus wrong cases", "test"),
        "wrong_cases": ("wrong cases", "count"),
    }
    rows = [
        row
        for condition in comparison.titles
        for layer in LAYERS
        for region in REGIONS
        if (row := _attention_row(comparison, condition, layer, region)) is not None
    ]
    note = (
        "Mean of the attention weights α in a region, averaged over the test cases of all seeds. Lesion: compared with the "
        "rest of the head, in cases with a lesion. Outside the head the image is black if the head is isolated. p is "
        "not corrected."
    )
    return Table("attention", "Attention by region", columns, rows, note)


def _attention_row(comparison: Comparison, condition: str, layer: str, region: str) -> Row | None:
    inside_column, outside_column = f"{layer} inside {region}", f"{layer} outside {region}"
    results = [result for result in comparison.successful_of(condition) if inside_column in result.attention]
    pairs = [(result.attention[inside_column], result.attention[outside_column]) for result in results]
    if not any(np.isfinite(inside - outside).any() for inside, outside in pairs):
        return None
    correct = np.concatenate([result.predictions.correct for result in results])
    inside, outside = (np.concatenate(values) for values in zip(*pairs, strict=True))
    defined = np.isfinite(inside - outside)
    samples = {
        (condition, result.trial.seed): _contrast_sample(result, in_region - out_of_region)
        for result, (in_region, out_of_region) in zip(results, pairs, strict=True)
    }
    bootstrap = SeedBootstrap(samples)
    return {
        "condition": condition,
        "title": comparison.titles[condition],
        "layer": layer,
        "region": region,
        "correct_inside": _mean_of(inside, defined & correct),
        "correct_outside": _mean_of(outside, defined & correct),
        "wrong_inside": _mean_of(inside, defined & ~correct),
        "wrong_outside": _mean_of(outside, defined & ~correct),
        "contrast": _signed_mean(bootstrap, condition, "contrast").as_dict(),
        "difference": _signed_mean(bootstrap, condition, "correct minus wrong").as_dict(),
        "wrong_cases": int((defined & ~correct).sum()),
    }


def _signed_mean(bootstrap: SeedBootstrap, condition: str, metric: str) -> SeedEstimate:
    return bootstrap.mean(condition, metric, limits=(-1.0, 1.0))


def _contrast_sample(result: TrialResult, contrast: Floats) -> TrialSample:
    """Returns the mean contrast of a trial's cases, and its difference between correct and wrong cases."""
    defined = np.isfinite(contrast)
    values, correct = np.where(defined, contrast, 0.0), result.predictions.correct

    def mean(weights: Floats, selected: NDArray[np.bool_]) -> Floats:
        total = weights @ selected.astype(np.float64)
        summed = weights @ (values * selected)
        return np.asarray(np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0))

    def statistic(weights: Floats) -> dict[str, Floats]:
        difference = mean(weights, defined & correct) - mean(weights, defined & ~correct)
        return {"contrast": mean(weights, defined), "correct minus wrong": difference}

    return TrialSample(result.predictions.groups, statistic)


def _mean_of(values: Floats, selected: NDArray[np.bool_]) -> float | None:
    return float(values[selected].mean()) if selected.any() else None


def border_table(comparison: Comparison) -> Table:
    """Returns the effect of the borders between areas: the change when the grid of areas is shifted by half an area."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "probability_change": ("mean change of the probability", "number"),
        "flipped": ("changed labels", "percent"),
        "accuracy": ("accuracy, shifted minus trained grid", "test"),
    }
    for layer in LAYERS:
        columns[f"{layer}_ratio"] = (f"step of α at borders / within areas, {layer}", "number")
    rows = [row for condition in comparison.titles if (row := _border_row(comparison, condition)) is not None]
    note = (
        "The grid of areas is shifted by half an area while the image stays in place, so all changes come from the positions "
        "of the borders. Step of α: mean difference between neighboring pixels of two areas, divided by that within an area; 1 "
        "means that borders are invisible in the attention weights. Areas of one pixel cannot be shifted."
    )
    return Table("borders", "Effect of area borders", columns, rows, note)


def _border_row(comparison: Comparison, condition: str) -> Row | None:
    labels = comparison.experiment.manifest.labels
    results = [result for result in comparison.successful_of(condition) if result.attention]
    if not results or results[0].trial.recipe.reslink(len(labels)).area_size < 2:
        return None
    shifted = [np.stack([result.attention[f"shifted p_{name}"] for name in labels.names], axis=1) for result in results]
    shifted_labels = [_predict(result, y_prob) for result, y_prob in zip(results, shifted, strict=True)]
    originals = [result.predictions for result in results]
    changes = [np.abs(y_prob - own.y_prob).sum(axis=1) / 2 for y_prob, own in zip(shifted, originals, strict=True)]
    flipped = [y_pred != own.y_pred for y_pred, own in zip(shifted_labels, originals, strict=True)]
    samples = {
        (condition, result.trial.seed): _accuracy_change_sample(result, y_pred)
        for result, y_pred in zip(results, shifted_labels, strict=True)
    }
    row: Row = {
        "condition": condition,
        "title": comparison.titles[condition],
        "probability_change": float(np.concatenate(changes).mean()),
        "flipped": float(np.concatenate(flipped).mean()),
        "accuracy": _signed_mean(SeedBootstrap(samples), condition, "accuracy").as_dict(),
    }
    return row | {f"{layer}_ratio": _step_ratio(results, layer) for layer in LAYERS}


def _predict(result: TrialResult, y_prob: Floats) -> NDArray[np.int64]:
    """Returns labels by the decision rule of the trial's own bundle."""
    from reslink.bundles.bundle import Bundle

    return np.asarray(Bundle.load(result.folder / "bundle").decision.predict(y_prob), np.int64)


def _accuracy_change_sample(result: TrialResult, y_pred: NDArray[np.int64]) -> TrialSample:
    change = np.asarray(y_pred == result.predictions.y_true, np.float64) - result.predictions.correct

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"accuracy": weights @ change / np.maximum(weights.sum(axis=1), 1e-9)}

    return TrialSample(result.predictions.groups, statistic)


def _step_ratio(results: Sequence[TrialResult], layer: str) -> float | None:
    border_column, inner_column = f"{layer} step at borders", f"{layer} step within areas"
    if not all(border_column in result.attention for result in results):
        return None
    border_steps = [result.attention[border_column] for result in results]
    at_borders = float(np.mean([np.nanmean(step) if np.isfinite(step).any() else np.nan for step in border_steps]))
    within = float(np.mean([np.nanmean(result.attention[inner_column]) for result in results]))
    return none_if_nan(at_borders / within) if within > 0 else None


def conclusions(comparison: Comparison, attention: Table) -> list[str]:
    """Returns the conclusions of the ablation, in sentences."""
    sentences = [sentence for metric in COMPARED_METRICS for sentence in comparison.summary(metric)]
    for row in attention.rows:
        low, high = row["difference"]["ci_low"], row["difference"]["ci_high"]
        if row["condition"] == comparison.reference and low is not None and high is not None:
            verdict = "not significant" if low <= 0 <= high else "significant"
            value = format_difference(row["difference"]["estimate"])
            interval = f"{format_difference(low)} to {format_difference(high)}"
            sentences.append(
                f"α inside minus outside the {row['region']}, {row['layer']} attention, correct minus wrong cases: "
                f"{value} ({interval}), {verdict}."
            )
    return sentences
