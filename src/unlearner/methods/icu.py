"""Iterative Contrastive Unlearning (ICU)."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from functools import partial
from statistics import fmean
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlearner import functional, processes
from unlearner.data.batches import Deck, Tensors, join, owners, share_of
from unlearner.data.windows import Window
from unlearner.functional import TargetLogits
from unlearner.inference.reference import (
    KeptReference,
    Likelihoods,
    TargetDistribution,
    likelihoods,
    unlabelled,
)
from unlearner.methods.base import Method
from unlearner.models import sharding
from unlearner.output import Json
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.training.data import UnlearningData
from unlearner.training.pace import Fading, Pace
from unlearner.training.quantiles import Partners, Quantiles, distance, divide
from unlearner.training.stop_rule import (
    RECOVERED_AT,
    Refinement,
    RoundState,
    Rules,
    is_better,
    keeps_the_rest,
)
from unlearner.training.trainer import Terms, Trainer, resolve_learning_rate
from unlearner.training.way_back import OnWayBack, draw_share

PAPER: Json = {
    "learning_rate": 5e-6,
    "pairs": "fixed",
    "forget_bound": "none",
    "refine_by": "text",
    "num_beams": 2,
    "prompt_tokens": 50,
    "batches": "original",
    "mean_over": "tokens",
    "recover": False,
    "steps_per_round": "epoch",
    "keep": "last",
    "path": 0.0,
    "batch_size": 8,
    "analogous_weight": 0.5,
}

# With partners: steps of an epoch at least, or few records would be looked at after each; and the
# share of steps that are not taken on the way back, so that it is the model itself which ends at
# the level.
SHORTEST_EPOCH = 8
NOT_ON_WAY_BACK = 0.5

# Of "auto": 1.5e-3 for 64 hidden units.
RATE_TIMES_WIDTH = 0.096


class Ascent(NamedTuple):
    """Where the ascent of a step's forget records ends.

    Attributes:
        bound: b, if any.
        partners: In place of it, the quantiles of each record's unseen partner, in their order.
    """

    bound: float | None = None
    partners: Sequence[Quantiles] = ()


class Held(NamedTuple):
    """Unseen text, of which the target's distributions are to stay.

    Attributes:
        windows: Those that steps draw from.
        reference: The target's logits there.
        deck: Draws them.
    """

    windows: Sequence[Window]
    reference: KeptReference
    deck: Deck

    @classmethod
    def of(cls, model: PreTrainedModel, windows: Sequence[Window]) -> "Held":
        """As the model, which has to be the target still, predicts it."""
        counted = [window for window in windows if window.scored.any()]
        reference = KeptReference.of(model, {"holdout": counted}, {"holdout": "logits"})
        return cls(counted, reference, Deck())

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """The places of the windows of a step."""
        return self.deck.draw(count, len(self.windows), generator)

    def divergence(self, model: PreTrainedModel, places: Sequence[int]) -> Tensor:
        """KL(target || model) per label, the mean over records, of some of the windows."""
        windows = [self.windows[place] for place in places]
        batch = {"holdout": share_of(windows, sharding.device_of(model))}
        target = self.reference.at({"holdout": places}, batch).logits("holdout")
        found = likelihoods(model, batch["holdout"], target)
        return found.means(found.kl).mean()


class Given(NamedTuple):
    """What the steps of a run work with.

    Attributes:
        target: The target's distributions on the analogous records.
        partners: The unseen partners, with `forget_bound` "quantiles".
        held: Unseen text, where there is some.
    """

    model: PreTrainedModel
    data: UnlearningData
    analogous: AnalogousSet
    target: TargetDistribution
    trainer: Trainer
    partners: Partners | None
    held: Held | None


class ICU(Method):
    r"""Raise the loss of forget records while learning, and staying close on, analogous ones.

    .. math::
        L = w_f \frac{1}{B} \sum_{x} D(x)
            + w_a \frac{1}{A} \sum_{x'} \ell(x')
            + w_{kl} \frac{1}{A} \sum_{x'} mean_t KL(p_0(. | x'_{<t}) \| p(. | x'_{<t}))
            + w_u \frac{1}{U} \sum_{u} mean_t KL(p_0(. | u_{<t}) \| p(. | u_{<t}))

    with x the forget records of a step that are still remembered, B of them at most, x' its A
    analogous records, u some U unseen ones and p_0 the target model; l(x) is the mean negative
    log-probability of a record's scored tokens in nats. In the paper D(x) is -l(x), gradient
    ascent, and there is no last term. Here D is the distance of `quantile_matching` from an unseen
    partner, whose gradient is that of ascent until a token comes near what such text has, and turns
    round beyond it; it is taken on the way back to the target, see `training/way_back.py`. See
    `forget_bound` for other ends of the ascent.

    In every evaluation round all forget records are examined; the forgotten ones and their pairs
    sit out until the next, and may return. With partners those count as remembered too that are
    less likely than unseen text. A large model can pass the level within an epoch, so rounds come
    sooner the nearer it is, and the rate falls there, and with each round once the level was
    reached. Dropout is off, as in the published code.

    Reference: Tang et al. (2024), arXiv:2407.20271; ascent is arXiv:2210.01504.
    Differs from the paper and its published code by these defaults, for which preset "paper" has
    theirs: `learning_rate`, `batch_size`, `analogous_weight`, `path`, `pairs`, `forget_bound`,
    `refine_by`, `num_beams`, `prompt_tokens`, `batches`, `mean_over`, `recover`, `keep` and
    `steps_per_round`. Why: with a bound alone, or none, an observer tells the records from unseen
    text, and training on retained text brings them back (`docs/log.md`).

    Differs with the preset too. Pairs: one must not share `max_overlap` tokens with its forget
    record, nor be a near duplicate of any; one that two records of a step have in common counts
    once. Stop: the thresholds are measured on holdout text of this model, where the code has one
    pair of constants for all (`criteria.ma=0.5994 criteria.el_10=0.0499`), and are met by what is
    equal to them; a target that meets them is left as it is; there are `max_epochs` at most, in the
    code no limit. Examination: BLEU splits words by the rules of sacrebleu, the code by NLTK's;
    BERTScore is left out without a `bertscore_model`. Divergence: over the positions that predict a
    label; the code has the cross-entropy, which is larger by a constant, over all positions, the
    last and those of padding included. Token ids are used as they are; the code turns them into
    text and back. Of records longer than a window every part counts.

    Args:
        preset: "paper" starts from the paper's and its code's settings.
        forget_weight: w_f.
        analogous_weight: w_a.
        kl_weight: w_kl.
        forget_bound: Where the ascent ends. "quantiles": at the losses and entropies that an unseen
            partner had in the last round, from either side. Else D(x) is -min(l(x), b), with b the
            loss of holdout text, of each "token" by its own loss or of a "record" by its mean; or
            -l(x), "none", as in the paper. With fewer than two holdout records "quantiles" is
            "token"; where the level is given by hand, without any, there is no bound.
        unseen_weight: w_u; the term belongs to "quantiles".
        unseen_per_step: U, in windows.
        path: How far on the way back to the target model the forget term's gradient is taken, see
            `training/way_back.py`; 0, as published, takes it at the model in training.
        pairs: "fixed": each record's own partner; "fresh": other kept records in every step.
        fresh_per_step: Windows of retained text in a step, with fresh pairs.
        max_analogous: Records of the pool at most that fresh pairs are drawn from, nearest first.
        encoder: Sentence encoder for the retrieval: a path or id; "auto" takes all-MiniLM-L6-v2
            where it is already on the machine, else TF-IDF.
        max_overlap: Shared tokens in a row that rule a partner out.
        batches: Where some records sit an epoch out, those that are left form full batches
            ("regrouped"), or the batches are those of all records without the forgotten ones
            ("original"): an epoch then has as many steps as ever, and with fixed pairs one that
            has no record left still moves the weights, by Adam's momentum.
        mean_over: "records": l is a record's own mean, and the sum of a step's records is divided
            by B, also when fewer are left, so that a lone one is pushed no harder than among
            others. "tokens": one mean over the tokens of the records that are left, as published,
            and likewise over the analogous ones: a lone record is pushed B times as hard.
        refine_by: "level": a record is forgotten when its MA and EL_10 are at or below the holdout
            level, and once all are, its ES; "text": when its continuation is unlike the text by
            BLEU and BERTScore.
        refine_rule: With "text", whether "any" or "all" of the two measures must say so.
        bleu_below: Limit of BLEU, 0 to 1.
        bertscore_below: Limit of BERTScore F1.
        bertscore_model: Path or id of the encoder; without one BLEU alone decides.
        bertscore_baseline: What BERTScore gives to unrelated text; it is then rescaled to 0.
        num_beams: Beams of the continuation compared as text; 1 is greedy.
        prompt_tokens: Tokens of the text before that continuation that the model is given; None for
            all. The published code gives the last 50 of 150, so that a record can count as
            forgotten which still comes back behind all of them.
        recover: Go on learning once the set is at the level and each record within the limits of
            the verdict, without pushing any further, until utility is back.
        recovered_at: Perplexity of retained text, as a multiple of the target's, that counts as
            back; no more than the utility floor.
        keep: The model of a run that reaches `max_epochs`: the "best" round under the utility
            floor, or the "last", whatever it has cost.
        steps_per_round: Steps between two evaluation rounds: a number, an "epoch" as in the paper,
            or "auto", by the speed at which MA falls, an epoch at most.
    """

    label: ClassVar[str] = "ICU (iterative contrastive unlearning)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "analogous")
    skips_forgotten: ClassVar[bool] = True
    rounds_are_epochs: ClassVar[bool] = False
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"forget_weight": (0.25, 4.0)}

    preset: Literal["default", "paper"] = "default"
    batch_size: PositiveInt = 3
    forget_weight: NonNegativeFloat = 1.0
    analogous_weight: NonNegativeFloat = 2.0
    kl_weight: NonNegativeFloat = 1.0
    forget_bound: Literal["none", "record", "token", "quantiles"] = "quantiles"
    path: float = Field(default=0.6, ge=0.0, lt=1.0)
    unseen_weight: NonNegativeFloat = 1.0
    unseen_per_step: NonNegativeInt = 2
    pairs: Literal["fixed", "fresh"] = "fresh"
    fresh_per_step: PositiveInt = 8
    max_analogous: PositiveInt = 4096
    encoder: str = "auto"
    max_overlap: PositiveInt = 10
    refine_by: Literal["level", "text"] = "level"
    refine_rule: Literal["any", "all"] = "any"
    bleu_below: PositiveFloat = 0.01
    bertscore_below: float = 0.3
    bertscore_model: str | None = None
    bertscore_baseline: float = Field(default=0.0, ge=0.0, lt=1.0)
    num_beams: int = Field(default=1, gt=0, le=1000)
    prompt_tokens: PositiveInt | None = None
    batches: Literal["regrouped", "original"] = "regrouped"
    mean_over: Literal["records", "tokens"] = "records"
    recover: bool = True
    recovered_at: float = Field(default=RECOVERED_AT, ge=1.0)
    keep: Literal["best", "last"] = "best"
    steps_per_round: PositiveInt | Literal["auto", "epoch"] = "auto"

    @property
    def kept_per_step(self) -> int:
        return self.fresh_per_step if self.pairs == "fresh" else self.batch_size

    @property
    def learns_from_unseen(self) -> bool:
        return self.forget_bound == "quantiles"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"analogous": "logits"}

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, fields: object) -> object:
        if isinstance(fields, dict) and fields.get("preset") == "paper":
            return {**PAPER, **fields}
        return fields

    def loss(
        self,
        model: PreTrainedModel,
        batch: Mapping[str, Tensors],
        reference: PreTrainedModel | TargetLogits,
    ) -> Terms:
        """The weighted terms of one step; their sum is the objective.

        Args:
            reference: The frozen target model, or a function that gives the target's logits of a
                slice of the analogous label positions.
        """
        if isinstance(reference, nn.Module):
            frozen = TargetDistribution([], None, reference)  # type: ignore[arg-type]
            reference = frozen.logits((), batch["analogous"])
        return self._terms(model, batch, reference, None)

    def _terms(
        self,
        model: PreTrainedModel,
        batch: Mapping[str, Tensors],
        target: TargetLogits,
        bound: float | None,
    ) -> Terms:
        kept, forget = batch["analogous"], batch.get("forget")
        both = kept if forget is None else join(kept, forget)
        num_kept, num_records = int(kept["owner"].max()) + 1, int(both["owner"].max()) + 1
        labels = likelihoods(model, both, target, len(kept["labels"]))
        return self._weigh(labels, num_kept, num_records, Ascent(bound))

    def _step(
        self,
        model: PreTrainedModel,
        kept: Sequence[Window],
        forget: Sequence[Window],
        target: Callable[[Sequence[int], Tensors], TargetLogits],
        ascent: Ascent,
    ) -> Terms:
        """The terms of a step of which every process computes its share."""
        num_kept = max(owners(kept)) + 1 if kept else 0
        num_records = num_kept + (max(owners(forget)) + 1 if forget else 0)
        mine = processes.share(range(len(kept)))
        device = sharding.device_of(model)
        first, second = share_of(kept, device), share_of(forget, device)
        both = first or second
        if first and second:
            both = join(first, second, num_kept)
        elif second:
            both = second | {"owner": second["owner"] + num_kept}
        logits, num_target = (target(mine, first), len(first["labels"])) if first else (None, 0)
        labels = likelihoods(model, both, logits, num_target, entropies=bool(ascent.partners))
        return self._weigh(labels, num_kept, num_records, ascent)

    def _weigh(
        self,
        labels: Likelihoods,
        num_kept: int,
        num_records: int,
        ascent: Ascent,
    ) -> Terms:
        """The terms, from what `likelihoods` gives of kept and then of forget records."""
        log_probs, kl, owner = labels.log_probs, labels.kl, labels.owner
        loss_R = functional.mean_per_record(-log_probs, owner, num_records)
        kl_R = functional.mean_per_record(kl, owner, num_records)
        labels_R = functional.sum_per_record(torch.ones_like(log_probs), owner, num_records)

        def mean(values_R: Tensor, records: slice, count: int) -> Tensor:
            if self.mean_over == "records":
                return values_R[records].sum() / count
            return (values_R * labels_R)[records].sum() / labels_R[records].sum().clamp(min=1)

        terms, kept = {}, slice(num_kept)
        if num_kept:
            terms["analogous"] = self.analogous_weight * mean(loss_R, kept, num_kept)
            terms["kl"] = self.kl_weight * mean(kl_R, kept, num_kept)
        if num_records == num_kept:
            return terms
        climb_R, bound = loss_R, ascent.bound
        if ascent.partners:
            away = [
                -distance(labels, num_kept + place, partner, 1.0)
                for place, partner in enumerate(ascent.partners)
            ]
            climb_R = torch.cat([loss_R[kept], torch.stack(away)])
        elif self.forget_bound in ("token", "quantiles") and bound is not None:
            capped = functional.bounded(-log_probs, bound)
            climb_R = functional.mean_per_record(capped, owner, num_records)
        elif self.forget_bound == "record":
            climb_R = functional.bounded(loss_R, bound)
        climbed = mean(climb_R, slice(num_kept, None), self.batch_size)
        terms["forget"] = -self.forget_weight * climbed
        return terms

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> PreTrainedModel:
        given = self._begin(model, data, trainer)
        model, partners = given.model, given.partners
        rules = Rules(**self.model_dump(include={field.name for field in fields_of(Rules)}))
        quick, two_sided = self.refine_by == "level", partners is not None
        refinement, best = Refinement(rules, data, quick=quick, two_sided=two_sided), None
        first = state = refinement.evaluate_round(trainer, model)
        trainer.log_round(state.line({}) | {"steps": 0})
        pace = (Fading if partners else Pace)(self.steps_per_round, data.level.ma)
        epochs, epoch = 0, []  # what is left of the running one
        while not self._done(state, given):
            active = () if self.recover and self._is_down(state, given) else state.active
            epoch = _still_active(epoch, active)
            if not epoch:
                if epochs == self.max_epochs:
                    break
                least = SHORTEST_EPOCH if partners else 1
                epoch = self._batches(active, len(data.forget), trainer.generator, least)
                epochs += 1
            count = pace.steps(state, len(epoch), pushes=bool(active))
            trainer.scale_rate(pace.rate)
            if partners is not None:
                partners.refresh(model)
            losses = self._take(epoch[:count], given, pushes=bool(active))
            epoch, before = epoch[count:], state
            state = refinement.evaluate_round(trainer, model, first)
            if active:
                pace.learn(before, state, count)
            trainer.log_round(state.line(losses) | {"steps": trainer.steps})
            if self.keep == "last":
                continue
            if keeps_the_rest(state, data) and is_better(state, best):
                best = state
                trainer.keep(model)
        else:
            return model
        if best is not None and best.round != state.round:
            trainer.restore(model)
            trainer.details["restored_round"] = best.round
        return model

    def _begin(self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer) -> Given:
        """Ask the target what steps compare with, and start the training of its copy."""
        analogous, unseen = data.analogous, data.partners
        assert analogous is not None  # named in `needs`
        rate = resolve_learning_rate(self.learning_rate, model, RATE_TIMES_WIDTH)
        model = trainer.prepare(model)
        target = TargetDistribution.of(model, analogous.windows)
        held = partners = None
        if unseen is not None and self.unseen_per_step:
            held = Held.of(model, divide(unseen)[1].windows)
        model = trainer.start(model, rate, betas=(0.9, 0.98), path=self.path)
        if unseen is not None:
            partners = Partners(unseen, len(data.forget), trainer)
        return Given(model, data, analogous, target, trainer, partners, held)

    def _is_down(self, state: RoundState, given: Given) -> bool:
        """Whether nothing is to be pushed: set and records are within the verdict's limits.

        The set is at the level of unseen text, too, or with partners no further from it, on either
        side, than chance allows.
        """
        at_level = state.mark == 0 if given.partners else state.at_level
        return state.suppressed and at_level

    def _done(self, state: RoundState, given: Given) -> bool:
        """At the level of unseen text, for the paper on average, or else in every record too."""
        if self.recover:
            limit = min(self.recovered_at, given.data.utility_floor)
            kept = state.kept_ratio <= limit and state.unseen_ratio <= given.data.unseen_floor
            return self._is_down(state, given) and kept
        return state.at_level or not state.active

    def _take(
        self, batches: Sequence[Sequence[int]], given: Given, *, pushes: bool = True
    ) -> dict[str, float]:
        """A step for each batch of forget records; one without any learns alone.

        With fixed pairs it has none to learn on either, as long as any record is pushed.

        Returns each term's mean over the steps that logged it.
        """
        trainer, analogous = given.trainer, given.analogous
        logged: dict[str, list[float]] = defaultdict(list)
        for records in batches:
            if self.pairs == "fixed" and pushes:
                indices = analogous.partners_of(records)
            else:
                indices = analogous.draw(self.fresh_per_step, trainer.generator)
            if not indices:
                trainer.step(partial(_nothing, given.model), private=("nothing",))
                continue
            for name, value in self._take_one(records, indices, given).items():
                logged[name].append(value)
        return {name: fmean(values) for name, values in logged.items()}

    def _take_one(
        self, records: Sequence[int], indices: Sequence[int], given: Given
    ) -> dict[str, float]:
        """A step on some forget records and some of the analogous windows; returns its terms."""
        model, data, trainer = given.model, given.data, given.trainer
        kept = [given.analogous.windows[index] for index in indices]
        forget = data.forget.windows_of(records)
        order = dict.fromkeys(window.record for window in forget)
        bound = data.level.loss if self.forget_bound != "none" else None
        ascent = Ascent(bound, given.partners.of(order) if given.partners else ())
        logits = partial(_target_logits, given.target, indices)
        on_way_back, beside, held = None, forget, given.held
        if self.path and forget:
            pushed = partial(self._step, model, (), forget, logits, ascent)
            on_way_back = OnWayBack(pushed, self._share(given, trainer.generator))
            beside = []
        places = held.draw(self.unseen_per_step, trainer.generator) if held else []

        def terms() -> Terms:
            found = self._step(model, kept, beside, logits, ascent)
            if held:
                found["unseen"] = self.unseen_weight * held.divergence(model, places)
            return found

        unseen = [held.windows[place] for place in places] if held else []
        trainer.tokens += sum(map(len, [*kept, *forget, *unseen]))
        # A lone record's term would be its own loss, which no file of a run may hold.
        private = ("forget",) if len(records) == 1 else ()
        return trainer.step(terms, private, on_way_back)

    def _share(self, given: Given, generator: torch.Generator) -> float:
        """How far on the way back a step's forget term is taken."""
        share = draw_share(self.path, generator)
        here = bool(given.partners) and float(torch.rand((), generator=generator)) < NOT_ON_WAY_BACK
        return 0.0 if here else share

    def _batches(
        self,
        active: Sequence[int],
        num_records: int,
        generator: torch.Generator,
        least: int = 1,
    ) -> list[list[int]]:
        """One pass over the active records, or as many steps of learning alone.

        Args:
            least: Batches at least; there are as many passes as that takes.
        """
        if not active:  # nothing to forget: as many steps as an epoch of all records has
            return [[] for _ in range(max(least, math.ceil(num_records / self.batch_size)))]
        found: list[list[int]] = []
        while len(found) < least:
            found += self._one_pass(active, num_records, generator)
        return found

    def _one_pass(
        self, active: Sequence[int], num_records: int, generator: torch.Generator
    ) -> list[list[int]]:
        records = active if self.batches == "regrouped" else range(num_records)
        order = torch.randperm(len(records), generator=generator).tolist()
        shuffled = [records[place] for place in order]
        left = set(active)
        return [
            [record for record in shuffled[start : start + self.batch_size] if record in left]
            for start in range(0, len(shuffled), self.batch_size)
        ]


def _still_active(batches: Sequence[Sequence[int]], active: Sequence[int]) -> list[list[int]]:
    """The rest of an epoch without records that are forgotten by now.

    Steps of learning alone go on as long as no record is remembered.
    """
    if not active:
        return [list(batch) for batch in batches if not batch]
    kept = [[record for record in batch if record in active] for batch in batches]
    return [batch for batch in kept if batch]


def _target_logits(
    target: TargetDistribution, indices: Sequence[int], mine: Sequence[int], batch: Tensors
) -> TargetLogits:
    """The target's logits of this process's share of the drawn windows."""
    return target.logits([indices[place] for place in mine], batch)


def _nothing(model: PreTrainedModel) -> Terms:
    """A loss of 0 with a gradient of 0: the optimiser then steps by its momentum alone."""
    nothing = unlabelled(sharding.device_of(model))
    return {"nothing": likelihoods(model, nothing).log_probs.sum()}
