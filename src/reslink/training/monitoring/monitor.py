"""Looks at a run after each step and epoch, tells each finding once, and remembers it over interruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reslink.training.batch_loader import Feeder
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.diagnostics import Divergence, Finding
from reslink.training.monitoring.layer_statistics import BatchNormSign, GateSign, batch_norm_sign, gate_signs
from reslink.training.step import Learner

_CHUNK = 32


class Watch:
    """The diagnostics of one run.

    Args:
        learner: What is watched.
        feeder: Gives the validation images.
        batch_size: Images a step in one process.
    """

    def __init__(self, learner: Learner, feeder: Feeder, batch_size: int) -> None:
        self.learner, self.feeder, self.batch_size = learner, feeder, batch_size
        self.divergence = Divergence()
        self.findings: list[Finding] = []
        self.enabled = learner.recipe.diagnostics.enabled
        self.images = feeder.materials.indices("validation")

    def before(self) -> list[Finding]:
        """Returns what there is to say before the first step."""
        cache = self.feeder.materials.cache
        cases = len(cache.manifest) + len(cache.failed)
        return self._new([diagnostics.files_left_out(sorted(cache.failed), cases)] if cache.failed else [])

    def after_step(self, loss: float, lr: float, epoch: int) -> list[Finding]:
        """Returns what is new after a step."""
        return self._new([self.divergence.add(loss, lr, epoch)]) if self.enabled else []

    def after_epoch(self, rows: Sequence[dict[str, Any]], steps: int, epoch: int) -> tuple[list[Finding], dict[str, float]]:
        """Returns what is new after an epoch, and figures of each attention layer for its row.

        Args:
            rows: The rows of the epochs so far.
            steps: Optimizer steps so far.
            epoch: From 1.
        """
        if not self.enabled:
            return [], {}
        gates, norms = self._look()
        found = [diagnostics.gates_uniform(sign, epoch) for sign in gates]
        found += [diagnostics.attention_outside(sign, epoch) for sign in gates]
        found.append(diagnostics.batch_statistics(norms, self.batch_size, steps, epoch))
        found.append(diagnostics.train_validation_gap(rows, len(self.images), epoch))
        return self._new(found), _figures(gates)

    def _look(self) -> tuple[list[GateSign], BatchNormSign]:
        """Evenly spaced validation images, so that all classes are among them."""
        wanted = min(len(self.images), self.learner.recipe.diagnostics.images)
        chosen = self.images[[round(i * (len(self.images) - 1) / max(wanted - 1, 1)) for i in range(wanted)]]
        network = self.learner.judged
        chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
        gates = gate_signs(network, ((self.feeder.plain(chunk), self.feeder.heads(chunk)) for chunk in chunks))
        return gates, batch_norm_sign(network, self.feeder.plain(chosen[:: max(1, len(chosen) // _CHUNK)]))

    def _new(self, found: Sequence[Finding | None]) -> list[Finding]:
        known = {finding.code for finding in self.findings}
        fresh = [finding for finding in found if finding is not None and finding.code not in known]
        self.findings += fresh
        return fresh

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"findings": [asdict(finding) for finding in self.findings], "divergence": self.divergence.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what ``state`` returned."""
        self.findings = [Finding(**finding) for finding in state["findings"]]
        self.divergence.restore(state["divergence"])


def _figures(gates: Sequence[GateSign]) -> dict[str, float]:
    return {f"{sign.layer}_{name}": value for sign in gates for name, value in _of(sign).items()}


def _of(sign: GateSign) -> dict[str, float]:
    return {"mean": sign.mean, "sd": sign.spread, "mass_outside_head": sign.mass_outside}
