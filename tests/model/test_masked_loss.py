"""The loss of hidden tokens, whose scores alone are computed, is the mean over rows of what every position's scores give."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from treadle.core.batch import IGNORE, Batch
from treadle.core.layout import Layout
from treadle.model.network import make_network
from treadle.spec.model import Model


def test_loss_and_gradients_are_those_of_all_scores():
    model = Model.model_validate({
        "inputs": {"text": {"context": 12}}, "trunk": {"transformer": {"depth": 1, "width": 16, "heads": 2}},
        "heads": {"hidden": {"masked_token": {"weight": 2.0}}},
    })
    layouts = {
        "inputs": {"text": Layout("text", vocabulary=30, length=12)},
        "heads": {"hidden": Layout("masked_token", vocabulary=30, options={"weight": 2.0})},
    }
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 30, (5, 12), generator=source)
    wanted = tokens.masked_fill(torch.rand(5, 12, generator=source) > 0.3, IGNORE)
    wanted[3] = IGNORE  # a row that asks for nothing counts in no mean
    batch = Batch({"text": tokens}, {"hidden": wanted})
    ours, plain = make_network(model, layouts, 0), make_network(model, layouts, 0)
    loss = ours.loss(batch)
    loss.backward()
    logits = plain(batch)["hidden"]
    rows = [F.cross_entropy(logits[row][wanted[row] != IGNORE], wanted[row][wanted[row] != IGNORE]) for row in (0, 1, 2, 4)]
    expected = 2.0 * torch.stack(rows).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(loss, 2.0 * plain.losses(plain(batch), batch)["hidden"].nanmean())
    for one, two in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    nothing = Batch({"text": tokens}, {"hidden": torch.full_like(wanted, IGNORE)})
    assert ours.loss(nothing).item() == 0
