r"""Membership inference by loss over compressed size: what is easy to compress is easy to predict.

.. math::
    s(x) = L(x) / zlib(x)

with L(x) the mean loss of a record's scored labels in nats and zlib(x) the bytes of their text
compressed; the AUC of "lower is a member" as in `mia_loss_auc`. Of a record of several windows the
mean over them by their labels.

Reference: Carlini et al. (2021), arXiv:2012.07805.
"""

from unlearner.inference.answers import Answer
from unlearner.metrics.base import Metric, attack
from unlearner.metrics.loss import negative_log_likelihood
from unlearner.metrics.mia_loss_auc import membership_auc


def loss_per_byte(answer: Answer) -> tuple[float, float]:
    """Sum of s over the labels that count, and their number."""
    total, count = negative_log_likelihood(answer)
    return (total / answer.zlib_bytes, count) if answer.zlib_bytes else (0.0, 0.0)


metric = Metric(
    tally=loss_per_byte,
    better="chance",
    versus="holdout",
    compare=membership_auc,
    shown=attack("MIA zlib (AUC)", "the model's loss over the text's compressed size", order=152),
)
