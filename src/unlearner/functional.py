"""Pure tensor formulas. Every mask and every reduction of the project stands here once.

Shapes: B windows, T tokens, N label positions, V vocabulary, D hidden; for classifiers C classes,
A anchors, V views. Logarithms are natural, so
losses and divergences are in nats. Probabilities are computed in float32.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.functional import normalize

# Positions whose distribution is computed at a time: on a processor 64 x 50,257 floats are 13 MB,
# which its cache and the C library like; an accelerator starves on so few, and gets so many bytes.
TARGET_CHUNK = 64
CHUNK_BYTES = 128 << 20

Tensors = dict[str, Tensor]
TargetLogits = Callable[[slice], Tensor]


class _LabelLogProbs(Function):
    """log p(label), KL(target || p) and entropy of each position; one [N, V] float32 buffer alive.

    The buffer holds the logits, then the probabilities, then the gradient. Autograd alone would
    keep the logits' log-softmax, its exponential and the gradient side by side.
    """

    @staticmethod
    def forward(  # type: ignore
        ctx, logits_NV, labels_N, target_logits, num_target, entropies, overwrite
    ):
        buffer_NV = _wide(logits_NV.detach())
        if not overwrite and buffer_NV.data_ptr() == logits_NV.data_ptr():
            buffer_NV = buffer_NV.clone()
        normaliser_N = buffer_NV.new_empty(len(buffer_NV))
        at_once = rows_at_once(buffer_NV)
        for rows in chunks(len(buffer_NV), at_once):  # logsumexp copies what it is given twice
            normaliser_N[rows] = buffer_NV[rows].logsumexp(-1)
        log_probs_N = buffer_NV.gather(-1, labels_N[:, None])[:, 0] - normaliser_N
        kl_N, entropy_N = torch.zeros_like(log_probs_N), torch.zeros_like(log_probs_N)
        for rows in chunks(len(buffer_NV) if entropies else 0, at_once):
            entropy_N[rows] = distribution_entropies(buffer_NV[rows] - normaliser_N[rows, None])
        for rows in chunks(num_target, at_once):
            target_log_probs = _wide(target_logits(rows)).log_softmax(-1)
            difference = target_log_probs - buffer_NV[rows] + normaliser_N[rows, None]
            kl_N[rows] = (target_log_probs.exp() * difference).sum(-1)
        if ctx.needs_input_grad[0]:
            ctx.probabilities = buffer_NV.sub_(normaliser_N[:, None]).exp_()
        ctx.labels, ctx.target_logits, ctx.num_target = labels_N, target_logits, num_target
        # An output that its own graph holds would wait for the garbage collector, with all of that.
        ctx.entropy_N = entropy_N.detach() if entropies else None
        ctx.dtype = logits_NV.dtype
        return log_probs_N, kl_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_probs_N, grad_kl_N, grad_entropy_N):  # type: ignore[override]
        # d log p(label) / d logits = onehot - p;  d KL(q || p) / d logits = p - q
        # d H / d logits = - p (log p + H)
        grad_kl_N = grad_kl_N.clone()
        grad_kl_N[ctx.num_target :] = 0  # where there is no target the KL is a constant
        grad_NV = ctx.probabilities
        ctx.probabilities = None
        factor_N = grad_kl_N - grad_log_probs_N
        if ctx.entropy_N is None:
            grad_NV.mul_(factor_N[:, None])
        else:
            _add_entropy_gradient(grad_NV, factor_N, grad_entropy_N, ctx.entropy_N)
        for rows in chunks(ctx.num_target, rows_at_once(grad_NV)):
            target = _wide(ctx.target_logits(rows)).softmax(-1)
            grad_NV[rows] -= grad_kl_N[rows, None] * target
        grad_NV.scatter_add_(-1, ctx.labels[:, None], grad_log_probs_N[:, None])
        return grad_NV.to(ctx.dtype), None, None, None, None, None


def _add_entropy_gradient(
    probabilities_NV: Tensor, factor_N: Tensor, grad_entropy_N: Tensor, entropy_N: Tensor
) -> None:
    """In place of p, p times its factor, less the entropy's gradient times p (log p + H)."""
    for rows in chunks(len(probabilities_NV), rows_at_once(probabilities_NV)):
        p = probabilities_NV[rows]
        of_entropy = grad_entropy_N[rows, None]
        logs = torch.xlogy(p, p).mul_(of_entropy)
        p.mul_(factor_N[rows, None] - of_entropy * entropy_N[rows, None]).sub_(logs)


