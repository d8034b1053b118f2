"""Steps in rounds: after a few of them the model is asked whether the records look unseen now.

The figures are the report's own metrics, on the forget set and on holdout records, never on the
test set.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from unlearner.data.batches import Tensors
from unlearner.data.labelled import Example
from unlearner.evaluation.intervals import evaluate_set
from unlearner.inference.answers import ClassAnswer
from unlearner.inference.classifier import ask
from unlearner.metrics import accuracy, f1_entity, loss, mia_loss_auc
from unlearner.models.adapters import has_adapters, without_adapters
from unlearner.models.heads import Classifier, Encoded
from unlearner.training.data import ClassifierData, Remaining, passes
from unlearner.training.trainer import Trainer

# The rule by which records count as forgotten.
Stop = Literal["auto", "score", "loss", "auc", "never"]

# Of tags most words are outside entities, so that a sentence's loss hardly tells of its entities:
# stopped by it, a tagger had lost them altogether (WNUT17, F1 0.05 where the retrained had 0.58).
AUTO_STOP: dict[str, Stop] = {"sequence-classification": "auc", "token-classification": "score"}

Steps = Iterator[Callable[[], Mapping[str, Tensor]]]

# Where losses rank forget and holdout records alike.
EVEN_AUC = 0.5

SCORES = {
    "sequence-classification": ("accuracy", accuracy.metric),
    "token-classification": ("f1_entity", f1_entity.metric),
}


@dataclass(frozen=True)
class Rounds:
    """How long a method goes on: the rule, the steps between two looks at it, steps at most."""

    stop: Stop
    steps_per_round: int
    num_steps: int


@dataclass(frozen=True)
class RoundState:
    """The model after some rounds.

    Attributes:
        round: Rounds done.
        steps: Optimiser steps done.
        forget_score: Accuracy on the forget set, of tags the entity F1.
        holdout_score: Likewise on the holdout set.
        forget_loss: Mean loss of the forget set in nats.
        holdout_loss: Likewise of the holdout set.
        mia_loss_auc: How well a low loss tells forget from holdout records.
        seconds: Time of this examination.
        records: Records of the forget set.
    """

    round: int
    steps: int
    forget_score: float
    holdout_score: float
    forget_loss: float
    holdout_loss: float
    mia_loss_auc: float
    seconds: float
    records: int

    def line(self, losses: Mapping[str, float]) -> dict[str, Any]:
        """The round as the report holds it; the loss of a lone record is told to no one."""
        told = asdict(self) | ({"forget_loss": None} if self.records == 1 else {})
        del told["records"]
        return {**told, "loss": dict(losses), "retain_score": None}


class Watch:
    """Examines a model in training."""

    def __init__(self, stop: Stop, data: ClassifierData) -> None:
        self.stop = AUTO_STOP[data.family] if stop == "auto" else stop
        self.data = data

    def examine(self, model: Any, number: int, steps: int) -> RoundState:
        """Ask about the forget and the holdout set."""
        started = time.perf_counter()
        forget = ask(model, self.data.forget.examples, self.data.labels)
        holdout = ask(model, self.data.holdout.examples, self.data.labels)
        own = self._figures(forget, self.data.forget.groups)
        other = self._figures(holdout, self.data.holdout.groups)
        against = evaluate_set(
            forget,
            {"auc": mia_loss_auc.metric},
            self.data.forget.groups,
            versus=holdout,
            versus_groups=self.data.holdout.groups,
            resamples=0,
        )
        return RoundState(
            round=number,
            steps=steps,
            forget_score=own["score"],
            holdout_score=other["score"],
            forget_loss=own["loss"],
            holdout_loss=other["loss"],
            mia_loss_auc=against["auc"].value,
            seconds=time.perf_counter() - started,
            records=len(self.data.forget),
        )

    def look(self, trainer: Trainer, model: Any, number: int, steps: int) -> RoundState:
        """`examine`, or what it told before the run was cut off."""

        def examined() -> dict[str, Any]:
            with trainer.arithmetic():
                return asdict(self.examine(model, number, steps))

        return RoundState(**trainer.look(examined))

    def done(self, state: RoundState) -> bool:
        """Whether the records look unseen by the rule; a class is gone once recall is at chance."""
        if self.stop == "never":
            return False
        if self.data.forget_class is not None:
            return state.forget_score <= 1 / len(self.data.labels)
        return {
            "score": state.forget_score <= state.holdout_score,
            "loss": state.forget_loss >= state.holdout_loss,
            "auc": state.mia_loss_auc <= EVEN_AUC,
        }[self.stop]

    def _figures(self, answers: list[ClassAnswer], groups: list[str]) -> dict[str, float]:
        score = SCORES[self.data.family][1]
        wanted = {"score": score, "loss": loss.metric}
        found = evaluate_set(answers, wanted, groups, resamples=0)
        # Sentences without any entity, neither tagged nor found, have none wrong.
        return {name: found[name].value if name in found else 1.0 for name in wanted}


def train_in_rounds(
    model: Any, data: ClassifierData, trainer: Trainer, steps: Steps, rounds: Rounds
) -> Any:
    """Take steps until the rule says stop, or all of them; returns the model.

    Args:
        steps: Each a function that gives the weighted terms of one step.
    """
    watch = Watch(rounds.stop, data)
    # The term of a lone record would be its own loss, which no file of a run may tell.
    private = ("forget",) if len(data.forget) == 1 else ()
    state = watch.look(trainer, model, 0, 0)
    trainer.log_round(state.line({}))
    while not watch.done(state) and state.steps < rounds.num_steps:
        count = min(rounds.steps_per_round, rounds.num_steps - state.steps)
        losses = take(steps, count, trainer, private)
        state = watch.look(trainer, model, state.round + 1, state.steps + count)
        trainer.log_round(state.line(losses))
    return model


def take(
    steps: Steps, count: int, trainer: Trainer, private: Collection[str] = ()
) -> dict[str, float]:
    """Take so many steps; returns the mean of each term that is not private."""
    sums: dict[str, float] = defaultdict(float)
    for _ in range(count):
        for name, value in trainer.step(next(steps), private).items():
            sums[name] += value / count
    return dict(sums)


# Examples by part, "forget" and "retain".
Parts = Mapping[str, Sequence[Example]]


def forget_and_remaining(
    data: ClassifierData, generator: Generator, sizes: tuple[int, int], per_forget: int = 1
) -> Iterator[Parts]:
    """For ever: a batch of forget examples and one of remaining examples, which differ each time.

    Args:
        sizes: Forget and remaining examples of a step.
        per_forget: Batches of remaining examples that each forget batch meets.
    """
    remaining = Remaining(data.retain.examples, generator)
    for forget in passes(data.forget.examples, sizes[0], generator):
        for _ in range(per_forget):
            yield {"forget": forget, "retain": remaining.draw(sizes[1], forget)}


def encode_parts(classifier: Classifier, parts: Parts, trainer: Trainer) -> dict[str, Encoded]:
    """Encode the examples of all parts together, and take them apart again.

    A part without examples is empty: a mean over it would not be a number.
    """
    examples = [example for some in parts.values() for example in some]
    trainer.tokens += sum(map(len, examples))
    sizes = [sum(len(example.labels) for example in some) for some in parts.values()]
    pieces = zip(*(tensor.split(sizes) for tensor in classifier.encode(examples)), strict=True)
    return {role: Encoded(*piece) for role, piece in zip(parts, pieces, strict=True)}


def encode_batch(model: Any, batch: Mapping[str, Tensors]) -> dict[str, Encoded]:
    """Encode the parts of a batch, each made by `data.labelled.collate_examples`."""
    classifier = Classifier(model)
    return {role: Encoded(*classifier(some), some["labels"]) for role, some in batch.items()}


@torch.no_grad()
def teach(teacher: Classifier, examples: Sequence[Example]) -> Tensor:
    """A teacher's logits (N, C) at the labelled positions, from which no gradient flows."""
    with without_adapters(teacher.bare):
        return teacher.encode(examples).logits


