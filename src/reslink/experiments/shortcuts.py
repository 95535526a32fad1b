"""How much of a figure comes from what lies outside the head: text, table, borders."""

from __future__ import annotations

from typing import Any

from reslink.experiments.report import Row, Study, Table
from reslink.experiments.runner.compare_arms import FIGURES, Comparison, capital, sample, told
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.input_masking import LOOKS, MARGIN
from reslink.experiments.runner.run_spec import PLAIN, Trial
from reslink.experiments.runner.seed_statistics import Runs
from reslink.metrics.classification import NAMES

ARMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "isolated": ("isolated head", PLAIN, ("whole",)),
    "whole": ("whole image", PLAIN, ("isolated", "inside", "outside", "outline")),
    "outside": ("outside the head alone", "outside", ()),
    "outline": ("outline of the head alone", "outline", ()),
}
"""Arm: what a table calls it, the look that it is trained on (the recipe's own where plain), and further looks."""


def shortcuts(setting: Setting) -> dict[str, Any]:
    """Trains and judges with and without head isolation, and on what is not brain at all.

    Four networks learn from the same images and split: from the isolated head, from whole images, from what lies
    outside the head (the head, widened by a margin, blacked out), and from the bare outline of the head. The outline
    tells how much of «outside» is the shape of the hole. The network of whole images is judged on the parts as well.

    Args:
        setting: Data, recipe, seeds and folder; ``preprocess.isolate_head`` is set by the study.

    Returns:
        What ``study.json`` holds; it is written with a page to ``shortcuts`` in the folder of studies.

    Raises:
        UsageError: If the data cannot be used.
        Interrupted: On Ctrl-C; the same call goes on.
    """
    for look in ("isolated", "whole"):
        setting.look(look)
    found = Comparison.of(setting, _trials(setting), {arm: title for arm, (title, _, _) in ARMS.items()})
    cross, said = _cross(found)
    headless = int((~setting.look("whole").heads.any(axis=(1, 2))).sum())
    study = Study(
        name="shortcuts",
        title="Shortcuts",
        question="How much of the figures can be had without looking at the brain?",
        answer=[*found.warnings, *_answers(found), *said],
        facts=found.facts() | {"Images without a head that was found": headless},
        tables=[found.figures("Trained and judged on the same look", _NOTE), cross],
        charts=[_chart(found, "accuracy"), _chart(found, "auroc")],
        runs=found.run_rows(),
        failed=found.failures,
    )
    return study.write(setting.out / study.name)


_NOTE = (
    f"Outside the head: the head and {4 * MARGIN} to {8 * MARGIN} pixels around it (of 224) are black, so no brain is left "
    "where the head was found rightly; an image in which none was found is black throughout. Outline: white inside the head, "
    "black outside."
)


def _trials(setting: Setting) -> list[Trial]:
    trials = []
    for arm, (_, look, tests) in ARMS.items():
        for seed in setting.seeds:
            changes = {"preprocess.isolate_head": arm == "isolated"}
            trials.append(setting.trial(arm, seed, changes, look=look, tests=tests))
    return trials


def _answers(found: Comparison) -> list[str]:
    said = [found.sentence(arm, figure) for arm in ("whole", "outside", "outline") for figure in ("accuracy", "auroc")]
    labels = found.setting.manifest.labels
    for arm in ("outside", "outline"):
        auroc = found.runs.mean(arm, "auroc").estimate
        if auroc.estimate is not None and auroc.ci_low is not None and auroc.ci_high is not None:
            verdict = "better than chance" if auroc.ci_low > 0.5 else "no better than chance"
            said.append(
                f"Without looking at the brain ({found.titles[arm]}) a network reaches an AUROC of {auroc.estimate:.3f} "
                f"({auroc.ci_low:.3f} to {auroc.ci_high:.3f}) for {labels.positive or 'the mean of the classes'}: {verdict}."
            )
    return said


def _cross(found: Comparison) -> tuple[Table, list[str]]:
    """The networks of whole and of isolated images, judged on other looks than they were trained on."""
    rows, said = [], []
    for arm in ("whole", "isolated"):
        records, tests = found.of_arm(arm), ARMS[arm][2]
        if not records:
            continue
        samples = {(look, r.trial.seed): sample(r.judged(look)) for r in records for look in (PLAIN, *tests)}
        runs = Runs(samples)
        rows += [_cross_row(found.titles[arm], arm, look, runs) for look in (PLAIN, *tests)]
        if arm == "whole":
            for look, name in (("inside", "the outside blacked out"), ("outside", "the head blacked out")):
                test = runs.difference(look, PLAIN, "accuracy")
                said.append(told(f"Trained on whole images, judged with {name}", "judged on whole images", "accuracy", test))
    columns: dict[str, tuple[str, Any]] = {"trained": ("trained on", "text"), "judged": ("judged on", "text")}
    columns |= {figure: (NAMES[figure], "estimate") for figure in FIGURES}
    columns["difference"] = ("accuracy, less that on its own look", "test")
    note = (
        "A network that was never shown a look may fail on it because it is new, not because it lacks the brain. p is not "
        "corrected."
    )
    return Table("cross", "Trained on one look, judged on another", columns, rows, note), said


def _cross_row(title: str, arm: str, look: str, runs: Runs) -> Row:
    row: Row = {"trained": title, "judged": LOOKS[arm if look == PLAIN else look]}
    row |= {figure: runs.mean(look, figure).estimate.as_dict() for figure in FIGURES}
    row["difference"] = None if look == PLAIN else runs.difference(look, PLAIN, "accuracy").as_dict()
    return row


def _chart(found: Comparison, figure: str) -> dict[str, Any]:
    rows = []
    for arm, title in found.titles.items():
        one = found.runs.mean(arm, figure).estimate
        points = [found.runs.points[arm, seed][figure] for seed in found.runs.seeds(arm)]
        rows.append({"label": title, "estimate": one.estimate, "ci_low": one.ci_low, "ci_high": one.ci_high, "points": points})
    return {
        "kind": "intervals",
        "name": figure,
        "title": f"{capital(NAMES[figure])}, trained and judged on the same look",
        "axis": NAMES[figure],
        "reference": 0.5 if figure == "auroc" else None,
        "rows": rows,
    }
