"""vLLM as the engine, with a stand-in for it that speaks its protocol: what it is asked, who gets its places, and how answers end.
``test_vllm_real.py`` has the real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from stand_in import after
from stands import PLAIN, PROMPT, Ask, Stand, text_of

from treadle.core.errors import RequestError
from treadle.model.sampling import Likely, Sampling
from treadle.serve.constraint import SPACE, Form
from treadle.serve.line import Asker
from treadle.serve.version import Full
from treadle.serve.writer import Settings


def test_an_answer_is_the_text_of_the_tokens_that_it_writes(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    ask = make_vllm()
    answer, pieces = ask.start()
    assert ask.finish(pieces) == (text_of(ask, after(34, 8)), "length")
    assert (answer.tokens, answer.known, answer.stream.text) == (8, 2, text_of(ask, after(34, 8)))
    assert answer.first is not None
    (asked,) = stand.all("asked")
    assert (asked["prompt"], asked["max_tokens"], asked["add_special_tokens"]) == (PROMPT, 8, False)
    ask(prompt="def f")
    tokens = [0, *ask.engine.tokenizer.encode("def f", add_special_tokens=False).ids]
    assert stand.all("asked")[1]["prompt"] == tokens
    assert "cache_salt" not in asked
    for name in ("alice", "bob@example.org", "alice"):  # so that keys share nothing; vLLM takes no @ there
        ask.finish(ask.start(asker=Asker(name))[1])
    salts = [each["cache_salt"] for each in stand.all("asked")[2:]]
    assert salts[0] == salts[2] != salts[1]
    assert all(salt.isalnum() and len(salt) <= 128 for salt in salts)


def test_how_tokens_fall_into_events_changes_nothing(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    ask = make_vllm()
    for stops in ((), (text_of(ask, after(34, 12))[-2:],)):
        found = []
        for group in (1, 2, 7, 60, 100):
            stand.set("group", group)
            answer, pieces = ask.start(Settings(60, Sampling(0.0), stops, likely=1))
            text, likely, reason = "", list[Likely](), None
            while reason is None:
                piece = pieces.get(timeout=30)
                text, likely, reason = text + piece.text, [*likely, *piece.likely], piece.finish_reason
            found.append((text, reason, answer.tokens, likely))
        assert all(one == found[0] for one in found)
        assert found[0][1] == ("stop" if stops else "length")


SAMPLINGS: list[tuple[Settings, dict[str, Any]]] = [
    (Settings(5, Sampling(0.0005)), {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}),
    (Settings(5, Sampling(0.7, 0.9, 40, 0.1)), {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.1}),
    (Settings(5, Sampling(presence=0.5, frequency=-1.5)), {"presence_penalty": 0.5, "frequency_penalty": -1.5}),
    (Settings(5, Sampling(repetition=1.3)), {"repetition_penalty": 1.3}),
    (Settings(5, Sampling(bias=((7, 2.0), (9, -100.0), (7, 1.5)))), {"logit_bias": {"7": 3.5, "9": -100.0}}),
    (Settings(5, seed=7), {"seed": 7}),
    (Settings(5, seed=-1), {"seed": 2**63 - 1}),  # -1 would be a random one
    (Settings(5, likely=4), {"logprobs": 4, "return_tokens_as_token_ids": True}),
    (Settings(2000), {"max_tokens": 1021}),  # as many as there is room for beside the prompt
]


@pytest.mark.parametrize(("how", "wanted"), SAMPLINGS)
def test_how_to_draw_is_handed_over(make_vllm: Callable[..., Ask], stand: Stand, how: Settings, wanted: dict[str, Any]) -> None:
    ask = make_vllm()
    assert ask(how)[1] == "length"
    (asked,) = stand.all("asked")
    assert {name: asked[name] for name in wanted} == wanted
    assert ("logprobs" in asked, "logit_bias" in asked) == (how.likely is not None, bool(how.sampling.bias))
    assert asked["stop_token_ids"] == [0]


def test_what_an_answer_is_held_to_is_handed_over_and_checked_before(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    ask = make_vllm()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for form, wanted in (
        (Form.of("regex", "[a-z]+"), {"regex": "[a-z]+"}), (Form.of("choice", ["a", "é"]), {"choice": ["a", "é"]}),
        (Form.of("json_schema", schema), {"json": {**schema, "x-guidance": {
            "whitespace_flexible": False, "item_separator": f"{SPACE},{SPACE}", "key_separator": f"{SPACE}:{SPACE}",
        }}}),
    ):
        ask(Settings(5, form=form))
        assert stand.all("asked")[-1]["structured_outputs"] == wanted
    with pytest.raises(RequestError, match="regular expression") as caught:
        ask(Settings(5, form=Form.of("regex", "[a-")))
    assert (caught.value.status, len(stand.all("asked"))) == (400, 3)


def test_an_answer_that_leaves_its_form_is_an_error_and_never_given(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    """The stand-in knows nothing of forms: what it writes is checked here as well."""
    ask = make_vllm()
    one = text_of(ask, after(34, 1))
    assert ask(Settings(9, form=Form.of("choice", [one]))) == (one, "stop")  # it is complete, whatever would come
    assert ask(Settings(9, form=Form.of("regex", "[0-9]{5}"))) == ("", "error")
    assert ask()[1] == "length"


def test_what_is_told_of_tokens_is_as_the_other_engine_tells_it(make_vllm: Callable[..., Ask]) -> None:
    ask = make_vllm()
    _, pieces = ask.start(Settings(3, Sampling(0.0), likely=2))
    likely: list[Likely] = []
    while (piece := pieces.get(timeout=30)).finish_reason is None:
        likely += piece.likely
    likely += piece.likely
    assert likely == [Likely(t, -0.5, ((t, -0.5), (after(t, 1)[0], -1.5))) for t in after(34, 3)]
    _, pieces = ask.start(Settings(1, Sampling(0.0), likely=0))
    assert pieces.get(timeout=30).likely == (Likely(35, -0.5, ()),)


def test_a_stop_string_ends_the_answer_before_it_and_vllm_gives_it_up(
    make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]
) -> None:
    ask = make_vllm()
    whole = text_of(ask, after(34, 60))
    stop = whole[10:14]
    assert ask(Settings(900, Sampling(0.0), ("never found", stop))) == (whole[: whole.index(stop)], "stop")
    until(lambda: stand.marks("dropped") == [1])


def test_the_end_mark_ends_the_answer(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    ask = make_vllm()
    stand.set("ends_at", 38)
    answer, pieces = ask.start()
    assert ask.finish(pieces) == (text_of(ask, [35, 36, 37]), "stop")
    assert (answer.tokens, answer.known) == (3, 2)


def test_a_full_context_ends_the_answer_and_a_longer_prompt_is_refused(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    ask = make_vllm()
    answer, pieces = ask.start(Settings(50, Sampling(0.0)), [5] * 1020)
    assert (ask.finish(pieces)[1], answer.tokens) == ("length", 4)  # vLLM keeps a place for the last one
    with pytest.raises(RequestError, match=r"is 1024 tokens .* more than the 1023"):
        ask.start(PLAIN, [5] * 1024)
    assert len(stand.all("asked")) == 1


def test_no_more_answers_than_slots_are_under_way_and_a_full_line_refuses(
    make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]
) -> None:
    ask = make_vllm(slots=2, queue=1)
    stand.set("hold")
    running = [ask.start() for _ in range(3)]
    with pytest.raises(Full):
        ask.start()
    until(lambda: len(stand.all("asked")) == 2)
    assert (ask.engine.active, ask.engine.waiting) == (2, 1)
    stand.unset("hold")
    assert [ask.finish(pieces) for _, pieces in running] == [(text_of(ask, after(34, 8)), "length")] * 3
    until(lambda: stand.marks("done") == [1, 2, 3])
    assert ask.engine.active == 0


def test_what_presses_more_goes_first_and_keys_share(
    make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]
) -> None:
    ask = make_vllm(slots=1)
    stand.set("hold")
    askers = [Asker("a"), Asker("a"), Asker("a"), Asker("b"), Asker("b", priority=-1)]
    running = []
    for number, asker in enumerate(askers):
        running.append(ask.start(Settings(4, Sampling(0.0)), [0, number + 1], asker))
        until(lambda: stand.all("asked"))  # the first has begun
    stand.unset("hold")
    for _, pieces in running:
        ask.finish(pieces)
    assert [asked["prompt"][-1] - 1 for asked in stand.all("asked")] == [0, 4, 1, 3, 2]


def test_a_cancelled_answer_is_given_up_at_once(make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]) -> None:
    ask = make_vllm(slots=1)
    stand.set("hold")
    first, pieces = ask.start(Settings(500, Sampling(0.0)))
    waiting, waiting_pieces = ask.start()
    _, second_pieces = ask.start(prompt=[0, 5])
    until(lambda: len(stand.all("asked")) == 1)
    waiting.cancel()
    first.cancel()
    assert ask.finish(pieces) == ask.finish(waiting_pieces) == ("", "cancelled")
    until(lambda: stand.marks("dropped") == [1])
    until(lambda: len(stand.all("asked")) == 2)
    stand.unset("hold")
    assert ask.finish(second_pieces) == (text_of(ask, after(5, 8)), "length")
    assert [asked["prompt"] for asked in stand.all("asked")] == [PROMPT, [0, 5]]


def test_what_is_late_is_given_up(make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]) -> None:
    ask = make_vllm(slots=1)
    stand.set("hold")
    began = time.monotonic()
    _, pieces = ask.start(asker=Asker(until=began + 0.3))
    _, waiting_pieces = ask.start(asker=Asker(until=began + 0.3))
    assert ask.finish(pieces) == ask.finish(waiting_pieces) == ("", "late")
    assert time.monotonic() - began >= 0.3
    until(lambda: stand.marks("dropped") == [1])
