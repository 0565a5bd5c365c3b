"""Answers together are the answers alone; slots, queue, cancelling, stopping, limits."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sites import Asks

from treadle.core.errors import RequestError
from treadle.core.layout import Layout
from treadle.data.shards import END_ID
from treadle.data.tokenizer import load_tokenizer, token_bytes, train_tokenizer
from treadle.model.generate import generate
from treadle.model.hub import load_model
from treadle.model.lookup import Lookup
from treadle.model.network import make_network
from treadle.model.sampling import Sampling
from treadle.serve import engine as module
from treadle.serve.engine import Answer, Engine, Piece, Settings
from treadle.serve.text import TextStream
from treadle.serve.version import Full, Retired, Version
from treadle.spec.model import Model

PROMPTS = ["def f(x):\n", "", "class JSONDecoder(json):\n    def raw", "naïve 你好 🙂", "import re\n" * 30, "return", "x"]


def asked(tokens: int, temperature: float = 0.0, top_p: float = 1.0, stops: tuple[str, ...] = (), **more: Any) -> Settings:
    return Settings(tokens, Sampling(temperature, top_p), stops, **more)


GREEDY = asked(40)


class Ask(Asks):
    def start(self, prompt: str, settings: Settings = GREEDY) -> tuple[Answer, queue.Queue[Piece]]:
        return self.put(prompt, settings)

    def __call__(self, prompt: str, settings: Settings = GREEDY) -> tuple[str, str]:
        return self.finish(self.start(prompt, settings)[1])


@pytest.fixture
def make(template: Any) -> Iterator[Callable[..., Ask]]:
    """``make(slots=, queue=)`` gives an engine of the first package."""
    folder, ids = template
    path = folder / ".treadle" / "artifacts" / "package" / ids[0].partition("-")[2]
    engines = []

    def new(slots: int = 3, queue: int = 16) -> Ask:
        engines.append(Engine(load_model(path), load_tokenizer(path / "tokenizer.json"), Version(1, ids[0], 0), slots, queue))
        return Ask(engines[-1])

    yield new
    for engine in engines:
        engine.stop()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Steps happen only when the test lets one through."""
    gate = threading.Semaphore(0)
    real = Engine._read

    def read(*given: Any) -> torch.Tensor:
        assert gate.acquire(timeout=30)
        return real(*given)

    monkeypatch.setattr(Engine, "_read", read)
    return gate.release


def reference(engine: Engine, prompt: str, settings: Settings) -> str:
    tokens = [END_ID, *engine.tokenizer.encode(prompt, add_special_tokens=False).ids]
    how = {
        "temperature": settings.sampling.temperature, "top_p": settings.sampling.top_p, "seed": settings.seed or 0, "end": END_ID,
    }
    stream = TextStream(token_bytes(engine.tokenizer, engine.model.vocabulary))
    return "".join(stream.push(token) for token in generate(engine.model, tokens, settings.max_tokens, **how)) + stream.finish()


def test_answers_together_are_those_of_generate_alone(make: Callable[..., Ask]) -> None:
    ask = make(slots=3)
    running = [ask.start(prompt) for prompt in PROMPTS]  # more than there are slots, of different lengths
    for prompt, (answer, pieces) in zip(PROMPTS, running, strict=True):
        text, reason = ask.finish(pieces)
        assert text == reference(ask.engine, prompt, GREEDY)
        assert (reason, answer.tokens, answer.stream.text) == ("length", 40, text)


