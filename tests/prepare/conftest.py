from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.core.project import Project, load_project
from treadle.store.artifacts import Store

YAML = """
name: tiny
data:
  sources: [{files: "texts/**/*.txt", licence: MIT, exclude: {tests: ["**/tests/**"]}}]
  clean: {max_size: 20 KB}
  split: {test: 20%, validation: 10%}
model:
  inputs: {text: {tokenizer: {bpe: 300}, context: 16}}
  trunk: {transformer: {depth: 1}}
"""


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., tuple[Project, Store]]:
    """A project over ``tmp_path/texts``, with overrides such as ``data.clean.dedupe=none``."""

    def make(*overrides: str) -> tuple[Project, Store]:
        (tmp_path / "treadle.yaml").write_text(YAML)
        project = load_project(tmp_path, overrides)
        return project, Store(project.store)

    return make


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    return folder
