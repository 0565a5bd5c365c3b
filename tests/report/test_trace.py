"""Lineage: from an answer to the sources, whole or damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from report_world import World

from treadle.core.errors import UserError
from treadle.report.trace import Node, trace


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def test_an_answer_leads_to_its_sources(trained: World) -> None:
    trained.ledger.record_answer(
        id="cmpl-77", version=1, package=trained.ids["package"], stored=True, prompt="def \x1b[31m", text="x", prompt_tokens=4,
        settings={"temperature": 0.0, "redacted": {}, "stop": []}, answer_tokens=6, seconds=0.21, finish_reason="stop",
    )
    found = trace(trained.store, trained.ledger, "cmpl-77")
    kinds = []
    node = found.root
    while node.children:
        kinds.append(node.kind)
        node = node.children[0]
    assert [*kinds, node.kind] == ["answer", "version", "package", "model", "dataset", "corpus", "source"]
    assert node.name == "{stdlib}/**/*.py"
    assert "licence PSF-2.0" in node.facts
    assert found.whole
    text = "\n".join(found.lines())
    for figure in ("200 steps", "3 min 00 s", "bits per byte 2.040 (1.990 to 2.090)", "gate bits per byte <= 2.5: passed"):
        assert figure in text
    assert "\x1b" not in text
    assert "settings: temperature 0.0\n" in text
    states = {node.name: node.state for node in nodes(found.root) if node.state != "above"}
    assert {states[trained.ids[name]] for name in ("corpus", "dataset", "model", "scorecard", "package")} == {"verified"}
    assert json.loads(json.dumps(found.as_dict()))["tree"]["from"][0]["kind"] == "version"


def test_an_answer_about_a_record_has_no_tokens(trained: World) -> None:
    trained.ledger.record_answer(
        id="pred-7", version=1, package=trained.ids["package"], stored=True, prompt='{"sky": "grey"}', text='{"rain": "yes"}',
        settings={"kind": "prediction"}, prompt_tokens=0, answer_tokens=0, seconds=0.21, finish_reason="stop",
    )
    facts = trace(trained.store, trained.ledger, "pred-7").root.facts
    assert facts[0].endswith("answered in 0.21 s")
    assert facts[1:] == ("asked: '{\"sky\": \"grey\"}'", "answer: '{\"rain\": \"yes\"}'")


@pytest.mark.parametrize("id", ["v1", "1", 1, "V1"])
def test_a_version_by_any_spelling(trained: World, id: str | int) -> None:
    root = trace(trained.store, trained.ledger, id).root
    assert (root.kind, root.name, root.children[0].name) == ("version", "1", trained.ids["package"])
    assert "live now" in root.facts


def test_an_artifact_by_the_start_of_its_id(trained: World) -> None:
    id = trained.ids["model"]
    assert trace(trained.store, trained.ledger, id[:14]).root.name == id


def test_improved_version_has_all_its_parents_and_the_answers_behind_them(improved: World) -> None:
    ids = improved.ids
    found = trace(improved.store, improved.ledger, "v2")
    model = next(node for node in nodes(found.root) if node.name == ids["model2"])
    assert [child.name for child in model.children] == [ids["model"], ids["dataset"], ids["feedback"]]
    assert model.children[1].state == "above"  # told under the base model
    corpus = model.children[2].children[0]
    assert corpus.name == ids["answers"]
    shown = [node for node in nodes(corpus) if node.kind in ("answer", "answers")]
    assert [node.name for node in shown[:-1]] == improved.answers[:5]
    assert (shown[-1].name, list(shown[-1].facts)) == ("and 3 more", improved.answers[5:])
    assert "└─ and 3 more\n" in "\n".join([*found.lines(), ""])
    old = trace(improved.store, improved.ledger, "v1").root
    assert "not live: version 2 is" in old.facts


def test_a_damaged_artifact_is_named_and_the_rest_is_told(trained: World) -> None:
    (trained.store.folder(trained.ids["dataset"]) / "train.tokens").write_bytes(b"123456")
    (trained.store.folder(trained.ids["corpus"]) / "manifest.json").unlink()
    found = trace(trained.store, trained.ledger, "v1")
    states = {node.name: node.state for node in nodes(found.root) if node.state != "above"}
    assert "was changed" in states[trained.ids["dataset"]]
    assert states[trained.ids["corpus"]].startswith("damaged")
    assert states[trained.ids["model"]] == "verified"
    assert not found.whole


def test_an_unreadable_manifest_still_leads_on_through_the_ledger(trained: World) -> None:
    (trained.store.folder(trained.ids["model"]) / "manifest.json").write_text("{not json")
    found = trace(trained.store, trained.ledger, "v1")
    assert trained.ids["dataset"] in {node.name for node in nodes(found.root)}
    assert "model " + trained.ids["model"] + "  [damaged" in "\n".join(found.lines())


@pytest.mark.parametrize(
    ("asked", "hint"), [("cmpl-0000000x", "cmpl-0000000"), ("v9", "known versions: 1, 2"), ("nonsense", "such as")]
)
def test_unknown_ids_are_answered_with_what_would_be_right(improved: World, asked: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        trace(improved.store, improved.ledger, asked)
    assert hint in caught.value.cure


def test_nothing_made_yet(empty: World) -> None:
    with pytest.raises(UserError, match="no answer, version or artifact") as caught:
        trace(empty.store, empty.ledger, "model-1234")
    assert "treadle run" in caught.value.cure
