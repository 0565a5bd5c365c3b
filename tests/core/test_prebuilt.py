"""Kernels that were compiled beforehand: one for each set of instructions, the best that the processor has, the same results."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from treadle.core import prebuilt
from treadle.core.compiler import compiler, sources_digest
from treadle.core.prebuilt import LEVELS, build, find, instructions

USE = """
import torch
from treadle.model.layers.quantized import quantize_language
from treadle.model.model import make_model
from treadle.model.generate import make_memory
from treadle.model.memory import Part
from treadle.spec.shape import Shape
text = list(range(1, 40))
for kind, most in (("float32", 3e-6), ("bfloat16", 0.01), ("int8", 0.05), ("int4", 0.06)):
    shape = Shape(vocabulary=64, context=64, width=160, depth=2, heads=4, kv_heads=2, head_dim=40, hidden=288)
    model = make_model(shape, 0).eval().requires_grad_(False)
    if kind == "bfloat16":
        [p.copy_(p.bfloat16()) for p in model.parameters()]
    if kind[:3] == "int":
        quantize_language(model, kind)
    expected = model.logits(torch.tensor([text]))[0]
    memory = make_memory(model, 2)
    for slot in range(2):
        memory.admit(slot, text, 60, reader=str(slot))
    found = memory.read_parts(model, [Part(0, text, len(text))])
    one, two = (memory.read_parts(model, [Part(1, part, len(part))]) for part in (text[:17], text[17:]))
    alike = "alike" if torch.equal(torch.cat([one, two]), found) else "apart"
    near = "near" if float((found - expected).norm() / expected.norm()) < most else "far"
    print(type(memory.decoder).__name__, str(memory.decoder.kind)[6:], alike, near)
"""
ALL = ("float32", "bfloat16", "int8", "uint4")


def said_of(decoder: str, kinds: Sequence[str]) -> str:
    return "\n".join(f"{decoder} {kind} alike near" for kind in kinds)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None or platform.machine() != "x86_64":
        pytest.skip("needs a C compiler on x86-64")
    folder = tmp_path_factory.mktemp("kernels")
    assert build(folder) == [level.name for level in LEVELS]
    return folder


def use(folder: Path, cache: Path) -> tuple[str, str]:
    known = os.environ | {"CC": "/nowhere/cc", "TREADLE_KERNELS": str(folder), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", USE], env=known, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_machine_without_a_compiler_computes_with_each_that_it_can(built: Path, tmp_path: Path, level: prebuilt.Level) -> None:
    if not level.needs <= instructions():
        pytest.skip(f"this processor lacks {', '.join(sorted(level.needs - instructions()))}")
    name = f"{level.name}-{sources_digest()}.so"
    (tmp_path / name).write_bytes((built / name).read_bytes())
    found, said = use(tmp_path, tmp_path / "cache")
    assert found == said_of("CompiledDecoder", ALL)
    assert f"the kernels that were built for {level.name} compute" in said
    assert not (tmp_path / "cache").exists()


def test_a_processor_without_wide_vectors_computes_the_same(tmp_path: Path) -> None:
    """By the plain C that others have no need of."""
    command = compiler()
    if command is None or platform.machine() != "x86_64":
        pytest.skip("needs a C compiler on x86-64")
    known = os.environ | {"CC": shlex.join([*command, "-mno-avx"]), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", USE], env=known, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said_of("CompiledDecoder", ALL)


def test_what_is_missing_damaged_or_of_other_sources_is_said_and_done_without(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = use(tmp_path, tmp_path)
    assert found == said_of("TorchDecoder", ["float32"] * 4)
    assert "no kernels in TREADLE_KERNELS" in said
    for level in LEVELS:
        (tmp_path / f"{level.name}-{sources_digest()}.so").write_bytes(b"damaged")
    assert "do not load" in use(tmp_path, tmp_path)[1]
    monkeypatch.setenv("TREADLE_KERNELS", str(built))
    assert find() is not None
    monkeypatch.setattr(prebuilt, "sources_digest", lambda: "of-another-treadle")
    assert find() is None


@pytest.mark.parametrize(
    ("has", "expected"),
    [(LEVELS[0].needs, LEVELS[0].name), (LEVELS[1].needs | {"avx512_fp16"}, LEVELS[1].name), (LEVELS[2].needs, LEVELS[2].name),
     (LEVELS[1].needs - {"avx512_vnni"}, LEVELS[2].name), (LEVELS[0].needs - {"avx2"}, None)],
)
def test_the_most_that_the_processor_has_is_taken(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: frozenset[str], expected: str | None
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name : x\nflags\t\t: fpu {' '.join(sorted(has))} sse\n\nprocessor : 1\n")
    assert has <= instructions(info)
    assert instructions(tmp_path / "none") == frozenset()
    monkeypatch.setattr(prebuilt, "instructions", lambda: has)
    monkeypatch.setenv("TREADLE_KERNELS", str(built))
    found = find()
    assert (found and found[0]) == expected


def test_without_a_compiler_or_on_another_machine_nothing_is_built_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert build(tmp_path / "none") == []
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert build(tmp_path / "none") == []
    said = capfd.readouterr().err
    assert "there is no C compiler here" in said
    assert "this machine is aarch64" in said
    assert not (tmp_path / "none").exists()
    monkeypatch.undo()
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'unknown -march' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert build(tmp_path / "none") == []
    assert capfd.readouterr().err.count("unknown -march") == len(LEVELS)
