"""What a packaged folder holds: the live version whole, in a project that answers as that version, and nothing else of home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from shipped import NAME, Home, live_project

from treadle import scaffold
from treadle.core.errors import ArtifactError, UserError
from treadle.core.project import load_project
from treadle.ship.needs import needs_of
from treadle.ship.package import PORT, ship, write_project_file
from treadle.store.artifacts import Artifact, Store, sha256_of
from treadle.store.seed import Seed


def test_the_folder_holds_the_live_version_whole(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TREADLE_STATE", "/state")
    project = load_project(home.folder / "project")
    seed = Seed.read(home.folder / "project" / "seed.json")
    live = home.ledger.live()
    assert (seed.project, seed.version, seed.package) == (NAME, 3, live["package"])
    assert Store(project.store).open(seed.package).manifest == home.store.open(seed.package).manifest
    assert project.ledger_url == "sqlite:////state/ledger.db"
    assert (project.spec.name, project.spec.serve.drain) == (NAME, 7.0)
    assert (project.spec.serve.host, project.spec.serve.port) == ("127.0.0.1", 8000)
    assert project.resolved.shape == home.project.resolved.shape


def test_the_folder_holds_nothing_else_of_home(home: Home):
    everything = b"".join(path.read_bytes() for path in home.folder.rglob("*") if path.is_file() and path.suffix != ".whl")
    key = home.ledger.add_key("someone")
    again = ship(home.project, home.store, home.ledger, home.folder.with_name("with-a-key")).folder
    assert "{stdlib}" not in everything.decode("latin-1")
    for path in again.rglob("*"):
        assert path.is_dir() or (key.encode() not in path.read_bytes() and b"someone" not in path.read_bytes()), path
    assert not list(again.rglob("*.db*"))


@pytest.mark.parametrize("recipe", scaffold.recipes())
def test_the_short_project_of_every_recipe_is_sound(recipe: str, tmp_path: Path):
    project = load_project(scaffold.RECIPES / recipe)
    write_project_file(project, tmp_path / "treadle.yaml")
    short = load_project(tmp_path)
    assert short.spec.model == project.spec.model
    assert {source.licence for source in short.spec.data.sources} == {source.licence for source in project.spec.data.sources}


def test_projects_beside_it_are_left_out_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    project = load_project(scaffold.RECIPES / "digits-mlp", ["serve.beside=[../other]", "serve.queue=7"])
    write_project_file(project, tmp_path / "treadle.yaml")
    short = load_project(tmp_path).spec.serve
    assert (short.beside, short.queue) == ([], 7)
    assert "serve.beside is left out" in capsys.readouterr().err


def test_edge_files_are_the_model_and_are_checked_by_python_alone(home: Home, tmp_path: Path):
    edge = shutil.copytree(home.folder / "edge", tmp_path / "edge")

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-I", "-S", "verify.py"], cwd=edge, capture_output=True, text=True, check=False)

    manifest = json.loads((edge / "manifest.json").read_text())
    assert (manifest["project"], manifest["version"], manifest["licences"]) == (NAME, 3, ["PSF-2.0"])
    assert {name: about["sha256"] for name, about in manifest["files"].items()} == {
        name: sha256_of(edge / name) for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                                                  "tokenizer_config.json")
    }
    with safe_open(edge / "model.safetensors", "pt") as weights:
        assert list(weights.keys())
    assert verify().returncode == 0
    with (edge / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    (edge / "tokenizer.json").unlink()
    (edge / "more.py").touch()
    done = verify()
    assert done.returncode == 1
    for said in ("model.safetensors was changed", "tokenizer.json is missing", "more.py does not belong here", "cure: "):
        assert said in done.stderr


def test_a_changed_package_is_refused_and_nothing_is_left(tmp_path: Path):
    project, store, ledger, id = live_project(tmp_path / "home")
    ledger.promote(id, "better")
    (store.folder(id) / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        ship(project, store, ledger, tmp_path / "out" / "folder")
    assert not (tmp_path / "out" / "folder").exists()


def test_a_file_that_changes_while_it_is_copied_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project, store, ledger, id = live_project(tmp_path / "home")
    ledger.promote(id, "better")
    whole = Store.open

    def changed(self: Store, id: str) -> Artifact:
        found = whole(self, id)
        (found.path / "config.json").write_bytes(b"x" * (found.path / "config.json").stat().st_size)
        return found

    monkeypatch.setattr(Store, "open", changed)
    with pytest.raises(ArtifactError, match="while it was copied"):
        ship(project, store, ledger, tmp_path / "out" / "folder")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_live_version_and_a_folder_that_is_there_are_the_users_error(tmp_path: Path):
    project, store, ledger, id = live_project(tmp_path / "home")
    with pytest.raises(UserError, match="no version is live") as raised:
        ship(project, store, ledger, tmp_path / "out")
    assert "treadle run" in raised.value.cure
    ledger.promote(id, "better")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        ship(project, store, ledger, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_is_said_and_left_as_it_was(home: Home, tmp_path: Path, small_disk: Path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "out", small_disk / "out"):
        with pytest.raises(UserError, match=f"cannot write {target}: ") as raised:
            ship(home.project, home.store, home.ledger, target)
        assert "choose a folder" in raised.value.cure
    assert list(small_disk.iterdir()) == []


def test_the_folder_is_named_by_project_and_version(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ship(home.project, home.store, home.ledger).folder == Path(f"{NAME}-v3")
    assert (tmp_path / f"{NAME}-v3" / "Dockerfile").exists()


def test_anyone_may_read_the_folder_and_only_its_owner_write(home: Home, tmp_path: Path):
    before = os.umask(0o077)
    try:
        folder = ship(home.project, home.store, home.ledger, tmp_path / "out").folder
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_memory_grows_with_the_package_and_time_with_the_drain(tmp_path: Path):
    (tmp_path / "weights").write_bytes(bytes(100 * 1024**2))
    needs = needs_of(tmp_path, 30.5)
    assert (needs.memory, needs.most_memory, needs.grace) == (1024, 1536, 46)  # 512 + 5 * 100 = 1012; half as much again; + 15


@pytest.mark.parametrize(("given", "port"), [(0, 8000), (443, 8000), (1024, 1024), (9000, 9000)])
def test_the_port_is_the_projects_own_where_a_user_without_rights_may_have_it(tmp_path: Path, given: int, port: int):
    project, store, ledger, id = live_project(tmp_path / "home")
    ledger.promote(id, "better")
    folder = ship(load_project(project.folder, [f"serve.port={given}"]), store, ledger, tmp_path / "out").folder
    for name in ("project/treadle.yaml", "Dockerfile", "compose.yaml", "kubernetes.yaml", "README.md"):
        assert str(port) in (folder / name).read_text(), name
        assert port == PORT or str(PORT) not in (folder / name).read_text(), name


def test_a_licence_cannot_end_the_line_that_it_stands_on(tmp_path: Path):
    project, store, ledger, id = live_project(tmp_path / "home")
    ledger.promote(id, "better")
    odd = load_project(project.folder, ["data.sources.0.licence='\"Own\nRUN $HOME\"'"])
    text = (ship(odd, store, ledger, tmp_path / "out").folder / "Dockerfile").read_text()
    assert text.count("\nRUN ") == 2
    assert "$HOME" not in text


def test_no_mark_of_a_template_is_left(home: Home):
    for path in home.folder.rglob("*"):
        if path.is_file() and path.suffix not in (".whl", ".safetensors", ".so"):
            assert "{{" not in path.read_text(encoding="utf-8"), path
