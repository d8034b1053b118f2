"""Attention of many decoding rows that continue prompts of the same few windows.

Shapes: R rows, W windows, S most rows of one window, H query heads, K key heads, G = H / K,
D head width, P shared positions, L a row's own positions.

Rows that continue the same window have its first P keys and values in common. These are read from
the teacher-forced pass for all rows of the window at once, as a product of matrices, and only what
stands behind them is kept per row: a copy of the prompt for every row would take most of the memory
and of the time. Attention over both parts is one softmax, so the result is the model's own.

All rows stand at the same position, so a sliding window is a slice and there is no mask.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

# Those whose attention is nothing but scaling, soft cap, sliding window and softmax; tested.
MODEL_TYPES = frozenset({"gpt_neo", "gpt2", "gpt_neox", "opt", "phi", "llama", "qwen2", "gemma2"})

NAME = "unlearner_shared_prefix"


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model's attention is one that this file computes.

    In float32 only: shorter numbers are raised to it at places that differ between models.
    """
    config = model.config
    plain = config._attn_implementation in ("eager", "sdpa")  # no public way to read it
    return config.model_type in MODEL_TYPES and plain and model.dtype == torch.float32


@dataclass(frozen=True)
class RowGroups:
    """The rows by window, as indices both ways.

    Attributes:
        rows: (W, S) row numbers, 0 behind the last row of a window that has fewer than S.
        window: (R,) the window of each row.
        slot: (R,) its place in `rows[window]`.
    """

    rows: Tensor
    window: Tensor
    slot: Tensor

    @classmethod
    def of(cls, windows: np.ndarray, num_windows: int, device: torch.device) -> "RowGroups":
        """The groups of rows that belong to the given windows, numbered from 0."""
        order = np.argsort(windows, kind="stable")
        counts = np.bincount(windows, minlength=num_windows)
        slot = np.empty_like(windows)
        slot[order] = np.arange(len(windows)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.zeros((num_windows, counts.max()), dtype=np.int64)
        rows[windows, slot] = np.arange(len(windows))
        return cls(*(torch.as_tensor(array, device=device) for array in (rows, windows, slot)))


class PrefixAttention:
    """Attention of one new token per row.

    Args:
        shared: The keys and values that the rows of a window share, each (W, K, P, D), by layer.

    Attributes:
        groups: The rows of the current step by window.
        position: The position of their token: as many tokens stand before it.
    """

    groups: RowGroups
    position: int

    def __init__(self, shared: Mapping[int, tuple[Tensor, ...]]) -> None:
        self.shared = shared

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        sliding_window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """The heads' outputs (R, H, 1, D).

        Args:
            layer: Its number.
            query: (R, H, 1, D), scaled.
            keys: (R, K, L, D), the rows' own from position P on, the newest last.
            values: Alike.
            sliding_window: Positions seen, the newest included; None for all.
            softcap: c of c * tanh(score / c); None for none.
        """
        (shared_keys, shared_values), groups = self.shared[layer], self.groups
        num_shared = shared_keys.shape[2]
        first = max(0, self.position + 1 - sliding_window) if sliding_window else 0
        query_RKGD = query.view(len(query), keys.shape[1], -1, query.shape[-1])
        own = slice(max(0, first - num_shared), None)
        output, log_sum = _part(query_RKGD, keys[:, :, own], values[:, :, own], softcap)
        if first < num_shared:
            of_window, log_sum_of_window = _part(
                _per_window(query_RKGD, groups),
                shared_keys[:, :, first:],
                shared_values[:, :, first:],
                softcap,
            )
            before = _per_row(of_window, groups, query_RKGD.shape[2])
            log_sum_before = _per_row(log_sum_of_window, groups, query_RKGD.shape[2])
            # the softmax over both parts is the parts' own, weighted by their sums of exponentials
            share = torch.sigmoid(log_sum_before - log_sum).to(output.dtype)
            output = torch.lerp(output, before, share)
        return output.view(query.shape)

    @contextmanager
    def installed(self, model: PreTrainedModel) -> Iterator[None]:
        """The model attends by this object inside the block."""
        if model.config.model_type == "gpt_neo":  # does not use the interface of the others
            with self._installed_in_gpt_neo(model):
                yield
            return
        before = model.config._attn_implementation
        assert before is not None  # see `can_share`
        AttentionInterface.register(NAME, self._interface)
        model.set_attn_implementation(NAME)
        try:
            yield
        finally:
            model.set_attn_implementation(before)
            self.shared = {}  # transformers keeps the function, which must not keep the tensors

    def _interface(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: object, **options: Any
    ) -> tuple[Tensor, None]:
        """As transformers calls an attention function; the mask would hide nothing."""
        scaling = options.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = self.attend(
            module.layer_idx,
            query * scaling,
            key,
            value,
            sliding_window=options.get("sliding_window"),
            softcap=options.get("softcap"),
        )
        return output.transpose(1, 2), None

    @contextmanager
    def _installed_in_gpt_neo(self, model: PreTrainedModel) -> Iterator[None]:
        modules = [part for part in model.modules() if isinstance(part, GPTNeoSelfAttention)]
        for module in modules:
            layer = module.layer_id
            assert layer is not None  # transformers allows it, its models give one
            local = model.config.attention_layers[layer] == "local"
            window = model.config.window_size if local else None
            module._attn = partial(self._gpt_neo_attention, layer, window)  # type: ignore
        try:
            yield
        finally:
            for module in modules:
                del module._attn  # the class's own again

    def _gpt_neo_attention(
        self, layer: int, window: int | None, query: Tensor, key: Tensor, value: Tensor, *_: object
    ) -> tuple[Tensor, None]:  # without scaling
        return self.attend(layer, query, key, value, sliding_window=window), None


def _part(
    query: Tensor, keys: Tensor, values: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention to some of the positions, and the logarithm of its sum of exponentials (..., 1)."""
    scores = (query @ keys.mT).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.softmax(-1)
    # the largest weight is exp(largest score) over the sum
    log_sum = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
    return weights.to(values.dtype) @ values, log_sum


def _per_window(values: Tensor, groups: RowGroups) -> Tensor:
    """(R, K, G, X) to (W, K, S * G, X)."""
    return values[groups.rows].transpose(1, 2).flatten(2, 3)


def _per_row(values: Tensor, groups: RowGroups, num_queries: int) -> Tensor:
    """(W, K, S * G, X) back to (R, K, G, X)."""
    split = values.unflatten(2, (groups.rows.shape[1], num_queries))
    return split.transpose(1, 2)[groups.window, groups.slot]
