"""A project: its folder, its checked treadle.yaml, and what follows from it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from treadle.core.errors import UserError
from treadle.spec.derive import Derived, Resolved, derive
from treadle.spec.document import Document, override, parse
from treadle.spec.load import read_file
from treadle.spec.problem import Problem
from treadle.spec.project import ProjectSpec


class SpecError(UserError):
    """treadle.yaml is wrong: ``problems`` lists everything, in the file's order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        lines = "\n".join(str(problem) for problem in problems)
        super().__init__(f"{lines}\n{count} problem{'s' if count > 1 else ''} found")
        self.problems = list(problems)


@dataclass(frozen=True)
class Project:
    """A checked project. ``folder`` is where treadle.yaml lies; relative paths of the file start there."""

    folder: Path
    spec: ProjectSpec
    resolved: Resolved
    file: Path = Path("treadle.yaml")
    overrides: tuple[str, ...] = ()

    def document(self) -> Document:
        """The file as it was read, overrides included: it says where each key stands."""
        document = parse((self.folder / self.file).read_text(encoding="utf-8-sig"), str(self.file))
        for given in self.overrides:
            override(document, given)
        return document

    @property
    def store(self) -> Path:
        return (self.folder / self.spec.store).resolve()

    @property
    def beside(self) -> list[Path]:
        """The folders of the projects that are served beside it."""
        return [(self.folder / given).resolve() for given in self.spec.serve.beside]

    @property
    def ledger_url(self) -> str | None:
        """The ledger's URL with ``$NAMES`` filled in from the environment, or None for the store's own file."""
        return None if self.spec.ledger is None else filled(self.spec.ledger, "ledger")

    @property
    def trials_url(self) -> str:
        """Where the trials of a search are kept, likewise; by default a file in the store."""
        given = self.spec.tune.storage
        return f"sqlite:///{self.store / 'trials.db'}" if given is None else filled(given, "tune.storage")

    def settled(self, key: str, value: float, reason: str, curve: tuple[tuple[float, float], ...] = ()) -> Project:
        """This project with a plain number for ``train.KEY``, as if its file gave it, and with the reason for it."""
        train = self.spec.train.model_copy(update={key: value})
        spec = self.spec.model_copy(update={"train": train})
        resolved = derive(spec)
        known = {row.key: row for row in (*resolved.reasons, *self.resolved.reasons)}
        known[key] = Derived(key, value, reason, curve)
        return replace(self, spec=spec, resolved=replace(resolved, reasons=tuple(known.values()), threads=self.resolved.threads))

    def on_threads(self, count: int, reason: str, curve: tuple[tuple[float, float], ...]) -> Project:
        """This project with as many threads as were measured to be the best. Its settings stay as they are: the identity of a run
        has the threads that it takes, whatever they were chosen by."""
        reasons = [row for row in self.resolved.reasons if row.key != "threads"] + [Derived("threads", count, reason, curve)]
        return replace(self, resolved=replace(self.resolved, reasons=tuple(reasons), threads=count))


def filled(text: str, key: str) -> str:
    """``text`` with its ``$NAMES`` from the environment. Raises ``UserError`` for one that the environment lacks."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(f"{key} names ${name}, which the environment lacks", cure=f"export {name}=...")
        return os.environ[name]

    return re.sub(r"\$([A-Z_][A-Z0-9_]*)", fill, text)


def load_project(path: Path, overrides: Sequence[str] = ()) -> Project:
    """Read and check ``path`` (a treadle.yaml or its folder). Raises ``SpecError`` with every problem at once."""
    file = path / "treadle.yaml" if path.is_dir() else path
    outcome = read_file(file, overrides)
    if isinstance(outcome, list):
        raise SpecError(outcome)
    return Project(file.resolve().parent, outcome, derive(outcome), file.resolve(), tuple(overrides))
