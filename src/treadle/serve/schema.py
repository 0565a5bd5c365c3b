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
_MANY = 32
_TEXTS = 2048
_FORM = 10_000


class Request(BaseModel):
    """Types are taken literally: ``"16"`` is not a number, 1 is not true."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Stop = Annotated[str, Field(min_length=1, max_length=STOP_LENGTH)]


_Id = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_Ids = Annotated[list[Annotated[int, Field(ge=0, lt=_HUGE)]], Field(min_length=1)]


class StreamOptions(Request):
    include_usage: bool = False
    """Send one more event, with the token counts, before the end."""
    continuous_usage_stats: bool = False
    """Every event has the token counts so far, so that one who breaks off knows them."""


class StructuredOutputs(Request):
    """What an answer is held to, in vLLM's words; one of them."""

    json_schema: dict[str, Any] | None = Field(default=None, alias="json")
    """A JSON schema."""
    regex: Annotated[str, Field(min_length=1, max_length=_FORM)] | None = None
    """A regular expression (Rust's syntax) that the whole answer matches."""
    choice: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None
    """One of these texts."""

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if sum(part is not None for part in (self.json_schema, self.regex, self.choice)) != 1:
            raise ValueError("structured_outputs: one of 'json', 'regex' and 'choice' is needed")
        return self

    @property
    def form(self) -> tuple[Literal["json_schema", "regex", "choice"], Any]:
        """Its kind, and what it says."""
        if self.json_schema is not None:
            return "json_schema", self.json_schema
        return ("regex", self.regex) if self.regex is not None else ("choice", self.choice)


class Pressing(Request):
    """How pressing a request is, where requests wait."""

    priority: int | None = Field(default=None, ge=0, le=1000)
    """What has a lower number is answered earlier; 0 where left out, so that one who is in no hurry can let others go first."""
    timeout: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds after which the answer is in vain: it is given up then, and answered 504."""


class Asking(Pressing):
    """What a completion and a chat have in common. null is the same as leaving a field out."""

    model: str
    """The project's name, as /v1/models gives it."""
    max_tokens: int | None = Field(default=None, ge=1, lt=_HUGE)
    """Longest answer (tokens), at most ``serve.max_tokens``; where left out, 16 of a completion, all of them in a chat."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0: always the likeliest token; 1 where left out: as the model finds them likely."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw from the fewest tokens whose probability reaches this; 1 where left out."""
    top_k: int | None = Field(default=None, ge=-1, lt=_HUGE)
    """Draw from so many of the likeliest tokens; all where left out, and at 0 and -1."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Draw from tokens with at least this share of the likeliest one's probability."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Taken off the score of every token that stands in the answer already."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """The same, once for each time that it stands there."""
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    """What scores of tokens of the prompt and the answer are divided by, those below 0 multiplied."""
    logit_bias: Annotated[dict[_Id, _Bias], Field(max_length=1024)] | None = None
    """Token's id -> -100 to 100, added to its score."""
    stop: Annotated[list[_Stop], BeforeValidator(_listed, _Stop | list[_Stop]), Field(max_length=STOPS)] | None = None
    """One text or up to 4: the answer ends before the first of them."""
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    """The same seed gives the same answer of the same version; a random one is drawn where left out."""
    n: int | None = Field(default=None, ge=1, le=_MANY)
    """So many answers; with a seed, the next ones have the next seeds."""
    stream: bool | None = None
    """Send the answer piece by piece as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with ``stream``."""
    structured_outputs: StructuredOutputs | None = None
    """What the answer is held to."""
    user: str | None = Field(default=None, max_length=512)
    """Who asks: while two versions answer, the same one answers all requests of a user. It is not kept."""
    store: bool | None = None
    """Consent: the prompt and the answer may be kept, after redaction, to improve the model."""

    @model_validator(mode="after")
    def _stream_options(self) -> Asking:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for requests with 'stream': true")
        return self


class CompletionRequest(Asking):
    """POST /v1/completions: OpenAI's fields, and some of vLLM's and our own."""

    prompt: str | _Ids | Annotated[list[str], Field(min_length=1, max_length=_MANY)]
    """Text to continue, or ids of its tokens, which are taken as they are, or up to 32 texts."""
    best_of: int | None = Field(default=None, ge=1, le=_MANY)
    """As many as ``n``: all that are written are given."""
    echo: Literal[False] | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Tell how likely each token was, and so many that were likeliest there."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, lt=_HUGE)
    """Keep only this many last tokens of a prompt; -1: as many as fit beside ``max_tokens``, but half the context in any case."""

    @model_validator(mode="after")
    def _agree(self) -> CompletionRequest:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is as many as n: all that are written are given")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens is -1 or at least 1")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        given = self.prompt
        if isinstance(given, str):
            return [given]
        return [text for text in given if isinstance(text, str)] or [[id for id in given if isinstance(id, int)]]


class TextPart(Request):
    type: Literal["text"]
    text: str


class CalledFunction(Request):
    name: str
    arguments: str
    """JSON."""


class ToolCall(Request):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Request):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """As a template takes it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        found: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        found |= {"name": self.name} if self.name else {}
        found |= {"tool_call_id": self.tool_call_id} if self.tool_call_id else {}
        if self.tool_calls:
            found["tool_calls"] = [
                {"type": "function", "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)}}
                for call in self.tool_calls
            ]
        return found


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class JsonSchema(Request):
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None
    given: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Request):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("response_format: 'json_schema' goes with the type 'json_schema'")
        return self


class ChatRequest(Asking):
    """POST /v1/chat/completions: OpenAI's fields, and some of vLLM's and our own."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=_HUGE)
    """OpenAI's newer name of ``max_tokens``."""
    logprobs: bool | None = None
    """Tell how likely each token was."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """And so many that were likeliest there; only with ``logprobs``."""
    response_format: ResponseFormat | None = None
    """Text, any JSON object, or JSON of a schema."""
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    """Functions that the model may ask for, as its template shows them to it."""
    tool_choice: Literal["none", "auto"] | None = None
    """``none``: the model is not shown the tools."""

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for requests with 'logprobs': true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are two names of one thing: send one of them")
        if self.response_format is not None and self.response_format.type != "text" and self.structured_outputs is not None:
            raise ValueError("response_format and structured_outputs both say what the answer is held to: send one of them")
        return self


Columns = dict[Annotated[str, Field(max_length=200)], Any]


class PredictRequest(Pressing):
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


class EmbeddingRequest(Pressing):
    """POST /v1/embeddings: OpenAI's fields."""

    model: str
    """The project's name, as /v1/models gives it."""
    input: str | Annotated[list[str], Field(min_length=1, max_length=_TEXTS)]
    """A text, or a list of up to 2,048; ids of tokens are not taken."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers, where left out, or little-endian float32 in base64."""
    dimensions: int | None = Field(default=None, ge=1, lt=_HUGE)
    """As many as the model's vectors have: none are cut."""
    user: str | None = Field(default=None, max_length=512)
    """Who asks: while two versions answer, the same one answers all requests of a user. It is not kept."""

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


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
    if first["type"] in ("literal_error", "none_required"):
        cure = f"leave {field} out: nothing but its neutral value is done here"
    else:
        described = kind.model_fields.get(re.split(r"[.\[]", field)[0]) if field else None
        cure = ((described.description if described else None) or "mend the request").replace("`", "").rstrip(".")
    more = sorted({name for other in others if (name := _field(other)) and name != field})[:5]
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
