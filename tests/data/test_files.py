import os
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.errors import SourceError
from treadle.data.record import Record, SetAside, content_id
from treadle.data.sources.base import Place
from treadle.data.sources.collect import collect
from treadle.data.sources.globs import glob_regex, parse_pattern, walk
from treadle.spec.data import FilesSource


def gather(folder: Path, files: str, **more: object) -> list[Record | SetAside]:
    by = str(more.pop("by", "file"))
    spec = FilesSource.model_validate({"files": files, "licence": "MIT", **more})
    return list(collect(spec, Place(folder, "data.sources.0", "text", 1000, by)))


def outcome(items: list[Record | SetAside]) -> dict[str, str]:
    return {item.source: "kept" if isinstance(item, Record) else item.reason for item in items}


def write(folder: Path, **files: bytes | str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_file_is_a_record_that_says_where_it_came_from(tmp_path: Path) -> None:
    write(tmp_path, notes__sub__a_txt="été\n")
    (record,) = gather(tmp_path, "notes/**/*.txt")
    assert isinstance(record, Record)
    assert record.fields == {"text": "été\n"}
    assert (record.source, record.group, record.licence) == ("notes/sub/a.txt", "notes/sub/a.txt", "MIT")
    assert record.id == content_id({"text": "été\n"})
    assert record.meta == {"pattern": "notes/**/*.txt", "bytes": 6}


def test_every_reason_to_set_a_file_aside(tmp_path: Path) -> None:
    write(
        tmp_path, d__good_txt="text", d__nul_txt=b"ab\0cd", d__latin_txt="naïve".encode("latin-1"), d__long_txt="x" * 1001,
        d__empty_txt="", d__blank_txt=" \n\t\n", d__control_txt=b"\x01\x02abc",
        d__tests__one_txt="test", d__bom_txt="\ufeffhi",
    )
    os.mkfifo(tmp_path / "d/pipe.txt")
    (tmp_path / "d/gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    items = gather(tmp_path, "d/**/*.txt", exclude={"tests": ["**/tests/**"]})
    assert outcome(items) == {
        "d/bom.txt": "kept", "d/good.txt": "kept", "d/nul.txt": "binary", "d/latin.txt": "encoding", "d/long.txt": "too long",
        "d/empty.txt": "empty", "d/blank.txt": "empty", "d/control.txt": "binary", "d/tests/one.txt": "tests",
        "d/pipe.txt": "unreadable", "d/gone.txt": "unreadable", "d/loop": "linked folder",
    }
    details = {item.source: item.detail for item in items if isinstance(item, SetAside)}
    assert "byte 2" in details["d/latin.txt"]
    assert details["d/nul.txt"] == "NUL at byte 2"
    assert details["d/long.txt"] == "1001 bytes"
    texts = {item.source: item.fields["text"] for item in items if isinstance(item, Record)}
    assert texts["d/bom.txt"] == "hi"


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_file_without_permission_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path, a_txt="x", b__c_txt="x")
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "b").chmod(0)
    try:
        assert outcome(gather(tmp_path, "**/*.txt")) == {"a.txt": "unreadable", "b": "unreadable"}
    except SourceError:
        pytest.fail("a file that cannot be read is still a file")
    finally:
        (tmp_path / "b").chmod(0o700)


def test_excluded_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, a_txt="x")
    os.mkfifo(tmp_path / "b.txt")
    assert outcome(gather(tmp_path, "*.txt", exclude={"pipes": ["b.*"]})) == {"a.txt": "kept", "b.txt": "pipes"}


def test_other_encodings(tmp_path: Path) -> None:
    write(tmp_path, a_txt="naïve".encode("latin-1"), b_txt="naïve".encode("utf-16"))
    kept = {i.source: i.fields["text"] for i in gather(tmp_path, "a.txt", encoding="latin-1") if isinstance(i, Record)}
    assert kept == {"a.txt": "naïve"}
    (wide,) = gather(tmp_path, "b.txt", encoding="UTF16")
    assert isinstance(wide, Record)
    assert wide.fields["text"] == "naïve"


def test_file_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x")
    assert list(outcome(gather(tmp_path, "*.txt"))) == ["\\xff.txt"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("*.md", "matches no file"), ("sub", "matches no file"), ("nowhere/*.txt", "is not there"),
        ("{stdlb}/*.py", "not understood"),
        ("a.{txt,md}", "not understood"), ("/nowhere/**/*.py", "is not there"),
    ],
)
def test_a_pattern_that_names_nothing_is_an_error_with_its_key(tmp_path: Path, files: str, message: str) -> None:
    write(tmp_path, a_txt="x", sub__b_txt="x")
    with pytest.raises(SourceError, match=message) as caught:
        gather(tmp_path, files)
    assert "data.sources.0.files" in caught.value.message
    assert caught.value.cure
    if files == "sub":
        assert "sub/**/*" in caught.value.cure


