"""Runs the service with uvicorn, in one process or several. The address is bound before the models are loaded."""

from __future__ import annotations

import functools
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from reslink.errors import UsageError
from reslink.files import optional_import
from reslink.serving.addresses import is_loopback

_BACKLOG = 2048


def require_token(host: str, token: str | None, hosts: Sequence[str] = ()) -> None:
    """Checks that a service that others can reach has a token of at least 16 characters.

    Args:
        host: Address to listen on.
        token: Token that clients must send; None if none is required.
        hosts: Further host names that clients may use. Another name than one of loopback means a proxy that others can reach.

    Raises:
        UsageError: If the token is missing or too weak.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"The service would listen on {host} without a token",
            "Only a service on loopback (127.0.0.1) needs no token",
            "Set RESLINK_TOKEN or use --token",
        )
    public = [name for name in hosts if not is_loopback(name.rpartition(":")[0] if name.count(":") == 1 else name.strip("[]"))]
    if token is None and public:
        raise UsageError(
            f"The service would answer to the host name {public[0]} without a token",
            "Only the names of loopback (localhost, 127.0.0.1) need no token, as a proxy lets others in under another name",
            "Set RESLINK_TOKEN or use --token, or omit --allow-host",
        )
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            "The token is too short, or contains characters that a header cannot",
            "A token has at least 16 printable ASCII characters without spaces",
            "Create one with: openssl rand -hex 24",
        )


def serve(settings: Any, port: int, workers: int, on_listening: Callable[[str], None] = lambda _url: None) -> None:
    """Serves until SIGTERM or Ctrl-C. Active requests are completed first.

    Args:
        settings: Settings of the service, ``app.Settings``.
        port: Port to listen on; 0 for any free port.
        workers: Service processes, each with its own models.
        on_listening: Called with the URL when the address is bound, before the models are loaded.

    Raises:
        UsageError: If a package of the extra is missing, the token is missing, or the address cannot be bound.
        BundleError: If a bundle cannot be used.
    """
    require_token(settings.host, settings.token, settings.hosts)
    for name in ("fastapi", "python_multipart", "prometheus_client", "uvicorn"):
        optional_import(name, "serve")
    from uvicorn import Server
    from uvicorn.supervisors import Multiprocess

    from reslink.serving.http import models

    for bundle in settings.bundles:
        models.load_onnx_bundle(bundle)
    _raise_open_files()
    config = _config(settings, port, workers)
    with _bind(settings.host, port) as server_socket:
        on_listening(_url(server_socket))
        if workers == 1:
            signal.signal(
                signal.SIGTERM, lambda *_: None
            )  # uvicorn raises the signal again at its end; ignored, it gives exit code 0
            Server(config).run([server_socket])
        else:
            Multiprocess(config, [server_socket]).run()


def _bind(host: str, port: int) -> socket.socket:
    """Returns a listening socket. uvicorn's own function leaks a socket and exits the process on failure."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server_socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"The service cannot listen on {host}:{port}: {error.strerror or error}",
            "The address must belong to this machine, and the port must be free",
            "Choose another --port",
        ) from error
    server_socket.set_inheritable(True)
    return server_socket


def _url(server_socket: socket.socket) -> str:
    host, port = server_socket.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _config(settings: Any, port: int, workers: int) -> Any:
    from uvicorn import Config

    from reslink.serving.http.app import create_app
    from reslink.serving.http.timeouts import TimedProtocol

    limits = settings.limits
    protocol: Any = functools.partial(  # uvicorn calls it like a protocol class
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
    """Raises the limit on open files as far as allowed, so that idle connections do not block new ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < limit:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
