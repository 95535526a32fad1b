"""``reslink data``: the public data sets, fetched and made into a manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.command import refuse_file
from reslink.cli.console import Console
from reslink.cli.options import Json
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.cli.console import Bar, Lines
    from reslink.datasets.public.download import Response
    from reslink.datasets.public.importers import Imported
    from reslink.datasets.public.registry import Source

EXAMPLES = {
    "list": ("reslink data list", "reslink data list sartaj --json"),
    "fetch": (
        "reslink data fetch figshare --out data/figshare",
        "reslink data fetch sartaj --out data/sartaj --accept-licence",
    ),
    "import": ("reslink data import kaggle_3m/ --out data/lgg", "reslink data import archive/ --source nickparvar --binary"),
}

SECONDS = 60
Binary = Annotated[bool, typer.Option("--binary", help="Labels become Healthy and Tumor.")]


def list_sets(
    console: Console,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the known public data sets: licence, labels, masks, what is wrong with them, what they overlap."""
    from reslink.datasets.public.registry import source, sources

    chosen = [source(name)] if name else list(sources().values())
    if json:
        console.json([entry.model_dump(mode="json") for entry in chosen], indent=2)
        return
    for entry in chosen:
        console.data(_described(entry, full=name is not None))
    console.note("Where a licence is not known, read the page before you use the data.")


def _described(entry: Source, *, full: bool) -> str:
    lines = [
        f"{entry.name}: {entry.title}",
        f"  images: {entry.images}; {entry.modality}",
        f"  licence: {entry.licence or 'not known'}",
    ]
    lines += [f"  access: {entry.access}", f"  overlaps: {', '.join(entry.overlaps) or 'none known'}"]
    if full:
        lines += [f"  page: {entry.page}", f"  labels: {', '.join(f'{a} ({b})' for a, b in entry.labels.items())}"]
        lines += [f"  masks: {entry.masks}", f"  patients: {entry.patients}"]
        sums = [file.sha256 or "not stated by its publisher; that of the first download is kept" for file in entry.files]
        lines += [f"  sha256: {text}" for text in sums] + [f"  evidence: {entry.evidence}"]
    return "\n".join([*lines, *(f"  known fault: {fault}" for fault in entry.faults)])


def fetch(
    console: Console,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in reslink data list.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
    accept: Annotated[bool, typer.Option("--accept-licence", help="Agree to the licence without being asked.")] = False,
    binary: Binary = False,
    json: Json = False,
) -> None:
    """Download a public data set, verify and unpack it, and write its manifest.csv. Goes on after an interruption."""
    refuse_file(out, "--out")
    from reslink.datasets.public.download import agree, keep_checksums
    from reslink.datasets.public.download import fetch as download
    from reslink.datasets.public.registry import source
    from reslink.datasets.public.unzip import unpack

    entry = source(name)
    if entry.files:
        agree(entry, out, lambda it: accept or _asked(console, it))
    with _steps(console, "Downloading, MiB") as step:
        files = download(entry, out, open_url, lambda done, total: step(done >> 20, (total or 0) >> 20))
    for file in files:
        with _steps(console, f"Unpacking {file.name}") as step:
            unpack(file, out / "files", step)
    keep_checksums(entry, out)
    _import(console, out / "files", entry, out / "images", binary, True, json)


def import_set(
    console: Console,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An unpacked data set.", show_default=False)],
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Which one it is; recognised by its folders if left out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where slices go that must be cut out or converted.", show_default=False
        ),
    ] = None,
    binary: Binary = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a manifest.csv that stands there.")] = False,
    json: Json = False,
) -> None:
    """Write the manifest.csv of a public data set that was downloaded by hand: labels, patients, masks, given split."""
    if out is not None:
        refuse_file(out, "--out")
    from reslink.datasets.public.registry import source as named

    _import(console, folder, named(source) if source else None, out, binary, overwrite, json)


