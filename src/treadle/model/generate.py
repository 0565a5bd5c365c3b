"""Generation with a memory of what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from treadle.core.machine import threads
from treadle.model.adapter import Adapter
from treadle.model.decoder import compiled_decoder
from treadle.model.memory import Memory, Part, States, TextModel
from treadle.model.model import LanguageModel
from treadle.model.paged import Paged
from treadle.model.sampling import Sampling, sample
from treadle.model.torch_decoder import TorchDecoder

PROCESSOR = torch.device("cpu")
SMALL = 20_000_000
"""Parameters below which one thread generates."""


def make_memory(
    model: TextModel, slots: int, most: int | None = None, adapters: Sequence[Adapter] = (), device: torch.device = PROCESSOR
) -> Memory:
    """An empty memory for ``slots`` sequences, which holds keys and values of at most so many bytes, but of one whole context in
    any case; None: of a whole context in each slot. On a ``device`` that is no processor, and where there are no kernels, torch's
    operations read a transformer, which is taken there; a recurrent net stays on the processor."""
    if not isinstance(model, LanguageModel):
        return States(model, slots)
    compiled = compiled_decoder(model, generation_threads(model), adapters) if device.type == "cpu" else None
    return Paged(compiled or TorchDecoder(model, device, adapters), slots, most)


def generation_threads(model: TextModel) -> int:
    """Threads to generate with: one for a model whose products are over in microseconds. There a second thread gains nothing, and
    on a busy machine each product waits for it a whole time slice of the scheduler, which was measured to be 1,000 times longer."""
    return 1 if model.parameter_count < SMALL else threads()


def generate(
    model: TextModel, prompt: Sequence[int], max_tokens: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
    end: int | None = None, memory: Memory | None = None,
) -> Iterator[int]:
    """Continue ``prompt`` token by token: up to ``max_tokens``, to the ``end`` token (not given out), or to a full context.

    ``memory``: what ``make_memory`` made for ``model`` and one slot, for whoever generates more than once with the same weights.
    """
    memory, generator = memory or make_memory(model, 1), torch.Generator().manual_seed(seed)
    how = Sampling(temperature, top_p)
    memory.release(0)
    memory.admit(0, prompt, len(prompt) + max_tokens)
    scores = memory.read_parts(model, [Part(0, list(prompt))])
    for index in range(max_tokens):
        token = sample(scores[0], how, generator)
        if token == end:
            return
        yield token
        if index + 1 == max_tokens or memory.lengths[0] == memory.context:
            return
        scores = memory.read_parts(model, [Part(0, [token])])
