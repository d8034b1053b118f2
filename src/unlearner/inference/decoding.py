"""Greedy continuations of many prompts at once, each from the key/value cache of one forward pass.

T tokens of a window.

EL_n continues every prompt x_<t of a record. Where the most probable token at t is x_t, the
continuation of x_<t is x_t followed by the continuation of x_<t+1, so only the prompts behind which
the model breaks from the text are decoded. All of them advance together by absolute position: a row
joins when the position reaches its prompt length. Every row then holds exactly `position` cached
tokens, so there is no padding, no mask and no shifted position, and models with local attention,
rotary or learned positions see what they would see alone. Where the model's attention is known
(`prefix_attention`), rows of one window read the keys and values of their prompts in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from unlearner.inference.prefix_attention import PrefixAttention, RowGroups, can_share
from unlearner.models import sharding
from unlearner.models.ensemble import takes
from unlearner.models.heads import OutputHead, argmax, logits_in_parts


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


# Rows that have ended are dropped once they are this share of the rows being computed.
DROP_SHARE = 0.25


def has_plain_cache(cache: Any, num_tokens: int) -> bool:
    """Whether the cache holds every position's keys and values, which state-space layers do not."""
    plain = isinstance(cache, DynamicCache) and len(cache.layers) > 0
    return plain and all(
        type(layer) is DynamicLayer
        and (not layer.is_initialized or layer.get_seq_length() == num_tokens)
        for layer in cache.layers
    )


def decode(
    model: Any,
    head: OutputHead | None,
    cache: Any,
    prompts: Sequence[Prompt],
    eos_ids: frozenset[int],
    *,
    memory_bytes: int,
) -> dict[tuple[int, int], np.ndarray]:
    """The greedy continuation of every prompt, by (window, prompt length).

    Each runs to `total` tokens or to the first end-of-text token, which it includes.
    """
    found: dict[tuple[int, int], np.ndarray] = {}
    vocab_size = model.config.get_text_config().vocab_size
    batches = row_batches(
        cache,
        prompts,
        shares=can_share(model),
        memory_bytes=memory_bytes,
        logits_bytes=8 * vocab_size if head is None else 0,  # with a head they come in parts
    )
    for batch in batches:
        tokens = _decode_rows(model, head, cache, batch, eos_ids)
        for prompt, row in zip(batch.prompts, tokens, strict=True):
            kept = row[prompt.length : prompt.total]
            ends = np.flatnonzero(np.isin(kept, list(eos_ids)))
            kept = kept[: ends[0] + 1] if len(ends) else kept
            found[prompt.window, prompt.length] = kept.astype(np.int32)
    return found


def _decode_rows(
    model: Any, head: OutputHead | None, cache: Any, batch: RowBatch, eos_ids: frozenset[int]
) -> np.ndarray:
    device = sharding.device_of(model)
    layers: list[Any] = [
        RowCache(layer, batch) if layer.is_initialized else layer for layer in cache.layers
    ]
    row_cache = DynamicCache()
    row_cache.layers = layers
    rows = Rows.of(batch, torch.tensor(sorted(eos_ids), dtype=torch.long, device=device))
    output = np.zeros(rows.tokens.shape, dtype=np.int64)
    attention = PrefixAttention(layers) if batch.base else None
    with attention.installed(model) if attention else nullcontext():
        for position in range(int(rows.lengths.min()), int(rows.totals.max()) - 1):
            _drop_ended(rows, layers, position, output)
            if len(rows.lengths) == 0:
                break
            joined = int(np.searchsorted(rows.lengths, position, side="right"))
            if joined and attention:
                attention.position = position
                attention.groups = RowGroups.of(rows.window[:joined], len(batch.windows), device)
            if joined:
                _advance(model, head, row_cache, rows, position, joined)
    output[rows.origin] = rows.tokens.cpu().numpy()
    return output


def _advance(
    model: Any, head: OutputHead | None, cache: Any, rows: Rows, position: int, joined: int
) -> None:
    """One more token for the first `joined` rows, those whose prompt is no longer than position."""
    for layer in cache.layers:
        if isinstance(layer, RowCache):
            layer.position = position
    current = rows.tokens[:joined, position]
    rows.ended[:joined] |= torch.isin(current, rows.eos)
    inputs: dict[str, Any] = {"input_ids": current[:, None]}
    asked = model if head is None else model.base_model
    if takes(asked, "position_ids"):
        inputs["position_ids"] = torch.full_like(current, position)[:, None]
    states = asked(**inputs, past_key_values=cache, use_cache=True)[0][:, -1]
    # A row that joins at the next position keeps its own first token.
    following = [argmax(logits) for logits in logits_in_parts(states, head)]
    rows.tokens[:joined, position + 1] = sharding.agree(model, torch.cat(following))


def _drop_ended(rows: Rows, layers: list[Any], position: int, output: np.ndarray) -> None:
    """Write out and drop rows that have reached their end, when they are enough to be worth it."""
    done = rows.ended.cpu().numpy() | (rows.totals <= position + 1)
    joined = max(1, int(np.searchsorted(rows.lengths, position, side="right")))
    if not done.any() or (done.sum() < DROP_SHARE * joined and not done.all()):
        return
    output[rows.origin[done]] = rows.tokens[torch.as_tensor(done)].cpu().numpy()
    kept = np.flatnonzero(~done)
    rows.keep(kept)
    for layer in layers:
        if isinstance(layer, RowCache):
            layer.keep(torch.as_tensor(kept, device=layer.device))


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
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=longest - length,
                do_sample=False,
                num_beams=1,
                pad_token_id=0,
            )
            for prompt, row in zip(rows, out[:, length:].cpu().numpy(), strict=True):
                kept = row[: prompt.total - length]
                ends = np.flatnonzero(np.isin(kept, list(eos_ids)))
                kept = kept[: ends[0] + 1] if len(ends) else kept
                found[prompt.window, length] = kept.astype(np.int32)
    return found
