"""Pure tensor formulas. Every mask and every reduction of the project stands here once.

Shapes: B windows, T tokens, N label positions, V vocabulary, D hidden. Logarithms are natural, so
losses and divergences are in nats. Probabilities are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Positions whose target distribution is recomputed at a time: 64 x 50,257 floats are 13 MB.
TARGET_CHUNK = 64

TargetLogits = Callable[[slice], Tensor]


class _LabelLogProbs(Function):
    """log p(label) and KL(target || p) per position, with one [N, V] float32 buffer alive.

    The buffer holds the logits, then the probabilities, then the gradient. Autograd alone would
    keep the logits' log-softmax, its exponential and the gradient side by side.
    """

    @staticmethod
    def forward(ctx, logits_NV, labels_N, target_logits, num_target, overwrite):  # type: ignore
        buffer_NV = logits_NV.detach().float()
        if not overwrite and buffer_NV.data_ptr() == logits_NV.data_ptr():
            buffer_NV = buffer_NV.clone()
        normaliser_N = buffer_NV.new_empty(len(buffer_NV))
        for rows in chunks(len(buffer_NV)):  # logsumexp makes two copies of what it is given
            normaliser_N[rows] = buffer_NV[rows].logsumexp(-1)
        log_probs_N = buffer_NV.gather(-1, labels_N[:, None])[:, 0] - normaliser_N
        kl_N = torch.zeros_like(log_probs_N)
        for rows in chunks(num_target):
            target_log_probs = target_logits(rows).float().log_softmax(-1)
            difference = target_log_probs - buffer_NV[rows] + normaliser_N[rows, None]
            kl_N[rows] = (target_log_probs.exp() * difference).sum(-1)
        if ctx.needs_input_grad[0]:
            ctx.probabilities = buffer_NV.sub_(normaliser_N[:, None]).exp_()
        ctx.labels, ctx.target_logits, ctx.num_target = labels_N, target_logits, num_target
        ctx.dtype = logits_NV.dtype
        return log_probs_N, kl_N

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_probs_N, grad_kl_N):  # type: ignore[override]
        # d log p(label) / d logits = onehot - p;  d KL(q || p) / d logits = p - q
        grad_kl_N = grad_kl_N.clone()
        grad_kl_N[ctx.num_target :] = 0  # where there is no target the KL is a constant
        grad_NV = ctx.probabilities
        ctx.probabilities = None
        grad_NV.mul_((grad_kl_N - grad_log_probs_N)[:, None])
        for rows in chunks(ctx.num_target):
            target = ctx.target_logits(rows).float().softmax(-1)
            grad_NV[rows] -= grad_kl_N[rows, None] * target
        grad_NV.scatter_add_(-1, ctx.labels[:, None], grad_log_probs_N[:, None])
        return grad_NV.to(ctx.dtype), None, None, None, None


def chunks(length: int) -> list[slice]:
    """Consecutive slices of at most TARGET_CHUNK positions."""
    return [slice(i, min(i + TARGET_CHUNK, length)) for i in range(0, length, TARGET_CHUNK)]


def label_log_probs(
    logits_NV: Tensor,
    labels_N: Tensor,
    target_logits: TargetLogits | None = None,
    num_target: int = 0,
    *,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and KL(target || model) at each position, both (N,) in nats.

    Args:
        logits_NV: The model's logits at the label positions only (no padding).
        labels_N: The token at each position.
        target_logits: Gives the target model's logits of a slice of the first `num_target`
            positions; asked twice, forward and backward, so that they are never all kept.
        num_target: Positions that have a target; the KL of the others is 0.
        overwrite: The logits may be destroyed: true right behind a linear head, whose backward does
            not look at its output, and where nobody reads them again.
    """
    return _LabelLogProbs.apply(  # type: ignore
        logits_NV, labels_N, target_logits, num_target, overwrite
    )


def kl_divergence(target_logits_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """KL(target || model) of each next-token distribution, (N,) in nats."""
    target = target_logits_NV.float().log_softmax(-1)
    return (target.exp() * (target - logits_NV.float().log_softmax(-1))).sum(-1)


def mean_per_record(values_N: Tensor, records_N: Tensor, num_records: int) -> Tensor:
    """The mean over each record's own positions, (num_records,); 0 for a record without any."""
    sums = values_N.new_zeros(num_records).index_add(0, records_N, values_N)
    counts = values_N.new_zeros(num_records).index_add(0, records_N, torch.ones_like(values_N))
    return sums / counts.clamp(min=1)


def bounded(loss_R: Tensor, bound: float | None) -> Tensor:
    """min(loss, bound) of each record: no gradient once a record's loss has reached the bound."""
    return loss_R if bound is None else loss_R.clamp(max=bound)
