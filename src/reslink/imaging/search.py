"""Find the image files of folders and globs. Links are followed, and everything that is skipped is counted."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from reslink.errors import InputError, ReslinkError
from reslink.imaging.decode import HEAD_BYTES, detect_image_format, unsupported_format
from reslink.imaging.limits import FORMATS, open_regular_file
from reslink.imaging.reading import SUFFIXES, is_image_name
from reslink.printable_names import printable
from reslink.remote_files import list_folder, read_start, with_starts
from reslink.remote_listing import RemoteListing
from reslink.remote_paths import RemotePath, parse_remote, without_secrets

_MASK_FOLDER: Final = re.compile(r".*masks?|seg(mentation)?s?|rois?|gt|ground[\W_]*truths?")
"""Names, in lower case, of folders with lesion masks, which are skipped unless they are given explicitly."""

_MASK_WORD: Final = r"(masks?|seg(mentation)?s?|rois?|gt|ground[\W_]*truths?|labels?|annotations?|contours?)"
_MASK_FILE: Final = re.compile(
    rf"(?P<image>.+?)[\W_]+((lesion|tumou?r|brain|pred|binary|manual|gt)[\W_]*)?{_MASK_WORD}[\W_]*\d*|{_MASK_WORD}[\W_]+(?P<of>.+)"
    r"|(?P<joined>.+)masks?"
)
"""Stem, in lower case, of a file that is the mask of an image if there is that image beside it."""

_SYSTEM_FOLDERS: Final = frozenset(
    {"__macosx", "system volume information", "lost+found", "#recycle", "#snapshot", "~snapshot", "recycler", "recycled"}
    | {"network trash folder", "temporary items", "found.000", "__pycache__", "node_modules"}
)
"""Folders of operating systems, network storage and archives, in lower case."""

_SYSTEM_PREFIXES: Final = (".", "$", "@")
"""Hidden folders, ``$RECYCLE.BIN`` of Windows, and ``@eaDir`` or ``@Recycle`` of network storage."""

_NOT_DICOM: Final = tuple(suffix for suffix in SUFFIXES if suffix not in (".dcm", ".dcm.gz", ".ima"))
"""Remote files with these suffixes are not opened by a search."""

_MAX_NAMES: Final = 3
"""Number of skipped files or folders that a note names."""

_log = logging.getLogger(__name__)


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Lists the image files of some paths.

    Args:
        paths: Files, folders and globs. Folders are searched recursively through links. Hidden files, folders of the operating
            system, masks (:func:`mask_files` and folders of masks), and files that are not images by content or suffix, are
            skipped; a log record counts them.

    Returns:
        Each file once, in the given order. Files of a folder are sorted by name; the slices of a DICOM series are sorted by
        position along their normal and follow the other images.

    Raises:
        InputError: If a path does not exist, a glob matches nothing, or a folder has no images.
    """
    return list(dict.fromkeys(file for given in paths for file in iter_images(given)))


def iter_images(given: str | Path) -> Iterator[Path]:
    """Yields the files that :func:`find_images` lists for one path while it searches, with constant memory.

    Raises:
        InputError: As for :func:`find_images`. For a folder without images it is raised after the search.
    """
    for files in iter_series(given):
        yield from files


def iter_series(given: str | Path) -> Iterator[list[Path]]:
    """Yields the files of :func:`iter_images`, each by itself, but those of a DICOM series in a folder together.

    Raises:
        InputError: As for :func:`iter_images`.
    """
    if (remote := parse_remote(given)) is not None:
        yield from _remote_images(remote)
        return
    paths = _expand_path(given)
    seen: set[Path] | None = set() if len(paths) > 1 else None  # a glob may match a folder and the files in it
    searched: list[Path] = []
    for path in paths:
        if any(path.is_relative_to(folder) for folder in searched) and path.is_dir():
            continue
        searched += [path] if path.is_dir() else []
        for files in _images_in(path) if path.is_dir() else [[path]]:
            new = files if seen is None else [file for file in files if file not in seen]
            if seen is not None:
                seen.update(new)
            if new:
                yield new


@dataclass(frozen=True)
class ListedFiles:
    """Files that a search found: a single file, or the DICOM series of a folder; or why it found none.

    Attributes:
        files: The files of the series in order, or the single file; empty with an error.
        folder: The folder or glob that was searched; empty for a file that was given itself, and with an error.
        given: The path that was given.
        error: Why the search failed; empty if it did not.
    """

    files: tuple[Path, ...]
    folder: str
    given: str
    error: str = ""


