"""Cases from a folder of class folders, in the usual layouts; a layout that has several meanings is refused."""

from __future__ import annotations

import filecmp
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from reslink.datasets.case import SPLIT_NAMES, Case, Split, case_name
from reslink.datasets.tables.files import find_table
from reslink.datasets.tables.rows import data_error
from reslink.errors import UsageError
from reslink.imaging.search import FolderSearch, is_skipped_folder
from reslink.labels import spelling_key
from reslink.printable_names import printable

_LAYOUTS: Final = (
    "DATA holds one folder per class; or folders such as train and test with the class folders in each; or class folders with "
    "train and test in each; or a table manifest.csv with the columns path and label"
)
_USE_TABLE: Final = "list the images in a manifest.csv"

_SPLIT_FOLDER: Final = re.compile(
    rf"(\d{{0,2}}|data|dataset|images?)({'|'.join(SPLIT_NAMES)})"
    r"(|set|sets|data|dataset|images?|imgs?|pictures|slices|scans|split|subset|folder|cases|samples|files|\d+)*"
)
"""A folder named like a split, in lower case without separators: ``train_set``, ``testing-data``, ``val2017``."""

_OUTPUT_FOLDER: Final = re.compile(
    r"(runs?|weights?|(lightning|tb)?logs?|results?|outputs?|checkpoints?|models?|figures?|plots?|cache|te?mp|wandb|mlruns|tensorboard)"
    r"|(pred|predict|prediction)s?|unlabell?ed|labels?|annotations?|docs?|code|src|scripts?|notebooks?|v?env"
)
"""A folder of results, programs or annotations, which is never a class; in lower case without separators."""

_DIAGNOSIS: Final = re.compile(
    r"yes|no|(ab)?normal|healthy|controls?|sick|diseased?|pathology|pathological|positive|negative|benign|malignant|cancer"
    r"|(no|non)?tumou?rs?|gliomas?|glioblastoma|gbm|[lh]gg|meningiomas?|pituitary|adenoma|schwannoma|metastas[ie]s|lymphoma"
    r"|lesions?|ha?emorrhag(e|ic)|bleed|stroke|ischa?emi(a|c)|infarct|edema|fracture|alzheimers?|dementia|(non)?demented"
    r"|parkinsons?|epilepsy|sclerosis|ms|aneurysm|cyst|abscess|hydrocephalus|atrophy|\w{4,}(omas?|itis|osis)"
)
"""A word that names a finding; it tells a folder of a class from a folder of a hospital, a scanner or a fold."""

_REST_CLASS: Final = re.compile(r"(all)?others?|rest|none|nothing|background|unknown|unclear|inconclusive")
"""A class of what is none of the findings, in lower case without separators."""

_FOLD: Final = re.compile(r"(fold|folds|cv|kfold|split|partition)\d+")
_PATIENT: Final = re.compile(
    r"(p|pt|pat|patient|patients|sub|subj|subject|case|id|mrn|study|exam|series|scan|session|person|volunteer|tcga..|brats|ixi)"
    r"\d+\w*|\d{3,}"
)
"""A folder named like a patient or a study, in lower case without separators."""

_NUMBERED_CLASS: Final = re.compile(r"(class|label|category|grade|stage|type|level|score)\d+")
"""A folder named like a class with a number, in lower case without separators."""

_ID: Final = re.compile(r"\d{2}")
_ID_END: Final = re.compile(r"\d{2,}[a-z]?$")
_MAX_CLASSES: Final = 20
"""More folders than this are patients if most have a number of two digits, or at most ``_FEW_IMAGES`` images."""
_FEW_IMAGES: Final = 10
_MAX_NUMBERS: Final = 10
"""More folders than this whose names are numbers are patients."""

_MAX_NAMES: Final = 4
_COMPARED_FILES: Final = 20

_log = logging.getLogger(__name__)


