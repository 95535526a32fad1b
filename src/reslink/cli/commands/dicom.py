"""``reslink dicom``: series come in from a PACS, answers go back to it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reslink.cli.command import refuse_earlier, refuse_file
from reslink.cli.console import Console
from reslink.cli.options import Json, Overwrite, wanted_threads
from reslink.errors import InputError, UsageError

if TYPE_CHECKING:
    from reslink.serving.dicom.classify import Model
    from reslink.serving.dicom.dicomweb import Watcher
    from reslink.serving.dicom.pipeline import Pipeline

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
        help="Bundle folders or names; CT= or MR= before one says for which series it is.",
        show_default=False,
    ),
]
QueueFolder = Annotated[
    Path, typer.Option("--queue", metavar="DIR", help="Folder of the queue; one process at a time.", show_default=False)
]
MapName = Annotated[
    Literal["auto", "first_attention", "final_attention", "cam"],
    typer.Option("--map", help="What the map and the picture show."),
]
Top = Annotated[int, typer.Option("--top", min=1, help="Slices that make the answer of a series.")]
Keep = Annotated[float, typer.Option("--keep", min=0, help="Seconds for which slices are kept, so that late ones join them.")]
Retry = Annotated[float, typer.Option("--retry", min=0.1, help="Seconds until a result is sent again; doubles each time.")]


def listen(
    console: Console,
    bundles: Bundles,
    queue: QueueFolder,
    send_to: Annotated[str, typer.Option("--send-to", metavar="AET@HOST:PORT", help="Where results go.", show_default=False)],
    ae_title: Annotated[str, typer.Option("--ae-title", help="AE title of this node.")] = "RESLINK",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for any.")] = 11112,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="AE", help="AE title that may call; may be given again.")
    ] = None,
    settle: Annotated[float, typer.Option("--settle", min=0, help="Seconds after the end of the last association.")] = 5.0,
    quiet_time: Annotated[
        float, typer.Option("--quiet-time", min=0, help="Seconds without a new slice while an association is open.")
    ] = 60.0,
    keep: Keep = 600.0,
    retry: Retry = 2.0,
    map_name: MapName = "auto",
    top: Top = 3,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate of this node; listens with TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Key of the certificate.")] = None,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", help="Who signs the certificates of the others.")] = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send results with TLS.")] = False,
) -> None:
    """Be a DICOM node: take series of head CT and MR by C-STORE, send reports, pictures and maps back.

    A kill loses nothing and doubles nothing: start the same command again. SIGTERM and Ctrl-C finish the series at hand.
    """
    refuse_file(queue, "--queue")
    from reslink.serving.addresses import Peer, is_loopback
    from reslink.serving.dicom.pipeline import Pipeline
    from reslink.serving.dicom.queue import Queue
    from reslink.serving.dicom.storage_scp import Node, NodeSettings, StoreSender, client_context, serve, server_context

    peer = Peer.parse(send_to)
    _check_titles(ae_title, *(allow or ()))
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("One of --tls-cert and --tls-key was given", "TLS needs a certificate and its key", "Give both")
    if tls_ca is not None and tls_cert is None and not send_tls:
        raise UsageError(
            "--tls-ca was given, and neither --tls-cert with --tls-key nor --send-tls",
            "An authority is asked only where there is TLS: without it the node would let everybody in",
            "Add --tls-cert and --tls-key to listen with TLS, or --send-tls to send with it; or leave --tls-ca out",
        )
    tls = None if tls_cert is None or tls_key is None else server_context(tls_cert, tls_key, tls_ca)
    sending = client_context(tls_ca, tls_cert, tls_key) if send_tls else None
    if tls is None and not is_loopback(host):
        console.warn(f"Warning: {host} is listened on without TLS; whoever reaches the port sees what is sent.")
    settings = NodeSettings(ae_title, host, port, tuple(allow or ()), settle, quiet_time, tls)
    models = _models(console, bundles, map_name, top)
    with Queue(queue, keep).opened() as opened, _until_stopped(console) as stop:
        pipeline = Pipeline(opened, models, StoreSender(peer, ae_title, sending), retry)
        with Node(settings, opened).listening() as node:
            console.note(f"{ae_title} listens on {host}:{node.port}; results go to {send_to}")
            console.research_use_only()
            serve(node, stop, pipeline.run(stop))


def watch(
    console: Console,
    bundles: Bundles,
    url: Annotated[str, typer.Option("--url", metavar="ROOT", help="DICOMweb root of the archive.", show_default=False)],
    queue: QueueFolder,
    days: Annotated[int, typer.Option("--days", min=0, help="Studies of so many days up to today; 0 for all.")] = 2,
    period: Annotated[float, typer.Option("--period", min=0.1, help="Seconds between two searches.")] = 30.0,
    settle: Annotated[float, typer.Option("--settle", min=0, help="Seconds for which a series must not grow.")] = 60.0,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", metavar="FILE", help="Holds 'user:password' or 'Bearer TOKEN'.")
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", help="Who signs the archive's certificate.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Search until nothing is left to do, then end.")] = False,
    retry: Retry = 2.0,
    map_name: MapName = "auto",
    top: Top = 3,
) -> None:
    """Be a DICOMweb client: look for new series of head CT and MR in an archive, store reports, pictures and maps there."""
    refuse_file(queue, "--queue")
    from reslink.serving.dicom.dicomweb import Watcher, WatchSettings, WebSender, web_client
    from reslink.serving.dicom.pipeline import Pipeline
    from reslink.serving.dicom.queue import Queue

    client = web_client(url, credentials.read_text().strip() if credentials else None, tls_ca)
    models = _models(console, bundles, map_name, top)
    modalities = sorted({model.modality for model in models if model.modality}) if all(m.modality for m in models) else None
    with Queue(queue, keep=0.0).opened() as opened, _until_stopped(console) as stop:
        pipeline = Pipeline(opened, models, WebSender(client), retry)
        watcher = Watcher(client, opened, WatchSettings(days, period, settle), modalities or ("CT", "MR"))
        console.note(f"{url} is watched for series of {' and '.join(modalities or ('CT', 'MR'))}")
        console.research_use_only()
        if once:
            _drain(watcher, pipeline, stop)
            return
        threads = pipeline.run(stop)
        watcher.run(stop)
        for thread in threads:
            thread.join()


def answer(
    console: Console,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder or name.", show_default=False)],
    series: Annotated[Path, typer.Argument(metavar="SERIES", help="A folder of DICOM slices.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
    map_name: MapName = "auto",
    top: Top = 3,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Write what would go back to the PACS for one series into a folder: report.dcm, picture.dcm, map.dcm."""
    from reslink.files import write_atomic
    from reslink.serving.dicom.classify import answer as found
    from reslink.serving.dicom.classify import load_model
    from reslink.serving.dicom.results import results
    from reslink.serving.dicom.series import read_head

    refuse_earlier(out, "report.dcm", "results", overwrite)
    told = found(load_model(bundle, map_name, top, wanted_threads()), read_head(series))
    made = results(told)
    for result in made:
        write_atomic(out / f"{result.kind}.dcm", result.content)
    if json:
        console.json(told.study.as_dict() | {"notes": list(told.series.notes)}, indent=2)
        return
    study = told.study
    interval = "" if study.ci_low is None else f"\t{study.ci_low:.3f} to {study.ci_high:.3f}"
    console.data(f"{study.label}\tP({study.about}) {study.score:.3f}{interval}")
    for note in (*study.reasons, *told.series.notes):
        console.note(f"Note: {note}.")
    console.note(f"{len(made)} files in {out}. {study.rule}.")
    console.research_use_only()


