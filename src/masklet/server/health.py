"""Whether the service lives, is ready, and how its parts are: for load balancers, for people, and as Cog says it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from masklet.errors import Problem
from masklet.server.doors import Here, bearer, refusals
from masklet.server.schemas import timestamp
from masklet.server.service import Service
from masklet.server.supervisor import WorkerHealth

CogStatus = Literal["STARTING", "READY", "BUSY", "SETUP_FAILED"]

router = APIRouter(tags=["Operation"])


class Staff(Protocol):
    """What is asked of the supervisor."""

    @property
    def ready(self) -> bool:
        """Whether a worker has its model."""

    def health(self) -> tuple[WorkerHealth, ...]:
        """Say how each worker is."""


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Whether predictions are taken and run."""

    ready: bool
    reasons: list[str]


class Health(BaseModel):
    """How the parts are."""

    status: Literal["ok", "starting", "degraded"]
    masklet: str
    model: str
    sandbox: str
    workers: list[dict[str, Any]]
    predictions: dict[str, int]
    oldest_waiting_s: float
    webhooks: dict[str, int]


@dataclass(frozen=True)
class Condition:
    """How the service is."""

    service: Service
    staff: Staff
    sandbox: Callable[[], str]
    """How well the decoding of strangers' files is locked in."""
    started_at: float

    def reasons(self) -> list[str]:
        """Say why predictions are not taken or not run, if so."""
        reasons = []
        if not self.staff.ready:
            reasons += [worker.reason or f"{worker.name} is {worker.state}" for worker in self.staff.health()]
            reasons = reasons or ["there are no workers"]
        try:
            self.service.store.folder.check_room(self.service.settings.room_bytes)
            self.service.store.version()
        except Problem as problem:
            reasons.append(str(problem))
        return reasons

    def workers(self) -> dict[str, int]:
        """Count the workers in each state."""
        return dict(Counter(worker.state for worker in self.staff.health()))

    def as_json(self) -> dict[str, Any]:
        """Tell everything."""
        counts = self.service.store.counts()
        status = "ok" if not self.reasons() else "degraded" if self._failed() else "starting"
        return {
            "status": status,
            "masklet": version("masklet"),
            "model": self.service.settings.model,
            "sandbox": self.sandbox(),
            "workers": [asdict(worker) for worker in self.staff.health()],
            "predictions": dict(counts.by_status),
            "oldest_waiting_s": counts.oldest_waiting_s,
            "webhooks": {"pending": counts.webhooks_pending, "undelivered": counts.webhooks_undelivered},
        }

    def as_cog(self) -> dict[str, Any]:
        """Say it as a Cog container does."""
        workers = self.staff.health()
        status: CogStatus = "STARTING"
        if self._failed():
            status = "SETUP_FAILED"
        elif self.staff.ready:
            status = "BUSY" if all(worker.state == "busy" for worker in workers) else "READY"
        setup: dict[str, Any] = {
            "started_at": timestamp(self.started_at),
            "completed_at": None,
            "status": {"STARTING": "starting", "SETUP_FAILED": "failed"}.get(status, "succeeded"),
            "logs": "".join(f"{worker.reason}\n" for worker in workers if worker.reason),
        }
        if status != "STARTING":
            setup["completed_at"] = timestamp(time.time() - max((worker.for_s for worker in workers), default=0.0))
        return {"status": status, "setup": setup, "version": {"masklet": version("masklet")}}

    def _failed(self) -> bool:
        workers = self.staff.health()
        return bool(workers) and all(worker.state == "failed" for worker in workers)


def condition(request: Request) -> Condition:
    """Return how the service of a request is."""
    found: Condition = request.app.state.condition
    return found


@router.get("/healthz", response_model=Live)
@router.head("/healthz", include_in_schema=False)
async def live() -> Response:
    """Say that the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", response_model=Ready, responses={503: {"model": Ready, "description": "Not ready, and why"}})
@router.head("/readyz", include_in_schema=False)
async def ready(request: Request) -> Response:
    """Say whether predictions are taken and run."""
    reasons = await run_in_threadpool(condition(request).reasons)
    return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


@router.get("/health", response_model=Health)
async def health(request: Request) -> Response:
    """Say how each part is; which prediction a worker runs is nothing for who shows no token."""
    answer = await run_in_threadpool(condition(request).as_json)
    if request.scope["state"]["owner"] is None:
        answer["workers"] = [worker | {"prediction": None} for worker in answer["workers"]]
    return JSONResponse(answer)


@router.get(
    "/metrics",
    dependencies=[Depends(bearer)],
    response_class=Response,
    responses=refusals(401, 403) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(here: Here, request: Request) -> Response:
    """Give the figures that Prometheus collects."""
    text = await run_in_threadpool(generate_latest, request.app.state.metrics.registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
