"""The one way of a run, for every family of models: read, measure, unlearn, measure, judge, report.

What differs between families is said by `families.base.Family`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from unlearner import processes, provenance
from unlearner.config import RunConfig
from unlearner.errors import Interrupted, UserError
from unlearner.evaluation.harness import TaskFigures
from unlearner.evaluation.verdict import Verdict
from unlearner.families import FAMILIES
from unlearner.families.base import (
    AnyAnswers,
    AnyBaseline,
    AnyFamily,
    AnyMeasured,
    AnyPrepared,
    Baseline,
    CheckResult,
    Measured,
)
from unlearner.models.folders import family_named, read_family
from unlearner.models.layerwise_casting import has_cast_layers
from unlearner.models.lineage import (
    Provenance,
    write_provenance,
)
from unlearner.models.loading import Loaded
from unlearner.output import Json
from unlearner.pipeline.advice import advice_on
from unlearner.pipeline.findings import Findings, build_report, seconds_of_training, training_notes
from unlearner.pipeline.hub import file_digests
from unlearner.pipeline.identity import lineage_of, run_identity
from unlearner.pipeline.original import already_lost, measure_original, notice, utility_notes
from unlearner.pipeline.relearning import measure_relearning, seconds_for
from unlearner.pipeline.search import Searched, check_search, search
from unlearner.report.files import write_report
from unlearner.report.page import model_card
from unlearner.settings import further_kind, option_of
from unlearner.training.log import Log
from unlearner.training.memory import Cost, ResourcePlan, announce, check_disk, measuring, plan_run
from unlearner.training.resume import Resumable, resuming
from unlearner.training.trainer import Trainer, give_memory_back

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


class NothingToUnlearn(Exception):  # noqa: N818 - an answer, not an error
    """The model does not know the records by these measures, or they are too few to tell.

    Attributes:
        result: What was measured; its `memorised` is None where there are too few.
    """

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.sentence)
        self.result = result


@dataclass
class Outcome:
    """What a run leaves: verdict, report, the model measured, and its answers before and after.

    Attributes:
        lineage: What the model was made of, for the file beside it.
    """

    verdict: Verdict
    report: Json
    unlearned: Loaded
    before: AnyAnswers
    after: AnyAnswers
    lineage: Provenance


def read_config(sections: Json, loaded: Loaded | None = None) -> tuple[RunConfig, AnyFamily]:
    """The configuration, with the family's own method where none is named, and the family."""
    model = sections.get("model", {})
    name, revision = str(model.get("name", "")), str(model.get("revision", "main"))
    base = str(model.get("base", ""))
    family = FAMILIES[loaded.family if loaded else family_named(name, revision, base)]
    config = RunConfig.from_sections(sections, family=family.name)
    return replace(config, method=config.method.for_family(family.name)), family


def start(
    config: RunConfig,
    family: AnyFamily,
    given: Mapping[str, Any] | None = None,
    loaded: Loaded | None = None,
    *,
    command: str = "forget",
) -> AnyPrepared:
    """Read the sets, load the model and tokenize; what is wrong is refused here.

    Args:
        given: Record sets from Python by role, before the paths of the configuration.
        loaded: The model, where it is not to be loaded by name.
        command: "check", "evaluate" or "forget", which need different sets.

    Raises:
        UserError: A set is missing, or a set, the method or the model cannot be used.
    """
    if family.name not in config.method.families:
        if loaded is None and Path(config.model.name).exists():  # what is no model has no family
            read_family(config.model.name, base=config.model.base)
        raise UserError(
            f"method.name: {config.method.name} is for {' and '.join(config.method.families)}, "
            f"MODEL is {family.described or family.name}; see `unlearner list methods`"
        )
    check_search(config)
    if config.training.micro_batch != "auto" and not family.writes_text:
        raise UserError(
            "training.micro_batch: is for language models; leave it out for a classifier"
        )
    _check_further(config, family, given or {})
    if config.model.bits and not family.writes_text:
        raise UserError(
            f"model.load_in_{config.model.bits}bit: is for language models; leave it out for a "
            "classifier"
        )
    for name in ("layerwise_casting", "offload"):
        if getattr(config.model, name) is True and not family.writes_text:
            raise UserError(f"model.{name}: is for language models; leave it out for a classifier")
    return family.prepare(config, given or {}, loaded, family.needs[command])


