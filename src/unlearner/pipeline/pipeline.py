"""The straight line: sets, model, level, method, answers, verdict, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from unlearner import processes, provenance
from unlearner.config import RunConfig
from unlearner.data.record import digest_records
from unlearner.errors import Interrupted, UserError
from unlearner.evaluation.measure import ask_sets, score_sets, scorer_of
from unlearner.families.causal_lm import (
    CheckResult,
    Prepared,
    check_sets,
    measured_sets,
    prepare,
    read_sets,
)
from unlearner.families.causal_lm_criteria import Recall, judge, record_statuses
from unlearner.models.loading import Loaded, family_named, load_causal_lm, save
from unlearner.pipeline.baseline import NEEDS, Study, check_needs, pool_of, study, with_analogous
from unlearner.pipeline.findings import Findings, build_report, per_record
from unlearner.pipeline.hub import file_digests
from unlearner.pipeline.outcome import Outcome
from unlearner.pipeline.search import Searched, check_search, search
from unlearner.report import write_report
from unlearner.report.card import model_card
from unlearner.training.log import Log
from unlearner.training.memory import announce
from unlearner.training.resume import Resumable, resuming
from unlearner.training.trainer import Trainer

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

FORGET_NEEDS = NEEDS


def start(
    config: RunConfig,
    given: Mapping[str, Any] | None = None,
    loaded: Loaded | None = None,
    *,
    needs: Collection[str] = (),
) -> Prepared:
    """Read the sets, load the model and tokenize; what is wrong is refused here.

    Args:
        given: Record sets from Python by role, before the paths of the configuration.
        loaded: The model, where it is not to be loaded by name.
        needs: What there must be beside the forget set: "pool", text that may be learned, and
            "level", unseen text to compare with.

    Raises:
        UserError: A set is missing, or a set or the model cannot be used.
    """
    _check_family(config, given or {})
    check_search(config)
    records = read_sets(config.data, given or {})
    if "forget" not in records:
        raise UserError("--forget: none given; name the file of records to be forgotten")
    check_needs(config, records, needs)
    scorer_of(config.evaluation)  # refused here, not after the target model has been measured
    provenance.set_seeds(config.training.seed)
    prepared = prepare(loaded or load(config), records, config.data)
    _check_unseen(prepared)
    config.method.check_sets(prepared.sets)
    if "pool" in needs:
        pool_of(config, prepared)  # refused here too
    return prepared


def _check_family(config: RunConfig, given: Mapping[str, Any]) -> None:
    """Refuse what is for classifiers only.

    Raises:
        UserError: The method, or a setting of the data or the model, is for classifiers.
    """
    if "causal-lm" not in config.method.families:
        raise UserError(
            f"method.name: {config.method.name} is for {' and '.join(config.method.families)}, "
            "MODEL is a causal language model; see `unlearner list methods`"
        )
    data = config.data
    settings = {
        "--test": data.test or given.get("test") is not None,
        "--forget-class": data.forget_class,
        "--drop-duplicates": data.drop_duplicates,
        "--retrained": config.model.retrained,
    }
    for option, value in settings.items():
        if value:
            raise UserError(f"{option}: for classifiers; MODEL is a causal language model")


def _check_unseen(prepared: Prepared) -> None:
    """Refuse holdout text that is to be forgotten: the level would be that of the records.

    Raises:
        UserError: A holdout record is the same as a forget record.
    """
    copies = [copy for copy in prepared.duplicates.get("holdout", []) if copy.exact]
    if copies:
        forget, holdout = prepared["forget"].records, prepared["holdout"].records
        raise UserError(
            f"--holdout: {len(copies)} of its records are records to forget, first "
            f"{holdout[copies[0].other].id!r} as {forget[copies[0].forget].id!r}; unseen text is "
            "needed, leave them out"
        )


def load(config: RunConfig) -> Loaded:
    """The model that the configuration names."""
    model = config.model
    if not model.name:
        raise UserError("MODEL: none given; name a local folder or a hub id")
    return load_causal_lm(
        model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def check(config: RunConfig, prepared: Prepared) -> CheckResult:
    """How strongly the records are memorised, where copies are, what a run would take."""
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
        force: Run although the records are not memorised.
        resumable: Where checkpoints go, and whether to go on from one; None for a run without any.
        say: Called with a line of text at each stage.

    Raises:
        UserError: A set that the method needs is missing.
        NothingToUnlearn: The records are not memorised, and `force` is not set.
    """
    started = time.perf_counter()
    key = provenance.read_key()
    trainer = Trainer(config.training, log or Log(work / "log.jsonl"))
    prepared.loaded.model.to(trainer.device)
    say("measuring the target model")
    tell = partial(announce, config=config, say=say, checkpoints=resumable is not None)
    target = with_analogous(config, prepared, study(config, prepared, tell, force=force))
    identity = run_identity(config, prepared, target.digest, key)
    began = time.perf_counter()
    config, searched = _searched(config, prepared, target, resumable, identity, say)
    seconds_searching = time.perf_counter() - began

    def unlearn() -> Any:
        with resuming(trainer, resumable, identity, say):
            return config.method.unlearn(prepared.loaded.model, target.data, trainer)

    outcome = carry_out(
        config,
        prepared,
        target,
        trainer,
        work,
        unlearn=unlearn,
        say=say,
        notes=searched.notes() if searched else (),
    )
    outcome.report |= {"search": searched.to_json()} if searched else {}
    cost = outcome.report["cost"]
    # What was done before the run was cut off is counted as unlearning, and is not in this clock.
    here = time.perf_counter() - started - seconds_searching + trainer.seconds_before
    cost["seconds_evaluation"] = here - cost["seconds_unlearning"]
    cost["seconds_unlearning"] += searched.seconds if searched else 0.0
    cost["seconds"] = cost["seconds_unlearning"] + cost["seconds_evaluation"]
    return outcome


