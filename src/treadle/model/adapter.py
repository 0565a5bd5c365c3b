"""Adapters of low rank beside a language model's matrices (Hu et al., LoRA, ICLR 2022), from a folder in PEFT's format.

A product W x becomes W x + s B A x, with A (r, columns), B (rows, r) and s = alpha / r, or alpha / sqrt(r) where it says
``use_rslora`` (Kalajdzievski, 2023). The decoder adds that for the texts that ask for it and for no others, so that one model in
memory answers with any of several.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from treadle.core.errors import ArtifactError, UserError
from treadle.spec.shape import Shape

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PRODUCTS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""The matrices of a layer whose rows the kernel has as one, in its order."""
_NAME = re.compile(r"(?:base_model\.model\.)?model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_(A|B)\.weight")
_UNDONE = ("use_dora", "fan_in_fan_out", "modules_to_save", "alpha_pattern", "layer_replication")
_Pair = dict[str, Tensor]


@dataclass(frozen=True)
class Adapter:
    """As the decoder adds it: for each layer and product the rank, 0 where nothing is added, and A (rank, columns) and s B (rows,
    rank) in float32."""

    name: str
    digest: str
    """SHA-256 of its weights' file."""
    ranks: tuple[int, ...]
    matrices: tuple[Tensor | None, ...]

    @classmethod
    def load(cls, folder: Path, name: str, shape: Shape) -> Adapter:
        """Of a model of this ``shape``. Raises ``UserError`` where the folder holds what is not done here, or for another model,
        and ``ArtifactError`` where it cannot be read."""
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
            with safe_open(folder / WEIGHTS, "pt") as file:
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            cure = f"a folder of PEFT's has {CONFIG} and {WEIGHTS}"
            raise ArtifactError(f"cannot read the adapter {name!r} in {folder}: {error}", cure=cure) from None
        _check(config, name)
        layers = _layers(tensors, name, shape)
        ranks, matrices = list[int](), list[Tensor | None]()
        for layer in layers:
            for members in PRODUCTS:
                a, b = _joined([(_size(shape, member), layer.get(member)) for member in members], config)
                ranks.append(0 if a is None else a.shape[0])
                matrices += [a, b]
        return cls(name, digest, tuple(ranks), tuple(matrices))

    @property
    def bytes(self) -> int:
        """In memory."""
        return sum(given.nbytes for given in self.matrices if given is not None)


def _check(config: Mapping[str, Any], name: str) -> None:
    """Raises ``UserError`` for what an adapter may be and is not done here."""
    undone = {
        "peft_type": config.get("peft_type") != "LORA", "bias": config.get("bias", "none") != "none",
        **{key: bool(config.get(key)) for key in _UNDONE},
    }
    wrong = [key for key, is_wrong in undone.items() if is_wrong]
    if wrong:
        message = f"the adapter {name!r} has {wrong[0]} = {json.dumps(config.get(wrong[0]))}, which is not done here"
        cure = "serve.adapters takes LoRA of matrices alone: without biases, DoRA, or other modules saved with it"
        raise UserError(message, cure=cure)


def _layers(tensors: Mapping[str, Tensor], name: str, shape: Shape) -> list[dict[str, _Pair]]:
    """Of each layer, by the matrix's name, its A and B. Raises ``UserError``."""
    layers: list[dict[str, _Pair]] = [{} for _ in range(shape.depth)]
    for key, tensor in tensors.items():
        found = _NAME.fullmatch(key)
        if not found or found[2] not in {member for members in PRODUCTS for member in members}:
            cure = "serve.adapters takes LoRA of attention's and the MLP's matrices"
            raise UserError(f"the adapter {name!r} changes {key}", cure=cure)
        if int(found[1]) >= shape.depth:
            raise UserError(f"the adapter {name!r} has a layer {found[1]}, and the model has {shape.depth}", cure=_OTHER)
        layers[int(found[1])].setdefault(found[2], {})[found[3]] = tensor
    for index, layer in enumerate(layers):
        for member, pair in layer.items():
            rows, columns = _size(shape, member)
            shapes = {part: tuple(tensor.shape) for part, tensor in pair.items()}
            rank = pair["A"].shape[0] if "A" in pair and pair["A"].ndim == 2 else 0
            if shapes != {"A": (rank, columns), "B": (rows, rank)} or not rank:
                wanted = f"A (r, {columns}) and B ({rows}, r)"
                raise UserError(f"the adapter {name!r} has {shapes} for {member} of layer {index}, not {wanted}", cure=_OTHER)
    if not any(layers):
        raise UserError(f"the adapter {name!r} changes nothing", cure=f"its {WEIGHTS} holds no lora_A and lora_B")
    return layers


_OTHER = "it was trained for another model: train it on the one that is served"


def _size(shape: Shape, member: str) -> tuple[int, int]:
    """Rows and columns of a layer's matrix."""
    width, hidden, heads, keys = shape.width, shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "q_proj": (heads, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, heads),
        "gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden),
    }[member]


def _joined(members: list[tuple[tuple[int, int], _Pair | None]], config: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """A of all that are there, one below the other, and s B of each in the rows of its own matrix and the columns of its own A."""
    there = [pair for _, pair in members if pair]
    if not there:
        return None, None
    a = torch.cat([pair["A"] for pair in there])
    b, row, column = torch.zeros(sum(size[0] for size, _ in members), a.shape[0]), 0, 0
    for (rows, _), pair in members:
        if pair:
            rank = pair["A"].shape[0]
            scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
            b[row : row + rows, column : column + rank] = scale * pair["B"]
            column += rank
        row += rows
    return a.contiguous(), b.contiguous()
