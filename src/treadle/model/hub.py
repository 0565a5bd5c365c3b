"""Models at rest: a Hugging Face folder in the Qwen3 or Llama layout, which other programs open unchanged.

An int8 package has the same files; its config.json carries ``"quantization_config": {"quant_method": "treadle_int8"}``, and each
matrix ``X.weight`` is int8 beside ``X.weight_scale`` (one bf16 scale per row). In an int4 package (``treadle_int4``) the layers'
matrices are in four bits: ``X.weight`` has two columns a byte, the even one in the lower half, and ``X.weight_scale`` and
``X.weight_least`` (bf16) one number for each 32 columns, where a weight is least + scale * (0 to 15).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from treadle.core.errors import ArtifactError
from treadle.model.layers.four_bits import Int4Linear
from treadle.model.layers.quantized import Int8Rows, quantize_language
from treadle.model.model import LanguageModel
from treadle.spec.shape import Shape

_METHODS = {f"treadle_{kind}": kind for kind in ("int8", "int4")}


def save_model(model: LanguageModel, folder: Path, end: int = 0, end_text: str = "<|endoftext|>") -> None:
    """Write config.json, generation_config.json, tokenizer_config.json and model.safetensors; tokenizer.json is the caller's.

    ``end``: id of the token that ends a text, which also starts one.
    """
    shape = model.shape
    held = {type(module) for module in model.modules()}
    kind = "int4" if Int4Linear in held else "int8" if any(issubclass(one, Int8Rows) for one in held) else None
    config = _config(shape, end) | ({"quantization_config": {"quant_method": f"treadle_{kind}"}} if kind else {})
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end_text, "eos_token": end_text,
        "model_max_length": shape.context, "clean_up_tokenization_spaces": False,
    }
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": end, "do_sample": False})
    _write(folder / "tokenizer_config.json", tokenizer)
    tensors = {_public_name(model, name): tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_model(folder: Path) -> LanguageModel:
    """The model in ``folder``, in evaluation mode. Raises ``ArtifactError`` where a file is damaged or of another architecture."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"cannot read the model in {folder}: {error}", cure="remove that artifact and run again") from None
    model = LanguageModel(_shape(config, folder))
    if (kind := _kind(config)) is not None:
        quantize_language(model, kind)
    own = {_public_name(model, name): name for name in model.state_dict()}
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or (unknown and unknown != ["lm_head.weight"]):
        detail = f"missing {missing[:3]}, unknown {unknown[:3]}"
        raise ArtifactError(f"the weights in {folder} do not fit their config.json: {detail}", cure="restore the folder as saved")
    wrong = [name for name in own if tensors[name].shape != model.state_dict()[own[name]].shape]
    if wrong:
        message = f"the weights in {folder} have other sizes than config.json says: {wrong[:3]}"
        raise ArtifactError(message, cure="restore the folder as saved")
    model.load_state_dict({own[name]: tensor for name, tensor in tensors.items() if name in own})
    return model.eval()


def load_shape(folder: Path) -> tuple[Shape, str | None, str]:
    """The sizes of the model in ``folder`` by its config.json alone, ``int8`` or ``int4`` where its weights are so, and the type of
    the others, as in ``float32``. Raises ``ArtifactError`` where that cannot be read, or is of another architecture."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read the model in {folder}: {error}", cure="remove that artifact and run again") from None
    return _shape(config, folder), _kind(config), str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _kind(config: dict[str, Any]) -> str | None:
    """What its matrices are quantised to, by a method of this project's own."""
    return _METHODS.get(str(config.get("quantization_config", {}).get("quant_method")))


def _config(shape: Shape, end: int) -> dict[str, Any]:
    kind, name = ("qwen3", "Qwen3ForCausalLM") if shape.qk_norm else ("llama", "LlamaForCausalLM")
    return {
        "architectures": [name], "model_type": kind, "vocab_size": shape.vocabulary, "hidden_size": shape.width,
        "intermediate_size": shape.hidden, "num_hidden_layers": shape.depth, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps, "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta}, "hidden_act": "silu",
        "tie_word_embeddings": shape.tie_embeddings, "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
        "use_cache": True, "bos_token_id": end, "eos_token_id": end, "dtype": "float32", "torch_dtype": "float32",
    }


def _shape(config: dict[str, Any], folder: Path) -> Shape:
    kind = config.get("model_type")
    if kind not in ("qwen3", "llama"):
        raise ArtifactError(f"{folder} holds a {kind!r} model", cure="use one in the qwen3 or llama layout")
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    return Shape(
        vocabulary=int(config["vocab_size"]), context=int(config["max_position_embeddings"]),
        depth=int(config["num_hidden_layers"]), width=width, heads=heads, kv_heads=int(config.get("num_key_value_heads", heads)),
        head_dim=int(config.get("head_dim") or width // heads), hidden=int(config["intermediate_size"]), qk_norm=kind == "qwen3",
        tie_embeddings=bool(config.get("tie_word_embeddings", False)), rope_theta=float(rope["rope_theta"]),
        norm_eps=float(config["rms_norm_eps"]),
    )


def _public_name(model: LanguageModel, name: str) -> str:
    """Our module path -> the name under which Qwen3 and Llama weights are published."""
    name = name.replace(f"inputs.{model.input}.", "model.").replace(f"heads.{model.head}.", "")
    return re.sub(r"^trunk\.", "model.", name)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
