"""Greedy continuations of many prompts at once, each from the key/value cache of one forward pass.

Shapes: B windows, T tokens, R rows of a decoding batch, H heads, D head width.

EL_n continues every prompt x_<t of a record. Where the most probable token at t is x_t, the
continuation of x_<t is x_t followed by the continuation of x_<t+1, so only the prompts behind which
the model breaks from the text are decoded. All of them advance together by absolute position: a row
joins when the position reaches its prompt length. Every row then holds exactly `position` cached
tokens, so there is no padding, no mask and no shifted position, and models with local attention,
rotary or learned positions see what they would see alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from unlearner.models import takes

# Rows that have ended are dropped once they are this share of the rows being computed.
DROP_SHARE = 0.25


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


class _RowCache(DynamicLayer):
    """One layer's keys and values of all rows, in buffers that reach to the longest text.

    The teacher-forced pass has filled every position of the windows; a row overwrites the ones from
    its prompt length on before it reads them.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys_buffer, self.values_buffer = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.position = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows, end = len(key_states), self.position + 1
        self.keys_buffer[:rows, :, self.position] = key_states[:, :, 0]
        self.values_buffer[:rows, :, self.position] = value_states[:, :, 0]
        return self.keys_buffer[:rows, :, :end], self.values_buffer[:rows, :, :end]

    def get_seq_length(self) -> int:
        return self.position

    def keep(self, rows: Tensor) -> None:
        self.keys_buffer = self.keys_buffer[rows]
        self.values_buffer = self.values_buffer[rows]


def has_plain_cache(cache: Any, num_tokens: int) -> bool:
    """Whether the cache holds every position's keys and values, which state-space layers do not."""
    return isinstance(cache, DynamicCache) and all(
        type(layer) is DynamicLayer
        and (not layer.is_initialized or layer.get_seq_length() == num_tokens)
        for layer in cache.layers
    )


def bytes_per_row(cache: Any, vocab_size: int) -> int:
    """Memory of one decoding row: its keys, values and logits."""
    per_layer = [
        (layer.keys[0].numel() + layer.values[0].numel()) * layer.keys.element_size()
        for layer in cache.layers
        if layer.is_initialized
    ]
    return sum(per_layer) + 8 * vocab_size


def decode(
    model: Any, cache: Any, prompts: Sequence[Prompt], eos_ids: frozenset[int], *, max_rows: int
) -> dict[tuple[int, int], np.ndarray]:
    """The greedy continuation of every prompt, by (window, prompt length).

    Each runs to `total` tokens or to the first end-of-text token, which it includes.
    """
    # Long prompts first: the rows of a batch then start, and end, close together.
    order = sorted(prompts, key=lambda prompt: (-prompt.length, prompt.window))
    found: dict[tuple[int, int], np.ndarray] = {}
    for start in range(0, len(order), max_rows):
        rows = sorted(order[start : start + max_rows], key=lambda prompt: prompt.length)
        tokens = _decode_rows(model, cache, rows, eos_ids)
        for prompt, row in zip(rows, tokens, strict=True):
            kept = row[prompt.length : prompt.total]
            ends = np.flatnonzero(np.isin(kept, list(eos_ids)))
            kept = kept[: ends[0] + 1] if len(ends) else kept
            found[prompt.window, prompt.length] = kept.astype(np.int32)
    return found


@dataclass
class _Rows:
    """The rows of one decoding batch, ordered by prompt length."""

    lengths: np.ndarray
    totals: np.ndarray
    origin: np.ndarray  # row of the output that each row writes
    tokens: Tensor  # (R, T)
    eos: Tensor
    ended: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.ended = torch.zeros(len(self.tokens), dtype=torch.bool, device=self.tokens.device)

    def keep(self, kept: np.ndarray) -> None:
        index = torch.as_tensor(kept, device=self.tokens.device)
        self.lengths, self.totals, self.origin = (
            self.lengths[kept], self.totals[kept], self.origin[kept],
        )  # fmt: skip
        self.tokens, self.ended = self.tokens[index], self.ended[index]


