"""A project small enough to be built in seconds, on real source files that every Python has."""

from __future__ import annotations

from pathlib import Path

from treadle.core.project import Project, load_project
from treadle.spec.shape import Shape

SPEC = """\
name: tiny
data:
  sources: [{files: "{stdlib}/email/*.py", licence: PSF-2.0}]
  split: {test: 25%, validation: 15%}
model:
  inputs: {text: {tokenizer: {bpe: 400}, context: 32}}
  trunk: {transformer: {depth: 1, width: 32, heads: 2, kv_heads: 1, hidden: 64}}
train: {budget: 30 steps, batch: 4, learning_rate: 0.01, validate_tokens: 512, threads: 1, precision: float32}
evaluate: {gate: {bits_per_byte: "<= 8"}, max_tokens: 4000, resamples: 200, sample: {prompts: ["def "], tokens: 8}}
compress: {max_drift: 5%}
serve: {port: 0}
improve: {min_feedback: 8, max_loss: 50%, learning_rate: 0.02}
"""

SHAPE = Shape(vocabulary=300, context=32, depth=2, width=32, heads=4, kv_heads=2, head_dim=8, hidden=64)


def write_project(folder: Path, *overrides: str, text: str = SPEC) -> Project:
    """The tiny project in ``folder``, with ``a.b=c`` overrides."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "treadle.yaml").write_text(text, encoding="utf-8")
    return load_project(folder, overrides)