def carry_out(  # noqa: PLR0913 - what was studied, what is to be done, and where
    config: RunConfig,
    prepared: Prepared,
    target: Study,
    trainer: Trainer,
    work: Path,
    *,
    unlearn: Callable[[], Any],
    say: Say,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """Unlearn, save the model in `work`, and measure the saved files.

    Args:
        unlearn: Trains the target model, and returns the unlearned one.
        notes: What else the verdict has to say.
    """
    say(f"unlearning {len(prepared['forget'])} records with {type(config.method).__name__}")
    started = time.perf_counter()
    model = trainer.finish(unlearn(), prepared.loaded.name)
    save(model, prepared.loaded.tokenizer, work / "model")
    seconds_unlearning = time.perf_counter() - started + trainer.seconds_before

    say("measuring the saved model")
    unlearned = load_causal_lm(str(work / "model"))
    unlearned.model.to(trainer.device)
    outcome = conclude(config, prepared, target, unlearned, restored(trainer) + notes)
    seconds = time.perf_counter() - started + trainer.seconds_before
    outcome.report["rounds"] = trainer.rounds
    outcome.report["cost"] = {
        "seconds": seconds,
        "seconds_unlearning": seconds_unlearning,
        "seconds_evaluation": seconds - seconds_unlearning,
        "peak_memory_bytes": provenance.peak_memory_bytes(trainer.device),
        "steps": trainer.steps,
        "tokens": trainer.tokens,
    }
    trainer.log.close()
    return outcome


def _searched(
    config: RunConfig,
    prepared: Prepared,
    target: Study,
    resumable: Resumable | None,
    identity: Mapping[str, Any],
    say: Say,
) -> tuple[RunConfig, Searched | None]:
    """The configuration with the settings that a search has found, where one is asked for.

    Raises:
        Interrupted: The user wants to stop; the finished trials are kept.
    """
    if not config.search.trials:
        return config, None
    trials = None if resumable is None else resumable.trials(identity)
    say(f"searching settings of {config.method.name} in up to {config.search.trials} trials")
    try:
        found = search(config, prepared.loaded, target.data, trials, say)
    except KeyboardInterrupt:
        if resumable is None:
            raise
        raise Interrupted(
            f"interrupted; the trials are kept: go on with --output {resumable.output} --resume"
        ) from None
    provenance.set_seeds(config.training.seed)  # as if nothing had been tried
    return replace(config, method=found.method), found


def conclude(
    config: RunConfig,
    prepared: Prepared,
    target: Study,
    unlearned: Loaded,
    notes: tuple[str, ...],
) -> Outcome:
    """Ask the saved model the same, judge it by the criteria, and report."""
    evaluation, forget = config.evaluation, prepared["forget"]
    after = ask_sets(
        unlearned.model, unlearned.tokenizer, target.sets, evaluation, target.distributions
    )
    scores = {
        "target": target.scores,
        "unlearned": score_sets(after, target.sets, evaluation, seed=config.training.seed),
    }
    before, recall = Recall.of(target.answers["forget"]), Recall.of(after["forget"])
    ids = [record.id for record in forget.records]
    statuses = record_statuses(ids, recall.ma, recall.el_10, target.data.level)
    verdict = judge(target.criteria, scores, statuses)
    verdict = replace(verdict, notes=verdict.notes + notes)
    digests = {
        "target": target.digest,
        "unlearned": provenance.digest_model(unlearned.model),
    }
    found = Findings(
        "forget",
        config,
        prepared,
        scores,
        target.criteria,
        verdict,
        prepared.duplicates,
        digests,
        provenance.read_key(),
        target.data.analogous,
    )
    report = build_report(found, unlearned.model.device)
    report["per_record"] = per_record(forget, before, recall)
    return Outcome(verdict, report, unlearned, target.answers, after)


def restored(trainer: Trainer) -> tuple[str, ...]:
    """A note where the result is an earlier checkpoint than the last round shown."""
    number = trainer.details.get("restored_round")
    if number is None:
        return ()
    return (
        f"The saved model is that of round {number}: of the rounds that kept the quality of the "
        "other text it had forgotten most; the last round was not better.",
    )


def read_config(sections: Mapping[str, Any], loaded: Loaded | None = None) -> tuple[RunConfig, str]:
    """The configuration and the model's family, whose method it has where none is named."""
    model = sections.get("model", {})
    name, revision = str(model.get("name", "")), str(model.get("revision", "main"))
    family = loaded.family if loaded else family_named(name, revision)
    config = RunConfig.from_sections(sections, family=family)
    return replace(config, method=config.method.for_family(family)), family


def tracked_sections(config: RunConfig) -> dict[str, Any]:
    """The sections that trackers get: nothing of the records."""
    return {
        name: values for name, values in config.sections().items() if name in ("method", "training")
    }


def write_outcome(outcome: Outcome, config: RunConfig, work: Path) -> None:
    """The report, the model card and the resolved configuration beside the saved model."""
    outcome.report["model"]["files"] = file_digests(work / "model")
    write_report(outcome.report, work)
    (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (work / "model" / "README.md").write_text(model_card(outcome.report), encoding="utf-8")


def run_identity(config: RunConfig, prepared: Any, model_digest: str, key: bytes) -> dict[str, Any]:
    """A run's settings and the digests of everything that it was given."""
    digests = {role: digest_records(some.records, key) for role, some in prepared.sets.items()}
    return {
        "command": "forget",
        "settings": config.sections(),
        "model": model_digest,
        "records": digests,
        "processes": processes.count(),
    }


def settings_of(resumable: Resumable, sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a run that goes on, with those given now laid over them."""
    before = resumable.begun("forget").get("settings", {})
    merged = {name: dict(section) for name, section in before.items()}
    for name, section in sections.items():
        merged.setdefault(name, {}).update(section)
    return merged
