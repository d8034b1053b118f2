"""Weighted gradient ascent (WGA)."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.inference.reference import Batch, likelihoods
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.language_loop import Stop


class WeightedGradientAscent(LossMethod):
    r"""Raise the loss of each forget token, the less the less likely the token is already.

    .. math::
        L = - w_f \, mean_t(p_t^\beta \, NLL_t) + w_r \, NLL(retain)

    with p_t the model's probability of a scored forget token, NLL_t = -log p_t in nats, and means
    over all scored tokens of a step. The weight p_t^beta is a constant to the gradient: it cancels
    the 1 / p_t by which plain ascent pushes forgotten tokens ever harder.

    Reference: "WGA" of Wang et al. (2025), arXiv:2502.19301, where beta is alpha.
    Differs from the paper: the retain term, which the paper adds as one choice of several, the
    learning rate, and the rule to stop. `beta` is that of later comparisons; the paper tries
    several.

    Args:
        retain_batch_size: Windows of retained text of a step.
        beta: The power of p_t; 0 is gradient ascent.
        forget_weight: w_f.
        retain_weight: w_r; 0 leaves the term out.
        path: How far on the way back to the target model the forget term's gradient is taken, see
            `training/way_back.py`; 0, as published, takes it at the model in training.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "weighted gradient ascent (WGA)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    beta: NonNegativeFloat = 1.0
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    path: float = Field(default=0.0, ge=0.0, lt=1.0)
    stop: Stop = "suppressed"

    def loss(self, model: PreTrainedModel, batch: Batch, reference: object = None) -> Terms:
        log_probs_N = likelihoods(model, batch["forget"]).log_probs
        weights_N = (self.beta * log_probs_N.detach()).exp()
        pushed = (weights_N * log_probs_N).mean()
        retain = likelihoods(model, batch["retain"]).loss()
        return {"forget": self.forget_weight * pushed, "retain": self.retain_weight * retain}
