"""What became of every record that entered: in = kept + set aside, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Account:
    """in = kept + set aside, by reason."""

    entered: int = 0
    kept: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        assert self.entered == self.kept + sum(self.set_aside.values()), f"the account does not balance: {self}"

    def as_dict(self) -> dict[str, Any]:
        self.check()
        return {"in": self.entered, "kept": self.kept, "set_aside": dict(sorted(self.set_aside.items()))}


def account_lines(account: Mapping[str, Any]) -> list[str]:
    """``Account.as_dict()`` for people: ``in = kept + set aside``, and a line per reason, the commonest first."""
    aside: Mapping[str, int] = account["set_aside"]
    width = max((len(reason) for reason in aside), default=0)
    lines = [f"{account['in']} records in = {account['kept']} kept + {sum(aside.values())} set aside"]
    ordered = sorted(aside.items(), key=lambda pair: (-pair[1], pair[0]))
    return lines + [f"  {reason:{width}}  {count:>6}" for reason, count in ordered]
