"""The exit codes and words that every command relies on."""

from __future__ import annotations

import re

import pytest

from treadle.core import errors
from treadle.core.project import SpecError
from treadle.spec.problem import Problem


def test_exit_codes_are_distinct_by_whose_turn_it_is() -> None:
    codes = {name: kind.exit_code for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert codes == {
        "TreadleError": 1, "UserError": 2, "SourceError": 2, "RequestError": 2, "WorkError": 1, "ArtifactError": 1,
        "GateRefused": 1, "Interrupted": 75,
    }
    assert SpecError.exit_code == 2


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    lines = re.findall(r"^( +)([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    assert {name for _, name in lines} == {kind.__name__ for kind in kinds} | {"SpecError"}
    above: list[tuple[int, str]] = []
    for indent, name in lines:
        while above and above[-1][0] >= len(indent):
            above.pop()
        kind = getattr(errors, name, SpecError)
        assert kind.__mro__[1].__name__ == (above[-1][1] if above else "Exception")
        above.append((len(indent), name))


def test_a_message_comes_with_its_cure() -> None:
    assert str(errors.WorkError("the disk is full", cure="free some space")) == "the disk is full\n  cure: free some space"
    assert str(errors.WorkError("stopped")) == "stopped"
    request = errors.RequestError("too big", status=413, field="prompt", cure="send less")
    assert (request.status, request.field, request.exit_code) == (413, "prompt", 2)


@pytest.mark.parametrize(("count", "said"), [(1, "1 problem found"), (2, "2 problems found")])
def test_a_spec_error_lists_everything(count: int, said: str) -> None:
    error = SpecError([Problem("f", n, 1, f"key{n}", "is wrong") for n in range(1, count + 1)])
    assert len(error.problems) == count
    assert str(error).endswith(said)
    assert all(f"f:{n}:1: key{n}: is wrong" in str(error) for n in range(1, count + 1))
