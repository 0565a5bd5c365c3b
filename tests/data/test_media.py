"""Folders, archives and IDX files as records."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from treadle.core.errors import SourceError
from treadle.data.record import Record, SetAside, content_id
from treadle.data.schema import Schema
from treadle.data.sources.base import Place
from treadle.data.sources.collect import collect
from treadle.data.sources.media import read_idx
from treadle.spec.data import MediaSource
from treadle.spec.model import Model

MODEL = {"inputs": {"photo": {"image": {"size": 4}}}, "trunk": {"mlp": {}}, "heads": {"kind": "category"}}


def picture(colour: str, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(stream, kind)
    return stream.getvalue()


FILES = {
    "train/cat/1.png": picture("red"), "train/cat/2.jpg": picture("blue", "JPEG"), "train/dog/3.png": picture("green"),
    "train/dog/.hidden.png": picture("white"), "__MACOSX/cat/._1.png": b"junk", "notes.txt": b"about these pictures",
}


def read(folder: Path, by: str = "file", **settings: object) -> list[Record | SetAside]:
    spec = MediaSource.model_validate({"into": "photo", "licence": "CC0-1.0", "match": ["**/*.png", "**/*.jpg"]} | settings)
    return list(collect(spec, Place(folder, "data.sources.0", "text", 1000, by, Schema(Model.model_validate(MODEL)))))


def write_folder(folder: Path) -> str:
    for name, data in FILES.items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return "pictures"


def write_zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return "pictures.zip"


def write_tar(folder: Path) -> str:
    with tarfile.open(folder / "pictures.tar.gz", "w:gz") as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo("./" + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return "pictures.tar.gz"


@pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
def test_the_same_records_from_a_folder_and_from_archives(tmp_path: Path, write: Callable[[Path], str]):
    name = write(tmp_path)
    found = read(tmp_path, media=name, folder_is="kind", part="train")
    assert all(isinstance(record, Record) for record in found)
    assert [(r.source, r.fields["kind"], r.fields["photo"]) for r in found] == [
        (f"{name}/{path}", path.split("/")[1], {"bytes": FILES[path], "path": path}) for path in list(FILES)[:3]
    ]
    assert {record.meta["part"] for record in found} == {"train"}
    assert [record.id for record in found] == [record.id for record in read(tmp_path, media=name, folder_is="kind")]


def test_equal_pictures_are_told_apart_by_content_alone(tmp_path: Path):
    first = content_id({"photo": {"bytes": b"a", "path": "x"}})
    assert first == content_id({"photo": {"bytes": b"a", "path": "y"}}) != content_id({"photo": {"bytes": b"b", "path": "x"}})
    records = read(tmp_path, media=write_folder(tmp_path), folder_is="kind")
    assert len({record.meta["row"] for record in records}) == 3


def test_names_give_fields_and_groups(tmp_path: Path):
    for name in ("7_ann_0.png", "7_ann_1.png", "3_bob_0.png", "other.png"):
        (tmp_path / name).write_bytes(picture("red"))
    found = read(tmp_path, media=".", name_is=r"(?P<kind>\d)_(?P<speaker>\w+)_\d", by="speaker")
    assert [r.fields["kind"] for r in found if isinstance(r, Record)] == ["3", "7", "7"]
    assert [r.group for r in found if isinstance(r, Record)] == ["speaker=bob", "speaker=ann", "speaker=ann"]
    assert [(r.source, r.reason) for r in found if isinstance(r, SetAside)] == [("other.png", "other name")]
    names = {"kind": {"7": "seven"}, "nowhere": {"7": "x"}}
    renamed = [r for r in read(tmp_path, media=".", name_is=r"(?P<kind>\d)_", replace=names) if isinstance(r, Record)]
    assert [r.fields["kind"] for r in renamed] == ["3", "seven", "seven"]
    for wrong, said in (("(", "no regular expression"), ("1_", "names no group")):
        with pytest.raises(ValueError, match=said):
            MediaSource.model_validate({"media": ".", "into": "photo", "licence": "x", "name_is": wrong})


def test_labels_from_a_table(tmp_path: Path):
    write_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("file, kind\ntrain/cat/1.png, tabby\n2.jpg, siamese\n4.png, lost\n")
    found = read(tmp_path, media="pictures", labels="labels.csv")
    assert [(r.fields["photo"]["path"], r.fields["kind"]) for r in found if isinstance(r, Record)] == [
        ("train/cat/1.png", "tabby"), ("train/cat/2.jpg", "siamese"),
    ]
    assert [(r.reason, r.detail) for r in found if isinstance(r, SetAside)] == [
        ("no label", "train/dog/3.png"), ("no such item", "4.png"),
    ]
    (tmp_path / "labels.csv").write_text("name,kind\n")
    with pytest.raises(SourceError, match="no column 'file'"):
        read(tmp_path, media="pictures", labels="labels.csv")


def test_labels_from_json_lines(tmp_path: Path):
    write_folder(tmp_path)
    file = tmp_path / "labels.jsonl"
    lines = ['{"file": "1.png", "kind": "tabby", "age": 3}', "", '{"file": "2.jpg", "kind": null}']
    lines += ['{"file": "4.png", "kind": "lost"}']
    file.write_text("\n".join(lines) + "\n")
    found = read(tmp_path, media="pictures", labels="labels.jsonl")
    assert [(r.fields["photo"]["path"], r.fields["kind"]) for r in found if isinstance(r, Record)] == [("train/cat/1.png", "tabby")]
    assert [(r.reason, r.detail) for r in found if isinstance(r, SetAside)] == [
        ("no answer", "kind"), ("no label", "train/dog/3.png"), ("no such item", "4.png"),
    ]
    for line, said in (("[1]", "it is no JSON object"), ("{", "Expect")):
        file.write_text('{"file": "1.png", "kind": "tabby"}\n' + line)
        with pytest.raises(SourceError, match=f"labels.jsonl:2 cannot be read: {said}"):
            read(tmp_path, media="pictures", labels="labels.jsonl")
    for text in ("", '{"file": "1.png"}\n{"kind": "tabby"}'):
        file.write_text(text)
        with pytest.raises(SourceError, match="no column 'file'"):
            read(tmp_path, media="pictures", labels="labels.jsonl")


def test_what_cannot_be_read_is_set_aside(tmp_path: Path):
    folder = tmp_path / "pictures" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(picture("red"))
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "c.png").write_bytes(picture("red")[:-30])
    (folder / "d.png").write_bytes(bytes(2000))
    (tmp_path / "pictures" / "e.png").write_bytes(picture("red"))
    (tmp_path / "pictures" / "linked").symlink_to(folder)
    found = read(tmp_path, media="pictures", folder_is="kind", max_size=1000)
    assert [item.reason if isinstance(item, SetAside) else item.fields["kind"] for item in found] == [
        "cat", "not an image", "not an image", "too long", "no answer", "linked folder",
    ]


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "C:\\out.png", "..\\out.png"])
def test_a_path_that_leads_out_of_an_archive_is_refused(tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, picture("red"))
        archive.writestr("cat/1.png", picture("red"))
    entries = [(name, picture("red")), ("cat/1.png", picture("red"))]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path, data in entries:
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    for file in ("a.zip", "a.tar"):
        found = read(tmp_path, media=file, folder_is="kind")
        assert [item.reason if isinstance(item, SetAside) else "kept" for item in found] == ["unsafe path", "kept"]
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_tar_are_not_followed(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(picture("red"))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("cat/1.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(entry)
    (item,) = read(tmp_path, media="a.tar", folder_is="kind")
    assert isinstance(item, SetAside)
    assert item.reason == "link"


def test_an_entry_longer_than_it_says_is_cut_off(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(5_000_000))
    data = bytearray((tmp_path / "bomb.zip").read_bytes())
    for at in (data.index(b"PK\3\4") + 22, data.index(b"PK\1\2") + 24):  # its size, in both headers
        data[at : at + 4] = struct.pack("<I", 100)
    (tmp_path / "bomb.zip").write_bytes(data)
    (item,) = read(tmp_path, media="bomb.zip", folder_is="kind", max_size=1000)
    assert isinstance(item, SetAside)
    assert item.reason in ("too long", "unreadable", "not an image")


def idx(path: Path, array: np.ndarray, code: int = 8) -> None:
    data = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_files_of_many_pictures(tmp_path: Path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 3, 4, 6)).astype(np.uint8)  # all of a channel before the next
    labels = np.array([[0, 7], [1, 7], [0, 9], [1, 9], [0, 200]], np.uint8)
    data = np.concatenate([labels, pixels.reshape(5, -1)], 1).tobytes()
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "a.bin").write_bytes(data)
    (tmp_path / "many" / "short.bin").write_bytes(data[:-1])
    (tmp_path / "many" / "empty.bin").write_bytes(b"")
    how = {"height": 4, "width": 6, "labels": ["kind", "fine"]}
    names = {"kind": {"0": "cat", "1": "dog"}}
    found = read(tmp_path, media="many", match=["*.bin"], records=how, replace=names)
    good = [item for item in found if isinstance(item, Record)]
    assert [record.fields["kind"] for record in good] == ["cat", "dog", "cat", "dog", "cat"]
    assert good[2].source == "many/a.bin/000002.ppm"
    for record, wanted in zip(good, pixels, strict=True):
        image = Image.open(io.BytesIO(record.fields["photo"]["bytes"]))
        assert (np.asarray(image) == wanted.transpose(1, 2, 0)).all()
    assert [(item.source, item.reason) for item in found if isinstance(item, SetAside)] == [
        ("many/empty.bin", "unreadable"), ("many/short.bin", "unreadable"),
    ]
    how = {"height": 7, "width": 10, "grey": True, "labels": ["kind", "x", "y", "z"]}
    grey = read(tmp_path, media="many", match=["a.bin"], records=how)
    assert [item.fields["photo"]["path"] for item in grey if isinstance(item, Record)] == [f"a.bin/{n:06d}.pgm" for n in range(5)]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 3)])
def test_idx_images_with_their_labels(tmp_path: Path, ending: str, shape: tuple[int, ...]):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    idx(tmp_path / f"images{ending}", pixels)
    idx(tmp_path / f"labels{ending}", np.array([7, 0, 7], np.uint8))
    settings = {"media": f"images{ending}", "labels": f"labels{ending}", "label_is": "kind"}
    found = read(tmp_path, **settings)
    assert [record.fields["kind"] for record in found] == ["7", "0", "7"]
    for record, expected in zip(found, pixels, strict=True):
        assert (np.asarray(Image.open(io.BytesIO(record.fields["photo"]["bytes"]))) == expected).all()
    idx(tmp_path / f"labels{ending}", np.array([7, 0], np.uint8))
    with pytest.raises(SourceError, match=r"\(2,\) labels for 3 images"):
        read(tmp_path, **settings)
    idx(tmp_path / f"images{ending}", pixels.astype(">i2"), 11)
    with pytest.raises(SourceError, match=">i2"):
        read(tmp_path, **settings)
    (tmp_path / "images").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 2) + b"1234567")
    with pytest.raises(SourceError, match="ends before 8 bytes"):
        read(tmp_path, media="images")


@given(st.binary(max_size=60))
def test_no_file_makes_a_traceback(data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        for start in (b"", b"PK\3\4", b"\x1f\x8b", b"\0\0\x08\3"):
            (Path(folder) / "file").write_bytes(start + data)
            with contextlib.suppress(SourceError):
                read(Path(folder), media="file")


def test_what_is_not_there_is_an_error_with_a_cure(tmp_path: Path):
    write_folder(tmp_path)
    for settings, said in (
        ({"media": "nothing.zip"}, "is not there"), ({"media": "pictures", "match": ["*.gif"]}, "holds no item"),
        ({"media": "pictures/notes.txt"}, "none of what can be read"), ({"media": "pictures"}, "no column 'kind'"),
        ({"media": "pictures", "labels": "nothing.csv"}, "labels: 'nothing.csv' is not there"),
    ):
        with pytest.raises(SourceError, match=said) as caught:
            read(tmp_path, **settings)
        assert caught.value.cure


def test_the_digits_of_mnist(data_folder: Callable[[str], Path]):
    images = read_idx(data_folder("mnist") / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(data_folder("mnist") / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_objects_of_cifar(data_folder: Callable[[str], Path]):
    found = read(data_folder("cifar10-jpg"), media="test.zip", folder_is="kind", match=["test/*/*.jpg"])
    kinds = [record.fields["kind"] for record in found if isinstance(record, Record)]
    assert len(kinds) == len(found) == 5000
    assert {kinds.count(kind) for kind in kinds} == {500}
