"""Steps in rounds: after a few of them a classifier is evaluated, until the records look unseen.

The figures are the report's own metrics, on the forget set, on holdout and on retained records,
never on the test set.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Generator
from transformers import PreTrainedModel

from unlearner.evaluation.intervals import evaluate_set, record_values
from unlearner.inference.answers import ClassAnswer
from unlearner.inference.classifier import classify
from unlearner.metrics import accuracy, f1_entity, loss, mia_loss_auc
from unlearner.output import Json
from unlearner.training.data import ClassifierData, DescentMethod, Remaining, passes
from unlearner.training.losses import Examples, frozen_copy
from unlearner.training.quantiles import quantiles_at
from unlearner.training.trainer import (
    CLASSIFIER_RATE_TIMES_WIDTH,
    Terms,
    Trainer,
    resolve_learning_rate,
)

# The rule by which records count as forgotten.
Stop = Literal["auto", "score", "loss", "auc", "never"]

# Of tags most words are outside entities, so that a sentence's loss hardly tells of its entities:
# stopped by it, a tagger had lost them altogether (WNUT17, F1 0.05 where the retrained had 0.58).
AUTO_STOP: dict[str, Stop] = {"sequence-classification": "auc", "token-classification": "score"}

# Where losses rank forget and holdout records alike.
EVEN_AUC = 0.5

# Of a method that has no field of its own for it.
STEPS_PER_ROUND = 5

Steps = Iterator[Callable[[], Terms]]


@dataclass(frozen=True)
class Rounds:
    """How long a method goes on: the rule, the steps between two evaluations, steps at most."""

    stop: Stop
    steps_per_round: int
    num_steps: int


@dataclass(frozen=True)
class ClassifierRound:
    """The model after some rounds.

    Attributes:
        round: Rounds done.
        steps: Optimiser steps done.
        forget_score: Accuracy on the forget set, of tags with entities their F1.
        holdout_score: Likewise on the holdout set.
        retain_score: Likewise on watched records of the retain set.
        forget_loss: Mean loss of the forget set in nats.
        holdout_loss: Likewise of the holdout set.
        mia_loss_auc: How well a low loss distinguishes forget from holdout records.
        seconds: Time of this evaluation.
        records: Records of the forget set.
        likelier: Those of them that are likelier than unseen ones, see `likelier_than_unseen`.
    """

    round: int
    steps: int
    forget_score: float
    holdout_score: float
    retain_score: float
    forget_loss: float
    holdout_loss: float
    mia_loss_auc: float
    seconds: float
    records: int
    likelier: Sequence[int] = ()

    def line(self, losses: Mapping[str, float]) -> Json:
        """The round as the report holds it; the loss of a lone record is reported to no one."""
        fields = asdict(self) | ({"forget_loss": None} if self.records == 1 else {})
        del fields["records"], fields["likelier"]
        return {**fields, "loss": dict(losses)}


class Watch:
    """Evaluates a model in training."""

    def __init__(self, stop: Stop, data: ClassifierData) -> None:
        self.stop = AUTO_STOP[data.family] if stop == "auto" else stop
        # What is left to forget is known also where nothing stops the run by it.
        self.rule = AUTO_STOP[data.family] if stop == "never" else self.stop
        self.data = data

    def examine(self, model: PreTrainedModel, number: int, steps: int) -> ClassifierRound:
        """Evaluate the forget set, the holdout set and the watched records of the retain set."""
        started = time.perf_counter()
        data = self.data
        forget = classify(model, data.forget, data.labels)
        holdout = classify(model, data.holdout, data.labels)
        own = self._figures(forget, data.forget.groups)
        other = self._figures(holdout, data.holdout.groups)
        watched = data.watched or data.retain
        retained = classify(model, watched, data.labels)
        against = evaluate_set(
            forget,
            {"auc": mia_loss_auc.metric},
            data.forget.groups,
            versus=holdout,
            versus_groups=data.holdout.groups,
            resamples=0,
        )
        return ClassifierRound(
            round=number,
            steps=steps,
            forget_score=own["score"],
            holdout_score=other["score"],
            retain_score=self._figures(retained, watched.groups)["score"],
            forget_loss=own["loss"],
            holdout_loss=other["loss"],
            mia_loss_auc=against["auc"].value,
            seconds=time.perf_counter() - started,
            records=len(data.forget),
            likelier=likelier_than_unseen(
                record_values(forget, loss.metric), record_values(holdout, loss.metric).values()
            ),
        )

    def evaluate_round(
        self, trainer: Trainer, model: PreTrainedModel, number: int, steps: int
    ) -> ClassifierRound:
        """`examine`, or what it gave before the run was cut off."""

        def examined() -> Json:
            with trainer.arithmetic():
                return asdict(self.examine(model, number, steps))

        return ClassifierRound(**trainer.evaluate_round(examined))

    def done(self, state: ClassifierRound) -> bool:
        """Whether nothing is left to forget by the rule."""
        return self.stop != "never" and self.excess(state) == 0

    def excess(self, state: ClassifierRound) -> float:
        """How far the records are from looking unseen by the rule; 0 where they do.

        A class is gone once its recall is at chance. What is not finite stays NaN.
        """
        return max(self.above(state), 0.0)  # of a NaN and 0 the first

    def above(self, state: ClassifierRound) -> float:
        """The same, and negative where the records are less known than unseen ones."""
        if self.data.forget_class is not None:
            return state.forget_score - 1 / len(self.data.labels)
        return {
            "score": state.forget_score - state.holdout_score,
            "loss": state.holdout_loss - state.forget_loss,
            "auc": state.mia_loss_auc - EVEN_AUC,
        }[self.rule]

    def floor(self, first: ClassifierRound) -> float:
        """The least score of retained records, from that of the target model."""
        return first.retain_score - self.data.score_drop

    def shortfall(self, first: Mapping[str, Any], state: ClassifierRound) -> float:
        """How far retained or unseen records score below what they may; 0 where both do not.

        A removed class is missed among unseen records too, so that only retained ones count then.

        Args:
            first: The target model's line, as `ClassifierRound.line` makes it.
        """
        names = ["retain_score"]
        if self.data.forget_class is None:
            names.append("holdout_score")
        now = asdict(state)
        return max(0.0, *(first[name] - self.data.score_drop - now[name] for name in names))

    def _figures(self, answers: list[ClassAnswer], groups: list[str]) -> dict[str, float]:
        score = f1_entity.metric if self.data.has_entities else accuracy.metric
        metrics = {"score": score, "loss": loss.metric}
        values = evaluate_set(answers, metrics, groups, resamples=0)
        # Sentences without any entity, neither tagged nor found, have none wrong.
        return {name: values[name].value if name in values else 1.0 for name in metrics}


def likelier_than_unseen(losses: Mapping[int, float], unseen: Collection[float]) -> tuple[int, ...]:
    """The records whose loss is below that of unseen records at the same rank.

    The k-th lowest of m losses is compared with the quantile (k - 1/2) / m of the unseen ones; see
    `training.quantiles.Quantiles.at`.

    Args:
        losses: Of each forget record in nats, by its index.
        unseen: Of unseen records.
    """
    order = sorted(losses, key=lambda record: losses[record])
    goals = quantiles_at(np.sort(list(unseen)), len(order))
    return tuple(
        sorted(record for record, goal in zip(order, goals, strict=True) if losses[record] < goal)
    )


def descend_classifier(
    method: DescentMethod, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
) -> PreTrainedModel:
    """Train a classifier on `method.loss` and return it.

    The method's fields `stop`, `steps_per_round`, `retain_batch_size` and `max_gradient_norm` are
    followed where it has them.
    """
    fields = method.model_dump()
    model = start_training(method, model, trainer)
    reference = frozen_copy(model) if "target" in method.companion_models else None
    batches, num_batches = _batches(method, data, trainer.generator)
    length = fields.get("steps_per_round", STEPS_PER_ROUND)
    rounds = Rounds(
        stop=fields.get("stop", "auto"),
        steps_per_round=num_batches if length == "epoch" else length,
        num_steps=num_batches * method.max_epochs,
    )
    steps = loss_steps(trainer, batches, partial(method.loss, model, reference=reference))
    return train_in_rounds(model, data, trainer, steps, rounds)


def start_training(
    method: DescentMethod, model: PreTrainedModel, trainer: Trainer
) -> PreTrainedModel:
    """The model, ready to be trained with dropout at the method's own rate and clipping."""
    rate = resolve_learning_rate(method.learning_rate, model, CLASSIFIER_RATE_TIMES_WIDTH)
    clip = method.model_dump().get("max_gradient_norm")
    return trainer.start(model, rate, dropout=True, max_gradient_norm=clip)