def _check_further(config: RunConfig, family: AnyFamily, given: Mapping[str, Any]) -> None:
    """Refuse what is measured beside the sets of a request where it cannot be.

    Raises:
        UserError: The model writes no text, or a criterion has nothing that it is about.
    """
    roles = [*config.data.further, *filter(further_kind, given)]
    asked = {
        "evaluation.harness": bool(config.evaluation.harness),
        "evaluation.judge.url": bool(config.evaluation.judge.url),
    }
    named = [*map(option_of, roles), *(name for name, wanted in asked.items() if wanted)]
    if named and not family.writes_text:
        raise UserError(f"{named[0]}: is for language models; leave it out for a classifier")
    kinds = {further_kind(role) for role in roles}
    if "dialogue" in kinds and processes.count() > 1:
        raise UserError("--dialogue: is for one process; start it without accelerate")
    if config.criteria.neutral_ratio is not None and "neutral" not in kinds:
        raise UserError(
            "criteria.neutral_ratio: there is no neutral text; give one with --neutral NAME=FILE, "
            "or leave it out"
        )


def dated(config: RunConfig, prepared: AnyPrepared) -> RunConfig:
    """The configuration with the day that the chat template took for today, where it asks for it.

    A run that is repeated or goes on later then has the same tokens.
    """
    if not prepared.layout.date:
        return config
    return replace(config, data=config.data.model_copy(update={"date": prepared.layout.date}))


def check(config: RunConfig, prepared: AnyPrepared, *, say: Say = logger.info) -> CheckResult:
    """How well the model knows the records, where copies are, what a run would take."""
    _tell_notes(prepared)
    config = config.of_sets_alone()
    family, sets = prepared.family, prepared.family.measured_sets(prepared, config)
    notice(config.model.name, config.model.original, say)
    original = measure_original(config, prepared, sets, say)
    with measuring(prepared.loaded.model.device) as cost:
        answers = family.infer(prepared.loaded, sets, config.evaluation)
    scores = {"target": family.score("target", {"target": answers}, sets, config)}
    level = family.level(answers, config, under="the target model")
    measured = Measured(sets, {"target": answers}, scores, level, ())
    checked = _check_result(config, prepared, measured, cost)
    notes = (*checked.notes, *advice_on(config, prepared, checked.plan, scores["target"]))
    checked = replace(checked, notes=notes)
    metric = family.quality_metric(prepared.loaded)
    beside = already_lost(scores | original, metric)
    return replace(checked, sentence=f"{checked.sentence}; {beside}") if beside else checked


def _tell_notes(prepared: AnyPrepared) -> None:
    """Say what was done to the model, whether or not the progress is shown."""
    if processes.is_main():
        for note in prepared.family.notes(prepared.loaded):
            logger.warning("%s: %s", prepared.loaded.name, note)


def _load_like(config: RunConfig, prepared: AnyPrepared, role: str, name: str) -> Loaded:
    """Another model of a run; an adapter of the same base as MODEL is looked for at the same."""
    return prepared.family.load_like(name, role, prepared, config.model.base)


def _check_result(
    config: RunConfig, prepared: AnyPrepared, measured: AnyMeasured, cost: Cost
) -> CheckResult:
    family = prepared.family
    answers, scores = measured.answers["target"], measured.scores["target"]
    memorised, sentence = family.known(prepared, answers, scores, measured.level, config)
    return CheckResult(
        family=family.name,
        values=scores,
        level=measured.level,
        memorised=memorised,
        sentence=sentence,
        duplicates=prepared.duplicates,
        record_ids={role: [r.id for r in some.records] for role, some in prepared.sets.items()},
        plan=plan_run(
            prepared.loaded, prepared.sets, measured.sets, config.method, config.training, cost
        ),
        notes=(*prepared.notes, *config.method.remarks(prepared.loaded.model)),
    )


