"""The straight line for classifiers: sets, model, level, method, answers, verdict, report."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.data.labelled import LabelledSet
from unlearner.errors import UserError
from unlearner.evaluation.classifier_measure import (
    Answers,
    Scores,
    ask_sets,
    beside_retrained,
    score_sets,
)
from unlearner.evaluation.verdict import Criterion, Verdict
from unlearner.families.classifier import (
    CheckResult,
    Prepared,
    check_sets,
    distances,
    latent_space,
    measured,
    measured_sets,
    per_record,
    prepare,
)
from unlearner.families.classifier_criteria import (
    FORGET_SCORE,
    Yardstick,
    fix_criteria,
    judge,
    record_statuses,
)
from unlearner.models.loading import Loaded, check_head, load_classifier, pad, save
from unlearner.pipeline.findings import Findings, build_report
from unlearner.pipeline.outcome import NothingToUnlearn, Outcome
from unlearner.pipeline.pipeline import run_identity
from unlearner.training.classifier_finetune import RECIPE_FILE, read_recipe
from unlearner.training.data import ClassifierData
from unlearner.training.log import Log
from unlearner.training.memory import Plan, announce
from unlearner.training.resume import Resumable, resuming
from unlearner.training.trainer import Trainer

logger = logging.getLogger(__name__)

# Holdout records that are asked about between steps; the report measures all of them.
WATCHED_RECORDS = 128

Say = Callable[[str], None]

FORGET_NEEDS = ("forget", "retain", "holdout")


def start(
    config: RunConfig,
    given: Mapping[str, Any] | None = None,
    loaded: Loaded | None = None,
    *,
    needs: Collection[str] = ("forget",),
) -> Prepared:
    """Load the model, read the sets and tokenize; what is wrong is refused here.

    Args:
        given: Labelled sets from Python by role, before the paths of the configuration.
        loaded: The model, where it is not to be loaded by name.
        needs: The sets that there must be.

    Raises:
        UserError: A set is missing, or a set or the model cannot be used.
    """
    provenance.set_seeds(config.training.seed)
    if loaded is None:
        loaded = load(config)
    else:
        check_head(loaded.name, loaded.model.config)
        pad(loaded.model, loaded.tokenizer)
    if loaded.family not in config.method.families:
        raise UserError(
            f"method.name: {config.method.name} is for {' and '.join(config.method.families)}, "
            f"MODEL is {loaded.family}; see `unlearner list methods`"
        )
    return prepare(loaded, config.data, given or {}, needs)


def load(config: RunConfig) -> Loaded:
    """The classifier that the configuration names."""
    model = config.model
    if not model.name:
        raise UserError("MODEL: none given; name a local folder or a hub id")
    return load_classifier(
        model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def load_other(name: str, role: str, loaded: Loaded) -> Loaded:
    """A model to compare with.

    Raises:
        UserError: It cannot be loaded, or is another kind of model than the one to compare.
    """
    other = load_classifier(name)
    if other.labels != loaded.labels or other.family != loaded.family:
        raise UserError(
            f"--{role} {name}: its labels differ from those of {loaded.name}, in names or order; "
            "train it with the same ones"
        )
    if other.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise UserError(
            f"--{role} {name}: its tokenizer differs from that of {loaded.name}; figures of models "
            "that read other tokens cannot be compared"
        )
    return other


def check(config: RunConfig, prepared: Prepared) -> CheckResult:
    """Whether the records are told from unseen ones, where copies are, what a run would take."""
    return check_sets(prepared, measured_sets(prepared, config), config)


def forget(  # noqa: PLR0913 - a run and what surrounds it
    config: RunConfig,
    prepared: Prepared,
    work: Path,
    *,
    force: bool = False,
    log: Log | None = None,
    say: Say = logger.info,
    resumable: Resumable | None = None,
) -> Outcome:
    """Unlearn the forget set, save the model in `work` and measure the saved files.

    Args:
        force: Run although the records cannot be told from unseen ones.
        resumable: Where checkpoints go, and whether to go on from one; None for a run without any.
        say: Called with a line of text at each stage.

    Raises:
        UserError: The retrained model cannot be used, or the method lacks something.
        NothingToUnlearn: There is nothing to unlearn, and `force` is not set.
    """
    started = time.perf_counter()
    key = provenance.read_key()
    trainer = Trainer(config.training, log or Log(work / "log.jsonl"))
    device = trainer.device
    prepared.loaded.model.to(device)
    retrained = None
    if config.model.retrained:
        retrained = load_other(config.model.retrained, "retrained", prepared.loaded)
        retrained.model.to(device)
    say("measuring the target model")
    tell = partial(announce, config=config, say=say, checkpoints=resumable is not None)
    target = _study_target(config, prepared, retrained, tell, force=force)

    say(f"unlearning {len(prepared['forget'])} records with {type(config.method).__name__}")
    unlearning = time.perf_counter()
    with resuming(trainer, resumable, run_identity(config, prepared, target.digest, key), say):
        model = config.method.unlearn(prepared.loaded.model, target.data, trainer)
    model = trainer.finish(model, prepared.loaded.name)
    seconds_unlearning = time.perf_counter() - unlearning + trainer.seconds_before
    # SISA's shards exist before a request comes; making them is no part of the answer to it.
    seconds_unlearning -= trainer.details.get("seconds_preparation", 0.0)
    save(model, prepared.loaded.tokenizer, work / "model")

    say("measuring the saved model")
    unlearned = load_classifier(str(work / "model"))
    unlearned.model.to(device)
    outcome = _conclude(config, prepared, target, unlearned, key)
    outcome.report["rounds"] = trainer.rounds
    seconds = time.perf_counter() - started
    outcome.report["cost"] = {
        "seconds": seconds,
        "seconds_unlearning": seconds_unlearning,
        "seconds_evaluation": seconds - seconds_unlearning,
        "seconds_retraining": _seconds_of(config.model.retrained),
        "peak_memory_bytes": provenance.peak_memory_bytes(device),
        "steps": trainer.steps - trainer.details.get("steps_preparation", 0),
        "tokens": trainer.tokens - trainer.details.get("tokens_preparation", 0),
    }
    trainer.log.close()
    return outcome


@dataclass(frozen=True)
class _Target:
    """What is known of the models before one is changed, and the criteria that follow."""

    data: ClassifierData
    sets: dict[str, LabelledSet]
    answers: dict[str, Answers]
    scores: dict[str, Scores]
    criteria: tuple[Criterion, ...]
    digest: str


def _study_target(
    config: RunConfig,
    prepared: Prepared,
    retrained: Loaded | None,
    tell: Callable[[Plan], None],
    *,
    force: bool,
) -> _Target:
    """Ask the target and the retrained model, and fix the criteria."""
    loaded, sets = prepared.loaded, measured_sets(prepared, config)
    checked = check_sets(prepared, sets, config)
    if checked.memorised is False and not force:
        raise NothingToUnlearn(checked)
    tell(checked.plan)
    answers = {"target": checked.answers}
    if retrained is not None:
        answers["retrained"] = ask_sets(
            retrained.model, sets, loaded.labels, config.evaluation.batch_tokens
        )
    scores = score_models(answers, sets, config)
    removes_class = prepared.forget_class is not None
    yardstick = Yardstick(
        loaded.family,
        len(loaded.labels),
        removes_class,
        scores["target"],
        scores.get("retrained", {}),
    )
    data = ClassifierData(
        tokenizer=loaded.tokenizer,
        family=loaded.family,
        labels=loaded.labels,
        forget=prepared["forget"],
        retain=prepared["retain"],
        holdout=measured(sets["holdout"], WATCHED_RECORDS, config.training.seed),
        forget_class=prepared.forget_class,
        recipe=read_recipe(loaded.name),
    )
    criteria = fix_criteria(yardstick, config.criteria)
    digest = provenance.digest_model(loaded.model)
    return _Target(data, sets, answers, scores, criteria, digest)


def score_models(
    answers: dict[str, Answers], sets: dict[str, LabelledSet], config: RunConfig
) -> dict[str, Scores]:
    """The figures of every model, its distance from the retrained one among them."""
    found = {}
    for model, some in answers.items():
        beside = model != "retrained" and "retrained" in answers
        shown = beside_retrained(some, answers["retrained"]) if beside else some
        found[model] = score_sets(shown, sets, config.evaluation, seed=config.training.seed)
    return found


def _conclude(
    config: RunConfig, prepared: Prepared, target: _Target, unlearned: Loaded, key: bytes
) -> Outcome:
    """Ask the saved model the same, judge it by the criteria, and report."""
    labels, answers = prepared.loaded.labels, dict(target.answers)
    answers["unlearned"] = ask_sets(
        unlearned.model, target.sets, labels, config.evaluation.batch_tokens
    )
    scores = score_models(answers, target.sets, config)
    digests = {"target": target.digest, "unlearned": provenance.digest_model(unlearned.model)}
    verdict, report = conclude(
        "forget",
        config,
        prepared,
        answers,
        scores,
        target.criteria,
        digests,
        key,
        unlearned.model.device,
    )
    return Outcome(verdict, report, unlearned, answers["target"], answers["unlearned"])


def conclude(  # noqa: PLR0913 - what a report is made of
    command: str,
    config: RunConfig,
    prepared: Prepared,
    answers: dict[str, Answers],
    scores: dict[str, Scores],
    criteria: tuple[Criterion, ...],
    digests: Mapping[str, str],
    key: bytes,
    device: Any,
) -> tuple[Verdict, dict[str, Any]]:
    """The verdict on the unlearned model's answers, and the report."""
    records, removes_class = prepared["forget"].records, prepared.forget_class is not None
    statuses = record_statuses(
        [record.id for record in records],
        answers["unlearned"],
        answers.get("retrained"),
        removes_class=removes_class,
    )
    verdict = judge(criteria, scores, statuses, removes_class=removes_class)
    found = Findings(
        command, config, prepared, scores, criteria, verdict, prepared.duplicates, digests, key
    )
    report = build_report(found, device)
    report["evaluation"] = {"score": FORGET_SCORE[prepared.loaded.family]}
    if prepared.forget_class is not None:
        report["request"]["forget_class"] = prepared.loaded.labels[prepared.forget_class]
    order = [model for model in ("target", "unlearned", "retrained") if model in answers]
    outside = ClassifierData.outside_of(prepared.loaded.family, prepared.loaded.labels)
    seed = config.training.seed
    shown = {model: answers[model] for model in order}
    report |= latent_space(shown, prepared.loaded.labels, outside, seed)
    distance = distances(scores, prepared.loaded.family)
    if distance:
        report["distance_to_retrained"] = distance
    report["per_record"] = per_record(records, answers)
    return verdict, report


def _seconds_of(retrained: str) -> float | None:
    """How long the retrained model's training took, as `finetune` has written it down."""
    try:
        recipe = json.loads((Path(retrained) / RECIPE_FILE).read_text(encoding="utf-8"))
        return float(recipe["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
