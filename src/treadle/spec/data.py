"""``data:`` where the records come from, how they are cleaned, and how they are split."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, field_validator, model_validator

from treadle.spec.fields import Fraction, Section, Size


def _text_encoding(name: str) -> str:
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError("there is no such text encoding; 'utf-8', 'latin-1' and 'utf-16' are common ones") from None


def _named_groups(regex: str) -> str:
    try:
        groups = re.compile(regex).groupindex
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if not groups:
        raise ValueError("names no group: write what becomes a field as '(?P<name>...)'")
    return regex


Encoding = Annotated[str, AfterValidator(_text_encoding)]


class _Source(Section):
    licence: str = Field(min_length=1)
    """SPDX identifier of what the data may be used under; it travels with every record."""
    part: Literal["train", "validation", "test"] | None = None
    """The part that all of it belongs to, where the data comes split; None: as ``split`` says."""


class FilesSource(_Source):
    """Text files that match a pattern; each file is one record, or each piece of it that ``cut`` gives."""

    files: str = Field(min_length=1)
    """Glob, relative to the project folder; ``**`` crosses folders, ``{stdlib}`` is this Python's standard library, ``{data}`` the
    folder of the environment variable TREADLE_DATA. Names that begin with a dot match only where the pattern writes the dot."""
    exclude: dict[Annotated[str, Field(pattern=r"^[a-z][a-z -]{0,30}$")], list[str]] = {}
    """Reason to globs, relative to the pattern's fixed folder, as in ``tests: ["**/tests/**"]``: such files are not read, but
    set aside under that reason."""
    encoding: Encoding = "utf-8"
    """How the bytes become text; a file that does not decode is set aside."""
    span: tuple[Fraction, Fraction] = Field(default=(0.0, 1.0), strict=False)
    """Which share of each file is read, cut at line ends: ``[0%, 90%]`` and ``[90%, 100%]`` split one long text between two
    sources, each with its ``part``."""
    cut: Size | None = None
    """Cut each file into records of this size (bytes) or a little more, at an empty line where one comes in time, else at a line's
    end; with ``by: file`` each is a group of its own. None: a file is one record."""

    @model_validator(mode="after")
    def _spans(self) -> FilesSource:
        if self.span[0] >= self.span[1]:
            raise ValueError(f"span must begin before it ends, not {self.span[0]:.0%} before {self.span[1]:.0%}")
        return self


class History(Section):
    """Rows (user, item, time) become histories: a user's items in the order of their times."""

    user: str
    """Column that says whose the row is."""
    item: str
    """Column with the item."""
    time: str | None = None
    """Column that orders the rows; None: as they stand."""
    into: str = "history"
    """Name of the record's field that takes the list."""
    min: int = Field(default=3, ge=1)
    """Users with fewer rows are set aside."""
    per: Literal["user", "event"] = "user"
    """``user``: one record of each user, with all items. ``event``: one of each row, with its columns, and in ``into`` the items
    before it."""
    keep: int = Field(default=50, ge=1)
    """Newest items that the history of an event's record holds."""
    newest: Annotated[int, Field(ge=1)] | None = None
    """Events of each user that become records, counted from the last; the others stand in their histories. None: all."""
    negatives: int = Field(default=0, ge=0)
    """Records that are made up beside each event's: items drawn evenly from those that the user has no row with. Columns that
    differ between the rows of a user and between those of an item are then left out: what is made up has none."""
    answer: str = "chosen"
    """With ``negatives``, the field that says ``yes`` of events and ``no`` of what is made up."""

    @model_validator(mode="after")
    def _negatives_of_events(self) -> History:
        if self.negatives and self.per != "event":
            raise ValueError("negatives are made up beside events: say 'per: event'")
        return self


class _Rows(_Source):
    """What has rows with named columns; each row is one record."""

    missing: list[str] = ["", "?", "NA", "N/A", "#N/A", "nan", "NaN", "null", "None"]
    """Texts that mean that a value is missing."""
    replace: dict[str, dict[str, str]] = {}
    """Column to text to the text that stands for it, as in ``income: {">50K.": ">50K"}``."""
    history: History | None = None
    """Gather rows into one record per user."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read no more rows than this."""


