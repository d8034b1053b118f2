"""Hidden states between a model's blocks: what a block gives at the label positions of windows.

B windows, T tokens, N label positions, D hidden. Blocks are counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearner import processes
from unlearner.data.batches import Tensors, collate, length_batches
from unlearner.data.windows import Window
from unlearner.inference.reference import BATCH_TOKENS, body
from unlearner.models import sharding


class _Reached(Exception):  # noqa: N818 - an end, not an error
    """The forward pass has come to the block that was asked for."""


def states_behind(model: Any, block: int, batch: Tensors) -> Tensor:
    """What a block gives for each token, (B, T, D); no block behind it is computed where it can be.

    A sharded model needs the whole forward pass, and so does one in training mode, which may
    compute its activations again: what they have begun they have to end.
    """
    whole = sharding.is_sharded(model) or model.training
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        if not whole:
            raise _Reached

    def ask() -> Tensor:
        with suppress(_Reached):
            body(model, batch)
        return found[0]

    hook = sharding.blocks(model)[block].register_forward_hook(keep)
    try:
        return sharding.inside(model, ask)
    finally:
        hook.remove()


def states_at_labels(model: Any, block: int, batch: Tensors | None) -> Tensor:
    """What a block gives at the label positions of this process's batch, (N, D).

    Args:
        batch: None where this process has none; a sharded model is asked all the same.
    """
    if batch is None and not sharding.is_sharded(model):
        width = model.config.get_text_config().hidden_size
        return torch.zeros(0, width, device=sharding.device_of(model))
    batch = _no_labels(sharding.device_of(model)) if batch is None else batch
    window, position = batch["positions"].unbind(-1)
    return states_behind(model, block, batch)[window, position]


@torch.no_grad()
def keep_states(model: Any, block: int, windows: Sequence[Window]) -> list[Tensor]:
    """What a block gives at each window's label positions, (N_window, D) on the CPU.

    The model must not be sharded yet.
    """
    found: dict[int, Tensor] = {}
    for indices in processes.share(length_batches(windows, BATCH_TOKENS)):
        batch = collate([windows[index] for index in indices], model.device)
        states = states_at_labels(model, block, batch)
        for row, index in enumerate(indices):
            found[index] = states[batch["positions"][:, 0] == row].cpu()
    for some in processes.gather(found):
        found |= some
    return [found[index] for index in range(len(windows))]


def _no_labels(device: torch.device) -> Tensors:
    """A batch of one window without a label: it goes forward and backward and changes nothing."""
    return collate([Window(0, "", np.zeros(2, np.int64), np.zeros(1, bool), 1)], device)
