"""The sections of a training recipe: settings, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from reslink.datasets.case import DEFAULT_FRACTIONS
from reslink.datasets.grouping import GroupBy
from reslink.errors import UsageError
from reslink.labels import CaseKind, Labels
from reslink.networks.entry_points import entry_point_name
from reslink.networks.external_config import EXTERNAL_VARIANTS

EXTERNAL_KEYS = ("entry_point", "options", "explanation_layer")
"""Keys of the section ``model`` for networks that are not a ResLink."""
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A section of a recipe: frozen and strict, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSettings(Section):
    """Splits and groups of the cases.

    Attributes:
        fractions: Shares of training, validation and test cases; sum 1. Not used with ``folds``.
        labels: Columns of a table with several labels at once (1, 0, or empty where unknown), such as ``[epidural, subdural]``.
            The network then has one sigmoid output per label. One class per image if None.
        class_order: Class names in the order of the outputs; sorted if None. With two, the last is the positive one.
        group_by: Cases that stay in one split: those of a patient, near duplicates, both, both and probable scans, or none.
        folds: Number of folds for cross-validation, or None for a single split.
        fold: The fold of the test split, from 0; the next one is the validation split.
        holdout: Share of the cases that are in no fold, the same for each fold: the split ``holdout``; 0 is none.
        split_seed: Seed of the split; the recipe's ``seed`` if None.
        balance_sources: Draw each class of each source equally often in training, so that the source does not tell the class,
            as far as every source has every class. Images of small sources are repeated.
        allow_leakage: Accept a patient or near duplicates in more than one split; all metrics are then marked.
        allow_conflicts: Accept identical images and near duplicates with different labels.
    """

    fractions: tuple[Share, Share, Share] = DEFAULT_FRACTIONS
    labels: tuple[str, ...] | None = None
    class_order: tuple[str, ...] | None = None
    group_by: GroupBy = "both"
    folds: int | None = Field(default=None, ge=3, le=100)
    fold: int = Field(default=0, ge=0)
    holdout: float = Field(default=0.0, ge=0, le=0.5)
    split_seed: int | None = Field(default=None, ge=0, lt=2**63)
    balance_sources: bool = False
    allow_leakage: bool = False
    allow_conflicts: bool = False

    @model_validator(mode="after")
    def _check_splits(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions[:2]) <= 0:
            raise ValueError(f"fractions are {list(self.fractions)}; they sum to 1, with training and validation above 0")
        if self.labels is not None and self.class_order is not None:
            raise ValueError("labels and class_order are both set; labels have the order of the outputs already")
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold is {self.fold}; it is between 0 and folds - 1, and needs data.folds")
        if self.holdout and self.folds is None:
            raise ValueError(f"holdout is {self.holdout:g}, but there are no folds; set data.folds, or change fractions")
        return self


class ModelSettings(Section):
    """The network: a variant by name, and fields of ``ResLinkConfig`` that differ from it; or another network.

    Attributes:
        variant: ``reslink_context``, ``reslink_small`` or ``reslink_paper``; or a network that is not a ResLink, such as
            ``densenet121`` of MONAI (``reslink info`` lists them), for which the keys from ``stem_dim`` on do not apply.
        entry_point: Your own network: ``package.module:callable`` or ``file.py:callable``, called as ``(in_channels,
            num_classes, **options)``. ``variant`` is then its short name and can be left out. In a file it runs only with
            ``--network``.
        options: Options of a network that is not a ResLink, such as ``{growth_rate: 16}``.
        explanation_layer: Module of such a network whose feature map Grad-CAM explains; found if None.
        num_classes: Number of logits; the number of classes if None. 1 with two classes is a single sigmoid logit.
        stem_dim: Channels after the stem.
        stem_order: Order of the layers of the stem.
        dims: Channels of each stage.
        depths: Residual blocks of each stage.
        context_dim: Channels of a coarser stage that is added back to the last one; 0 is none.
        area_size: Side of an attention area in pixels of the feature map.
        attention: Which of the two area attention layers are used.
        residual: Whether residual blocks have a shortcut.
        drop_rate: Dropout in the residual blocks.
        head_drop_rate: Dropout before the dense layer.
    """

    variant: str = "reslink_context"
    entry_point: str | None = None
    options: dict[str, JsonValue] = {}
    explanation_layer: str | None = None
    num_classes: int | None = None
    stem_dim: int | None = None
    stem_order: str | None = None
    dims: Annotated[tuple[int, ...], Field(strict=False)] | None = None  # a list, after _name_entry_point
    depths: Annotated[tuple[int, ...], Field(strict=False)] | None = None  # a list, after _name_entry_point
    context_dim: int | None = None
    area_size: int | None = None
    attention: Literal["both", "first", "final", "none"] | None = None
    residual: bool | None = None
    drop_rate: float | None = None
    head_drop_rate: float | None = None

    def changes(self) -> dict[str, Any]:
        """Returns the fields that differ from the variant, except ``num_classes``."""
        return self.model_dump(exclude={"variant", "num_classes", *EXTERNAL_KEYS}, exclude_none=True)

    @property
    def is_external(self) -> bool:
        """Whether the network is not a ResLink."""
        return self.entry_point is not None or self.variant in EXTERNAL_VARIANTS

    @model_validator(mode="before")
    @classmethod
    def _name_entry_point(cls, values: Any) -> Any:
        """Sets ``variant`` to the short name of an entry point."""
        if not isinstance(values, dict) or not isinstance(values.get("entry_point"), str):
            return values
        return {"variant": entry_point_name(values["entry_point"]), **values}

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if self.entry_point is not None and self.variant != entry_point_name(self.entry_point):
            raise ValueError(
                f"variant is {self.variant}, but the network is that of entry_point, {self.entry_point}; leave variant out"
            )
        if self.is_external and self.changes():
            raise ValueError(f"{', '.join(self.changes())} can only be set for a ResLink; options are those of {self.variant}")
        if not self.is_external and (self.options or self.explanation_layer):
            raise ValueError(f"options and explanation_layer cannot be set for {self.variant}, but area_size and others")
        return self


class InitSettings(Section):
    """Fine-tuning: the parent whose weights the network starts from.

    Attributes:
        parent: Name of a shipped model, folder of a bundle, or a run; from scratch if None. Keys of ``model`` and
            ``preprocess`` that the recipe leaves out are those of the parent.
        weights_sha256: SHA-256 of the weights of the parent. reslink fills it in; another parent is refused.
        freeze: Modules that are not trained, such as ``stem`` or ``stages.0``; their BatchNorm layers keep their statistics.
        lr_factor: Factor of the learning rate of the weights that are taken over.
    """

    parent: str | None = None
    weights_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    freeze: tuple[str, ...] = ()
    lr_factor: float = Field(default=0.3, gt=0, le=1)

    @model_validator(mode="after")
    def _check_parent(self) -> Self:
        if self.freeze and self.parent is None and self.weights_sha256 is None:
            raise ValueError(f"freeze is {', '.join(self.freeze)}, but there is no parent; only weights of a parent are frozen")
        return self


class OptimizerSettings(Section):
    """Optimizer and learning rate.

    Attributes:
        name: ``muon`` for the hidden convolutions with AdamW for the rest (Jordan et al. 2024; Liu et al. 2025, arXiv
            2502.16982), ``adamw`` (Loshchilov & Hutter 2019, arXiv 1711.05101), ``adam`` (Kingma & Ba 2015, arXiv
            1412.6980) or ``sgd``.
        lr: Peak learning rate.
        weight_decay: Weight decay of convolution and dense weights; not used for norms and biases.
        momentum: Momentum of ``sgd``.
        schedule: ``onecycle`` (Smith & Topin 2018, arXiv 1708.07120), ``cosine`` (Loshchilov & Hutter 2017, arXiv
            1608.03983) or ``constant``; each after a warm-up.
        warmup: Share of all steps over which the learning rate rises.
        clip_norm: Gradients are scaled down to this norm; 0 does not clip.
    """

    name: Literal["muon", "adamw", "adam", "sgd"] = "muon"
    lr: float = Field(default=2e-3, gt=0, le=100)
    weight_decay: float = Field(default=0.05, ge=0, le=10)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["onecycle", "cosine", "constant"] = "cosine"
    warmup: float = Field(default=0.15, ge=0, le=0.9)
    clip_norm: float = Field(default=1.0, ge=0)


class LossSettings(Section):
    """The loss: cross-entropy, or binary cross-entropy for a single logit and for several labels at once.

    Attributes:
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2016, arXiv 1512.00567).
        imbalance: ``none``; ``weights``: rare classes have more weight in the loss; ``sampler``: images of rare classes are
            drawn more often; ``focal``: easy images have less weight (Lin et al. 2017, arXiv 1708.02002).
        focal_gamma: Exponent of the focal loss.
        mixup: Parameter of the Beta distribution of mixup (Zhang et al. 2018, arXiv 1710.09412); 0 switches it off.
    """

    label_smoothing: float = Field(default=0.05, ge=0, le=0.5)
    imbalance: Literal["none", "weights", "sampler", "focal"] = "none"
    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    mixup: float = Field(default=0.0, ge=0, le=10)


class TrainerSettings(Section):
    """Epochs, batches, device and exported weights.

    Attributes:
        case: What has one label: a ``slice``, or a whole ``series``, whose slices share one network and are combined by gated
            attention (Ilse et al. 2018, arXiv 1802.04712).
        slices: Slices of a series that a training step draws, evenly spaced with a random offset; validation and prediction
            use all. Not used where a case is a slice.
        epochs: Passes over the training images or series.
        batch_size: Images or series of one optimizer step, over all processes. A step on series holds up to ``batch_size`` ×
            ``slices`` images in memory.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 if the processor supports it.
        ema: Decay of the moving average of the weights, which is validated and exported; 0 switches it off.
        early_stopping: Epochs without a better validation AUROC after which training ends; 0 is never.
        export: Weights in the bundle: those of the ``best`` epoch by validation AUROC (by loss for equal AUROC), or of the
            ``last`` one.
        channels_last: Memory layout with faster convolutions on most processors.
        deterministic: Forbid operations with non-deterministic results.
        workers: Processes that decode images into the cache; one per processor if None.
        verify_files: Hash all image files again, to see whether the cached images are still theirs. Otherwise a file counts as
            unchanged if its size and modification time are.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        checkpoint_steps: Steps between two checkpoints within an epoch; 0 is one checkpoint at the end of each epoch.
    """

    case: CaseKind = "slice"
    slices: int = Field(default=16, ge=1, le=64)
    epochs: int = Field(default=5, ge=1, le=10_000)
    batch_size: int = Field(default=16, ge=2, le=4096)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema: float = Field(default=0.998, ge=0, lt=1)
    early_stopping: int = Field(default=0, ge=0)
    export: Literal["best", "last"] = "best"
    channels_last: bool = True
    deterministic: bool = True
    workers: int | None = Field(default=None, ge=0, le=256)
    verify_files: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    checkpoint_steps: int = Field(default=0, ge=0)


class DecisionSettings(Section):
    """From a probability to a label with two classes.

    Attributes:
        threshold: Lowest probability of the positive class that gives its label; or the criterion that selects it on the
            validation split: ``youden`` (sensitivity + specificity, Youden 1950) or ``accuracy``. Not with more classes.
        flip_average: Average the probabilities of an image and its mirror image; twice the cost of a prediction.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["youden", "accuracy"] = 0.5
    flip_average: bool = False

    def check_labels(self, labels: Labels) -> None:
        """Refuses a threshold for more than two classes, of which the most probable one is predicted.

        Args:
            labels: The classes of the data.

        Raises:
            UsageError: If a threshold other than 0.5, the default, is set.
        """
        if self.threshold != 0.5 and labels.exclusive and not labels.binary:
            raise UsageError(
                f"decision.threshold is {self.threshold}, but the data has {len(labels)} classes",
                "A threshold divides two classes; of more than two, the most probable one is predicted",
                "Leave decision.threshold out; loss.imbalance=weights gives rare classes more weight",
            )


class DiagnosticsSettings(Section):
    """The diagnostics of a training run.

    Attributes:
        enabled: Whether the diagnostics run; a loss that is not finite stops the run in any case.
        images: Validation images whose attention is measured after each epoch.
    """

    enabled: bool = True
    images: int = Field(default=64, ge=1, le=4096)


class AttentionSupervisionSettings(Section):
    """A loss term that moves the attention to a target region.

    Attributes:
        weight: Weight of the term; 0 is none.
        target: ``head``: penalize attention outside the head; ``lesion``: penalize attention outside the lesion if there is a
            lesion mask, otherwise outside the head.
        layers: The attention layers that are supervised.
    """

    weight: float = Field(default=0.0, ge=0, le=100)
    target: Literal["head", "lesion"] = "head"
    layers: Literal["both", "first", "final"] = "both"