def _import(
    console: Console, folder: Path, entry: Source | None, out: Path | None, binary: bool, overwrite: bool, json: bool
) -> None:
    from reslink.datasets.public.importers import import_folder
    from reslink.datasets.public.registry import source

    with _steps(console, "Importing") as step:
        found = import_folder(folder, entry, out, binary=binary, overwrite=overwrite, heard=step)
    for name, reason in found.failed.items():
        console.warn(f"Warning: {name} is left out: {reason}")
    if json:
        console.json(found.as_dict() | {"known_faults": source(found.source).faults}, indent=2)
    else:
        _tell(console, found, source(found.source))
    if found.failed:
        raise typer.Exit(1)


def _tell(console: Console, found: Imported, entry: Source) -> None:
    counts = ", ".join(f"{label} {n}" for label, n in found.counts.items())
    patients = f"{found.patients} patients" if found.patients else "no patients given"
    console.note(f"{found.source}: {counts}; {patients}; {found.masks} masks")
    for fault in entry.faults:
        console.note(f"Known fault: {fault}")
    if entry.overlaps:
        console.note(f"Holds images of {', '.join(entry.overlaps)}: none of these is outside data for it.")
    console.data(str(found.manifest))
    console.research_use_only()


def _asked(console: Console, entry: Source) -> bool:
    """Shows the licence and asks, on a terminal; elsewhere says which option answers."""
    console.warn(f"{entry.title}\n{entry.page}\nLicence: {entry.terms}")
    if not sys.stdin.isatty():
        raise UsageError(
            f"The licence of {entry.name} must be agreed to, and there is no terminal to ask on",
            "It is agreed to once for each folder",
            "Read it, then add --accept-licence",
        )
    return typer.confirm("Do you agree to it, and is the data for research?", err=True)


@contextmanager
def _steps(console: Console, label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how much is done and how much there is."""
    progress: Bar | Lines = console.progress()
    said = -1

    def step(done: int, total: int) -> None:
        nonlocal said
        if said < 0:
            progress.start(total, label)
            said = 0
        progress.step(done - said)
        said = done

    try:
        yield step
    finally:
        progress.end()


@contextmanager
def open_url(url: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """Opens an address over HTTPS, or over HTTP on this machine; an answer such as 404 is one too.

    Raises:
        UsageError: If it is another kind of address.
        OSError: If it cannot be reached.
    """
    import urllib.error
    import urllib.parse
    import urllib.request

    from reslink import __version__

    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) not in (("http", "127.0.0.1"), ("http", "localhost")):
        raise UsageError(f"{url} is not an https address", "Data is downloaded over https", "Report this")
    wanted = {"User-Agent": f"reslink/{__version__}", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(url, headers=wanted)  # noqa: S310  (the scheme is checked above)
    try:
        answer: Any = urllib.request.build_opener(_secure_redirects()).open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        yield _Answer(answer)


class _Answer:
    """A response whose every fault of the connection is an OSError."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes; none at the end."""
        import http.client

        try:
            found: bytes = self._answer.read(size)
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke ({type(error).__name__})") from error
        return found


def _secure_redirects() -> Any:
    """A handler that follows no redirect from https to http."""
    import urllib.request

    class Handler(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request: Any, *rest: Any) -> Any:
            found = super().redirect_request(request, *rest)
            if found is not None and request.full_url.startswith("https:") and not found.full_url.startswith("https:"):
                raise OSError(f"{request.full_url} leads to an address that is not https")
            return found

    return Handler()


def sub_app(examples: Callable[..., str], verb: Callable[..., Callable[..., None]]) -> typer.Typer:
    """Returns ``reslink data`` with its commands.

    Args:
        examples: Makes the end of a help text of commands.
        verb: Makes a function a command.
    """
    app = typer.Typer(no_args_is_help=True, help="Public data sets: what is known of them, fetched, and made into a manifest.")
    for name, function in {"list": list_sets, "fetch": fetch, "import": import_set}.items():
        app.command(name, epilog=examples(*EXAMPLES[name]))(verb(function))
    return app
