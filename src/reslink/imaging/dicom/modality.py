"""Decide from the header whether a DICOM object is a slice of a head CT or MR that can be classified, or why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from pydicom import Dataset, uid
from pydicom.config import IGNORE

from reslink.imaging.image import Modality

MANUFACTURER: Final = "reslink"
"""Manufacturer of all objects written by this package. They are never classified."""

MODALITIES: Final[dict[str, Modality]] = {uid.CTImageStorage: "CT", uid.MRImageStorage: "MR"}
"""Modality by SOP class of the single-slice objects that are classified."""

MULTI_FRAME_CLASSES: Final = (
    *(uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    *(uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage),
)
"""SOP classes of the objects that contain all slices of a series."""

HEAD_BODY_PARTS: Final = ("HEAD", "BRAIN", "SKULL")
"""Values of Body Part Examined of the series that are classified (PS3.16 annex L)."""

HEAD_CODES: Final = ("69536005", "12738006", "89546000", "T-D1100", "T-A0100", "T-11100")
"""Codes of head, brain and skull in an Anatomic Region Sequence (SNOMED CT and the older SRT)."""

NON_SLICE_IMAGE_TYPES: Final = ("LOCALIZER", "SCOUT", "SCREEN SAVE", "PROJECTION IMAGE", "DOSE", "MIP", "MINIP")
"""Values of Image Type of objects that are not slices of a head."""

OTHER_BODY_PART: Final = "its header states another part of the body"


def exclusion_reason(
    sop_class: str, image_type: Sequence[str], manufacturer: str, sop_classes: Collection[str] = MODALITIES
) -> str | None:
    """Returns why an object is not a slice to classify; None if it may be one.

    Args:
        sop_class: SOP Class UID.
        image_type: Values of Image Type.
        manufacturer: Value of Manufacturer.
        sop_classes: Accepted SOP Class UIDs.
    """
    if manufacturer.strip().casefold() == MANUFACTURER:
        return "a result of this package"
    if sop_class not in sop_classes:
        name = uid.UID(sop_class, validation_mode=IGNORE).name  # the UID itself if it is unknown
        return f"not a CT or MR image ({'unknown SOP class' if name == sop_class else name})"
    non_slice = sorted({value.strip().upper() for value in image_type}.intersection(NON_SLICE_IMAGE_TYPES))
    return f"{non_slice[0].lower()}, not a slice" if non_slice else None


def header_exclusion_reason(header: Dataset, sop_classes: Collection[str] = MODALITIES) -> str | None:
    """Returns the result of :func:`exclusion_reason` for a header."""
    values = header.get("ImageType") or ()
    image_type = [str(v) for v in values] if isinstance(values, Sequence) and not isinstance(values, str) else [str(values)]
    return exclusion_reason(str(header.get("SOPClassUID", "")), image_type, str(header.get("Manufacturer") or ""), sop_classes)


def is_head(header: Dataset) -> bool | None:
    """Whether a header states that an object shows a head; None if it states no body part."""
    stated = str(header.get("BodyPartExamined") or "").strip().upper()
    regions = header.get("AnatomicRegionSequence") or ()
    items = regions if isinstance(regions, Sequence) else ()
    codes = [str(item.get("CodeValue", "")) for item in items if isinstance(item, Dataset)]
    if stated in HEAD_BODY_PARTS or (not stated and set(codes) & set(HEAD_CODES)):
        return True
    return False if is_other_body_part(stated) or codes else None


def is_other_body_part(stated: str) -> bool:
    """Whether Body Part Examined is stated and is not the head."""
    return stated.strip().upper() not in ("", *HEAD_BODY_PARTS)


def series_exclusion_reason(header: Dataset) -> str | None:
    """Returns why an object is not part of a series that can be classified; None if it may be. Volumes are accepted."""
    try:
        reason = header_exclusion_reason(header, (*MODALITIES, *MULTI_FRAME_CLASSES))
        return OTHER_BODY_PART if reason is None and is_head(header) is False else reason
    except Exception:  # noqa: BLE001 - pydicom raises many kinds of errors for a broken value; the pixels may still be valid
        return "its header is broken"
