"""Hidden states between a model's blocks: what a block gives at the label positions of windows.

B windows, T tokens, N label positions, D hidden. Blocks are counted from 0.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner.data.windows import Window
from unlearner.functional import Tensors
from unlearner.inference import micro_batches
from unlearner.inference.reference import body, rows_of_windows, unlabelled
from unlearner.models import sharding


class _Reached(Exception):  # noqa: N818 - an end, not an error
    """The forward pass has come to the block whose output is wanted."""


def states_behind(model: PreTrainedModel, block: int, batch: Tensors) -> Tensor:
    """What a block gives for each token, (B, T, D); no block behind it is computed where it can be.

    A sharded model needs the whole forward pass, and so does one in training mode, which may
    compute its activations again: what they have begun they have to end.
    """
    whole = sharding.is_sharded(model) or model.training
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        if not whole:
            raise _Reached

    def run() -> Tensor:
        with suppress(_Reached):
            body(model, batch)
        return found[0]

    hook = sharding.blocks(model)[block].register_forward_hook(keep)
    try:
        return sharding.inside(model, run)
    finally:
        hook.remove()


def states_at_labels(model: PreTrainedModel, block: int, batch: Tensors | None) -> Tensor:
    """What a block gives at the label positions of this process's batch, (N, D).

    Args:
        batch: None where this process has none; a sharded model works all the same.
    """
    if batch is None and not sharding.is_sharded(model):
        width = model.config.get_text_config().hidden_size
        return torch.zeros(0, width, device=sharding.device_of(model))
    batch = unlabelled(sharding.device_of(model)) if batch is None else batch

    def infer(some: Tensors, _: int) -> list[Tensor]:
        window, position = some["positions"].unbind(-1)
        return [states_behind(model, block, some)[window, position]]

    return micro_batches.rows_of(batch, infer)[0]


def keep_states(model: PreTrainedModel, block: int, windows: Sequence[Window]) -> list[Tensor]:
    """What a block gives at each window's label positions, (N_window, D) on the CPU.

    The model must not be sharded yet.
    """
    return rows_of_windows(model, windows, partial(states_at_labels, model, block))
