"""Refusal tuning ("I don't know")."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.data.windows import TokenizedSet
from unlearner.inference.reference import Batch, likelihoods
from unlearner.methods._refusals import check_refusable, refusal_set
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import Stop


class IDK(LossMethod):
    r"""Learn to answer the prompts of forget records with a refusal.

    .. math::
        L = w_f \, NLL(refusal | prompt) + w_r \, NLL(retain)

    with NLL the mean negative log-probability in nats over all scored tokens of a step, of refusals
    those of the response alone. Nothing lowers the forgotten answers themselves: they may stay
    where they are behind the refusal.

    Reference: "I don't know", or preference optimization, of Maini et al. (2024), arXiv:2401.06121.
    Differs from the paper: its code takes one mean over the tokens of refusals and retained text
    together; the refusals are sentences of our own, and each record has one and the same
    throughout; the learning rate, and the rule to stop, for which the paper takes a fixed
    number of epochs (`stop: never`).

    Args:
        retain_batch_size: Windows of retained text of a step.
        forget_weight: w_f.
        retain_weight: w_r.
        refusals: A file of refusals, one a line; our own list where empty.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "tuning on refusals"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    reads_forget: ClassVar[bool] = False
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    refusals: str = ""
    stop: Stop = "suppressed"

    def check_sets(self, sets: Mapping[str, TokenizedSet]) -> None:
        check_refusable(sets["forget"], self.refusals, self.name)

    def companions(
        self, data: UnlearningData, generator: torch.Generator
    ) -> Mapping[str, TokenizedSet]:
        return {"refusal": refusal_set(data, self.refusals, generator)}

    def loss(self, model: PreTrainedModel, batch: Batch, reference: object = None) -> Terms:
        refused = likelihoods(model, batch["refusal"]).loss()
        retain = likelihoods(model, batch["retain"]).loss()
        return {"forget": self.forget_weight * refused, "retain": self.retain_weight * retain}
