"""Every shipped recipe checks, plans and builds, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from treadle.check import check_data
from treadle.core.project import load_project
from treadle.pipeline import Workshop, build, plan
from treadle.scaffold import RECIPES, init, recipes
from treadle.spec.load import read_file
from treadle.spec.project import ProjectSpec

SMALL = {
    "pycode": (
        "data.sources.0.files='{stdlib}/[a-d]*.py'", "model.trunk.transformer.depth=1", "model.inputs.text.context=64",
        "model.inputs.text.tokenizer.bpe=400", "train.budget=20 steps", "train.validate_tokens=1000",
        "evaluate.gate.bits_per_byte='<= 8'", "evaluate.max_tokens=3000", "data.split.test=20%", "data.split.validation=20%",
    )
}


WHOLE = sorted(path.parent.name for path in RECIPES.glob("*/sample") if not (path.parent / "sample.yaml").exists())
"""Recipes that hold all of their data."""
SAMPLED = sorted(path.parent.name for path in RECIPES.glob("*/sample.yaml"))


def test_every_recipe_is_listed_and_has_a_test():
    folders = {path.name for path in RECIPES.iterdir() if path.is_dir()}
    assert folders == set(recipes()) == set(SMALL) | set(SAMPLED) | set(WHOLE)
    assert all(len(text) > 3 for about in recipes().values() for text in vars(about).values())


@pytest.mark.parametrize("name", SAMPLED + WHOLE)
def test_a_recipe_runs_on_its_sample(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TREADLE_DATA", str(tmp_path / "nothing"))
    assert isinstance(read_file(RECIPES / name / "treadle.yaml"), ProjectSpec)
    folder, missing = init(name, tmp_path / name)
    assert bool(missing) is (name in SAMPLED)
    workshop = Workshop.open(load_project(folder))
    outcome = build(workshop, plan(workshop))
    assert outcome.version == 1
    assert json.dumps(outcome.as_dict())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_recipe_runs(name: str, tmp_path: Path):
    folder, _ = init(name, tmp_path / name)
    assert check_data(load_project(folder))["sources"][0]["count"] > 0
    project = load_project(folder, SMALL[name])
    workshop = Workshop.open(project)
    outcome = build(workshop, plan(workshop))
    assert outcome.version == 1
    metrics = outcome.scorecard["metrics"]
    assert metrics["bits_per_byte"]["value"] < 6
    assert json.dumps(outcome.as_dict())
