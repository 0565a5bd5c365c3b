"""From an answer, a version or an artifact back to the sources, every artifact on the way compared with its hashes."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from treadle.core.errors import ArtifactError, UserError
from treadle.report.facts import artifact_facts, moment, one_line
from treadle.spec.units import format_duration, format_size
from treadle.store.artifacts import MANIFEST, Store
from treadle.store.ledger import Ledger

_SHOWN_ANSWERS = 5


@dataclass(frozen=True)
class Node:
    """One thing and what it was made from. ``state``: ``verified``, ``above`` (told before), what is wrong with it, or ""."""

    kind: str
    name: str
    facts: tuple[str, ...] = ()
    state: str = ""
    children: tuple[Node, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "name": self.name, "facts": list(self.facts), "state": self.state,
            "from": [child.as_dict() for child in self.children],
        }


@dataclass(frozen=True)
class Trace:
    """``id`` as it was asked for, and the tree below it."""

    id: str
    root: Node

    @property
    def whole(self) -> bool:
        """Whether every artifact on the way is there and verified."""
        return all(node.state in ("verified", "above", "") for node in _walk(self.root))

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"id": self.id, "whole": self.whole, "tree": self.root.as_dict()}

    def lines(self) -> list[str]:
        """The tree, for people."""
        return list(_lines(self.root, "", ""))


def trace(store: Store, ledger: Ledger, id: str | int) -> Trace:
    """Trace an answer (``cmpl-...``), a version (``v3`` or ``3``), or an artifact (its id, or an unmistakable start of it).

    A damaged or missing artifact is named in the tree. Raises ``UserError`` for an id that nothing has.
    """
    asked = str(id).strip()
    tracer = _Tracer(store, ledger)
    if match := re.fullmatch(r"[vV]?(\d{1,9})", asked):
        return Trace(asked, tracer.version(int(match.group(1))))
    answer = ledger.answer(asked)
    if answer is not None:
        return Trace(asked, tracer.answer(dict(answer)))
    known = tracer.artifacts()
    found = [name for name in known if name.startswith(asked)] if len(asked) > len("model-") else []
    if asked in known or len(found) == 1:
        return Trace(asked, tracer.artifact(asked if asked in known else found[0]))
    raise UserError(f"there is no answer, version or artifact {asked!r}", cure=tracer.hint(asked, known))


class _Tracer:
    """Walks up the parents; what was told once is told as ``above`` after that."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self.store, self.ledger = store, ledger
        self.deployments = ledger.deployments()
        self.tried = ledger.all_rollouts()
        self.told: set[str] = set()

    def artifacts(self) -> list[str]:
        """Ids of what lies in the store, whole or damaged."""
        folders = (self.store.root / "artifacts").glob("*/*")
        return sorted(f"{folder.parent.name}-{folder.name}" for folder in folders if folder.is_dir())

    def hint(self, asked: str, known: list[str]) -> str:
        """What would be right instead of ``asked``."""
        answers = list(dict.fromkeys(row["answer"] for row in reversed(self.ledger.all_feedback())))
        versions = sorted({f"v{row['version']}" for row in self.deployments}, key=lambda name: int(name[1:]))
        near = difflib.get_close_matches(asked, [*known, *answers, *versions], n=3, cutoff=0.5)
        if near:
            return f"did you mean {' or '.join(near)}?"
        examples = [*answers[:1], *versions[-1:], *[name for name in known if name.startswith("package-")][:1], *known[:1]]
        return f"give an id such as {', '.join(dict.fromkeys(examples))}" if examples else "nothing is made yet: run 'treadle run'"

    def answer(self, row: Mapping[str, Any]) -> Node:
        facts = [f"{moment(row['at'])}, answered in {format_duration(row['seconds'])}"]
        if row["settings"].get("kind") != "prediction":
            facts[0] += f": {row['prompt_tokens']} tokens read, {row['answer_tokens']} written, ended by {row['finish_reason']}"
            facts += _settings(row["settings"])
        if row["prompt"] is not None:
            facts += [f"asked: {one_line(row['prompt'])}", f"answer: {one_line(row['text'] or '')}"]
        else:
            facts.append("its text was not stored")
        for said in self.ledger.all_feedback():
            if said["answer"] == row["id"]:
                edited = f", edited: {one_line(said['edited'])}" if said["edited"] is not None else ""
                by = f", by the key {said['key']!r}" if said["key"] else ""
                facts.append(f"feedback {moment(said['at'])}: {said['rating'] or 'no rating'}{edited}{by}")
        return Node("answer", str(row["id"]), tuple(facts), "", (self.version(row["version"], row["package"]),))

    def version(self, version: int, package: str | None = None) -> Node:
        rows = [row for row in self.deployments if row["version"] == version]
        tried = [row for row in self.tried if row["version"] == version]
        if not rows and not tried:
            if package:
                return Node("version", str(version), ("the ledger knows no such deployment",), "missing", (self.artifact(package),))
            known = sorted({row["version"] for row in self.deployments})
            cure = f"known versions: {', '.join(map(str, known))}" if known else "no version is live yet: run 'treadle run'"
            raise UserError(f"there is no version {version}", cure=cure)
        live = self.deployments[-1]
        facts = [f"{row['kind']} {moment(row['at'])}: {row['reason']}" for row in tried]
        facts += [f"{row['action']} {moment(row['at'])}: {row['reason']}" for row in rows]
        facts.append("live now" if live["version"] == version else f"not live: version {live['version']} is")
        return Node("version", str(version), tuple(facts), "", (self.artifact(package or (rows or tried)[0]["package"]),))

    def artifact(self, id: str) -> Node:
        kind = id.partition("-")[0]
        if id in self.told:
            return Node(kind, id, (), "above")
        self.told.add(id)
        try:
            manifest: Mapping[str, Any] = self.store.open(id).manifest
            state = "verified"
        except ArtifactError as error:
            state = f"damaged: {error.message}" if self.store.folder(id).exists() else "missing"
            manifest = self._salvage(id)
        facts = list(artifact_facts(manifest)) if manifest.get("counts") else []
        served = sorted({row["version"] for row in (*self.deployments, *self.tried) if row["package"] == id})
        if served:
            facts.append(f"served as version {', '.join(map(str, served))}")
        children = [self.artifact(parent) for parent in manifest["parents"]]
        if kind == "corpus" and manifest.get("counts"):
            children += self._sources(id, manifest)
        return Node(kind, id, tuple(facts), state, tuple(children))

    def _salvage(self, id: str) -> Mapping[str, Any]:
        """What a damaged artifact's manifest still says; where it says nothing, its parents as the ledger has them."""
        try:
            manifest = json.loads((self.store.folder(id) / MANIFEST).read_text(encoding="utf-8"))
            if isinstance(manifest["counts"], dict) and isinstance(manifest["parents"], list):
                return {"kind": id.partition("-")[0], **manifest}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {"kind": id.partition("-")[0], "parents": self.ledger.parents(id)}

    def _sources(self, id: str, manifest: Mapping[str, Any]) -> Iterator[Node]:
        answers = self._answers(id)
        for source in manifest["counts"].get("sources", []):
            facts = (f"licence {source['licence']}", f"{source['files']} records, {format_size(source['bytes'])}")
            shown = tuple(Node("answer", name) for name in answers[:_SHOWN_ANSWERS])
            if len(answers) > _SHOWN_ANSWERS:
                shown = (*shown, Node("answers", f"and {len(answers) - _SHOWN_ANSWERS} more", tuple(answers[_SHOWN_ANSWERS:])))
            yield Node("source", str(source["pattern"]), facts, "", shown)

    def _answers(self, id: str) -> list[str]:
        """Ids of the answers that a feedback corpus was made from; none for other corpora."""
        try:
            sources = pq.read_table(self.store.folder(id) / "records.parquet", columns=["source"])["source"].to_pylist()
        except (OSError, ValueError, KeyError):  # damaged, which its state says
            return []
        return [name.removeprefix("answer ") for name in sources if name.startswith("answer ")]


def _settings(settings: Mapping[str, Any]) -> list[str]:
    """One line for people; what is empty is left out."""
    shown = []
    for key, value in sorted(settings.items()):
        if isinstance(value, dict):
            value = " ".join(f"{count} {kind}" for kind, count in value.items())
        elif isinstance(value, list):
            value = " ".join(map(one_line, value))
        if value not in ("", None):
            shown.append(f"{key.replace('_', ' ')} {value}")
    return [f"settings: {', '.join(shown)}"] if shown else []


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _lines(node: Node, first: str, rest: str) -> Iterator[str]:
    state = f"  [{'see above' if node.state == 'above' else node.state}]" if node.state else ""
    yield f"{first}{node.name if node.kind == 'answers' else f'{node.kind} {node.name}'}{state}"
    more = "│  " if node.children else "   "
    if node.kind != "answers":
        for fact in node.facts:
            yield f"{rest}{more}{fact}"
    for index, child in enumerate(node.children):
        last = index == len(node.children) - 1
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
