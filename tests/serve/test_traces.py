"""OpenTelemetry traces: what a collector receives, decoded; and that one which is slow or gone is waited for by no one."""

from __future__ import annotations

import builtins
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from every_input import project_with_every_input, row
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from receiver import Receiver, receiving
from sites import Running, Site, running

from treadle.core.errors import UserError
from treadle.serve.api import make_app
from treadle.serve.asked import Asked
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.traces import Tracer

Serve = Callable[..., Running]
Until = Callable[..., None]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def spans(collector: Receiver) -> list[Span]:
    found = []
    for posted in list(collector.posted):
        assert (posted.path, posted.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        for resource in ExportTraceServiceRequest.FromString(posted.body).resource_spans:
            assert attributes(resource.resource)["service.name"] in ("tiny", "sky")
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def attributes(thing: Any) -> dict[str, Any]:
    found = {}
    for pair in thing.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


def of_requests(collector: Receiver) -> list[Span]:
    return [span for span in spans(collector) if span.kind == Span.SPAN_KIND_SERVER]


def test_an_answer_is_a_span_that_goes_on_from_the_callers(serve: Serve, site: Any, collector: Receiver, until: Until) -> None:
    secret = site.ledger.add_key("web", ["answer"])
    running = serve(f"serve.traces={collector.url}", host="0.0.0.0")
    headers = {"authorization": f"Bearer {secret}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    before = time.time_ns()
    body = {"model": "tiny", "prompt": "the launch code", "max_tokens": 6, "temperature": 0, "n": 2}
    response = running.client.post("/v1/completions", json=body, headers=headers)
    after = time.time_ns()
    until(lambda: of_requests(collector))
    (request,) = of_requests(collector)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert request.name == "POST /v1/completions"
    assert before <= request.start_time_unix_nano < request.end_time_unix_nano
    assert request.start_time_unix_nano <= after
    usage, answer = response.json()["usage"], response.json()
    assert attributes(request) == {
        "http.request.method": "POST", "http.route": "/v1/completions", "http.response.status_code": 200,
        "treadle.request": response.headers["x-request-id"], "treadle.key": "web", "treadle.version": 1, "treadle.known_tokens": 0,
        "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "treadle", "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny", "gen_ai.response.id": answer["choices"][0]["id"],
        "gen_ai.response.finish_reasons": ["length", "length"], "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 12,
    }
    inside = [span for span in spans(collector) if span.parent_span_id == request.span_id]
    assert sorted(span.name for span in inside) == ["decode", "decode", "ledger", "ledger", "prefill", "prefill", "queue", "queue"]
    assert {span.trace_id.hex() for span in inside} == {TRACE}
    for span in inside:
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    for choice in answer["choices"]:
        own = {span.name: span for span in inside if attributes(span).get("gen_ai.response.id") == choice["id"]}
        assert own["queue"].end_time_unix_nano == own["prefill"].start_time_unix_nano
        assert own["prefill"].end_time_unix_nano == own["decode"].start_time_unix_nano < own["decode"].end_time_unix_nano
        assert attributes(own["decode"])["gen_ai.usage.output_tokens"] == 6
        assert 2 * attributes(own["prefill"])["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    raw = b"".join(posted.body for posted in collector.posted)
    for hidden in (b"the launch code", secret.encode(), answer["choices"][0]["text"].encode(), b"127.0.0.1"):
        assert len(hidden) < 4 or hidden not in raw, hidden


def test_without_a_caller_it_is_a_trace_of_its_own_and_a_caller_may_want_none(
    serve: Serve, collector: Receiver, until: Until
) -> None:
    running = serve(f"serve.traces={collector.url}/v1/traces")
    unwanted = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2}
    assert running.client.post("/v1/completions", json=body, headers=unwanted).status_code == 200
    assert running.client.get("/v1/models", headers={"traceparent": "nonsense"}).status_code == 200
    assert running.client.post("/v1/completions", json=body | {"max_tokens": -1}).status_code == 400
    until(lambda: len(of_requests(collector)) == 2)
    assert [span.name for span in of_requests(collector)] == ["GET /v1/models", "POST /v1/completions"]
    assert {span.parent_span_id for span in of_requests(collector)} == {b""}
    assert len({span.trace_id for span in of_requests(collector)}) == 2
    assert "gen_ai.request.model" not in attributes(of_requests(collector)[1])  # nothing answered it


def test_a_failure_is_marked(serve: Serve, collector: Receiver, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve(f"serve.traces={collector.url}")

    def broken(*_: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("treadle.serve.engine.Engine._read", broken)
    assert running.complete("x").status_code == 500
    until(lambda: of_requests(collector))
    (request,) = of_requests(collector)
    assert request.status.code == Status.STATUS_CODE_ERROR
    assert attributes(request)["gen_ai.response.finish_reasons"] == ["error"]
    assert "decode" not in {span.name for span in spans(collector)}  # no token came


def test_records_wait_and_are_answered_in_a_batch(collector: Receiver, until: Until, tmp_path: Any) -> None:
    project, store, ledger, id = project_with_every_input(tmp_path)
    with running(Site(project, store, ledger, (id, id, id)), (f"serve.traces={collector.url}",), "127.0.0.1") as sky:
        wanted = ("pressure", "sky", "place", "dry", "day", "note", "photo", "sound")
        inputs = [{name: row(random.Random(n))[name] for name in wanted} for n in range(3)]
        assert sky.client.post("/v1/predict", json={"inputs": inputs}).status_code == 200
        until(lambda: of_requests(collector))
    (request,) = of_requests(collector)
    about = attributes(request)
    assert (about["gen_ai.operation.name"], about["treadle.records"], about["gen_ai.request.model"]) == ("predict", 3, "sky")
    inside = {span.name: span for span in spans(collector) if span.parent_span_id == request.span_id}
    assert set(inside) == {"queue", "batch", "ledger"}
    assert inside["queue"].end_time_unix_nano == inside["batch"].start_time_unix_nano < inside["batch"].end_time_unix_nano
    ledger.close()


def test_what_is_left_is_sent_at_the_end(serve: Serve, collector: Receiver, site: Any) -> None:
    with running(site, (f"serve.traces={collector.url}",), "127.0.0.1") as server:
        assert server.complete("x", max_tokens=1).status_code == 200
    assert len(of_requests(collector)) == 1


def test_a_collector_that_is_slow_or_gone_is_waited_for_by_no_one(
    site: Any, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and never answers
        for url in (f"http://127.0.0.1:{mute.getsockname()[1]}", "http://127.0.0.1:9"):
            with running(site, (f"serve.traces={url}",), "127.0.0.1") as server:
                start = time.monotonic()
                for _ in range(30):
                    assert server.client.get("/v1/models").status_code == 200
                assert server.complete("x", max_tokens=2).status_code == 200
                assert time.monotonic() - start < 10  # one post alone is waited for longer than all of these
                if url.endswith(":9"):
                    until(lambda: "traces cannot be sent to 127.0.0.1" in caplog.text)
                start = time.monotonic()
            assert time.monotonic() - start < 9


def ended(tracer: Tracer) -> None:
    one = Asked("req-1", "GET", "/healthz", status=200)
    one.end("/healthz")
    tracer.ended(one)


def test_that_none_can_be_sent_is_said_once_and_that_they_can_again(
    collector: Receiver, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    collector.statuses = [400, 400, 400]
    tracer = Tracer(collector.url, "tiny")
    for count in (1, 2, 3, 4):
        ended(tracer)
        until(lambda count=count: len(collector.posted) == count)
    until(lambda: "traces are sent to 127.0.0.1 again" in caplog.text)
    assert caplog.text.count("traces cannot be sent to 127.0.0.1") == 1
    tracer.close()


def test_the_end_is_not_held_up_by_a_collector_that_hangs(until: Until) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        tracer = Tracer(f"http://127.0.0.1:{mute.getsockname()[1]}", "tiny")
        ended(tracer)
        mute.accept()  # it is being sent, which is given up after 5 s
        start = time.monotonic()
        tracer.close()
        assert time.monotonic() - start < 4


def test_spans_beyond_what_may_wait_are_dropped(collector: Receiver) -> None:
    collector.pause = 0.2
    tracer = Tracer(collector.url, "tiny")
    start = time.monotonic()
    for _ in range(20_000):
        ended(tracer)
    assert time.monotonic() - start < 30
    tracer.close()
    assert 0 < len(of_requests(collector)) < 20_000


def test_without_the_packages_the_server_does_not_start(
    site: Any, monkeypatch: pytest.MonkeyPatch, collector: Receiver
) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    project = site.project
    spec = project.spec.model_copy(update={"serve": project.spec.serve.model_copy(update={"traces": collector.url})})
    monitor = Monitor()
    live = LiveModel(site.store, site.ledger, spec.serve, monitor)
    monkeypatch.setattr(builtins, "__import__", lacking)
    try:
        with pytest.raises(UserError, match=r"opentelemetry\.sdk") as caught:
            make_app(type(project)(project.folder, spec, project.resolved), site.ledger, live, monitor, "127.0.0.1")
        assert "pip install 'treadle[otel]'" in caught.value.cure
    finally:
        monkeypatch.undo()
        live.close()


def test_a_name_that_the_environment_lacks_is_an_error(serve: Serve) -> None:
    with pytest.raises(UserError, match=r"serve.traces names \$NOT_THERE_AT_ALL"):
        serve("serve.traces=http://127.0.0.1:4318/$NOT_THERE_AT_ALL")
