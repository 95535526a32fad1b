"""Trains any network until a budget is used up, with the parts of ``reslink train``.

The learning rate depends on the share of the budget that is used, so the number of steps need not be known in advance.
Reading images and evaluation do not count towards the budget.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from reslink.bundles.decision.decision import Decision
from reslink.metrics.classification import classification_metrics
from reslink.networks.reslink import ResLink
from reslink.training.batch_loader import BatchLoader
from reslink.training.data import TrainingData
from reslink.training.distributed import make_accelerator
from reslink.training.losses import Criterion
from reslink.training.optim import build
from reslink.training.recipe.recipe import Recipe
from reslink.training.recipe.schema import OptimizerSettings
from reslink.training.sampling import Indices, Shard, plan_epoch, sampler_weights
from reslink.training.seeding import fork_random_state, numpy_generator, seed_dropout, torch_seed
from reslink.training.step import Batch, Learner, NotFiniteError
from reslink.training.validation import ValidationResult, compute_logits, evaluate_validation

TICKS = 1_000_000
"""Resolution of the schedule in steps; fine enough that rounding does not matter."""
REESTIMATED = 256
"""Training images for re-estimating BatchNorm statistics."""
EVALUATION_BATCH = 32


class Clock(Protocol):
    """Measures the used share of a run."""

    used: float

    @property
    def share(self) -> float:
        """Used share, from 0; the run ends at 1."""

    def __enter__(self) -> object:
        """Starts a training step."""

    def __exit__(self, *_: object) -> None:
        """Ends the step."""


class ProcessorTime:
    """A budget of processor time of this process with all its threads.

    Args:
        seconds: Budget in seconds.

    Attributes:
        used: Seconds used so far.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.used, self._start = seconds, 0.0, 0.0

    @property
    def share(self) -> float:
        """Used share of the budget."""
        return self.used / self.seconds

    def __enter__(self) -> ProcessorTime:
        self._start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.used += time.process_time() - self._start


class Steps(ProcessorTime):
    """A budget of steps; their processor time is measured as well.

    Args:
        total: Budget in steps.
    """

    def __init__(self, total: int) -> None:
        super().__init__(0.0)
        self.total, self.done = total, 0

    @property
    def share(self) -> float:
        """Share of the steps that are done, in [0, 1]."""
        return self.done / self.total

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.done += 1


@dataclass(frozen=True)
class Moment:
    """Metrics of the validation split at one moment of a run.

    Attributes:
        share: Used share of the budget.
        seconds: Processor time of training so far.
        images: Training images seen so far, with repetitions.
        weights: Name of the best weights.
        validation: Loss, accuracy and AUROC of these weights.
    """

    share: float
    seconds: float
    images: int
    weights: str
    validation: ValidationResult


class PeerLearner(Learner):
    """A ``Learner`` for a network that is not built from the recipe.

    Args:
        recipe: As in ``Learner``; ``model`` and ``optimizer.name`` are not used.
        criterion: The loss.
        accelerator: Device and precision.
        network: Network to train.
        optimizer: Function that creates the optimizer once the network is on its device.
    """

    def __init__(
        self,
        recipe: Recipe,
        criterion: Criterion,
        accelerator: Accelerator,
        network: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    ) -> None:
        self.recipe, self.criterion, self.accelerator = recipe, criterion, accelerator
        self.layout = torch.channels_last if recipe.trainer.channels_last else torch.contiguous_format
        self.network = network.to(accelerator.device)  # type: ignore[assignment]  # a step needs an nn.Module only
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]  # torch's annotation lacks it
        self.average = build.moving_average(self.network, recipe.trainer.ema) if recipe.trainer.ema else None
        self.eval_network = copy.deepcopy(self.network).eval()
        self.optimizer = optimizer(self.network)
        self.model = accelerator.prepare_model(self.network)