def measure_baseline(
    config: RunConfig,
    prepared: AnyPrepared,
    tell: Callable[[ResourcePlan], None],
    *,
    force: bool,
    say: Say = logger.info,
) -> AnyBaseline:
    """Run and score the target, and the retrained model, once, and fix the criteria.

    Args:
        tell: Hears what the run will take, before anything slow is done.
        force: Go on although the records are not known.

    Raises:
        UserError: The retrained model cannot be used, or the run does not fit.
        NothingToUnlearn: The records are not known, or too few to tell, and `force` is not set.
    """
    family, loaded = prepared.family, prepared.loaded
    _tell_notes(prepared)
    sets = family.measured_sets(prepared, config)
    retrained = None
    if config.model.retrained:
        retrained = _load_like(config, prepared, "retrained", config.model.retrained)
    notice(config.model.name, config.model.original, say)
    original = measure_original(config, prepared, family.judged_sets(prepared, sets, config), say)
    for line in prepared.reading:  # once nothing that was given is refused any more
        say(line)
    say("measuring the target model")
    with measuring(loaded.model.device) as cost:
        target = family.infer(loaded, sets, config.evaluation)
    answers, references = {"target": target}, {}
    if retrained is not None:
        references = family.references(loaded, sets)
        answers["retrained"] = family.infer(retrained, sets, config.evaluation, references)
    models = {"target": loaded} | ({} if retrained is None else {"retrained": retrained})
    tasks = _run_tasks(config, family, models, say)
    scores = {model: family.score(model, answers, sets, config) for model in answers}
    scores |= original
    if beside := already_lost(scores, family.quality_metric(prepared.loaded)):
        say(beside)
    level = family.level(target, config, under="the target model")
    measured = Measured(sets, answers, scores, level, ())
    checked = _check_result(config, prepared, measured, cost)
    if not checked.memorised and not force:
        raise NothingToUnlearn(checked)
    tell(checked.plan)
    return Baseline(
        sets=sets,
        answers=answers,
        scores=scores,
        level=level,
        criteria=family.criteria(prepared, scores, level, config),
        data=family.method_data(prepared, sets, level, config, scores),
        references=references or family.references(loaded, sets),
        digest=provenance.digest_model(loaded.model),
        micro_batch=checked.plan.micro_batch,
        memorised=checked.memorised,
        sentence=checked.sentence,
        tasks=tasks,
    )


def _run_tasks(
    config: RunConfig, family: AnyFamily, models: Mapping[str, Loaded], say: Say
) -> dict[str, TaskFigures]:
    """The figures of the tasks that are named, by model; empty where none is."""
    if not config.evaluation.harness:
        return {}
    found = {}
    for role, one in models.items():
        say(f"running {', '.join(config.evaluation.harness)} on the {role} model")
        found[role] = family.run_tasks(one, config.evaluation)
    return found


def planned(config: RunConfig, baseline: AnyBaseline) -> RunConfig:
    """The configuration with the micro-batches that the memory plan has chosen, if any."""
    if baseline.micro_batch is None:
        return config
    training = config.training.model_copy(update={"micro_batch": baseline.micro_batch})
    return replace(config, training=training)


def forget(
    config: RunConfig,
    prepared: AnyPrepared,
    work: Path,
    *,
    force: bool = False,
    log: Log | None = None,
    say: Say = logger.info,
    resumable: Resumable | None = None,
) -> Outcome:
    """Unlearn the forget set, save the model in `work` and measure the saved files.

    Args:
        force: Run although the records are not known.
        resumable: Where checkpoints go, and whether to go on from one; None for a run without any.
        say: Called with a line of text at each stage.

    Raises:
        UserError: The retrained model cannot be used, or the method lacks something.
        NothingToUnlearn: The records are not known, and `force` is not set.
    """
    started = time.perf_counter()
    key, family = provenance.read_key(), prepared.family
    trainer = Trainer(config.training, log or Log(work / "log.jsonl"), config.model.bits)
    prepared.loaded.to(trainer.device)
    check_disk(prepared.loaded.model, config.training, work, say)
    remarks = config.method.remarks(prepared.loaded.model)
    for note in (*prepared.notes, *remarks):
        say(note)
    tell = partial(announce, say=say, checkpoints=resumable is not None)
    baseline = measure_baseline(config, prepared, tell, force=force, say=say)
    baseline = family.for_method(config, prepared, baseline)
    identity = run_identity(config, prepared, baseline.digest, key)
    config = planned(config, baseline)
    trainer.settings = config.training
    began = time.perf_counter()
    config, searched = _searched(config, prepared, baseline, resumable, identity, say)
    seconds_searching = time.perf_counter() - began

    def unlearn() -> PreTrainedModel:
        with resuming(trainer, resumable, identity, say):
            return config.method.unlearn(prepared.loaded.model, baseline.data, trainer)

    outcome = carry_out(
        config,
        prepared,
        baseline,
        trainer,
        work,
        unlearn=unlearn,
        say=say,
        notes=(*remarks, *(searched.notes() if searched else ())),
    )
    if searched is not None:
        outcome.report["search"] = searched.to_json()
    cost = outcome.report["cost"]
    # What was done before the run was cut off is counted as unlearning, and is not in this clock.
    here = time.perf_counter() - started - seconds_searching + trainer.seconds_before
    cost["seconds_evaluation"] = here - cost["seconds_unlearning"]
    cost["seconds_unlearning"] += searched.seconds if searched else 0.0
    cost["seconds"] = cost["seconds_unlearning"] + cost["seconds_evaluation"]
    return outcome


