"""Gradient ascent (GA)."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.methods.base import LossMethod, Stop, Terms
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS
from unlearner.training.losses import Parts, mean_losses


class GradientAscent(LossMethod):
    r"""Raise the loss of the forget records.

    .. math:: L = -NLL(forget)

    with NLL the mean negative log-probability in nats over all scored tokens of a step; for
    classifiers the mean cross-entropy over all labelled positions. The objective has no lower bound
    and nothing in it keeps the rest: only the rule to stop limits the damage.

    Reference: for language models Jang et al. (2022), arXiv:2210.01504 (KUMPR, "unlikelihood"); for
    classifiers the baseline "negative gradient" of Golatkar et al. (2020), arXiv:1911.04933.
    Differs from the sources: for language models the learning rate (theirs is 5e-5), the batch
    (theirs is the whole forget set) and clipping; the rule to stop is theirs, EL_10 and MA of the
    forget set at the level of unseen text, with the level measured on this model. For classifiers
    AdamW, the rule to stop and all settings, which stand for no published ones.

    Args:
        batch_size: Forget records of a step.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it. For language models "auto" is "level"; see
            `language_loop.Stop`. For classifiers see `DeepCUT`.
        steps_per_round: Steps between two evaluations, for classifiers; language models are
            evaluated behind each pass.
    """

    label: ClassVar[str] = "gradient ascent on the records"
    families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *CLASSIFIERS)
    needs: ClassVar[tuple[str, ...]] = ("forget", "holdout")
    by_family: ClassVar[Mapping[str, Mapping[str, object]]] = {"causal-lm": {"stop": "level"}}

    batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        return {"forget": -mean_losses(model, {"forget": batch["forget"]})["forget"]}