def list_files(given: str | Path) -> Iterator[ListedFiles]:
    """Yields what :func:`iter_series` yields, and an error as the last item instead of raising it."""
    shown = without_secrets(given)
    try:
        single = [parse_remote(given) or Path(given)]
        for files in iter_series(given):
            yield ListedFiles(tuple(files), "" if files == single else shown, shown)
    except ReslinkError as error:
        yield ListedFiles((), "", shown, str(error))


def is_system_folder(name: str) -> bool:
    """Returns whether a folder is hidden, or belongs to an operating system, network storage or an archive program."""
    return name.startswith(_SYSTEM_PREFIXES) or name.casefold() in _SYSTEM_FOLDERS


def is_skipped_folder(name: str) -> bool:
    """Returns whether a search skips a folder: that of a system, or of masks."""
    return is_system_folder(name) or _MASK_FOLDER.fullmatch(name.casefold()) is not None


def mask_files(files: Iterable[Path]) -> set[Path]:
    """Returns the files of a folder that are masks of other files in it by their names.

    A mask is named like its image with a word: ``7.png`` and ``7_mask.png``, ``mask_7.png`` or ``7_seg_2.png``. The last word
    of the image may differ: ``BraTS_1_t1.nii.gz`` and ``BraTS_1_seg.nii.gz``.
    """
    names = {file: file.name for file in files}
    masks = {file: masked for file, name in names.items() if (masked := _masked_stems(name))}
    if not masks:
        return set()
    stems = {stem for file, name in names.items() if file not in masks for stem in _image_stems(name)}
    return {file for file, masked in masks.items() if not stems.isdisjoint(masked)}


def _masked_stems(name: str) -> tuple[str, ...]:
    """Returns the stems of images that a file would be a mask of by its name; none if it is not named like a mask."""
    match = _MASK_FILE.fullmatch(_stem(name))
    return () if match is None else tuple(filter(None, match.group("image", "of", "joined")))


def _image_stems(name: str) -> tuple[str, str]:
    """Returns the stems by which a mask may name an image: its own, and that without the last word."""
    stem = _stem(name)
    return stem, re.sub(r"[\W_]+[^\W_]+$", "", stem)


def _stem(name: str) -> str:
    return re.sub(r"[\W_]+$", "", name.casefold().removesuffix(".gz").rpartition(".")[0])


