"""For those who run the service: is it alive, is it ready, what does it do, and a log without secrets."""

import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masklet.jobs import Counts
from masklet.server.problems import Refusal

REQUEST_ID = "x-request-id"
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"})
LONGEST_PATH = 300
HIDDEN = "[hidden]"
SECRETS = (
    (re.compile(r"(?i)\b(bearer|token|basic)(?:\s+|%20)[A-Za-z0-9+/=._~-]{12,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(https?://[^\s?\"'<>]+)\?[^\s\"'<>]+"), rf"\1?{HIDDEN}"),
    (re.compile(r"(?i)\b(signature|key|password|secret|token)=[^&\s\"']+"), rf"\1={HIDDEN}"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"(?i)\b(r8|hf|sk)_[A-Za-z0-9]{8,}"), rf"\1_{HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@\"']+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)\bdata:([a-z0-9.+/-]*)[;,][^\s\"']+"), rf"data:\1,{HIDDEN}"),
)
"""What could let somebody in, or is somebody's data. Of addresses all that follows the path goes: that is where
signatures are."""
SECRET_NAMES = frozenset({"authorization", "cookie", "key", "password", "secret", "signature", "token"})
"""Whatever is logged under these names."""

log = structlog.get_logger()


def without_secrets(text: str) -> str:
    """Return text with everything hidden that lets somebody in."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _hide(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _hidden(name, value) for name, value in event.items()}


def _hidden(name: object, value: Any) -> Any:
    if str(name).lower() in SECRET_NAMES:
        return HIDDEN
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {inner: _hidden(inner, each) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(None, each) for each in value]
    return value


def set_up_logs(*, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Send everything that is logged, by this program or its libraries, to stderr: a line each, without secrets.

    JSON unless a person looks at it.
    """
    as_json = not sys.stderr.isatty() if as_json is None else as_json
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _hide,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    last = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], level
    # This server logs requests itself, without the query, which holds signatures.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class Metrics:
    """What Prometheus reads. `counts` asks the store, `workers` says how many there are in each state."""

    def __init__(self, counts: Callable[[], Counts], workers: Callable[[], dict[str, int]], version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_Stored(counts, workers))
        info = Gauge("masklet_build_info", "Which masklet this is.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self.requests = Counter(
            "masklet_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "masklet_http_request_seconds", "Time to the end of an answer.", ["route"], registry=self.registry
        )
        self.lag = Histogram(
            "masklet_event_loop_lag_seconds",
            "How late the event loop wakes.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0),
            registry=self.registry,
        )


class _Stored(Collector):
    """Counts the predictions when somebody asks."""

    def __init__(self, counts: Callable[[], Counts], workers: Callable[[], dict[str, int]]) -> None:
        self._counts = counts
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        """Return what there is."""
        counts = self._counts()
        yield _gauge("masklet_predictions", "Predictions kept.", "status", counts.by_status)
        yield GaugeMetricFamily(
            "masklet_oldest_waiting_seconds", "Age of the oldest that waits.", value=counts.oldest_waiting_s
        )
        hooks = {"pending": counts.webhooks_pending, "undelivered": counts.webhooks_undelivered}
        yield _gauge("masklet_webhooks", "Webhooks not delivered.", "state", hooks)
        yield _gauge("masklet_workers", "Worker processes.", "state", self._workers())


def _gauge(name: str, help: str, label: str, values: Any) -> Metric:
    metric = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


class Observed:
    """ASGI middleware, outermost: names each request, counts and logs it, and answers for what nobody foresaw."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        started, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.encode(), request_id.encode()), *SAFE_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            log.exception("request failed", request=request_id, path=_path(scope))
            if not status:
                await unforeseen(request_id).response()(scope, receive, answer)
        finally:
            self._note(scope, request_id, status, time.monotonic() - started)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        # What a stranger may make up must not become a figure of its own.
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log.info(
            "request",
            request=request_id,
            method=method,
            path=_path(scope),
            status=status,
            seconds=round(seconds, 4),
            owner=scope.get("state", {}).get("owner"),
        )


def _path(scope: Scope) -> str:
    """Return a path as it was sent: decoded, it could hold what moves a terminal."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("ascii", "replace")[:LONGEST_PATH]


SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer: addresses hold signatures, and nothing here is a part of somebody else's page."""


def unforeseen(request_id: str) -> Refusal:
    """Say that it is the server's fault, and nothing else."""
    return Refusal(500, f"The server failed. Its log says more under request {request_id}.", title="Server error")
