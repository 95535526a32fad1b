"""Training of any network until a budget is used up, with the pieces that ``reslink train`` is made of.

The learning rate is a function of the share of the budget that is gone, so that nobody needs to know beforehand how many steps
fit in. Reading images and judging are not part of the budget.
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
from reslink.metrics.classification import estimates
from reslink.networks.reslink import ResLink
from reslink.training.batch_loader import Feeder
from reslink.training.data import Materials
from reslink.training.distributed import make_accelerator
from reslink.training.losses import Criterion
from reslink.training.optim import build
from reslink.training.recipe.recipe import Recipe
from reslink.training.recipe.schema import OptimizerSettings
from reslink.training.sampling import Indices, Shard, plan_epoch, sampler_weights
from reslink.training.seeding import forked, numbers, seed_layers, torch_seed
from reslink.training.step import Batch, Learner, NotFiniteError
from reslink.training.validation import Judgement, judge, logits_of

TICKS = 1_000_000
"""Steps that the schedule of a recipe is asked for; fine enough that no step is rounded visibly."""
REESTIMATED = 256
"""Training images from which BatchNorm statistics are estimated anew."""
JUDGED_AT_ONCE = 32


class Clock(Protocol):
    """Says which share of a run is over."""

    used: float

    @property
    def share(self) -> float:
        """Share that is over, from 0; the run ends at 1."""

    def __enter__(self) -> object:
        """A training step begins."""

    def __exit__(self, *_: object) -> None:
        """The step is over."""


class ProcessorTime:
    """A budget of processor time of this process, all its threads together.

    Args:
        seconds: The budget.

    Attributes:
        used: Seconds used up so far.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.used, self._start = seconds, 0.0, 0.0

    @property
    def share(self) -> float:
        """Share of the budget that is gone."""
        return self.used / self.seconds

    def __enter__(self) -> ProcessorTime:
        self._start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.used += time.process_time() - self._start


class Steps(ProcessorTime):
    """A budget of steps; what they take is measured all the same.

    Args:
        total: The budget.
    """

    def __init__(self, total: int) -> None:
        super().__init__(0.0)
        self.total, self.done = total, 0

    @property
    def share(self) -> float:
        """Share of the steps that are done."""
        return self.done / self.total

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.done += 1


@dataclass(frozen=True)
class Moment:
    """What the validation part says at one moment of a run.

    Attributes:
        share: Share of the budget that was gone.
        seconds: Processor time of training until then.
        images: Images that had been seen, each as often as it was.
        weights: Which weights were the best.
        judgement: Their loss, accuracy and AUROC.
    """

    share: float
    seconds: float
    images: int
    weights: str
    judgement: Judgement


