"""A section that names exactly one of several kinds: ``job: category``, or ``job: {category: {rare: 20}}``. Imports no torch."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from pydantic import GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from treadle.spec.fields import Section


class OneOf(Section):
    """One field per kind, of which one is given. A kind's bare name means its defaults."""

    what: ClassVar[str] = "kind"
    """What the kinds are kinds of, for messages."""
    example: ClassVar[str] = ""
    bare: ClassVar[str] = ""
    """The kind whose settings may stand without its name."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in cls.model_fields:
                near = difflib.get_close_matches(value, cls.model_fields, n=1)
                cure = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
                raise PydanticCustomError("kind", f"is not a kind of {cls.what}", {"cure": cure})
            return {value: {}}
        if cls.bare and (value is None or isinstance(value, dict)):
            given = value or {}
            own = cls.model_fields[cls.bare].annotation
            named = [key for key in given if key in cls.model_fields]
            if not named and (not given or any(key in _keys(own) for key in given)):
                return {cls.bare: given}
        if isinstance(value, dict):
            given = {key: part for key, part in value.items() if part is not None}
            return given or {key: {} if key in cls.model_fields else part for key, part in value.items()}
        return value

    @model_validator(mode="after")
    def _one(self) -> OneOf:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"must name one {self.what}" + (f", not {' and '.join(given)}" if given else "")
            raise PydanticCustomError("kind", "{message}", {"message": message, "cure": f"write it like {self.example!r}"})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A kind's name, the mapping, or the settings of the kind that may stand without its name."""
        schema = handler.resolve_ref_schema(handler(core))
        mapping = dict(schema)
        options = [{"enum": list(cls.model_fields)}, mapping]
        options += [mapping["properties"][cls.bare]] if cls.bare else []
        schema.clear()
        schema.update({"anyOf": options, "title": mapping.pop("title"), "description": mapping.pop("description")})
        return schema

    @model_serializer(mode="wrap")
    def _brief(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: part for key, part in dump(self).items() if part is not None}

    @property
    def kind(self) -> str:
        """The name of the kind that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def settings(self) -> Any:
        """The settings of that kind."""
        return getattr(self, self.kind)


def _keys(annotation: Any) -> set[str]:
    """The keys of a section, also where it is optional."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Section):
            return set(kind.model_fields)
    return set()
