"""An artifact is whole or not there; a whole one that was damaged is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from treadle.core.errors import ArtifactError, UserError, WorkError
from treadle.store.artifacts import MANIFEST, Artifact, Store, disk_errors, write_json

ID = "corpus-0123456789abcdef"


def make(store: Store, id: str = ID, text: str = "content", **counts: Any) -> Artifact:
    with store.create(id, parents=["corpus-a"], config={"k": (1, 2)}, version=1, seed=3) as draft:
        (draft.path / "part.txt").write_text(text)
        (draft.path / "deep" / "er").mkdir(parents=True)
        (draft.path / "deep" / "er" / "more.bin").write_bytes(bytes(100))
        draft.counts.update(counts)
    return store.open(id)


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert not store.has(ID)
    artifact = make(store, records=3, loss=float("nan"))
    assert store.has(ID)
    assert artifact.kind == "corpus"
    assert artifact.parents == ("corpus-a",)
    assert artifact.config == {"k": [1, 2]}
    assert artifact.counts["records"] == 3
    assert artifact.manifest["seed"] == 3
    assert artifact.manifest["environment"]["treadle"]
    assert (artifact.path / "part.txt").read_text() == "content"
    assert set(artifact.manifest["files"]) == {"part.txt", "deep/er/more.bin"}
    assert [m["id"] for m in store.all()] == [ID]
    assert not list((tmp_path / "s" / "tmp").iterdir())


def test_an_id_follows_from_inputs_config_and_version_alone(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    first = store.identify("model", ["dataset-1"], {"x": 1, "y": 2}, 1)
    assert first == other.identify("model", ["dataset-1"], {"y": 2, "x": 1}, 1)
    changed = [
        store.identify("model", ["dataset-2"], {"x": 1, "y": 2}, 1), store.identify("model", ["dataset-1"], {"x": 1, "y": 3}, 1),
        store.identify("model", ["dataset-1"], {"x": 1, "y": 2}, 2), store.identify("package", ["dataset-1"], {"x": 1, "y": 2}, 1),
    ]
    assert len({first, *changed}) == 5


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail() -> None:
        with store.create(ID, parents=[], config={}, version=1, seed=0) as draft:
            (draft.path / "part.txt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not store.has(ID)
    assert left_in(tmp_path) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def edit_counts(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["counts"]["records"] = 4
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("part.txt", flip, "was changed after it was written"),
        ("deep/er/more.bin", flip, "was changed after it was written"),
        ("part.txt", truncate, "holds 6 bytes, its manifest says 7"),
        ("part.txt", Path.unlink, "is missing"),
        ("extra.txt", lambda path: path.write_text("x"), "does not belong there"),
        (MANIFEST, truncate, "manifest.json is damaged"),
        (MANIFEST, edit_counts, "manifest.json is damaged: its own sha256 differs"),
        (MANIFEST, lambda path: path.write_text(""), "manifest.json is damaged"),
        (MANIFEST, lambda path: path.write_text("[1]"), "manifest.json is damaged"),
        (MANIFEST, lambda path: path.write_text("{}"), "manifest.json is damaged"),
        (MANIFEST, lambda path: path.write_bytes(b"\xff\xfe\x00"), "manifest.json is damaged"),
        (MANIFEST, Path.unlink, "there is no whole artifact"),
    ],
)
def test_damage_is_refused_by_name_and_can_be_made_anew(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], said: str
) -> None:
    store = Store(tmp_path)
    path = make(store, records=3).path
    damage(path / name)
    with pytest.raises(ArtifactError, match=said) as caught:
        store.open(ID)
    assert "run" in caught.value.cure
    assert make(store, records=3).counts["records"] == 3
    assert left_in(path) == sorted(["part.txt", "deep/er/more.bin", MANIFEST])


def test_an_artifact_under_another_name_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = make(store).path
    shutil.copytree(path, path.with_name("ffff"))
    with pytest.raises(ArtifactError, match=f"says that it is {ID}, not corpus-ffff"):
        store.open("corpus-ffff")


def test_a_damaged_manifest_is_named_when_all_are_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = make(store).path
    make(store, "corpus-second")
    assert [m["id"] for m in store.all()] == [ID, "corpus-second"]
    truncate(path / MANIFEST)
    with pytest.raises(ArtifactError, match=r"manifest.json is damaged"):
        store.all()


@pytest.mark.parametrize("id", ["", "corpus", "corpus-", "../x", "corpus-../../etc", "corpus-a/b", "Corpus-a", "-a"])
def test_what_is_no_id_never_becomes_a_path(tmp_path: Path, id: str) -> None:
    with pytest.raises(UserError, match="is not an artifact's id"):
        Store(tmp_path).has(id)


def test_two_that_make_the_same_leave_one_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create(ID, parents=[], config={}, version=1, seed=0) as slow:
        (slow.path / "part.txt").write_text("content")
        # The other process of the race, finished first. Its draft has another name because its process has another number.
        other = tmp_path / "elsewhere"
        first = make(Store(other), text="content")
        (tmp_path / "artifacts" / "corpus").mkdir(parents=True)
        first.path.rename(store.folder(ID))
        opened = (store.folder(ID) / "deep" / "er" / "more.bin").open("rb")
    assert store.open(ID).manifest["created"] == first.manifest["created"]
    with opened:
        assert opened.read() == bytes(100)


CHILD = """
import sys, time
from pathlib import Path
from treadle.store.artifacts import Store
with Store(Path(sys.argv[1])).create(sys.argv[2], parents=[], config={}, version=1, seed=0) as draft:
    (draft.path / "part.txt").write_bytes(bytes(1000))
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_process_killed_in_the_middle_leaves_nothing_that_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), ID], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        (draft,) = (tmp_path / "tmp").iterdir()
        make(store, "corpus-meanwhile")
        assert draft.exists(), "the draft of a living process was swept away"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert draft.exists()
    assert not store.has(ID)
    assert [m["id"] for m in store.all()] == ["corpus-meanwhile"]
    make(store, ID)
    assert not draft.exists(), "the draft of a dead process was not swept away"