def _decode_rows(
    model: Any, cache: Any, prompts: Sequence[Prompt], eos_ids: frozenset[int]
) -> np.ndarray:
    device = model.device
    layers = _row_layers(cache, torch.tensor([prompt.window for prompt in prompts], device=device))
    row_cache = DynamicCache()
    row_cache.layers = layers
    lengths = np.array([prompt.length for prompt in prompts])
    totals = np.array([prompt.total for prompt in prompts])
    tokens = torch.zeros(len(prompts), int(totals.max()), dtype=torch.long, device=device)
    first = torch.tensor([prompt.first for prompt in prompts], device=device)
    tokens[torch.arange(len(prompts), device=device), torch.as_tensor(lengths, device=device)] = first
    rows = _Rows(
        lengths, totals, np.arange(len(prompts)), tokens,
        torch.tensor(sorted(eos_ids), dtype=torch.long, device=device),
    )  # fmt: skip
    output = np.zeros(tokens.shape, dtype=np.int64)
    for position in range(int(lengths.min()), int(totals.max()) - 1):
        _drop_ended(rows, layers, position, output)
        if len(rows.lengths) == 0:
            break
        joined = int(np.searchsorted(rows.lengths, position, side="right"))
        if joined:
            _advance(model, row_cache, rows, position, joined)
    output[rows.origin] = rows.tokens.cpu().numpy()
    return output


def _advance(model: Any, cache: Any, rows: _Rows, position: int, joined: int) -> None:
    """One more token for the first `joined` rows, those whose prompt is no longer than position."""
    for layer in cache.layers:
        if isinstance(layer, _RowCache):
            layer.position = position
    current = rows.tokens[:joined, position]
    rows.ended[:joined] |= torch.isin(current, rows.eos)
    inputs: dict[str, Any] = {"input_ids": current[:, None]}
    if takes(model, "position_ids"):
        inputs["position_ids"] = torch.full_like(current, position)[:, None]
    logits = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]
    following = logits.argmax(-1)
    # A row that joins at the next position keeps its own first token.
    rows.tokens[:joined, position + 1] = following


def _drop_ended(rows: _Rows, layers: list[Any], position: int, output: np.ndarray) -> None:
    """Write out and drop rows that have reached their end, when they are enough to be worth it."""
    done = rows.ended.cpu().numpy() | (rows.totals <= position + 1)
    joined = max(1, int(np.searchsorted(rows.lengths, position, side="right")))
    if not done.any() or (done.sum() < DROP_SHARE * joined and not done.all()):
        return
    output[rows.origin[done]] = rows.tokens[torch.as_tensor(done)].cpu().numpy()
    kept = np.flatnonzero(~done)
    rows.keep(kept)
    for layer in layers:
        if isinstance(layer, _RowCache):
            layer.keep(torch.as_tensor(kept, device=layer.device))


def _row_layers(cache: Any, windows: Tensor) -> list[Any]:
    return [
        _RowCache(layer.keys[windows], layer.values[windows]) if layer.is_initialized else layer
        for layer in cache.layers
    ]


def generate_plainly(
    model: Any,
    input_ids: Tensor,
    prompts: Sequence[Prompt],
    eos_ids: frozenset[int],
    *,
    max_rows: int = 64,
) -> dict[tuple[int, int], np.ndarray]:
    """As `decode`, by the model's own `generate` on prompts of equal length.

    For models whose state is not a cache of keys and values (Mamba, hybrids): slower, as exact.
    """
    found: dict[tuple[int, int], np.ndarray] = {}
    for length in sorted({prompt.length for prompt in prompts}):
        same = [prompt for prompt in prompts if prompt.length == length]
        for start in range(0, len(same), max_rows):
            rows = same[start : start + max_rows]
            ids = input_ids[[prompt.window for prompt in rows], :length]
            longest = max(prompt.total for prompt in rows)
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest - length,
                do_sample=False, num_beams=1, pad_token_id=0,
            )  # fmt: skip
            for prompt, row in zip(rows, out[:, length:].cpu().numpy(), strict=True):
                kept = row[: prompt.total - length]
                ends = np.flatnonzero(np.isin(kept, list(eos_ids)))
                kept = kept[: ends[0] + 1] if len(ends) else kept
                found[prompt.window, length] = kept.astype(np.int32)
    return found
