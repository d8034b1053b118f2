"""What is known of the target model before anything is changed: answers, figures, criteria."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import cast

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.data.windows import TokenizedSet
from unlearner.errors import UserError
from unlearner.evaluation.intervals import Value
from unlearner.evaluation.measure import ask_sets, questions, score_sets, target_distributions
from unlearner.evaluation.verdict import Criterion
from unlearner.families.causal_lm import Prepared, check_sets, measured_sets, sample
from unlearner.families.causal_lm_criteria import fix_criteria, level_of
from unlearner.inference.answers import Answer
from unlearner.inference.reference import TargetDistribution
from unlearner.models.loading import Loaded
from unlearner.pipeline.outcome import NothingToUnlearn
from unlearner.retrieval.analogous import Wanted, find_analogous
from unlearner.training.data import UnlearningData
from unlearner.training.memory import Plan

# Of a run that unlearns, beside the forget set.
NEEDS = ("pool", "level")


@dataclass(frozen=True)
class Study:
    """What is known of the target model before it is changed, and the criteria that follow."""

    data: UnlearningData
    sets: dict[str, TokenizedSet]
    answers: dict[str, list[Answer]]
    scores: dict[str, dict[str, Value]]
    criteria: tuple[Criterion, ...]
    distributions: dict[str, TargetDistribution]
    digest: str


def study(
    config: RunConfig, prepared: Prepared, tell: Callable[[Plan], None], *, force: bool
) -> Study:
    """Ask the target everything that will be asked again, and fix the criteria.

    Raises:
        UserError: A set that the method needs is missing.
        NothingToUnlearn: The records are not memorised, and `force` is not set.
    """
    loaded, seed, pool = prepared.loaded, config.training.seed, pool_of(config, prepared)
    sets = measured_sets(prepared, config)
    checked = check_sets(prepared, sets, config)
    if not checked.memorised and not force:
        raise NothingToUnlearn(checked)
    tell(checked.plan)
    level = checked.level or level_of(None, config.criteria)
    answers = dict(checked.answers)
    scores = score_sets(answers, sets, config.evaluation, seed=seed)
    data = UnlearningData(
        tokenizer=loaded.tokenizer,
        forget=prepared["forget"],
        pool=_without_copies(prepared, pool),
        retain=prepared.get("retain"),
        analogous=None,
        level=level,
        questions=questions(config.evaluation),
        utility_floor=config.criteria.perplexity_ratio,
        layout=prepared.layout,
    )
    return Study(
        data=data,
        sets=sets,
        answers=answers,
        scores=scores,
        criteria=fix_criteria(level, scores, config.criteria),
        distributions=target_distributions(loaded.model, sets),
        digest=provenance.digest_model(loaded.model),
    )


def with_analogous(config: RunConfig, prepared: Prepared, target: Study) -> Study:
    """The study with the analogous set, where the method needs one; the criteria stay."""
    if "analogous" not in config.method.needs:
        return target
    loaded, seed, wanted = prepared.loaded, config.training.seed, cast("Wanted", config.method)
    pool = pool_of(config, prepared)
    analogous = find_analogous(prepared["forget"], pool, loaded.tokenizer, wanted)
    sets = target.sets | {"analogous": sample(analogous.chosen, config.evaluation, seed)}
    answers = target.answers | {"analogous": _ask_or_reuse(config, loaded, sets, target.answers)}
    scores = score_sets(answers, sets, config.evaluation, seed=seed)
    return replace(
        target,
        data=replace(target.data, analogous=analogous),
        sets=sets,
        answers=answers,
        scores=scores,
        criteria=fix_criteria(target.data.level, scores, config.criteria),
        distributions=target_distributions(loaded.model, sets),
    )


def pool_of(config: RunConfig, prepared: Prepared) -> TokenizedSet:
    """The text that the method may learn on.

    Raises:
        UserError: There is none, or it holds nothing but copies of what is to be forgotten, or no
            level of unseen text can be known.
    """
    check_needs(config, prepared.sets, NEEDS)
    role = "pool" if prepared.get("pool") else "retain"
    pool, copies = prepared[role], {copy.other for copy in prepared.duplicates[role]}
    if len(copies) == len(pool):
        raise UserError(
            f"--{role}: all of its {len(pool)} records are duplicates of records to forget, so "
            "there is nothing to learn meanwhile; give other texts as --pool"
        )
    return pool


def _without_copies(prepared: Prepared, pool: TokenizedSet) -> TokenizedSet:
    """The pool without exact and near duplicates of what is to be forgotten."""
    copies = {copy.other for copy in prepared.duplicates[pool.name]}
    if not copies:
        return pool
    return pool.subset([record for record in range(len(pool)) if record not in copies])


def _ask_or_reuse(
    config: RunConfig,
    loaded: Loaded,
    sets: Mapping[str, TokenizedSet],
    answers: Mapping[str, list[Answer]],
) -> list[Answer]:
    """The target's answers on the analogous set, which may be the retain set itself."""
    analogous, retain = sets["analogous"], sets.get("retain")
    if retain is not None and retain.records == analogous.records:
        return answers["retain"]
    one = {"analogous": analogous}
    return ask_sets(loaded.model, loaded.tokenizer, one, config.evaluation)["analogous"]


def check_needs(config: RunConfig, roles: Collection[str], needs: Collection[str]) -> None:
    """Refuse a run that lacks a set before anything slow is done.

    Raises:
        UserError: There is no text to learn, or no level of unseen text can be known.
    """
    if "pool" in needs and not {"pool", "retain"} & set(roles):
        raise UserError(
            f"--retain or --pool: method {config.method.name} needs text that may be kept, to "
            "learn on or to watch; give the records to keep, or any public text as --pool"
        )
    if "level" in needs and "holdout" not in roles:
        level_of(None, config.criteria)
