"""Two texts read apart and compared: padding, order and neighbours do not show, what the texts share does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal
from treadle.model.network import make_network
from treadle.model.trunks.pair import PairTrunk, split_pair
from treadle.spec.model import Model
from treadle.spec.trunks import Recurrent


def signal(texts: list[tuple[int, int]], width: int = 6, padding: float = 0.0) -> Signal:
    """Rows of random features, with texts of the given lengths."""
    longest = max(a + b for a, b in texts)
    features = torch.full((len(texts), longest, width), padding)
    second = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, (a, b) in enumerate(texts):
        features[row, : a + b] = torch.randn(a + b, width, generator=torch.Generator().manual_seed(row))
        second[row, a : a + b] = True
    return Signal(features, torch.tensor([a + b for a, b in texts]), second=second)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_texts_are_cut_apart_where_they_meet(texts: list[tuple[int, int]]) -> None:
    part = signal(texts)
    (one, seen_one), (two, seen_two) = split_pair(part.features, part)
    for row, (a, b) in enumerate(texts):
        assert (int(seen_one[row].sum()), int(seen_two[row].sum())) == (a, b)
        assert torch.equal(one[row, :a], part.features[row, :a])
        assert torch.equal(two[row, :b], part.features[row, a : a + b])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_row_is_read_alike_alone_and_among_longer_ones(cell: str) -> None:
    trunk = PairTrunk(Recurrent(cell=cell, width=5, directions=2, embedding=4), Form(0, 6, pair=True)).eval()
    texts = [(3, 2), (7, 9), (1, 1)]
    together = trunk([signal(texts, padding=9.0)]).features
    for row, lengths in enumerate(texts):
        whole, own = signal(texts), slice(row, row + 1)
        assert whole.lengths is not None
        assert whole.second is not None
        length = sum(lengths)
        alone = Signal(whole.features[own, :length], whole.lengths[own], second=whole.second[own, :length])
        torch.testing.assert_close(trunk([alone]).features, together[row : row + 1], atol=1e-6, rtol=1e-5)


def test_alignment_is_attention_both_ways() -> None:
    """Against the formulas of Parikh et al. (2016), section 3, in float64."""
    torch.manual_seed(0)
    trunk = PairTrunk(Recurrent(width=3, embedding=6), Form(0, 6, pair=True)).double().eval()
    part = signal([(4, 3)])
    part = Signal(part.features.double(), part.lengths, second=part.second)
    a, b = part.features[0, :4], part.features[0, 4:]
    a, b = (torch.cat([x, trunk.net(x[None])[0][0]], 1) for x in (a, b))
    e = 10 * F.cosine_similarity(a[:, None], b[None], dim=-1)
    beta, alpha = e.softmax(1) @ b, e.T.softmax(1) @ a

    def compared(own: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        return F.relu(trunk.compare(torch.cat([own, found, (own - found).abs(), own * found], 1)))

    v = [torch.cat([x.mean(0), x.max(0).values]) for x in (compared(a, beta), compared(b, alpha))]
    expected = F.relu(trunk.join(torch.cat([v[0], v[1], (v[0] - v[1]).abs(), v[0] * v[1]])))
    torch.testing.assert_close(trunk([part]).features[0, 0], expected)


def test_whether_two_texts_share_a_word_is_learned_for_words_never_seen_together() -> None:
    """What a net over the joined texts does not find out from as few examples."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int, words: range) -> Batch:
        one = torch.randint(words.start, words.stop, (count, 4), generator=generator)
        two = torch.randint(words.start, words.stop, (count, 4), generator=generator)
        shares = (one[:, :, None] == two[:, None]).any((1, 2)).long()
        which = torch.arange(8).ge(4).long().expand(count, 8)
        both = torch.stack([torch.cat([one, two], 1), which], -1)
        return Batch({"both": both}, {"same": shares}, {"both": torch.full((count,), 8)})

    model = Model.model_validate({
        "inputs": {"both": {"pair": {"columns": ["a", "b"]}}}, "heads": {"same": "category"},
        "trunk": {"recurrent": {"width": 16, "embedding": 32}},
    })
    layouts = {
        "inputs": {"both": Layout("pair", vocabulary=40, length=8)},
        "heads": {"same": Layout("category", vocabulary=2, options={"smoothing": 0.0})},
    }
    network = make_network(model, layouts, 0)
    assert isinstance(network.trunk, PairTrunk)
    optimizer = torch.optim.Adam(network.parameters(), 0.005)
    for _ in range(150):
        loss = network.loss(drawn(64, range(2, 40)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = drawn(1000, range(2, 40))
    with torch.no_grad():
        accuracy = (network.eval()(held_out)["same"].argmax(1) == held_out.targets["same"]).float().mean()
    assert accuracy > 0.9
