"""Runs the service: binds first, so that what is wrong is said before anything is loaded; then one process or several."""

from __future__ import annotations

import functools
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from reslink.errors import UsageError
from reslink.files import optional_import
from reslink.serving.addresses import is_loopback

_BACKLOG = 2048


def check_exposed(host: str, token: str | None) -> None:
    """Refuses a service that others can reach without a token.

    Raises:
        UsageError: If it would be one, or the token is shorter than 16 characters.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"The service would listen on {host} without a token",
            "Only on loopback (127.0.0.1) is none asked for",
            "Set RESLINK_TOKEN, or give --token",
        )
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            "The token is too short, or holds signs that a header cannot",
            "A token has at least 16 letters, digits and signs of ASCII",
            "Make one: openssl rand -hex 24",
        )


def serve(settings: Any, port: int, workers: int, listening: Callable[[str], None] = lambda _url: None) -> None:
    """Serves until the process is told to end (SIGTERM, Ctrl-C); requests under way are answered first.

    Args:
        settings: How it runs, ``http.Settings``.
        port: To listen on; 0 for any that is free.
        workers: Processes, each with its own models.
        listening: Called with the URL once the address is taken, before the models are loaded.

    Raises:
        UsageError: If a package of the extra is missing, the service would be open to others without a token, or the address
            cannot be listened on.
        BundleError: If a bundle cannot be used.
    """
    check_exposed(settings.host, settings.token)
    for name in ("fastapi", "python_multipart", "prometheus_client", "uvicorn"):
        optional_import(name, "serve")
    from uvicorn import Server
    from uvicorn.supervisors import Multiprocess

    from reslink.serving.http import models

    for bundle in settings.bundles:
        models.with_graph(bundle)
    _raise_open_files()
    config = _config(settings, port, workers)
    with _listening(settings.host, port) as own:
        listening(_url(own))
        if workers == 1:
            signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again at its end, which is then exit code 0
            Server(config).run([own])
        else:
            Multiprocess(config, [own]).run()


def _listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; uvicorn's own way leaves one open, and ends the process, where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        own = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"The service cannot listen on {host}:{port}: {error.strerror or error}",
            "An address is one of this machine, and a port that no other program listens on",
            "Choose another --port",
        ) from error
    own.set_inheritable(True)
    return own


def _url(own: socket.socket) -> str:
    host, port = own.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _config(settings: Any, port: int, workers: int) -> Any:
    from uvicorn import Config

    from reslink.serving.http.app import create_app
    from reslink.serving.http.timeouts import TimedProtocol

    limits = settings.limits
    protocol: Any = functools.partial(  # uvicorn calls it as it would its class
        TimedProtocol, header_seconds=limits.header_seconds, body_seconds=limits.body_seconds
    )
    return Config(
        functools.partial(create_app, settings),
        host=settings.host,
        port=port,
        workers=workers,
        factory=True,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(limits.answer_seconds) + 5,
    )


def _raise_open_files() -> None:
    """Allows as many connections as the system lets us, so that idle ones do not keep others out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
