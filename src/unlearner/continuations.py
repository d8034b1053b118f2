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

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from unlearner import sharding
from unlearner.decoding_rows import Prompt, RowBatch, RowCache, Rows, row_batches
from unlearner.models import OutputHead, argmax, logits_in_parts, takes
from unlearner.prefix_attention import PrefixAttention, RowGroups, can_share

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
