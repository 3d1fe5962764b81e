"""What the routes of every door share: who asks, the service, and the errors that they can answer."""

from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.security import APIKeyQuery, HTTPBearer

from masklet.server import schemas
from masklet.server.catalog import Served
from masklet.server.problems import not_found, unauthenticated
from masklet.server.service import Service

bearer = HTTPBearer(auto_error=False, description="Needed as soon as the server has a token; `Token` is taken too.")
signature = APIKeyQuery(
    name="signature", auto_error=False, description="Stands for a token, with `owner` and `expiry` beside it."
)
Name = Annotated[str, Path(max_length=200)]
Id = Annotated[str, Path(max_length=64)]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe errors for the OpenAPI document."""
    return {status: _REFUSALS[status] for status in statuses}


_REFUSALS: dict[int, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
    }
    for status, description in (
        (400, "The body is not what it should be"),
        (401, "There is no valid token"),
        (403, "A page on another site asked, or a signature does not fit"),
        (404, "There is no such thing, or it is somebody else's"),
        (405, "Not with this method"),
        (408, "The body stopped on its way"),
        (413, "The body is too large"),
        (415, "The body is of another kind"),
        (416, "The file has no such range"),
        (422, "An input is wrong"),
        (429, "As many wait as may"),
        (503, "The server cannot do this just now"),
        (507, "The server's disk is full"),
    )
}
ALWAYS = refusals(401, 403)
"""What any route behind the guard may answer."""
PROBLEM_SCHEMA = {"ProblemAnswer": schemas.ProblemAnswer.model_json_schema()}


async def service(request: Request) -> Service:
    """Return the service that a request belongs to."""
    found: Service = request.app.state.service
    return found


async def owner(request: Request) -> str:
    """Return who asks; raises `Refusal` where only a signature was shown."""
    found: str | None = request.scope["state"]["owner"]
    if found is None:
        raise unauthenticated()
    return found


# Async, though they wait for nothing: FastAPI gives any other to a thread, which costs more than all they do.
Here = Annotated[Service, Depends(service)]
Owner = Annotated[str, Depends(owner)]


async def model(owner: Name, name: Name, here: Here) -> Served:
    """Return the model that a path names."""
    found = here.catalogue.find(owner, name)
    if found is None:
        raise not_found("model")
    return found


Model = Annotated[Served, Depends(model)]
