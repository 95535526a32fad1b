"""Explanations of a bundle's decisions on image files: a panel, the maps and the numbers of each."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reslink.errors import InputError, ReslinkError, UsageError, nearest
from reslink.explain import maps
from reslink.explain.attention import attention_maps
from reslink.explain.display import shown_map
from reslink.explain.graph_maps import about
from reslink.explain.maps import METHODS
from reslink.explain.panel import RESEARCH_USE_ONLY
from reslink.explain.picture_names import INDEX, earlier_pictures, picture_stem
from reslink.explain.prediction_picture import answer_picture
from reslink.explain.sanity import RandomisationCheck, randomisation_check
from reslink.files import write_atomic, write_json
from reslink.imaging.image import Image
from reslink.imaging.reading import find_images, read_image
from reslink.inference.classifier import Classifier

__all__ = ["METHODS", "Explanation", "explain_paths"]

_SANITY_IMAGES = 16


@dataclass(frozen=True)
class Explanation:
    """What was found for one image or slice.

    Attributes:
        path: The file as it was found.
        slice: Index of the slice where the file held several, else None.
        label: Class predicted, None where the image could not be read.
        probability: Its probability.
        probabilities: Class name to probability, sum 1.
        target: The class that Grad-CAM, integrated gradients and occlusion speak about.
        panel: Name of the PNG in the output folder.
        maps: Name of the ``.npz`` with one float16 (H, W) map a method, on the pixels of the original image.
        methods: Numbers of each map: ``low``, ``high``, ``flat``, ``peak`` (row, column in the original) and, with a
            mask, the measures of ``localize``.
        abstain: Whether the bundle would rather not answer; None where it has neither prediction sets nor a gate.
        reasons: Why it abstains; None as above.
        ood_score: How far the image lies from the calibration images, above 1 refused; None where there is no gate.
        error: Why there is nothing, else None.
    """

    path: str
    slice: int | None = None
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    target: str | None = None
    panel: str | None = None
    maps: str | None = None
    methods: dict[str, dict[str, Any]] | None = None
    abstain: bool | None = None
    reasons: list[str] | None = None
    ood_score: float | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the explanation in a form that JSON can hold."""
        return asdict(self)


def explain_paths(
    classifier: Classifier,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    methods: Sequence[str] = METHODS,
    masks: Mapping[str, str | Path] | None = None,
    target: str | None = None,
    sanity: bool = True,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Explanation], None] | None = None,
    checked: Callable[[RandomisationCheck], None] | None = None,
) -> list[Explanation]:
    """Explains images and writes ``<name>.png``, ``<name>.npz`` and one ``explain.json`` to a folder.

    Args:
        classifier: The loaded bundle; its network is left as it was found.
        paths: Files, folders, globs or DICOM series, as for ``predict``. A bad file or path is
            reported and the others go on.
        out: The folder to write to; made if missing. What stands there stays, but for an earlier ``explain.json`` and what
            ``overwrite`` allows: a picture whose name is taken gets another.
        methods: Some of ``METHODS``; attention layers that the network does not have are left out.
        masks: Lesion mask of an image, by its path, of the same size as the image; not 0 is lesion.
        target: The class to explain. Without it the positive class of two, the predicted one of more.
        sanity: Whether to run the model-randomisation check on the first 16 images.
        limit: At most so many images and slices, those that cannot be read included.
        overwrite: Whether to remove first the pictures, with their maps, that the ``explain.json`` in the folder names and
            that reslink drew.
        progress: Called after each image.
        checked: Called with each model-randomisation check.

    Returns:
        One explanation an image or slice, in order.

    Raises:
        UsageError: If a method or the target class is unknown, or the folder has an ``explain.json`` of something else.
        StorageError: If the folder cannot be written to.
    """
    _check_methods(methods)
    if target is not None:
        classifier.labels.index(target)  # refuses a class that there is not
    folder, files = Path(out), list(paths)
    known = {_key(path): Path(mask) for path, mask in (masks or {}).items()}
    replaced = earlier_pictures(folder)  # also where nothing is replaced: an explain.json of somebody else is refused
    names = _Names(folder, replaced if overwrite else (), {*map(_key, files), *map(_key, known.values())})
    done: list[Explanation] = []
    seen: list[NDArray[np.uint8]] = []
    checks: list[RandomisationCheck] = []
    try:
        for found in itertools.islice(_slices(files), limit):
            done.append(_explain(classifier, found, folder, names, methods, known, target, seen))
            if progress is not None:
                progress(done[-1])
        checks += randomisation_checks(classifier, seen, methods) if sanity and seen else []
    except KeyboardInterrupt:
        _write_index(folder, names, done, checks)  # what was drawn so far can be found, and replaced
        raise
    if checked is not None:
        for check in checks:
            checked(check)
    _write_index(folder, names, done, checks)
    return done


def _write_index(folder: Path, names: _Names, done: list[Explanation], checks: list[RandomisationCheck]) -> None:
    names.make_room()
    write_json(
        folder / INDEX,
        {
            "notice": RESEARCH_USE_ONLY,
            "images": [explanation.as_dict() for explanation in done],
            "randomisation_checks": [check.as_dict() for check in checks],
        },
    )


@dataclass(frozen=True)
class _Found:
    path: Path
    slice: int | None
    image: Image | None
    error: str | None