def test_a_recurrent_net_answers_in_the_same_engine() -> None:
    """One state per slot: answers of different lengths together are those that each prompt gets alone, also where a slot was used
    before, and none is cut off at the length of the training windows."""
    model = Model.model_validate({"trunk": {"recurrent": {"width": 24, "depth": 2, "embedding": 16}}})
    tokenizer = train_tokenizer(PROMPTS, 300)
    size = tokenizer.get_vocab_size()
    layouts = {"inputs": {"text": Layout("text", size, 8)}, "heads": {"next": Layout("next_token", size)}}
    network = make_network(model, layouts, 0).eval()
    with torch.no_grad():  # surer than fresh weights are, so that no rounding decides; the end mark is never drawn
        network.heads["next"].linear.weight.mul_(8)
        network.heads["next"].linear.bias[END_ID] = -100
    engine = Engine(network, tokenizer, Version(1, "package", 0), 2, 16)
    try:
        ask = Ask(engine)
        running = [ask.start(prompt) for prompt in PROMPTS]
        for prompt, (answer, pieces) in zip(PROMPTS, running, strict=True):
            assert ask.finish(pieces) == (reference(engine, prompt, GREEDY), "length")
            assert answer.tokens == 40
    finally:
        engine.stop()


def test_a_seed_gives_the_same_answer_alone_and_among_others(make: Callable[..., Ask]) -> None:
    ask = make(slots=4)
    how = asked(30, 0.9, 0.9, seed=7)
    alone = ask("def f", how)
    assert alone[0] == reference(ask.engine, "def f", how)
    others = [ask.start(prompt, asked(60, 1.3, 1.0)) for prompt in PROMPTS[:3]]
    assert ask("def f", how) == alone
    for _, pieces in others:
        ask.finish(pieces)
    assert ask("def f", asked(30, 0.9, 0.9, seed=8)) != alone


@pytest.mark.usefixtures("each_way")
def test_in_200_random_mixes_every_answer_is_the_one_that_it_gets_alone(make: Callable[..., Ask]) -> None:
    """To the token: requests that begin alike or not, at any temperature, with stop strings, cancelled or not, in any order."""
    alone, draw = make(slots=1), random.Random(0)
    known: dict[tuple[str, Settings], tuple[str, str]] = {}
    starts = ["def f(x):\n    return x\n" * 3, "import json\n", "class A:\n    pass\n" * 5]
    together = make(slots=5, queue=100)
    for mix in range(200):
        running = []
        for _ in range(draw.randrange(1, 8)):
            prompt = draw.choice([*PROMPTS, *(start + draw.choice(PROMPTS) for start in starts)])
            heat = draw.choice([0.0, 0.0, 0.8])
            how = asked(draw.choice([1, 5, 24]), heat, 0.95, draw.choice([(), ("a",), ("\n\n", "ret")]), seed=draw.randrange(3))
            answer, pieces = together.start(prompt, how)
            running.append((prompt, how, pieces))
            if draw.random() < 0.1:
                answer.cancel()
                running.pop()
        for prompt, how, pieces in running:
            if (prompt, how) not in known:
                known[prompt, how] = alone(prompt, how)
            assert together.finish(pieces) == known[prompt, how], f"mix {mix}: {prompt!r}, {how}"
    memory: Any = together.engine._memory
    assert memory.hits > 1000  # what begins alike was read once
    assert not any(memory._held)


def test_answers_wait_for_memory_and_none_is_lost(template: Any) -> None:
    """Room for one whole context, and so for few long answers at once."""
    folder, ids = template
    path = folder / ".treadle" / "artifacts" / "package" / ids[0].partition("-")[2]
    engine = Engine(load_model(path), load_tokenizer(path / "tokenizer.json"), Version(1, ids[0], 0), 4, 20, memory=0)
    try:
        ask, how = Ask(engine), asked(600)
        running = [ask.start(prompt, how) for prompt in PROMPTS]
        for prompt, (answer, pieces) in zip(PROMPTS, running, strict=True):
            assert ask.finish(pieces) == (reference(engine, prompt, how), "length")
            assert answer.tokens == 600
    finally:
        engine.stop()