class TableSource(_Rows):
    """CSV, TSV, JSON, JSON Lines, Parquet or Excel files."""

    table: str = Field(min_length=1)
    """Path or glob, as in ``files``; the ending says what it is (.csv, .tsv, .txt, .json, .jsonl, .parquet, .xlsx; .gz besides)."""
    columns: list[str] | None = None
    """Names of the columns, for a file without a header line."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Of CSV; None: found from the first lines."""
    quoted: bool = True
    """Of CSV: whether ``"`` opens and closes a cell; no: it is a sign like others, as in much tab-separated text."""
    encoding: Encoding = "utf-8"
    """Of text files."""
    sheet: str | None = None
    """Of an Excel file; None: the first."""


class SqlSource(_Rows):
    """The rows of a query, through SQLAlchemy."""

    sql: str = Field(min_length=1)
    """The database's URL, such as ``postgresql+psycopg://$USER:$PASSWORD@host/db`` ($NAMES come from the environment)."""
    query: str = Field(min_length=1)
    """A SELECT; order it, so that it gives the same rows in the same order each time."""

    @field_validator("sql")
    @classmethod
    def _no_password(cls, url: str) -> str:
        given = re.search(r"://[^:/@]*:([^@]*)@|[?&]password=([^&]*)", url)
        if given and not re.fullmatch(r"\$[A-Z_][A-Z0-9_]*", given.group(1) or given.group(2) or "$NONE"):
            raise ValueError("holds a password, which this file must not: write $PASSWORD and export it in the environment")
        return url


class HubSource(_Rows):
    """A data set by name, through the library ``datasets`` (``pip install 'treadle[hub]'``)."""

    dataset: str = Field(min_length=1)
    """Its name, or a local folder that ``datasets.load_dataset`` opens."""
    config: str | None = None
    """Its configuration."""
    rows: str = "train"
    """Which of its splits is read."""


class PixelRecords(Section):
    """Files that hold many pictures, as CIFAR-10's and CIFAR-100's binary ones do: of each the bytes of its labels, then those of
    its pixels, row by row, all of the first channel before the next."""

    height: int = Field(default=32, ge=1, le=4096)
    width: int = Field(default=32, ge=1, le=4096)
    """Of each picture (pixels)."""
    grey: bool = False
    """One channel instead of three."""
    labels: list[str] = Field(default=["label"])
    """Names of the fields that take the label bytes, in their order."""

    @property
    def length(self) -> int:
        """Bytes of a picture with its labels."""
        return len(self.labels) + self.height * self.width * (1 if self.grey else 3)


class MediaSource(_Source):
    """Images or recordings: a folder, a .zip or .tar archive, or an IDX file; each item is one record."""

    media: str = Field(min_length=1)
    """Path, as in ``files``, without wildcards."""
    into: str = Field(min_length=1)
    """Name of the record's field that takes the image or recording."""
    match: list[str] = ["**/*"]
    """Globs of the items that are read, relative to the folder or the archive's root."""
    folder_is: str | None = None
    """Name of the field that takes the name of the item's folder, such as its class."""
    name_is: Annotated[str, AfterValidator(_named_groups)] | None = None
    """Regular expression that the item's file name begins with; its named groups become fields, as in
    ``(?P<digit>\\d)_(?P<speaker>\\w+)_``."""
    labels: str | None = None
    """A CSV, or JSON Lines, whose column ``file`` names the items and whose other columns become fields; or the IDX file with the
    labels."""
    records: PixelRecords | None = None
    """What each matching file holds, where it holds many pictures: ``{labels: [object]}`` reads CIFAR-10's. None: one."""
    label_is: str = "label"
    """Name of the field that takes the labels of an IDX file."""
    replace: dict[str, dict[str, str]] = {}
    """Field to text to the text that stands for it, as in ``digit: {"0": zero}``."""
    max_size: Size = 50_000_000
    """Larger items are set aside (bytes)."""