def _batches(
    method: DescentMethod, data: ClassifierData, generator: Generator
) -> tuple[Iterator[Examples], int]:
    """Batches for ever of what the method needs, and how many make a pass over its first set."""
    data = replace(data, **method.companions(data, generator))  # what it makes of them
    size = method.batch_size
    first = data.forget if method.reads_forget else data.retain
    if method.reads_forget and "retain" in method.needs:
        beside = method.model_dump().get("retain_batch_size", size)
        batches = forget_and_remaining(data, generator, (size, beside))
    else:
        role = "forget" if method.reads_forget else "retain"
        batches = ({role: some} for some in passes(first.examples, size, generator))
    return batches, math.ceil(len(first.examples) / size)


def forget_and_remaining(
    data: ClassifierData, generator: Generator, sizes: tuple[int, int], per_forget: int = 1
) -> Iterator[Examples]:
    """For ever: a batch of forget examples and one of remaining examples, which differ each time.

    Args:
        sizes: Forget and remaining examples of a step.
        per_forget: Batches of remaining examples that each forget batch meets.
    """
    remaining = Remaining(data.retain.examples, generator)
    for forget in passes(data.forget.examples, sizes[0], generator):
        for _ in range(per_forget):
            yield {"forget": forget, "retain": remaining.draw(sizes[1], forget)}


