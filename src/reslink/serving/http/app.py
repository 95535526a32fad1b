"""The service: routes, their OpenAPI document, and the page."""

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
from reslink.serving.http import access_log
from reslink.serving.http import models as hosted
from reslink.serving.http.handlers import Desk, Json
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import CONTENT_TYPE, Metrics
from reslink.serving.http.middleware import Door, allowed_hosts
from reslink.serving.http.openapi import described, upload_body
from reslink.serving.http.problems import MEDIA_TYPE, NOTICE, Problem, fault
from reslink.serving.http.schemas import Explanations, Health, Models, Predictions, ProblemDetails, Views
from reslink.serving.http.uploads.form import Form
from reslink.serving.http.worker_pool import Pool

_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_CLIENT_GONE: Final = 499
"""As nginx calls a request whose client went away; only counts and the log see it."""

_PROBLEMS: Final = (400, 401, 403, 408, 413, 415, 422, 503)


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Attributes:
        bundles: Folders or names of bundles; the first answers where none is named.
        host: The address that it listens on.
        token: What clients show; None where none is asked for.
        hosts: Further names by which it may be called.
        backend: ``onnxruntime`` or ``openvino``.
        threads: Threads of each network.
        decoders: Processes that prepare files.
        limits: What requests may take.
        quiet: Whether the log holds warnings and errors only.
    """

    bundles: tuple[str, ...]
    host: str = "127.0.0.1"
    token: str | None = None
    hosts: tuple[str, ...] = ()
    backend: str = "onnxruntime"
    threads: int = 1
    decoders: int = 1
    limits: Limits = dataclasses.field(default_factory=Limits)
    quiet: bool = False


def create_app(settings: Settings) -> ASGIApp:
    """Builds the service; the models are loaded when it starts.

    Args:
        settings: How it runs.

    Returns:
        An ASGI application.
    """
    access_log.start(settings.quiet)
    metrics = Metrics()
    app = FastAPI(
        title="reslink",
        version=__version__,
        summary="Brain CT and MR classifiers behind HTTP. Research use only.",
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(settings, metrics),
    )
    app.add_exception_handler(Problem, _told)
    app.add_exception_handler(HTTPException, _told_by_starlette)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _faulty)  # starlette raises it again once this is sent, and the door logs it
    _add_uploads(app)
    _add_facts(app, metrics)
    _add_page(app)
    described(app, token=settings.token is not None)
    routes = frozenset(path for route in app.routes if "{" not in (path := getattr(route, "path", "{")))
    return Door(app, settings.limits, metrics, settings.token, allowed_hosts(settings.host, settings.hosts), routes)


def _lifespan(settings: Settings, metrics: Metrics) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models, ways = await asyncio.to_thread(
            hosted.load, settings.bundles, settings.limits, settings.backend, settings.threads, metrics.batch
        )
        pool = Pool(ways, settings.decoders)
        await pool.warm()
        app.state.desk = Desk(models, pool, settings.limits, metrics)
        app.state.ready = True
        access_log.LOGGER.info("ready: %d models, %d processes that decode", len(models), settings.decoders)
        yield
        app.state.ready = False
        for one in models:
            one.batcher.close()
        await asyncio.to_thread(pool.close)
        access_log.LOGGER.info("ended")

    return lifespan


def _add_uploads(app: FastAPI) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemDetails, "content": {MEDIA_TYPE: {}}, "description": "A problem"} for status in _PROBLEMS
    }

    def route(path: str, form: type[Any], summary: str, fields: tuple[str, ...], work: Callable[[Desk], _Work]) -> None:
        async def endpoint(request: Request) -> Response:
            desk: Desk = request.app.state.desk
            kind = request.headers.get("content-type", "")
            found = await desk.answer(kind, request.stream(), work(desk))
            return Response(await asyncio.to_thread(json.dumps, found), media_type="application/json")

        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            operation_id=path.rsplit("/", 1)[-1],
            responses={200: {"model": form}, **errors},
            openapi_extra={"requestBody": upload_body(*fields)},
        )

    route("/v1/predict", Predictions, "Classify files", ("model", "slice"), lambda desk: desk.predict)
    route(
        "/v1/explain",
        Explanations,
        "Maps of one slice of each file",
        ("model", "slice", "member", "target"),
        lambda d: d.explain,
    )
    route("/v1/view", Views, "Pixels for a viewer", (), lambda desk: desk.view)


_Work = Callable[[Form], Awaitable[Json]]


def _add_facts(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/v1/models", response_model=Models, summary="The models of this service", operation_id="models")
    async def models(request: Request) -> Response:
        desk: Desk = request.app.state.desk
        return JSONResponse({"notice": NOTICE, "models": [one.about() for one in desk.models.values()]})

    @app.get("/health/live", response_model=Health, summary="Whether the process runs", operation_id="live")
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get(
        "/health/ready",
        response_model=Health,
        summary="Whether it takes requests",
        operation_id="ready",
        responses={503: {"model": Health}},
    )
    async def ready(request: Request) -> Response:
        desk: Desk = request.app.state.desk
        good = request.app.state.ready and desk.under_way < desk.limits.waiting
        return JSONResponse({"status": "ready" if good else "busy"}, 200 if good else 503)

    @app.get("/metrics", summary="Counts for Prometheus", operation_id="metrics", response_class=Response)
    async def counts() -> Response:
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    """Serves the files of ``ui/``, read once: a request names one of them and never a path."""
    files = {path.name: path.read_bytes() for path in (resources.files("reslink.serving") / "ui").iterdir() if path.is_file()}

    def sent(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        suffix = name[name.rfind(".") :]
        return Response(files[name], media_type=_TYPES.get(suffix, "application/octet-stream"))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return sent("index.html")

    @app.get("/ui/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return sent(name)


async def _told(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101  (the kind that this was registered for)
    return problem.response()


async def _told_by_starlette(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    problem = Problem(error.status_code, "no-such-place", str(error.detail), "See /openapi.json for what there is.")
    answer = problem.response()
    answer.headers.update(error.headers or {})
    return answer


async def _faulty(_: Request, _error: Exception) -> Response:
    return fault().response()


async def _gone(_: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)
