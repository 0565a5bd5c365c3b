"""Pages that texts share: the same scores as without, and no page lost."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core import native
from treadle.model.decoder import compiled_decoder
from treadle.model.lookup import Lookup
from treadle.model.memory import Part
from treadle.model.model import LanguageModel, make_model
from treadle.model.paged import Paged
from treadle.model.passes import PAGE, Decoder, Pages
from treadle.model.torch_decoder import TorchDecoder
from treadle.spec.shape import Shape

SHAPE = Shape(vocabulary=40, context=100, depth=2, width=32, heads=2, kv_heads=1, head_dim=16, hidden=48)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make_model(SHAPE, 0).eval()


@pytest.fixture(scope="module", params=["kernels", "torch"])
def decoder(request: pytest.FixtureRequest, model: LanguageModel) -> Decoder:
    if request.param == "torch":
        return TorchDecoder(model, torch.device("cpu"))
    if native.compiler() is None:
        pytest.skip("needs a C compiler")
    found = compiled_decoder(model, 1)
    assert found is not None
    return found


def memory(decoder: Decoder, slots: int, pages: int) -> Paged:
    found = Paged(decoder, slots, pages * Pages.size(SHAPE, decoder.kind))
    assert found.pages.count == pages
    return found


def whole(held: Paged) -> None:
    """Every page is held, unused or free, and counted right."""
    users = [sum(page in pages for pages in held._held) for page in range(held.pages.count)]
    assert users == held._users
    known = [*held._free, *held._unused, *(page for page, count in enumerate(users) if count)]
    assert sorted(known) == list(range(held.pages.count))
    assert {page: held._full[digest] for page, digest in held._name.items()} == {page: page for page in held._name}


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(7, 16))
def test_scores_are_those_of_a_text_read_alone_whatever_was_read_before(
    model: LanguageModel, decoder: Decoder, seed: int, pages: int
):
    """Texts that begin alike come and go in three slots, some tokens are taken back; there is room for one to two of them."""
    draw, held = random.Random(seed), memory(decoder, 3, pages)
    starts = [[draw.randrange(40) for _ in range(draw.randrange(60))] for _ in range(3)]
    texts: dict[int, list[int]] = {}
    for _ in range(30):
        slot = draw.randrange(3)
        if slot in texts and draw.random() < 0.3:
            held.release(slot)
            del texts[slot]
        elif slot not in texts:
            text = draw.choice(starts) + [draw.randrange(40) for _ in range(1 + draw.randrange(20))]
            known = held.admit(slot, text, 100)
            if known is None:
                continue
            assert known < len(text)
            assert known % PAGE == 0
            scores = held.read_parts(model, [Part(slot, text[known:])])
            texts[slot] = text
            assert torch.equal(scores[0], alone(model, decoder, text))
        else:
            more = [draw.randrange(40) for _ in range(draw.randrange(1, 5))][: 100 - len(texts[slot])]
            if not more:
                continue
            scores = held.read_parts(model, [Part(slot, more, len(more))])
            kept = draw.randrange(1, len(more) + 1)
            held.take_back(slot, len(more) - kept)
            texts[slot] += more[:kept]
            assert torch.equal(scores[kept - 1], alone(model, decoder, texts[slot]))
        whole(held)
    for slot in list(texts):
        held.release(slot)
    whole(held)
    assert not any(held._held)


def alone(model: LanguageModel, decoder: Decoder, text: list[int]) -> torch.Tensor:
    fresh = memory(decoder, 1, 7)
    fresh.admit(0, text, 100)
    return fresh.read_parts(model, [Part(0, text)])[0]


def test_what_was_read_is_not_read_again(model: LanguageModel, decoder: Decoder):
    held, text = memory(decoder, 2, 14), list(range(40))
    assert held.admit(0, text, 50) == 0
    held.read_parts(model, [Part(0, text)])
    held.read_parts(model, [Part(0, [3])])  # names the full pages
    assert held.admit(1, text, 50) == 32  # while the first is under way
    held.release(0)
    held.release(1)
    assert held.admit(0, text[:33], 50) == 32
    held.release(0)
    assert held.admit(0, text[:32], 50) == 16  # one token at least is read
    held.release(0)
    assert held.admit(0, [39, *text], 50) == 0
    assert (held.hits, held.asked) == (80, 40 + 40 + 33 + 32 + 41)


def test_readers_share_nothing(model: LanguageModel, decoder: Decoder):
    held, text = memory(decoder, 2, 14), list(range(40))
    for slot, reader in enumerate(("alice", "bob")):
        assert held.admit(slot, text, 50, reader=reader) == 0
        held.read_parts(model, [Part(slot, text)])
    held.release(0)
    held.release(1)
    assert held.admit(0, text, 50) == 0, "who has no name is one of them"
    held.release(0)
    assert [held.admit(slot, text, 50, reader=reader) for slot, reader in enumerate(("bob", "alice"))] == [32, 32]


def test_a_text_waits_until_all_that_it_may_need_is_there(decoder: Decoder):
    held = memory(decoder, 3, 8)
    assert held.admit(0, [1] * 5, 100) == 0  # 7 pages
    assert held.admit(1, [2] * 5, 17) is None
    assert held.admit(1, [2] * 5, 16) == 0
    held.release(0)
    assert held.admit(2, [3] * 5, 100) == 0


@pytest.mark.parametrize(("most", "pages"), [(None, 21), (10**9, 21), (0, 7), (10 * 4096, 10)])
def test_there_is_room_for_one_context_at_least_and_for_all_slots_at_most(decoder: Decoder, most: int | None, pages: int):
    assert Pages.size(SHAPE, torch.float32) == 4096
    assert Paged(decoder, 3, most).pages.count == pages


def test_pages_least_lately_used_go_first(model: LanguageModel, decoder: Decoder):
    held = memory(decoder, 1, 7)
    for first in (1, 2, 3):
        held.admit(0, [first] * 33, 34)
        held.read_parts(model, [Part(0, [first] * 33)])
        held.release(0)
    held.admit(0, [4] * 17, 40)  # takes the one free page and the oldest
    held.read_parts(model, [Part(0, [4] * 17)])
    held.release(0)
    found = []
    for first in (1, 3):
        found.append(held.admit(0, [first] * 33, 34))
        held.release(0)
    assert found == [0, 32]


def test_scores_are_near_those_of_the_whole_pass(model: LanguageModel, decoder: Decoder):
    text = [random.Random(1).randrange(40) for _ in range(60)]
    parts = [Part(0, text[:37]), Part(0, text[37:], 5)]
    held = memory(decoder, 1, 7)
    held.admit(0, text, 100)
    for part in parts:
        found = held.read_parts(model, [part])
    with torch.inference_mode():
        expected = model.logits(torch.tensor([text]))[0, -5:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(-1, 5))
def test_guesses_are_what_followed_the_last_three_tokens_before(text: list[int], most: int):
    lookup = Lookup()
    lookup.push(text[:11])
    lookup.push(text[11:])
    places = [place for place in range(3, len(text)) if text[place - 3 : place] == text[-3:]]
    expected = text[places[-1] : places[-1] + min(max(most, 0), 3)] if places else []
    assert lookup.guess(most) == expected
