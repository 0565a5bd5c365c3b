"""Any model but the language models of public layouts: inputs, a trunk, heads, as ``model:`` says and the data's layouts fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from treadle.core.batch import Batch
from treadle.core.errors import ArtifactError
from treadle.core.layout import Layout
from treadle.core.paths import find_path
from treadle.model.heads.boxes import BoxesHead
from treadle.model.heads.embedding import EmbeddingHead
from treadle.model.heads.items import NextItemHead
from treadle.model.heads.scalar import BinaryHead, ClassHead, LabelsHead, NumberHead
from treadle.model.heads.tags import TagsHead
from treadle.model.heads.tokens import TokenHead
from treadle.model.heads.transcript import TranscriptHead
from treadle.model.inputs.audio import AudioInput
from treadle.model.inputs.encoder import EncoderInput
from treadle.model.inputs.events import EventsInput, ItemInput
from treadle.model.inputs.fields import NameInput, NumberInput, SetInput, VectorInput
from treadle.model.inputs.image import ImageInput
from treadle.model.inputs.text import PairInput, TokensInput, texts_apart
from treadle.model.layers.quantized import Int8Rows, quantize_modules
from treadle.model.layers.signal import Form, Signal, part_of
from treadle.model.open_weights import load_open_weights, read_shape
from treadle.model.trunks.conv import ConvTrunk
from treadle.model.trunks.encoder import EncoderTrunk
from treadle.model.trunks.mlp import MlpTrunk
from treadle.model.trunks.pair import PairTrunk
from treadle.model.trunks.pretrained import PretrainedTrunk
from treadle.model.trunks.recurrent import RecurrentTrunk, States
from treadle.spec.derive import transformer_shape
from treadle.spec.encoder import EncoderShape
from treadle.spec.model import Model

FILE = "network.json"
WEIGHTS = "model.safetensors"

INPUTS: dict[str, Callable[..., nn.Module]] = {
    "number": NumberInput, "category": NameInput, "boolean": NameInput, "set": SetInput, "date": VectorInput,
    "text": TokensInput, "pair": PairInput, "image": ImageInput,
    "audio": AudioInput,
    "events": EventsInput, "item": ItemInput,
}
"""Kind -> (layout, kind of trunk, **more) -> a module with ``form`` that gives a ``Signal``."""
HEADS: dict[str, Callable[..., nn.Module]] = {
    "category": ClassHead, "binary": BinaryHead, "number": NumberHead, "labels": LabelsHead,
    "ctc": TranscriptHead, "tags": TagsHead, "embedding": EmbeddingHead,
    "next_token": TokenHead, "masked_token": TokenHead,
    "next_item": NextItemHead,
    "boxes": BoxesHead,
}
"""Kind -> (layout, form of the trunk's signal, **more) -> a module with ``outputs``, ``losses`` and ``readable``."""
_LAYER = re.compile(r"trunk\.(?:encoder\.layer|layers)\.(\d+)\.")
"""Names of the parameters in one of a trunk's layers, counted from the lowest."""
_APART = ("category", "binary", "number", "next_token")
"""Heads whose loss of a row follows from that row alone, and is missing where its answer is."""
_SEQUENCES = ("text", "pair", "image", "events", "item", "next_item")

Layouts = Mapping[str, Mapping[str, Layout]]
"""``inputs`` and ``heads`` by name."""


class Network(nn.Module):
    """``model`` and ``layouts`` say all its sizes; with a pretrained trunk, ``encoder`` its own."""

    def __init__(self, model: Model, layouts: Layouts, encoder: EncoderShape | None = None) -> None:
        super().__init__()
        self.spec, self.layouts, self.encoder = model, layouts, encoder
        self.apart = any(layout.kind == "embedding" for layout in layouts["heads"].values())
        read = {name: replace(layout, kind="text") if self.apart else layout for name, layout in layouts["inputs"].items()}
        self.inputs = nn.ModuleDict({name: _make_input(layout, model, encoder) for name, layout in read.items()})
        width = _token_width(model)
        forms: list[Any] = [module.form for module in self.inputs.values()]
        self.trunk = _make_trunk(model, forms, encoder)
        self.heads = nn.ModuleDict({
            name: HEADS[layout.kind](layout, self.trunk.form, **({"width": width} if layout.kind in _SEQUENCES else {}))
            for name, layout in layouts["heads"].items()
        })
        self.mixup = {name: given.image.augment.mixup for name, given in model.inputs.items() if given.image is not None}
        self.mixes, self.masks = any(self.mixup.values()), model.masks
        self.weights = {name: float((layout.options or {}).get("weight", 1.0)) for name, layout in layouts["heads"].items()}
        self._freeze()

    def signal(self, batch: Batch) -> Signal:
        """What the trunk makes of the batch's inputs."""
        found: Signal = self.trunk(self._parts(batch))
        return found

    def _parts(self, batch: Batch) -> list[Signal]:
        if self.apart:
            ((name, module),) = self.inputs.items()
            return [module(*texts_apart(batch.inputs[name], batch.lengths[name]))]
        return [
            module(batch.inputs[name], batch.lengths.get(name), *self._items(self.layouts["inputs"][name]))
            for name, module in self.inputs.items()
        ]

    def forward(self, batch: Batch) -> dict[str, Any]:
        """Each head's outputs, as its loss takes them."""
        parts, found = self._parts(batch), {}
        signal = self.trunk(parts)
        for name, head in self._heads():
            layout = self.layouts["heads"][name]
            items = self._items(layout)
            history = [batch.inputs[self._history(layout)]] if items else []
            own = (layout.options or {}).get("input")  # the one whose positions it is about
            asked = part_of(signal, parts, list(self.inputs).index(own)) if own else signal
            found[name] = head.outputs(asked, *items, *history)
        return found

    def losses(self, outputs: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """Each head's loss per row (B,), NaN where a row has no answer."""
        return {name: head.losses(outputs[name], batch.targets[name]) for name, head in self._heads()}

    def loss(self, batch: Batch) -> Tensor:
        """The sum over heads of weight times the mean loss over the rows that have an answer; of mixed pictures where training asks
        for them."""
        if self.training and self.mixes:
            return self._mixed(batch)
        if self.masks:
            ((name, head),) = self._heads()
            found: Tensor = head.loss_of(self.signal(batch), batch.targets[name])
            return found * self.weights[name]
        return self._sum(self(batch), batch)

    def _mixed(self, batch: Batch) -> Tensor:
        """Each picture mixed with another one of the batch, and the losses against both answers in the same shares (Zhang et al.
        2018, section 2). The draws are torch's own, which a checkpoint keeps."""
        ((name, alpha),) = self.mixup.items()
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        other = batch.take(torch.randperm(batch.size, device=batch.inputs[name].device))
        pictures = share * batch.inputs[name].float() + (1 - share) * other.inputs[name].float()
        outputs = self(Batch({name: pictures}, batch.targets, batch.lengths))
        return share * self._sum(outputs, batch) + (1 - share) * self._sum(outputs, other)

    def _sum(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        parts = []
        for name, head in self._heads():
            part, weight = _mean(head, outputs[name], batch.targets[name]), self.weights[name]
            parts.append(part * weight if weight != 1.0 else part)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    def terms(self, batch: Batch) -> int:
        """How many rows the loss is a mean of; with several heads, whose answers may be missing apart, all rows."""
        kinds = [layout.kind for layout in self.layouts["heads"].values()]
        if len(kinds) > 1 or kinds[0] not in _APART:
            return batch.size
        (targets,) = batch.targets.values()
        known = ~targets.isnan() if targets.is_floating_point() else targets >= 0
        return int(known.flatten(1).any(1).sum() if known.dim() > 1 else known.sum())

    def readable(self, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Each head's outputs as answers are read from them."""
        return {name: head.readable(outputs[name]) for name, head in self._heads()}

    def layer_scales(self, decay: float) -> dict[str, float]:
        """Parameter's name -> ``decay`` to the power of how many layers lie between it and the head: 0 of the heads and what stands
        behind the trunk's layers, one more of each layer further down, and most of the inputs."""
        named = {name: _LAYER.match(name) for name, _ in self.named_parameters()}
        depth = 1 + max((int(found[1]) for found in named.values() if found), default=-1)
        below = {name: depth - int(found[1]) for name, found in named.items() if found}
        below |= {name: depth + 1 for name in named if name.startswith(("inputs.", "trunk.bring", "trunk.which"))}
        return {name: decay ** below.get(name, 0) for name in named}

    def _freeze(self) -> None:
        """Of a pretrained trunk, take the embeddings and then the lowest layers out of training, as many as it says."""
        if settings := self.spec.trunk.pretrained:
            stack = [*self.inputs.values(), *self.trunk.encoder.layer]
            for module in stack[: settings.freeze]:
                module.requires_grad_(False)

    # -- of running text: one text, one head over its tokens --------------------------------------------------------------

    @property
    def context(self) -> int:
        """Most tokens that it was trained to see at once."""
        return next(iter(self.layouts["inputs"].values())).length

    @property
    def vocabulary(self) -> int:
        return next(iter(self.layouts["heads"].values())).vocabulary

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, V)."""
        (name,) = self.inputs
        scores: list[Tensor] = list(self(Batch({name: tokens}, {})).values())
        return scores[0]

    def blank(self, rows: int) -> States:
        """The state of a recurrent net that has read nothing, for ``rows`` sequences."""
        assert isinstance(self.trunk, RecurrentTrunk)
        return self.trunk.blank(rows)

    def carry(self, tokens: Tensor, states: States) -> tuple[Tensor, States]:
        """Read tokens (B, T) on from ``states`` -> the scores (B, V) of what follows, and the states there."""
        assert isinstance(self.trunk, RecurrentTrunk)
        (module,), (head,) = self.inputs.values(), self.heads.values()
        signal, after = self.trunk.carry(module(tokens), states)
        return head.outputs(Signal(signal.features[:, -1:]))[:, 0], after  # type: ignore[operator]

    def _items(self, layout: Layout) -> list[nn.Module]:
        """The vectors of the history's items, for what shares them."""
        history = self._history(layout)
        return [self.inputs[history].embed_items] if history else []  # type: ignore[list-item]

    def _history(self, layout: Layout) -> str:
        """The input of whose items the layout is, or nothing."""
        return str((layout.options or {}).get("items", ""))

    def _heads(self) -> Iterator[tuple[str, Any]]:
        yield from self.heads.items()

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def make_network(model: Model, layouts: Layouts, seed: int, folder: Path = Path()) -> Network:
    """A network with fresh weights, a pure function of the arguments: torch's own initial weights, embeddings with deviation 1/sqrt
    of their width; those of a pretrained trunk are read from its folder, for which relative paths start at ``folder``."""
    open_weights = find_path(model.trunk.pretrained.folder, folder) if model.trunk.pretrained else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(model, layouts, read_shape(open_weights) if open_weights else None)
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, 0.0, module.embedding_dim**-0.5)
    if open_weights:
        load_open_weights(network, next(iter(network.inputs)), open_weights)
    return network


def quantize_network(network: Network) -> None:
    """Hold the matrices of dense layers and embeddings as int8, in place; recurrent cells and convolutions stay as they are."""
    quantize_modules(network, exact=True)


def save_network(network: Network, folder: Path) -> None:
    """Write network.json (the model section, the layouts, a pretrained trunk's sizes, and whether it is quantised) and
    model.safetensors."""
    layouts = {kind: {name: layout.as_dict() for name, layout in part.items()} for kind, part in network.layouts.items()}
    quantized = any(isinstance(module, Int8Rows) for module in network.modules())
    found = {"model": network.spec.model_dump(mode="json"), "layouts": layouts, "quantize": "int8" if quantized else "none"}
    found |= {"encoder": network.encoder.as_dict()} if network.encoder else {}
    (folder / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_network(folder: Path) -> Network:
    """The network in ``folder``, in evaluation mode. Raises ``ArtifactError`` where a file is damaged."""
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        layouts = {
            kind: {name: Layout.from_dict(layout) for name, layout in part.items()} for kind, part in found["layouts"].items()
        }
        encoder = EncoderShape.from_dict(found["encoder"]) if "encoder" in found else None
        network = Network(Model.model_validate(found["model"]), layouts, encoder)
        if found["quantize"] == "int8":
            quantize_network(network)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"cannot read the model in {folder}: {error}", cure="remove that artifact and run again") from None
    return network.eval()


def _make_input(layout: Layout, model: Model, encoder: EncoderShape | None) -> Any:
    if encoder and model.trunk.pretrained:
        return EncoderInput(layout, encoder, model.trunk.pretrained.dropout)
    more = {"width": _token_width(model)} if layout.kind in _SEQUENCES else {}
    return INPUTS[layout.kind](layout, model.trunk.kind, **more)


def _make_trunk(model: Model, forms: list[Form], encoder: EncoderShape | None) -> Any:
    settings = model.trunk.settings
    if encoder:
        return PretrainedTrunk(encoder, settings.dropout, forms)
    if model.trunk.kind == "mlp":
        return MlpTrunk(settings, forms)
    if model.trunk.kind == "conv":
        return ConvTrunk(settings, forms)
    if model.trunk.kind == "recurrent":
        aligned = len(forms) == 1 and forms[0].pair
        return PairTrunk(settings, forms[0]) if aligned else RecurrentTrunk(settings, forms)
    looks_ahead = any(head.kind in ("next_token", "next_item") for head in model.heads.values())
    return EncoderTrunk(settings, forms, looks_ahead if settings.causal is None else settings.causal)


def _token_width(model: Model) -> int:
    """Features per token: those of the trunk where it reads a sequence, else 128."""
    if model.trunk.recurrent:
        return model.trunk.recurrent.embedding
    return transformer_shape(model.trunk.transformer, 0, 0).width if model.trunk.transformer else 128


def _mean(head: Any, outputs: Any, targets: Tensor) -> Tensor:
    """The mean of a head's losses over the rows with an answer, 0 where there is none; by a shorter way where the head has one."""
    if hasattr(head, "loss"):
        found: Tensor = head.loss(outputs, targets)
        return found
    losses: Tensor = head.losses(outputs, targets)
    return losses.nansum() / (~losses.isnan()).sum().clamp_min(1)
