"""Weights of an earlier network in the place of fresh ones."""

from __future__ import annotations

from pathlib import Path

import torch

from treadle.core.errors import UserError
from treadle.model.network import Network, load_network

_OWN = ("trunk.bring.", "trunk.which")  # how several inputs are joined is each network's own


def take_over(network: Network, folder: Path) -> list[str]:
    """Copy the token vectors and the trunk's weights of the network in ``folder`` into ``network``, whose heads stay fresh; gives
    the names of what was copied. Raises ``UserError`` where the two do not fit."""
    earlier = load_network(folder)
    (text,) = (name for name, layout in network.layouts["inputs"].items() if layout.kind in ("text", "pair"))
    (theirs,) = earlier.inputs
    tensors = {name: tensor for name, tensor in earlier.state_dict().items() if name.startswith("trunk.")}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OWN)}
    vectors = "embed_tokens.weight"
    tensors[f"inputs.{text}.{vectors}"] = earlier.inputs[theirs].get_parameter(vectors)
    own = network.state_dict()
    trunk = {name for name in own if name.startswith("trunk.") and not name.startswith(_OWN)}
    unlike = sorted(
        (trunk - set(tensors)) | {name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape}
    )
    if unlike:
        cure = f"write the trunk as it was there: {earlier.spec.trunk.model_dump(exclude_defaults=True)}"
        raise UserError(f"model.start_from: that network is of another kind or size ({', '.join(unlike[:3])})", cure=cure)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return sorted(tensors)
