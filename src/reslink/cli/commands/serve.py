"""``reslink serve``: bundles behind HTTP, with a page for people."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import wanted_threads

EXAMPLES = (
    "reslink serve runs/first/bundle",
    "reslink serve ct lgg --port 9000",
    "RESLINK_TOKEN=… reslink serve ct --host 0.0.0.0 --workers 2",
)


def serve(
    console: Console,
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE...", help="Bundle folders, or names of 'reslink models'.", show_default=False),
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 for any that is free.")] = 8000,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Processes, each with its own models.")] = 1,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="RESLINK_TOKEN",
            show_envvar=True,
            show_default=False,
            help="What clients must show; needed off loopback. The command line can be seen by others: use the variable.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A further name by which it may be called.", show_default=False),
    ] = None,
    backend: Annotated[Literal["onnxruntime", "openvino"], typer.Option("--backend", help="What computes.")] = "onnxruntime",
) -> None:
    """Serve bundles over HTTP: a page for people at /, and /v1/predict and /v1/explain for programs. Nothing is stored.

    Ctrl-C or SIGTERM ends it; requests under way are answered first.
    """
    from reslink.serving.http import server

    server.check_exposed(host, token)
    from reslink.files import optional_import

    optional_import("fastapi", "serve")
    from reslink.serving.http.app import Settings

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = Settings(
        tuple(bundles),
        host,
        token,
        tuple(allow_host or ()),
        backend,
        wanted_threads() or 1,
        max(1, cores // workers),
        quiet=console.quiet,
    )

    def listening(url: str) -> None:
        console.note(f"{url} (Ctrl-C ends it)")
        console.research_use_only()

    server.serve(settings, port, workers, listening)
