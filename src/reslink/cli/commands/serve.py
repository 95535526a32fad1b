"""``reslink serve``: the HTTP service."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import threads_from_environment
from reslink.cores import available_cores

EXAMPLES = (
    "reslink serve runs/first/bundle",
    "reslink serve ct lgg --port 9000",
    "RESLINK_TOKEN=… reslink serve ct --host 0.0.0.0 --workers 2",
)


def serve(
    console: Console,
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE...", help="Bundle folders, or model names from 'reslink models'.", show_default=False),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 selects a free port.")] = 8000,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Number of processes; each loads its own models.")
    ] = 1,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="RESLINK_TOKEN",
            show_envvar=True,
            show_default=False,
            help="Token that clients must send; required unless all hosts are loopback. The variable is safer than the option.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Further host name that clients may use; repeatable.", show_default=False
        ),
    ] = None,
    backend: Annotated[
        Literal["onnxruntime", "openvino"], typer.Option("--backend", help="Backend that computes.")
    ] = "onnxruntime",
) -> None:
    """Serve bundles over HTTP: a web page at /, and /v1/predict and /v1/explain for programs. Uploads are not stored.

    Ctrl-C or SIGTERM stops the service after running requests have been answered.
    """
    from reslink.bundles import zoo
    from reslink.serving.http import server

    server.require_token(host, token, allow_host or ())
    for bundle in bundles:
        zoo.resolve(bundle)  # a typing error is found before the slow imports
    from reslink.files import optional_import

    optional_import("fastapi", "serve")
    from reslink.serving.http.app import Settings

    settings = Settings(
        tuple(bundles),
        host,
        token,
        tuple(allow_host or ()),
        backend,
        threads_from_environment() or 1,
        max(1, available_cores() // workers),
        quiet=console.quiet,
    )

    def listening(url: str) -> None:
        console.note(f"{url} (stop with Ctrl-C)")
        console.research_use_only()

    server.serve(settings, port, workers, listening)
