"""The HTTP API of a Cog container, on the same port: what `cog predict` and Replicate's own director call.

Differs from Cog: predictions wait for their turn instead of being answered 409, a finished one is remembered, and an
input that is neither an address nor a data: URI is refused, where Cog opens it as a file of the server.
"""

import re
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from masklet.jobs import EVENT_KINDS, EventKind, NewPrediction, Prediction
from masklet.server.bodies import StrictRoute
from masklet.server.cog_schema import COG_VERSION
from masklet.server.doors import ALWAYS, Here, Id, Owner, bearer, refusals
from masklet.server.inputs import Checked, Wrong, check_inputs, with_defaults
from masklet.server.problems import Refusal, not_found
from masklet.server.schemas import MODEL_INPUT, timestamp
from masklet.server.service import Service
from masklet.server.sources import as_data_uri, check_source, check_webhook

ASYNC = "respond-async"
OWN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a caller may call a prediction: it names a folder."""
SOURCE = "cog"
FOR_EVER_S = 1e9

router = APIRouter(route_class=StrictRoute, responses=ALWAYS, dependencies=[Depends(bearer)], tags=["Cog"])
open_router = APIRouter(tags=["Cog"])
"""Answers without a token."""


class CogRequest(BaseModel):
    """What is to be predicted."""

    model_config = ConfigDict(extra="ignore")

    input: dict[str, Any] | None = Field(default=None, json_schema_extra=MODEL_INPUT)
    id: str | None = None
    created_at: str | None = None
    context: dict[str, str] | None = None
    output_file_prefix: str | None = None
    webhook: str | None = Field(default=None, min_length=1, max_length=65_536)
    webhook_events_filter: list[EventKind] | None = None


class CogAnswer(BaseModel):
    """A prediction."""

    input: dict[str, Any]
    output: list[str] | None
    id: str
    version: str | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    logs: str
    error: str | None
    status: str
    metrics: dict[str, float]


class CogHealth(BaseModel):
    """How the container is."""

    status: str
    setup: dict[str, Any]
    version: dict[str, str]


class CogProblem(BaseModel):
    """What is wrong with a request, as FastAPI says it."""

    detail: list[dict[str, Any]] | str


INVALID: dict[int | str, dict[str, Any]] = {
    422: {
        "description": "An input is wrong",
        "content": {
            kind: {"schema": {"$ref": "#/components/schemas/CogProblem"}}
            for kind in ("application/json", "application/problem+json")
        },
    }
}
COG_PROBLEM = {"CogProblem": CogProblem.model_json_schema()}
PREDICTED = refusals(400, 408, 413, 429, 503, 507) | INVALID | {202: {"model": CogAnswer, "description": "Accepted"}}


@open_router.get("/", response_model=dict[str, str])
async def root() -> Response:
    """Say where things are."""
    return JSONResponse(
        {
            "cog_version": COG_VERSION,
            "docs_url": "/docs",
            "openapi_url": "/openapi.json",
            "shutdown_url": "/shutdown",
            "healthcheck_url": "/health-check",
            "predictions_url": "/predictions",
            "predictions_idempotent_url": "/predictions/{prediction_id}",
            "predictions_cancel_url": "/predictions/{prediction_id}/cancel",
        }
    )


@open_router.get("/health-check", response_model=CogHealth)
async def health_check(request: Request) -> Response:
    """Say how the container is; always 200, the state is in the body."""
    health: Callable[[], dict[str, Any]] = request.app.state.cog_health
    return JSONResponse(await run_in_threadpool(health))


@router.post("/predictions", response_model=CogAnswer, responses=PREDICTED)
async def predict(
    here: Here, owner: Owner, request: Request, body: CogRequest | None = None, prefer: str | None = Header(None)
) -> Response:
    """Run a prediction, and answer when it is done (or at once, with `Prefer: respond-async`)."""
    body = body or CogRequest()
    return await _predict(here, owner, request, body, body.id, prefer)


@router.put("/predictions/{prediction_id}", response_model=CogAnswer, responses=PREDICTED)
async def predict_idempotent(
    prediction_id: Id, here: Here, owner: Owner, request: Request, body: CogRequest, prefer: str | None = Header(None)
) -> Response:
    """Run a prediction under an id of your own; the same again is the same prediction."""
    if body.id is not None and body.id != prediction_id:
        raise Refusal(422, "prediction ID must match the ID supplied in the URL")
    return await _predict(here, owner, request, body, prediction_id, prefer)


@router.post(
    "/predictions/{prediction_id}/cancel", response_model=dict[str, Any], responses=refusals(404, 503) | INVALID
)
async def cancel(prediction_id: Id, here: Here, owner: Owner) -> Response:
    """Cancel a running prediction."""
    if (await here.get(prediction_id, owner)).ended:
        raise not_found("prediction")
    await run_in_threadpool(here.store.cancel, prediction_id, owner=owner)
    return JSONResponse({})


@router.post("/shutdown", response_model=dict[str, Any])
async def shutdown(here: Here, request: Request) -> Response:
    """Stop the server, if it was started so that this may be asked."""
    if not here.settings.allow_shutdown:
        raise Refusal(403, "This server was not started with --allow-shutdown.")
    stop: Callable[[], None] = request.app.state.stop
    stop()
    return JSONResponse({})


async def _predict(
    here: Service, owner: str, request: Request, body: CogRequest, id: str | None, prefer: str | None
) -> Response:
    wanted = _wanted(here, body, id, owner)
    if isinstance(wanted, Response):
        return wanted
    try:
        created = await here.accept(wanted, request)
    except Refusal:
        known = None if id is None else await run_in_threadpool(here.store.get, id, owner=owner)
        if known is None or known.ended:
            raise
        return await _answer(known)
    prediction = created.prediction
    if prefer == ASYNC or (not created.fresh and not prediction.ended):
        return await _answer(prediction)
    prediction = await here.wait(prediction, FOR_EVER_S, request.is_disconnected)
    if not prediction.ended and await request.is_disconnected():
        # As Cog does: who waits for the answer and goes does not want it.
        await run_in_threadpool(here.store.cancel, prediction.id, owner=owner)
    return await _answer(prediction)


async def _answer(prediction: Prediction) -> Response:
    """Say how a prediction is: 202 for one that goes on, also when the server stops and nobody can wait for its end."""

    def write() -> Response:
        return JSONResponse(describe_cog(prediction), 200 if prediction.ended else 202)

    return await run_in_threadpool(write)


def _wanted(here: Service, body: CogRequest, id: str | None, owner: str) -> NewPrediction | Response:
    model = here.catalogue.models[0]
    checked = check_inputs(model, body.input or {})
    wrong = [] if isinstance(checked, Checked) else checked
    if isinstance(checked, Checked) and (bad := check_source(checked.given["input_video"])) is not None:
        wrong = [Wrong("input_video", bad.type, bad.description)]
    if wrong or not isinstance(checked, Checked):
        return _invalid([(["body", "input", each.option], each.message, _kind(each)) for each in wrong])
    if (bad_webhook := check_webhook(body.webhook)) is not None:
        return _invalid([(["body", "webhook"], bad_webhook.description, "url_parsing")])
    if id is not None and not OWN_ID.fullmatch(id):
        return _invalid([(["body", "id"], "use 1 to 64 of A-Z a-z 0-9 _ -", "string_pattern_mismatch")])
    events = body.webhook_events_filter
    return NewPrediction(
        owner=owner,
        model=model.slug,
        version=model.version,
        weights=model.weights,
        input=checked.given,
        webhook=body.webhook,
        webhook_events=EVENT_KINDS if events is None else tuple(dict.fromkeys(events)),
        id=id,
        source=SOURCE,
    )


def describe_cog(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as a Cog container of the 0.16 kind does, outputs as data: URIs; it reads files."""
    return {
        "input": with_defaults(prediction.input),
        "output": [as_data_uri(output.content_type, output.path.read_bytes()) for output in prediction.outputs] or None,
        "id": prediction.id,
        "version": prediction.version,
        "created_at": timestamp(prediction.created_at),
        "started_at": timestamp(prediction.started_at),
        "completed_at": timestamp(prediction.completed_at),
        "logs": prediction.logs,
        "error": prediction.error,
        "status": "canceled" if prediction.status == "aborted" else prediction.status,
        "metrics": dict(prediction.metrics),
    }


def _invalid(problems: list[tuple[list[str], str, str]]) -> Response:
    detail = [{"loc": where, "msg": message, "type": kind} for where, message, kind in problems]
    return JSONResponse({"detail": detail}, 422)


_KINDS = {"required": "missing", "enum": "enum", "number_gte": "greater_than_equal", "number_lte": "less_than_equal"}


def _kind(wrong: Wrong) -> str:
    """Return what pydantic, and so Cog 0.16, calls a mistake."""
    return _KINDS.get(wrong.kind, "value_error")
