"""Unlearning by self-distillation with adjusted logits (UNDIAL)."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from transformers import PreTrainedModel

from unlearner.data.batches import Tensors
from unlearner.inference.reference import Batch, Reference, asked_of, likelihoods
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.language_loop import Stop


class UNDIAL(LossMethod):
    r"""Imitate the reference model with the logit of each forget token lowered.

    .. math::
        L = w_f \, mean_t KL(q_t \| p_t) + w_r \, NLL(retain), \quad
        q_t = softmax(z_t - \beta \, onehot(y_t))

    with z_t the target model's logits at a scored forget token y_t, p_t the model's own
    distribution there, and means over all scored tokens of a step, in nats. The teacher q stays, so
    the forget term has a minimum, 0, where the model says what the target would say if it did not
    know the token.

    Reference: Dong et al. (2024), arXiv:2402.10052.
    Differs from the paper: the cross-entropy of p with q is written as a divergence, which leaves
    out q's entropy, a constant with no gradient; the retain term, which the paper does not have
    (`retain_weight: 0`); the learning rate, and the rule to stop.

    Args:
        retain_batch_size: Windows of retained text of a step.
        beta: What is taken off the logit of a forget token; the paper tries 3, 10 and 30.
        forget_weight: w_f.
        retain_weight: w_r; 0 leaves the term out.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "UNDIAL (self-distillation on adjusted logits)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    beta: PositiveFloat = 10.0
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"forget": "logits"}

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        logits = asked_of(reference, batch).logits("forget")
        adjusted = _lowered(logits, batch["forget"], self.beta)
        imitated = likelihoods(model, batch["forget"], adjusted).kl.mean()
        retain = likelihoods(model, batch["retain"]).loss()
        return {"forget": self.forget_weight * imitated, "retain": self.retain_weight * retain}


def _lowered(
    logits: Callable[[slice], Tensor], batch: Tensors | None, by: float
) -> Callable[[slice], Tensor]:
    """The logits at a slice of a batch's label positions, that of the label itself lowered."""

    def of_rows(rows: slice) -> Tensor:
        assert batch is not None  # nobody asks about the windows of a process that has none
        labels_N1 = batch["labels"][rows, None]
        logits_NV = logits(rows)
        # Not in place: they may be a view of the reference's own, which are asked for twice.
        return logits_NV.scatter_add(-1, labels_N1, logits_NV.new_full(labels_N1.shape, -by))

    return of_rows
