"""``reslink data``: lists, downloads and imports public data sets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import FOLDER, Json, OutFolder
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.api.progress import ProgressBar
    from reslink.cli.console import ProgressLines
    from reslink.datasets.public.download import Response
    from reslink.datasets.public.importers import ImportResult
    from reslink.datasets.public.registry import PublicDataset

EXAMPLES = {
    "list": ("reslink data list", "reslink data list sartaj --json"),
    "download": (
        "reslink data download figshare --out data/figshare",
        "reslink data download sartaj --out data/sartaj --accept-license",
    ),
    "import": ("reslink data import kaggle_3m/ --out data/lgg", "reslink data import archive/ --source nickparvar --binary"),
}

TIMEOUT_SECONDS = 60
Binary = Annotated[bool, typer.Option("--binary", help="Use only the labels Healthy and Tumor.")]


def list_sets(
    console: Console,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show only this data set.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the known public data sets: license, labels, masks, known issues and overlaps."""
    from reslink.datasets.public.registry import get_public_dataset, public_datasets

    chosen = [get_public_dataset(name)] if name else list(public_datasets().values())
    if json:
        console.json([entry.model_dump(mode="json") for entry in chosen], indent=2)
        return
    for entry in chosen:
        console.data(*_describe(entry, full=name is not None))
    console.note("If a license is unknown, read the page of the data set before you use it.")


def _describe(entry: PublicDataset, *, full: bool) -> list[str]:
    lines = [
        f"{entry.name}: {entry.title}",
        f"  images: {entry.images}; {entry.modality}",
        f"  license: {entry.license or 'unknown'}",
    ]
    lines += [f"  access: {entry.access}", f"  overlaps: {', '.join(entry.overlaps) or 'none known'}"]
    if full:
        lines += [f"  page: {entry.page}", f"  labels: {', '.join(f'{a} ({b})' for a, b in entry.labels.items())}"]
        lines += [f"  masks: {entry.masks}", f"  patients: {entry.patients}"]
        sums = [file.sha256 or "not published; the checksum of the first download is stored" for file in entry.files]
        lines += [f"  sha256: {text}" for text in sums] + [f"  evidence: {entry.evidence}"]
    return [*lines, *(f"  known issue: {issue}" for issue in entry.known_issues)]


def download(
    console: Console,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name from 'reslink data list'.", show_default=False)],
    out: OutFolder,
    accept: Annotated[bool, typer.Option("--accept-license", help="Accept the license without a question.")] = False,
    binary: Binary = False,
    json: Json = False,
) -> None:
    """Download a public data set, verify and unpack it, and write its manifest.csv. Run it again to resume a download."""
    from reslink.datasets.public.download import confirm_license, download_files, save_checksums
    from reslink.datasets.public.registry import get_public_dataset
    from reslink.datasets.public.unzip import unpack_zip

    entry = get_public_dataset(name)
    if entry.files:
        confirm_license(entry, out, lambda dataset: accept or _ask_license(console, dataset))
    with _steps(console, "Downloading", "MiB") as step:
        files = download_files(entry, out, open_url, lambda done, total: step(done >> 20, (total or 0) >> 20))
    for file in files:
        with _steps(console, f"Unpacking {file.name}", "file") as step:
            unpack_zip(file, out / "files", step)
    save_checksums(entry, out)
    _import(console, out / "files", entry, out / "images", binary, True, json)


def import_set(
    console: Console,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of an unpacked data set.", show_default=False)],
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Name of the data set; default: recognized by its folders.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for extracted or converted slices.", show_default=False),
        FOLDER,
    ] = None,
    binary: Binary = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing manifest.csv.")] = False,
    json: Json = False,
) -> None:
    """Write the manifest.csv of a public data set that you downloaded: labels, patients, masks and split."""
    from reslink.datasets.public.registry import get_public_dataset as named

    _import(console, folder, named(source) if source else None, out, binary, overwrite, json)


