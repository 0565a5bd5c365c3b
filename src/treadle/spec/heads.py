"""``model.heads:`` what the model gives, and how far off it is. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from treadle.spec.fields import Fraction, Section
from treadle.spec.kinds import OneOf


class _Head(Section):
    weight: float = Field(default=1.0, ge=0)
    """Of this head's loss in the sum over heads."""


class _Column(_Head):
    column: str | None = None
    """Field of the record with the right answer; None: the head's name."""


class NextToken(_Head):
    """The token that follows each position of the text."""


class MaskedToken(_Head):
    """The tokens that were hidden from the text (Devlin et al. 2019, section 3.1)."""

    mask: Fraction = 0.15
    """Share of tokens that are predicted; 80% of them are hidden, 10% replaced, 10% left."""
    whole_words: bool = True
    """Hide all tokens of a word together."""


class Classes(_Column):
    """One of several classes, by a softmax."""

    smoothing: Fraction = 0.0
    """Share of the target's probability spread over all classes (Szegedy et al. 2016, section 7)."""
    balance: bool = False
    """Weigh each class by the inverse of its frequency."""


class Labels(_Column):
    """Any number of labels, each by itself."""

    separator: str = Field(default=",", min_length=1)
    """What stands between the labels where the field is one text."""


class Binary(_Column):
    """Yes or no."""

    positive: str | None = None
    """The value that counts as yes; None: the rarer one."""
    balance: bool = False
    """Weigh yes and no by the inverse of their frequency."""


class Quantity(_Column):
    """A number."""

    loss: Literal["mse", "mae", "huber", "quantile"] = "mse"
    """What is minimised, on standardised values."""
    quantiles: list[Fraction] = [0.1, 0.5, 0.9]
    """Predicted with ``loss: quantile``; the one nearest to 0.5 is the answer."""
    log: bool = False
    """Learn the logarithm of 1 + the number, for quantities that span powers of ten."""


class Transcript(_Column):
    """A text without known alignment (connectionist temporal classification, Graves et al. 2006)."""


class SpanKeys(Section):
    """What the parts of a span are called in the data."""

    start: str = "start"
    """Its first character, counted from 0 in the text as it stands in the data."""
    end: str = "end"
    """The character behind its last one."""
    label: str = "label"
    """What it is."""
    text: str = "text"
    """What stands there; where it is given, a record in which something else stands there is set aside."""


class Tags(_Column):
    """Spans of a text with a label each, such as names. The field holds a list of {start, end, label}, or its JSON text; an empty
    list says that there are none. Each token begins a span, goes on with one, or stands outside (BIO; Ramshaw and Marcus 1995)."""

    input: str | None = None
    """The input of kind text that the spans stand in; None: the only one."""
    keys: SpanKeys = SpanKeys()
    """Other names for the parts of a span, as in ``{start: start_position, end: end_position, label: entity_type}``."""


class Embedding(_Head):
    """A vector for each of the two texts of a pair, each read by itself: near each other where the texts belong together. With a
    column their cosine is fitted to it (Reimers and Gurevych 2019, section 3); without one every pair of the data belongs together,
    and each text is to find its other half among those of the batch (Henderson et al. 2017, section 4.4; both ways round)."""

    column: str | None = None
    """Field of the record with a number that says how much the two are alike; None: all pairs belong together."""
    temperature: float = Field(default=0.05, gt=0, le=10)
    """Without a column: what cosines are divided by before the softmax."""


class NextItem(_Head):
    """The item that follows in a history of events (Kang and McAuley 2018)."""

    negatives: int = Field(default=0, ge=0)
    """Items drawn evenly, anew in each step, that training compares the right ones with, instead of with all: for catalogues of
    which all would be too many; 0: all."""
    repeats: bool = False
    """Whether an item that the history holds may be the answer."""


class BoxKeys(Section):
    """Under which keys each thing's box and label stand."""

    box: str = Field(default="box", min_length=1)
    """[x, y, width, height] in pixels of the whole picture as it is seen, x and y of the upper left corner, as COCO has it."""
    label: str = Field(default="label", min_length=1)
    """What it is."""


class Boxes(_Column):
    """Things in a picture, each with its box and its label: learned queries look at the picture, and each finds one thing or none
    (Carion et al. 2020). A record's answer is a list such as ``[{box: [4, 9, 30, 20], label: car}]``, or that as JSON text; an
    empty list says that nothing is there."""

    keys: BoxKeys = BoxKeys()
    """Of each entry of the list."""
    queries: int = Field(default=20, ge=1, le=100)
    """Most things that are found in a picture: well above what pictures show."""
    threshold: Fraction = 0.5
    """Probability from which a thing is part of the answer."""
    width: int = Field(default=128, ge=32, multiple_of=32)
    """Features of each query."""
    depth: int = Field(default=2, ge=1, le=12)
    """Layers in which the queries look at the picture and at each other."""


class Head(OneOf):
    """One head: its kind, or its kind with settings."""

    what: ClassVar[str] = "head"
    example: ClassVar[str] = "default: binary"

    next_token: NextToken | None = None
    masked_token: MaskedToken | None = None
    category: Classes | None = None
    labels: Labels | None = None
    binary: Binary | None = None
    number: Quantity | None = None
    ctc: Transcript | None = None
    tags: Tags | None = None
    embedding: Embedding | None = None
    next_item: NextItem | None = None
    boxes: Boxes | None = None

    def column(self, name: str) -> str | None:
        """Field of the record with the right answer of this head, called ``name``; None where the inputs hold it."""
        return (self.settings.column or name) if isinstance(self.settings, _Column) else getattr(self.settings, "column", None)
