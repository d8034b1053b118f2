"""The rows that decode together: which prompts, in which batch, with which keys and values.

Shapes: B windows of the teacher-forced pass, W those of a batch of rows, R rows, T tokens, H heads,
D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Prompt:
    """The prompt of a window whose continuation has to be decoded.

    Attributes:
        window: Row of the window in the teacher-forced batch.
        length: Prompt length m; its first continued token stands at position m.
        first: That token, known from the teacher-forced pass.
        total: T, the length to which the continuation runs.
    """

    window: int
    length: int
    first: int
    total: int


class RowBatch:
    """Prompts that are decoded together, by length, and where their keys and values come from.

    Attributes:
        base: Tokens whose keys and values the rows of a window share; 0 where they cannot.
        windows: The rows' windows in the teacher-forced batch, each once.
        window: (R,) the place of each row's window in `windows`.
    """

    def __init__(self, prompts: Sequence[Prompt], base: int) -> None:
        self.prompts, self.base = prompts, base
        self.lengths = np.array([prompt.length for prompt in prompts])
        self.totals = np.array([prompt.total for prompt in prompts])
        self.windows, self.window = np.unique(
            [prompt.window for prompt in prompts], return_inverse=True
        )

    def of_windows(self, states_BHTD: Tensor) -> Tensor:
        """The windows' own states; the tensor itself where the batch is of all of them."""
        if len(self.windows) == len(states_BHTD):
            return states_BHTD
        return states_BHTD[torch.as_tensor(self.windows, device=states_BHTD.device)]

    def of_rows(self, states_BHTD: Tensor) -> Tensor:
        """A copy of the window's states from `base` on for each row, (R, H, T - base, D)."""
        index = torch.as_tensor(self.windows[self.window], device=states_BHTD.device)
        return states_BHTD[:, :, self.base :][index]


class RowCache(DynamicLayer):
    """One layer's keys and values: of the windows up to `base`, of each row behind it.

    The teacher-forced pass has filled every position of the windows; a row overwrites the ones from
    its prompt length on before it reads them.

    Attributes:
        prefix_keys: (W, H, base, D) of the windows that the rows belong to; `prefix_values` alike.
        keys_buffer: (R, H, T - base, D) of the rows, the newest token's behind the others.
    """

    def __init__(self, layer: Any, batch: RowBatch) -> None:
        super().__init__()
        keys, values = layer.keys, layer.values
        self.base = batch.base
        self.dtype, self.device = keys.dtype, keys.device
        self.prefix_keys = batch.of_windows(keys[:, :, : self.base])
        self.prefix_values = batch.of_windows(values[:, :, : self.base])
        self.keys_buffer, self.values_buffer = batch.of_rows(keys), batch.of_rows(values)
        self.is_initialized = True
        self.position = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        rows, last = len(key_states), self.position - self.base
        self.keys_buffer[:rows, :, last] = key_states[:, :, 0]
        self.values_buffer[:rows, :, last] = value_states[:, :, 0]
        return self.keys_buffer[:rows, :, : last + 1], self.values_buffer[:rows, :, : last + 1]

    def get_seq_length(self) -> int:
        return self.position

    def keep(self, rows: Tensor) -> None:
        self.keys_buffer = self.keys_buffer[rows]
        self.values_buffer = self.values_buffer[rows]


@dataclass
class Rows:
    """The rows of one decoding batch that still run, ordered by prompt length."""

    lengths: np.ndarray
    totals: np.ndarray
    window: np.ndarray
    origin: np.ndarray  # row of the output that each row writes
    tokens: Tensor  # (R, T)
    ended: Tensor
    eos: Tensor

    @classmethod
    def of(cls, batch: RowBatch, eos: Tensor) -> Rows:
        count = len(batch.prompts)
        tokens = torch.zeros(count, int(batch.totals.max()), dtype=torch.long)
        first = torch.tensor([prompt.first for prompt in batch.prompts])
        tokens[torch.arange(count), torch.from_numpy(batch.lengths)] = first
        ended = torch.zeros(count, dtype=torch.bool, device=eos.device)
        return cls(
            batch.lengths,
            batch.totals,
            batch.window,
            np.arange(count),
            tokens.to(eos.device),
            ended,
            eos,
        )

    def keep(self, kept: np.ndarray) -> None:
        index = torch.as_tensor(kept, device=self.tokens.device)
        self.lengths, self.totals = self.lengths[kept], self.totals[kept]
        self.window, self.origin = self.window[kept], self.origin[kept]
        self.tokens, self.ended = self.tokens[index], self.ended[index]


def row_batches(
    cache: Any, prompts: Sequence[Prompt], *, shares: bool, logits_bytes: int, memory_bytes: int
) -> Iterator[RowBatch]:
    """Prompts of similar length, as many as have room.

    Args:
        cache: Of the teacher-forced pass.
        prompts: All of them.
        shares: Whether rows can read a common prompt, so that only what is behind it is theirs.
        logits_bytes: Of one row.
        memory_bytes: Room for the rows' own keys, values and logits.
    """
    layers = [layer for layer in cache.layers if layer.is_initialized]
    states = [states for layer in layers for states in (layer.keys, layer.values)]
    num_tokens = states[0].shape[2]
    token_bytes = sum(part[0, :, 0].numel() * part.element_size() for part in states)
    # Long prompts first: the rows of a batch then start, and end, close together.
    order = sorted(prompts, key=lambda prompt: (-prompt.length, prompt.window))
    batch: list[Prompt] = []
    base = 0
    for prompt in order:
        shortest = prompt.length if shares else 0
        row_bytes = (num_tokens - shortest) * token_bytes + logits_bytes
        if batch and (len(batch) + 1) * row_bytes > memory_bytes:
            yield RowBatch(batch[::-1], base)
            batch = []
        batch.append(prompt)
        base = shortest
    yield RowBatch(batch[::-1], base)