class FolderSearch:
    """A search for the image files below a folder.

    Links to files and folders are followed. A folder is visited once: a link is skipped if it leads to a folder that was
    visited, to a folder that is visited under its own name, or to a parent of the searched folder.

    Args:
        root: The folder.

    Attributes:
        linked_twice: The links that were skipped; complete after :meth:`walk`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.linked_twice: list[Path] = []
        self._real_root = Path(os.path.realpath(root))
        self._visited: set[object] = set()
        self._files: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()
        self._named: dict[str, list[str]] = {}

    def walk(self) -> Iterator[list[Path]]:
        """Yields the visible files of the folder, then of each folder below, sorted by name.

        Raises:
            OSError: If the searched folder cannot be read. A folder below it is skipped and counted.
        """
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            try:
                if not self._visit_first(folder):
                    continue
                with os.scandir(folder) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                if folder == self.root:
                    raise
                self._skip_folder(folder, "unreadable")
                continue
            yield self._without_masks([Path(entry.path) for entry in ordered if self._is_candidate(entry)])
            waiting += [Path(entry.path) for entry in reversed(ordered) if self._is_visited(entry)]

    def remote_candidates(self, files: Iterable[RemotePath]) -> Iterator[Iterator[RemotePath]]:
        """Yields the files of each folder below a remote one that may be images; other files and folders are counted.

        The list of the files is kept on disk. The files of a folder are sorted by name, and folders by their first file. The
        files of a folder must be taken before the next folder.
        """
        with RemoteListing() as listing:
            for file in files:
                if self._is_remote_candidate(file, listing):
                    listing.add(file)
            self._folders.update(printable(PurePath(folder).name) for folder in listing.skipped())
            for folder in listing.folders():
                yield self._without_listed_masks(listing, folder)

    def _is_remote_candidate(self, file: RemotePath, listing: RemoteListing) -> bool:
        """Returns whether a listed file may be an image; another file, or its folder that is skipped, is counted."""
        parts = file.relative_to(self.root).parts
        below = next((i for i, part in enumerate(parts[:-1]) if is_skipped_folder(part)), None)
        if below is not None:
            listing.skip("/".join(parts[: below + 1]))
        elif file.name.startswith("."):
            self.skip_file(file, "hidden")
        else:
            return True
        return False

    def _without_listed_masks(self, listing: RemoteListing, folder: int) -> Iterator[RemotePath]:
        """Yields the files of a listed folder that are no masks of others in it, as :func:`mask_files` tells them."""
        if not any(is_image_name(name) and _masked_stems(name) for name in listing.names(folder)):
            yield from listing.files(folder)
            return
        images = (name for name in listing.names(folder) if is_image_name(name) and not _masked_stems(name))
        listing.keep_stems(stem for name in images for stem in _image_stems(name))
        for file in listing.files(folder):
            if is_image_name(file.name) and any(map(listing.has_stem, _masked_stems(file.name))):
                self.skip_file(file, "named like the mask of an image")
            else:
                yield file

    def is_image(self, path: Path) -> bool:
        """Returns whether a file is an image by its suffix or content; other files are counted. Most need not be opened."""
        return is_image_name(path.name) or self.image_format(path) is not None

    def image_format(self, path: Path) -> str | None:
        """Returns the format of a file by its content; ``broken`` for an image that cannot be read, None for others."""
        file_format, kind = None, _kind(path.name)
        try:
            handle = open_regular_file(path)
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                kind = "unreadable"
        else:
            with os.fdopen(handle, "rb") as stream:
                head = stream.read(HEAD_BYTES)
                file_format = detect_image_format(head) or ("broken" if unsupported_format(head) else None)
        if file_format is None:
            if is_image_name(path.name):
                return "broken"
            self.skip_file(path, kind)
        return file_format

    def skip_file(self, path: Path, kind: str) -> None:
        """Counts a file as skipped.

        Args:
            path: The file.
            kind: Its suffix, or what it is; unreadable files and broken links are also named.
        """
        self._files[kind] += 1
        if kind in ("unreadable", "broken link"):
            self._name(kind, path)

    def notes(self) -> tuple[str, ...]:
        """Returns sentences that count what was skipped, without the final period; complete after :meth:`walk`."""
        notes = []
        for counts, noun in ((self._files, "file"), (self._folders, "folder")):
            total = counts.total()
            if total:
                ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
                verb = f"{noun} was" if total == 1 else f"{noun}s were"
                notes.append(f"{total} {verb} skipped: {', '.join(f'{n} {kind}' for kind, n in ordered)}")
        for kind, names in self._named.items():
            total = self._files[kind] + self._folders[kind]
            more = f" and {total - len(names)} more" if total > len(names) else ""
            notes.append(f"{kind.capitalize()}: {', '.join(names)}{more}")
        return tuple(notes)

    def log_notes(self) -> None:
        """Logs the notes as one warning with the name of the folder."""
        notes = self.notes()
        if notes:
            _log.warning("%s: %s.", printable(self.root.name or str(self.root)), ". ".join(notes))

    def _visit_first(self, folder: Path) -> bool:
        status = folder.stat()
        key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
        if key in self._visited:
            self._skip_link(folder)
            return False
        self._visited.add(key)
        return True

    def _without_masks(self, files: list[Path]) -> list[Path]:
        masks = mask_files(path for path in files if is_image_name(path.name))
        for path in masks:
            self.skip_file(path, "named like the mask of an image")
        return [path for path in files if path not in masks]

    def _is_candidate(self, entry: os.DirEntry[str]) -> bool:
        """Returns whether an entry may be an image; another file is counted."""
        if _is_folder(entry):
            return False
        path = Path(entry.path)
        if entry.name.startswith("."):
            self.skip_file(path, "hidden")
        elif entry.name.upper() == "DICOMDIR":
            self.skip_file(path, "DICOMDIR")
        elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # noqa: PTH113  (as for _is_folder)
            return True
        elif _is_broken_link(entry) and is_image_name(entry.name):
            return True  # reading reports the broken link
        else:
            self.skip_file(path, "broken link" if _is_broken_link(entry) else "not a regular file")
        return False

    def _is_visited(self, entry: os.DirEntry[str]) -> bool:
        """Returns whether an entry is a folder to visit; another folder is counted."""
        if not _is_folder(entry):
            return False
        if is_skipped_folder(entry.name):
            self._folders[printable(entry.name)] += 1
        elif entry.is_symlink() and self._leads_back(entry.path):
            self._skip_link(Path(entry.path))
        else:
            return True
        return False

    def _leads_back(self, link: str) -> bool:
        """Returns whether a link leads to a parent of the root, or to a folder that is visited under its own name."""
        target = Path(os.path.realpath(link))
        if self._real_root.is_relative_to(target):
            return True
        inside = target.is_relative_to(self._real_root)
        return inside and not any(map(is_skipped_folder, target.relative_to(self._real_root).parts))

    def _skip_link(self, link: Path) -> None:
        self._folders["linked twice"] += 1
        self.linked_twice.append(link)

    def _skip_folder(self, folder: Path, kind: str) -> None:
        self._folders[kind] += 1
        self._name(kind, folder)

    def _name(self, kind: str, path: Path) -> None:
        names = self._named.setdefault(kind, [])
        if len(names) < _MAX_NAMES:
            names.append(printable(path.relative_to(self.root).as_posix()))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link needs os.path, which returns False for a loop of links; the methods of an entry raise an error.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110


def _kind(name: str) -> str:
    """Returns how a skipped file is counted: by its suffix, if that looks like one."""
    suffix = PurePath(name).suffix.casefold()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "without a file type"


def _expand_path(given: str | Path) -> list[Path]:
    if os.path.lexists(given):
        return [Path(given)]
    # Path.glob does not support absolute globs.
    matches = sorted(glob.glob(str(given), recursive=True)) if glob.has_magic(str(given)) else []  # noqa: PTH207
    if not matches:
        raise InputError(
            f"{given} does not exist",
            "A path is a file, a folder or a glob",
            "Check the path for typing errors",
        )
    return [Path(match) for match in matches]


def _remote_images(given: RemotePath) -> Iterator[list[Path]]:
    """Yields the images below a remote folder, and the slices of a DICOM series together; or the remote file itself.

    The start of a file is fetched to see its format and its series. A file with the suffix of another format is an image, and
    nothing of it is fetched.
    """
    files = None if is_image_name(given.name) else list_folder(given)
    if files is None:
        yield [given]
        return
    from reslink.imaging.dicom.listed_slices import ListedSlices

    search, found = FolderSearch(given), False
    with ListedSlices() as slices:
        for members in search.remote_candidates(files):
            for file in with_starts(members, may_be_dicom):
                file_format = _remote_format(file)
                if file_format == "DICOM":
                    if not _is_without_pixels(file, search):
                        slices.add(file)
                elif file_format:
                    found = True
                    yield [file]
                else:
                    search.skip_file(file, _kind(file.name))
            for series in slices.take_series():
                found = True
                yield series
    search.log_notes()
    if not found:
        raise _no_images_error(given)


def _remote_format(file: RemotePath) -> str | None:
    """Returns the format of a remote file, or ``image`` if its suffix is of another format than DICOM."""
    if not may_be_dicom(file):
        return "image"
    return detect_image_format(read_start(file, HEAD_BYTES)) or ("broken" if is_image_name(file.name) else None)


def may_be_dicom(file: Path) -> bool:
    """Returns whether a remote file may be DICOM by its name; of other files, nothing is fetched to find their series."""
    return not file.name.lower().endswith(_NOT_DICOM)


def _no_images_error(folder: Path) -> InputError:
    return InputError(f"{folder} has no images", f"The supported formats are {FORMATS}", "Choose a folder with images")


def check_exists(path: str | Path) -> None:
    """Checks that a path exists, or that a glob matches something, before slow work.

    Raises:
        InputError: If not. A remote path is not checked.
    """
    if parse_remote(path) is None:
        _expand_path(path)


def _is_without_pixels(path: Path, search: FolderSearch) -> bool:
    """Returns whether a DICOM file is a report, a presentation state or the like, which is counted as skipped."""
    from reslink.imaging.dicom.header import read_elements_until
    from reslink.imaging.dicom.modality import is_without_pixels

    header = read_elements_until(path, 0x00080016)
    if header is None or not is_without_pixels(str(header.get("SOPClassUID") or "")):
        return False
    search.skip_file(path, "DICOM without pixels")
    return True


def _images_in(folder: Path) -> Iterator[list[Path]]:
    search, empty = FolderSearch(folder), True
    try:
        for paths in search.walk():
            slices: list[Path] = []
            for path in paths:
                file_format = search.image_format(path)
                if file_format == "DICOM":
                    slices += [] if _is_without_pixels(path, search) else [path]
                elif file_format:
                    empty = False
                    yield [path]
            if slices:
                from reslink.imaging.dicom.series import group_files

                empty = False
                yield from group_files(slices)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read: {error.strerror or error}", "A folder must be readable", "Check its permissions"
        ) from error
    search.log_notes()
    if empty:
        raise _no_images_error(folder)
