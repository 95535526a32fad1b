"""Names of the pictures of images: safe on every system, and still those of the images. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_SUFFIX: Final = re.compile(r"(\.nii)?\.[A-Za-z][A-Za-z0-9]{0,5}$")
_LONGEST: Final = 80


def picture_stem(path: Path) -> str:
    """Returns the name of a file without its suffix, at most 80 letters, digits and ``._-``; ``image`` where none is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", _SUFFIX.sub("", path.name)).strip("._-")
    return name[:_LONGEST].rstrip("._-") or "image"