def test_tokens_that_are_guessed_change_no_answer_and_save_steps(make: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch) -> None:
    ask, steps = make(), []
    if not ask.engine._memory.drafts:
        pytest.skip("needs a C compiler")
    real = Engine._read
    monkeypatch.setattr(Engine, "_read", lambda self, parts: steps.append(parts) or real(self, parts))
    text, _ = ask(PROMPTS[4], asked(100, 0.0, 1.0))
    fewer, steps[:] = len(steps), []
    monkeypatch.setattr(Lookup, "guess", lambda self, most: [])
    assert ask(PROMPTS[4], asked(100, 0.0, 1.0))[0] == text
    assert fewer < 0.8 * len(steps)


def test_a_drawn_seed_is_told_and_gives_the_answer_again(make: Callable[..., Ask]) -> None:
    ask = make()
    answer, pieces = ask.start("def f", asked(30, 1.0, 1.0))
    text, _ = ask.finish(pieces)
    assert ask("def f", asked(30, 1.0, 1.0, seed=answer.seed))[0] == text


def test_the_coldest_temperature_is_the_likeliest_token(make: Callable[..., Ask]) -> None:
    ask = make()
    assert ask("def f", asked(20, 1e-300, 1.0)) == ask("def f", asked(20, 0.0, 1.0))


def test_a_stop_string_ends_the_answer_before_it(make: Callable[..., Ask]) -> None:
    ask = make()
    whole, _ = ask("def f", asked(60, 0.0, 1.0))
    stop = whole[10:14]
    text, reason = ask("def f", asked(60, 0.0, 1.0, stops=(stop, "never found")))
    assert (text, reason) == (whole[: whole.index(stop)], "stop")


