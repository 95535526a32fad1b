"""From logits to probabilities to a class: temperature and threshold, kept with the weights they belong to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import softmax

from reslink.errors import InputError, UsageError


class Decision(BaseModel):
    """How the logits of a network become probabilities, and how those become a class.

    Attributes:
        threshold: With two classes, the probability of the positive (last) class from which on a case is called
            positive, 0 to 1. None picks the most probable class (the first of equals), the only rule with more classes.
        temperature: What logits are divided by before the softmax, above 0; 1 leaves them as they are
            (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).
        threshold_source: Where the threshold comes from, for reports, such as ``"default"`` or
            ``"Youden index on the validation split"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    threshold: float | None = Field(default=0.5, ge=0.0, le=1.0, allow_inf_nan=False)
    temperature: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    threshold_source: str = "default"

    @classmethod
    def default(cls, num_classes: int) -> Decision:
        """Returns the decision before anything was tuned: 0.5 with two classes, the most probable one with more."""
        return cls() if num_classes == 2 else cls(threshold=None)

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Returns the probability of every class.

        Args:
            logits: (n, K) with K classes, or (n, 1) for a network with a single sigmoid logit of the positive class.

        Returns:
            (n, K) float64, or (n, 2) for a single logit; each row sums to 1.

        Raises:
            InputError: If the shape is another one or a logit is not finite.
        """
        values = np.asarray(logits, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] < 1:
            raise InputError(
                f"Logits of shape {values.shape} were given",
                "Logits have the shape (cases, classes)",
                "Pass one row a case",
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"{int((~np.isfinite(values).all(axis=1)).sum())} of {len(values)} rows of logits are not finite",
                "Logits are finite numbers",
                "Check the weights and the images that gave them",
            )
        if values.shape[1] == 1:  # the sigmoid of z is the softmax over (0, z)
            values = np.hstack([np.zeros_like(values), values])
        return np.asarray(softmax(values / self.temperature, axis=1), dtype=np.float64)

    def predict(self, probabilities: ArrayLike) -> NDArray[np.int64]:
        """Returns the index of the predicted class of each case.

        Args:
            probabilities: (n, K), as :meth:`probabilities` returns them.

        Returns:
            (n,) indices into the class names.

        Raises:
            UsageError: If there is a threshold but there are not two classes.
        """
        values = np.asarray(probabilities, dtype=np.float64)
        if self.threshold is None:
            return np.asarray(values.argmax(axis=1), dtype=np.int64)
        self.check_classes(values.shape[1])
        return (values[:, 1] >= self.threshold).astype(np.int64)

    def check_classes(self, num_classes: int) -> None:
        """Checks that the rule fits the number of classes.

        Raises:
            UsageError: If there is a threshold but there are not two classes.
        """
        if self.threshold is not None and num_classes != 2:
            raise UsageError(
                f"A threshold of {self.threshold} was given for {num_classes} classes",
                "A threshold applies to two classes; with more the most probable class is chosen",
                "Set the threshold to null (None)",
            )
