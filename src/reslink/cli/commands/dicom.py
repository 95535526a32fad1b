"""``reslink dicom``: receives series from a PACS and returns results."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import FOLDER, Json, OutFolder, Overwrite, threads_from_environment
from reslink.errors import InputError, UsageError
from reslink.files import check_overwrite

if TYPE_CHECKING:
    from reslink.serving.dicom.classify import Model
    from reslink.serving.dicom.dicomweb import Watcher
    from reslink.serving.dicom.pipeline import Pipeline
    from reslink.serving.dicom.series import Series

EXAMPLES = {
    "listen": (
        "reslink dicom listen ct --queue /var/lib/reslink --send-to ORTHANC@127.0.0.1:4242",
        "reslink dicom listen CT=ct MR=runs/mr/bundle --queue queue --send-to PACS@10.0.0.7:104 --allow PACS --host 0.0.0.0",
    ),
    "watch": ("reslink dicom watch ct --url http://127.0.0.1:8042/dicom-web --queue queue",),
    "answer": ("reslink dicom answer ct series/ --out results",),
}

Bundles = Annotated[
    list[str],
    typer.Argument(
        metavar="BUNDLE...",
        help="Bundle folders or model names; a prefix CT= or MR= limits a bundle to one modality.",
        show_default=False,
    ),
]
QueueFolder = Annotated[
    Path,
    typer.Option("--queue", metavar="DIR", help="Folder of the queue; only one process may use it.", show_default=False),
    FOLDER,
]
MapName = Annotated[
    Literal["auto", "first_attention", "final_attention", "cam"],
    typer.Option("--map", help="Map in the parametric map and the picture."),
]
Top = Annotated[int, typer.Option("--top", min=1, help="Number of slices that are averaged for a series.")]
Keep = Annotated[
    float, typer.Option("--keep", min=0, help="Seconds for which slices are kept, so that late slices can join their series.")
]
Retry = Annotated[
    float, typer.Option("--retry", min=0.1, help="Seconds before a failed result is sent again; doubled after each failure.")
]
Incomplete = Annotated[
    Literal["mark", "refuse"],
    typer.Option("--incomplete", help="Series with missing slices: classify and mark as incomplete, or refuse."),
]


def listen(
    console: Console,
    bundles: Bundles,
    queue: QueueFolder,
    send_to: Annotated[
        str, typer.Option("--send-to", metavar="AET@HOST:PORT", help="Receiver of the results.", show_default=False)
    ],
    ae_title: Annotated[str, typer.Option("--ae-title", help="AE title of this node.")] = "RESLINK",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 selects a free port.")] = 11112,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="AE", help="AE title that may connect; repeatable; default: all.")
    ] = None,
    settle: Annotated[
        float, typer.Option("--settle", min=0, help="Seconds to wait after the last association has ended.")
    ] = 5.0,
    quiet_time: Annotated[
        float,
        typer.Option(
            "--quiet-time", min=0, help="Seconds to wait for a slice that is missing, or while a sender is connected."
        ),
    ] = 60.0,
    keep: Keep = 600.0,
    retry: Retry = 2.0,
    incomplete: Incomplete = "mark",
    map_name: MapName = "auto",
    top: Top = 3,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate of this node; enables TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Private key of the certificate.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", help="CA certificate that signs the certificates of the peers.")
    ] = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send results with TLS.")] = False,
) -> None:
    """Run a DICOM node: receive series of head CT and MR by C-STORE, and send reports, pictures and maps back.

    After a crash, run the same command again: no result is lost or sent twice. SIGTERM and Ctrl-C finish the current series.
    """
    from reslink.serving.addresses import is_loopback
    from reslink.serving.dicom.peer import Peer
    from reslink.serving.dicom.pipeline import Pipeline
    from reslink.serving.dicom.queue import Queue
    from reslink.serving.dicom.storage_scp import Node, NodeSettings, StoreSender, client_context, run_node, server_context

    peer = Peer.parse(send_to)
    _check_titles(ae_title, *(allow or ()))
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("Only one of --tls-cert and --tls-key was given", "TLS needs both", "Use both options")
    if tls_ca is not None and tls_cert is None and not send_tls:
        raise UsageError(
            "--tls-ca was given without --tls-cert and --tls-key or --send-tls",
            "The CA certificate is used only with TLS; without TLS the node would accept every peer",
            "Add --tls-cert and --tls-key to listen with TLS, add --send-tls to send with TLS, or remove --tls-ca",
        )
    tls = None if tls_cert is None or tls_key is None else server_context(tls_cert, tls_key, tls_ca)
    sending = client_context(tls_ca, tls_cert, tls_key) if send_tls else None
    if tls is None and not is_loopback(host):
        console.warn(f"Warning: the node listens on {host} without TLS; images and results are sent unencrypted.")
    settings = NodeSettings(ae_title, host, port, tuple(allow or ()), settle, quiet_time, tls)
    models = _load_models(console, bundles, map_name, top)
    with Queue(queue, keep).opened() as opened, _until_stopped(console) as stop:
        pipeline = Pipeline(opened, models, StoreSender(peer, ae_title, sending), retry, incomplete)
        with Node(settings, opened).listening() as node:
            console.note(f"{ae_title} listens on {host}:{node.port}; results go to {send_to}")
            console.research_use_only()
            run_node(node, stop, pipeline.start(stop))


def watch(
    console: Console,
    bundles: Bundles,
    url: Annotated[str, typer.Option("--url", metavar="ROOT", help="DICOMweb root URL of the archive.", show_default=False)],
    queue: QueueFolder,
    days: Annotated[int, typer.Option("--days", min=0, help="Age limit of studies in days; 0 for no limit.")] = 2,
    period: Annotated[float, typer.Option("--period", min=0.1, help="Seconds between searches.")] = 30.0,
    settle: Annotated[
        float, typer.Option("--settle", min=0, help="Seconds without a new slice before a series counts as complete.")
    ] = 60.0,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", metavar="FILE", help="File with 'user:password' or 'Bearer TOKEN'.")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", help="CA certificate that signs the certificate of the archive.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when no series is left.")] = False,
    retry: Retry = 2.0,
    incomplete: Incomplete = "mark",
    map_name: MapName = "auto",
    top: Top = 3,
) -> None:
    """Run a DICOMweb client: find new series of head CT and MR in an archive, and store reports, pictures and maps there."""
    from reslink.serving.dicom.dicomweb import DicomWebSender, Watcher, WatchSettings, create_client
    from reslink.serving.dicom.pipeline import Pipeline
    from reslink.serving.dicom.queue import Queue

    client = create_client(url, credentials.read_text().strip() if credentials else None, tls_ca)
    models = _load_models(console, bundles, map_name, top)
    modalities = sorted({model.modality for model in models if model.modality}) if all(m.modality for m in models) else None
    with Queue(queue, keep=0.0).opened() as opened, _until_stopped(console) as stop:
        pipeline = Pipeline(opened, models, DicomWebSender(client), retry, incomplete)
        watcher = Watcher(client, opened, WatchSettings(days, period, settle), modalities or ("CT", "MR"))
        console.note(f"Watching {url} for series of {' and '.join(modalities or ('CT', 'MR'))}")
        console.research_use_only()
        if once:
            _drain(watcher, pipeline, stop)
            return
        threads = pipeline.start(stop)
        watcher.run(stop)
        for thread in threads:
            thread.join()


def answer(
    console: Console,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle folder or model name.", show_default=False)],
    series: Annotated[Path, typer.Argument(metavar="SERIES", help="Folder of DICOM slices.", show_default=False)],
    out: OutFolder,
    incomplete: Incomplete = "mark",
    map_name: MapName = "auto",
    top: Top = 3,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the results for one series to a folder instead of a PACS: report.dcm, picture.dcm, map.dcm."""
    from reslink.files import write_atomic
    from reslink.imaging.search import check_exists
    from reslink.serving.dicom.classify import classify_series, load_model
    from reslink.serving.dicom.results import create_results
    from reslink.serving.dicom.series import read_head_series

    check_overwrite(out, "report.dcm", "results", overwrite)
    check_exists(series)
    model = load_model(bundle, map_name, top, threads_from_environment())
    answered = classify_series(model, read_head_series(series, policy=incomplete))
    files = create_results(answered)
    for result in files:
        write_atomic(out / f"{result.kind}.dcm", result.content)
    if json:
        in_series = answered.prediction.at(answered.series.selected)  # its own positions count the selected slices
        console.json(in_series.as_dict() | _notes(answered.series), indent=2)
        return
    prediction = answered.prediction
    interval = [] if prediction.ci_low is None else [f"{prediction.ci_low:.3f} to {prediction.ci_high:.3f}"]
    console.row(prediction.answer, f"P({prediction.score_class}) {prediction.score:.3f}", *interval)
    for name, one in (prediction.by_label or {}).items():
        state = "no answer" if one.abstain else one.label
        own = [] if one.ci_low is None else [f"{one.ci_low:.3f} to {one.ci_high:.3f}"]
        console.row(name, f"{state}, P {one.score:.3f}", *own)
    if answered.series.incomplete:
        console.warn("The series is incomplete; the model abstains.")
    for note in (*prediction.reasons, *answered.series.notes):
        console.note(f"Note: {note}.")
    console.note(f"{len(files)} files in {out}. {prediction.rule}.")
    console.research_use_only()


