"""The tags' head: its loss, the likeliest path that may be, marks and padding, and whose positions it reads."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.heads.tags import TagsHead, best_path
from treadle.model.layers.signal import Form, Signal
from treadle.model.network import Network, load_network, make_network, quantize_network, save_network
from treadle.spec.model import Model

TRUNKS: dict[str, dict[str, Any]] = {
    "recurrent": {"recurrent": {"width": 12, "directions": 2, "embedding": 16}},
    "transformer": {"transformer": {"depth": 1, "width": 16, "heads": 2}},
}
WORDS = Layout("text", vocabulary=50, length=12)
LAYOUTS = {"size": Layout("number"), "note": WORDS, "other": WORDS}


def network(trunk: str, names: tuple[str, ...] = ("note",), marks: tuple[int, int] = (0, 0)) -> Network:
    model = Model.model_validate({
        "inputs": {name: {LAYOUTS[name].kind: {}} for name in names}, "trunk": TRUNKS[trunk],
        "heads": {"spans": {"tags": {"input": "note"}}},
    })
    head = Layout("tags", vocabulary=5, options={"weight": 1.0, "input": "note", "marks": list(marks)})
    return make_network(model, {"inputs": {name: LAYOUTS[name] for name in names}, "heads": {"spans": head}}, 0)


def batch(seed: int = 0, rows: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (rows, 12), generator=draw)
    lengths = torch.randint(2, 13, (rows,), generator=draw)
    ids[torch.arange(12) >= lengths[:, None]] = 0
    others = torch.randint(1, 13, (rows,), generator=draw)
    targets = torch.zeros(rows, 14, 3, dtype=torch.long)
    targets[:, :12, 0] = (ids % 2 + 1) * (ids > 0)  # an odd word is a span of kind 0
    targets[:, 12:, 0] = -1
    inputs = {"note": ids, "size": torch.randn(rows, generator=draw), "other": torch.randint(1, 50, (rows, 12), generator=draw)}
    return Batch(inputs, {"spans": targets}, {"note": lengths, "other": others})


def of(given_: Batch, *names: str) -> Batch:
    return Batch({n: given_.inputs[n] for n in names}, given_.targets, {n: given_.lengths[n] for n in names if n in given_.lengths})


def allowed(path: tuple[int, ...]) -> bool:
    return all(tag % 2 or not tag or before in (tag - 1, tag) for before, tag in zip((0, *path), path, strict=False))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([3, 5]))
def test_the_best_path_is_the_best_of_all_that_may_be(seed: int, length: int, tags: int) -> None:
    scores = torch.randn(2, length, tags, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row, found in zip(scores.numpy(), best_path(scores).tolist(), strict=True):
        paths = [path for path in itertools.product(range(tags), repeat=length) if allowed(path)]
        best = max(paths, key=lambda path: sum(row[place, tag] for place, tag in enumerate(path)))
        assert found == list(best)


def test_the_loss_is_the_mean_over_what_is_known() -> None:
    head = TagsHead(Layout("tags", vocabulary=5, options={"marks": [0, 0]}), Form(0, 8))
    logits = torch.randn(3, 4, 5)
    targets = torch.zeros(3, 7, 3, dtype=torch.long)
    targets[0, :3, 0], targets[0, 3:5, 0] = torch.tensor([1, 4, 5]), torch.tensor([-1, -2])
    targets[1, 1, 0] = 2
    logs = logits.double().numpy() - np.log(np.exp(logits.double().numpy()).sum(-1, keepdims=True))
    losses = head.losses(logits, targets)
    assert losses[0].item() == pytest.approx(-(logs[0, 0, 0] + logs[0, 1, 3] + logs[0, 2, 4]) / 3, rel=1e-5)
    assert losses[1].item() == pytest.approx(-logs[1, 1, 1], rel=1e-5)
    assert losses[2].isnan()


def test_marks_and_padding_are_outside_whatever_the_net_says() -> None:
    head = TagsHead(Layout("tags", vocabulary=5, options={"marks": [1, 1]}), Form(0, 8))
    with torch.no_grad():
        head.linear.bias[0] = -100.0
        read = head.readable(head.outputs(Signal(torch.randn(2, 6, 8), torch.tensor([6, 4]))))
    assert (read[..., 0] > 1).tolist() == [[False, True, True, True, True, False], [False, True, True, False, False, False]]
    assert read[0, 0, 1] == 1.0
    assert ((read[..., 1] > 0) & (read[..., 1] <= 1)).all()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_tags_of_a_text_do_not_depend_on_what_else_is_in_the_batch(trunk: str) -> None:
    given_ = batch()
    for names in (("note",), ("size", "other", "note"), ("note", "other")):
        made = network(trunk, names).eval()
        together = made(of(given_, *names))["spans"]
        for row in range(given_.size):
            length, other = int(given_.lengths["note"][row]), int(given_.lengths["other"][row])
            one = Batch(
                {"note": given_.inputs["note"][row : row + 1, :length], "size": given_.inputs["size"][row : row + 1],
                 "other": given_.inputs["other"][row : row + 1, :other]},
                {}, {"note": torch.tensor([length]), "other": torch.tensor([other])},
            )
            torch.testing.assert_close(made(of(one, *names))["spans"][0], together[row, :length], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_it_learns_what_words_say_wherever_the_text_stands_among_the_inputs(trunk: str) -> None:
    for names in (("note",), ("size", "other", "note")):
        made = network(trunk, names)
        optimizer = torch.optim.Adam(made.parameters(), 0.02)
        for step in range(100):
            made.train().loss(of(batch(step % 20), *names)).backward()
            optimizer.step()
            optimizer.zero_grad()
        seen = of(batch(3), *names)
        with torch.no_grad():
            read = made.eval().readable(made(seen))["spans"][..., 0]
        wanted = seen.targets["spans"][:, :12, 0]
        assert (read == wanted)[wanted > 0].float().mean() > 0.97


def test_int8_gives_nearly_the_same_probabilities(tmp_path: Path) -> None:
    made = network("transformer").eval()
    with torch.no_grad():
        before = made(of(batch(), "note"))["spans"].softmax(-1)
        quantize_network(made)
        save_network(made, tmp_path)
        after = load_network(tmp_path)(of(batch(), "note"))["spans"].softmax(-1)
    assert 0 < (before - after).abs().max() < 0.02