def test_the_end_mark_ends_the_answer(make: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = make()
    drawn = iter([50, 51, END_ID])
    monkeypatch.setattr(module, "sample", lambda *_: next(drawn))
    answer, pieces = ask.start("x")
    assert ask.finish(pieces) == (ask.engine.tokenizer.decode([50, 51]), "stop")
    assert answer.tokens == 2


def test_a_full_context_ends_the_answer(make: Callable[..., Ask]) -> None:
    ask = make()
    answer, pieces = ask.start("import re\n" * 300, asked(500, 0.0, 1.0, truncate=1000))
    _, reason = ask.finish(pieces)
    assert (reason, len(answer.prompt), answer.tokens) == ("length", 1000, 25)
    answer, pieces = ask.start("import re\n" * 300, asked(500, 0.0, 1.0, truncate=1024))
    ask.finish(pieces)
    assert answer.tokens == 1  # as generate does: the last token needs no place


def test_a_prompt_over_the_context_is_refused_or_cut_at_its_front(make: Callable[..., Ask]) -> None:
    ask = make()
    prompt = "import re\n" * 400
    tokens = ask.engine.tokenizer.encode(prompt, add_special_tokens=False).ids
    with pytest.raises(RequestError, match=f"is {len(tokens) + 1} tokens") as caught:
        ask.start(prompt)
    assert (caught.value.status, caught.value.field) == (400, "prompt")
    answer, pieces = ask.start(prompt, asked(24, 0.0, 1.0, truncate=-1))
    ask.finish(pieces)
    assert (answer.prompt, answer.dropped, answer.tokens) == (tokens[-1000:], len(tokens) + 1 - 1000, 24)
    for longest in (1000, 1023, 5000):  # what is asked of the answer never takes more than half of the room
        answer, pieces = ask.start("import re\n" * 400, asked(longest, 0.0, 1.0, truncate=-1))
        answer.cancel()
        ask.finish(pieces)
        assert answer.prompt == tokens[-512:]
    with pytest.raises(RequestError) as caught:
        ask.start(prompt, asked(24, 0.0, 1.0, truncate=1025))
    assert caught.value.field == "truncate_prompt_tokens"
    short, pieces = ask.start("x", asked(1, 0.0, 1.0, truncate=100))
    ask.finish(pieces)
    assert (short.prompt[0], short.dropped) == (END_ID, 0)


def test_a_long_prompt_read_in_pieces_gives_the_same_answer(make: Callable[..., Ask]) -> None:
    ask = make()
    prompt = "def f(x):\n    return x + 1\n" * 40
    assert 512 < len(ask.engine.tokenizer.encode(prompt).ids) < 1000
    other = ask.start("y", asked(200, 0.0, 1.0))
    assert ask(prompt, asked(20, 0.0, 1.0))[0] == reference(ask.engine, prompt, asked(20, 0.0, 1.0))
    ask.finish(other[1])


def test_more_than_slots_and_queue_is_refused(make: Callable[..., Ask], slow: Callable[[], None]) -> None:
    ask = make(slots=1, queue=2)
    running = [ask.start("x", asked(1, 0.0, 1.0)) for _ in range(3)]
    with pytest.raises(Full) as caught:
        ask.start("x")
    assert (caught.value.status, caught.value.retry_after >= 1) == (429, True)
    for _ in range(3):
        slow()
    for _, pieces in running:
        assert ask.finish(pieces)[1] == "length"


def test_a_cancelled_answer_frees_its_slot_within_a_step(
    make: Callable[..., Ask], slow: Callable[[], None], until: Callable[..., None]
) -> None:
    ask = make(slots=1)
    first, pieces = ask.start("x", asked(500, 0.0, 1.0))
    second, second_pieces = ask.start("x", asked(1, 0.0, 1.0))
    gone, gone_pieces = ask.start("x", asked(1, 0.0, 1.0))
    slow()
    pieces.get(timeout=20)
    gone.cancel()
    first.cancel()
    slow()  # the step that was under way
    until(lambda: first.finish_reason)
    assert (first.finish_reason, first.tokens <= 2) == ("cancelled", True)
    slow()
    assert ask.finish(second_pieces)[1] == "length"
    assert ask.finish(gone_pieces) == ("", "cancelled")
    assert second.tokens == 1


def test_a_retired_engine_finishes_its_answers_and_takes_no_more(make: Callable[..., Ask], until: Callable[..., None]) -> None:
    ask = make(slots=1)
    running = [ask.start(prompt) for prompt in PROMPTS[:3]]
    ask.engine.retire()
    with pytest.raises(Retired):
        ask.start("x")
    assert [ask.finish(pieces)[1] for _, pieces in running] == ["length"] * 3
    until(lambda: ask.engine.done)


def test_a_failing_step_gives_up_its_answers_and_no_others(make: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = make()
    real, broken = Engine._read, [True, True]  # together, and then alone

    def read(*given: Any) -> torch.Tensor:
        if broken.pop() if broken else False:
            raise RuntimeError("out of memory")
        return real(*given)

    monkeypatch.setattr(Engine, "_read", read)
    assert ask("x") == ("", "error")
    assert ask("x")[1] == "length"


@pytest.mark.usefixtures("each_way")
def test_a_step_that_fails_behind_its_reading_is_read_again_from_where_it_began(
    make: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, real, failed = make(), Engine._read, list[int]()
    alone = [ask(prompt) for prompt in PROMPTS[:3]]

    def read(engine: Engine, parts: list[Any]) -> torch.Tensor:
        scores = real(engine, parts)
        if len(parts) > 1:
            failed.append(len(parts))
            raise RuntimeError("out of memory")
        return scores

    monkeypatch.setattr(Engine, "_read", read)
    started = [ask.start(prompt) for prompt in PROMPTS[:3]]
    assert [ask.finish(pieces) for _, pieces in started] == alone
    assert len(failed) > 5


def test_an_answer_that_no_one_waits_for_is_cancelled(make: Callable[..., Ask], until: Callable[..., None]) -> None:
    ask = make()

    def closed(piece: Piece) -> None:
        raise RuntimeError("Event loop is closed")

    answer = ask.engine.prepare("x", asked(900, 0.0, 1.0), closed)
    ask.engine.submit(answer)
    until(lambda: answer.finish_reason)
    assert (answer.finish_reason, answer.tokens < 900) == ("cancelled", True)