def chunks(length: int, size: int = TARGET_CHUNK) -> list[slice]:
    """Consecutive slices of at most so many positions."""
    return [slice(i, min(i + size, length)) for i in range(0, length, size)]


def rows_at_once(logits_NV: Tensor) -> int:
    """Positions that are worked on at a time, where such logits are."""
    if logits_NV.device.type == "cpu":
        return TARGET_CHUNK
    return max(TARGET_CHUNK, CHUNK_BYTES // (4 * logits_NV.shape[-1]))


def label_log_probs(
    logits_NV: Tensor,
    labels_N: Tensor,
    target_logits: TargetLogits | None = None,
    num_target: int = 0,
    *,
    entropies: bool = False,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log p of each label, KL(target || model) and entropy at each position, all (N,) in nats.

    Args:
        logits_NV: The model's logits at the label positions only (no padding).
        labels_N: The token at each position.
        target_logits: Gives the target model's logits of a slice of the first `num_target`
            positions; called twice, forward and backward, so that they are never all kept.
        num_target: Positions that have a target; the KL of the others is 0.
        entropies: Without it every entropy is 0.
        overwrite: The logits may be destroyed: true right behind a linear head, whose backward does
            not look at its output, and where nobody reads them again.
    """
    return _LabelLogProbs.apply(  # type: ignore
        logits_NV, labels_N, target_logits, num_target, entropies, overwrite
    )


def log_prob_moments(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log p(v) over v of each distribution, both (N,) in nats."""
    log_probs = _wide(logits_NV).log_softmax(-1)
    probabilities = log_probs.exp()
    mean_N = (probabilities * log_probs).sum(-1)
    # Not from the mean of squares: of a distribution that is nearly certain that is all rounding.
    variance_N = (probabilities * (log_probs - mean_N[:, None]).square()).sum(-1)
    return mean_N, variance_N.sqrt()


def distribution_entropies(log_probs_NV: Tensor) -> Tensor:
    """The entropy of each distribution, (N,) in nats."""
    return -(log_probs_NV.exp() * log_probs_NV).sum(-1)


def kl_divergence(target_logits_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """KL(target || model) of each next-token distribution, (N,) in nats.

    Where one model has more tokens than the other, over those that both have.
    """
    size = min(target_logits_NV.shape[-1], logits_NV.shape[-1])
    target = _wide(target_logits_NV[..., :size]).log_softmax(-1)
    return (target.exp() * (target - _wide(logits_NV[..., :size]).log_softmax(-1))).sum(-1)


def _wide(logits: Tensor) -> Tensor:
    """In float32 at least: half precision is too coarse for probabilities."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sum_per_record(values_N: Tensor, records_N: Tensor, num_records: int) -> Tensor:
    """The sum over each record's own positions, (num_records,); 0 for a record without any."""
    return values_N.new_zeros(num_records).index_add(0, records_N, values_N)


def mean_per_record(values_N: Tensor, records_N: Tensor, num_records: int) -> Tensor:
    """The mean over each record's own positions, (num_records,); 0 for a record without any."""
    sums = sum_per_record(values_N, records_N, num_records)
    counts = values_N.new_zeros(num_records).index_add(0, records_N, torch.ones_like(values_N))
    return sums / counts.clamp(min=1)


def bounded(loss_R: Tensor, bound: float | None) -> Tensor:
    """min(loss, bound) of each record: no gradient once a record's loss has reached the bound."""
    return loss_R if bound is None else loss_R.clamp(max=bound)


def squared_distances(states_ND: Tensor, goals_ND: Tensor) -> Tensor:
    """The squared Euclidean distance of each row from its goal, (N,); one goal may serve all."""
    return (_wide(states_ND) - _wide(goals_ND)).square().sum(-1)


def cosine_similarities(features_ND: Tensor, others_MD: Tensor) -> Tensor:
    """(N, M) dot products of the two sets of vectors, each scaled to length 1."""
    features, others = (normalize(some.float(), dim=-1) for some in (features_ND, others_MD))
    # Autocast would multiply in half precision: an error of 0.002 is 0.02 at temperature 0.1.
    with torch.autocast(features.device.type, enabled=False):
        return features @ others.T


def contrast_saturating(scaled_AV: Tensor, same_AV: Tensor, other_AV: Tensor) -> Tensor:
    r"""DeepCUT's loss of each anchor: away from its own class, towards the others, ever less.

    .. math::
        l_i = mean_{o \in O_i} softplus(r_i - s_{io} / \tau), \quad
        r_i = logsumexp_{k \in S_i} s_{ik} / \tau

    With respect to any similarity s the gradient is at most 1 / tau in size, positive for every
    pair of one class and negative for every pair of two, and vanishes once every s_io is far above
    r_i.

    Args:
        scaled_AV: s / tau of each of A anchors with each of V views.
        same_AV: Which views are of the anchor's class (S_i), the anchor itself not among them.
        other_AV: Which views are of another class (O_i). No row of either may be empty.

    Returns:
        (A,) losses, >= 0.
    """
    distances_AV = functional.softplus(_own_class(scaled_AV, same_AV)[:, None] - scaled_AV)
    return _mean_where(distances_AV, other_AV)


def contrast_linear(scaled_AV: Tensor, same_AV: Tensor, other_AV: Tensor) -> Tensor:
    r"""Lee et al.'s loss of each anchor (arXiv:2401.10458): r_i - mean_o s_io / tau.

    Arguments and shape are those of `contrast_saturating`, of which it is the part without bound:
    softplus(x) is about x where x is large.
    """
    return _own_class(scaled_AV, same_AV) - _mean_where(scaled_AV, other_AV)


def contrast_flipped(scaled_AV: Tensor, same_AV: Tensor, other_AV: Tensor) -> Tensor:
    r"""The supervised contrastive loss with the classes' roles exchanged, for comparison.

    .. math:: l_i = - mean_{o \in O_i} \log \frac{e^{s_{io}/\tau}}{\sum_{a \ne i} e^{s_{ia}/\tau}}

    Some other-class views are pushed away by it: those nearer than their share. Arguments and shape
    are those of `contrast_saturating`.
    """
    everything_A = _own_class(scaled_AV, same_AV | other_AV)
    return everything_A - _mean_where(scaled_AV, other_AV)


def contrast_remaining(scaled_AV: Tensor, same_AV: Tensor, other_AV: Tensor) -> Tensor:
    r"""`contrast_linear` where an anchor may lack views of its own class: then r_i is 0.

    So it is when a whole class is removed and the views are those of remaining samples: what is
    left of the loss is the pull towards the other classes, -mean_o s_io / tau.

    Arguments and shape are those of `contrast_saturating`, but rows of `same_AV` may be empty.
    """
    has_own_A = same_AV.any(-1)
    pull_A = -_mean_where(scaled_AV, other_AV)
    # Left out before the sum, not masked behind it: the gradient of log(0) is not a number.
    own = _own_class(scaled_AV[has_own_A], same_AV[has_own_A])
    return pull_A.index_put((has_own_A,), own, accumulate=True)


def tempered_kl(teacher_NC: Tensor, logits_NC: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) of each position, (N,) in nats.

    The factor keeps the gradient's size the same at every T.

    Reference: Hinton et al. (2015), arXiv:1503.02531.
    """
    scaled = kl_divergence(teacher_NC.float() / temperature, logits_NC.float() / temperature)
    return temperature**2 * scaled


def sharpened_log_probs(logits_NV: Tensor, sharpness: float, share: float) -> Tensor:
    r"""The logarithm of a sharpened distribution with some of the plain one in it, (N, V) in nats.

    .. math:: \log(\pi \, softmax(\beta z) + (1 - \pi) \, softmax(z))

    No token is less likely than 1 - pi of what it was, however sharp the first is.

    Args:
        sharpness: beta, > 0.
        share: pi, above 0 and below 1.
    """
    wide = _wide(logits_NV)
    sharp, plain = (sharpness * wide).log_softmax(-1), wide.log_softmax(-1)
    return torch.logaddexp(sharp + math.log(share), plain + math.log1p(-share))


def label_margins(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The margin log p(label) / (1 - p(label)) of each position, (N,) in nats.

    From the logits: of a label that is nearly certain 1 - p would be all rounding.
    """
    logits_NC = _wide(logits_NC)
    own_N = logits_NC.gather(-1, labels_N[:, None])[:, 0]
    return own_N - logits_NC.scatter(-1, labels_N[:, None], -torch.inf).logsumexp(-1)


def average_predictions(logits_SNC: Tensor) -> Tensor:
    """The log of the mean of S models' probabilities, (N, C): log-probabilities, so logits too."""
    log_probs_SNC = logits_SNC.float().log_softmax(-1)
    return log_probs_SNC.logsumexp(0) - math.log(len(logits_SNC))


def _own_class(scaled_AV: Tensor, same_AV: Tensor) -> Tensor:
    return scaled_AV.masked_fill(~same_AV, -torch.inf).logsumexp(-1)


def _mean_where(values_AV: Tensor, mask_AV: Tensor) -> Tensor:
    return (values_AV * mask_AV).sum(-1) / mask_AV.sum(-1)
