"""One training run, from its start or a checkpoint to its bundle; the loop is plain and can be stopped at any step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reslink.bundles.bundle import Bundle
from reslink.errors import DivergedError, UsageError
from reslink.files import sha256, write_atomic, write_json
from reslink.training import run_folder
from reslink.training.batch_loader import Feeder
from reslink.training.checkpoint import Checkpoint, Checkpoints
from reslink.training.data import Materials
from reslink.training.losses import Criterion
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.diagnostics import Finding
from reslink.training.monitoring.monitor import Watch
from reslink.training.monitoring.progress import Progress
from reslink.training.optim.build import learning_rate
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import Row, RunFolder
from reslink.training.sampling import Indices, plan_epoch, sampler_weights, shard
from reslink.training.seeding import seed_layers, torch_seed
from reslink.training.signals import Interrupted, StopFlag
from reslink.training.state import Position
from reslink.training.step import Learner, NotFiniteError, Step
from reslink.training.validation import Judgement, decide, figures, judge, logits_of

if TYPE_CHECKING:
    from accelerate import Accelerator

_RECORDS_AN_EPOCH = 20
_INTENDED_USE = "Research on the classification of brain images that look like the training data."


class Run:
    """One training run, from its start or a checkpoint to its bundle.

    Args:
        recipe: The settings.
        materials: The data.
        folder: Where the run writes; claimed.
        accelerator: Device, precision and processes.
        progress: Hears how it goes.
        stop: Whether someone asked it to stop.
    """

    def __init__(
        self,
        recipe: Recipe,
        materials: Materials,
        folder: RunFolder,
        accelerator: Accelerator,
        progress: Progress,
        stop: StopFlag,
    ) -> None:
        self.recipe, self.materials, self.folder = recipe, materials, folder
        self.accelerator, self.progress, self.stop = accelerator, progress, stop
        self.num_classes = len(materials.manifest.labels)
        self.training, self.validation = materials.indices("train"), materials.indices("validation")
        labels = materials.targets[self.training]
        criterion = Criterion(recipe.loss, labels, self.num_classes)
        self.learner = Learner(recipe, criterion, self.num_classes, accelerator)
        self.feeder = Feeder(recipe, materials, criterion, accelerator.device, accelerator.process_index)
        self.watch = Watch(self.learner, self.feeder, recipe.trainer.batch_size // accelerator.num_processes)
        self.draws = sampler_weights(labels) if recipe.loss.imbalance == "sampler" else None
        self.checkpoints = Checkpoints(folder.path / run_folder.CHECKPOINTS, progress)
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self.steps_an_epoch = len(self.plan(1))

    def plan(self, epoch: int) -> list[Indices]:
        """Returns the batches of an epoch."""
        return plan_epoch(self.training, self.recipe.trainer.batch_size, self.recipe.seed, epoch, self.draws)

    # Start and checkpoints

    def begin(self) -> None:
        """Goes to the last checkpoint, or writes the files that stand at the start of a run."""
        found = self.checkpoints.load()
        self.accelerator.wait_for_everyone()  # all have looked before the first checkpoint is written
        if found is not None:
            self._check_same(found.state["made_from"])
            self._restore(found)
            self.progress.message(f"Going on in epoch {self.position.epoch} after step {self.position.total}.")
        elif self.accelerator.is_main_process:
            self._write_start()
        self.accelerator.wait_for_everyone()

    def _write_start(self) -> None:
        path = self.folder.path
        write_atomic(path / run_folder.CONFIG, self.recipe.to_yaml())
        precision = self.accelerator.mixed_precision
        processes = self.accelerator.num_processes
        write_json(path / run_folder.ENVIRONMENT, run_folder.environment(self.accelerator.device, precision, processes))
        data = self.materials
        self.folder.write_splits(data.manifest, data.parts, data.joined_groups(), data.cache.file_hashes)
        self.folder.take_back_metrics(0)
        for finding in self.watch.before():  # each file was named when it was read
            self._record(finding.as_row())
        self.save()

    def _made_from(self) -> Row:
        return {
            "data": self.materials.digest,
            "split": sha256("\n".join(self.materials.parts)),
            "recipe": self.recipe.published(),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "device": self.accelerator.device.type,
        }

    def _check_same(self, before: Row) -> None:
        found = list(changes(before, self._made_from()))
        if found:
            raise UsageError(
                f"The run in {self.folder.path} was made from something else: {'; '.join(found[:5])}",
                "A run goes on with the same data, recipe, device and number of processes",
                "Undo the change, choose another --out, or start anew with --overwrite",
            )

    def save(self) -> None:
        """Writes a checkpoint; only the main process does."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "made_from": self._made_from(),
            "position": asdict(self.position),
            "watch": self.watch.state(),
            "metrics_bytes": self.folder.metrics_size(),
        }
        tensors = self.learner.tensors() | ({"best": self.best} if self.best else {})
        self.checkpoints.save(Checkpoint(self.position.total, state, tensors))

    def _restore(self, found: Checkpoint) -> None:
        self.position = Position.of(dict(found.state["position"]))
        self.watch.restore(found.state["watch"])
        self.learner.restore(found.tensors)
        self.best = found.tensors.get("best", {})
        if self.accelerator.is_main_process and not self.folder.take_back_metrics(found.state["metrics_bytes"]):
            self.progress.message("metrics.jsonl has lost lines since the checkpoint; results.csv is whole.")

    # Epochs and steps

    def all_epochs(self) -> None:
        """Trains until the last epoch or until training no longer helps."""
        while not self.position.done:
            self.progress.start(self.steps_an_epoch, f"Epoch {self.position.epoch} of {self.recipe.trainer.epochs}")
            self.progress.step(self.position.step)
            try:
                self._epoch()
            finally:
                self.progress.end()

    def _epoch(self) -> None:
        stopping = False
        batches = self.plan(self.position.epoch)
        for batch in batches[self.position.step :]:
            stopping = self._step(batch)
            self._between_steps(stopping)
        self._end_epoch()
        self.save()
        if stopping and not self.position.done:
            self._interrupt()

    def _step(self, indices: Indices) -> bool:
        here, start = self.position, time.perf_counter()
        seed_layers(
            self.accelerator.device,
            torch_seed(self.recipe.seed, "layers", here.total, self.accelerator.process_index),
        )
        own = shard(indices, self.accelerator.process_index, self.accelerator.num_processes)
        lr = learning_rate(here.total, self.steps_an_epoch * self.recipe.trainer.epochs, self.recipe.optimizer)
        try:
            seen = self.learner.step(self.feeder.training(own, here.epoch, here.step), lr, stop=self.stop.asked)
        except NotFiniteError as error:
            raise self._not_finite(str(error), indices) from None
        here.step, here.total = here.step + 1, here.total + 1
        here.loss += seen.loss * len(indices)
        here.correct, here.seen = here.correct + seen.correct, here.seen + len(indices)
        here.seconds += time.perf_counter() - start
        here.waited += self.feeder.waited
        self._record_step(seen, lr)
        self.progress.step(1, loss=seen.loss)
        return seen.stop

    def _between_steps(self, stopping: bool) -> None:
        every = self.recipe.trainer.checkpoint_steps
        if self.position.step == self.steps_an_epoch:  # the end of the epoch saves by itself
            return
        if stopping:
            self.save()
            self._interrupt()
        if every and self.position.total % every == 0:
            self.save()

    def _interrupt(self) -> None:
        raise Interrupted(
            f"Training was stopped in epoch {self.position.epoch} after step {self.position.total}",
            "Its state is saved",
            f"Run the same command with --resume to go on from there (run folder {self.folder.path})",
        )

    def _not_finite(self, what: str, indices: Indices) -> DivergedError:
        names = self.materials.names(indices)
        here = self.position
        finding = diagnostics.loss_not_finite(what, here.epoch, here.step + 1, names)
        self._tell([finding])
        self.save()
        return DivergedError(finding.message, "The state before this step is saved in checkpoints", finding.advice)

    def _record_step(self, seen: Step, lr: float) -> None:
        here = self.position
        self._tell(self.watch.after_step(seen.loss, lr, here.epoch))
        if here.step % max(1, self.steps_an_epoch // _RECORDS_AN_EPOCH) == 0:
            shares = {f"{name}_gradient_share": share for name, share in seen.attention_gradient.items()}
            figures = {"loss": seen.loss, "lr": lr, "gradient_norm": seen.gradient_norm}
            self._record({"kind": "step", "epoch": here.epoch, "step": here.total, **figures, **shares})

    def _record(self, row: Row) -> None:
        if self.accelerator.is_main_process:
            self.folder.append(row)

    def _tell(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._record(finding.as_row())
            self.progress.message(f"{finding.code}: {finding.message}. {finding.advice}.")

    def _end_epoch(self) -> None:
        here = self.position
        batch_size = self.recipe.trainer.batch_size
        self.learner.refresh()
        logits = logits_of(self.learner.judged, self.feeder, self.validation, batch_size, self.accelerator)
        found = judge(logits, self.materials.targets[self.validation], self.num_classes)
        self._keep_best(found)
        row = self._row(found)
        if self.accelerator.is_main_process:
            fresh, gates = self.watch.after_epoch([*here.rows, row], here.total, here.epoch)
            row |= gates
            self._tell(fresh)
            self.folder.append({"kind": "epoch", **row})
            self.folder.write_results([*here.rows, row])
        here.rows.append(row)
        patience = self.recipe.trainer.early_stopping
        here.done = here.epoch >= self.recipe.trainer.epochs or 0 < patience <= here.stale
        if not here.done:
            here.next_epoch()

    def _keep_best(self, found: Judgement) -> None:
        here = self.position
        last = self.recipe.trainer.export == "last"
        if last or found.better_than(here.best[1] if here.best else None):
            self.best = {name: value.detach().cpu().clone() for name, value in self.learner.judged.state_dict().items()}
        if found.better_than(here.best[1] if here.best else None):
            here.best, here.stale = (here.epoch, found), 0
        else:
            here.stale += 1

    def _row(self, found: Judgement) -> Row:
        here = self.position
        total = self.steps_an_epoch * self.recipe.trainer.epochs
        return {
            "epoch": here.epoch,
            "train_loss": here.loss / here.seen,
            "train_accuracy": here.correct / here.seen,
            **figures(found),
            "lr": learning_rate(here.total - 1, total, self.recipe.optimizer),
            "seconds": round(here.seconds, 3),
            "images_per_second": round(here.seen / max(here.seconds, 1e-9), 2),
            "data_wait_share": round(here.waited / max(here.seconds, 1e-9), 4),
        }

    # End

    def export(self) -> Row:
        """Writes the bundle and notes that the run has ended; returns that note."""
        summary = self._summary()
        network = self.learner.judged
        network.load_state_dict(self.best)
        logits = logits_of(network, self.feeder, self.validation, self.recipe.trainer.batch_size, self.accelerator)
        if self.accelerator.is_main_process:
            self._bundle(summary, logits).save(self.folder.path / run_folder.BUNDLE, self.best)
            self.folder.finish(summary)
        self.accelerator.wait_for_everyone()
        return summary

    def _summary(self) -> Row:
        here = self.position
        best = here.epoch if self.recipe.trainer.export == "last" or here.best is None else here.best[0]
        row = here.rows[best - 1]
        validation = {name: row[name] for name in ("val_loss", "val_accuracy", "val_auroc")}
        findings = [asdict(finding) for finding in self.watch.findings]
        return {
            "epochs": here.epoch,
            "best_epoch": best,
            "validation": validation,
            "findings": findings,
            "recipe": self.recipe.published(),
            "linked": self.materials.linked(),
        }

    def _bundle(self, summary: Row, logits: Tensor) -> Bundle:
        recipe, data = self.recipe, self.materials
        return Bundle(
            architecture={**recipe.network(self.num_classes).model_dump(mode="json"), "name": recipe.model.variant},
            preprocess=recipe.preprocess,
            labels=data.manifest.labels,
            decision=decide(recipe.decision, logits, data.targets[self.validation], self.num_classes),
            training_images=data.training_images(),
            provenance={
                "data": {"digest": data.digest, "images": data.counts(), "division": data.division(recipe.data.folds)},
                "versions": run_folder.versions(),
                "licence": "not stated by the data",
                "intended_use": _INTENDED_USE,
                "recipe": recipe.published(),
                "seed": recipe.seed,
                "epoch": summary["best_epoch"],
                "validation": summary["validation"],
            },
        )


def changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yields the dotted names of what differs between two trees, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        label = name.removeprefix("recipe.")
        yield f"{label} has changed" if label == "data" else f"{label} was {before}, is {now}"
