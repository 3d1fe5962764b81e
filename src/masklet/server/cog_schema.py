"""The OpenAPI document of a model as Cog 0.16 writes it: what Replicate keeps as a version's `openapi_schema`."""

from typing import Any

from masklet.server.catalog import InputSchema

COG_VERSION = "0.16.12"
"""The generation whose HTTP API and schema this server speaks."""
STATUSES = ("starting", "processing", "succeeded", "canceled", "failed")
EVENTS = ("start", "output", "logs", "completed")

Schema = dict[str, Any]

OUTPUT: Schema = {
    "items": {"type": "string", "format": "uri"},
    "type": "array",
    "title": "Output",
    "x-cog-array-type": "iterator",
}


def cog_openapi(required: tuple[str, ...]) -> Schema:
    """Return the whole document for a model with these required inputs."""
    schema = InputSchema(required)
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": _paths(),
        "components": {"schemas": dict(sorted((_components() | {"Input": schema.whole} | schema.choices).items()))},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(schema: Schema, description: str = "Successful Response") -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _paths() -> Schema:
    identifier = {"name": "prediction_id", "in": "path", "required": True}
    identifier["schema"] = {"type": "string", "title": "Prediction ID"}
    prefer = {"name": "prefer", "in": "header", "required": False, "schema": {"title": "Prefer", "type": "string"}}
    invalid = {"422": _answer(_ref("HTTPValidationError"), "Validation Error")}
    predicted = {"200": _answer(_ref("PredictionResponse"))} | invalid
    request = {"content": {"application/json": {"schema": _ref("PredictionRequest")}}}
    own_request = {"allOf": [_ref("PredictionRequest")], "title": "Prediction Request"}
    return {
        "/shutdown": {
            "post": _operation("Start Shutdown", "start_shutdown_shutdown_post")
            | {"responses": {"200": _answer({"title": "Response Start Shutdown Shutdown Post"})}}
        },
        "/": {
            "get": _operation("Root", "root__get") | {"responses": {"200": _answer({"title": "Response Root  Get"})}}
        },
        "/health-check": {
            "get": _operation("Healthcheck", "healthcheck_health_check_get")
            | {"responses": {"200": _answer({"title": "Response Healthcheck Health Check Get"})}}
        },
        "/predictions": {
            "post": _operation("Predict", "predict_predictions_post", "Run a single prediction on the model")
            | {"parameters": [prefer], "requestBody": request, "responses": predicted}
        },
        "/predictions/{prediction_id}": {
            "put": _operation(
                "Predict Idempotent",
                "predict_idempotent_predictions__prediction_id__put",
                "Run a single prediction on the model (idempotent creation).",
            )
            | {
                "parameters": [identifier, prefer],
                "requestBody": {"required": True, "content": {"application/json": {"schema": own_request}}},
                "responses": predicted,
            }
        },
        "/predictions/{prediction_id}/cancel": {
            "post": _operation(
                "Cancel", "cancel_predictions__prediction_id__cancel_post", "Cancel a running prediction"
            )
            | {
                "parameters": [identifier],
                "responses": {"200": _answer({"title": "Response Cancel Predictions  Prediction Id  Cancel Post"})}
                | invalid,
            }
        },
    }


def _operation(summary: str, identifier: str, description: str | None = None) -> Schema:
    return {"summary": summary, "operationId": identifier} | ({"description": description} if description else {})


def _components() -> Schema:
    return {
        "HTTPValidationError": _object(
            "HTTPValidationError", {"detail": _array(_ref("ValidationError"), title="Detail")}
        ),
        "ValidationError": _object(
            "ValidationError",
            {
                "loc": _array({"anyOf": [{"type": "string"}, {"type": "integer"}]}, title="Location"),
                "msg": {"type": "string", "title": "Message"},
                "type": {"type": "string", "title": "Error Type"},
            },
            required=["loc", "msg", "type"],
        ),
        "Output": OUTPUT,
        "Status": _enumeration("Status", STATUSES),
        "WebhookEvent": _enumeration("WebhookEvent", EVENTS),
        "PredictionRequest": _object("PredictionRequest", _request()),
        "PredictionResponse": _object("PredictionResponse", _response()),
    }


def _request() -> Schema:
    return {
        "input": _ref("Input") | {"nullable": True},
        "id": _text("Id"),
        "created_at": _text("Created At", format="date-time"),
        "context": {
            "title": "Context",
            "additionalProperties": {"type": "string"},
            "type": "object",
            "nullable": True,
        },
        "output_file_prefix": _text("Output File Prefix"),
        "webhook": _text("Webhook", maxLength=65536, minLength=1, format="uri"),
        "webhook_events_filter": _array(_ref("WebhookEvent"), default=list(EVENTS), nullable=True),
    }


def _response() -> Schema:
    return {
        "input": _ref("Input") | {"nullable": True},
        "output": _ref("Output"),
        "id": _text("Id"),
        "version": _text("Version"),
        "created_at": _text("Created At", format="date-time"),
        "started_at": _text("Started At", format="date-time"),
        "completed_at": _text("Completed At", format="date-time"),
        "logs": {"type": "string", "title": "Logs", "default": ""},
        "error": _text("Error"),
        "status": _ref("Status") | {"nullable": True},
        "metrics": {"title": "Metrics", "additionalProperties": True, "type": "object", "nullable": True},
    }


def _object(title: str, properties: Schema, required: list[str] | None = None) -> Schema:
    schema: Schema = {"properties": properties, "type": "object", "title": title}
    return schema | ({"required": required} if required else {})


def _array(items: Schema, **more: object) -> Schema:
    return {"items": items, "type": "array"} | more


def _text(title: str, **more: object) -> Schema:
    return {"title": title, "type": "string", **more, "nullable": True}


def _enumeration(title: str, words: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(words), "title": title, "description": "An enumeration."}
