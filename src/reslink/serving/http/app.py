"""FastAPI application of the service: routes, exception handlers and the web page."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from reslink import __version__
from reslink.serving.http import access_log, models
from reslink.serving.http.handlers import Json, RequestHandlers
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import CONTENT_TYPE, Metrics
from reslink.serving.http.middleware import ServiceMiddleware, allowed_hosts
from reslink.serving.http.openapi import install_openapi, upload_body
from reslink.serving.http.problems import MEDIA_TYPE, NOTICE, Problem, internal_error
from reslink.serving.http.schemas import Explanations, Health, Models, Predictions, ProblemDetails, Views
from reslink.serving.http.uploads.form import Form
from reslink.serving.http.worker_pool import WorkerPool

_MEDIA_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_CLIENT_CLOSED_REQUEST: Final = 499
"""Status of a request whose client disconnected, as in nginx. Only the metrics and the log contain it."""

_PROBLEM_STATUSES: Final = (400, 401, 403, 408, 413, 415, 422, 503)


@dataclass(frozen=True)
class Settings:
    """Settings of the service.

    Attributes:
        bundles: Folders or names of bundles; the first is the default model.
        host: Address to listen on.
        token: Token that clients must send; None if none is required.
        hosts: Further host names that clients may use.
        backend: ``onnxruntime`` or ``openvino``.
        threads: Threads of each network.
        decode_workers: Worker processes that decode and preprocess files.
        limits: Limits on requests.
        quiet: Whether to log warnings and errors only.
    """

    bundles: tuple[str, ...]
    host: str = "127.0.0.1"
    token: str | None = None
    hosts: tuple[str, ...] = ()
    backend: str = "onnxruntime"
    threads: int = 1
    decode_workers: int = 1
    limits: Limits = dataclasses.field(default_factory=Limits)
    quiet: bool = False


def create_app(settings: Settings) -> ASGIApp:
    """Builds the service; the models are loaded at startup.

    Args:
        settings: Settings of the service.

    Returns:
        An ASGI application.
    """
    access_log.configure(settings.quiet)
    metrics = Metrics()
    app = FastAPI(
        title="reslink",
        version=__version__,
        summary="Brain CT and MR classifiers over HTTP. Research use only.",
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(settings, metrics),
    )
    app.add_exception_handler(Problem, _handle_problem)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unexpected_error)  # Starlette raises it again, and the middleware logs it
    _add_upload_routes(app)
    _add_service_routes(app, metrics)
    _add_web_page(app)
    install_openapi(app, token=settings.token is not None)
    routes = frozenset(path for route in app.routes if "{" not in (path := getattr(route, "path", "{")))
    hosts = allowed_hosts(settings.host, settings.hosts)
    return ServiceMiddleware(app, settings.limits, metrics, settings.token, hosts, routes)


def _lifespan(settings: Settings, metrics: Metrics) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        served, preprocesses = await asyncio.to_thread(
            models.load, settings.bundles, settings.limits, settings.backend, settings.threads, metrics.count_batch
        )
        pool = WorkerPool(preprocesses, settings.decode_workers)
        await pool.warm_up()
        app.state.handlers = RequestHandlers(served, pool, settings.limits, metrics)
        app.state.ready = True
        access_log.LOGGER.info("ready: %d models, %d worker processes", len(served), settings.decode_workers)
        yield
        app.state.ready = False
        for model in served:
            model.batcher.close()
        await asyncio.to_thread(pool.close)
        access_log.LOGGER.info("stopped")

    return lifespan


_Handler = Callable[[Form], Awaitable[Json]]


def _add_upload_routes(app: FastAPI) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemDetails, "content": {MEDIA_TYPE: {}}, "description": "Problem details"}
        for status in _PROBLEM_STATUSES
    }

    def add(
        path: str, schema: type[Any], summary: str, fields: tuple[str, ...], select: Callable[[RequestHandlers], _Handler]
    ) -> None:
        async def endpoint(request: Request) -> Response:
            handlers: RequestHandlers = request.app.state.handlers
            content_type = request.headers.get("content-type", "")
            response = await handlers.handle(content_type, request.stream(), select(handlers))
            return Response(await asyncio.to_thread(json.dumps, response), media_type="application/json")

        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            operation_id=path.rsplit("/", 1)[-1],
            responses={200: {"model": schema}, **errors},
            openapi_extra={"requestBody": upload_body(*fields)},
        )

    explain_fields = ("model", "slice", "member", "target", "unit", "sequence")
    add("/v1/predict", Predictions, "Classify files", ("model", "slice", "unit", "sequence"), lambda handlers: handlers.predict)
    add("/v1/explain", Explanations, "Maps of one slice per file", explain_fields, lambda handlers: handlers.explain)
    add("/v1/view", Views, "Pixels for a viewer", ("unit",), lambda handlers: handlers.view)


def _add_service_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/v1/models", response_model=Models, summary="Models of the service", operation_id="models")
    async def list_models(request: Request) -> Response:
        handlers: RequestHandlers = request.app.state.handlers
        return JSONResponse({"notice": NOTICE, "models": [model.description() for model in handlers.models.values()]})

    @app.get("/health/live", response_model=Health, summary="Whether the process runs", operation_id="live")
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get(
        "/health/ready",
        response_model=Health,
        summary="Whether the service accepts requests",
        operation_id="ready",
        responses={503: {"model": Health}},
    )
    async def ready(request: Request) -> Response:
        handlers: RequestHandlers = request.app.state.handlers
        is_ready = request.app.state.ready and handlers.active_requests < handlers.limits.concurrent_requests
        return JSONResponse({"status": "ready" if is_ready else "busy"}, 200 if is_ready else 503)

    @app.get("/metrics", summary="Prometheus metrics", operation_id="metrics", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})


def _add_web_page(app: FastAPI) -> None:
    """Serves the files of ``ui/``. They are read once, so that a request selects a file name and never a path."""
    files = {path.name: path.read_bytes() for path in (resources.files("reslink.serving") / "ui").iterdir() if path.is_file()}

    def response(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        suffix = name[name.rfind(".") :]
        return Response(files[name], media_type=_MEDIA_TYPES.get(suffix, "application/octet-stream"))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return response("index.html")

    @app.get("/ui/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return response(name)


async def _handle_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101  (registered for this type only)
    return problem.response()


async def _handle_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for this type only)
    detail = f"{error.detail}. /openapi.json lists the routes and their methods. Correct the request."
    response = Problem(error.status_code, "no-such-route", str(error.detail), detail).response()
    response.headers.update(error.headers or {})
    return response


async def _handle_unexpected_error(_: Request, _error: Exception) -> Response:
    return internal_error().response()


async def _handle_disconnect(_: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
