"""A recurrent language model: going on from its state equals reading everything again from the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.batch import IGNORE, Batch
from treadle.core.layout import Layout
from treadle.model.generate import generate, make_memory
from treadle.model.memory import Memory, Part
from treadle.model.network import Network, make_network
from treadle.model.score import score_documents
from treadle.model.text import load_text_model, save_text_model
from treadle.spec.model import Model

VOCABULARY = 50


def make(cell: str) -> Network:
    model = Model.model_validate({
        "inputs": {"line": "text"}, "heads": {"next": "next_token"},
        "trunk": {"recurrent": {"cell": cell, "width": 24, "depth": 2, "embedding": 16, "dropout": 0.2}},
    })
    layouts = {
        "inputs": {"line": Layout("text", vocabulary=VOCABULARY, length=16)},
        "heads": {"next": Layout("next_token", vocabulary=VOCABULARY)},
    }
    network = make_network(model, layouts, 0)
    with torch.no_grad():
        network.heads["next"].linear.weight.mul_(8)  # surer than fresh weights are, so that no rounding decides
    return network.eval()


@pytest.fixture(scope="module", params=["lstm", "gru"])
def network(request: pytest.FixtureRequest) -> Network:
    return make(request.param)


def advance(network: Network, memory: Memory, slots: list[int], tokens: torch.Tensor) -> torch.Tensor:
    return memory.read_parts(network, [Part(slot, row.tolist()) for slot, row in zip(slots, tokens, strict=True)])


def test_reading_on_equals_the_whole_pass(network: Network) -> None:
    tokens = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = network.logits(tokens)
    memory = make_memory(network, 4)
    assert torch.allclose(advance(network, memory, [1, 3], tokens[:, :10]), whole[:, 9], atol=1e-5)
    for t in range(10, 40):  # longer than the windows of training: a state does not fill up
        assert torch.allclose(advance(network, memory, [1, 3], tokens[:, t : t + 1]), whole[:, t], atol=1e-5)
    assert memory.lengths == [0, 40, 0, 40]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 1000))
def test_slots_do_not_disturb_each_other_and_begin_blank(network: Network, lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    memory = make_memory(network, 4)
    for slot in range(4):  # what an earlier sequence left behind
        advance(network, memory, [slot], torch.randint(0, VOCABULARY, (1, 5), generator=generator))
    texts = [torch.randint(0, VOCABULARY, (1, n + 1), generator=generator) for n in lengths]
    for slot, text in enumerate(texts):
        memory.clear(slot)
        advance(network, memory, [slot], text[:, :-1])
    scores = advance(network, memory, list(range(len(texts))), torch.cat([text[:, -1:] for text in texts]))
    with torch.no_grad():
        for slot, text in enumerate(texts):
            assert torch.allclose(scores[slot], network.logits(text)[0, -1], atol=1e-5)


def test_greedy_generation_is_argmax_of_the_whole_pass(network: Network) -> None:
    ids = [5, 6, 7]
    with torch.no_grad():
        for _ in range(30):
            ids.append(int(network.logits(torch.tensor([ids]))[0, -1].argmax()))
    assert list(generate(network, [5, 6, 7], 30)) == ids[3:]


def test_the_loss_is_the_mean_over_what_is_predicted(network: Network) -> None:
    tokens = torch.randint(0, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(2))
    targets = tokens[:, 1:].clone()
    targets[0, 2:] = IGNORE
    targets[1] = IGNORE
    with torch.no_grad():
        scores = network.logits(tokens[:, :-1]).double()
    logs = scores.log_softmax(-1).numpy()
    rows = [-np.mean([logs[r, t, targets[r, t]] for t in range(8) if targets[r, t] != IGNORE]) for r in (0, 2)]
    batch = Batch({"line": tokens[:, :-1]}, {"next": targets})
    loss = network.loss(batch)
    assert loss.item() == pytest.approx(np.mean(rows), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())


def test_a_document_is_scored_in_windows_of_the_context(network: Network) -> None:
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, 20).astype(np.uint16)
    tokens[-1] = 0
    found = score_documents(network, [tokens], [np.ones(20, bool)])
    read = torch.from_numpy(np.concatenate([[0], tokens[:-1]]).astype(np.int64))
    with torch.no_grad():
        logs = torch.cat([network.logits(read[None, s : s + 16])[0] for s in (0, 16)]).double().log_softmax(-1).numpy()
    assert found.nats[0] == pytest.approx(-logs[np.arange(20), tokens].sum(), rel=1e-6)


def test_it_is_the_same_when_opened_again(network: Network, tmp_path: Path) -> None:
    save_text_model(network, tmp_path)
    again = load_text_model(tmp_path)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(again.logits(tokens), network.logits(tokens))
    assert (again.context, again.vocabulary, again.parameter_count) == (16, VOCABULARY, network.parameter_count)
