"""Settings of the training augmentation. Imports no torch, so that a recipe is checked quickly."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class AugmentSettings(BaseModel):
    """Strength of the augmentation; each image draws its own values, uniformly within the ranges.

    Attributes:
        enabled: False turns all augmentation off.
        flip: Probability of a left-right flip.
        vertical_flip: Probability of a top-bottom flip; 0 by default, because heads are not scanned upside down.
        rotation: Largest rotation to either side in degrees, 0 to 180.
        scale: Largest change of size, 0 to 0.5; 0.1 means 0.9 to 1.1 times.
        translation: Largest shift along each axis, as a share of the side, 0 to 0.5.
        brightness: Largest shift of the gray values, 0 to 0.5 of the gray range.
        contrast: Largest change of contrast about the mean of the head, 0 to 0.9; 0.2 means 0.8 to 1.2 times.
        gamma: Largest change of the gamma exponent, 0 to 2; 0.2 means 1/1.2 to 1.2.
        gray_curve: Probability that the gray values of a head go through a random curve that can also reverse their order, as
            sequences of MR differ: tissue keeps its shape and changes its brightness (as in Billot et al. 2023, arXiv
            2107.09559). 0.0 by default; use 0 for CT.
        sharpness: Largest share of the fine detail (finer than about 3 pixels) that is added or removed, 0 to 2: 1 is from
            smoothed to twice as sharp, as reconstruction kernels of CT differ. 0.0 by default.
        noise: Largest standard deviation of Gaussian noise, 0 to 0.5 of the gray range.
        resolution_drop: Probability that an image is downsampled to between half and full resolution and enlarged again.
        bias_field: Largest exponent of a smooth gain across the image, as MR coils cause it, 0 to 1; use 0 for CT.
        erase: Probability that a rectangle of 2 to 10 % of the image is set to black. It can hide a whole lesion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    enabled: bool = True
    flip: Share = 0.5
    vertical_flip: Share = 0.0
    rotation: Annotated[float, Field(ge=0, le=180)] = 8.0
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    translation: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    brightness: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    contrast: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    gamma: Annotated[float, Field(ge=0, le=2)] = 0.12
    gray_curve: Share = 0.0
    sharpness: Annotated[float, Field(ge=0, le=2)] = 0.0
    noise: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    resolution_drop: Share = 0.0
    bias_field: Share = 0.0
    erase: Share = 0.0