def carry_out(
    config: RunConfig,
    prepared: AnyPrepared,
    baseline: AnyBaseline,
    trainer: Trainer,
    work: Path,
    *,
    unlearn: Callable[[], PreTrainedModel],
    say: Say,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """Unlearn, save the model in `work`, and measure the saved files.

    Args:
        unlearn: Trains the target model, and returns the unlearned one.
        notes: What else the verdict has to say.
    """
    family = prepared.family
    say(f"unlearning {len(prepared['forget'])} records with {type(config.method).__name__}")
    started = time.perf_counter()
    lineage = lineage_of(config, prepared, baseline.digest)
    model = trainer.finish(unlearn(), prepared.loaded.name)
    prepared.loaded.save(model, work / "model")
    seconds_unlearning = time.perf_counter() - started + trainer.seconds_before
    # SISA's shards exist before a request comes; making them is no part of the answer to it.
    spent = trainer.details
    seconds_unlearning -= spent.get("seconds_preparation", 0.0)

    # A device with no room for two models is what these are for.
    if prepared.loaded.bits or has_cast_layers(prepared.loaded.model):
        prepared.loaded.to(torch.device("cpu"))
    give_memory_back()
    say("measuring the saved model")
    unlearned = family.load(str(work / "model"), holding=prepared.loaded.holding)
    unlearned.to(trainer.device)
    after = family.infer(unlearned, baseline.sets, config.evaluation, baseline.references)
    answers = baseline.answers | {"unlearned": after}
    scores = baseline.scores | {
        "unlearned": family.score("unlearned", answers, baseline.sets, config)
    }
    tasks = dict(baseline.tasks) | _run_tasks(config, family, {"unlearned": unlearned}, say)
    limit = seconds_for(time.perf_counter() - started + trainer.seconds_before)
    relearning = measure_relearning(config, prepared, unlearned, baseline.sets, after, limit, say)
    measured = Measured(
        baseline.sets, answers, scores, baseline.level, baseline.criteria, tasks=tasks
    )
    digests = {"target": baseline.digest, "unlearned": provenance.digest_model(unlearned.model)}
    findings = Findings("forget", config, prepared, measured, digests, baseline.data)
    told = training_notes(trainer, writes_text=family.writes_text)
    verdict, report = conclude(findings, told + notes)
    seconds = time.perf_counter() - started + trainer.seconds_before
    if not baseline.memorised:  # and the run was made all the same
        report["check"] = {"memorised": baseline.memorised, "sentence": baseline.sentence}
    report["rounds"] = trainer.rounds
    report["relearning"] = relearning
    report["cost"] = {
        "seconds": seconds,
        "seconds_unlearning": seconds_unlearning,
        "seconds_evaluation": seconds - seconds_unlearning,
        "peak_memory_bytes": provenance.peak_memory_bytes(trainer.device),
        "steps": trainer.steps - spent.get("steps_preparation", 0),
        "tokens": trainer.tokens - spent.get("tokens_preparation", 0),
    }
    if config.model.retrained or not family.writes_text:  # a classifier's report always has it
        report["cost"]["seconds_retraining"] = seconds_of_training(config.model.retrained)
    trainer.log.close()
    lineage["request"] |= {"id": report["request"]["id"], "verdict": verdict.status}
    return Outcome(verdict, report, unlearned, answers["target"], after, lineage)


def evaluate(
    config: RunConfig,
    prepared: AnyPrepared,
    *,
    target: str = "",
    by_method: bool = False,
    say: Say = logger.info,
) -> tuple[Verdict, Json]:
    """Measure a model on records that it was to forget.

    What unseen records score is taken under the target model, and under the model itself where none
    is given, which the report says; nothing can then be said of what it lost on other records.

    Args:
        target: The model before unlearning, by name.
        by_method: The configuration's method made the model: unseen records that it learned from
            are left out.

    Raises:
        UserError: A model cannot be loaded, or is of another kind than the one to be measured.
    """
    started = time.perf_counter()
    family, loaded, evaluation = prepared.family, prepared.loaded, config.evaluation
    for note in prepared.notes:
        say(note)
    _tell_notes(prepared)
    names = {"target": target, "retrained": config.model.retrained}
    models = {
        role: _load_like(config, prepared, role, name) for role, name in names.items() if name
    }
    models["unlearned"] = loaded
    notice(target, config.model.original, say)
    sets = family.measured_sets(prepared, config)
    original = measure_original(config, prepared, sets, say)
    references = family.references(models["target"], sets) if target else {}
    for line in prepared.reading:
        say(line)
    answers = {}
    for role, one in models.items():
        say(f"measuring the {role} model")
        answers[role] = family.infer(one, sets, evaluation, {} if role == "target" else references)
    before, under = ("target", "the target model") if target else ("unlearned", "the model itself")
    level = family.level(answers[before], config, under=under)
    if by_method:
        sets = family.judged_sets(prepared, sets, config)
        answers = family.judged_answers(sets, answers)
    scores = {model: family.score(model, answers, sets, config) for model in answers}
    scores |= original
    criteria = family.criteria(prepared, scores, level, config)
    tasks = _run_tasks(config, family, models, say)
    measured = Measured(sets, answers, scores, level, criteria, tasks=tasks)
    digests = {role: provenance.digest_model(one.model) for role, one in models.items()}
    verdict, report = conclude(Findings("evaluate", config, prepared, measured, digests))
    seconds = time.perf_counter() - started
    report["cost"] = {
        "seconds": seconds,
        "seconds_evaluation": seconds,
        "peak_memory_bytes": provenance.peak_memory_bytes(loaded.model.device),
    }
    return verdict, report


def conclude(findings: Findings, notes: tuple[str, ...] = ()) -> tuple[Verdict, Json]:
    """The verdict on the unlearned model by criteria fixed before, and the report."""
    prepared, measured = findings.prepared, findings.measured
    verdict = prepared.family.judge(prepared, measured)
    verdict = replace(verdict, notes=verdict.notes + utility_notes(measured) + notes)
    return verdict, build_report(findings, verdict)


def _searched(
    config: RunConfig,
    prepared: AnyPrepared,
    baseline: AnyBaseline,
    resumable: Resumable | None,
    identity: Json,
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
        found = search(config, prepared.loaded, baseline.data, trials, say)
    except KeyboardInterrupt:
        if resumable is None:
            raise
        raise Interrupted(
            f"interrupted; the trials are kept: go on with --output {resumable.output} --resume"
        ) from None
    provenance.set_seeds(config.training.seed)  # as if nothing had been tried
    return replace(config, method=found.method), found


def write_outcome(outcome: Outcome, config: RunConfig, work: Path) -> None:
    """The report, the model card and the resolved configuration beside the saved model."""
    outcome.report["model"]["files"] = file_digests(work / "model")
    write_provenance(work / "model", outcome.lineage)
    write_report(outcome.report, work)
    (work / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (work / "model" / "README.md").write_text(model_card(outcome.report), encoding="utf-8")


def tracked_sections(config: RunConfig) -> Json:
    """The sections that trackers get: nothing of the records."""
    return {
        name: values for name, values in config.sections().items() if name in ("method", "training")
    }


def settings_of(resumable: Resumable, sections: Json) -> Json:
    """The sections of a run that goes on, with those given now laid over them."""
    before = resumable.begun("forget").get("settings", {})
    merged = {name: dict(section) for name, section in before.items()}
    for name, section in sections.items():
        merged.setdefault(name, {}).update(section)
    return merged
