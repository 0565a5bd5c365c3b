"""Requests as OpenTelemetry spans: what each waited for, and how long. No text is in them, and no request waits for them.

A span of the request goes on from the caller's ``traceparent`` (W3C Trace Context). Inside it stand ``queue``, ``prefill`` and
``decode`` of each answer, or ``queue`` and ``batch`` of records, and ``ledger``. Names of attributes are those of OpenTelemetry's
semantic conventions for HTTP and for generative AI, those of our own begin with ``treadle.``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from treadle.core.errors import UserError
from treadle.serve.asked import Asked, Predicted, Written

_ANSWERS = 32  # of one request that have spans of their own
_PATIENCE = 5.0  # seconds for one post
_PARTING = 3.0  # seconds that are waited at the end for what was not sent
_OPERATIONS = {
    "/v1/completions": "text_completion", "/v1/chat/completions": "chat", "/v1/embeddings": "embeddings", "/v1/predict": "predict",
}
_log = logging.getLogger("treadle.serve")

Part = tuple[str, float, float, dict[str, Any]]
"""A span within the request's: name, from, to (monotonic seconds), attributes."""


class Tracer:
    """Makes spans of requests that are over, and has them sent by a thread, in batches. What cannot be sent is dropped, and
    said."""

    def __init__(self, url: str, model: str) -> None:
        """Raises ``UserError`` where the extra is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            cure = "pip install 'treadle[otel]', or remove 'serve.traces' from treadle.yaml"
            raise UserError(f"serve.traces needs OpenTelemetry's packages, and {error.name} is not there", cure=cure) from None
        self._model, self._kinds, self._failed = model, SpanKind, Status(StatusCode.ERROR)
        self._within, self._parent = set_span_in_context, TraceContextTextMapPropagator().extract
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would say so at every try; _Told says it once
        self._provider = TracerProvider(resource=Resource.create({"service.name": model}), shutdown_on_exit=False)
        exporter = _told(OTLPSpanExporter(endpoint=_endpoint(url), timeout=_PATIENCE), urlsplit(url).hostname or "")
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("treadle")

    def ended(self, one: Asked) -> None:
        """Make the spans of a request that is over."""

        def moment(seconds: float) -> int:
            return one.at + round((seconds - one.started) * 1e9)

        span = self._tracer.start_span(
            f"{one.method} {one.route}", self._parent(one.parents), self._kinds.SERVER, start_time=one.at,
            attributes={**_of_http(one), **self._of_answers(one)},
        )
        if span.is_recording():
            inside = self._within(span)
            for name, start, end, about in _parts(one):
                part = self._tracer.start_span(name, inside, attributes=about, start_time=moment(start))
                part.end(moment(max(start, end)))
        if one.status >= 500:
            span.set_status(self._failed)
        span.end(moment(one.ended))

    def close(self) -> None:
        """Send what there is, for up to a few seconds."""
        parting = threading.Thread(target=self._provider.shutdown, daemon=True)
        parting.start()
        parting.join(_PARTING)

    def _of_answers(self, one: Asked) -> dict[str, Any]:
        if one.version is None:
            return {}
        read, wrote = one.tokens
        found = {
            "gen_ai.operation.name": _OPERATIONS.get(one.route, "other"), "gen_ai.provider.name": "treadle",
            "gen_ai.request.model": self._model, "gen_ai.response.model": self._model, "treadle.version": one.version.number,
        }
        if read or wrote:
            found |= {"gen_ai.usage.input_tokens": read, "gen_ai.usage.output_tokens": wrote}
        if one.written:
            found |= {"gen_ai.response.id": one.written[0].id, "gen_ai.response.finish_reasons": one.finish_reasons}
            found["treadle.known_tokens"] = sum(answer.known for answer in one.written)
        return found | ({"treadle.records": one.records} if one.records else {})


def _of_http(one: Asked) -> dict[str, Any]:
    return {
        "http.request.method": one.method if one.method != "other" else "_OTHER", "http.route": one.route,
        "http.response.status_code": one.status, "treadle.request": one.id, "treadle.key": one.key,
    }


def _parts(one: Asked) -> Iterator[Part]:
    for answer in one.written[:_ANSWERS]:
        yield from _of_writing(answer)
    for answers in one.predicted:
        yield from _of_batch(answers)
    for start, end in one.filed[:_ANSWERS]:
        yield "ledger", start, end, {}


def _of_writing(answer: Written) -> Iterator[Part]:
    same = {"gen_ai.response.id": answer.id}
    yield "queue", answer.started, answer.begun or answer.ended, same
    if answer.begun is not None:
        read = {"gen_ai.usage.input_tokens": len(answer.prompt), "treadle.known_tokens": answer.known}
        yield "prefill", answer.begun, answer.first or answer.ended, same | read
    if answer.first is not None:
        wrote = {"gen_ai.usage.output_tokens": answer.tokens, "gen_ai.response.finish_reasons": [answer.finish_reason]}
        yield "decode", answer.first, answer.ended, same | wrote


def _of_batch(answers: Predicted) -> Iterator[Part]:
    yield "queue", answers.started, answers.begun or answers.ended, {}
    if answers.begun is not None:
        yield "batch", answers.begun, answers.ended, {"treadle.records": len(answers.rows)}


def _endpoint(url: str) -> str:
    """``url``, or its usual path where it has none."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1/traces"


def _told(exporter: Any, host: str) -> Any:
    """``exporter``, saying when it cannot send and when it can again."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Told(SpanExporter):
        down = False

        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            found: SpanExportResult = exporter.export(spans)
            failed = found is not SpanExportResult.SUCCESS
            if failed and not self.down:
                _log.warning("traces cannot be sent to %s: they are dropped until it takes them; answers do not wait for it", host)
            elif self.down and not failed:
                _log.warning("traces are sent to %s again", host)
            self.down = failed
            return found

        def shutdown(self) -> None:
            exporter.shutdown()

    return Told()
