"""Plain descent on a method's loss: passes over the forget set until its records look unseen.

The loop of every method for language models that is a loss and nothing else. What is evaluated
between passes is what ICU evaluates, so that methods differ in their losses alone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Literal

import torch
from transformers import PreTrainedModel

from unlearner.data.batches import Deck, Tensors, share_of
from unlearner.data.windows import TokenizedSet, Window
from unlearner.inference.reference import KeptReference
from unlearner.models import sharding
from unlearner.training.data import DescentMethod, UnlearningData
from unlearner.training.quantiles import divide
from unlearner.training.stop_rule import (
    RECOVERED_AT,
    Refinement,
    RoundState,
    Rules,
    is_better,
    keeps_the_rest,
)
from unlearner.training.trainer import AUTO_RATE_TIMES_WIDTH, Terms, Trainer, resolve_learning_rate
from unlearner.training.way_back import OnWayBack, draw_share

# When a run ends before its last epoch: once the forget set's MA, EL_10 and ES, and each single
# record, are at or below what unseen text shows; by MA and EL_10 of the set alone (KUMPR's rule);
# or never.
Stop = Literal["suppressed", "level", "never"]

# Retained text at most, in windows, where its hidden states under the target model are stored.
MAX_COMPARED = 4096

# The windows of a step by set, as places in that set.
Places = Mapping[str, Sequence[int]]


class Drawing:
    """The windows of each step: some forget records, what belongs to them, and text to be kept.

    Unseen text too, of a method with a field `unseen_per_step`.

    Args:
        companions: Sets with a record for each forget record; see `Method.companions`.
    """

    def __init__(
        self,
        method: DescentMethod,
        data: UnlearningData,
        companions: Mapping[str, TokenizedSet],
        generator: torch.Generator,
    ) -> None:
        self.batch_size, self.kept_per_step = method.batch_size, method.kept_per_step
        self.generator, self.deck, self.unseen_deck = generator, Deck(), Deck()
        own = {"forget": data.forget} if method.reads_forget else {}
        self.num_records = len(data.forget)
        self.aligned: dict[str, TokenizedSet] = {**own, **companions}
        self.windows: dict[str, Sequence[Window]] = {
            name: some.windows for name, some in self.aligned.items()
        }
        if self.kept_per_step:
            self.windows["retain"] = self._retained(method, data)
        self.unseen_per_step = method.model_dump().get("unseen_per_step", 0)
        if self.unseen_per_step:
            assert data.partners is not None  # the family divides the unseen records
            unseen = divide(data.partners)[1].windows
            self.windows["holdout"] = [window for window in unseen if window.scored.any()]

    def _retained(self, method: DescentMethod, data: UnlearningData) -> Sequence[Window]:
        assert data.pool is not None  # the pipeline refuses a run without
        # A window wholly within a prompt has no label that counts, and a step of such no mean.
        windows = [window for window in data.pool.windows if window.scored.any()]
        compared = method.asks.get("retain") in ("logits", "states")
        if not compared or len(windows) <= MAX_COMPARED:
            return windows
        order = torch.randperm(len(windows), generator=self.generator)[:MAX_COMPARED]
        return [windows[index] for index in sorted(order.tolist())]

    def epoch(self) -> list[dict[str, list[int]]]:
        """Every step of one pass over the forget records: which windows of each set it has."""
        order = torch.randperm(self.num_records, generator=self.generator).tolist()
        steps = []
        for start in range(0, len(order), self.batch_size):
            drawn = set(order[start : start + self.batch_size])
            places = {
                name: [i for i, window in enumerate(some.windows) if window.record in drawn]
                for name, some in self.aligned.items()
            }
            if self.kept_per_step:
                size = len(self.windows["retain"])
                places["retain"] = self.deck.draw(self.kept_per_step, size, self.generator)
            if self.unseen_per_step:
                count, size = self.unseen_per_step, len(self.windows["holdout"])
                places["holdout"] = self.unseen_deck.draw(count, size, self.generator)
            steps.append(places)
        return steps

    def num_forget(self, places: Places) -> int:
        """How many forget records a step has."""
        name = next(iter(self.aligned))
        return len({self.windows[name][place].record for place in places[name]})

    def num_tokens(self, places: Places) -> int:
        """The tokens of a step."""
        return sum(len(self.windows[name][i]) for name, some in places.items() for i in some)

    def batch(self, places: Places, device: torch.device) -> dict[str, Tensors | None]:
        """This process's share of a step's windows, by set."""
        return {
            name: share_of([self.windows[name][place] for place in some], device)
            for name, some in places.items()
        }


def descend(
    method: DescentMethod, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
) -> PreTrainedModel:
    """Train a language model on `method.loss` and return it.

    The method's fields `stop`, `loss_bound`, `max_gradient_norm` and `path` are followed where it
    has them.
    """
    rate = resolve_learning_rate(method.learning_rate, model, AUTO_RATE_TIMES_WIDTH)
    companions = method.companions(data, trainer.generator)
    drawing = Drawing(method, data, companions, trainer.generator)
    reference = KeptReference.of(trainer.prepare(model), drawing.windows, method.asks)
    clip, path = (method.model_dump().get(name) for name in ("max_gradient_norm", "path"))
    model = trainer.start(model, rate, max_gradient_norm=clip, path=path or 0.0)

    def terms(places: Places) -> Terms:
        batch = drawing.batch(places, sharding.device_of(model))
        return method.loss(model, batch, reference.at(places, batch))

    epoch = partial(take_epoch, drawing, trainer, terms, path or 0.0)
    return train_to_level(method, model, data, trainer, epoch)


def take_epoch(
    drawing: Drawing, trainer: Trainer, terms: Callable[[Places], Terms], path: float = 0.0
) -> dict[str, float]:
    """A step for each draw of an epoch; returns each term's mean over the steps that logged it.

    Args:
        path: How far on the way back to the target the gradient of the term "forget" is taken; the
            loss is then asked for twice.
    """
    logged: dict[str, list[float]] = defaultdict(list)
    for places in drawing.epoch():
        # A lone record's term would be its own loss, which no file of a run may hold.
        private = ("forget",) if drawing.num_forget(places) == 1 else ()
        loss, pushed = partial(terms, places), None
        if path:
            share = draw_share(path, trainer.generator)
            pushed = OnWayBack(partial(_terms_of, loss, forget=True), share)
            loss = partial(_terms_of, loss, forget=False)
        for name, value in trainer.step(loss, private, pushed).items():
            logged[name].append(value)
        trainer.tokens += drawing.num_tokens(places)
    return {name: fmean(values) for name, values in logged.items()}


def _terms_of(loss: Callable[[], Terms], *, forget: bool) -> Terms:
    """The term of the forget records, or all others."""
    return {name: term for name, term in loss().items() if (name == "forget") is forget}


def train_to_level(
    method: DescentMethod,
    model: PreTrainedModel,
    data: UnlearningData,
    trainer: Trainer,
    epoch: Callable[[], dict[str, float]],
) -> PreTrainedModel:
    """Take epochs until the method's rule says stop; returns the model.

    Where it never does before the last epoch, or before the forget loss has reached the method's
    `loss_bound`, the weights are those of the round that had forgotten most while the retained
    text's perplexity was under the floor, if there was one.

    Args:
        epoch: Takes the steps of one epoch and returns the mean of each term.
    """
    stop: Stop = method.model_dump().get("stop", "suppressed")
    bound = method.model_dump().get("loss_bound") or math.inf
    learns = method.kept_per_step > 0
    floor = data.utility_floor if learns and stop == "suppressed" else None
    refinement = Refinement(Rules(), data, by_set=True, floor=floor)
    best = None
    first = state = refinement.evaluate_round(trainer, model)
    trainer.log_round(state.line({}))
    while not _done(stop, state, data, learns=learns):
        if state.round == method.max_epochs or state.values["loss"] >= bound:
            break
        losses = epoch()
        state = refinement.evaluate_round(trainer, model, first)
        trainer.log_round(state.line(losses))
        if keeps_the_rest(state, data) and is_better(state, best):
            best = state
            trainer.keep(model)
    else:
        return model
    if stop != "never" and best is not None and best.round != state.round:
        trainer.restore(model)
        trainer.details["restored_round"] = best.round
    return model


def _done(stop: Stop, state: RoundState, data: UnlearningData, *, learns: bool) -> bool:
    """Whether to stop; a method that learns on retained text goes on until that has recovered."""
    if stop == "never":
        return False
    if stop == "level":
        return state.at_level
    recovered = state.kept_ratio <= min(RECOVERED_AT, data.utility_floor)
    return state.suppressed and (recovered or not learns)
