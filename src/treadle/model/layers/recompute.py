"""What the backward pass needs of the forward pass, made anew instead of kept, bit for bit.

What is large and quick to make from what is kept anyway is never kept. Where memory is short, whole layers are computed again (Chen
et al. 2016, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from treadle.spec.shape import REMADE

Made = tuple[Tensor, Callable[[], Tensor]]
"""A tensor, and how to make it from others that are kept anyway."""

_noting: list[Callable[[Tensor], object]] = []


@contextmanager
def remade(*made: Made) -> Iterator[None]:
    """In it, operations whose backward pass needs one of the tensors keep how to make it instead, if it has ``REMADE`` numbers."""
    if not torch.is_grad_enabled() or all(tensor.numel() < REMADE for tensor, _ in made):
        yield
        return
    known = {tensor.untyped_storage().data_ptr(): _Remade(how, tensor) for tensor, how in made}

    def pack(tensor: Tensor) -> Tensor | tuple[_Remade, Any]:
        found = known.get(tensor.untyped_storage().data_ptr())
        if found is None:
            for note in _noting:
                note(tensor)
            return tensor
        found.uses += 1
        return found, (tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(packed: Tensor | tuple[_Remade, Any]) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed[0].take().as_strided(*packed[1])

    with saved_tensors_hooks(pack, unpack):
        yield


@contextmanager
def noted(note: Callable[[Tensor], object]) -> Iterator[None]:
    """In it, ``note`` hears of every tensor that is kept for a backward pass."""

    def pack(tensor: Tensor) -> Tensor:
        note(tensor)
        return tensor

    _noting.append(note)
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
    finally:
        _noting.remove(note)


def recomputed(run: Callable[[Tensor], Tensor], x: Tensor, random: bool) -> Tensor:
    """``run(x)``, of which no more than ``x`` is kept: the backward pass runs it again. ``random``: it draws random numbers, which
    are then drawn again."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return run(x)
    found: Tensor = _Recomputed.apply(run, x, random)  # type: ignore[no-untyped-call]
    return found


class _Remade:
    """One tensor that is made when the first of those that keep it asks, and let go of when the last did."""

    def __init__(self, how: Callable[[], Tensor], tensor: Tensor) -> None:
        self.how, self.way = how, _Way(tensor.device.type)
        self.uses, self.made = 0, None

    uses: int
    made: Tensor | None

    def take(self) -> Tensor:
        made = self.made
        if made is None:
            with torch.no_grad(), self.way.again():
                made = self.how()
        self.uses -= 1
        self.made = made if self.uses > 0 else None
        return made


class _Way:
    """The precision that products have here, and are to have when they are computed again."""

    def __init__(self, kind: str) -> None:
        self.kind, self.on, self.dtype = kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def again(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.kind, self.dtype, self.on)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor, random: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.run, ctx.way = run, _Way(x.device.type)
        ctx.state = (torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None) if random else None
        return run(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        x = kept.detach().requires_grad_()
        with ExitStack() as stack:
            if ctx.state is not None:
                cpu, cuda = ctx.state
                stack.enter_context(torch.random.fork_rng(devices=[x.device] if cuda is not None else []))
                torch.set_rng_state(cpu)
                if cuda is not None:
                    torch.cuda.set_rng_state(cuda, x.device)
            stack.enter_context(torch.enable_grad())
            with ctx.way.again():
                y = ctx.run(x)
            torch.autograd.backward(y, grads[0])
        return None, x.grad, None