def _slices(paths: Iterable[str | Path]) -> Iterator[_Found]:
    for given in paths:
        try:
            files = find_images([given])
        except InputError as error:
            yield _Found(Path(given), None, None, str(error))
            continue
        yield from _slices_of(files)


def _slices_of(files: Iterable[Path]) -> Iterator[_Found]:
    for path in files:
        try:
            images = read_image(path).slices()
        except ReslinkError as error:
            yield _Found(path, None, None, str(error))
            continue
        for i, image in enumerate(images):
            yield _Found(path, i if len(images) > 1 else None, image, None)


def _explain(
    classifier: Classifier,
    found: _Found,
    folder: Path,
    names: _Names,
    methods: Sequence[str],
    masks: Mapping[str, Path],
    target: str | None,
    seen: list[NDArray[np.uint8]],
) -> Explanation:
    """Explains one slice; what is wrong with it goes into the explanation, what is wrong with the disk is raised."""
    if found.image is None:
        return Explanation(str(found.path), found.slice, error=found.error)
    bundle = classifier.bundle
    try:
        mask = _mask(masks.get(_key(found.path)), found, found.image)
        pixels = bundle.preprocess.pixels(found.image)
        answer = classifier.prediction(classifier.judge(pixels[None]), 0, str(found.path), found.slice)
    except (InputError, UsageError) as error:
        return Explanation(str(found.path), found.slice, error=str(error))
    if len(seen) < _SANITY_IMAGES:
        seen.append(pixels)
    target = about(classifier.labels, answer, target)
    heats = maps.heat_maps(classifier, pixels, classifier.labels.index(target), methods)
    place = bundle.preprocess.place(found.image)
    shown = [shown_map(name, heat, place, target) for name, heat in heats.items()]
    small = None if mask is None else place.to_network(mask)
    stem = names.take(found.path, found.slice)
    write_atomic(folder / f"{stem}.png", answer_picture(bundle, found.image, answer, shown, mask))
    write_atomic(folder / f"{stem}.npz", _archive({one.name: one.on_image for one in shown}))
    return Explanation(
        path=answer.path,
        slice=answer.slice,
        label=answer.label,
        probability=answer.probability,
        probabilities=answer.probabilities,
        target=target,
        panel=f"{stem}.png",
        maps=f"{stem}.npz",
        methods={one.name: one.numbers | maps.measures(heats[one.name], small) for one in shown},
        abstain=answer.abstain,
        reasons=None if answer.reasons is None else list(answer.reasons),
        ood_score=answer.ood_score,
    )


def _archive(heats: Mapping[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    limit = float(np.finfo(np.float16).max)
    halves = {name: np.clip(heat, -limit, limit).astype(np.float16) for name, heat in heats.items()}
    np.savez_compressed(buffer, **halves)  # type: ignore[arg-type]  # numpy types its own option as a bool
    return buffer.getvalue()


def _mask(path: Path | None, found: _Found, image: Image) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    slices = read_image(path).slices()
    pixels = slices[found.slice if found.slice is not None and found.slice < len(slices) else 0].pixels
    if pixels.shape != image.pixels.shape:
        raise InputError(
            f"The mask {path} has the shape {pixels.shape}, its image {image.pixels.shape}",
            "A mask has as many rows and columns as its image",
            "Give the mask in the size of the original image",
        )
    return np.asarray(pixels != 0)


def randomisation_checks(
    classifier: Classifier, seen: Sequence[NDArray[np.uint8]], methods: Sequence[str]
) -> list[RandomisationCheck]:
    """Runs the model-randomisation check of each method that the network can have.

    Args:
        classifier: The network and its preprocessing.
        seen: Images as ``Preprocess.pixels`` gives them, (planes, S, S).
        methods: Names of maps; those other than attention and Grad-CAM are passed over.
    """
    x = torch.from_numpy(classifier.bundle.preprocess.normalise(np.stack(seen)))
    present = attention_maps(classifier.network, x[:1])
    wanted = [name for name in methods if name in present or name == "grad_cam"]
    return [randomisation_check(classifier.network, x, name) for name in wanted]


def _check_methods(methods: Sequence[str]) -> None:
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"There is no method {name!r}", f"The methods are {', '.join(METHODS)}", nearest(name, METHODS))


def _key(path: str | Path) -> str:
    return str(Path(path).resolve())


class _Names:
    """Gives each image a file name that is safe everywhere and not taken yet, also where case does not count.

    Args:
        folder: Where the files go.
        replaced: Pictures of an earlier run, which make room, with their maps, once the first name is asked for.
        kept: Files that stay all the same.
    """

    def __init__(self, folder: Path, replaced: Sequence[Path], kept: Container[str]) -> None:
        self._folder, self._replaced, self._kept = folder, replaced, kept
        self._taken: set[str] | None = None

    def make_room(self) -> set[str]:
        """Removes what may be replaced, and returns the names that are taken."""
        if self._taken is None:
            for picture in self._replaced:
                for file in (picture, picture.with_suffix(".npz")):
                    if _key(file) not in self._kept:
                        file.unlink(missing_ok=True)
            there = self._folder.iterdir() if self._folder.is_dir() else ()
            self._taken = {"explain"} | {path.stem.casefold() for path in there}
        return self._taken

    def take(self, path: Path, index: int | None) -> str:
        taken = self.make_room()
        stem = picture_stem(path)
        base = stem if index is None else f"{stem}_slice{index:03d}"
        name, count = base, 1
        while name.casefold() in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name.casefold())
        return name
