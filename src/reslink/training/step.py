"""One optimizer step: the network, its optimizer, their state, and the copy that is evaluated."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reslink.errors import TrainingError
from reslink.networks.area_attention import AreaAttention, record_attention_weights
from reslink.networks.build import build_network
from reslink.networks.network import Network
from reslink.networks.series_pooling import SeriesForward
from reslink.training.initialization import Initialization
from reslink.training.losses import Criterion, attention_loss
from reslink.training.optim import build as optim
from reslink.training.recipe.recipe import Recipe
from reslink.training.seeding import torch_seed

if TYPE_CHECKING:
    from accelerate import Accelerator


class NotFiniteError(Exception):
    """A loss or a gradient is not finite; the step was not taken.

    Args:
        what: ``loss`` or ``gradient``.
    """


@dataclass(frozen=True, eq=False)
class Batch:
    """The input of one step in one process.

    Attributes:
        x: (B, C, S, S) normalized images; of series the slices of one after the other.
        targets: (B, K) distributions over the classes, or states of several labels at once.
        mask: (B, 1, S, S), target of the attention; None without supervision.
        share: Factor of the mean loss.
        sizes: Number of slices of each series; None where a case is a slice.
    """

    x: Tensor
    targets: Tensor
    mask: Tensor | None
    share: float
    sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class StepResult:
    """The result of one step, over all processes.

    Attributes:
        loss: Mean loss of the batch.
        correct: Images whose most probable class is correct (``Criterion.correct``).
        gradient_norm: Norm of the gradient before clipping.
        stop: Whether any process was asked to stop.
        attention_gradient: Share of each attention layer in the squared gradient norm, 0 to 1.
    """

    loss: float
    correct: float
    gradient_norm: float
    stop: bool
    attention_gradient: Mapping[str, float] = field(default_factory=dict)


class Learner:
    """A network with its loss, optimizer and moving average.

    Args:
        recipe: The recipe.
        criterion: The loss.
        num_classes: Number of classes of the data.
        accelerator: Device, precision and processes.
        initialization: The weights of the parent; None to train from scratch.

    Attributes:
        network: The network in training.
        eval_network: The copy that is validated and exported, as in prediction: eval mode, single precision. See
            :meth:`update_eval_network`.
    """

    def __init__(
        self,
        recipe: Recipe,
        criterion: Criterion,
        num_classes: int,
        accelerator: Accelerator,
        initialization: Initialization | None = None,
    ) -> None:
        self.recipe, self.criterion, self.accelerator = recipe, criterion, accelerator
        self.layout = torch.channels_last if recipe.trainer.channels_last else torch.contiguous_format
        config, seed = recipe.network(num_classes), torch_seed(recipe.seed, "weights")
        network = build_network(config, seed, recipe.builder(), recipe.trainer.case)
        if initialization is not None:
            initialization.apply(network)
        self.network: Network = network.to(accelerator.device)
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]  # torch's annotation lacks it
        self.average = optim.moving_average(self.network, recipe.trainer.ema) if recipe.trainer.ema else None
        self.eval_network: Network = copy.deepcopy(self.network).eval()
        lr_factors = {} if initialization is None else initialization.lr_factors()
        self.optimizer = optim.make_optimizer(self.network, recipe.optimizer, lr_factors)
        is_series = self.network.pooling is not None
        self.model = accelerator.prepare_model(SeriesForward(self.network) if is_series else self.network)

    def update_eval_network(self) -> None:
        """Copies the current weights, or their moving average, to ``eval_network``; all processes call it together.

        All processes get the BatchNorm statistics of the first one.
        """
        source = self.network if self.average is None else self.average.module
        self.eval_network.load_state_dict(source.state_dict())
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for buffer in self.eval_network.buffers():
                buffer.copy_(broadcast(buffer))

    def step(self, batch: Batch, lr: float, *, stop: bool = False) -> StepResult:
        """Updates the weights with one batch.

        Args:
            batch: The part of this process.
            lr: The learning rate.
            stop: Whether this process was asked to stop; shared with the other processes.

        Raises:
            NotFiniteError: If the loss or the gradient is not finite; weights and statistics are then unchanged.
        """
        before = [buffer.clone() for buffer in self.network.buffers()]
        try:
            return self._step(batch, lr, stop)
        except NotFiniteError:
            for buffer, value in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(value)
            self.optimizer.zero_grad(set_to_none=True)
            raise

    def _step(self, batch: Batch, lr: float, stop: bool) -> StepResult:
        recording: AbstractContextManager[dict[str, Tensor]] = (
            record_attention_weights(self.network) if batch.mask is not None else nullcontext({})
        )
        with recording as attention_weights:
            sizes = () if batch.sizes is None else (batch.sizes,)
            logits = self.model(batch.x.contiguous(memory_format=self.layout), *sizes).float()
        loss = self._losses(logits, batch, attention_weights).mean() * batch.share
        value, correct, stopping = self._over_processes(loss, self.criterion.correct(logits, batch.targets), stop)
        if not math.isfinite(value):
            raise NotFiniteError("loss")
        self.accelerator.backward(loss)
        shares = self._attention_shares()
        norm = self._clip()
        if not math.isfinite(norm):
            raise NotFiniteError("gradient")
        optim.set_learning_rate(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return StepResult(value, correct, norm, stopping, shares)

    def _losses(self, logits: Tensor, batch: Batch, attention_weights: Mapping[str, Tensor]) -> Tensor:
        losses = self.criterion(logits, batch.targets)
        if batch.mask is None:
            return losses
        settings = self.recipe.attention_supervision
        return losses + settings.weight * attention_loss(attention_weights, batch.mask, settings)

    def _attention_shares(self) -> dict[str, float]:
        squares = {name: _square(module) for name, module in self.network.named_modules() if isinstance(module, AreaAttention)}
        total = _square(self.network) if squares else 0.0
        return {name: square / total for name, square in squares.items() if 0 < total < math.inf}

    def _clip(self) -> float:
        limit = self.recipe.optimizer.clip_norm or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit))

    def _over_processes(self, loss: Tensor, correct: float, stop: bool) -> tuple[float, float, bool]:
        processes = self.accelerator.num_processes
        if processes == 1:
            return float(loss.detach()), correct, stop
        own = torch.stack([loss.detach().double().cpu(), torch.tensor(correct), torch.tensor(float(stop))])
        total = self.accelerator.reduce(own.to(self.accelerator.device), reduction="sum").tolist()
        return total[0] / processes, total[1], total[2] > 0

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Returns all tensors that the next step depends on."""
        tensors = {"network": self.network.state_dict(), "optimizer": optim.optimizer_tensors(self.optimizer)}
        return tensors if self.average is None else tensors | {"average": self.average.state_dict()}

    def restore(self, tensors: Mapping[str, dict[str, Tensor]]) -> None:
        """Restores the result of ``tensors``.

        Raises:
            TrainingError: If the network has other layers or shapes than that of the checkpoint.
        """
        try:
            self.network.load_state_dict(tensors["network"])
            if self.average is not None:
                self.average.load_state_dict(tensors["average"])
        except (RuntimeError, KeyError) as error:
            raise TrainingError(
                "The checkpoint holds another network than the recipe builds now",
                "A run is resumed with the reslink version that wrote its checkpoint",
                "Install that version (environment.json in the run folder names it), or start again with --overwrite",
            ) from error
        optim.restore_optimizer(self.optimizer, tensors["optimizer"])


def _square(module: torch.nn.Module) -> float:
    """Returns the squared gradient norm of a module's parameters."""
    norms = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return float(norms) ** 2
