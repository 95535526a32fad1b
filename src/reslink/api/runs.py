"""``reslink.runs``: the runs below a folder with their state and metrics, and a page with their learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reslink.files import check_output_file


def runs(
    folder: str | Path, *, sort: str = "run", page: str | Path | None = None, all_runs: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Lists the runs below a folder: data, network, origin, seed, epochs, state, and metrics with 95 % intervals.

    The runs of experiments are listed too. A run is ``finished``, ``running`` (another process holds its lock), ``interrupted``
    (``resume`` continues it), ``diverged`` (its loss was not a number) or ``not finished`` (it has no checkpoint).

    Args:
        folder: The folder; it may be a run itself.
        sort: Column to sort by: ``run``, ``state``, ``data``, ``images``, ``network``, ``seed``, ``epochs``, ``best_epoch``,
            ``val_loss``, ``val_accuracy``, ``val_auroc``, ``n_test``, ``accuracy`` or ``auroc``. Accuracy and AUROC are sorted
            from the highest value, other columns from the lowest; unknown values come last.
        page: HTML file to write, with the learning curves of the runs; None for no page.
        all_runs: Whether the page shows every run of a cross-validation, search or experiment, or one line for each of these.
        overwrite: Replace an existing ``page``.

    Returns:
        Under ``runs`` one dictionary per run with the columns above, ``planned_epochs``, ``leakage``, and what distinguishes
        runs: ``experiment`` (the folder of its experiment below ``folder``), ``conditions`` (what it is there, such as ``fold
        2``), ``fold``, ``parent`` (of a fine-tuned network), ``frozen`` and ``labels`` (several at once). ``data`` is the
        SHA-256 of the data set. The validation metrics are those of ``best_epoch``. ``accuracy`` and ``auroc`` are those of the
        test split, with ``estimate``, ``ci_low``, ``ci_high``, ``method`` and ``n``; with ``labels``, means over them. An
        unknown value is None. Under ``failed`` the error of each folder that could not be read; under ``page`` the written
        file.

    Raises:
        UsageError: If there is no run below the folder, no such column, or ``page`` exists.

    Example:
        >>> import reslink
        >>> table = reslink.runs("runs/", sort="auroc", page="runs.html")  # doctest: +SKIP
        >>> [(run["run"], run["auroc"]["estimate"]) for run in table["runs"]]  # doctest: +SKIP
        [('long', 0.991), ('first', 0.972)]
    """
    from reslink.reports.runs.table import check_column, read_runs, sort_rows

    check_column(sort)
    if page is not None:
        check_output_file(Path(page), "--page", "an HTML file", "runs.html", overwrite)
    rows, failed = read_runs(Path(folder))
    rows = sort_rows(rows, sort)
    if page is not None:
        from reslink.reports.runs.page import write_page

        write_page(Path(page), Path(folder), rows, failed, all_runs=all_runs)
    return {"runs": rows, "failed": failed, "page": None if page is None else str(page), "research_use_only": True}