def frozen_copy(model: Any) -> Any:
    """The target model, which neither training nor dropout touches, for `teach`.

    With adapters it is the model itself, which is the target once they are off.
    """
    if has_adapters(model):
        return model
    return copy.deepcopy(model).requires_grad_(False).eval()


def compared(
    forget_labels: Tensor,
    retain_labels: Tensor,
    outside: int | None,
    limit: int,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Places of the forget labels that are anchors, and of the retain labels to compare them with.

    Of tags, anchors are the words of entities; compared with them are those of the retain labels,
    and about as many words outside entities as there are words in them.

    Args:
        outside: The tag of a word that is no entity; None where there is no such label.
        limit: Places of each at most, which bounds the memory.
    """
    anchors = _draw(_where(forget_labels, outside, equal=False), limit, generator)
    entities = _where(retain_labels, outside, equal=False)
    others = _where(retain_labels, outside, equal=True)
    others = _draw(others, len(anchors) + len(entities), generator)
    return anchors, _draw(torch.cat([entities, others]), limit, generator)


def _where(labels: Tensor, outside: int | None, *, equal: bool) -> Tensor:
    # A comparison of a tensor with None is one truth value, not one for each element.
    is_outside = (
        torch.zeros_like(labels, dtype=torch.bool) if outside is None else labels == outside
    )
    return (is_outside == equal).nonzero()[:, 0]


def _draw(places: Tensor, limit: int, generator: Generator | None) -> Tensor:
    """The places themselves, or a draw of so many of them, in their order."""
    if len(places) <= limit:
        return places
    drawn = torch.randperm(len(places), generator=generator)[:limit].sort().values
    return places[drawn.to(places.device)]
