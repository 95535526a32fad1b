"""The table of the runs below a folder: data, network, origin, state, epochs, and metrics with intervals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reslink.bundles.record import BUNDLE_JSON
from reslink.errors import InputError, ReslinkError, UsageError, check_choice
from reslink.files import is_locked
from reslink.printable_names import escape_name
from reslink.reports.formatting import format_count
from reslink.reports.run.run_folder import case_noun, read_csv_rows, read_epochs, read_file, read_lines
from reslink.settings_text import parse_json, parse_yaml
from reslink.training.run_folder import (
    BUNDLE,
    CHECKPOINTS,
    CONDITIONS,
    CONFIG,
    FINISHED,
    INIT,
    LOSS_NOT_FINITE,
    METRICS,
    RESULTS,
    SPLITS,
    TRACKING,
    TRIAL_LOCKS,
)

Row = dict[str, Any]

COLUMNS: Final = (
    *("run", "state", "data", "images", "network", "seed", "epochs", "best_epoch"),
    *("val_loss", "val_accuracy", "val_auroc", "n_test", "accuracy", "auroc"),
)
"""The columns that the table can be sorted by."""

_HIGHEST_FIRST: Final = ("val_accuracy", "val_auroc", "accuracy", "auroc")
_FOLDERS_OF_A_RUN: Final = frozenset({"cache", BUNDLE, CHECKPOINTS, "figures", TRACKING})


def read_runs(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """Reads the runs below a folder, those of experiments included.

    Args:
        folder: The folder; it may be a run itself.

    Returns:
        The rows of the table ordered by name (in an experiment by condition), and the errors by folder. A row has the
        columns of ``COLUMNS`` and ``planned_epochs``, ``leakage``. ``run`` is the path relative to the folder. ``experiment``
        is the folder of its experiment below the folder, ``conditions`` its conditions there (such as ``fold 2``), ``fold`` the
        setting ``data.fold`` if there are folds, ``parent`` the network that it was fine-tuned from, ``frozen`` its frozen
        modules, and ``labels`` the labels if there are several at once. ``accuracy`` and ``auroc`` are those of the test split
        (``estimate, ci_low, ci_high, method, n``), once the run is evaluated; with ``labels`` they are means over them. An
        unknown value is None. With ``case``: ``series``, ``images`` and ``n_test`` count series.

    Raises:
        UsageError: If there is no such folder, or no run below it.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {problem}", "DIR is a folder with runs", "Check the path")
    failed: dict[str, str] = {}
    rows = []
    for run in _find_runs(folder, failed):
        try:
            rows.append(read_row(run, _name(run, folder)))
        except ReslinkError as error:
            failed[_name(run, folder)] = str(error).replace(f"{folder}/", "")  # no absolute path on the page
    if not rows and not failed:
        raise UsageError(
            f"There is no run below {folder}",
            f"A run is a folder with {CONFIG} and {METRICS}, as reslink train writes it",
            "Give the folder that holds your runs, or train one with: reslink train DATA --out RUN",
        )
    return sorted(rows, key=_name_order), failed


def check_column(column: str) -> None:
    """Checks that the table can be sorted by a column.

    Raises:
        UsageError: If there is no such column; the message names the columns.
    """
    check_choice("column", column, COLUMNS)


def sort_rows(rows: Sequence[Row], column: str) -> list[Row]:
    """Returns the rows ordered by a column: metrics with the best first, other columns ascending, unknown values last."""
    known = [row for row in rows if _value(row, column) is not None]
    order = _name_order if column == "run" else lambda row: _value(row, column)
    ordered = sorted(known, key=order, reverse=column in _HIGHEST_FIRST)
    return [*ordered, *(row for row in rows if _value(row, column) is None)]


def _name_order(row: Row) -> tuple[str, str]:
    """Returns the key of the order by name. Runs of an experiment are ordered by condition, because their names are hashes."""
    if not row["conditions"]:
        return row["run"], ""
    condition = re.sub(r"\d+", lambda number: number[0].zfill(9), row["conditions"][0])
    return f"{Path(row['run']).parent}/", condition


