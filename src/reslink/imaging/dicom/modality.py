"""What a DICOM object shows, as its header says: a slice of a head CT or MR, or why it counts for no series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from pydicom import Dataset, uid
from pydicom.config import IGNORE

from reslink.imaging.image import Modality

MANUFACTURER: Final = "reslink"
"""Stands in every object that this package writes; such an object is never classified."""

MODALITIES: Final[dict[str, Modality]] = {uid.CTImageStorage: "CT", uid.MRImageStorage: "MR"}
"""The kinds of objects of one slice that are classified."""

VOLUMES: Final = (
    *(uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    *(uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage),
)
"""The kinds of objects that hold the slices of a whole series."""

HEAD_WORDS: Final = ("HEAD", "BRAIN", "SKULL")
"""Body Part Examined of a series that is classified (PS3.16 annex L)."""

HEAD_CODES: Final = ("69536005", "12738006", "89546000", "T-D1100", "T-A0100", "T-11100")
"""Codes of head, brain and skull in an Anatomic Region Sequence, SNOMED CT and the older SRT."""

NOT_SLICES: Final = ("LOCALIZER", "SCOUT", "SCREEN SAVE", "PROJECTION IMAGE", "DOSE", "MIP", "MINIP")
"""Words of Image Type of what is no slice of a head."""

OTHER_PART: Final = "its header says that it is of another part of the body"


def refusal(kind: str, image_type: Sequence[str], manufacturer: str, kinds: Collection[str] = MODALITIES) -> str | None:
    """Returns why an object is no slice to classify, None where it may be one.

    Args:
        kind: SOP Class UID.
        image_type: Values of Image Type.
        manufacturer: Value of Manufacturer.
        kinds: SOP Class UIDs that are taken.
    """
    if manufacturer.strip().casefold() == MANUFACTURER:
        return "a result of this package"
    if kind not in kinds:
        name = uid.UID(kind, validation_mode=IGNORE).name  # the UID itself where it is not known
        return f"not an image of CT or MR ({'unknown kind' if name == kind else name})"
    found = sorted({word.strip().upper() for word in image_type}.intersection(NOT_SLICES))
    return f"{found[0].lower()}, not a slice" if found else None


def refusal_of(header: Dataset, kinds: Collection[str] = MODALITIES) -> str | None:
    """Returns what :func:`refusal` says of a header."""
    words = header.get("ImageType") or ()
    listed = [str(word) for word in words] if isinstance(words, Sequence) and not isinstance(words, str) else [str(words)]
    return refusal(str(header.get("SOPClassUID", "")), listed, str(header.get("Manufacturer") or ""), kinds)


def is_head(header: Dataset) -> bool | None:
    """Whether a header says that an object is of a head; None where it says nothing of the part of the body."""
    stated = str(header.get("BodyPartExamined") or "").strip().upper()
    regions = header.get("AnatomicRegionSequence") or ()
    items = regions if isinstance(regions, Sequence) else ()
    codes = [str(item.get("CodeValue", "")) for item in items if isinstance(item, Dataset)]
    if stated in HEAD_WORDS or (not stated and set(codes) & set(HEAD_CODES)):
        return True
    return False if is_other_part(stated) or codes else None


def is_other_part(stated: str) -> bool:
    """Whether a value of Body Part Examined is there and is no head."""
    return stated.strip().upper() not in ("", *HEAD_WORDS)


def why_alone(header: Dataset) -> str | None:
    """Returns why an object counts for no series that is answered as a whole, None where it may; whole volumes may, too."""
    try:
        why = refusal_of(header, (*MODALITIES, *VOLUMES))
        return OTHER_PART if why is None and is_head(header) is False else why
    except Exception:  # noqa: BLE001 - pydicom raises many kinds of error for a broken value, which spoils no pixels
        return "its header does not say what it shows"
