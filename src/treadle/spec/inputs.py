"""``model.inputs:`` what a record's fields are to the model. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from treadle.spec.fields import Duration, Fraction, Section
from treadle.spec.kinds import OneOf


class Tokenizer(Section):
    """How text becomes tokens: one of these; none of them: ``bpe: 4096``."""

    bpe: int | None = Field(default=None, ge=260, le=65_536)
    """Size of a byte-level BPE vocabulary, specials included."""
    words: int | None = Field(default=None, ge=3, le=1_000_000)
    """Most frequent words and signs that are known, specials included; others are one 'unknown'. A Chinese character is a word."""
    characters: int | None = Field(default=None, ge=3, le=65_536)
    """Most frequent characters that are known, specials included."""
    file: str | None = None
    """A tokenizer.json, or the vocab.txt of an uncased BERT, or a folder with one of them: used as it is, with its own marks around
    texts. Relative to the project folder; ``{package:NAME}`` is the folder of an installed Python package."""

    @model_validator(mode="after")
    def _one(self) -> Tokenizer:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"name one of bpe, words, characters and file; {' and '.join(given)} are named")
        return self

    @property
    def size(self) -> int:
        """Entries of the vocabulary; 0: known only from the file."""
        return self.bpe or self.words or self.characters or (0 if self.file else 4096)


class TextAugment(Section):
    """Changes of a text in training, drawn anew each time it is read."""

    drop: Fraction = 0.0
    """Share of tokens left out (Iyyer et al. 2015, section 3.2); one at least stays."""
    back_off: Fraction = 0.0
    """Share of tokens replaced by one drawn from the training text by frequency (Xie et al. 2017, section 3.1)."""


class Text(Section):
    """A sequence of tokens."""

    column: str | list[str] | None = None
    """Field of the record; several are joined by a space. None: the input's name."""
    tokenizer: Tokenizer = Tokenizer()
    context: int = Field(default=256, ge=8, le=131_072)
    """Tokens that the model sees at once; of a longer text the beginning is read."""
    lower: bool = False
    """Read capitals as small letters."""
    augment: TextAugment = TextAugment()


class Pair(Section):
    """Two texts that belong together, such as premise and hypothesis."""

    columns: tuple[str, str] = Field(strict=False)
    """Fields of the record with the first and the second text."""
    tokenizer: Tokenizer = Tokenizer()
    context: int = Field(default=128, ge=8, le=8192)
    """Tokens of each text that are read."""
    lower: bool = False
    """Read capitals as small letters."""
    augment: TextAugment = TextAugment()


class Number(Section):
    """A quantity. A missing one is marked as missing, and read as the middle of the training values."""

    column: str | None = None
    """Field of the record; None: the input's name."""
    scale: Literal["standard", "robust", "log", "quantile"] = "standard"
    """``standard``: mean 0, deviation 1. ``robust``: median 0, quartiles 1 apart. ``log``: standard after a signed log(1 + x).
    ``quantile``: the normal quantile of the rank among the training values."""
    bins: int = Field(default=0, ge=0, le=1024)
    """Pieces of a piecewise linear encoding at the training quantiles (Gorishniy et al. 2022, section 3.2); 0: the scaled value."""


class Category(Section):
    """One of several names. A rare one is 'rare', one never seen 'unseen', a missing one 'missing'."""

    column: str | None = None
    """Field of the record; None: the input's name."""
    rare: int = Field(default=2, ge=1)
    """Names seen fewer times in training count as one, 'rare'."""
    items: str | None = None
    """An input of kind events, of whose items this is one: they share a vocabulary, and a vector per item."""


class Boolean(Section):
    """Yes or no; missing is a third value."""

    column: str | None = None
    """Field of the record; None: the input's name."""


class Date(Section):
    """A day or a moment: as year, and as points on the circles of year, month, week and day."""

    column: str | None = None
    """Field of the record; None: the input's name."""


class Set(Section):
    """Several names without order, such as tags."""

    column: str | None = None
    """Field of the record; None: the input's name."""
    separator: str = Field(default=",", min_length=1)
    """What stands between the names where the field is one text."""
    rare: int = Field(default=2, ge=1)
    """Names seen fewer times in training count as one, 'rare'."""


Side = Annotated[int, Field(ge=1, le=4096)]


