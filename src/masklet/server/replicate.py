"""Predictions in Replicate's HTTP API, version 1: what `replicate` for Python and JavaScript call unchanged."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from masklet.jobs import EVENT_KINDS, NewPrediction, Prediction
from masklet.server import schemas
from masklet.server.bodies import StrictRoute
from masklet.server.catalog import Served
from masklet.server.doors import ALWAYS, Here, Id, Model, Owner, bearer, refusals
from masklet.server.inputs import Checked, as_invalid_fields, check_inputs
from masklet.server.problems import InvalidField, invalid_input, invalid_version, not_found
from masklet.server.schemas import unfinished
from masklet.server.service import Service
from masklet.server.sources import check_source, check_webhook

LONGEST_KEY = 255
LEAST_CANCEL_AFTER_S, MOST_CANCEL_AFTER_S = 1.0, 86_400.0
WAIT = re.compile(r'wait(?:\s*=\s*"?(\d{1,4})"?)?', re.IGNORECASE)
DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(s|m|h)?")
UNITS_S = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

router = APIRouter(
    prefix="/v1", route_class=StrictRoute, responses=ALWAYS, dependencies=[Depends(bearer)], tags=["Predictions"]
)
CREATED = refusals(400, 404, 408, 413, 422, 429, 503, 507) | {
    202: {"model": schemas.PredictionAnswer, "description": "Accepted, but not finished within the time to wait"}
}

Moment = Annotated[str | None, Query(json_schema_extra={"format": "date-time"})]


class How:
    """How a prediction is to be made, from the headers."""

    def __init__(
        self,
        prefer: Annotated[str | None, Header(description="`wait` or `wait=N`: answer when done, or after N s.")] = None,
        cancel_after: Annotated[
            str | None,
            Header(description="Such as `90s`, `10m`, `1h`.", json_schema_extra={"pattern": f"^{DURATION.pattern}$"}),
        ] = None,
        idempotency_key: Annotated[
            str | None,
            Header(
                description="The same key again makes no second one.",
                json_schema_extra={"minLength": 1, "maxLength": LONGEST_KEY},
            ),
        ] = None,
        x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
    ) -> None:
        self.wait_s = _wait_s(prefer)
        self.cancel_after_s = _cancel_after_s(cancel_after)
        self.key = _key(idempotency_key)
        self.repeated = (x_stainless_retry_count or "0") != "0"


@router.post("/predictions", status_code=201, response_model=schemas.PredictionAnswer, responses=CREATED)
async def create_prediction(
    body: schemas.NewPrediction, how: Annotated[How, Depends()], here: Here, owner: Owner, request: Request
) -> Response:
    """Start a prediction with a version of a model."""
    model = here.catalogue.resolve(body.version)
    if model is None:
        raise invalid_version()
    return await _create(here, model, _wanted(model, body, how, owner), how, request)


@router.post(
    "/models/{owner}/{name}/predictions", status_code=201, response_model=schemas.PredictionAnswer, responses=CREATED
)
async def create_prediction_of_model(
    body: schemas.NewPredictionOfModel,
    how: Annotated[How, Depends()],
    here: Here,
    model: Model,
    whose: Owner,
    request: Request,
) -> Response:
    """Start a prediction with a model."""
    return await _create(here, model, _wanted(model, body, how, whose), how, request)


@router.get("/predictions", response_model=schemas.Page[schemas.PredictionAnswer], responses=refusals(422))
async def list_predictions(
    here: Here,
    owner: Owner,
    request: Request,
    cursor: Annotated[str | None, Query(description="From `next` or `previous`.", pattern=r"^[ab][0-9]{1,18}$")] = None,
    created_after: Moment = None,
    created_before: Moment = None,
) -> Response:
    """List your predictions, newest first."""

    def read() -> Response:
        try:
            page = here.store.list(
                owner=owner,
                cursor=cursor,
                created_after=_seconds("created_after", created_after),
                created_before=_seconds("created_before", created_before),
            )
        except ValueError as error:
            raise invalid_input([InvalidField("format", "cursor", str(error))]) from None
        addresses = here.addresses(request)
        link = request.url.include_query_params
        answer = {
            "previous": _page(here, request, link(cursor=page.previous).query) if page.previous else None,
            "next": _page(here, request, link(cursor=page.next).query) if page.next else None,
            "results": [here.describe(prediction, addresses) for prediction in page.results],
        }
        return JSONResponse(answer)  # here, since writing a long one as text takes as long as reading it

    return await run_in_threadpool(read)


@router.get("/predictions/{id}", response_model=schemas.PredictionAnswer, responses=refusals(404, 422))
async def get_prediction(id: Id, here: Here, owner: Owner, request: Request) -> Response:
    """Get a prediction."""

    def read() -> Response:
        found = here.store.get(id, owner=owner)
        if found is None:
            raise not_found("prediction")
        return JSONResponse(here.describe(found, here.addresses(request)))

    return await run_in_threadpool(read)


@router.post("/predictions/{id}/cancel", response_model=schemas.PredictionAnswer, responses=refusals(404, 422, 503))
async def cancel_prediction(id: Id, here: Here, owner: Owner, request: Request) -> Response:
    """Cancel a prediction; one that has ended stays as it is."""
    prediction = await run_in_threadpool(here.store.cancel, id, owner=owner)
    if prediction is None:
        raise not_found("prediction")
    return await _answer(here, prediction, request, 200)


def _wanted(model: Served, body: schemas.NewPredictionOfModel, how: How, owner: str) -> NewPrediction:
    """Check a body and say what it wants; raises `Refusal` with everything that is wrong."""
    checked = check_inputs(model, body.input)
    webhook = body.webhook or body.webhook_completed
    wrong = [] if isinstance(checked, Checked) else as_invalid_fields(checked)
    wrong += [problem for problem in (check_webhook(webhook),) if problem is not None]
    if isinstance(checked, Checked) and (bad_source := check_source(checked.given["input_video"])) is not None:
        wrong.append(bad_source)
    if wrong or not isinstance(checked, Checked):
        raise invalid_input(wrong)
    events = body.webhook_events_filter
    if body.webhook is None and body.webhook_completed is not None:
        events = ["completed"]
    return NewPrediction(
        owner=owner,
        model=model.slug,
        version=model.version,
        weights=model.weights,
        input=checked.given,
        webhook=webhook,
        webhook_events=EVENT_KINDS if events is None else tuple(dict.fromkeys(events)),
        cancel_after_s=how.cancel_after_s,
        key=how.key,
    )


async def _create(here: Service, model: Served, wanted: NewPrediction, how: How, request: Request) -> Response:
    created = await here.accept(wanted, request, repeated=how.repeated)
    prediction = created.prediction
    if how.wait_s is None:
        return await _answer(here, prediction, request, 201)
    longest_s = min(how.wait_s, here.settings.wait_s)
    prediction = await here.wait(prediction, max(longest_s - here.settings.wait_margin_s, longest_s / 2))
    return await _answer(here, prediction, request, 201 if prediction.ended else 202, waited=True)


async def _answer(
    here: Service, prediction: Prediction, request: Request, status: int, *, waited: bool = False
) -> Response:
    def write() -> Response:
        answer = here.describe(prediction, here.addresses(request))
        return JSONResponse(unfinished(answer) if waited and not prediction.ended else answer, status)

    return await run_in_threadpool(write)


def _page(here: Service, request: Request, query: str) -> str:
    return f"{here.base(request)}{request.url.path}?{query}"


def _seconds(name: str, moment: str | None) -> float | None:
    """Read a moment of ISO 8601 as seconds since 1970; without a zone it is UTC."""
    if moment is None:
        return None
    try:
        read = datetime.fromisoformat(moment)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        wrong = InvalidField("format", name, "give a moment of ISO 8601, such as 2026-11-25T12:00:00Z")
        raise invalid_input([wrong]) from None


def _wait_s(prefer: str | None) -> float | None:
    """Read `Prefer`; what is not understood there is left out, as RFC 7240 wants it."""
    for preference in (prefer or "").split(","):
        found = WAIT.fullmatch(preference.strip())
        if found is not None:
            return float(found[1]) if found[1] else float("inf")
    return None


def _cancel_after_s(text: str | None) -> float | None:
    if text is None:
        return None
    found = DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if not LEAST_CANCEL_AFTER_S <= seconds <= MOST_CANCEL_AFTER_S:
        bounds = f"{LEAST_CANCEL_AFTER_S:g}s to {MOST_CANCEL_AFTER_S / 3600:g}h"
        raise invalid_input([InvalidField("format", "Cancel-After", f"choose {bounds}, such as 90s, 10m or 1h")])
    return seconds


def _key(text: str | None) -> str | None:
    if text is not None and not 0 < len(text) <= LONGEST_KEY:
        raise invalid_input([InvalidField("format", "Idempotency-Key", f"use 1 to {LONGEST_KEY} characters")])
    return text
