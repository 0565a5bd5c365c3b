"""The head that foretells items, against plain arithmetic in float64. B rows, V items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.network import load_network, make_network, quantize_network, save_network
from treadle.spec.model import Model

V, CONTEXT = 23, 5
TRUNKS = {"transformer": {"depth": 1, "width": 16, "heads": 2}, "recurrent": {"cell": "gru", "width": 12, "embedding": 16}}


def network(trunk: str, **head):
    model = Model.model_validate({
        "inputs": {"past": {"events": {"context": CONTEXT}}}, "trunk": {trunk: TRUNKS[trunk]},
        "heads": {"next": {"next_item": head}},
    })
    options = {"weight": 1.0, "negatives": 0, "repeats": False, "items": "past"} | head
    heads = {"next": Layout("next_item", V, options=options)}
    made = make_network(model, {"inputs": {"past": Layout("events", V, CONTEXT, channels=34)}, "heads": heads}, 1)
    with torch.no_grad():
        made.heads["next"].bias.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    return made.eval()


def batch(lengths, asked, longest=None, seed=0):
    rng = np.random.default_rng(seed)
    longest = longest or max(lengths)
    events, targets = np.zeros((len(lengths), longest, 2), np.int64), np.zeros((len(lengths), max(asked)), np.int64)
    for row, (length, count) in enumerate(zip(lengths, asked, strict=True)):
        events[row, :length] = np.stack([rng.integers(2, V, length), rng.integers(0, 34, length)], 1)
        targets[row, :count] = rng.integers(2, V, count)
    return Batch({"past": torch.from_numpy(events)}, {"next": torch.from_numpy(targets)}, {"past": torch.tensor(lengths)})


def scores(made, row):
    """(T, V) float64 of one row's newest events alone, oldest first."""
    signal = made.inputs["past"](row[None], torch.tensor([len(row)]))
    head = made.heads["next"]
    x = head.bring(made.trunk([signal]).features)[0].double()
    found = x @ made.inputs["past"].embed_items.weight.double().T + head.bias.double()
    found[:, :2] = -torch.inf
    return found.detach()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_losses_and_lists_are_those_of_each_row_alone_whatever_stands_beside_it(trunk):
    made, lengths, asked = network(trunk), [3, 9, 1, 5], [3, 2, 1, 0]
    given = batch(lengths, asked)
    with torch.no_grad():
        outputs = made(given)
        losses, listed = made.losses(outputs, given)["next"], made.readable(outputs)["next"]
    for row, (length, count) in enumerate(zip(lengths, asked, strict=True)):
        history = given.inputs["past"][row, :length]
        own = scores(made, history[-CONTEXT:])
        nats = [-(own[-1 - back].log_softmax(-1)[given.targets["next"][row, back]]) for back in range(count)]
        assert float(losses[row]) == pytest.approx(float(sum(nats) / count), rel=1e-5) if count else losses[row].isnan()
        may = own[-1].clone()
        may[[0, 1, 2, *history[:, 0].tolist()]] = -torch.inf  # also what lies before the newest events that are read
        shares, ids = may.softmax(-1).sort(descending=True, stable=True)
        known = int((shares > 0).sum())
        assert listed[row, :known, 0].tolist() == ids[:10].tolist()[:known]
        assert listed[row, :, 1].double().numpy() == pytest.approx(shares[:10].numpy(), abs=1e-6)


def test_padding_changes_nothing():
    made = network("transformer")
    short, long = batch([3, 4], [2, 2]), batch([3, 4], [2, 2], longest=11)
    with torch.no_grad():
        for read in (lambda b: made.losses(made(b), b)["next"], lambda b: made.readable(made(b))["next"]):
            assert torch.allclose(read(short), read(long), atol=1e-6)


def test_with_repeats_what_was_seen_may_follow():
    seen = batch([4], [1])
    with torch.no_grad():
        lists = {repeats: set(made.readable(made(seen))["next"][0, :, 0].tolist()) for repeats in (False, True)
                 for made in [network("recurrent", repeats=repeats)]}
    history = set(seen.inputs["past"][0, :, 0].tolist()) - {2.0}
    assert not lists[False] & history
    assert lists[True] & history


def test_the_estimate_from_drawn_items_is_right_on_average():
    """exp of the sum over drawn items is an unbiased estimate of the sum over all, so with many the losses agree."""
    made, given = network("recurrent", negatives=4000), batch([4, 5], [4, 5])
    full = network("recurrent")
    torch.manual_seed(3)
    with torch.no_grad():
        outputs = made(given)
        whole = full.losses(full(given), given)["next"]
        assert torch.allclose(made.losses(outputs, given)["next"], whole)  # measured by all items
        made.train()
        drawn = made.losses(outputs, given)["next"]
    assert not torch.equal(drawn, whole)
    # The right item's own share is counted once more by the uncorrected draws of it, which are masked: within a few per cent.
    assert torch.allclose(drawn, whole, rtol=0.05)


def test_a_network_is_the_same_from_disk_and_nearly_so_in_int8(tmp_path):
    made, given = network("transformer"), batch([4, 5], [1, 1])
    save_network(made, tmp_path)
    again = load_network(tmp_path)
    with torch.no_grad():
        before = made.losses(made(given), given)["next"]
        assert torch.equal(again.losses(again(given), given)["next"], before)
        quantize_network(made)
        after = made.losses(made(given), given)["next"]
    assert not torch.equal(before, after)
    assert torch.allclose(before, after, rtol=0.05)


def test_an_offered_item_is_read_by_the_vectors_of_the_history():
    model = Model.model_validate({
        "inputs": {"past": {"events": {"context": CONTEXT}}, "offer": {"category": {"items": "past"}}},
        "trunk": {"transformer": TRUNKS["transformer"]}, "heads": {"chosen": "binary"},
    })
    layouts = {
        "inputs": {"past": Layout("events", V, CONTEXT, channels=34), "offer": Layout("item", V, options={"items": "past"})},
        "heads": {"chosen": Layout("binary", 2, options={"weight": 1.0})},
    }
    made = make_network(model, layouts, 0).eval()
    given = batch([3, 5], [1, 1])
    given.inputs["offer"] = torch.tensor([7, 9])
    given.targets["chosen"] = torch.tensor([1.0, 0.0])
    before = made(given)["chosen"].detach().clone()
    with torch.no_grad():
        made.inputs["past"].embed_items.weight[7] += 1.0
    after = made(given)["chosen"]
    assert not torch.allclose(before[0], after[0])
    assert sum(parameter.shape == (V, 16) for parameter in made.parameters()) == 1
