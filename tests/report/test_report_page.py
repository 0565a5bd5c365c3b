"""The report: every figure is there, nothing from outside is, and what is missing is said."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from records_world import NOTE
from report_world import World, empty_world, first_run, make, scorecard

from treadle.core.errors import ArtifactError, WorkError
from treadle.report.page import write_report

VOID = {"br", "meta", "hr", "img"}


class Page(HTMLParser):
    """Checks that tags balance; collects text, elements, and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(world: World) -> tuple[str, Page]:
    source = write_report(world.project, world.store, world.ledger).read_text(encoding="utf-8")
    return source, Page(source)


def test_every_figure_is_there(improved: World) -> None:
    _, page = report(improved)
    figures = (
        "Version 2 is live", "2.030 (1.980 to 2.080), the gate asks for <= 2.5", "Passed", "trigram", "1.870 to 1.990",
        "perplexity", "accuracy", "13,353 records in = 724 kept + 12,629 set aside", "exact duplicate", "{stdlib}/**/*.py",
        "PSF-2.0", "170 EMAIL", "2.88M tokens", "16.0 MB", "4.0 MB (-74.8%)", "341 (+66.3%)", "+0.12%", "3 min 04 s",
        "3 min 07 s", "1.02", "cached", "4.1 Wh", "it is better than unigram; not told apart from lzma and trigram",
        "0.0074 EUR", "the first version that passed the gate", "8 answers given",
        "4 thumbs up", "4 edited", "one head per 64 features <&>", "float32", "torch", "33 documents", "validation",
        "held-out feedback", "before improvement",
    )
    for figure in figures:
        assert figure in page.text, figure


def test_nothing_is_loaded_and_nothing_runs(improved: World) -> None:
    source, page = report(improved)
    assert not page.named("script")
    assert not page.named("link")
    assert not page.named("img")
    assert "alert('sample')" in page.text  # the generated text is shown, as text
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action"):
                assert value
                assert value.startswith("#")
    assert not re.search(r"url\((?!#)|@import", source)
    assert "default-src &#x27;none&#x27;" in source


def test_what_training_makes_of_pictures_is_part_of_the_page(tmp_path: Path) -> None:
    world = empty_world(tmp_path)
    first_run(world)
    sheet = b"\x89PNG pictures"
    folder = world.store.folder(world.ids["dataset"])
    (folder / "augmented.photo & more.png").write_bytes(sheet)
    source, page = report(world)
    (shown,) = page.named("img")
    head, _, content = str(shown["src"]).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == sheet
    assert "Changed in training: photo & more" in page.text
    assert "what training sees in its place" in page.text
    assert "img-src data:" in source


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    world = empty_world(tmp_path)
    first_run(world, pattern="x</text></svg><script>bad()</script>\x1b[31m\x00")
    source, page = report(world)
    assert not page.named("script")
    assert "\x1b" not in source
    assert "\x00" not in source
    assert "x</text></svg><script>bad()</script>" in page.text


def test_lineage_has_the_edges_of_the_manifests(improved: World) -> None:
    _, page = report(improved)
    edges = {str(a["data-edge"]) for a in page.named("path") if "data-edge" in a}
    ids = improved.ids
    expected = {
        (ids["corpus"], ids["dataset"]), (ids["dataset"], ids["model"]), (ids["answers"], ids["feedback"]),
        (ids["model"], ids["model2"]), (ids["dataset"], ids["model2"]), (ids["feedback"], ids["model2"]),
        (ids["model2"], ids["scorecard2"]), (ids["dataset"], ids["scorecard2"]), (ids["model2"], ids["scorecard3"]),
        (ids["feedback"], ids["scorecard3"]), (ids["model2"], ids["package2"]), (ids["scorecard2"], ids["package2"]),
        (ids["package2"], "version 2"),
    }
    sources = {edge for edge in edges if edge.startswith("source ")}
    assert edges - sources == {f"{parent} {child}" for parent, child in expected}
    assert {edge.split()[-1] for edge in sources} == {ids["corpus"], ids["answers"]}
    assert "users' feedback, consent" in page.text


def test_curves_have_the_points_of_the_history(trained: World) -> None:
    _, page = report(trained)
    dots = [a for a in page.named("circle") if a.get("class") == "f2"]
    assert len(dots) == 2 * 10  # ten validations, drawn at two widths


def test_nothing_made_yet_is_said_in_words(empty: World) -> None:
    _, page = report(empty)
    assert page.text.count("treadle run") >= 8
    assert "Nothing is made yet" in page.text