def test_labels_tell_the_place_and_no_absolute_path(tmp_path: Path) -> None:
    write(tmp_path, home__notes__a_txt="x", home__project__b_txt="x")
    project = tmp_path / "home/project"
    assert list(outcome(gather(project, f"{tmp_path}/home/notes/*.txt"))) == ["notes/a.txt"]
    assert list(outcome(gather(project, "../notes/*.txt"))) == ["notes/a.txt"]
    assert list(outcome(gather(project, "./*.txt"))) == ["b.txt"]
    pattern = parse_pattern("{stdlib}/json/*.py", project, "k")
    assert (pattern.root, pattern.label) == (Path(sysconfig.get_path("stdlib")) / "json", "stdlib/json")
    assert "decoder.py" in [found.relative for found in walk(pattern)]


def test_group_is_the_folder_when_the_split_is_by_folder(tmp_path: Path) -> None:
    write(tmp_path, a__x_txt="1", a__y_txt="2", b__z_txt="3")
    assert [i.group for i in gather(tmp_path, "**/*.txt", by="folder") if isinstance(i, Record)] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**/*.py", ["a.py", "a/b/c.py"], ["a.pyc", ".hid/a.py", "a/.b.py"]),
        ("*.py", ["a.py"], ["a/b.py", ".a.py"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab/c", "b/a/c"]),
        ("**/test/**", ["test/a", "x/test/a/b"], ["tests/a", "test"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[ab].txt", ["a.txt"], ["c.txt"]),
        ("[!ab].txt", ["c.txt"], ["a.txt", "/.txt"]),
        (".hid/*", [".hid/a"], [".hid/.a", "hid/a"]),
        ("[z-a].txt", ["[z-a].txt"], ["z.txt"]),
        ("a+(b).txt", ["a+(b).txt"], ["aab.txt"]),
    ],
)
def test_globs(glob: str, yes: list[str], no: list[str]) -> None:
    matches = glob_regex(glob)
    assert [path for path in yes if not matches.match(path)] == []
    assert [path for path in no if matches.match(path)] == []


@given(st.text(alphabet="ab*?[]!-\\/.^{}", max_size=12), st.text(alphabet="ab/.-[]", max_size=8))
def test_no_glob_breaks_the_matcher(glob: str, path: str) -> None:
    glob_regex(glob).match(path)


def test_depth_is_bounded_where_the_pattern_is(tmp_path: Path) -> None:
    write(tmp_path, a__b__c_txt="x", a__d_txt="y")
    assert list(outcome(gather(tmp_path, "*/*.txt"))) == ["a/d.txt"]
    assert list(outcome(gather(tmp_path, "**/*.txt"))) == ["a/b/c.txt", "a/d.txt"]


LINE = st.sampled_from(["", "a", "été", "one two three", "x" * 40, "\x0b", " "])
LINES = st.lists(LINE).map(lambda lines: "\n".join(["begin", *lines]))


@given(LINES, st.integers(1, 99), st.sampled_from([None, 1, 10, 50]))
def test_spans_and_pieces_share_a_text_out_without_loss(tmp_path_factory, text: str, percent: int, cut: int | None) -> None:
    folder = tmp_path_factory.mktemp("spans")
    (folder / "a.txt").write_bytes(text.encode())
    both = []
    for part, span in (("train", [0, percent / 100]), ("test", [percent / 100, 1])):
        items = gather(folder, "a.txt", span=span, cut=cut, part=part)
        both += items
        for item in items:
            if isinstance(item, Record):
                assert item.meta["part"] == part
                assert item.meta["bytes"] == len(item.fields["text"].encode())
                line = int(item.source.removeprefix("a.txt:"))
                assert text.split("\n")[line - 1] == item.fields["text"].split("\n")[0]
                assert item.group == (item.source if cut else "a.txt")
    kept = [item.fields["text"] for item in both if isinstance(item, Record)]
    assert "".join("".join(kept).split()) == "".join(text.split())  # pieces without a word are set aside as empty
    assert {item.reason for item in both if isinstance(item, SetAside)} <= {"empty"}
    if cut:
        longest = max(len(line.encode()) + 1 for line in text.split("\n"))
        assert all(len(piece.encode()) <= 2 * cut + longest for piece in kept)


def test_pieces_end_at_empty_lines_where_they_can(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\nfour\nfive\nsix\n\nseven\n")
    items = gather(tmp_path, "a.txt", cut=8)
    assert [item.fields["text"] for item in items] == ["one\ntwo\n\n", "three\nfour\nfive\n", "six\n\nseven\n"]
    assert [item.source for item in items] == ["a.txt:1", "a.txt:4", "a.txt:7"]


def test_a_span_must_begin_before_it_ends() -> None:
    with pytest.raises(ValueError, match="begin before it ends"):
        FilesSource(files="a", licence="MIT", span=(0.5, 0.5))
