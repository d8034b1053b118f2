"""Large language model unlearning (LLMU)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.data.windows import TokenizedSet, Window
from unlearner.inference.reference import Batch, Reference, asked_of, likelihoods
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import Stop


class LLMU(LossMethod):
    r"""Raise the loss of the forget records, learn random answers to them, stay close elsewhere.

    .. math::
        L = - w_f \, NLL(forget) + w_a \, NLL(random)
            + w_r \, mean_t KL(p_{ref} \| p)(retain)

    with NLL the mean negative log-probability in nats over all scored tokens of a step, and the
    mean of the divergences over the scored tokens of the retain records. p_ref is the target model.
    NLL(random) scores random answers: what a kept record has behind its prompt, put behind the
    prompt of the forget record. Of a text without one the prompt is all but the last 50 tokens, or
    its first half.

    Reference: Yao et al. (2023), arXiv:2310.10683.
    Differs from the paper and its code: the learning rate (theirs is 2e-6) and the rule to stop
    (1000 batches, or a loss of 100, for which there is `loss_bound`); each window has one random
    answer, drawn once from the kept records, where the code draws five anew for each batch from
    another data set. Means are over the tokens of the step, where the code takes each record's own
    first and, of a forget record, scores the answer alone (`data.scope: response`); its divergence
    is a cross-entropy, of the same gradient, over prompts and padding too. Of retained text 4,096
    windows at most are learned from, drawn once.

    Args:
        retain_batch_size: Windows of retained text of a step.
        forget_weight: w_f.
        random_weight: w_a.
        retain_weight: w_r.
        loss_bound: Forget loss in nats per token that ends the run when a round finds it reached;
            None for no such bound.
        stop: The rule that ends it before; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "LLMU (Yao et al.)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    windows_per_record: ClassVar[int] = 2
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {
        "forget_weight": (0.05, 4.0),
        "retain_weight": (0.25, 8.0),
    }

    retain_batch_size: PositiveInt = 8
    forget_weight: NonNegativeFloat = 0.5
    random_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    loss_bound: PositiveFloat | None = None
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"retain": "logits"}

    def companions(
        self, data: UnlearningData, generator: torch.Generator
    ) -> Mapping[str, TokenizedSet]:
        assert data.pool is not None  # named in `needs`
        return {"random": random_answers(data.forget, data.pool, generator)}

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        target = asked_of(reference, batch).logits("retain")
        forget, random = (likelihoods(model, batch[name]) for name in ("forget", "random"))
        retain = likelihoods(model, batch["retain"], target).kl.mean()
        return {
            "forget": -self.forget_weight * forget.loss(),
            "random": self.random_weight * random.loss(),
            "retain": self.retain_weight * retain,
        }


def random_answers(
    forget: TokenizedSet, kept: TokenizedSet, generator: torch.Generator
) -> TokenizedSet:
    """For each forget window its prompt, and the answer of a kept window drawn at random.

    Only the answer is scored. No window is longer than the longest of both sets.
    """
    with_answer = [some for some in kept.windows if some.scored[some.prefix - 1 :].any()]
    longest = max(map(len, (*forget.windows, *kept.windows)))
    drawn = torch.randint(len(with_answer), (len(forget.windows),), generator=generator).tolist()
    windows = [
        _splice(window, with_answer[place], longest)
        for window, place in zip(forget.windows, drawn, strict=True)
    ]
    return replace(forget, name="random", windows=tuple(windows))


def _splice(window: Window, other: Window, longest: int) -> Window:
    prompt = window.input_ids[: window.prefix]
    answer = other.input_ids[other.prefix : other.stop]
    tokens = np.concatenate([prompt, answer])[:longest]
    labels = np.arange(1, len(tokens))
    return replace(window, input_ids=tokens, scored=labels >= window.prefix, end=0)
