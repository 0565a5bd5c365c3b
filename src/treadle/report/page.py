"""One HTML file that needs nothing else: what happened, and is it good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import treadle
from treadle.core.project import Project
from treadle.report import origins, sections
from treadle.report.facts import moment
from treadle.report.gather import Facts, gather
from treadle.report.html import Html, join, tag
from treadle.store.artifacts import Store, disk_errors
from treadle.store.ledger import Ledger

_SECTIONS = (
    ("scorecard", "Is it good?", sections.scorecard), ("learning", "How it learned", sections.learning),
    ("time", "Where the time went", sections.time),
    ("samples", "What it writes", sections.samples), ("data", "What it learned from", origins.data),
    ("compression", "What is served", sections.compression), ("prediction", "Predicted and measured", origins.prediction),
    ("versions", "Versions and feedback", origins.versions), ("lineage", "Lineage", origins.lineage),
    ("settings", "Settings and environment", origins.settings),
)
# The page loads nothing, for its pictures are part of it, and runs nothing, whatever the text in it may say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(project: Project, store: Store, ledger: Ledger, path: Path | None = None) -> Path:
    """Write the report to ``path`` (default: report.html in the store) and give where it lies. What is not made yet is said
    in words.

    Raises ``ArtifactError`` where a manifest is damaged, ``WorkError`` where the file cannot be written.
    """
    return write_page(path or store.root / "report.html", render(gather(project, store, ledger)))


def render(facts: Facts) -> str:
    """The whole page."""
    told = [row for row in _SECTIONS if row[0] != "samples" or facts.project.spec.model.predicts_text]
    links = tag("nav", *(tag("a", title, href=f"#{id}") for id, title, _ in told), aria_label="Sections")
    parts = [tag("section", tag("h2", title), make(facts), id=id) for id, title, make in told]
    made = f"Made {moment(datetime.now(UTC).isoformat())} by Treadle {treadle.__version__} from the manifests of the store and its "
    foot = tag("footer", made, "ledger; ", tag("code", "treadle trace"), " compares files with their hashes.")
    return document(f"{facts.project.spec.name}: report", [sections.header(facts), links, tag("main", *parts), foot])


def document(title: str, parts: Sequence[Html]) -> str:
    """A page of our looks, which loads nothing and runs nothing."""
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY), tag("title", title),
        tag("style", Html(files("treadle.report").joinpath("page.css").read_text(encoding="utf-8"))),
    )
    return "<!doctype html>\n" + tag("html", join([head, tag("body", *parts)], "\n"), lang="en")


def write_page(target: Path, page: str) -> Path:
    """Write it, whole or not at all. Raises ``WorkError`` where that cannot be."""
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".part")
        draft.write_text(page, encoding="utf-8")
        draft.replace(target)
    return target