def _notes(series: Series) -> dict[str, list[str]]:
    return {"notes": list(series.notes), "incomplete": list(series.incomplete)}


def _load_models(console: Console, bundles: list[str], map_name: str, top: int) -> list[Model]:
    from reslink.serving.dicom.classify import load_model

    models = [load_model(text, map_name, top, threads_from_environment()) for text in bundles]
    for model in models:
        console.detail(f"{model.name}: {model.modality or 'CT and MR'}, map {model.map_name or 'none'}")
    return models


def _check_titles(*titles: str) -> None:
    for title in titles:
        if not (1 <= len(title.strip()) <= 16 and title.isascii() and "\\" not in title):
            raise UsageError(
                f"{title!r} is not a valid AE title",
                "An AE title has 1 to 16 ASCII characters and no backslash",
                "Correct the title",
            )


def _drain(watcher: Watcher, pipeline: Pipeline, stop: threading.Event) -> None:
    """Searches, classifies and sends until no series is left, or the remaining series fail.

    Raises:
        InputError: If a series is left, unless the command was stopped.
    """
    while not stop.is_set():
        done = watcher.poll(stop)
        while not stop.is_set() and (pipeline.process_next() or pipeline.deliver_results()):
            done += 1
        if not done and not watcher.growing:
            break
        if not done:
            stop.wait(watcher.settings.period)
    left = watcher.failed + sum(len(watcher.queue.keys(state)) for state in ("working", "sending"))
    if left and not stop.is_set():
        raise InputError(
            f"{left} series could not be classified or sent",
            "The log holds the reasons; fetched images stay in the queue",
            "Run the same command again",
        )


@contextmanager
def _until_stopped(console: Console) -> Iterator[threading.Event]:
    """Gives an event that SIGTERM and Ctrl-C set; the log of the node is printed meanwhile."""
    stop, logger = threading.Event(), logging.getLogger("reslink")
    level = logger.level
    if not console.quiet:
        logger.setLevel(logging.INFO)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        stop.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        logger.setLevel(level)


def sub_app(examples: Callable[..., str], as_command: Callable[..., Callable[..., None]]) -> typer.Typer:
    """Returns ``reslink dicom`` with its commands."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Classify series of head CT and MR from a PACS.")
    for function in (listen, watch, answer):
        app.command(function.__name__, epilog=examples(*EXAMPLES[function.__name__]))(as_command(function))
    return app
