"""Names of the pictures of images: letters that every system takes, and still those of the images. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from reslink.imaging.reading import ENDINGS

_LONGEST: Final = 80


def picture_stem(path: Path) -> str:
    """Returns the name of a file without an image's ending, at most 80 of ``A-Za-z0-9._-``; ``image`` where none is left."""
    ending = next((known for known in ENDINGS if path.name.lower().endswith(known)), "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.name[: len(path.name) - len(ending)]).strip("._-")
    return name[:_LONGEST].rstrip("._-") or "image"
