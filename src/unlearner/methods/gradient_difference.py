"""Gradient difference (GradDiff, NegGrad+)."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.methods.base import LossMethod, Stop, Terms
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS
from unlearner.training.losses import Parts, is_text, mean_losses


class GradientDifference(LossMethod):
    r"""Raise the loss of the forget records while learning the remaining ones.

    .. math:: L = w_r \, NLL(retain) - w_f \, NLL(forget)

    with NLL the mean negative log-probability in nats over all scored tokens of a step; for
    classifiers the mean cross-entropy over all labelled positions.

    Reference: for language models Liu et al. (2022), arXiv:2203.12817, as "GradDiff" in Maini et
    al. (2024), arXiv:2401.06121; for classifiers "NegGrad+" of Kurmanji et al. (2023),
    arXiv:2302.09880, where w_r = a and w_f = 1 - a.
    Differs from the sources: the learning rate, clipping and the rule to stop; an epoch is a pass
    over the forget set, not over the remaining records. a is tuned in the last source for each data
    set; no single published value is known, and 0.95 is not measured here.

    Args:
        batch_size: Forget records of a step.
        retain_batch_size: Windows of retained text of a step, or remaining samples.
        forget_weight: w_f; None for 1, for classifiers 0.05.
        retain_weight: w_r; None for 1, for classifiers 0.95.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it. For language models "auto" is "suppressed"; see
            `language_loop.Stop`. For classifiers see `DeepCUT`.
        steps_per_round: Steps between two evaluations, for classifiers; language models are
            evaluated behind each pass.
    """

    label: ClassVar[str] = "gradient difference (for classifiers NegGrad+)"
    families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *CLASSIFIERS)
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}
    by_family: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "causal-lm": {"stop": "suppressed", "forget_weight": 1.0, "retain_weight": 1.0},
        **{family: {"forget_weight": 0.05, "retain_weight": 0.95} for family in CLASSIFIERS},
    }

    batch_size: PositiveInt = 16
    retain_batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    forget_weight: NonNegativeFloat | None = None
    retain_weight: NonNegativeFloat | None = None
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        given = self.for_family(CAUSAL_LM[0] if is_text(batch) else CLASSIFIERS[0])
        assert given.forget_weight is not None
        assert given.retain_weight is not None
        losses = mean_losses(model, {role: batch[role] for role in ("forget", "retain")})
        return {
            "forget": -given.forget_weight * losses["forget"],
            "retain": given.retain_weight * losses["retain"],
        }
