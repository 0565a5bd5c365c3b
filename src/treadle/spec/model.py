"""``model:`` inputs, a trunk, and heads."""

from __future__ import annotations

from pydantic import Field, model_validator

from treadle.spec.fields import Section
from treadle.spec.heads import Head
from treadle.spec.inputs import Image, Input, Text, Tokenizer
from treadle.spec.trunks import Trunk

# What a head needs among the inputs: its kind -> kinds of input of which there must be exactly one.
_NEEDS = {
    "embedding": ("pair",), "next_token": ("text",), "masked_token": ("text",), "ctc": ("audio",), "next_item": ("events",),
    "boxes": ("image",),
}
# Heads whose loss of a mixture of two records is the mixture of their losses.
_MIXED = ("category", "labels", "binary", "number")
# What each trunk reads.
_READS = {
    "conv": {"image", "audio"}, "pretrained": {"text", "pair"},
    "recurrent": {"text", "pair", "audio", "events", "number", "category", "boolean", "date", "set"},
}


# Heads that answer at each position: the trunks that keep the positions apart.
_KEEPS = {
    "ctc": ("recurrent", "transformer"), "boxes": ("conv", "transformer"), "tags": ("recurrent", "transformer", "pretrained"),
}


class Model(Section):
    inputs: dict[str, Input] = Field(default={"text": Input(text=Text())}, min_length=1)
    """Name of a record's field to what it is: text, pair, image, audio, number, category, boolean, date, set or events."""
    trunk: Trunk
    start_from: str | None = None
    """A project in which a masked or a recurrent language model is live, or the folder of such a model, relative to the project
    folder: its tokenizer is used, and this model starts from its token vectors and its trunk's weights. None: fresh weights."""
    heads: dict[str, Head] = Field(default={"next": Head.model_validate("next_token")}, min_length=1)
    """Name of a record's field with the right answer, or any name where the inputs hold it, to what the model gives."""

    @model_validator(mode="after")
    def _own_tokens(self) -> Model:
        """A pretrained encoder's texts are read as the tokens that it was trained on."""
        if self.trunk.pretrained:
            own = Tokenizer(file=self.trunk.pretrained.folder)
            for name, given in self.inputs.items():
                if given.kind in ("text", "pair") and given.settings.tokenizer == Tokenizer():
                    settings = given.settings.model_copy(update={"tokenizer": own})
                    self.inputs[name] = given.model_copy(update={given.kind: settings})
        return self

    def misfits(self) -> list[tuple[tuple[str, ...], str]]:
        """Inputs, trunk and heads that do not go together: the place in the file, and what is wrong."""
        found: list[tuple[tuple[str, ...], str]] = []
        kinds, trunk = [given.kind for given in self.inputs.values()], self.trunk.kind
        for name, head in self.heads.items():
            at = ("model", "heads", name)
            found += [
                (at, f"{head.kind} needs exactly one input of kind {needed}")
                for needed in _NEEDS.get(head.kind, ()) if kinds.count(needed) != 1
            ]
            if trunk not in (kept := _KEEPS.get(head.kind, (trunk,))):
                keep = f"{', '.join(kept[:-1])} and {kept[-1]} keep them"
                found.append((at, f"{head.kind} needs positions, which trunk {trunk} sums up; {keep}"))
            if head.kind in ("ctc", "boxes") and len(kinds) > 1:
                what = "recording" if head.kind == "ctc" else "picture"
                found.append((at, f"{head.kind} reads the positions of the {what} alone: leave the other inputs out"))
            if head.kind == "boxes" and self.trunk.conv and self.trunk.conv.dense:
                where = ("model", "trunk", "conv", "dense")
                found.append((where, "dense layers forget where things are, which boxes needs: leave them out"))
            if head.column(name) in {column for key, given in self.inputs.items() for column in given.columns(key)}:
                found.append((at, f"the field {head.column(name)!r} is an input too, so the answer would be given away"))
        for name, given in self.inputs.items():
            if trunk in _READS and given.kind not in _READS[trunk]:
                message = f"trunk {trunk} does not read {given.kind}; mlp and transformer read all kinds"
                found.append((("model", "inputs", name), message))
            tokenizer = getattr(given.settings, "tokenizer", None)
            if self.trunk.pretrained and tokenizer and tokenizer.file != self.trunk.pretrained.folder:
                message = "a pretrained encoder reads the tokens that it was trained on: leave the tokenizer out"
                found.append((("model", "inputs", name), message))
            if given.image:
                found += self._picture_misfits(name, given.image)
        found += self._text_misfits()
        found += self._item_misfits() + self._tag_misfits() + self._embedding_misfits() + self._start_misfits()
        if trunk in ("conv", "pretrained") and len(kinds) > 1:
            found.append((("model", "inputs"), f"trunk {trunk} reads one input; mlp and transformer join several"))
        return found

    def _text_misfits(self) -> list[tuple[tuple[str, ...], str]]:
        """What does not go together with a head that predicts running text."""
        found: list[tuple[tuple[str, ...], str]] = []
        kinds = [given.kind for given in self.inputs.values()]
        heads = {name: head for name, head in self.heads.items() if head.kind in ("next_token", "masked_token")}
        for name, head in heads.items():
            at = ("model", "heads", name)
            if kinds.count("text") == 1 and (len(self.heads) > 1 or len(self.inputs) > 1):
                found.append((at, f"{head.kind} learns from running text: it needs one text alone, and no other head"))
            if self.trunk.kind not in ("transformer", "recurrent"):
                found.append((at, f"{head.kind} needs a trunk with an output at every position: transformer or recurrent"))
        text = next((given.text for given in self.inputs.values() if given.text), None)
        if not heads or text is None:
            return found
        kind, recurrent = next(iter(heads.values())).kind, self.trunk.recurrent
        if recurrent and kind == "next_token" and recurrent.directions == 2:
            message = "a net that reads backward too would see the token that it is to predict: set directions to 1"
            found.append((("model", "trunk", "recurrent", "directions"), message))
        if self.trunk.transformer and kind == "masked_token" and self.trunk.transformer.causal:
            message = "what was hidden is found from both sides: leave causal out"
            found.append((("model", "trunk", "transformer", "causal"), message))
        at = ("model", "inputs", next(iter(self.inputs)))
        if text.tokenizer.file:
            found.append((at, "a language model learns its own tokens: give bpe, words or characters"))
        if text.tokenizer.size > 65_536:
            found.append((at, "a language model knows 65536 tokens at most"))
        return found

    def _item_misfits(self) -> list[tuple[tuple[str, ...], str]]:
        """Of histories, their items, and what predicts the next one."""
        found: list[tuple[tuple[str, ...], str]] = []
        for name, given in self.inputs.items():
            items = given.category.items if given.category else None
            if items is not None and (items not in self.inputs or self.inputs[items].kind != "events"):
                found.append((("model", "inputs", name), f"items: {items!r} is no input of kind events"))
        for name, head in self.heads.items():
            if head.kind != "next_item":
                continue
            at = ("model", "heads", name)
            if len(self.inputs) > 1:
                found.append((at, "next_item reads the history alone: remove the other inputs"))
            trunk = self.trunk.transformer or self.trunk.recurrent
            if trunk is None:
                found.append((at, f"trunk {self.trunk.kind} does not look back from each event; transformer and recurrent do"))
            elif getattr(trunk, "causal", None) is False or getattr(trunk, "directions", 1) == 2:
                found.append((at, "the trunk must look back only: else it would see the item that it predicts"))
        return found

    def _tag_misfits(self) -> list[tuple[tuple[str, ...], str]]:
        """Of heads that tag the tokens of a text."""
        found: list[tuple[tuple[str, ...], str]] = []
        texts = [name for name, given in self.inputs.items() if given.text]
        for name, head in self.heads.items():
            if head.tags is None:
                continue
            at = ("model", "heads", name)
            wanted = head.tags.input
            if wanted not in texts if wanted else len(texts) != 1:
                said = f"input: {wanted!r} is no input of kind text" if wanted else f"there are {len(texts)} inputs of kind text"
                found.append((at, f"{said}: say which one the spans stand in, as in 'input: NAME'"))
                continue
            text = wanted or texts[0]
            if len(self.inputs[text].columns(text)) > 1:
                message = "the spans of a head are counted in one field: name one column"
                found.append((("model", "inputs", text, "text", "column"), message))
            if self.inputs[text].settings.augment.drop:
                message = "tokens that are left out move the others away from their tags: set drop to 0"
                found.append((("model", "inputs", text, "text", "augment", "drop"), message))
            if self.trunk.recurrent and self.trunk.recurrent.directions == 1:
                message = "a tag depends on what follows too: set directions to 2"
                found.append((("model", "trunk", "recurrent", "directions"), message))
            if self.trunk.transformer and self.trunk.transformer.causal:
                message = "a tag depends on what follows too: leave causal out"
                found.append((("model", "trunk", "transformer", "causal"), message))
        return found

    def _embedding_misfits(self) -> list[tuple[tuple[str, ...], str]]:
        """Of a head that reads the two texts of a pair apart."""
        found: list[tuple[tuple[str, ...], str]] = []
        for name, head in self.heads.items():
            if head.embedding is None:
                continue
            at = ("model", "heads", name)
            if len(self.heads) > 1 or len(self.inputs) > 1:
                found.append((at, "embedding reads the two texts apart: no other head or input can stand beside it"))
            if head.embedding.column and "temperature" in head.embedding.model_fields_set:
                message = "with a column the cosine itself is fitted: leave temperature out"
                found.append(((*at, "embedding", "temperature"), message))
        return found

    def _picture_misfits(self, name: str, image: Image) -> list[tuple[tuple[str, ...], str]]:
        found: list[tuple[tuple[str, ...], str]] = []
        at = ("model", "inputs", name, "image")
        (high, wide), side = image.extent, image.square
        if self.trunk.kind == "transformer" and (high % side or wide % side):
            found.append(((*at, "patch"), f"squares of {side} do not fill a picture of {high} x {wide}"))
        if image.augment.rotate and any(head.kind == "boxes" for head in self.heads.values()):
            message = "the box of a turned thing is not known: leave rotate out; crop, scale and flip move boxes along"
            found.append(((*at, "augment", "rotate"), message))
        if image.augment.mixup:
            unmixed = [f"head {head.kind}" for head in self.heads.values() if head.kind not in _MIXED]
            unmixed += [f"input {key}" for key in self.inputs if key != name]
            found += [((*at, "augment", "mixup"), f"{what} cannot be mixed as pictures are") for what in unmixed]
        return found

    def _start_misfits(self) -> list[tuple[tuple[str, ...], str]]:
        """What an earlier model cannot be the start of."""
        if self.start_from is None:
            return []
        found: list[tuple[tuple[str, ...], str]] = []
        if self.predicts_text or self.trunk.kind not in ("transformer", "recurrent"):
            message = "is for a transformer or a recurrent net that learns from records with answers"
            found.append((("model", "start_from"), message))
        texts = {name: given.settings for name, given in self.inputs.items() if given.kind in ("text", "pair")}
        if len(texts) != 1:
            found.append((("model", "start_from"), "needs one input of kind text or pair, which takes the tokenizer over"))
        for name, settings in texts.items():
            if settings.tokenizer.model_fields_set:
                found.append((("model", "inputs", name), "start_from brings its own tokenizer: leave this one out"))
        return found

    @property
    def is_language(self) -> bool:
        """Whether this is a language model in a public layout: one text, a transformer, the next token."""
        kinds = [part.kind for part in (*self.inputs.values(), *self.heads.values())]
        return kinds == ["text", "next_token"] and self.trunk.kind == "transformer"

    @property
    def predicts_text(self) -> bool:
        """Whether it is trained on running text rather than on records with answers."""
        return all(head.kind in ("next_token", "masked_token") for head in self.heads.values())

    @property
    def balanced_by(self) -> str | None:
        """Field of the first answer that is one of several classes: folds hold like shares of them."""
        return next((head.column(name) for name, head in self.heads.items() if head.kind in ("category", "binary")), None)

    @property
    def masks(self) -> bool:
        """Whether it learns what was hidden from a running text."""
        return self.predicts_text and any(head.kind == "masked_token" for head in self.heads.values())

    @property
    def text(self) -> Text:
        """The text input of a model that has one."""
        return next(given.text for given in self.inputs.values() if given.text is not None)
