"""Gradient ascent that stays close to the reference on kept text (KL minimisation)."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.inference.reference import Batch, Reference, asked_of, likelihoods
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.language_loop import Stop


class KLMinimization(LossMethod):
    r"""Raise the loss of forget records while predicting as before on retained text.

    .. math::
        L = - w_f \, NLL(forget) + w_r \, mean_t KL(p_{ref} \| p)(retain)

    with NLL the mean negative log-probability of the forget records in nats per scored token, and
    the mean of the divergences over the scored tokens of the retain records. p_ref is the target
    model. The first term has no lower bound: only the rule to stop limits the damage.

    Reference: "KL minimization" of Maini et al. (2024), arXiv:2401.06121.
    Differs from the paper: its code averages the divergence over padding as well; the learning
    rate, and the rule to stop, for which the paper takes a fixed number of epochs (`stop: never`);
    of retained text 4,096 windows at most are learned from, drawn once.

    Args:
        retain_batch_size: Windows of retained text of a step.
        forget_weight: w_f.
        retain_weight: w_r.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "gradient ascent with KL to the target"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"retain": "logits"}

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        known = asked_of(reference, batch)
        raised = -likelihoods(model, batch["forget"]).loss()
        close = likelihoods(model, batch["retain"], known.logits("retain")).kl.mean()
        return {"forget": self.forget_weight * raised, "retain": self.retain_weight * close}
