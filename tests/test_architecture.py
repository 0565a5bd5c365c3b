"""The walls of the house: who may import whom, and what may stand nowhere. See docs/architecture.md."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

import treadle

SOURCE = Path(treadle.__file__).parent
MOST_LINES = 450

# Lowest first. A unit sees those of earlier rows and itself, never its neighbours. "" is the package's own __init__.
LAYERS = (
    ("",),
    ("spec",),
    ("core",),
    ("data", "model", "optim"),
    ("store",),
    ("prepare", "train", "evaluate", "compress", "serve", "feedback", "plan", "report", "ship"),
    ("settle",),
    ("pipeline", "tune", "check", "scaffold", "show", "starter", "rollout", "console"),
    ("cli",),
    ("__main__", "recipes"),
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
# Within model/: these parts see only layers beside what lies below model; model.py and its neighbours bring them together.
PARTS = {"inputs": {"inputs", "layers"}, "trunks": {"trunks", "layers"}, "heads": {"heads", "layers"}, "layers": {"layers"}}
# 6 to 17 s each, so only where they are used.
HEAVY = {"mlflow", "wandb", "transformers", "torchao", "ray", "opacus", "trl", "peft", "accelerate", "datasets"}
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# These answer at once or run where torch is not wanted: help, check, schema, the counting half of plan, the store.
TORCH_FREE = (
    "cli", "check", "scaffold", "show", "starter", "spec.load", "core.errors", "core.machine", "core.progress", "core.project",
    "core.registry", "store.artifacts", "store.ledger", "plan.counting", "data.record", "data.schema",
    "report.watch", "report.compare", "store.seed", "ship.package", "rollout",
)


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    at_top: bool


@dataclass(frozen=True)
class Module:
    name: str
    """Dotted, without the package's own name; "" is the package itself."""
    path: Path
    tree: ast.Module
    lines: int

    @property
    def unit(self) -> str:
        return self.name.partition(".")[0]


