"""Recordings in a network: the sequence, the picture, and the loss of a transcript against every alignment there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.heads.transcript import TranscriptHead
from treadle.model.inputs.audio import AudioInput
from treadle.model.layers.signal import Form, Signal
from treadle.model.network import make_network
from treadle.spec.derive import Contradiction, derive
from treadle.spec.model import Model
from treadle.spec.project import ProjectSpec

AUDIO = Layout("audio", length=12, channels=8, mean=tuple(np.linspace(-5, -3, 8)), deviation=tuple(np.linspace(1, 3, 8)))
TEXT = Layout("ctc", vocabulary=6, options={"weight": 1.0})
FRAMES = torch.from_numpy(np.random.default_rng(0).normal(-4, 2, (3, 9, 8)).astype(np.float16))
LENGTHS = torch.tensor([9, 4, 6])


def test_frames_are_normalised_per_band():
    signal = AudioInput(AUDIO, "recurrent")(FRAMES, LENGTHS)
    expected = (FRAMES.double().numpy() - np.array(AUDIO.mean)) / np.array(AUDIO.deviation)
    assert np.allclose(signal.features.numpy(), expected, atol=1e-5)
    assert signal.lengths is LENGTHS


def test_a_picture_has_one_size_and_the_mean_behind_the_end():
    module = AudioInput(AUDIO, "conv")
    assert module.form == Form(12, 8)
    picture = module(FRAMES, LENGTHS).features
    assert picture.shape == (3, 12, 8)
    assert torch.equal(picture[1, 4:], torch.zeros(8, 8))
    alone = module(FRAMES[1:2, :4], torch.tensor([4])).features
    assert torch.equal(picture[1:2], alone)


@pytest.mark.parametrize("trunk", [
    {"conv": {"channels": [4, 8], "dense": [8]}}, {"recurrent": {"width": 6, "embedding": 5, "directions": 2}},
    {"transformer": {"depth": 1, "width": 16, "heads": 2, "kv_heads": 1, "hidden": 16}}, {"mlp": {"width": 8}},
], ids=lambda trunk: next(iter(trunk)))
def test_what_stands_behind_a_recording_changes_nothing(trunk: dict):
    model = Model.model_validate({"inputs": {"speech": "audio"}, "trunk": trunk, "heads": {"digit": "category"}})
    network = make_network(model, {"inputs": {"speech": AUDIO}, "heads": {"digit": Layout("category", vocabulary=3)}}, 0).eval()
    other = FRAMES.clone()
    other[1, 4:] = 100.0
    outputs = [network(Batch({"speech": frames}, {}, {"speech": LENGTHS}))["digit"] for frames in (FRAMES, other)]
    assert torch.equal(*outputs)
    alone = network(Batch({"speech": FRAMES[1:2, :4]}, {}, {"speech": LENGTHS[1:2]}))["digit"]
    assert torch.allclose(alone, outputs[0][1:2], atol=1e-5)
    assert not torch.allclose(outputs[0][0], outputs[0][2])


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(id for id, _ in itertools.groupby(path) if id != 0)


def every_alignment(logits: np.ndarray, text: tuple[int, ...]) -> float:
    """-log of the summed probability of all paths that collapse to ``text`` (Graves et al. 2006, equation 3), in float64."""
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    paths = itertools.product(range(logits.shape[1]), repeat=len(logits))
    total = math.fsum(math.exp(sum(logs[t, id] for t, id in enumerate(path))) for path in paths if collapsed(path) == text)
    return -math.log(total) if total else math.inf


def test_the_loss_is_the_sum_over_every_alignment():
    torch.manual_seed(0)
    head = TranscriptHead(Layout("ctc", vocabulary=4), Form(0, 5))
    lengths = torch.tensor([5, 3, 4, 1, 2])
    texts = [(2, 3, 2), (2, 2), (3,), (2, 3), (1, 1)]
    targets = torch.tensor([[*text, *[0] * (3 - len(text))] for text in texts])
    outputs = head.outputs(Signal(torch.randn(5, 5, 5), lengths))
    losses = head.losses(outputs, targets)
    for row, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        expected = every_alignment(outputs[row, :length].detach().double().numpy(), text)
        assert losses[row].item() == pytest.approx(expected, rel=1e-5) if math.isfinite(expected) else losses[row].isnan()
    assert losses.isnan().tolist() == [False, False, False, True, True]
    losses.nansum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in head.parameters())


def test_an_impossible_text_moves_no_weight():
    head = TranscriptHead(TEXT, Form(0, 5))
    losses = head.losses(head.outputs(Signal(torch.randn(1, 2, 5))), torch.tensor([[2, 2]]))
    losses.where(~losses.isnan(), 0.0).sum().backward()
    assert losses.isnan().all()
    assert all(float(p.grad.abs().sum()) == 0 for p in head.parameters() if p.grad is not None)


def test_the_likeliest_path_is_collapsed():
    head = TranscriptHead(TEXT, Form(0, 5))
    paths = torch.tensor([[0, 2, 2, 0, 2, 3, 3, 0], [4, 4, 5, 5, 0, 0, 0, 0], [0] * 8])
    found = head.readable(torch.nn.functional.one_hot(paths, 6).float())
    assert found.tolist() == [[2, 2, 3, 0, 0, 0, 0, 0], [4, 5, 0, 0, 0, 0, 0, 0], [0] * 8]


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_a_network_spells_what_it_was_shown(kind: str):
    given = {"recurrent": {"width": 24, "embedding": 16, "directions": 2}, "transformer": {"depth": 1, "width": 32}}[kind]
    model = Model.model_validate({"inputs": {"speech": "audio"}, "trunk": {kind: given}, "heads": {"said": "ctc"}})
    network = make_network(model, {"inputs": {"speech": AUDIO}, "heads": {"said": TEXT}}, 0)
    batch = Batch({"speech": FRAMES}, {"said": torch.tensor([[2, 3, 4], [5, 0, 0], [3, 3, 0]])}, {"speech": LENGTHS})
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        loss = network.loss(batch)
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.1
    outputs = network.eval()(batch)
    assert network.readable(outputs)["said"][:, :3].tolist() == [[2, 3, 4], [5, 0, 0], [3, 3, 0]]


def project(model: dict) -> ProjectSpec:
    data = {"sources": [{"media": "x", "into": "speech", "licence": "CC0-1.0"}]}
    return ProjectSpec.model_validate({"name": "x", "data": data, "model": model})


@pytest.mark.parametrize(("inputs", "trunk", "said"), [
    ({"speech": "audio"}, {"conv": {}}, "needs positions, which trunk conv sums up"),
    ({"speech": "audio"}, {"mlp": {}}, "needs positions, which trunk mlp sums up"),
    ({"speech": "audio", "age": "number"}, {"recurrent": {}}, "positions of the recording alone"),
    ({"note": "text"}, {"recurrent": {}}, "exactly one input of kind audio"),
])
def test_a_transcript_needs_a_recording_and_its_positions(inputs: dict, trunk: dict, said: str):
    with pytest.raises(Contradiction, match=said):
        derive(project({"inputs": inputs, "trunk": trunk, "heads": {"said": "ctc"}}))
