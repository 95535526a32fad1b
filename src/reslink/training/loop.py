"""The training loop: one run from its start or a checkpoint to its bundle; it can be stopped after any step."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.datasets.case import MAX_SOURCES, SPLITS
from reslink.errors import DivergedError, TrainingError, UsageError
from reslink.files import sha256, write_atomic, write_json
from reslink.training import run_folder
from reslink.training.batch_loader import BatchLoader
from reslink.training.checkpoints.checkpoint import Checkpoint, Checkpoints
from reslink.training.checkpoints.state import TrainingState
from reslink.training.data import TrainingData
from reslink.training.initialization import Initialization
from reslink.training.losses import make_criterion
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.diagnostics import FILES_LEFT_OUT, NOT_SLICES, Finding
from reslink.training.monitoring.monitor import Monitor
from reslink.training.monitoring.progress import Progress, phase
from reslink.training.optim.build import learning_rate
from reslink.training.recipe.differences import differences
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import Row, RunFolder
from reslink.training.sampling import Indices, balanced_weights, plan_epoch, sampler_weights, shard
from reslink.training.seeding import seed_dropout, torch_seed
from reslink.training.signals import Interrupted, StopFlag
from reslink.training.step import Learner, NotFiniteError, StepResult
from reslink.training.tracking.tracking import Tracking
from reslink.training.validation import ValidationResult, compute_logits, evaluate_validation, make_decision

if TYPE_CHECKING:
    from accelerate import Accelerator

_STEP_RECORDS_PER_EPOCH = 20
_EPOCH_METRICS = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "val_auroc": "validation AUROC",
}
_INTENDED_USE = "Research on the classification of brain images that look like the training data."


class Run:
    """One training run, from its start or a checkpoint to its bundle.

    Args:
        recipe: The settings.
        training_data: The data.
        folder: The run folder, locked by this process.
        accelerator: Device, precision and processes.
        progress: Receives the progress and the findings.
        stop: Set when the user asks to stop.
        initialization: The weights of the parent; None to train from scratch.
        tracking: Records the run; None to record nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        training_data: TrainingData,
        folder: RunFolder,
        accelerator: Accelerator,
        progress: Progress,
        stop: StopFlag,
        initialization: Initialization | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.recipe, self.training_data, self.folder = recipe, training_data, folder
        self.accelerator, self.progress, self.stop = accelerator, progress, stop
        self.initialization, self.tracking = initialization, tracking or Tracking()
        self.num_classes = len(training_data.manifest.labels)
        self.training, self.validation = training_data.indices("train"), training_data.indices("validation")
        labels = training_data.targets[self.training]
        criterion = make_criterion(recipe.loss, labels, self.num_classes)
        self.learner = Learner(recipe, criterion, self.num_classes, accelerator, initialization)
        self.batch_loader = BatchLoader(recipe, training_data, criterion, accelerator.device, accelerator.process_index)
        slices = recipe.trainer.slices if recipe.trainer.case == "series" else 1
        images = slices * recipe.trainer.batch_size // accelerator.num_processes
        self.monitor = Monitor(self.learner, self.batch_loader, images)
        self.sample_weights = self._sample_weights(labels)
        self.checkpoints = Checkpoints(folder.path / run_folder.CHECKPOINTS, progress)
        self.state = TrainingState()
        self.best_weights: dict[str, Tensor] = {}
        self.steps_per_epoch = len(self.plan(1))

    def _sample_weights(self, labels: Indices) -> NDArray[np.float64] | None:
        if self.recipe.data.balance_sources:
            cases = self.training_data.manifest.cases
            return balanced_weights([cases[i].source for i in self.training], labels)
        return sampler_weights(labels) if self.recipe.loss.imbalance == "sampler" else None

    def plan(self, epoch: int) -> list[Indices]:
        """Returns the batches of an epoch."""
        return plan_epoch(self.training, self.recipe.trainer.batch_size, self.recipe.seed, epoch, self.sample_weights)

    # Start and checkpoints

    def begin(self) -> None:
        """Restores the last checkpoint, or writes the first files of a new run."""
        checkpoint = self.checkpoints.load()
        self.accelerator.wait_for_everyone()  # every process must look before the first checkpoint is written
        if checkpoint is not None:
            if "sources" not in checkpoint.state:
                raise TrainingError(
                    f"The run in {self.folder.path} was written by another version of reslink",
                    "A run can be resumed by the version that started it",
                    "Start again with --overwrite",
                )
            before = checkpoint.state["sources"]
            extends = checkpoint.state["training"]["done"] and is_extension(before["recipe"], self.recipe.published())
            self._check_same_sources(before | {"recipe": self.recipe.published()} if extends else before)
            self._restore(checkpoint)
            if extends:
                self._extend(before["recipe"]["trainer"]["epochs"])
            self.progress.message(f"Resuming in epoch {self.state.epoch} after step {self.state.total_steps}.")
            self._start_tracking()
        elif self.accelerator.is_main_process:
            self._start_tracking()
            self._write_first_files()
        self.accelerator.wait_for_everyone()

    def _start_tracking(self) -> None:
        data, state = self.training_data, self.state
        images = {split: len(data.indices(split)) for split in SPLITS}
        settings = {**self.recipe.published(), "data_digest": data.digest, "images": images}
        self.tracking.start(settings, state.rows, epoch=None if state.done else state.epoch)

    def _write_first_files(self) -> None:
        path = self.folder.path
        write_atomic(path / run_folder.CONFIG, self.recipe.to_yaml())
        precision = self.accelerator.mixed_precision
        processes = self.accelerator.num_processes
        environment = run_folder.environment(self.accelerator.device, precision, processes)
        write_json(path / run_folder.ENVIRONMENT, environment | self._label_changes())
        if self.initialization is not None:
            write_json(path / run_folder.INIT, self.initialization.record())
            for text in self.initialization.messages():
                self.progress.message(text)
        data = self.training_data
        for text in data.summary(self.recipe.data.folds):
            self.progress.message(text)
        self.folder.write_splits(data.manifest, data.splits, data.joined_groups, data.cache.file_hashes)
        self.folder.truncate_metrics(0)
        for finding in self.monitor.before_training():
            self._record(finding.as_row())
            if finding.code not in (FILES_LEFT_OUT, NOT_SLICES):  # these were printed when the images were read
                self._print(finding)
        self.save()

    def _sources(self) -> Row:
        balanced = {"sources": self.training_data.manifest.sources_digest()} if self.recipe.data.balance_sources else {}
        return balanced | {
            "data": self.training_data.digest,
            "split": sha256("\n".join(self.training_data.splits)),
            "recipe": self.recipe.published(),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "device": self.accelerator.device.type,
        }

    def _check_same_sources(self, before: Row) -> None:
        changes = list(differences(before, self._sources()))
        if changes:
            raise UsageError(
                f"The run in {self.folder.path} was started with other inputs: {'; '.join(changes[:5])}",
                "A run is resumed with the same data, recipe, device and number of processes",
                "Undo the change, choose another --out, or start again with --overwrite",
            )

    def save(self) -> None:
        """Writes a checkpoint in the main process."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "sources": self._sources(),
            "training": asdict(self.state),
            "monitor": self.monitor.state(),
            "metrics_bytes": self.folder.metrics_size(),
        }
        tensors = self.learner.tensors() | ({"best": self.best_weights} if self.best_weights else {})
        self.checkpoints.save(Checkpoint(self.state.total_steps, state, tensors))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.state = TrainingState.from_dict(checkpoint.state["training"])
        self.monitor.restore(checkpoint.state["monitor"])
        self.learner.restore(checkpoint.tensors)
        self.best_weights = checkpoint.tensors.get("best", {})
        if self.accelerator.is_main_process and not self.folder.truncate_metrics(checkpoint.state["metrics_bytes"]):
            self.progress.message("metrics.jsonl has lost lines since the checkpoint; results.csv is complete.")

    def _extend(self, from_epochs: int) -> None:
        """Continues a finished run. Its further epochs follow the learning rates of a run with the new number of epochs."""
        state, to_epochs = self.state, self.recipe.trainer.epochs
        row = {"after_epoch": state.epoch, "from_epochs": from_epochs, "to_epochs": to_epochs}
        state.extensions.append(row)
        state.done, state.epochs_since_best = False, 0
        state.next_epoch()
        self.progress.message(f"The finished run is extended from {from_epochs} to {to_epochs} epochs.")
        if (
            self.accelerator.is_main_process
        ):  # before the checkpoint, so that a kill in between leaves no run marked as finished
            self.folder.reopen()
            write_atomic(self.folder.path / run_folder.CONFIG, self.recipe.to_yaml())
        self._record({"kind": "extension", **row})
        self.save()

    # Epochs and steps

    def train_epochs(self) -> None:
        """Trains until the last epoch or early stopping."""
        while not self.state.done:
            with phase(self.progress, self.steps_per_epoch, f"Epoch {self.state.epoch} of {self.recipe.trainer.epochs}"):
                self.progress.step(self.state.step)
                self._epoch()

    def _epoch(self) -> None:
        stopping = False
        batches = self.plan(self.state.epoch)
        for batch in batches[self.state.step :]:
            stopping = self._step(batch)
            self._between_steps(stopping)
        self._end_epoch()
        self.save()
        if stopping and not self.state.done:
            self._interrupt()

    def _step(self, indices: Indices) -> bool:
        """Trains on one batch; returns whether any process was asked to stop."""
        state, start = self.state, time.perf_counter()
        seed_dropout(
            self.accelerator.device,
            torch_seed(self.recipe.seed, "layers", state.total_steps, self.accelerator.process_index),
        )
        own = shard(indices, self.accelerator.process_index, self.accelerator.num_processes)
        lr = learning_rate(state.total_steps, self.steps_per_epoch * self.recipe.trainer.epochs, self.recipe.optimizer)
        try:
            batch = self.batch_loader.training_batch(own, state.epoch, state.step)
            result = self.learner.step(batch, lr, stop=self.stop.requested)
        except NotFiniteError as error:
            raise self._not_finite(str(error), indices) from None
        state.step, state.total_steps = state.step + 1, state.total_steps + 1
        state.loss_sum += result.loss * len(indices)
        state.correct, state.images = state.correct + result.correct, state.images + len(indices)
        state.seconds += time.perf_counter() - start
        state.wait_seconds += self.batch_loader.wait_seconds
        self._record_step(result, lr)
        self.progress.step(1, loss=result.loss)
        return result.stop

    def _between_steps(self, stopping: bool) -> None:
        interval = self.recipe.trainer.checkpoint_steps
        if self.state.step == self.steps_per_epoch:  # the end of the epoch writes its own checkpoint
            return
        if stopping:
            self.save()
            self._interrupt()
        if interval and self.state.total_steps % interval == 0:
            self.save()

    def _interrupt(self) -> None:
        raise Interrupted(
            f"Training was stopped in epoch {self.state.epoch} after step {self.state.total_steps}",
            "Its state is saved",
            f"Run the same command with --resume to continue (run folder {self.folder.path})",
        )

    def _not_finite(self, what: str, indices: Indices) -> DivergedError:
        names = self.training_data.names(indices)
        finding = diagnostics.loss_not_finite(what, self.state.epoch, self.state.step + 1, names)
        self._report([finding])
        self.save()
        return DivergedError(finding.message, "The state before this step is saved in checkpoints", finding.advice)

    def _record_step(self, result: StepResult, lr: float) -> None:
        state = self.state
        self._report(self.monitor.after_step(result.loss, lr, state.epoch))
        if state.step % max(1, self.steps_per_epoch // _STEP_RECORDS_PER_EPOCH) == 0:
            shares = {f"{name}_gradient_share": share for name, share in result.attention_gradient.items()}
            metrics = {"loss": result.loss, "lr": lr, "gradient_norm": result.gradient_norm}
            self._record({"kind": "step", "epoch": state.epoch, "step": state.total_steps, **metrics, **shares})

    def _record(self, row: Row) -> None:
        if self.accelerator.is_main_process:
            self.folder.append(row)
            if row["kind"] == "finding":
                self.tracking.finding(row)

    def _report(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._record(finding.as_row())
            self._print(finding)

    def _print(self, finding: Finding) -> None:
        self.progress.message(finding.as_text())

    def _end_epoch(self) -> None:
        state = self.state
        batch_size = self.recipe.trainer.batch_size
        self.learner.update_eval_network()
        logits = compute_logits(self.learner.eval_network, self.batch_loader, self.validation, batch_size, self.accelerator)
        result = evaluate_validation(logits, self.training_data.targets[self.validation], self.num_classes)
        self._keep_best(result)
        row = self._row(result)
        if self.accelerator.is_main_process:
            findings, attention = self.monitor.after_epoch([*state.rows, row], state.total_steps, state.epoch)
            row |= attention
            self._report(findings)
            self.progress.message(_epoch_text(row, is_best=state.best is not None and state.best[0] == state.epoch))
            self.folder.append({"kind": "epoch", **row})
            self.tracking.epoch(row)
            self.folder.write_results([*state.rows, row])
        state.rows.append(row)
        patience = self.recipe.trainer.early_stopping
        state.done = state.epoch >= self.recipe.trainer.epochs or 0 < patience <= state.epochs_since_best
        if not state.done:
            state.next_epoch()

    def _keep_best(self, result: ValidationResult) -> None:
        state = self.state
        is_best = result.better_than(state.best[1] if state.best else None)
        if is_best or self.recipe.trainer.export == "last":
            weights = self.learner.eval_network.state_dict()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        if is_best:
            state.best, state.epochs_since_best = (state.epoch, result), 0
        else:
            state.epochs_since_best += 1

    def _row(self, result: ValidationResult) -> Row:
        state = self.state
        total = self.steps_per_epoch * self.recipe.trainer.epochs
        return {
            "epoch": state.epoch,
            "train_loss": state.loss_sum / state.images,
            "train_accuracy": state.correct / state.images,
            **result.as_row(),
            "lr": learning_rate(state.total_steps - 1, total, self.recipe.optimizer),
            "seconds": round(state.seconds, 3),
            "images_per_second": round(state.images / max(state.seconds, 1e-9), 2),
            "data_wait_share": round(state.wait_seconds / max(state.seconds, 1e-9), 4),
        }

    # End

    def export(self) -> Row:
        """Writes the bundle and the summary that marks the run as finished; returns the summary."""
        network = self.learner.eval_network
        network.load_state_dict(self.best_weights)
        logits = compute_logits(
            network,
            self.batch_loader,
            self.validation,
            self.recipe.trainer.batch_size,
            self.accelerator,
            flip_average=self.recipe.decision.flip_average,
        )
        targets = self.training_data.targets[self.validation]
        decision = make_decision(self.recipe.decision, logits, targets, self.num_classes)
        if self.accelerator.is_main_process:
            for finding in self.monitor.after_training(logits, decision, self._best_epoch()):
                self._record(finding.as_row())
        summary = self._summary()
        if self.accelerator.is_main_process:
            self._bundle(summary, decision).save(self.folder.path / run_folder.BUNDLE, self.best_weights)
            self.folder.finish(summary)
        self.accelerator.wait_for_everyone()
        return summary

    def _best_epoch(self) -> int:
        state = self.state
        return state.epoch if self.recipe.trainer.export == "last" or state.best is None else state.best[0]

    def _summary(self) -> Row:
        best = self._best_epoch()
        row = self.state.rows[best - 1]
        validation = {name: row[name] for name in ("val_loss", "val_accuracy", "val_auroc")}
        findings = [asdict(finding) for finding in self.monitor.findings]
        return {
            "epochs": self.state.epoch,
            "best_epoch": best,
            "validation": validation,
            "findings": findings,
            "recipe": self.recipe.published(),
            "leaked": self.training_data.leaked_cases(),
            "left_out": dict(self.training_data.cache.failed),
            "data_notes": list(self.training_data.manifest.notes),
            **self._extensions(),
        }

    def _extensions(self) -> Row:
        return {"extensions": self.state.extensions} if self.state.extensions else {}

    def _label_changes(self) -> Row:
        changes = self.training_data.manifest.label_changes
        return {"label_changes": [dict(change) for change in changes]} if changes else {}

    def _bundle(self, summary: Row, decision: Decision) -> Bundle:
        recipe, data = self.recipe, self.training_data
        parent = None if self.initialization is None else self.initialization.parent
        origin: Row = {"digest": data.digest, "images": data.counts(), "split_source": data.split_source(recipe.data.folds)}
        origin |= {"seen_by_ancestors": len(data.seen_by_ancestors)} if data.seen_by_ancestors else {}
        origin |= _published_sources(data.sources())
        origin |= self._label_changes()
        origin |= {"columns": dict(data.manifest.column_roles)} if data.manifest.column_roles else {}
        return Bundle(
            architecture=recipe.architecture(self.num_classes),
            preprocess=recipe.preprocess,
            labels=data.manifest.labels,
            decision=decision,
            scope=data.scope(recipe.preprocess),
            training_images=data.training_images(),
            lineage=() if parent is None else parent.lineage_of_child(),
            provenance={
                "data": origin,
                "versions": run_folder.versions(),
                "license": "not stated by the data" if parent is None else parent.provenance.get("license", "not stated"),
                "intended_use": _INTENDED_USE,
                "recipe": recipe.published(),
                "seed": recipe.seed,
                "epoch": summary["best_epoch"],
                "validation": summary["validation"],
                **self._extensions(),
            },
            builder=recipe.builder(),
        )


def _published_sources(sources: dict[str, dict[str, int]]) -> Row:
    """Returns the images of each source for the bundle; of many sources, which may be patients or dates, only their number."""
    if len(sources) > MAX_SOURCES:
        return {"n_sources": len(sources)}
    return {"sources": sources} if sources else {}


def _epoch_text(row: Row, is_best: bool) -> str:
    """Returns the metrics of an epoch as a line for people."""
    values = [f"{title} {row[key]:.3f}" for key, title in _EPOCH_METRICS.items() if row.get(key) is not None]
    return f"Epoch {row['epoch']}: {', '.join(values)}{' (best so far)' if is_best else ''}"


def is_extension(before: Row, now: Row) -> bool:
    """Returns whether a recipe differs from an earlier one only in that it has more epochs."""
    epochs = before["trainer"]["epochs"]
    return bool(now["trainer"]["epochs"] > epochs and before == now | {"trainer": now["trainer"] | {"epochs": epochs}})