@dataclass
class _Folder:
    """A folder of a data set with its image files and its subfolders that hold images."""

    path: Path
    files: list[Path] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def children(self) -> list[_Folder]:
        return list(self.folders.values())

    def walk(self) -> Iterator[_Folder]:
        """Yields the folder and all folders below, each before its own subfolders."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += reversed(folder.children)

    def images(self) -> Iterator[Path]:
        """Yields the images at any depth."""
        for folder in self.walk():
            yield from folder.files

    def inner_names(self) -> dict[str, str]:
        """Returns the names of all folders below by their normalized names, without those of splits."""
        return {_key(folder.name): folder.name for folder in self.walk() if folder is not self and not _split_of(folder.name)}


def cases_of_folder(root: Path) -> tuple[list[Case], tuple[str, ...]]:
    """Returns the cases of a folder of class folders, sorted by class and name.

    The layouts are ``CLASS/...``, ``train|validation|test/CLASS/...`` and ``CLASS/train|validation|test/...``, also inside of a
    single folder, as archives have it.

    Returns:
        The cases, and sentences about everything below the folder that is not used; they are also logged.

    Raises:
        UsageError: If the layout is none of these or has several meanings, a class folder has no images, or a split is a link
            to a folder that is read under its own name.
        OSError: If the folder cannot be read.
    """
    search = FolderSearch(root)
    tree = _read_tree(search)
    search.log_notes()
    _check_split_links(search)
    reader = _LayoutReader(root)
    cases = reader.read(tree)
    for note in reader.notes:
        _log.warning("%s.", note)
    return cases, (*search.notes(), *reader.notes)


def image_files(folder: Path) -> Iterator[Path]:
    """Yields the image files at any depth, sorted, and logs what is skipped; the content is checked later."""
    search = FolderSearch(folder)
    for files in search.walk():
        yield from filter(search.is_image, files)
    search.log_notes()


def _read_tree(search: FolderSearch) -> _Folder:
    tree = _Folder(search.root)
    for files in search.walk():
        images = [path for path in files if search.is_image(path)]
        if images:
            folder = tree
            for part in images[0].parent.relative_to(search.root).parts:
                folder = folder.folders.setdefault(part, _Folder(folder.path / part))
            folder.files = images
    return tree


def _check_split_links(search: FolderSearch) -> None:
    for link in search.linked_twice:
        if _split_of(link.name):
            raise UsageError(
                f"{printable(link.relative_to(search.root).as_posix())} is a link to a folder that is read under its own name",
                "A folder of a data set is read once, so that a split which links to another folder of it would be lost",
                "Move the folder to the place of the link, or list the images with their splits in a manifest.csv",
            )


class _LayoutReader:
    """Reads the cases of one data set, and notes which files and folders are not used.

    Args:
        root: The folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []

    def read(self, tree: _Folder) -> list[Case]:
        """Returns the cases."""
        cases = self._read_layout(tree)
        classes = sorted({case.label for case in cases})
        others = [name for name in classes if not _names_finding(name)]
        if others == classes:
            self.notes.append(f"No folder is named like a finding; the classes are {_join(classes)}")
        unusual = [name for name in others if not _REST_CLASS.fullmatch(_key(name))]
        if unusual and len(classes) - len(others) > 1:
            verb = "is a class although its folder is" if len(unusual) == 1 else "are classes although their folders are"
            self.notes.append(f"{_join(unusual)} {verb} not named like a finding; the classes are {_join(classes)}")
        return cases

    def _read_layout(self, tree: _Folder) -> list[Case]:
        top = self._enter_wrappers(tree)
        if any(_split_of(folder.name) for folder in top.children):
            return self._cases_of_splits(top)
        classes = self._class_folders(top)
        if any(_split_of(inner.name) for folder in classes for inner in folder.children):
            return self._cases_of_classes_with_splits(top, classes)
        return self._cases_of_classes(classes, None)

    def _enter_wrappers(self, folder: _Folder) -> _Folder:
        """Returns the folder below that holds the classes or splits, if a single folder wraps them."""
        top = folder
        while (inner := _wrapped(top)) is not None:
            top = inner
        if top is folder:
            return folder
        if (table := find_table(top.path)) is not None:
            raise self._error(f"{self._name(top)} holds a {table.name}", None, f"Give {top.path} as DATA")
        self.notes.append(f"The class folders are in {self._name(top)}")
        self._note_loose(folder)
        return top

    def _cases_of_splits(self, top: _Folder) -> list[Case]:
        splits = [(self._enter_split(folder), split) for folder in top.children if (split := _split_of(folder.name))]
        inner = [(self._class_folders(folder), split) for folder, split in splits]
        names = {_key(folder.name) for classes, _ in inner for folder in classes}
        for other in top.children:
            if _split_of(other.name):
                continue
            if _key(other.name) in names or names & other.inner_names().keys():
                given = f"{self._name(other)} is not named like a split, but holds classes that the splits hold too"
                raise self._error(given, top, f"Move {self._name(other)} elsewhere, or name it like a split")
            self._note_unused(other, "neither a split nor a class")
        self._check_empty(top, is_expected=lambda name: _split_of(name) is not None)
        self._note_loose(top)
        cases = [case for classes, split in inner for case in self._cases_of_classes(classes, split)]
        self._check_split_classes(cases, top)
        return cases

    def _enter_split(self, folder: _Folder) -> _Folder:
        if not folder.folders:
            table = self._table(folder)
            next_step = "Put the class folders into it, or move it elsewhere" if table is None else _give_table(table)
            raise data_error(f"{folder.path} is named like a split but has no class folders", next_step)
        inner = _wrapped(folder)
        return folder if inner is None else inner

    def _cases_of_classes_with_splits(self, top: _Folder, classes: Sequence[_Folder]) -> list[Case]:
        for folder in classes:
            if folder.files or not all(_split_of(inner.name) for inner in folder.children):
                given = f"Some images of {self._name(folder)} are in no split, but other images are"
                raise self._error(given, top, "Put all images of each class into folders such as train and test")
        cases = [
            case
            for folder in classes
            for inner in folder.children
            for case in self._cases(folder, inner.images(), _split_of(inner.name))
        ]
        self._check_split_classes(cases, top)
        return cases

    def _cases_of_classes(self, classes: Sequence[_Folder], split: Split | None) -> list[Case]:
        return [case for folder in classes for case in self._cases(folder, folder.images(), split)]

    def _cases(self, folder: _Folder, files: Iterable[Path], split: Split | None) -> Iterator[Case]:
        label = folder.name.strip()
        for file in files:
            yield Case(file, label, split=split, name=case_name(file, self.root))

    def _class_folders(self, top: _Folder) -> list[_Folder]:
        """Returns the class folders in a folder, after the checks that they are classes."""
        folders = [folder for folder in top.children if not _is_output(folder.name)]
        if not folders:
            raise self._no_classes_error(top)
        if len({folder.name.strip() for folder in folders}) < len(folders):
            raise data_error(f"Two class folders in {top.path} have the same name apart from spaces", "Rename or merge them")
        self._check_repeated(top, folders)
        self._check_joined_names(top, folders)
        self._check_folds(top, folders)
        self._check_sources(top, folders)
        self._check_patients(top, folders)
        self._check_empty(top, is_expected=lambda name: not _is_output(name))
        self._check_table(top, folders)
        for folder in top.children:
            if folder not in folders:
                self._note_unused(folder, "no class")
        self._note_loose(top)
        return folders

    def _check_repeated(self, top: _Folder, folders: Sequence[_Folder]) -> None:
        """Refuses a folder beside the class folders that holds the same classes again."""
        names = {_key(folder.name) for folder in folders}
        for folder in folders:
            repeated = (names - {_key(folder.name)}) & folder.inner_names().keys()
            if repeated and not all(map(str.isdigit, [_key(folder.name), *repeated])):  # patients have numbers too
                same = "the same images" if self._has_same_files(folder, folders) else "other images"
                again = "folders" if len(repeated) > 1 else "folder"
                given = f"{self._name(folder)} holds the {again} {_join(sorted(repeated))} again, with {same}"
                raise self._error(given, top, f"Give {folder.path} as DATA, or move that folder out of the data set")

    def _has_same_files(self, wrapper: _Folder, folders: Sequence[_Folder]) -> bool:
        others = {(_key(folder.name), file.name): file for folder in folders for file in folder.files}
        pairs = [(file, others.get((_key(file.parent.name), file.name))) for file in islice(wrapper.images(), _COMPARED_FILES)]
        return all(other is not None and filecmp.cmp(file, other, shallow=False) for file, other in pairs)

    def _check_joined_names(self, top: _Folder, folders: Sequence[_Folder]) -> None:
        """Refuses folders such as ``train_yes`` and ``test_yes``, whose names hold the split and the class."""
        splits = [{SPLIT_NAMES[word] for word in _words(folder.name) if word in SPLIT_NAMES} for folder in folders]
        if all(splits) and len(set.union(*splits)) > 1:
            names = _join([folder.name for folder in folders])
            raise self._error(f"The names {names} hold a split and a class", top, "Use folders such as train/yes and test/yes")

    def _check_folds(self, top: _Folder, folders: Sequence[_Folder]) -> None:
        if len(folders) > 1 and all(_FOLD.fullmatch(_key(folder.name)) for folder in folders):
            given = f"The folders {_join([folder.name for folder in folders])} are named like cross-validation folds"
            raise self._error(given, top, f"Use train and test folders, or {_USE_TABLE} with a column fold")

    def _check_sources(self, top: _Folder, folders: Sequence[_Folder]) -> None:
        """Refuses folders such as ``CT`` and ``MRI`` that hold the classes, at any depth."""
        outer = [folder for folder in folders if not folder.files]
        names = [folder.name for folder in outer]
        if len(outer) < 2 or all(_finding_words(names)):
            return
        inner = [folder.inner_names() for folder in outer]
        shared = [inner[0][key] for key in sorted(set.intersection(*(set(keys) for keys in inner)))]
        if len(shared) > 1 and (any(map(_names_finding, shared)) or set(shared) <= {"0", "1"}):
            given = f"{_join(names)} hold the same folders {_join(shared)}"
        elif not any(_finding_words(names)) and not all(map(str.isdigit, names)):
            found = sorted({name for keys in inner for name in keys.values() if _names_finding(name)})
            if len({_key(name) for name in found}) < 2:
                return
            given = f"{_join(names)} hold the folders {_join(found)}"
        else:
            return
        next_step = f"Give one of these folders as DATA, or {_USE_TABLE} with the columns path, label and source"
        raise self._error(f"{given}, so either of the two levels could be the classes", top, next_step)

    def _check_patients(self, top: _Folder, folders: Sequence[_Folder]) -> None:
        """Refuses folders that are patients and not classes."""
        keys = [_key(folder.name) for folder in folders]
        if all(map(_NUMBERED_CLASS.fullmatch, keys)):
            return
        named = len(folders) > 1 and all(map(_PATIENT.fullmatch, keys))
        named = named or (len(folders) > _MAX_NUMBERS and all(key.isdigit() for key in keys))
        stems = {_ID_END.sub("", key) for key in keys}
        named = named or (len(stems) < len(keys) and all(map(_ID_END.search, keys)))  # Tumor_01, Tumor_02
        sizes = sorted(sum(1 for _ in folder.images()) for folder in folders)
        few = sizes[len(sizes) // 2] <= _FEW_IMAGES or sum(bool(_ID.search(key)) for key in keys) > 0.8 * len(keys)
        if named or (len(folders) > _MAX_CLASSES and few):
            given = f"The {len(folders)} folders in {top.path} look like patients and not like classes"
            next_step = f"Put the folders of the patients of each class into a class folder, or {_USE_TABLE}"
            raise self._error(given, top, f"{next_step} with the columns path, label and patient_id")

    def _check_empty(self, top: _Folder, is_expected: Callable[[str], bool]) -> None:
        """Refuses a folder without images whose name is that of a class or a split."""
        root = self.root.resolve()
        for path in sorted(top.path.iterdir()):
            if path.name in top.folders or is_skipped_folder(path.name) or not path.is_dir() or not is_expected(path.name):
                continue
            if not (path.is_symlink() and path.resolve().is_relative_to(root)):
                what = "split" if _split_of(path.name) else "class"
                next_step = "Add images, or remove the folder"
                raise data_error(f"The {what} folder {path.name!r} in {path.parent} has no images", next_step)

    def _check_table(self, top: _Folder, folders: Sequence[_Folder]) -> None:
        """Refuses a folder ``images`` with a table beside it, and notes a table that is not used."""
        table = self._table(top)
        if table is None:
            return
        if len(folders) == 1 and not _names_finding(folders[0].name):
            given = f"{top.path} holds one folder with images, {folders[0].name!r}, and the table {table.name}"
            raise self._error(given, None, _give_table(table))
        note = f"The table {self._name(_Folder(table))} is not used; give it as DATA to use it instead of the class folders"
        if note not in self.notes:
            self.notes.append(note)

    def _no_classes_error(self, top: _Folder) -> UsageError:
        if not any(not entry.name.startswith(".") for entry in top.path.iterdir()):
            return data_error(f"{top.path} is empty", "Check the path")
        given = f"{top.path} has no class folders and no manifest.csv"
        table = self._table(top)
        if table is not None:
            return data_error(f"{given}, but the table {table.name}", _give_table(table))
        if top.folders:
            given = f"{given}; {_join(list(top.folders))} cannot be classes"
        return data_error(given, "Put the images of each class into a folder of their own")

    def _table(self, top: _Folder) -> Path | None:
        places = dict.fromkeys((top.path, self.root))
        return next((path for place in places for end in ("csv", "tsv") for path in sorted(place.glob(f"*.{end}"))), None)

    def _check_split_classes(self, cases: Sequence[Case], top: _Folder) -> None:
        """Refuses classes that the training split lacks, and notes those that another split lacks."""
        labels: dict[str | None, dict[str, str]] = {}
        for case in cases:
            labels.setdefault(case.split, {})[spelling_key(case.label)] = case.label  # the manifest compares spellings
        trained = labels.pop("train", None)
        if trained is None:
            return
        for split, names in labels.items():
            new, missing = ([a[key] for key in sorted(a.keys() - b)] for a, b in ((names, trained), (trained, names)))
            if new:
                given = f"The {split} split has images of {_join(new)}, but the train split has none"
                raise self._error(given, top, "Give each class the same name in all splits, or remove the class")
            if missing:
                self.notes.append(f"The {split} split has no image of {_join(missing)}")

    def _note_unused(self, folder: _Folder, what: str) -> None:
        count = sum(1 for _ in folder.images())
        self.notes.append(f"{self._name(folder)} is {what} and was skipped ({count} image{'s' if count > 1 else ''})")

    def _note_loose(self, folder: _Folder) -> None:
        count = len(folder.files)
        if count:
            images = "images beside the class folders were" if count > 1 else "image beside the class folders was"
            first = self._name(_Folder(folder.files[0]))
            self.notes.append(f"{count} {images} skipped, such as {first}")

    def _name(self, folder: _Folder) -> str:
        """Returns the printable path relative to the data set."""
        return printable(folder.path.relative_to(self.root).as_posix())

    def _error(self, given: str, top: _Folder | None, next_step: str) -> UsageError:
        seen = "" if top is None else f". The layout is {_describe(top)}"
        return UsageError(f"{given}{seen}", _LAYOUTS, next_step)


def _only_child(folder: _Folder) -> _Folder | None:
    """Returns the only folder with images, if it has only subfolders and is not named like a split."""
    children = [child for child in folder.children if not _is_output(child.name)]
    return children[0] if len(children) == 1 and not children[0].files and not _split_of(children[0].name) else None


def _unwrapped(folder: _Folder) -> _Folder:
    """Returns the first folder that does not hold a single folder."""
    while not folder.files and (inner := _only_child(folder)) is not None:
        folder = inner
    return folder


def _wrapped(folder: _Folder) -> _Folder | None:
    """Returns the only folder with images, if it wraps the classes and is not the only class."""
    inner = _only_child(folder)
    if inner is None:
        return None
    content = _unwrapped(inner)
    names = [child.name for child in content.children]
    below = [child.name for outer in content.children for child in outer.children]
    holds_classes = any(_finding_words(names)) or any(map(_split_of, names + below))
    return inner if holds_classes or not all(map(_DIAGNOSIS.fullmatch, _words(inner.name))) else None


def _split_of(name: str) -> Split | None:
    """Returns the split that a folder is named like, or None."""
    match = _SPLIT_FOLDER.fullmatch(_key(name))
    return SPLIT_NAMES[match[2]] if match else None


def _is_output(name: str) -> bool:
    return _OUTPUT_FOLDER.fullmatch(_key(name)) is not None


def _key(name: str) -> str:
    """Returns a name in lower case, without separators and with composed characters."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return [word.casefold() for word in re.findall(r"[^\W\d_]+|\d+", spaced)]


def _names_finding(name: str) -> bool:
    return any(map(_DIAGNOSIS.fullmatch, _words(name)))


def _finding_words(names: Sequence[str]) -> list[set[str]]:
    """Returns the words for a finding in each name, without those that all names have in common."""
    words = [set(_words(name)) for name in names]
    common = set.intersection(*words) if len(words) > 1 else set()
    return [{word for word in own - common if _DIAGNOSIS.fullmatch(word)} for own in words]


def _give_table(table: Path) -> str:
    return f"Give {table} as DATA, with the columns path and label"


def _join(names: Sequence[str]) -> str:
    shown = [printable(name) for name in names[:_MAX_NAMES]]
    if len(names) > _MAX_NAMES:
        return f"{', '.join(shown)} and {len(names) - _MAX_NAMES} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _describe(folder: _Folder) -> str:
    """Returns two levels of folders, such as ``Training/{glioma, notumor}, runs/{exp}``."""
    parts = []
    for child in folder.children[:_MAX_NAMES]:
        inner = [*child.folders][:_MAX_NAMES] + (["..."] if len(child.folders) > _MAX_NAMES else [])
        parts.append(f"{child.name}/{{{', '.join(inner)}}}" if inner else f"{child.name}/")
    text = ", ".join(parts + ([f"... ({len(folder.folders)} folders)"] if len(folder.folders) > _MAX_NAMES else []))
    return printable(text)