def loss_steps(
    trainer: Trainer, batches: Iterable[Examples], loss: Callable[[Examples], Terms]
) -> Steps:
    """A step for each batch: the loss of it."""

    def terms(batch: Examples) -> Terms:
        trainer.tokens += sum(len(example) for some in batch.values() for example in some)
        return loss(batch)

    return (partial(terms, batch) for batch in batches)


def train_in_rounds(
    model: PreTrainedModel,
    data: ClassifierData,
    trainer: Trainer,
    steps: Steps,
    rounds: Rounds,
    seen: Callable[[ClassifierRound], None] = lambda _: None,
) -> PreTrainedModel:
    """Take steps until the rule says stop, or all of them; returns the model.

    Where it never does, the weights are those of the round that had least left to forget while
    retained records were classified well enough, if there was one; of several, of the one that
    classified them best.

    Args:
        steps: Each a function that gives the weighted terms of one step.
        seen: Is told of every evaluation, before the steps behind it.
    """
    watch = Watch(rounds.stop, data)
    # The term of a lone record would be its own loss, which no file of a run may hold.
    private = ("forget",) if len(data.forget) == 1 else ()
    state = watch.evaluate_round(trainer, model, 0, 0)
    floor, best, least = watch.floor(state), state, (math.inf, math.inf)
    trainer.log_round(state.line({}))
    seen(state)
    while not watch.done(state) and state.steps < rounds.num_steps:
        count = min(rounds.steps_per_round, rounds.num_steps - state.steps)
        losses = take_steps(steps, count, trainer, private)
        state = watch.evaluate_round(trainer, model, state.round + 1, state.steps + count)
        trainer.log_round(state.line(losses))
        seen(state)
        rank = (watch.excess(state), -state.retain_score)
        if rounds.stop != "never" and state.retain_score >= floor and rank < least:
            best, least = state, rank
            trainer.keep(model)
    if 0 < best.round < state.round and not watch.done(state):
        trainer.restore(model)
        trainer.details["restored_round"] = best.round
    return model


def take_steps(
    steps: Steps,
    count: int,
    trainer: Trainer,
    private: Collection[str] = (),
    *,
    falls: bool = False,
) -> dict[str, float]:
    """Take so many steps; returns the mean of each term that is not private.

    Args:
        falls: The learning rate falls in a straight line, to zero behind the last step.
    """
    sums: dict[str, float] = defaultdict(float)
    for place in range(count):
        if falls:
            trainer.scale_rate(1 - place / count)
        for name, value in trainer.step(next(steps), private).items():
            sums[name] += value / count
    return dict(sums)