class ImageAugment(Section):
    """Changes of an image in training, drawn anew from seed, record and step."""

    crop: int = Field(default=0, ge=0, le=256)
    """Pixels of reflected border, out of which a window of the image's own size is cut at random."""
    flip: bool = False
    """Mirror left and right, half the time."""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """Largest turn (degrees)."""
    scale: Fraction = 0.0
    """Largest relative change of size."""
    colour: Fraction = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    cutout: int = Field(default=0, ge=0, le=512)
    """Side of a square set to the mean (DeVries and Taylor 2017)."""
    mixup: float = Field(default=0.0, ge=0)
    """alpha of Beta(alpha, alpha), the share of another image and its label mixed in (Zhang et al. 2018); 0: none."""


class Image(Section):
    """A picture, turned as its EXIF says."""

    column: str | None = None
    """Field of the record; None: the input's name."""
    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] = 32
    """Side, or height and width (pixels)."""
    fit: Literal["cover", "pad", "stretch"] = "cover"
    """How a picture of another shape gets there. ``cover``: its middle fills the size, what is beyond is cut off. ``pad``: all of
    it is seen, with grey beside it. ``stretch``: all of it, its shape changed."""
    grey: bool = False
    """One channel instead of three."""
    patch: int | None = Field(default=None, ge=1)
    """Side of the squares that a transformer reads as one position; None: about a quarter of the size. Other trunks read pixels."""
    augment: ImageAugment = ImageAugment()

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width."""
        high, wide = (self.size, self.size) if isinstance(self.size, int) else self.size
        return high, wide

    @property
    def square(self) -> int:
        """Side of the squares: ``patch``, or the largest common divisor of height and width up to a quarter of the smaller."""
        high, wide = self.extent
        return self.patch or max(d for d in range(1, max(1, min(high, wide) // 4) + 1) if high % d == 0 and wide % d == 0)


class AudioAugment(Section):
    """Changes of a recording in training, drawn anew from seed, record and step."""

    noise: float = Field(default=0.0, ge=0, le=100)
    """Largest deviation of white noise, as a share of the recording's own."""
    shift: Duration = 0.0
    """Largest shift in time: later, with silence before it, or earlier, without its beginning."""
    mask: Fraction = 0.0
    """Largest share of the frames, and of the mel bands, that is set to the mean (Park et al. 2019)."""


class Audio(Section):
    """A recording as a log-mel spectrogram."""

    column: str | None = None
    """Field of the record; None: the input's name."""
    rate: int = Field(default=8000, ge=1000, le=192_000)
    """Samples per second; recordings of other rates are converted."""
    seconds: float = Field(default=1.0, gt=0, le=600)
    """Longest part that is read; of a longer recording the beginning."""
    mels: int = Field(default=40, ge=4, le=256)
    """Mel bands."""
    hop: Duration = Field(default=0.01, ge=0.001)
    """Time between frames."""
    window: Duration = 0.025
    """Time that a frame covers."""
    augment: AudioAugment = AudioAugment()

    @model_validator(mode="after")
    def _frames(self) -> Audio:
        if not self.hop <= self.window <= self.seconds:
            message = f"hop ({self.hop:g} s) is longer than window ({self.window:g} s), or that than seconds ({self.seconds:g} s)"
            raise ValueError(message)
        if self.window * self.rate < 16:
            raise ValueError(f"a window of {self.window:g} s holds fewer than 16 samples: make it longer, or raise rate")
        return self


class Events(Section):
    """A history: items in the order of their times."""

    column: str | None = None
    """Field of the record, a list of items or of {item, time}; None: the input's name."""
    context: int = Field(default=64, ge=1, le=8192)
    """The newest items that are read."""
    rare: int = Field(default=2, ge=1)
    """Items seen fewer times in training count as one, 'rare', as do those never seen; it is never an answer."""


class Input(OneOf):
    """One input: its kind, or its kind with settings."""

    what: ClassVar[str] = "input"
    example: ClassVar[str] = "age: number"
    bare: ClassVar[str] = "text"

    text: Text | None = None
    pair: Pair | None = None
    image: Image | None = None
    audio: Audio | None = None
    number: Number | None = None
    category: Category | None = None
    boolean: Boolean | None = None
    date: Date | None = None
    set: Set | None = None
    events: Events | None = None

    def columns(self, name: str) -> tuple[str, ...]:
        """Fields of the record that this input, called ``name``, reads."""
        given = getattr(self.settings, "columns", None) or self.settings.column or name
        return (given,) if isinstance(given, str) else tuple(given)