class UrlSource(_Source):
    """A file from the network, kept in the store, whose content must have the given hash."""

    url: str = Field(pattern=r"^https?://")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file: what differs is refused."""
    then: Annotated[dict[str, object], Field(min_length=1)]
    """How the file is read: a source of another kind in which ``{file}`` stands for its path, as in ``{table: "{file}"}``."""

    @model_validator(mode="after")
    def _then_is_a_source(self) -> UrlSource:
        self.reading(self.name)
        return self

    @property
    def name(self) -> str:
        """The file's own name, at the end of the URL's path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "file"

    def reading(self, path: str) -> AnySource:
        """The source that reads the file at ``path``, with this one's licence and part. Raises ``ValueError``."""
        filled = {key: value.replace("{file}", path) if isinstance(value, str) else value for key, value in self.then.items()}
        if "url" in filled or filled == self.then:
            raise ValueError("then: must be a source of another kind in which '{file}' stands for the file's path")
        try:
            return _SOURCE.validate_python({"licence": self.licence, "part": self.part, **filled})
        except ValidationError as error:
            at = "then." + ".".join(str(step) for step in error.errors()[0]["loc"][1:])
            raise ValueError(f"{at}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


_KEYS = {
    "files": FilesSource, "table": TableSource, "sql": SqlSource, "dataset": HubSource, "media": MediaSource, "url": UrlSource,
}


def _which(value: object) -> str | None:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return next((kind.__name__ for key, kind in _KEYS.items() if key in given), "FilesSource")


AnySource = Annotated[
    Annotated[FilesSource, Tag("FilesSource")] | Annotated[TableSource, Tag("TableSource")]
    | Annotated[SqlSource, Tag("SqlSource")] | Annotated[HubSource, Tag("HubSource")]
    | Annotated[MediaSource, Tag("MediaSource")] | Annotated[UrlSource, Tag("UrlSource")],
    Discriminator(_which),
]
_SOURCE: TypeAdapter[AnySource] = TypeAdapter(AnySource)


def source_name(spec: object) -> str:
    """What the source is called in accounts: what its first own key says."""
    for key in ("files", "table", "media", "dataset", "url"):
        if getattr(spec, key, None):
            return str(getattr(spec, key))
    assert isinstance(spec, SqlSource)
    return f"{spec.sql.split('@')[-1].split('?')[0]}: {spec.query}"


class Clean(Section):
    """What is taken out before anything is learned from it. All of it is counted, nothing is dropped in silence."""

    dedupe: Literal["near", "exact", "none"] | None = None
    """``near`` removes copies and near-copies (MinHash), ``exact`` byte-for-byte copies only. None: near copies of running text;
    records with answers are kept, since equal ones may well be two cases."""
    similarity: Fraction = Field(default=0.8, ge=0.5)
    """Share of word 5-grams (Jaccard) from which two records are near-duplicates."""
    secrets: Literal["redact", "drop", "keep"] = "redact"
    """Keys and tokens: replaced by a typed placeholder, the whole record set aside, or left."""
    pii: Literal["redact", "drop", "keep"] = "redact"
    """E-mail addresses, phone, card and IBAN numbers: as above."""
    generated: Literal["drop", "keep"] = "drop"
    """Files that say they were generated by a program."""
    max_size: Size = 1_000_000
    """Longer files are set aside (bytes)."""
    min_size: Size = 1
    """Shorter files are set aside (bytes)."""


class Split(Section):
    """Which records are never trained on. A group is in one part only, whatever is added later."""

    test: Fraction = 0.05
    """Share of the groups held out for the scorecard."""
    validation: Fraction = 0.02
    """Share of the groups held out to watch training."""
    by: str = "file"
    """What must not straddle two parts: ``file`` or ``folder`` of files; of rows and media, the name of a field. Equal records, and
    near-duplicates of running text, never straddle. ``last`` splits every history by time instead: its last event is tested on, the
    one before validated on, all earlier ones are trained on, and ``test`` and ``validation`` say nothing."""

    @model_validator(mode="after")
    def _leaves_training(self) -> Split:
        if self.test + self.validation >= 1:
            raise ValueError(f"test ({self.test:g}) and validation ({self.validation:g}) leave nothing to train on")
        return self


class Data(Section):
    sources: list[AnySource] = Field(min_length=1)
    """Where records come from, in order."""
    clean: Clean = Clean()
    split: Split = Split()
