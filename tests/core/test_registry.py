"""Short names to things; a miss says what there is."""

from __future__ import annotations

import pytest

from treadle.core.errors import UserError
from treadle.core.registry import Registry


def test_a_name_finds_its_entry_and_a_miss_the_nearest() -> None:
    registry: Registry[int] = Registry("trunk")
    assert registry.register("transformer")(3) == 3
    registry.register("mlp")(4)
    assert registry["transformer"] == 3
    assert list(registry) == ["transformer", "mlp"]
    with pytest.raises(UserError, match="there is no trunk 'transfomer'") as caught:
        registry["transfomer"]
    assert caught.value.cure == "did you mean 'transformer'? known: mlp, transformer"
    with pytest.raises(UserError) as caught:
        registry["zzz"]
    assert caught.value.cure == "known: mlp, transformer"


def test_a_name_is_never_given_twice() -> None:
    registry: Registry[int] = Registry("trunk")
    registry.register("mlp")(1)
    with pytest.raises(AssertionError, match="registered twice"):
        registry.register("mlp")(2)
    assert registry["mlp"] == 1
