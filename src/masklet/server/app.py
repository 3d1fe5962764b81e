"""The application: the parts of the service put together. Decides nothing.

    Observed -> (CORS) -> Guard -> Bodies -> routes

What nobody may do is refused before a body is read, and every answer is counted.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from masklet.errors import NoSpace
from masklet.jobs import StoreBusy
from masklet.server import cog, files, health, models, replicate
from masklet.server.auth import Gate, Guard
from masklet.server.bodies import Bodies
from masklet.server.cog_schema import cog_openapi
from masklet.server.docs_page import CSP, docs_page
from masklet.server.doors import PROBLEM_SCHEMA
from masklet.server.health import Condition, Staff
from masklet.server.ops import Metrics, Observed
from masklet.server.problems import InvalidField, Refusal, invalid_input
from masklet.server.service import Service, unavailable

LAG_EVERY_S = 0.25
ROUTERS = (replicate.router, models.router, files.router, cog.open_router, cog.router, health.router)
METHOD_NOT_ALLOWED = 405
EXPOSED = ("x-request-id", "retry-after")
TEXT = """Promptable video segmentation with SAM 2, by the HTTP APIs of Replicate and of Cog containers."""


def create_app(
    service: Service,
    gate: Gate,
    staff: Staff,
    *,
    sandbox: Callable[[], str] = lambda: "unknown",
    stop: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """Return the application of a service; `stop` ends the server that runs it."""
    app = _routes()
    condition = Condition(service, staff, sandbox, started_at=time.time())
    metrics = Metrics(service.store.counts, condition.workers, version("masklet"))
    app.state.service, app.state.condition, app.state.metrics = service, condition, metrics
    app.state.cog_health, app.state.stop = condition.as_cog, stop
    _add_documents(app, service)
    settings = service.settings
    guarded: ASGIApp = Bodies(
        app, json_bytes=settings.json_bytes, upload_bytes=settings.upload_bytes, idle_s=settings.body_idle_s
    )
    guarded = Guard(guarded, gate, metrics_open=settings.metrics_open)
    if gate.origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=gate.origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
        )
    return Observed(guarded, metrics)


def openapi_document(app: FastAPI | None = None) -> dict[str, Any]:
    """Return the OpenAPI document of the service; it is the same for every server."""
    whole = (app or _routes()).openapi()
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    schemas |= PROBLEM_SCHEMA | cog.COG_PROBLEM
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return whole


def _routes() -> FastAPI:
    app = FastAPI(
        title="masklet",
        version=version("masklet"),
        description=TEXT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
    )
    for router in ROUTERS:
        app.include_router(router)
    _add_errors(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    watch = asyncio.create_task(_watch_lag(app.state.metrics))
    yield
    app.state.service.feed.close()
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch


async def _watch_lag(metrics: Metrics) -> None:
    """Measure how late the event loop is: what blocks it makes everybody wait."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(LAG_EVERY_S)
        metrics.lag.observe(max(0.0, time.monotonic() - before - LAG_EVERY_S))


def _add_documents(app: FastAPI, service: Service) -> None:
    """Serve the OpenAPI document and its page."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json() -> Response:
        if service.settings.cog:
            return JSONResponse(cog_openapi(service.catalogue.models[0].required))
        return JSONResponse(openapi_document(app))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(openapi_document(app)), headers={"Content-Security-Policy": CSP})


def _add_errors(app: FastAPI) -> None:
    """Answer every error in the words of the door that was used."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if request.url.path.startswith("/v1/"):
            return invalid_input([_as_field(each) for each in error.errors()]).response()
        # Only where and why: what was sent may hold secrets.
        detail = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()]
        return JSONResponse({"detail": detail}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if not isinstance(error, Refusal):
            error = Refusal(error.status_code, str(error.detail), headers=error.headers)
        if error.status_code == METHOD_NOT_ALLOWED:
            error.headers = {"Allow": ", ".join(_methods(request.url.path))}
        return error.response()

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        # `Observed` answers, who knows the request's id; left alone, Starlette would, in plain text.
        raise error

    @app.exception_handler(NoSpace)
    @app.exception_handler(StoreBusy)
    async def cannot_write(request: Request, error: Exception) -> Response:
        assert isinstance(error, NoSpace | StoreBusy)  # noqa: S101
        return unavailable(error).response()


def _methods(path: str) -> list[str]:
    """Return what a path can be asked for; each method is a route of its own, and Starlette names the first one's."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, Route)]
    return sorted({method for route in routes if route.path_regex.match(path) for method in route.methods or ()})


_NAMES = {"missing": "required", "extra_forbidden": "additional_property_not_allowed"}


def _as_field(error: Any) -> InvalidField:
    """Put pydantic's words into Replicate's."""
    where = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    kind = _NAMES.get(error["type"], error["type"])
    if kind == "required":
        return InvalidField(kind, ".".join(where[:-1]) or "body", f"{where[-1] if where else 'the body'} is required")
    if kind == "additional_property_not_allowed":
        return InvalidField(kind, ".".join(where), f"Additional property {where[-1]} is not allowed")
    return InvalidField(kind, ".".join(where) or "body", error["msg"])