class Trainee:
    """A network with its data, trained and evaluated on the CPU.

    Args:
        recipe: The settings.
        training_data: The data.
        network: Network to train; None for that of the recipe.
        optimizer: Function that creates its optimizer; None for that of the recipe, which needs a ``ResLink``.
        several: Whether to evaluate several weights and keep the best, instead of those that ``reslink train`` would export.
    """

    def __init__(
        self,
        recipe: Recipe,
        training_data: TrainingData,
        network: nn.Module | None = None,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        *,
        several: bool = False,
    ) -> None:
        self.recipe, self.training_data, self.several = recipe, training_data, several
        self.num_classes = len(training_data.manifest.labels)
        self.training = training_data.indices("train")
        labels = training_data.targets[self.training]
        self.accelerator = make_accelerator(recipe.trainer.model_copy(update={"device": "cpu"}))
        criterion = Criterion(recipe.loss, labels, self.num_classes)
        if network is None:
            self.learner = Learner(recipe, criterion, self.num_classes, self.accelerator)
        else:
            make_optimizer = optimizer or _recipe_optimizer(recipe.optimizer)
            self.learner = PeerLearner(recipe, criterion, self.accelerator, network, make_optimizer)
        self.batch_loader = BatchLoader(recipe, training_data, criterion, self.accelerator.device, 0)
        self.draws = sampler_weights(labels) if recipe.loss.imbalance == "sampler" else None
        self.images = self.skipped = 0

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.learner.network.parameters() if p.requires_grad)

    def steps_an_epoch(self) -> int:
        """Returns the number of steps in an epoch."""
        return len(plan_epoch(self.training, self.recipe.trainer.batch_size, self.recipe.seed, 1, self.draws))

    def train(self, clock: Clock, shares: Sequence[float] = (), on_moment: Callable[[Moment], None] = lambda _: None) -> None:
        """Trains until the budget is used up; the last step may exceed it.

        Args:
            clock: Budget of the run.
            shares: Shares of the budget, in (0, 1), at which the validation split is evaluated.
            on_moment: Called with each evaluation.
        """
        waiting = sorted(shares)
        with fork_random_state(self.accelerator.device):
            self._first_step()
            for total, (epoch, step, indices) in enumerate(self._batches()):
                seed_dropout(self.accelerator.device, torch_seed(self.recipe.seed, "layers", total, 0))
                lr = learning_rate(clock.share, self.recipe.optimizer)
                with clock:
                    self._step(indices, epoch, step, lr)
                self.images += len(indices)
                if clock.share >= 1:
                    return
                if waiting and clock.share >= waiting[0]:
                    waiting = [share for share in waiting if share > clock.share]
                    on_moment(self.evaluate(clock))

    def _batches(self) -> Iterator[tuple[int, int, Indices]]:
        for epoch in itertools.count(1):
            batches = plan_epoch(self.training, self.recipe.trainer.batch_size, self.recipe.seed, epoch, self.draws)
            for step, indices in enumerate(batches):
                yield epoch, step, indices

    def _step(self, indices: Indices, epoch: int, step: int, lr: float) -> None:
        try:
            self.learner.step(self.batch_loader.training_batch(Shard(indices, 1.0), epoch, step), lr)
        except NotFiniteError:
            self.skipped += 1

    def _first_step(self) -> None:
        """Runs a first step on a copy, so that one-time work such as choosing kernels is not measured."""
        replica = copy.copy(self.learner)
        replica.network = copy.deepcopy(self.learner.network)
        replica.average, replica.optimizer = None, torch.optim.SGD(replica.network.parameters(), lr=0.0)
        replica.model = replica.network
        batch: Batch = self.batch_loader.training_batch(Shard(self.training[: self.recipe.trainer.batch_size], 1.0), 0, 0)
        with contextlib.suppress(NotFiniteError):  # the run itself counts such steps
            replica.step(batch, 0.0)

    def evaluate(self, clock: Clock, *, last: bool = False) -> Moment:
        """Evaluates the validation split and loads the best weights into ``learner.eval_network``.

        Args:
            clock: Budget of the run.
            last: Whether the run is over; then all weights are compared.
        """
        candidates = [(name, self._validate(), self._state()) for name in self._weights(last=last)]
        name, best, state = candidates[0]
        for other in candidates[1:]:
            if other[1].better_than(best):
                name, best, state = other
        self.learner.eval_network.load_state_dict(state)
        return Moment(clock.share, clock.used, self.images, name, best)

    def _state(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.learner.eval_network.state_dict().items()}

    def _weights(self, *, last: bool) -> Iterator[str]:
        """Loads each candidate into ``learner.eval_network`` and yields its name."""
        learner = self.learner
        if not self.several:
            learner.update_eval_network()
            yield "raw" if learner.average is None else "average"
            return
        sources = {"raw": learner.network} | ({} if learner.average is None else {"average": learner.average.module})
        for name, source in sources.items():
            normed = has_batch_norm(source)
            learner.eval_network.load_state_dict(source.state_dict())
            if last or not normed:
                yield name
            if normed:
                self._estimate_statistics(learner.eval_network)
                yield f"{name}, re-estimated statistics"

    def _estimate_statistics(self, network: nn.Module) -> None:
        """Re-estimates BatchNorm statistics from training images; those of a short run still depend on its start.

        Source: Wu & Johnson 2021, arXiv 2105.07576, section 3 (precise BN).
        """
        chosen = numpy_generator(self.recipe.seed, "statistics").permutation(self.training)[:REESTIMATED]
        parts = [chosen[i : i + EVALUATION_BATCH] for i in range(0, len(chosen), EVALUATION_BATCH)]
        update_bn([self.batch_loader.eval_batch(part) for part in parts], network)
        network.eval()

    def _validate(self) -> ValidationResult:
        validation = self.training_data.indices("validation")
        return evaluate_validation(self.logits(validation), self.training_data.targets[validation], self.num_classes)

    def logits(self, indices: Indices) -> Tensor:
        """Returns the logits (n, K) of ``learner.eval_network``, in single precision."""
        return compute_logits(self.learner.eval_network, self.batch_loader, indices, EVALUATION_BATCH, self.accelerator)


