"""YAML text -> plain values, and where each of them stands.

One walk over the composed nodes sees everything that a file can say: duplicate keys, anchors and merges, tags, values that hold
themselves. Dates stay the text that was written, since no key takes a date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from treadle.spec.problem import Location, Mark, Problem, dotted

_TAG = "tag:yaml.org,2002:"
_TEXT = (_TAG + "str", _TAG + "timestamp")
_PLAIN = (_TAG + "null", _TAG + "bool", _TAG + "int", _TAG + "float")
_MERGE = _TAG + "merge"
_MOST_VALUES = 100_000  # aliases of aliases grow without bound


class _TooLarge(Exception):
    pass


@dataclass
class Document:
    """``value`` is plain Python; ``problems`` is what was wrong before any key was looked at."""

    file: str
    value: Any = None
    problems: list[Problem] = field(default_factory=list)
    keys: dict[Location, Mark] = field(default_factory=dict)
    values: dict[Location, Mark] = field(default_factory=dict)

    def written(self, location: Location) -> Location:
        """``location`` without the steps that validation put in for the person: a kind whose settings stand without its name."""
        for place in range(1, len(location) - 1):
            shorter = (*location[:place], *location[place + 1 :])
            if location[: place + 1] not in self.values and location[:place] in self.values and shorter in self.values:
                return self.written(shorter)
        return location

    def mark(self, location: Location, of_key: bool = False) -> Mark:
        """Where the value (or its key) at ``location`` stands, or the key of the nearest mapping above it that is there."""
        if location in self.values and not (of_key and location in self.keys):
            return self.values[location]
        while location and location not in self.keys:
            location = location[:-1]
        return self.keys.get(location) or self.values.get((), Mark(self.file, 1, 1))


def parse(text: str, file: str) -> Document:
    """Read one YAML document; never raises, whatever ``text`` is."""
    document = Document(file)
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        if node is not None:
            document.value = _Walk(document, yaml).value(node, (), ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file, 1, 1)
        message = ": ".join(str(part) for part in (error.context, error.problem) if part)
        document.problems.append(Problem.at(place, "YAML", message, cure="mend the YAML at this place"))
    except YAMLError as error:  # a character that YAML does not allow
        position = int(getattr(error, "position", 0))
        place = Mark(file, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))
        message = f"holds the character {text[position : position + 1]!r}, which YAML does not allow"
        document.problems.append(Problem.at(place, "YAML", message, cure="remove it"))
    except (RecursionError, _TooLarge):
        message = f"is nested too deeply, or holds more than {_MOST_VALUES} values"
        document.problems.append(Problem(file, 1, 1, "YAML", message, cure="write it out plainly"))
    return document


@dataclass
class _Walk:
    document: Document
    yaml: YAML
    seen: int = 0

    def value(self, node: Node, at: Location, above: tuple[int, ...]) -> Any:
        """The plain value of ``node``, which stands at ``at``; ``above`` are the nodes that hold it."""
        self.seen += 1
        if self.seen > _MOST_VALUES:
            raise _TooLarge
        mark = self.document.values[at] = self.mark(node)
        if id(node) in above:
            return self.wrong(mark, at, f"the alias *{node.anchor} stands inside what it names", "write the value out")
        above = (*above, id(node))
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, at, above)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*at, place), above) for place, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and node.tag in _TEXT:
            return str(node.value)
        if isinstance(node, ScalarNode) and node.tag in _PLAIN:
            try:
                return self.yaml.constructor.construct_object(node)
            except (ValueError, YAMLError):
                return self.wrong(mark, at, f"is not what {str(node.tag).replace(_TAG, '!!')} takes", "leave the tag out")
        return self.wrong(mark, at, f"the tag {str(node.tag).replace(_TAG, '!!')} is not known here", "write a plain value")

    def mapping(self, node: MappingNode, at: Location, above: tuple[int, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for own, key, value in self.pairs(node, at, above):
            mark = self.mark(key)
            if not isinstance(key, ScalarNode) or key.tag not in _TEXT:
                shown = f" {key.value}" if isinstance(key, ScalarNode) and key.value else ""
                self.wrong(mark, at, f"a key is text, not {str(key.tag).removeprefix(_TAG)}{shown}", "quote it")
            elif key.value not in found:
                location = (*at, key.value)
                self.document.keys[location] = mark
                found[key.value] = self.value(value, location, above)
                if value.start_mark.index == value.end_mark.index:  # nothing is written: YAML places it at the next thing that is
                    self.document.values[location] = mark
            elif own:
                line = self.document.keys[(*at, key.value)].line
                self.wrong(mark, (*at, key.value), f"stands twice, first in line {line}", "keep one of them")
        return found

    def pairs(self, node: MappingNode, at: Location, above: tuple[int, ...]) -> Iterator[tuple[bool, Node, Node]]:
        """(own, key, value): the mapping's own pairs, then those that ``<<`` merges in, which its own win over."""
        merges: list[Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merges += value.value if isinstance(value, SequenceNode) else [value]
            else:
                yield True, key, value
        for merged in merges:
            if not isinstance(merged, MappingNode) or id(merged) in above:
                self.wrong(self.mark(merged), at, "'<<' takes another mapping's alias", "as in '<<: *defaults'")
                continue
            for _, key, value in self.pairs(merged, at, (*above, id(merged))):
                yield False, key, value

    def mark(self, node: Node) -> Mark:
        return Mark(self.document.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def wrong(self, mark: Mark, at: Location, message: str, cure: str) -> None:
        self.document.problems.append(Problem.at(mark, dotted(at), message, cure=cure))


def override(document: Document, given: str) -> None:
    """Set what ``given``, like ``a.b=c``, says; it wins over the file. What is wrong with it joins the document's problems."""
    here = Mark(f"--set {given}", 0, 0)
    key, equals, text = given.partition("=")
    location: Location = tuple(int(step) if step.isdecimal() else step for step in key.strip().split("."))

    def wrong(message: str, cure: str) -> None:
        document.problems.append(Problem.at(here, key.strip() or "key", message, cure=cure))

    if not equals or not all(str(step) for step in location):
        return wrong("is not of the form key=value", "as in --set train.budget='500 steps'")
    value = parse(text, here.file)
    if value.problems:
        return wrong(f"the value is not YAML: {value.problems[0].message}", "quote it")
    node = document.value
    for place, step in enumerate(location):
        last = place == len(location) - 1
        if isinstance(node, dict):
            step = str(step)
            if last:
                node[step] = value.value
            elif node.get(step) is None:
                node[step] = {}
                document.keys[location[: place + 1]] = here
        elif not isinstance(node, list) or not isinstance(step, int) or step >= len(node):
            parent = dotted(location[:place])
            what = f"is a list of {len(node)}, counted from 0" if isinstance(node, list) else "is not a mapping"
            return wrong(f"{parent} {what}, so it has no {step!r}", f"set it as a whole: --set {parent}=...")
        elif last:
            node[step] = value.value
        node = node[step]
    _forget(document, location)
    document.keys[location] = document.values[location] = here
    return None


def _forget(document: Document, location: Location) -> None:
    """Drop the file's marks at and under ``location``, where something else stands now."""
    for marks in (document.keys, document.values):
        for known in [known for known in marks if known[: len(location)] == location]:
            del marks[known]