class PeerLearner(Learner):
    """A learner of a network that is not built from the recipe; its steps are those of ``Learner``.

    Args:
        recipe: As in ``Learner``; ``model`` and ``optimizer.name`` are not used.
        criterion: The loss.
        accelerator: Device and precision.
        network: What is trained.
        optimizer: Makes the optimizer of the network, once that is in place.
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
        self.network = network.to(accelerator.device)  # type: ignore[assignment]  # a step asks no more of it than of a module
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]  # torch's annotation lacks it
        self.average = build.moving_average(self.network, recipe.trainer.ema) if recipe.trainer.ema else None
        self.judged = copy.deepcopy(self.network).eval()
        self.optimizer = optimizer(self.network)
        self.model = accelerator.prepare_model(self.network)


class Trainee:
    """A network, its data and what is needed to train and judge it, on the processor.

    Args:
        recipe: The settings.
        materials: The data.
        network: A network of one's own; that of the recipe where None.
        optimizer: Makes its optimizer; that of the recipe where None, which only a ``ResLink`` can have.
        several: Whether the best of several weights is judged, and not only those that ``reslink train`` would export.
    """

    def __init__(
        self,
        recipe: Recipe,
        materials: Materials,
        network: nn.Module | None = None,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        *,
        several: bool = False,
    ) -> None:
        self.recipe, self.materials, self.several = recipe, materials, several
        self.num_classes = len(materials.manifest.labels)
        self.training = materials.indices("train")
        labels = materials.targets[self.training]
        self.accelerator = make_accelerator(recipe.trainer.model_copy(update={"device": "cpu"}))
        criterion = Criterion(recipe.loss, labels, self.num_classes)
        if network is None:
            self.learner = Learner(recipe, criterion, self.num_classes, self.accelerator)
        else:
            made = optimizer or _recipe_optimizer(recipe.optimizer)
            self.learner = PeerLearner(recipe, criterion, self.accelerator, network, made)
        self.feeder = Feeder(recipe, materials, criterion, self.accelerator.device, 0)
        self.draws = sampler_weights(labels) if recipe.loss.imbalance == "sampler" else None
        self.images = self.skipped = 0

    @property
    def parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.learner.network.parameters() if p.requires_grad)

    def steps_an_epoch(self) -> int:
        """Returns how many steps see each training image once."""
        return len(plan_epoch(self.training, self.recipe.trainer.batch_size, self.recipe.seed, 1, self.draws))

    def train(self, clock: Clock, shares: Sequence[float] = (), hear: Callable[[Moment], None] = lambda _: None) -> None:
        """Trains until the clock says that the run is over; the last step may run over by its own length.

        Args:
            clock: Measures the run.
            shares: Moments before the end, in (0, 1), at which the validation part is judged.
            hear: Hears of each of them.
        """
        waiting = sorted(shares)
        with forked(self.accelerator.device):
            self._first_step()
            for total, (epoch, step, indices) in enumerate(self._batches()):
                seed_layers(self.accelerator.device, torch_seed(self.recipe.seed, "layers", total, 0))
                lr = learning_rate(clock.share, self.recipe.optimizer)
                with clock:
                    self._step(indices, epoch, step, lr)
                self.images += len(indices)
                if clock.share >= 1:
                    return
                if waiting and clock.share >= waiting[0]:
                    waiting = [share for share in waiting if share > clock.share]
                    hear(self.look(clock))

    def _batches(self) -> Iterator[tuple[int, int, Indices]]:
        for epoch in itertools.count(1):
            batches = plan_epoch(self.training, self.recipe.trainer.batch_size, self.recipe.seed, epoch, self.draws)
            for step, indices in enumerate(batches):
                yield epoch, step, indices

    def _step(self, indices: Indices, epoch: int, step: int, lr: float) -> None:
        try:
            self.learner.step(self.feeder.training(Shard(indices, 1.0), epoch, step), lr)
        except NotFiniteError:
            self.skipped += 1

    def _first_step(self) -> None:
        """What only a process's first step has to do, such as choosing kernels, is done on a copy before the clock runs."""
        twin = copy.copy(self.learner)
        twin.network = copy.deepcopy(self.learner.network)
        twin.average, twin.optimizer = None, torch.optim.SGD(twin.network.parameters(), lr=0.0)
        twin.model = twin.network
        batch: Batch = self.feeder.training(Shard(self.training[: self.recipe.trainer.batch_size], 1.0), 0, 0)
        with contextlib.suppress(NotFiniteError):  # the run itself counts it
            twin.step(batch, 0.0)

    def look(self, clock: Clock, *, last: bool = False) -> Moment:
        """Returns what the validation part says now of the best weights, which ``learner.judged`` then has.

        Args:
            clock: The clock of the run.
            last: Whether this is the end; every choice of weights is then looked at.
        """
        found = [(name, self._judgement(), self._state()) for name in self._weights(last=last)]
        name, best, state = found[0]
        for other in found[1:]:
            if other[1].better_than(best):
                name, best, state = other
        self.learner.judged.load_state_dict(state)
        return Moment(clock.share, clock.used, self.images, name, best)

    def _state(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.learner.judged.state_dict().items()}

    def _weights(self, *, last: bool) -> Iterator[str]:
        """Puts one choice of weights after the other into ``learner.judged`` and yields what it is."""
        learner = self.learner
        if not self.several:
            learner.refresh()
            yield "raw" if learner.average is None else "average"
            return
        sources = {"raw": learner.network} | ({} if learner.average is None else {"average": learner.average.module})
        for name, source in sources.items():
            normed = has_batch_norm(source)
            learner.judged.load_state_dict(source.state_dict())
            if last or not normed:
                yield name
            if normed:
                self._estimate_statistics(learner.judged)
                yield f"{name}, statistics estimated anew"

    def _estimate_statistics(self, network: nn.Module) -> None:
        """Estimates BatchNorm's statistics from training images, for those of a short run still hold its beginning.

        Source: Wu & Johnson 2021, arXiv 2105.07576, section 3 (precise BN).
        """
        chosen = numbers(self.recipe.seed, "statistics").permutation(self.training)[:REESTIMATED]
        parts = [chosen[i : i + JUDGED_AT_ONCE] for i in range(0, len(chosen), JUDGED_AT_ONCE)]
        update_bn([self.feeder.plain(part) for part in parts], network)
        network.eval()

    def _judgement(self) -> Judgement:
        validation = self.materials.indices("validation")
        return judge(self.logits(validation), self.materials.targets[validation], self.num_classes)

    def logits(self, indices: Indices) -> Tensor:
        """Returns the logits (n, K) of ``learner.judged``, in single precision."""
        return logits_of(self.learner.judged, self.feeder, indices, JUDGED_AT_ONCE, self.accelerator)


def has_batch_norm(network: nn.Module) -> bool:
    """Returns whether a network normalises by running statistics."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def learning_rate(share: float, settings: OptimizerSettings) -> float:
    """Returns the learning rate of a recipe when a share of the run is over.

    Args:
        share: From 0; from 1 on the rate stays at that of the end.
        settings: The section ``optimizer`` of the recipe.
    """
    return build.learning_rate(min(TICKS - 1, round(share * TICKS)), TICKS, settings)


def _recipe_optimizer(settings: OptimizerSettings) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(network: nn.Module) -> torch.optim.Optimizer:
        if not isinstance(network, ResLink):
            raise TypeError(f"{type(network).__name__} has no optimizer of a recipe; give one")
        return build.make_optimizer(network, settings)

    return make


def moment_row(moment: Moment) -> dict[str, Any]:
    """Returns a moment as plain values."""
    row = dataclasses.asdict(moment)
    return {**{k: v for k, v in row.items() if k != "judgement"}, **row["judgement"]}


def test_figures(trainee: Trainee) -> dict[str, Any]:
    """Returns AUROC and accuracy of the test part with their intervals over groups."""
    found = trainee.materials
    rows = found.indices("test")
    decision = Decision.default(trainee.num_classes)
    probabilities = decision.probabilities(trainee.logits(rows).numpy())
    groups = [found.groups[i] for i in rows]
    names = found.manifest.labels.names
    figures, _ = estimates(found.targets[rows], probabilities, decision.predict(probabilities), groups, names)
    return {
        "n_test": len(rows),
        "groups_test": len(set(groups)),
        "n_train": len(trainee.training),
        "test": {name: figures[name].as_dict() for name in ("auroc", "accuracy")},
    }