def _import(
    console: Console, folder: Path, entry: PublicDataset | None, out: Path | None, binary: bool, overwrite: bool, json: bool
) -> None:
    from reslink.datasets.public.importers import import_folder
    from reslink.datasets.public.registry import get_public_dataset

    with _steps(console, "Importing", "file") as step:
        result = import_folder(folder, entry, out, binary=binary, overwrite=overwrite, on_progress=step)
    for name, reason in result.failed.items():
        console.warn(f"Warning: {name} is skipped: {reason}")
    if json:
        console.json(result.as_dict() | {"known_issues": get_public_dataset(result.source).known_issues}, indent=2)
    else:
        _print_result(console, result, get_public_dataset(result.source))
    if result.failed:
        raise typer.Exit(1)


def _print_result(console: Console, result: ImportResult, entry: PublicDataset) -> None:
    counts = ", ".join(f"{label} {n}" for label, n in result.counts.items())
    patients = f"{result.patients} patients" if result.patients else "patients unknown"
    console.note(f"{result.source}: {counts}; {patients}; {result.masks} masks")
    for issue in entry.known_issues:
        console.note(f"Known issue: {issue}")
    if entry.overlaps:
        console.note(f"Contains images of {', '.join(entry.overlaps)}: do not use these for external validation.")
    console.data(str(result.manifest))
    console.research_use_only()


def _ask_license(console: Console, entry: PublicDataset) -> bool:
    """Shows the license and asks the user to accept it.

    Raises:
        UsageError: If there is no terminal.
    """
    console.warn(entry.title, entry.page, f"License: {entry.terms}")
    if not sys.stdin.isatty():
        raise UsageError(
            f"The license of {entry.name} must be accepted, and there is no terminal for the question",
            "The license is accepted once per folder",
            "Read it, then add --accept-license",
        )
    return typer.confirm("Do you accept the license and use the data for research only?", err=True)


@contextmanager
def _steps(console: Console, label: str, noun: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes the amount done and the total, and updates the progress display."""
    progress: ProgressBar | ProgressLines = console.progress()
    shown = -1

    def step(done: int, total: int) -> None:
        nonlocal shown
        if shown < 0:
            progress.start(total, label, noun)
            shown = 0
        progress.step(done - shown)
        shown = done

    try:
        yield step
    finally:
        progress.end()


@contextmanager
def open_url(url: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """Opens a URL over HTTPS, or over HTTP on this machine. An error status such as 404 is a response, not an exception.

    Raises:
        UsageError: If the URL has another scheme.
        OSError: If the server cannot be reached.
    """
    import urllib.error
    import urllib.parse
    import urllib.request

    from reslink import __version__

    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) not in (("http", "127.0.0.1"), ("http", "localhost")):
        raise UsageError(f"{url} is not an https URL", "Data sets are downloaded over https", "Report this as a bug")
    request_headers = {"User-Agent": f"reslink/{__version__}", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(url, headers=request_headers)  # noqa: S310  (the scheme is checked above)
    try:
        response: Any = urllib.request.build_opener(_secure_redirects()).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        yield _HttpResponse(response)


class _HttpResponse:
    """A response that raises every connection error as an OSError."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes; empty at the end."""
        import http.client

        try:
            block: bytes = self._response.read(size)
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke ({type(error).__name__})") from error
        return block


def _secure_redirects() -> Any:
    """Returns a handler that refuses redirects from https to http."""
    import urllib.request

    class Handler(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request: Any, *rest: Any) -> Any:
            redirect = super().redirect_request(request, *rest)
            if redirect is not None and request.full_url.startswith("https:") and not redirect.full_url.startswith("https:"):
                raise OSError(f"{request.full_url} redirects to a URL that is not https")
            return redirect

    return Handler()


def sub_app(examples: Callable[..., str], as_command: Callable[..., Callable[..., None]]) -> typer.Typer:
    """Returns ``reslink data`` with its commands.

    Args:
        examples: Formats commands as the end of a help text.
        as_command: Wraps a function as a command.
    """
    app = typer.Typer(no_args_is_help=True, help="List, download and import public data sets.")
    for name, function in {"list": list_sets, "download": download, "import": import_set}.items():
        app.command(name, epilog=examples(*EXAMPLES[name]))(as_command(function))
    return app
