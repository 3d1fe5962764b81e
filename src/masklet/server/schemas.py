"""The JSON of the Replicate API: what is taken, what is answered, and how a prediction becomes its answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from masklet.jobs.records import EventKind, Output, Prediction, StoredFile
from masklet.server.catalog import SINCE, InputSchema, Served
from masklet.server.cog_schema import COG_VERSION, cog_openapi

T = TypeVar("T")

PublicStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]
"""Without Replicate's `aborted`: the Python client 1.0.7 raises on it and JavaScript's waits for ever."""

ID = r"^[a-z0-9]{26}$"
MODEL_INPUT: dict[str, Any] = {
    "type": "object",
    "required": ["input_video"],
    "properties": {
        name: {key: value for key, value in schema.items() if key != "allOf"}
        | ({"type": "string", "enum": InputSchema().choices[name]["enum"]} if name in InputSchema().choices else {})
        for name, schema in InputSchema().properties.items()
    },
    "additionalProperties": True,
    "description": "The model's inputs; see `openapi_schema` of its version. Unknown ones are left out.",
}


class NewPredictionOfModel(BaseModel):
    """What `POST /v1/models/OWNER/NAME/predictions` takes."""

    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any] = Field(json_schema_extra=MODEL_INPUT)
    webhook: str | None = Field(None, max_length=2_000, description="An https URL that is told of changes.")
    webhook_events_filter: list[EventKind] | None = Field(None, description="Of which changes; all if left out.")
    webhook_completed: str | None = Field(None, max_length=2_000, deprecated=True)
    stream: bool | None = Field(None, deprecated=True, description="Every prediction has a stream.")


class NewPrediction(NewPredictionOfModel):
    """What `POST /v1/predictions` takes."""

    version: str = Field(max_length=300, description="`<64 hex>`, `OWNER/NAME` or `OWNER/NAME:<64 hex>`.")


class PredictionAnswer(BaseModel):
    """A prediction."""

    id: str = Field(pattern=ID)
    model: str
    version: str
    input: dict[str, Any]
    logs: str
    output: list[str] | None = Field(description="Addresses of the files so far, in frame order, or data: URIs.")
    error: str | None
    error_code: str | None = Field(description="A stable name for the kind of error, such as `E_NO_FRAMES`.")
    status: PublicStatus
    source: str
    data_removed: bool
    created_at: str
    started_at: str | None
    completed_at: str | None
    deadline: str | None = None
    metrics: dict[str, float]
    urls: dict[str, str]


class Page(BaseModel, Generic[T]):
    """Part of a list, newest first."""

    previous: str | None
    next: str | None
    results: list[T]


class VersionAnswer(BaseModel):
    """A version of a model."""

    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class ModelAnswer(BaseModel):
    """A model."""

    url: str
    owner: str
    name: str
    description: str
    visibility: Literal["public", "private"]
    is_official: bool
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    run_count: int = Field(description="Your predictions with it, as far back as they are kept.")
    cover_image_url: str | None = None
    default_example: dict[str, Any] | None = None
    latest_version: VersionAnswer


class FileAnswer(BaseModel):
    """An upload."""

    id: str = Field(pattern=ID)
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: str
    expires_at: str
    urls: dict[str, str]


class Account(BaseModel):
    """Who is asking."""

    type: Literal["user", "organization"]
    username: str
    name: str
    github_url: str | None = None


class Hardware(BaseModel):
    """Something to run on."""

    sku: str
    name: str


class Collection(BaseModel):
    """A list of models under a name."""

    name: str
    slug: str
    description: str
    full_description: str | None = None
    models: list[ModelAnswer] | None = None


class SigningSecret(BaseModel):
    """What webhooks are signed with."""

    key: str


class ProblemAnswer(BaseModel):
    """Why a request was not carried out."""

    title: str
    detail: str
    status: int
    invalid_fields: list[dict[str, str]] | None = None


def timestamp(seconds: float | None) -> str | None:
    """Write a time as ISO 8601 in UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Addresses:
    """Where things are, as one caller sees this server."""

    base: str
    """Such as `https://masks.example`."""
    sign: Callable[[str, str], str]
    """Gives what is addressed and its owner the query that stands for a token."""

    def prediction(self, prediction: Prediction) -> dict[str, str]:
        """Return a prediction's `urls`; none may be null, the Python client 1.0.7 wants texts."""
        own = f"{self.base}/v1/predictions/{prediction.id}"
        urls = {
            "get": own,
            "cancel": f"{own}/cancel",
            "stream": self._signed("/v1/files/", f"{prediction.id}/stream", prediction.owner),
            "web": f"{self.base}/?prediction={prediction.id}",
        }
        if prediction.manifest is not None:
            urls["manifest"] = self.output(prediction, prediction.manifest)
        return urls

    def output(self, prediction: Prediction, output: Output) -> str:
        """Return the address of a result, good without a header."""
        return self._signed("/v1/outputs/", f"{prediction.id}/{output.name}", prediction.owner)

    def file(self, file: StoredFile) -> dict[str, str]:
        """Return an upload's `urls`."""
        own = f"{self.base}/v1/files/{file.id}"
        return {"get": own, "download": f"{own}/download?{self.sign(file.id, file.owner)}"}

    def _signed(self, folder: str, what: str, owner: str) -> str:
        return f"{self.base}{folder}{what}?{self.sign(what, owner)}"


def describe(prediction: Prediction, addresses: Addresses, outputs: Sequence[str] | None = None) -> dict[str, Any]:
    """Return a prediction as clients know it; `outputs` in place of its files' addresses."""
    if outputs is None:
        outputs = [addresses.output(prediction, output) for output in prediction.outputs]
    answer = {
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "input": dict(prediction.input),
        "logs": prediction.logs,
        "output": list(outputs) or None,
        "error": prediction.error,
        "error_code": prediction.error_code,
        "status": "canceled" if prediction.status == "aborted" else prediction.status,
        "source": prediction.source,
        "data_removed": prediction.data_removed,
        "created_at": timestamp(prediction.created_at),
        "started_at": timestamp(prediction.started_at),
        "completed_at": timestamp(prediction.completed_at),
        "metrics": dict(prediction.metrics),
        "urls": addresses.prediction(prediction),
    }
    if prediction.deadline is not None:
        answer["deadline"] = timestamp(prediction.deadline)
    return answer


def unfinished(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to say when a blocking wait is over before the prediction.

    Every client takes any other status than `starting` for the end, and what there is of `output` for all of it.
    """
    return {**answer, "status": "starting", "output": None, "started_at": None, "logs": ""}


def describe_version(model: Served) -> dict[str, Any]:
    """Return a version."""
    return {
        "id": model.version,
        "created_at": SINCE,
        "cog_version": COG_VERSION,
        "openapi_schema": cog_openapi(model.required),
    }


def describe_model(model: Served, base: str, run_count: int) -> dict[str, Any]:
    """Return a model."""
    return {
        "url": f"{base}/v1/models/{model.slug}",
        "owner": model.owner,
        "name": model.name,
        "description": model.description,
        "visibility": "public",
        "is_official": False,
        "github_url": None,
        "paper_url": "https://arxiv.org/abs/2408.00714",
        "license_url": None,
        "run_count": run_count,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": describe_version(model),
    }


def describe_file(file: StoredFile, addresses: Addresses) -> dict[str, Any]:
    """Return an upload."""
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size,
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": dict(file.metadata),
        "created_at": timestamp(file.created_at),
        "expires_at": timestamp(file.expires_at),
        "urls": addresses.file(file),
    }
