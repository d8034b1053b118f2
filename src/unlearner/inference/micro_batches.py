"""A step's windows a few at a time, with the gradient of all of them together.

A loss is a function of every label position of a step: a mean over all tokens, or a ratio of
records' likelihoods, is no mean over parts. So what a model gives for the windows is computed a
few windows at a time without what the backward pass needs, the loss is that of all its rows, and
in the backward pass each few windows are computed again with it. That costs one more forward pass.

B windows, N label positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unlearner.functional import Tensors

_limit: ContextVar[int | None] = ContextVar("micro_batch", default=None)


@contextmanager
def windows_at_most(limit: int | None) -> Iterator[None]:
    """Within the block a forward and backward pass is of so many windows at most; None for all."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def rows_of(batch: Tensors, infer: Callable[[Tensors, int], list[Tensor]]) -> list[Tensor]:
    """What `infer` gives for each label position of a batch, (N, ...) each.

    Args:
        infer: Gives rows for the label positions of a part of the batch; also told how many come
            before them.
    """
    limit = _limit.get()
    if limit is None or len(batch["input_ids"]) <= limit:
        return infer(batch, 0)
    found = []
    # Its gradient is nothing; without it torch would take what follows for a constant.
    anchor = torch.empty(0, requires_grad=True)
    for part, before in _parts_of(batch, limit):

        def run(_: Tensor, part: Tensors = part, before: int = before) -> tuple[Tensor, ...]:
            return tuple(infer(part, before))

        # The reentrant kind: the other keeps what `label_log_probs` holds for its backward pass.
        found.append(checkpoint(run, anchor, use_reentrant=True))
    return [torch.cat(rows) for rows in zip(*found, strict=True)]


def _parts_of(batch: Tensors, limit: int) -> Iterator[tuple[Tensors, int]]:
    """Parts of so many windows, without padding that none of them needs; label positions before."""
    window = batch["positions"][:, 0]
    for start in range(0, len(batch["input_ids"]), limit):
        rows = slice(start, start + limit)
        mask = batch["attention_mask"][rows]
        width = int(mask.sum(-1).max())
        first, last = (int((window < place).sum()) for place in (start, start + limit))
        shift = batch["positions"].new_tensor([start, 0])
        yield (
            {
                "input_ids": batch["input_ids"][rows, :width],
                "attention_mask": mask[:, :width],
                "positions": batch["positions"][first:last] - shift,
                "labels": batch["labels"][first:last],
                "owner": batch["owner"][rows],
            },
            first,
        )
