"""Direct preference optimisation of a refusal over the forget answer (IdkDPO)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from unlearner.data.windows import TokenizedSet
from unlearner.inference.reference import Batch, Reference, asked_of, likelihoods
from unlearner.methods._refusals import check_refusable, refusal_set
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import Stop


class DPO(LossMethod):
    r"""Prefer a refusal to the answer of a forget record, by more than the reference model does.

    .. math::
        L = - w_f \frac{1}{\beta} E_{forget} \log \sigma(
            \beta \log \frac{p(refusal)}{p_{ref}(refusal)}
            - \beta \log \frac{p(x)}{p_{ref}(x)}) + w_r \, NLL(retain)

    with p(refusal) the probability of the refusal's tokens together given the record's prompt, p(x)
    that of all scored tokens of the record, and NLL the mean negative log-probability of the retain
    records in nats per scored token. p_ref is the target model.

    Reference: DPO is Rafailov et al. (2023), arXiv:2305.18290; with refusals Maini et al. (2024),
    arXiv:2401.06121; the factor 1 / beta is Zhang et al. (2024), arXiv:2404.05868.
    Differs from the papers: the refusals are sentences of our own, and each record has one and the
    same throughout; with `data.scope: sequence` p(x) holds the prompt's tokens too, which are then
    forgotten with the answer; the learning rate, and the rule to stop, for which the papers take a
    fixed number of epochs (`stop: never`). The factor before the forget term is 2 / beta in the
    code of Zhang et al. and in open-unlearning, and 1 in TOFU's code and in TRL: their forget
    weight of 1 is `forget_weight` 2 here, or beta, which is 0.1.

    Args:
        retain_batch_size: Windows of retained text of a step.
        beta: Inverse temperature; the larger it is, the sooner a record that prefers its refusal is
            left alone. In the limit 0 none ever is.
        forget_weight: w_f.
        retain_weight: w_r; 0 leaves the term out, as plain DPO does.
        refusals: A file of refusals, one a line; our own list where empty.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "preference for refusals (IdkDPO)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    windows_per_record: ClassVar[int] = 2
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    beta: PositiveFloat = 0.1
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    refusals: str = ""
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"forget": "log_probs", "refusal": "log_probs"}

    def check_sets(self, sets: Mapping[str, TokenizedSet]) -> None:
        check_refusable(sets["forget"], self.refusals, self.name)

    def companions(
        self, data: UnlearningData, generator: torch.Generator
    ) -> Mapping[str, TokenizedSet]:
        return {"refusal": refusal_set(data, self.refusals, generator)}

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        """The weighted terms; "refusal" has a record for each forget record, in the same order."""
        known = asked_of(reference, batch)
        preferred_R = _log_ratios(model, batch, known, "refusal")
        preferred_R = preferred_R - _log_ratios(model, batch, known, "forget")
        chosen = -(1 / self.beta) * logsigmoid(self.beta * preferred_R).mean()
        retain = likelihoods(model, batch["retain"]).loss()
        return {"forget": self.forget_weight * chosen, "retain": self.retain_weight * retain}


def _log_ratios(model: PreTrainedModel, batch: Batch, known: Reference, name: str) -> Tensor:
    """Log p(y | x) - log p_ref(y | x) of each record of a set, (R,) in nats."""
    said = likelihoods(model, batch[name])
    return said.sums() - said.sums(known.log_probs(name))