def read_modules(root: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    return modules


def imports_of(module: Module, modules: dict[str, Module]) -> Iterator[Import]:
    """Every import, wherever it stands; own modules as ``treadle.x.y``, be ``y`` a module or a name of ``treadle.x``."""
    inner = {
        id(node) for function in ast.walk(module.tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            own = base.partition(".")[0] == "treadle"
            targets = [f"{base}.{a.name}" if own and f"{base}.{a.name}".partition(".")[2] in modules else base for a in node.names]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(target, node.lineno, id(node) not in inner)


def find_violations(root: Path) -> list[str]:
    """Every breach of the walls in the package at ``root``, as ``path:line: what``."""
    modules = read_modules(root)
    found = []
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        place = module.path.relative_to(root)
        if module.lines > MOST_LINES:
            found.append(f"{place}:1: has {module.lines} lines, more than {MOST_LINES}: find the second idea in it")
        if module.unit not in RANK:
            found.append(f"{place}:1: {module.unit} stands in no layer")
            continue
        for item in imports_of(module, modules):
            found += [f"{place}:{item.line}: {what}" for what in judge_import(module, item)]
            if item.target.startswith("treadle.") and item.at_top:
                graph.setdefault(module.name, set()).add(item.target.partition(".")[2])
        found += [f"{place}:{line}: {what}" for line, what in judge_calls(module)]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"imports go in a circle: {' -> '.join(error.args[1])}")
    return found


def judge_import(module: Module, item: Import) -> Iterator[str]:
    package, _, target = item.target.partition(".")
    if item.target.startswith("."):
        yield "a relative import hides which wall it crosses"
    if package in PICKLES:
        yield f"{package} runs code from files"
    if package in HEAVY and item.at_top:
        yield f"{package} takes seconds: import it inside the function that uses it"
    if package != "treadle":
        return
    if not item.at_top:
        yield f"{item.target} is imported inside a function: it belongs to the top"
    unit = target.partition(".")[0]
    if unit not in RANK or unit == module.unit:
        pass
    elif RANK[unit] > RANK[module.unit]:
        yield f"{module.unit} imports {unit}, which lies above it"
    elif RANK[unit] == RANK[module.unit]:
        yield f"{module.unit} imports its neighbour {unit}: they meet in artifacts or in core"
    if module.unit == unit == "model":
        part, seen = module.name.split(".")[1:2], target.split(".")[1:2]
        if part and part[0] in PARTS and (not seen or seen[0] not in PARTS[part[0]]):
            yield f"{module.name} imports {target}: {part[0]} see only layers and core"


def judge_calls(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name, settings = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name == "torch.load" and settings.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True runs code from files"
        if settings.get("allow_pickle", "False") != "False":
            yield node.lineno, "allow_pickle runs code from files"
        if name in ("eval", "exec"):
            yield node.lineno, f"{name} runs text as code"
        if name in ("importlib.import_module", "import_module", "__import__") and module.name != "cli":
            yield node.lineno, f"{name} goes around the walls: only cli.py has a table of modules"


def test_the_walls_stand() -> None:
    assert find_violations(SOURCE) == []


PLANTED = {
    "spec/a.py": ("import treadle.core.b", "spec imports core, which lies above it"),
    "core/b.py": ("from treadle.store.ok import x", "core imports store, which lies above it"),
    "data/c.py": ("from treadle.model import ok", "data imports its neighbour model"),
    "optim/d.py": ("from treadle.data.ok import x", "optim imports its neighbour data"),
    "store/e.py": ("from treadle import cli", "store imports cli, which lies above it"),
    "train/f.py": ("from treadle.serve.ok import x", "train imports its neighbour serve"),
    "train/g.py": ("def f():\n    from treadle.core import ok", "is imported inside a function"),
    "train/h.py": ("async def f():\n    import treadle.core.ok", "is imported inside a function"),
    "train/i.py": ("from . import ok", "a relative import"),
    "train/j.py": ("import transformers", "transformers takes seconds"),
    "train/k.py": ("if True:\n    from ray.train import x", "ray takes seconds"),
    "train/l.py": ("import pickle", "pickle runs code"),
    "train/m.py": ("def f():\n    import pickle as p", "pickle runs code"),
    "train/n.py": ("import torch\ntorch.load('x')", "torch.load without weights_only=True"),
    "train/o.py": ("import torch\ntorch.load('x', weights_only=False)", "torch.load without weights_only=True"),
    "train/p.py": ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle runs code"),
    "train/q.py": ("eval('1')", "eval runs text as code"),
    "train/r.py": ("import importlib\nimportlib.import_module('treadle.cli')", "goes around the walls"),
    "train/s.py": ("x = 1\n" * (MOST_LINES + 1), "more than 450"),
    "model/inputs/t.py": ("from treadle.model.trunks.ok import x", "inputs see only layers and core"),
    "model/heads/u.py": ("from treadle.model import ok", "heads see only layers and core"),
    "model/layers/v.py": ("from treadle.model.heads.ok import x", "layers see only layers and core"),
    "elsewhere/w.py": ("x = 1", "elsewhere stands in no layer"),
    "serve/x.py": ("from treadle.serve.y import z", "imports go in a circle"),
}
SOUND = {
    "__init__.py": "", "__main__.py": "from treadle.cli import main", "pipeline.py": "import treadle.train.ok",
    "cli.py": "import importlib\nimportlib.import_module('treadle.pipeline')",
    "spec/ok.py": "x = 1", "core/ok.py": "import treadle\nfrom treadle.spec.ok import x",
    "data/ok.py": "from treadle.core.ok import x",
    "model/ok.py": "from treadle.model.inputs.ok import x\nfrom treadle.model.heads.ok import x", "model/layers/ok.py": "x = 1",
    "model/inputs/ok.py": "from treadle.model.layers.ok import x", "model/heads/ok.py": "from treadle.core.ok import x",
    "model/trunks/ok.py": "from treadle.spec.ok import x", "store/ok.py": "from treadle.data.ok import x",
    "train/ok.py": "import torch\nfrom treadle.model.ok import x\ntorch.load('x', weights_only=True)\nmodel.eval()",
    "serve/ok.py": "from treadle.store.ok import x\ndef f():\n    import transformers", "serve/y.py": "x = 1",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_sound_house_passes(tmp_path: Path) -> None:
    assert find_violations(plant(tmp_path, SOUND)) == []


@pytest.mark.parametrize("name", PLANTED)
def test_every_breach_is_found(tmp_path: Path, name: str) -> None:
    text, said = PLANTED[name]
    files = {**SOUND, name: text}
    if "circle" in said:
        files["serve/y.py"] = "from treadle.serve.x import z"
    found = find_violations(plant(tmp_path, files))
    assert len(found) == 1, found
    assert said in found[0]
    assert found[0].startswith((f"{name}:", "imports go"))


def loads_torch(module: str) -> bool:
    code = f"import sys, treadle.{module}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode != 0


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_must_be_quick_does_not_load_torch(module: str) -> None:
    assert not loads_torch(module)


def test_the_look_for_torch_sees_it() -> None:
    assert loads_torch("core.batch")


def test_wheels_that_break_torch_on_a_processor_are_absent() -> None:
    names = {str(distribution.metadata["Name"]).lower() for distribution in metadata.distributions()}
    assert not names & {"torchvision", "torchaudio"}