def has_batch_norm(network: nn.Module) -> bool:
    """Returns whether a network normalizes by running statistics."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def learning_rate(share: float, settings: OptimizerSettings) -> float:
    """Returns the learning rate of a recipe at a share of the run.

    Args:
        share: From 0; above 1 the rate of the end is returned.
        settings: Section ``optimizer`` of the recipe.
    """
    return build.learning_rate(min(TICKS - 1, round(share * TICKS)), TICKS, settings)


def _recipe_optimizer(settings: OptimizerSettings) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(network: nn.Module) -> torch.optim.Optimizer:
        if not isinstance(network, ResLink):
            raise TypeError(f"{type(network).__name__} has no optimizer in the recipe; pass one")
        return build.make_optimizer(network, settings)

    return make


def moment_row(moment: Moment) -> dict[str, Any]:
    """Returns a moment as a dictionary of plain values."""
    row = dataclasses.asdict(moment)
    return {**{k: v for k, v in row.items() if k != "validation"}, **row["validation"]}


def test_metrics(trainee: Trainee) -> dict[str, Any]:
    """Returns AUROC and accuracy of the test split with intervals over groups."""
    data = trainee.training_data
    rows = data.indices("test")
    decision = Decision.default(trainee.num_classes)
    probabilities = decision.probabilities(trainee.logits(rows).numpy())
    groups = [data.groups[i] for i in rows]
    names = data.manifest.labels.names
    metrics, _ = classification_metrics(data.targets[rows], probabilities, decision.predict(probabilities), groups, names)
    return {
        "n_test": len(rows),
        "groups_test": len(set(groups)),
        "n_train": len(trainee.training),
        "test": {name: metrics[name].as_dict() for name in ("auroc", "accuracy")},
    }
