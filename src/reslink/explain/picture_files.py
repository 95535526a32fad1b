"""File names of pictures, and the pictures of an earlier run in a folder. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from PIL import Image as Picture

from reslink.errors import UsageError
from reslink.imaging.reading import SUFFIXES
from reslink.settings_text import read_json

INDEX: Final = "explain.json"
SOFTWARE: Final = "reslink"
"""Value of ``Software`` in the PNG metadata of pictures."""
_MAX_STEM: Final = 80


def picture_stem(path: Path) -> str:
    """Returns a portable name for the picture of an image.

    The suffix is removed, other characters than ``A-Za-z0-9._-`` are replaced, and the name has at most 80 characters. An empty
    name becomes ``image``.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.name[: len(path.name) - len(suffix)]).strip("._-")
    return name[:_MAX_STEM].rstrip("._-") or "image"


def is_reslink_picture(path: Path) -> bool:
    """Returns whether a file is a PNG written by reslink, by its metadata; never true for a symbolic link."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Picture.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False


def previous_pictures(folder: Path) -> list[Path]:
    """Returns the pictures of reslink that the ``explain.json`` of a folder lists; empty if there is none.

    Raises:
        UsageError: If reslink did not write ``explain.json``.
    """
    try:
        index: dict[str, Any] = read_json(folder / INDEX)
        names = [image["panel"] for image in index["images"] if image["panel"] is not None]
        return [folder / name for name in names if name == Path(name).name and is_reslink_picture(folder / name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / INDEX} exists, and reslink did not write it",
            f"reslink explain writes its own {INDEX} and replaces only such a file",
            "Choose another --out",
        ) from error
