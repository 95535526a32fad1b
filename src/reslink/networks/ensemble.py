"""An ensemble: several networks of one architecture that answer as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.networks.network import Network, weight_groups


class Ensemble(Network):
    """Averages the probabilities of its members: its logits are the log of the mean of their softmax, minus its mean.

    Without the mean over the classes, the gradient of the logit of a class would vanish where the class is certain.

    The features are the mean of the members' features, in the order of the members, and the feature maps are stacked along
    the channels. The attention weights of a layer are the mean over the members (``record_attention_weights``).

    Args:
        members: Networks with equal classes, input and architecture.
    """

    head_name = ""

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of x (B, C, H, W)."""
        return mean_probability_logits([member(x) for member in self._networks])

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`Network`; the maps are (B, M·D, h, w), those of each of M members in order, or None."""
        logits, features, maps = zip(*(member.forward_with_features(x) for member in self._networks), strict=True)
        known = [member_maps for member_maps in maps if member_maps is not None]
        stacked = torch.cat(known, dim=1) if len(known) == len(maps) else None
        return mean_probability_logits(logits), torch.stack(features).mean(dim=0), stacked

    def class_maps(self, maps: Tensor) -> Tensor:
        """Returns the mean of the members' class activation maps, (B, K, h, w)."""
        parts = maps.chunk(len(self.members), dim=1)
        return torch.stack([member.class_maps(part) for member, part in zip(self._networks, parts, strict=True)]).mean(dim=0)

    @property
    def _networks(self) -> list[Network]:
        return [member for member in self.members if isinstance(member, Network)]

    @property
    def dense(self) -> nn.Linear | None:
        """None: the logits are not linear in the features."""
        return None

    @property
    def explanation_layer(self) -> nn.Module | None:
        """That of the first member; Grad-CAM explains all of :attr:`explanation_layers` together."""
        return self._networks[0].explanation_layer

    @property
    def explanation_layers(self) -> tuple[nn.Module, ...]:
        """See :class:`Network`; those of all members."""
        return tuple(layer for member in self._networks for layer in member.explanation_layers)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """See :class:`Network`; the members are trained one by one, so nothing is optimized with Muon here."""
        return weight_groups(self, {id(parameter) for parameter in self.parameters()}, weight_decay)


def mean_probability_logits(logits: Sequence[Tensor]) -> Tensor:
    """Returns logits whose probabilities are the mean of those of several logits (B, K), or (B, 1) for a single one."""
    single = logits[0].shape[1] == 1
    rows = [torch.cat([F.logsigmoid(-z), F.logsigmoid(z)], dim=1) if single else F.log_softmax(z, dim=1) for z in logits]
    largest = torch.stack(rows).amax(dim=0).detach()
    total = (
        largest + torch.stack([(row - largest).exp() for row in rows]).sum(dim=0).log()
    )  # logsumexp, as a bundle may hold it
    return total[:, 1:] - total[:, :1] if single else total - total.mean(dim=1, keepdim=True)


def member_state(index: int, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights of a member under their names in the ensemble."""
    return {f"members.{index}.{name}": tensor for name, tensor in weights.items()}
