"""Models side by side: what the page says of each, where they differ, and how they are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from records_world import records_world
from report_world import World, dataset_files, empty_world, history, make, model_counts, scorecard
from test_report_page import Page
from typer.testing import CliRunner

from treadle.cli import app
from treadle.core.errors import UserError
from treadle.report.compare import compare
from treadle.report.runs import find_runs


def model(world: World, name: str, config: dict[str, Any], seconds: float = 180.0, bits: float = 2.0) -> str:
    """A model with a config of its own, its training and its scorecard."""
    parents = [world.ids["dataset"]]
    id = world.store.identify("model", parents, config, 1)
    with world.store.create(id, parents=parents, config=config, version=1, seed=0) as draft:
        history(draft.path, 100)
        spent = {"forward": 0.25 * seconds, "backward": 0.5 * seconds}
        draft.counts.update(model_counts(100) | {"seconds": seconds, "spent": spent})
    world.ids[name] = id
    make(world, f"card {name}", "scorecard", [id, *parents], scorecard(world, name, "dataset", bits))
    return id


@pytest.fixture
def pair(empty: World) -> World:
    """Two models of one dataset, of which the second is the better and the slower one."""
    make(empty, "corpus", "corpus", [], {"account": {"in": 2, "kept": 2, "set_aside": {}}, "sources": [], "redacted": {}})
    make(empty, "dataset", "dataset", [empty.ids["corpus"]], {"parts": {}}, dataset_files)
    model(empty, "one", {"train": {"batch": 4, "clip": 1.0}, "learning_rate": 0.01, "seed": 0})
    model(empty, "two", {"train": {"batch": 8, "clip": 1.0}, "learning_rate": 0.01, "seed": 0, "replay": 0.5}, 3600.0, 1.5)
    return empty


def run(world: World, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["compare", "--json", "-f", str(world.project.folder), *words])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


def test_only_settings_that_differ_are_told(pair: World) -> None:
    found = run(pair, pair.ids["one"], pair.ids["two"])
    assert found["differences"] == {"train.batch": [4, 8], "replay": [None, 0.5]}
    assert found["notes"] == []
    text = Page(Path(found["path"]).read_text()).text
    assert "train.batch 4 8" in text
    assert "replay — 0.5" in text
    assert "clip" not in text


def test_figures_time_and_cost_stand_side_by_side(pair: World) -> None:
    found = run(pair, pair.ids["one"], pair.ids["two"])
    assert [one["seconds"] for one in found["runs"]] == [180.0, 3600.0]
    energy, money = 0.065, 0.10 + 0.065 * 0.25  # an hour at the default prices
    assert found["runs"][1]["energy_kwh"] == pytest.approx(energy)
    assert found["runs"][1]["money"] == pytest.approx(money, rel=1e-3)
    assert found["runs"][1]["figures"]["bits_per_byte"]["value"] == 1.5
    assert found["runs"][0]["spent"]["backward"] == pytest.approx(0.5)
    source = Path(found["path"]).read_text()
    text = Page(source).text
    shares = "backward, share of time 50.0% 50.0%"
    for words in ("3 min 00 s 1 h 00 min", "65 Wh", "0.12 EUR", "205k tokens", "steps 100", shares):
        assert words in text, words
    assert "<b>1.5</b>" in source  # clear of the other's interval
    assert "<b>2</b>" not in source


def test_curves_lie_over_each_other_against_tokens_and_time(pair: World) -> None:
    page = Page(compare(pair.project, [pair.ids["one"], pair.ids["two"]]).path.read_text())
    for colour in (1, 2):
        dots = [a for a in page.named("circle") if a.get("class") == f"f{colour}"]
        assert len(dots) == 2 * 2 * 5  # two charts at two widths, five validations
        assert [a for a in page.named("path") if a.get("class") == f"line s{colour} faint"]
    assert "Against tokens" in page.text
    assert "Against time" in page.text
    assert not page.named("script")


def test_versions_packages_prefixes_and_folders_name_models(improved: World, tmp_path: Path) -> None:
    ids = improved.ids
    names = ["v1", "V2", ids["model"], ids["package2"], ids["model2"][:14], str(improved.project.folder)]
    found = find_runs(improved.project, names)
    assert [one.model["id"] for one in found] == [ids[name] for name in ("model", "model2", "model", "model2", "model2", "model2")]
    assert len({one.label for one in found}) == len(found)
    assert found[0].card["counts"]["dataset"] == ids["dataset"]


def test_models_of_several_projects_and_what_does_not_compare(pair: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = records_world(tmp_path / "other")
    found = compare(None, [str(pair.project.folder), str(other.project.folder)], tmp_path / "page.html").as_dict()
    assert [one["unit"] for one in found["runs"]] == ["tokens", "records"]
    assert [note[:20] for note in found["notes"]] == ["some count tokens an"]
    text = Page((tmp_path / "page.html").read_text()).text
    assert "Against steps" in text
    assert "rain.accuracy" in text
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize(("names", "said"), [
    (["one"], "1 given"), (["v1", "v2"], "no version 1"), (["model-ff", "model-"], "no models are named"),
    (["model-", "model-ff"], "2 models are named 'model-'"), (["nowhere", "v1"], "no models are named 'nowhere'"),
], ids=["one", "version", "unknown", "several", "folder"])
def test_what_names_no_model_is_said(pair: World, names: list[str], said: str) -> None:
    names = [pair.ids["one"] if name == "one" else name for name in names]
    with pytest.raises(UserError, match=said):
        find_runs(pair.project, names)


def test_without_a_project_only_folders_are_names(pair: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no project's folder"):
        find_runs(None, ["v1", "v2"])
    (tmp_path / "bare").mkdir()
    bare = empty_world(tmp_path / "bare")
    with pytest.raises(UserError, match="holds no model yet"):
        find_runs(None, [str(pair.project.folder), str(bare.project.folder)])


def test_people_read_it_as_a_table(pair: World) -> None:
    done = CliRunner().invoke(app, ["compare", "-f", str(pair.project.folder), pair.ids["one"], pair.ids["two"]])
    rows = [line.split() for line in done.output.splitlines()]
    assert ["train.batch", "4", "8"] in rows
    assert ["time", "3", "min", "00", "s", "1", "h", "00", "min"] in rows
    assert "with their curves" in done.output