def _models(console: Console, bundles: list[str], map_name: str, top: int) -> list[Model]:
    from reslink.serving.dicom.classify import load_model

    models = [load_model(text, map_name, top, wanted_threads()) for text in bundles]
    for model in models:
        console.detail(f"{model.name}: {model.modality or 'CT and MR'}, map {model.map_name or 'none'}")
    return models


def _check_titles(*titles: str) -> None:
    for title in titles:
        if not (1 <= len(title.strip()) <= 16 and title.isascii() and "\\" not in title):
            raise UsageError(
                f"{title!r} is no AE title", "An AE title has 1 to 16 ASCII characters, no backslash", "Shorten it"
            )


def _drain(watcher: Watcher, pipeline: Pipeline, stop: threading.Event) -> None:
    """Searches, answers and sends until nothing is left, or what is left cannot be fetched, answered or sent.

    Raises:
        InputError: If something is left, and nobody stopped it.
    """
    while not stop.is_set():
        done = watcher.look(stop)
        while not stop.is_set() and (pipeline.work() or pipeline.deliver()):
            done += 1
        if not done and not watcher.waiting:
            break
        if not done:
            stop.wait(watcher.settings.period)
    left = watcher.failed + sum(len(watcher.queue.names(state)) for state in ("working", "sending"))
    if left and not stop.is_set():
        raise InputError(
            f"{left} series could not be answered or sent",
            "The log says why; what was fetched is in the queue",
            "Run the same command again",
        )


@contextmanager
def _until_stopped(console: Console) -> Iterator[threading.Event]:
    """Gives an event that SIGTERM and Ctrl-C set, and has the log of the node said line by line."""
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


def sub_app(examples: Callable[..., str], verb: Callable[..., Callable[..., None]]) -> typer.Typer:
    """Returns the verbs below ``reslink dicom``."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Answer series of head CT and MR from a PACS.")
    for function in (listen, watch, answer):
        app.command(function.__name__, epilog=examples(*EXAMPLES[function.__name__]))(verb(function))
    return app
