"""The shortcuts experiment: performance that comes from outside the head, such as text, table or image borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reslink.experiments.report import ExperimentReport, Row, Table
from reslink.experiments.runner.comparison import METRICS, Comparison, difference_sentence, trial_sample
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.input_masking import MARGIN, VIEWS
from reslink.experiments.runner.seed_statistics import SeedBootstrap
from reslink.experiments.runner.trial import RECIPE_VIEW, Trial
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.formatting import start_sentence

CONDITIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "isolated": ("isolated head", RECIPE_VIEW, ("whole",)),
    "whole": ("whole image", RECIPE_VIEW, ("isolated", "inside", "outside", "outline")),
    "outside": ("only outside the head", "outside", ()),
    "outline": ("only the outline of the head", "outline", ()),
}
"""Condition to its title, the view for training (``plain``: that of the recipe), and further views for evaluation."""

_NOTE = (
    f"Outside the head: the head and {4 * MARGIN} to {8 * MARGIN} pixels around it (of 224) are black, so no brain is visible "
    "if the head was detected correctly. An image without a detected head is completely black. Outline: white inside the head, "
    "black outside."
)


def shortcuts(experiment: Experiment) -> dict[str, Any]:
    """Trains and evaluates with and without head isolation, and on views without the brain.

    Four networks are trained on the same images and split: on the isolated head, on whole images, on everything outside
    the head (the dilated head is black), and on the outline of the head. The outline shows how much of the result of
    «outside» comes from the shape of the black region. The network for whole images is also evaluated on the other views.

    Args:
        experiment: Data, recipe, seeds and folder; the experiment sets ``preprocess.isolate_head``.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``shortcuts`` in the folder of experiments.

    Raises:
        UsageError: If the data cannot be used.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    for view in ("isolated", "whole"):
        experiment.open_view(view)
    titles = {condition: title for condition, (title, _, _) in CONDITIONS.items()}
    comparison = Comparison.run(experiment, _make_trials(experiment), titles)
    cross_table, cross_sentences = _cross_evaluation(comparison)
    headless = int((~experiment.open_view("whole").heads.any(axis=(1, 2))).sum())
    report = ExperimentReport(
        name="shortcuts",
        title="Shortcuts",
        question="How well can a network classify the images without the brain?",
        answer=[*comparison.warnings, *_answer(comparison), *cross_sentences],
        facts=comparison.facts() | {"Images without a detected head": headless},
        tables=[comparison.metrics_table("Trained and evaluated on the same view", _NOTE), cross_table],
        charts=[_chart(comparison, "accuracy"), _chart(comparison, "auroc")],
        runs=comparison.run_rows(),
        failed=comparison.failures,
    )
    return report.write(experiment.out / report.name)


def _make_trials(experiment: Experiment) -> list[Trial]:
    return [
        experiment.make_trial(
            condition,
            seed,
            {"preprocess.isolate_head": condition == "isolated"},
            view=view,
            test_views=test_views,
        )
        for condition, (_, view, test_views) in CONDITIONS.items()
        for seed in experiment.seeds
    ]


def _answer(comparison: Comparison) -> list[str]:
    conditions = ("whole", "outside", "outline")
    sentences = [comparison.sentence(condition, metric) for condition in conditions for metric in ("accuracy", "auroc")]
    labels = comparison.experiment.manifest.labels
    for condition in ("outside", "outline"):
        auroc = comparison.bootstrap.mean(condition, "auroc").estimate
        if auroc.estimate is not None and auroc.ci_low is not None and auroc.ci_high is not None:
            verdict = "better than chance" if auroc.ci_low > 0.5 else "not better than chance"
            sentences.append(
                f"Without the brain ({comparison.titles[condition]}), a network reaches an AUROC of {auroc.estimate:.3f} "
                f"({auroc.ci_low:.3f} to {auroc.ci_high:.3f}) for {labels.positive or 'the mean of the classes'}: {verdict}."
            )
    return sentences


def _cross_evaluation(comparison: Comparison) -> tuple[Table, list[str]]:
    """Evaluates the networks for whole and for isolated images on other views than their training view."""
    rows: list[Row] = []
    sentences: list[str] = []
    for condition in ("whole", "isolated"):
        results, views = comparison.successful_of(condition), (RECIPE_VIEW, *CONDITIONS[condition][2])
        if not results:
            continue
        samples = {(view, r.trial.seed): trial_sample(r.predictions_on(view)) for r in results for view in views}
        bootstrap = SeedBootstrap(samples)
        rows += [_cross_row(comparison.titles[condition], condition, view, bootstrap) for view in views]
        if condition == "whole":
            sentences += _cross_sentences(bootstrap)
    columns: dict[str, tuple[str, Any]] = {"trained": ("trained on", "text"), "evaluated": ("evaluated on", "text")}
    columns |= {metric: (METRIC_NAMES[metric], "estimate") for metric in METRICS}
    columns["difference"] = ("accuracy, difference to the training view", "test")
    note = (
        "A network may fail on a view because the view was not in its training data, not because the brain is missing. p is "
        "not corrected."
    )
    return Table("cross", "Trained on one view, evaluated on another", columns, rows, note), sentences


def _cross_sentences(bootstrap: SeedBootstrap) -> Sequence[str]:
    sentences = []
    for view, description in (("inside", "with a black background"), ("outside", "with a black head")):
        test = bootstrap.difference(view, RECIPE_VIEW, "accuracy")
        name = f"Trained on whole images, evaluated {description}"
        sentences.append(difference_sentence(name, "evaluated on whole images", "accuracy", test))
    return sentences


def _cross_row(title: str, condition: str, view: str, bootstrap: SeedBootstrap) -> Row:
    same_view = view == RECIPE_VIEW
    row: Row = {"trained": title, "evaluated": VIEWS[condition if same_view else view]}
    row |= {metric: bootstrap.mean(view, metric).estimate.as_dict() for metric in METRICS}
    row["difference"] = None if same_view else bootstrap.difference(view, RECIPE_VIEW, "accuracy").as_dict()
    return row


def _chart(comparison: Comparison, metric: str) -> dict[str, Any]:
    bootstrap, rows = comparison.bootstrap, []
    for condition, title in comparison.titles.items():
        mean = bootstrap.mean(condition, metric).estimate
        interval = {"estimate": mean.estimate, "ci_low": mean.ci_low, "ci_high": mean.ci_high}
        points = [bootstrap.points[condition, seed][metric] for seed in bootstrap.seeds(condition)]
        rows.append({"label": title, **interval, "points": points})
    return {
        "kind": "intervals",
        "name": metric,
        "title": f"{start_sentence(METRIC_NAMES[metric])}, trained and evaluated on the same view",
        "axis": METRIC_NAMES[metric],
        "reference": 0.5 if metric == "auroc" else None,
        "rows": rows,
    }
