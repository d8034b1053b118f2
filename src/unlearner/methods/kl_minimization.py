"""Gradient ascent that stays close to the reference on kept text (KL minimisation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from unlearner.inference.reference import Batch, asked_of, likelihoods
from unlearner.methods.base import Method
from unlearner.training.language_loop import Stop


class KLMinimization(Method):
    r"""Raise the loss of forget records while predicting as before on kept text.

    .. math::
        L = - w_f \, NLL(forget) + w_r \, mean_t KL(p_{ref} \| p)(retain)

    with NLL the mean negative log-probability of the forget records in nats per scored token, and
    the mean of the divergences over the scored tokens of the retain records. p_ref is the target
    model. The first term has no lower bound: only the rule to stop limits the damage.

    Reference: "KL minimization" of Maini et al. (2024), arXiv:2401.06121.
    Differs from the paper: its code averages the divergence over padding as well; the learning
    rate, and the rule to stop, for which the paper takes a fixed number of epochs (`stop: never`);
    of kept text 4,096 windows at most are learned from, drawn once.

    Args:
        retain_batch_size: Windows of kept text of a step.
        forget_weight: w_f.
        retain_weight: w_r.
        stop: The rule that ends it; see `descent.Stop`.
    """

    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"retain": "logits"}

    def loss(self, model: Any, batch: Batch, reference: Any = None) -> dict[str, Tensor]:
        """The weighted terms of one step; their sum is the objective.

        Args:
            batch: "forget" and "retain", each as `data.batches.collate` makes it.
            reference: The frozen target model, or what is kept of it.
        """
        known = asked_of(reference, batch)
        raised = -likelihoods(model, batch["forget"]).loss()
        close = likelihoods(model, batch["retain"], known.logits("retain")).kl.mean()
        return {"forget": self.forget_weight * raised, "retain": self.retain_weight * close}
