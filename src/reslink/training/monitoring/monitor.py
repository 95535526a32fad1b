"""Runs the diagnostics after each step, each epoch and at the end; reports each finding once, also across interruptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reslink.bundles.decision.decision import Decision
from reslink.metrics.several_labels.states import known_rows, two_columns
from reslink.training.batch_loader import BatchLoader
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.diagnostics import DivergenceDetector, Finding
from reslink.training.monitoring.layer_statistics import (
    AttentionStatistics,
    BatchNormStatistics,
    attention_statistics,
    batch_norm_statistics,
)
from reslink.training.step import Learner

_CHUNK = 32


class Monitor:
    """The diagnostics of one run.

    Args:
        learner: The network in training.
        batch_loader: Loads the validation images.
        batch_size: Images per step in one process.
    """

    def __init__(self, learner: Learner, batch_loader: BatchLoader, batch_size: int) -> None:
        self.learner, self.batch_loader, self.batch_size = learner, batch_loader, batch_size
        is_fine_tuned = learner.recipe.init.parent is not None
        self.divergence = DivergenceDetector(math.log(learner.criterion.num_classes) if is_fine_tuned else 0.0)
        self.findings: list[Finding] = []
        self.enabled = learner.recipe.diagnostics.enabled
        self.images = batch_loader.training_data.indices("validation")

    def before_training(self) -> list[Finding]:
        """Returns the findings on the data before the first step."""
        data = self.batch_loader.training_data
        cache, conflicts = data.cache, data.label_conflicts
        cases, labels = len(cache.manifest) + len(cache.failed), [case.label for case in cache.manifest.cases]
        return self._add(
            [
                diagnostics.files_left_out(sorted(cache.failed), cases) if cache.failed else None,
                diagnostics.label_conflicts(conflicts) if conflicts else None,
                diagnostics.mixed_modalities(cache.case_stated, labels),
                diagnostics.not_slices([cache.case_stated[i] for i in data.indices("train")]),
                diagnostics.seen_by_ancestors(len(data.seen_by_ancestors), allowed=self.learner.recipe.data.allow_leakage),
            ]
        )

    def after_step(self, loss: float, lr: float, epoch: int) -> list[Finding]:
        """Returns the new findings after a step."""
        return self._add([self.divergence.add(loss, lr, epoch)]) if self.enabled else []

    def after_epoch(self, rows: Sequence[dict[str, Any]], steps: int, epoch: int) -> tuple[list[Finding], dict[str, float]]:
        """Returns the new findings after an epoch, and statistics of each attention layer for its row.

        Args:
            rows: The rows of the epochs so far.
            steps: Optimizer steps so far.
            epoch: From 1.
        """
        if not self.enabled:
            return [], {}
        attention, batch_norm = self._measure_layers()
        findings = [diagnostics.attention_uniform(statistics, epoch) for statistics in attention]
        findings += [diagnostics.attention_outside(statistics, epoch) for statistics in attention]
        findings.append(diagnostics.batch_statistics(batch_norm, self.batch_size, steps, epoch))
        findings.append(diagnostics.train_validation_gap(rows, len(self.images), epoch))
        return self._add(findings), _attention_columns(attention)

    def after_training(self, logits: Tensor, decision: Decision, epoch: int) -> list[Finding]:
        """Returns the new findings on the exported model.

        Args:
            logits: (n, K) of the validation split.
            decision: The decision of the exported model.
            epoch: The epoch of its weights.
        """
        if not self.enabled or not torch.isfinite(logits).all():
            return []
        data = self.batch_loader.training_data
        targets, groups = data.targets[self.images], [data.joined_groups[i] for i in self.images]
        probabilities, names = decision.probabilities(logits.numpy()), data.manifest.labels.names
        if targets.ndim == 2:
            return self._add(self._findings_by_label(targets, probabilities, decision.predict(probabilities), epoch))
        return self._add(
            [
                diagnostics.no_better_than_chance(targets, probabilities, groups, epoch),
                diagnostics.class_never_predicted(
                    targets, decision.predict(probabilities), names, epoch, has_threshold=decision.threshold is not None
                ),
            ]
        )

    def _findings_by_label(
        self, states: NDArray[np.int64], probabilities: NDArray[np.float64], predicted: NDArray[np.int64], epoch: int
    ) -> list[Finding | None]:
        """Returns the findings on several labels at once, each on the validation images where it is known."""
        data, rows_of = self.batch_loader.training_data, known_rows(states)
        names = data.manifest.labels.names
        chance = {}
        for k, rows in enumerate(rows_of):
            groups = [data.joined_groups[i] for i in self.images[rows]]
            of_label = two_columns(probabilities[rows, k])
            chance[names[k]] = diagnostics.no_better_than_chance(states[rows, k], of_label, groups, epoch)
        # the absence and the presence of each label as two classes, all labels together
        classes = [name for label in names for name in data.manifest.labels.of_one(label).names]
        pairs = [(2 * k + states[rows, k], 2 * k + predicted[rows, k]) for k, rows in enumerate(rows_of)]
        y_true, y_pred = (np.concatenate(values) for values in zip(*pairs, strict=True))
        return [
            diagnostics.labels_no_better_than_chance(chance),
            diagnostics.class_never_predicted(y_true, y_pred, classes, epoch, has_threshold=True),
        ]

    def _measure_layers(self) -> tuple[list[AttentionStatistics], BatchNormStatistics]:
        """Measures evenly spaced validation images, which cover all classes."""
        count = min(len(self.images), self.learner.recipe.diagnostics.images)
        chosen = self.images[[round(i * (len(self.images) - 1) / max(count - 1, 1)) for i in range(count)]]
        network, loader = self.learner.eval_network, self.batch_loader
        chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
        attention = attention_statistics(network, ((loader.eval_batch(chunk), loader.head_masks(chunk)) for chunk in chunks))
        return attention, batch_norm_statistics(network, loader.eval_batch(chosen[:: max(1, len(chosen) // _CHUNK)]))

    def _add(self, findings: Sequence[Finding | None]) -> list[Finding]:
        reported = {finding.code for finding in self.findings}
        new = [finding for finding in findings if finding is not None and finding.code not in reported]
        self.findings += new
        return new

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"findings": [asdict(finding) for finding in self.findings], "divergence": self.divergence.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the result of ``state``."""
        self.findings = [Finding(**finding) for finding in state["findings"]]
        self.divergence.restore(state["divergence"])


def _attention_columns(attention: Sequence[AttentionStatistics]) -> dict[str, float]:
    return {
        f"{statistics.layer}_{name}": value
        for statistics in attention
        for name, value in (
            ("mean", statistics.mean),
            ("sd", statistics.std),
            ("mass_outside_head", statistics.mass_outside),
        )
    }
