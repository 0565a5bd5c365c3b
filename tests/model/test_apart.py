"""Documents in one row are computed as each of them is alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny import SHAPE
from treadle.core.batch import IGNORE, Batch
from treadle.core.gradients import Gradients
from treadle.core.runtime import choose_runtime
from treadle.data.packing import Packed
from treadle.data.shards import Document, Shard, write_shard
from treadle.model.generate import make_memory
from treadle.model.layers.apart import by_length
from treadle.model.memory import Part
from treadle.model.model import LanguageModel, make_model
from treadle.spec.train import Train
from treadle.train.objectives import OBJECTIVES

LENGTHS = [[1, 9, 9, 13], [32], [20, 9, 1, 1, 1], [31, 1]]
KINDS = [SHAPE, replace(SHAPE, kv_heads=4, qk_norm=False, tie_embeddings=False)]


def packed_batch(seed: int = 0) -> Batch:
    """Rows of 32 tokens in documents of ``LENGTHS``; some tokens are not asked for."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, SHAPE.vocabulary, (4, 33), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[:, ::5] = IGNORE
    places = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    return Batch({"text": tokens[:, :-1]}, {"next": targets}, places={"text": places})


def alone(batch: Batch) -> list[Batch]:
    """Each document as a batch of its own."""
    found = []
    for row, lengths in enumerate(LENGTHS):
        for part in torch.arange(32).split(lengths):
            found.append(Batch({"text": batch.inputs["text"][row, part][None]}, {"next": batch.targets["next"][row, part][None]}))
    return found


def logits_of(model: LanguageModel, batch: Batch) -> Tensor:
    """(B, T, V), as training computes them."""
    tokens, places = batch.inputs["text"], batch.places["text"]
    order, groups = by_length(places)
    found = model.scores(model.hidden(tokens.flatten()[order][None], places.flatten()[order][None], apart=groups))[0]
    return torch.empty_like(found).index_copy(0, order, found).view(*tokens.shape, -1)


@pytest.mark.parametrize("shape", KINDS)
@pytest.mark.parametrize(("precision", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_logits_are_those_of_each_document_alone(shape: object, precision: torch.dtype, bound: float):
    model, batch = make_model(shape, 0).to(precision).eval(), packed_batch()
    with torch.inference_mode():
        together = logits_of(model, batch).flatten(0, 1).split([n for row in LENGTHS for n in row])
        for found, one in zip(together, alone(batch), strict=True):
            assert (found - model.logits(one.inputs["text"])[0]).abs().max() < bound


@pytest.mark.parametrize("shape", KINDS)
@pytest.mark.parametrize(("precision", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("objective", ["next_token", "next_token_per_row"])
def test_loss_and_gradients_are_those_of_each_document_alone(shape: object, precision: torch.dtype, bound: float, objective: str):
    together, apart = (make_model(shape, 0).to(precision).train() for _ in range(2))
    batch = packed_batch()
    loss = OBJECTIVES[objective](together, batch)
    loss.backward()
    asked = batch.targets["next"] != IGNORE
    share = asked / asked.sum() if objective == "next_token" else asked / (4 * asked.sum(1, keepdim=True))
    total = 0.0
    shares = share.to(precision).flatten().split([n for row in LENGTHS for n in row])
    for document, part in zip(alone(batch), shares, strict=True):
        own = apart.weighted_loss(document, part[None])
        own.backward()
        total += own.item()
    assert loss.item() == pytest.approx(total, abs=bound)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() < bound


def test_what_stands_before_a_document_changes_nothing():
    """And it would, were the documents not told apart."""
    model, batch = make_model(SHAPE, 0).eval(), packed_batch()
    other = batch.inputs["text"].clone()
    other[0, :19] = 7
    changed = replace(batch, inputs={"text": other})
    with torch.inference_mode():
        assert torch.allclose(logits_of(model, batch)[0, 19:], logits_of(model, changed)[0, 19:], atol=1e-6)
        assert not torch.allclose(model.logits(batch.inputs["text"])[0, 19:], model.logits(other)[0, 19:], atol=1e-3)


def test_what_is_served_is_what_was_trained(tmp_path: Path):
    """The scores behind each prefix of a document, read token by token from the end mark on, are those of the packed row."""
    texts = [[5, 9, 200, 31, 0], [17, 0], [250, 3, 3, 4, 8, 120, 77, 0], [99, 2, 0]]
    write_shard(tmp_path, "train", [Document(str(i), "f", text, 1) for i, text in enumerate(texts)])
    model, batch = make_model(SHAPE, 0).eval(), Packed(Shard(tmp_path, "train"), 32, 0).batch_at(0, 1)
    with torch.inference_mode():
        trained = logits_of(model, batch)[0]
        for text in texts:
            at = batch.targets["next"][0].tolist().index(text[0])
            memory = make_memory(model, 1)
            memory.admit(0, [0], 32)
            for place, token in enumerate([0, *text[:-1]]):
                scores = memory.read_parts(model, [Part(0, [token])])
                assert (scores[0] - trained[at + place]).abs().max() < 1e-5


def test_workers_and_parts_give_the_same_bit_for_bit():
    found = []
    for workers, parts in ((1, 2), (2, 1)):
        model = make_model(SHAPE, 0)
        runtime = replace(choose_runtime("float32", 1), workers=workers)
        gradients = Gradients(model, OBJECTIVES["next_token"], runtime, Train(accumulate=parts))
        loss = gradients(packed_batch()).loss
        gradients.close()
        found.append((loss, [p.grad for p in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_equal_lengths_are_one_group():
    order, groups = by_length(packed_batch().places["text"])
    assert groups == [(5, 1), (3, 9), (1, 13), (1, 20), (1, 31), (1, 32)]
    assert sorted(order.tolist()) == list(range(128))
