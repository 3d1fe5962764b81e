"""Errors as callers of the Replicate API know them: `application/problem+json`, with `invalid_fields` for inputs.

No answer holds a traceback, a path of this machine or a token: what is not foreseen says only that it was a failure of
the server, and under which request id the log tells more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class InvalidField:
    """One thing that is wrong with an input."""

    type: str
    """Such as `required`, `enum`, `number_lte`."""
    field: str
    """Such as `input.video_fps`."""
    description: str

    @property
    def line(self) -> str:
        """Return it as a line of `detail`."""
        return f"- {self.field}: {self.description}\n"


class Refusal(HTTPException):
    """A request that is not carried out, and what the caller hears about it.

    Of Starlette's kind, because FastAPI turns every other error that a body raises into one of its own.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str = "",
        invalid_fields: Sequence[InvalidField] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.title = title or HTTPStatus(status).phrase
        self.invalid_fields = tuple(invalid_fields)

    def body(self) -> dict[str, Any]:
        """Return the problem as JSON can hold it."""
        body: dict[str, Any] = {"title": self.title, "detail": self.detail, "status": self.status_code}
        if self.invalid_fields:
            body["invalid_fields"] = [asdict(field) for field in self.invalid_fields]
        return body

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body(), self.status_code, headers=self.headers, media_type=MEDIA_TYPE)


def unauthenticated() -> Refusal:
    """Refuse a caller without a valid token, in Replicate's words."""
    return Refusal(
        401,
        "You did not pass a valid authentication token",
        title="Unauthenticated",
        headers={"WWW-Authenticate": "Bearer"},
    )


def not_found(what: str) -> Refusal:
    """Refuse what does not exist, or belongs to somebody else: nobody can tell which."""
    return Refusal(404, f"The requested {what} could not be found.", title="Not found")


def invalid_version() -> Refusal:
    """Refuse a version that no model has, in Replicate's words."""
    return Refusal(
        422,
        "The specified version does not exist (or perhaps you don't have permission to use it?)",
        title="Invalid version or not permitted",
    )


def invalid_input(fields: Sequence[InvalidField]) -> Refusal:
    """Refuse a request whose body or inputs are wrong."""
    return Refusal(422, "".join(field.line for field in fields), title="Input validation failed", invalid_fields=fields)


def too_large(what: str, limit_bytes: int, way_out: str = "") -> Refusal:
    """Refuse a body that is over a limit, and close the connection, since the rest of it is still on its way."""
    detail = f"{what} is larger than the limit of {limit_bytes} bytes. {way_out}".strip()
    return Refusal(413, detail, title="Content too large", headers={"Connection": "close"})


def throttled(seconds: int, why: str) -> Refusal:
    """Ask for patience."""
    return Refusal(
        429,
        f"Request was throttled. {why} Your rate limit resets in ~{seconds}s.",
        title="Too many requests",
        headers={"Retry-After": str(seconds)},
    )