def _value(row: Row, column: str) -> Any:
    value = row[column]
    return value["estimate"] if isinstance(value, Mapping) else value


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _find_runs(folder: Path, failed: dict[str, str]) -> Iterator[Path]:
    """Yields the run folders. Links are followed; a folder that several links lead to is visited once."""
    visited, pending = set(), [folder]
    while pending:
        path = pending.pop()
        try:
            status = path.stat()
            entries = sorted(path.iterdir(), key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            failed[_name(path, folder)] = f"The folder cannot be read: {error.strerror}."
            continue
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        skipped: Set[str] = frozenset()
        if _is_run({entry.name for entry in entries}):
            yield path
            skipped = _FOLDERS_OF_A_RUN
        pending += reversed([entry for entry in entries if entry.name not in skipped and _is_folder(entry)])


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that leads through a folder without permission
        return False


def _is_run(names: Set[str]) -> bool:
    return CONFIG in names and not names.isdisjoint({METRICS, RESULTS, CHECKPOINTS})


def read_row(run: Path, name: str) -> Row:
    """Reads one run.

    Args:
        run: The run folder.
        name: The value of the column ``run``.

    Raises:
        InputError: If a file of the run is invalid; the message names it.
    """
    config, lines = read_file(run / CONFIG, parse_yaml) or {}, read_lines(run)
    summary = read_file(run / FINISHED, parse_json)
    checkpoint = {} if summary else _newest_checkpoint(run)
    state = _state(run, lines, bool(checkpoint))
    bundle = read_file(run / BUNDLE / BUNDLE_JSON, parse_json) or {}
    evaluation = read_file(run / "evaluation.json", parse_json) or {}
    try:
        evaluated = evaluation if state == "finished" and _is_of_bundle(evaluation, bundle) else {}
        data = bundle["provenance"]["data"]["digest"] if bundle else checkpoint.get("sources", {}).get("data")
        return {
            "run": name,
            "state": state,
            "data": data,
            "images": len(read_csv_rows(run / SPLITS)),
            "network": config["model"]["variant"],
            **_origin(run, name, config),
            "seed": config["seed"],
            "epochs": len(read_epochs(run, lines)),
            "planned_epochs": config["trainer"]["epochs"],
            **_best(summary, checkpoint),
            "n_test": evaluated.get("n"),
            **{metric: evaluated.get("metrics", {}).get(metric) for metric in ("accuracy", "auroc")},
            "leakage": evaluated.get("leakage"),
            **({"case": "series"} if case_noun(config) == "series" else {}),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"A file of the run {name} lacks a value ({type(error).__name__}: {error})",
            "The table needs the files of a run as reslink wrote them",
            "Restore the files, or train again",
        ) from error


def _origin(run: Path, name: str, config: Row) -> Row:
    """Returns what distinguishes a run from others of the same network: its experiment, fold, parent and labels."""
    conditions = (read_file(run / CONDITIONS, parse_json) or {}).get("conditions")
    data, init = config.get("data") or {}, read_file(run / INIT, parse_json) or {}
    experiment = Path(name).parent.parent.as_posix() if (run.parent / TRIAL_LOCKS / run.name).is_dir() else "."
    return {
        "experiment": experiment if experiment != "." else None,
        "conditions": conditions,
        "fold": data.get("fold") if data.get("folds") else None,
        "parent": init.get("parent"),
        "frozen": init.get("freeze") or None,
        "labels": data.get("labels"),
    }


def describe_run(row: Mapping[str, Any]) -> str:
    """Returns what distinguishes a run in a few words, such as ``fold 2, from ct, 5 labels``; empty for a plain run."""
    fold = [] if row["fold"] is None else [f"fold {row['fold']}"]
    words = ["; ".join(row["conditions"])] if row["conditions"] else fold
    if row["parent"]:
        frozen = f" (frozen: {', '.join(row['frozen'])})" if row["frozen"] else ""
        words.append(f"from {row['parent']}{frozen}")
    if row["labels"]:
        words.append(format_count(len(row["labels"]), "label"))
    return ", ".join(words)


@dataclass(frozen=True)
class FoldedRuns:
    """The runs of an experiment, which the table shows as one line.

    Attributes:
        experiment: The folder of the experiment.
        rows: Its runs.
    """

    experiment: str
    rows: Sequence[Row]

    @property
    def states(self) -> str:
        """How many runs are in each state, such as ``3 finished, 1 running``."""
        return ", ".join(f"{n} {state}" for state, n in Counter(row["state"] for row in self.rows).items())

    @property
    def name(self) -> str:
        """The folder, as a page shows it."""
        return escape_name(self.experiment)

    def common(self, column: str) -> Any:
        """Returns the value of a column if it is the same in all runs; otherwise None."""
        values = [row[column] for row in self.rows]
        return values[0] if all(value == values[0] for value in values) else None


def fold_experiments(rows: Sequence[Row]) -> tuple[list[Row], list[FoldedRuns]]:
    """Folds the runs of each experiment below the folder into one line, because a search can have hundreds.

    Args:
        rows: The rows of the table.

    Returns:
        The other rows, and the experiments by name. An experiment with one run stays in the rows.
    """
    sizes = Counter(row["experiment"] for row in rows)
    names = sorted(name for name, size in sizes.items() if name is not None and size > 1)
    folded = [FoldedRuns(name, [row for row in rows if row["experiment"] == name]) for name in names]
    return [row for row in rows if row["experiment"] not in names], folded


def overlaps(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns the runs with test images that overlap, or may overlap, with the training data, each with the reason."""
    leaked = [(row["run"], row["leakage"]) for row in rows if row["leakage"]]
    return [(run, leakage["message"]) for run, leakage in leaked if leakage["status"] in ("allowed", "unknown")]


def _newest_checkpoint(run: Path) -> Row:
    """Returns the state in the newest checkpoint; empty if there is none."""
    folders = sorted((run / CHECKPOINTS).glob("[0-9]*-step-*"))
    return (read_file(folders[-1] / "state.json", parse_json) or {}) if folders else {}


def _state(run: Path, lines: Sequence[Row], has_checkpoint: bool) -> str:
    if is_locked(run):
        return "running"
    if (run / FINISHED).exists():
        return "finished"
    if any(line.get("code") == LOSS_NOT_FINITE for line in lines):
        return "diverged"
    return "interrupted" if has_checkpoint else "not finished"


def _is_of_bundle(evaluation: Row, bundle: Row) -> bool:
    """Returns whether an evaluation is of the weights of the bundle, and not of earlier ones."""
    return bool(evaluation) and evaluation.get("bundle_sha256") in (None, bundle.get("weights", {}).get("sha256"))


def _best(summary: Row | None, checkpoint: Row) -> Row:
    """Returns the exported epoch, or the best one so far, and its validation metrics."""
    names = ("loss", "accuracy", "auroc")
    if summary is not None:
        return {"best_epoch": summary["best_epoch"], **{f"val_{name}": summary["validation"][f"val_{name}"] for name in names}}
    best = checkpoint.get("training", {}).get("best")
    epoch, result = best or (None, dict.fromkeys(names))
    return {"best_epoch": epoch, **{f"val_{name}": result[name] for name in names}}
