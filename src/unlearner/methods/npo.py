"""Negative preference optimisation (NPO)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from unlearner.inference.reference import Batch, Reference, asked_of, likelihoods
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.language_loop import Stop


class NPO(LossMethod):
    r"""Push forget records below the reference model, ever more gently the lower they are.

    .. math::
        L = - w_f \frac{2}{\beta} E_{forget} \log \sigma(- \beta \log \frac{p(x)}{p_{ref}(x)})
            + w_r \, R(retain)

    with p(x) the probability of all scored tokens of a record together, and R the mean negative
    log-probability of the retain records in nats per token, or with `retain_term: kl` the mean over
    their tokens of KL(p_ref || p). p_ref is the target model.

    Reference: Zhang et al. (2024), arXiv:2404.05868.
    Differs from the paper: the learning rate, and the rule to stop; the paper takes a fixed number
    of epochs (`stop: never`). With `retain_term: kl` the mean is over the scored tokens, where
    open-unlearning's is over all positions of a batch, prompts and padding included, so that its
    divergence is the smaller the more of those there are; and 4,096 windows of retained text at
    most are learned from, drawn once.

    Args:
        retain_batch_size: Windows of retained text of a step.
        beta: Inverse temperature; in the limit 0 the forget term's gradient is gradient ascent's.
        forget_weight: w_f.
        retain_weight: w_r; 0 leaves the term out, as the paper's plain NPO does.
        retain_term: Whether R is "nll" or "kl".
        path: How far on the way back to the target model the forget term's gradient is taken, see
            `training/way_back.py`; 0, as published, takes it at the model in training.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "NPO (negative preference optimisation)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    retain_batch_size: PositiveInt = 8
    beta: PositiveFloat = 0.1
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    retain_term: Literal["nll", "kl"] = "nll"
    path: float = Field(default=0.0, ge=0.0, lt=1.0)
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"forget": "log_probs"} | ({"retain": "logits"} if self.retain_term == "kl" else {})

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        known = asked_of(reference, batch)
        forget = likelihoods(model, batch["forget"])
        ratio_R = forget.sums() - forget.sums(known.log_probs("forget"))
        pushed = -(2 / self.beta) * logsigmoid(-self.beta * ratio_R).mean()
        if self.retain_term == "kl":
            retain = likelihoods(model, batch["retain"], known.logits("retain")).kl.mean()
        else:
            retain = likelihoods(model, batch["retain"]).loss()
        return {"forget": self.forget_weight * pushed, "retain": self.retain_weight * retain}
