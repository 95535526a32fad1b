"""Names of pictures: letters that every system takes, and still those of the images; what an earlier run drew. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from PIL import Image as Picture

from reslink.errors import UsageError
from reslink.imaging.reading import ENDINGS

INDEX: Final = "explain.json"
SOFTWARE: Final = "reslink"
"""What the PNG of a picture says that wrote it."""
_LONGEST: Final = 80


def picture_stem(path: Path) -> str:
    """Returns the name of a file without an image's ending, at most 80 of ``A-Za-z0-9._-``; ``image`` where none is left."""
    ending = next((known for known in ENDINGS if path.name.lower().endswith(known)), "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.name[: len(path.name) - len(ending)]).strip("._-")
    return name[:_LONGEST].rstrip("._-") or "image"


def is_drawn(path: Path) -> bool:
    """Says whether a file is a picture that reslink drew, by what the PNG says that wrote it; a link is none."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Picture.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False


def earlier_pictures(folder: Path) -> list[Path]:
    """Returns the pictures that the ``explain.json`` of a folder names and that reslink drew; empty where there is none.

    Raises:
        UsageError: If ``explain.json`` is something else.
    """
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
        names = [image["panel"] for image in found["images"] if image["panel"] is not None]
        return [folder / name for name in names if name == Path(name).name and is_drawn(folder / name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / INDEX} is there, and reslink did not write it",
            f"Explanations come with an {INDEX} of their own, which replaces only an earlier one",
            "Choose another --out",
        ) from error