@pytest.mark.parametrize("step", range(1, 12))
def test_a_kill_at_any_write_leaves_whole_or_nothing(tmp_path: Path, step: int) -> None:
    """The process kills itself at the ``step``-th file-system change: whatever was reached, the store opens what it has."""
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
count = 0
def hook(event, arguments):
    global count
    if event in ("os.rename", "os.mkdir", "os.remove", "shutil.rmtree") or (event == "open" and "w" in str(arguments[1])):
        if {str(tmp_path)!r} in str(arguments[0]):
            count += 1
            if count == {step}:
                os.kill(os.getpid(), signal.SIGKILL)
from test_artifacts import make
from treadle.store.artifacts import Store
sys.addaudithook(hook)
make(Store(Path({str(tmp_path)!r})))
"""
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.returncode in (-signal.SIGKILL, 0), outcome.stderr
    store = Store(tmp_path)
    assert [m["id"] for m in store.all()] == ([ID] if store.has(ID) else [])
    if store.has(ID):
        store.open(ID)
    assert make(store).counts == {}
    assert len(left_in(tmp_path)) == 3, "something was left behind"


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    store = Store(small_disk)
    make(store, "corpus-before")
    with (
        pytest.raises(WorkError, match=rf"the disk that holds {small_disk} is full") as caught,
        store.create(ID, parents=[], config={}, version=1, seed=0) as draft,
    ):
        (draft.path / "part.bin").write_bytes(bytes(1 << 20))
    assert "free some space" in caught.value.cure
    assert not store.has(ID)
    assert store.open("corpus-before").kind == "corpus"
    make(store, ID)


WRITERS: dict[str, Callable[[Path, bytes], Any]] = {
    "parquet": lambda path, data: pq.write_table(pa.table({"a": pa.array([data])}), path, compression="none"),
    "safetensors": lambda path, data: save_file({"a": np.frombuffer(data, np.uint8)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_known_from_libraries_too(small_disk: Path, writer: str) -> None:
    with pytest.raises(WorkError, match="is full"), disk_errors(small_disk):
        WRITERS[writer](small_disk / "file", os.urandom(1 << 20))


def test_a_full_disk_at_the_manifest_leaves_nothing(small_disk: Path) -> None:
    store = Store(small_disk)
    with (
        pytest.raises(WorkError, match="is full"),
        store.create(ID, parents=[], config={"long": "x" * (1 << 19)}, version=1, seed=0) as draft,
    ):
        (draft.path / "part.txt").write_text("content")
    assert left_in(small_disk) == []


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkError, match="cannot write to") as caught:
        make(Store(tmp_path / "file" / "store"))
    assert "'store:'" in caught.value.cure
    with pytest.raises(WorkError, match="cannot write to"):
        Store(tmp_path / "file").workspace(ID)


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError), disk_errors(tmp_path / "store"):
        (tmp_path / "file" / "inside").read_text()


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    assert left_in(tmp_path) == ["a.json"]


def test_the_time_is_measured(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create(ID, parents=[], config={}, version=1, seed=0):
        time.sleep(0.02)
    assert store.open(ID).manifest["seconds"] >= 0.02
