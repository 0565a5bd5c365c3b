"""What a request may say. Every field is checked; one that is unknown, or asks for what is not done, is named in the answer."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from treadle.core.errors import RequestError

STOPS = 4
STOP_LENGTH = 256
_INT64 = 2**63
_HUGE = 2**31


class Request(BaseModel):
    """Types are taken literally: ``"16"`` is not a number, 1 is not true."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Stop = Annotated[str, Field(min_length=1, max_length=STOP_LENGTH)]


class StreamOptions(Request):
    include_usage: bool = False
    """Send one more event, with the token counts, before the end."""
    continuous_usage_stats: bool = False
    """Every event has the token counts so far, so that one who breaks off knows them."""


class CompletionRequest(Request):
    """POST /v1/completions: OpenAI's fields, and two of our own at the end. null is the same as leaving a field out."""

    model: str
    """The project's name, as /v1/models gives it."""
    prompt: str
    """Text to continue."""
    max_tokens: int | None = Field(default=None, ge=1, lt=_HUGE)
    """Longest answer (tokens); 16 where left out, at most ``serve.max_tokens``."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0: always the likeliest token; 1 where left out: as the model finds them likely."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw from the fewest tokens whose probability reaches this; 1 where left out."""
    stop: Annotated[list[_Stop], BeforeValidator(_listed), Field(max_length=STOPS)] | None = None
    """One text or up to 4: the answer ends before the first of them."""
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    """The same seed gives the same answer of the same version; a random one is drawn where left out."""
    stream: bool | None = None
    """Send the answer piece by piece as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with ``stream``."""
    user: str | None = Field(default=None, max_length=512)
    """Taken for compatibility; neither used nor kept."""
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    store: bool | None = None
    """Consent: the prompt and the answer may be kept, after redaction, to improve the model."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, lt=_HUGE)
    """Keep only this many last tokens of a prompt; -1: as many as fit beside ``max_tokens``, but half the context in any case."""

    @model_validator(mode="after")
    def _agree(self) -> CompletionRequest:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for requests with 'stream': true")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens is -1 or at least 1")
        return self


Columns = dict[Annotated[str, Field(max_length=200)], Any]


class PredictRequest(Request):
    """POST /v1/predict: records to be answered about."""

    model: str | None = None
    """The project's name, as /v1/models gives it; it may be left out."""
    inputs: Columns | Annotated[list[Columns], Field(min_length=1, max_length=1000)]
    """One record, or a list of up to 1,000: each column by its name, null where a value is missing; files as base64."""
    store: bool | None = None
    """Consent: the records and the answers may be kept, after redaction, to improve the model."""

    @property
    def rows(self) -> list[Columns]:
        return [self.inputs] if isinstance(self.inputs, dict) else self.inputs


class FeedbackRequest(Request):
    """POST /v1/feedback: what a user says of an answer. It replaces what was said of that answer before."""

    answer_id: str = Field(max_length=80)
    """The answer's ``id``."""
    rating: Literal["up", "down"] | None = None
    edited: str | dict[str, Any] | None = None
    """What the answer should have been; for a model of several heads, the right answer of each by its name."""

    @model_validator(mode="after")
    def _something(self) -> FeedbackRequest:
        if not self.model_fields_set & {"rating", "edited"}:
            raise ValueError("rating or edited is needed; null takes back what was said before")
        return self


_Kind = TypeVar("_Kind", bound=Request)


def parse(kind: type[_Kind], body: bytes) -> _Kind:
    """``body`` as ``kind``. Raises ``RequestError`` that names the first field at fault and lists the others."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _told(kind, error) from None


def _told(kind: type[Request], error: ValidationError) -> RequestError:
    first, *others = error.errors(include_url=False)
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not JSON: {first['ctx']['error']}", cure="send one JSON object, in UTF-8")
    field = _field(first)
    if first["type"] == "model_type":
        return RequestError("the body is not a JSON object", cure='send one, as in {"model": ..., "prompt": ...}')
    known = "known fields: " + ", ".join(kind.model_fields)
    if first["type"] == "extra_forbidden":
        return RequestError(f"{field}: is not a known field", field=field, cure=known)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] != "value_error":
        message = f"{field}: {message[:1].lower()}{message[1:]}{_value(first)}"
    if first["type"] in ("literal_error", "none_required") or field in ("presence_penalty", "frequency_penalty"):
        cure = f"leave {field} out: nothing but its neutral value is done here"
    else:
        described = kind.model_fields.get(re.split(r"[.\[]", field)[0]) if field else None
        cure = ((described.description if described else None) or "mend the request").replace("`", "").rstrip(".")
    more = sorted({name for other in others if (name := _field(other)) and name != field})
    return RequestError(message, field=field, cure=cure + (f"; also at fault: {', '.join(more)}" if more else ""))


def _value(error: Any) -> str:
    """What was sent, if it is short and no text: a text is the user's own and has no place in an error that may be logged."""
    value = error["input"]
    shown = json.dumps(value) if isinstance(value, int | float) and error["type"] != "too_long" else ""
    return f", not {shown}" if 0 < len(shown) <= 24 else ""


def _field(error: Any) -> str | None:
    """The field's name with its index, without pydantic's names for the branches of a union."""
    steps: list[str] = []
    for step in error["loc"]:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        elif step.isidentifier() and step != "str":
            steps.append(f".{step}" if steps else step)
    return "".join(steps) or None
