"""The journal: a cut line, a damaged line, and the lock."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from reslink.errors import InputError
from reslink.experiments.tune.journal import JOURNAL, open_study


def fill(folder: Path, n: int) -> optuna.Study:
    study = open_study(folder)
    for value in range(n):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(value, 0)
        study.tell(trial, value)
    return study


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_journal_that_was_cut_in_a_line_loses_that_line_only(cut: int, tmp_path: Path) -> None:
    """The last line finishes the third trial: it is running again, and can be finished."""
    fill(tmp_path, 3)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-cut])
    study = open_study(tmp_path)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]
    assert trials[2].intermediate_values == {0: 2}
    study.tell(trials[2].number, 2.0)
    assert [trial.value for trial in open_study(tmp_path).get_trials()] == [0, 1, 2]


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    path = tmp_path / JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3][:20] + "\n", *lines[4:]]))
    with pytest.raises(
        InputError, match=rf"is damaged: line 4 of {len(lines)} is not JSON. Only its last line.* Restore the file"
    ):
        open_study(tmp_path)


def test_a_missing_line_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    path = tmp_path / JOURNAL
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"is damaged: its lines do not fit together"):
        open_study(tmp_path)


def test_two_processes_see_each_others_trials(tmp_path: Path) -> None:
    one, other = open_study(tmp_path), open_study(tmp_path)
    one.tell(one.ask(), 0.5)
    other.tell(other.ask(), 0.7)
    assert [trial.value for trial in one.get_trials()] == [0.5, 0.7]
    assert one.best_trial.number == 1


def test_a_lock_that_a_killed_process_left_does_not_wait(tmp_path: Path) -> None:
    """Optuna's own lock is a file that stays; here the file means nothing, and only a living process holds the lock."""
    fill(tmp_path, 1)
    assert (tmp_path / "journal.lock").exists()
    fill(tmp_path, 1)
    assert len(open_study(tmp_path).get_trials()) == 2