def test_every_figure_of_a_model_of_records_is_there(records: World) -> None:
    _, page = report(records)
    figures = (
        "improved by users' feedback. It passed the gate.", "rain: accuracy 0.940 95%: 0.920 to 0.960", "millimetres: rmse 1.526",
        "mlp", "trained on 5024 records in 50 s, of them 1920 in the last of 2 rounds", "answers 20", "19 with feedback",
        "Passed : rain.accuracy 0.940 (0.920 to 0.960), the gate asks for >= 0.6.", "Scored on 91 records",
        "Better than always the same: accuracy +41.00 points (+33.00 to +50.00)",
        "3 records without an answer, 2 whose answer training never saw, counted as wrong",
        "before improvement", "loss over training", "validation", "records per second", "It stopped early",
        "400 records in = 400 kept + 0 set aside", "400 records in three parts", "64.5%", NOTE, "weather.csv", "CC0-1.0",
        "From users: 39 pieces of feedback = 19 kept + 20 set aside", "20 superseded", "users' feedback given with consent",
        "Weights as trained. Loss changed by +0.00%", "records/s, higher is better", "20 answers given, 19 with feedback",
        "19 edited", "a good start for mlp", "1 thread (given)", "test: 91 records",
    )
    for figure in figures:
        assert figure.lower() in page.text.lower(), figure
    assert "What it writes" not in page.text
    assert "tokens" not in page.text.lower()
    assert "nan" not in page.text.lower()
    heads = [word for word in page.words if word in ("rain", "millimetres")]
    assert heads[-4:] == ["rain", "millimetres"] * 2  # in the order of the project's file


def test_one_scorecard_on_one_dataset(trained: World) -> None:
    card = scorecard(trained, "model", "dataset", 2.04) | {"gate": []}
    make(trained, "other settings", "scorecard", [trained.ids["model"], trained.ids["dataset"]], card)
    _, page = report(trained)
    assert page.text.count("Scored on") == 1
    assert "Passed" in page.text  # that which the package was made after


def test_what_was_taken_back_is_no_feedback(improved: World) -> None:
    improved.ledger.record_feedback(improved.answers[0], None, None)
    _, page = report(improved)
    assert "7 with feedback" in page.text
    assert "8 answers given, 7 with feedback, of which the newest word counts: 4 thumbs up, 3 edited." in page.text


def test_the_headline_is_short_and_the_reason_stands_below(improved: World) -> None:
    source, page = report(improved)
    state = re.search(r'class="state">([^<]*)<', source)
    assert state
    how = "improved by users&#x27; feedback. It passed the gate."
    assert re.fullmatch(rf"Version 2 is live since [\d: -]+ UTC, {how}", state.group(1))
    assert "Why: held-out feedback: bits per byte 1.9000 to 1.4000." in page.text
    assert "532k tokens in 3 min 54 s, of them 123k in the last of 2 rounds" in page.text
    improved.ledger.rollback("worse")
    assert "Version 1 is live again since" in report(improved)[1].text


def test_damaged_history_is_said(trained: World) -> None:
    (trained.store.folder(trained.ids["model"]) / "history.jsonl").write_text("{cut")
    assert "cannot be read" in report(trained)[1].text


def test_refused_runs_say_why(trained: World) -> None:
    run = trained.ledger.start_run("improve")
    trained.ledger.end_run(run, "refused", {"error": "not promoted: no better"})
    assert "not promoted: no better" in report(trained)[1].text


def test_a_damaged_manifest_is_one_clear_error(trained: World) -> None:
    (trained.store.folder(trained.ids["model"]) / "manifest.json").write_text("{cut")
    with pytest.raises(ArtifactError, match="damaged"):
        report(trained)


def test_the_path_is_the_callers(trained: World, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "r.html"
    assert write_report(trained.project, trained.store, trained.ledger, target) == target
    assert target.read_text().startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    with pytest.raises((WorkError, OSError)):
        write_report(trained.project, trained.store, trained.ledger, tmp_path / "file" / "r.html")


def test_a_candidate_is_told_of_with_how_it_does_and_what_became_of_it(tmp_path: Path) -> None:
    world = empty_world(tmp_path)
    first_run(world)
    make(world, "package2", "package", [world.ids["model"]], {"quantize": "none"})
    assert "candidate" not in report(world)[1].text.lower()
    started = world.ledger.start_rollout("canary", world.ids["package2"], "a <b>better</b> one", 0.25)
    _, page = report(world)
    assert "The candidate beside it" in page.text
    assert f"canary: version {started.version} answers 25% of requests" in page.text
    assert "a <b>better</b> one" in page.text
    assert "winner known: not yet" in page.text
    world.ledger.stop_rollout("it was slow")
    _, page = report(world)
    assert "The candidate beside it" not in page.text
    assert [word in page.text for word in ("Candidates", "canary", "25%", "stopped", "it was slow")] == [True] * 5
