"""The base of every section of treadle.yaml, and the field types that people write with units."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    model_validator,
)

from treadle.spec import units


class Section(BaseModel):
    """A mapping of treadle.yaml: unknown keys are errors, ``true`` or ``"3"`` is no number, values do not change after reading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True, arbitrary_types_allowed=True
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_under_it(cls, value: Any) -> Any:
        """``train:`` with nothing under it means the defaults."""
        return {} if value is None else value


def _text_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "examples": list(examples)})


def _parsed(parse: Any, *examples: str) -> Any:
    return (BeforeValidator(parse), _text_schema(*examples))


def _once(parse: Any, kind: type) -> Any:
    """Parse what is written; pass through what is parsed already (a default, or a section made in code)."""
    return lambda value: value if type(value) is kind else parse(value)


Duration = Annotated[float, *_parsed(_once(units.parse_duration, float), "90 s", "3 min")]
Size = Annotated[int, *_parsed(units.parse_size, "200 KB", "1 MB")]
Count = Annotated[int, *_parsed(units.parse_count, "500", "2M")]
Fraction = Annotated[float, *_parsed(units.parse_fraction, "5%", "0.05")]
Budget = Annotated[
    units.Budget, *_parsed(_once(units.parse_budget, units.Budget), "500 steps", "2M tokens", "3 epochs", "3 min"),
    PlainSerializer(units.Budget.exact),  # not rounded for people: it is part of an artifact's identity
]
ShareOrSteps = Annotated[
    float | units.Budget, *_parsed(units.parse_share_or_steps, "5%", "0.05", "100 steps"),
    PlainSerializer(lambda value: value.exact() if isinstance(value, units.Budget) else value),
]
Bound = Annotated[
    units.Bound, *_parsed(_once(units.parse_bound, units.Bound), "<= 2.0", ">= 50%"), PlainSerializer(str)
]

_AUTO = Annotated[Literal["auto"], Tag("auto")]
_by_kind = Discriminator(lambda value: "auto" if value == "auto" else "number")  # so that errors are of what was meant


def _or_auto(schema: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"const": "auto"}]})


AutoRate = Annotated[
    Annotated[float, Field(gt=0), Tag("number")] | _AUTO, _by_kind, _or_auto({"type": "number", "exclusiveMinimum": 0})
]
AutoCount = Annotated[Annotated[int, Field(ge=1), Tag("number")] | _AUTO, _by_kind, _or_auto({"type": "integer", "minimum": 1})]
