"""Fine-tuning on the remaining data."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.methods.base import LossMethod, Terms
from unlearner.metrics.base import CLASSIFIERS
from unlearner.training.classifier_loop import Stop
from unlearner.training.losses import Parts, mean_losses


class FineTune(LossMethod):
    r"""Go on learning the remaining records, and leave the others to be forgotten by themselves.

    .. math:: L = CE(retain)

    with CE the mean cross-entropy in nats over all labelled positions of a step.

    Reference: none of its own; the baseline "FT" of Golatkar et al. (2020), arXiv:1911.04933.
    Differs from the source: AdamW, the rule to stop and all settings, which stand for no published
    ones.

    Args:
        batch_size: Remaining samples of a step.
        max_epochs: Passes over the remaining samples at most.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations, or "epoch".
    """

    label: ClassVar[str] = "fine-tuning on what is kept"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    reads_forget: ClassVar[bool] = False

    batch_size: PositiveInt = 32
    max_epochs: PositiveInt = 5
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt | Literal["epoch"] = "epoch"

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        return mean_losses(model, {"retain": batch["retain"]})
