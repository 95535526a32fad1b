"""The pictures of ``reslink predict``: one an answer, in a folder that holds nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.cli.command import refuse_file
from reslink.cli.console import counted
from reslink.errors import UsageError
from reslink.files import write_atomic

if TYPE_CHECKING:
    from reslink.imaging.image import Image
    from reslink.inference.classifier import Classifier, Prediction


class Pictures:
    """One PNG an answer in a folder, in the order of the answers: ``0001_scan.png``, ``0002_volume_slice_7.png``.

    Args:
        classifier: What gives the answers.
        folder: Made where it is missing; else empty.
        overwrite: Whether pictures that were drawn before may stand in the folder; they are removed with the first answer.

    Raises:
        UsageError: If the backend of the classifier gives no maps, a file stands where the folder is to be, or the folder
            holds what may not be replaced.
    """

    def __init__(self, classifier: Classifier, folder: Path, overwrite: bool = False) -> None:
        from reslink.explain.graph_maps import check_backend

        check_backend(classifier.backend)
        refuse_file(folder, "--pictures")
        self._replaced = _replaced(folder, overwrite)
        self._classifier, self._folder, self._count = classifier, folder, 0
        self._read: tuple[str, list[Image]] = ("", [])

    def write(self, prediction: Prediction) -> None:
        """Draws one answer; a file of several slices is read once more for all of them."""
        from reslink.explain.display import shown_map
        from reslink.explain.graph_maps import about, graph_maps
        from reslink.explain.picture_names import picture_stem
        from reslink.explain.prediction_picture import answer_picture
        from reslink.imaging.reading import read_image

        if self._read[0] != prediction.path:
            self._read = (prediction.path, read_image(prediction.path).slices())
        while self._replaced:
            self._replaced.pop().unlink(missing_ok=True)
        self._count += 1
        where, path = prediction.slice, Path(prediction.path)
        image, bundle = self._read[1][where or 0], self._classifier.bundle
        target = about(bundle.labels, prediction)
        place, heats = bundle.preprocess.place(image), graph_maps(self._classifier, bundle.preprocess.pixels(image), target)
        maps = [shown_map(method, heat, place, target) for method, heat in heats.items()]
        name = f"{self._count:04d}_{picture_stem(path)}" + ("" if where is None else f"_slice_{where}")
        write_atomic(self._folder / f"{name}.png", answer_picture(bundle, image, prediction, maps))


def _replaced(folder: Path, overwrite: bool) -> list[Path]:
    """Returns the pictures of an earlier run, which are to be removed; refuses a folder with anything else in it.

    What is hidden, such as ``.DS_Store``, does not count.
    """
    from reslink.explain.picture_names import is_drawn

    there = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    others = [path for path in there if not (overwrite and re.fullmatch(r"\d{4,}_.*\.png", path.name) and is_drawn(path))]
    if others:
        raise UsageError(
            f"{folder} holds {others[0].name}" + (f" and {counted(len(others) - 1, 'other file')}" if len(others) > 1 else ""),
            "Pictures are written into a new or empty folder; --overwrite replaces those that reslink drew, and nothing else",
            "Choose another folder with --pictures",
        )
    return there
