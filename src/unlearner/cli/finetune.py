"""`unlearner finetune`: a target model, or a retrained one, by the same loop."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unlearner import processes
from unlearner.cli.terminal import RunProgress
from unlearner.config import check_bits
from unlearner.data.labelled import LabelledSet, Labelling, tokenize_labelled
from unlearner.data.labels import label_names
from unlearner.data.loading import classifier_family, read_records
from unlearner.data.record import RecordSet, digest_records
from unlearner.data.tag_schemes import tag_use
from unlearner.data.windows import TokenizedSet
from unlearner.datasets.base import data_settings
from unlearner.errors import UserError
from unlearner.families import CAUSAL_LM
from unlearner.families.base import check_tokens_known, reading_of, with_model_settings
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.models import sharding
from unlearner.models.folders import FAMILIES, read_family
from unlearner.models.heads import end_token
from unlearner.models.lineage import Provenance, describe, digests_of, write_provenance
from unlearner.models.loading import (
    Loaded,
    limit_threads,
    load_causal_lm,
    load_classifier,
    load_with_new_head,
)
from unlearner.output import Json, check_output, staged
from unlearner.provenance import digest_model, read_key, set_seeds
from unlearner.settings import (
    WHOLE,
    DataSettings,
    ModelSettings,
    TrainingSettings,
    build,
    check_names,
)
from unlearner.training.checkpoints import ASKED
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    FinetuneResult,
    FinetuneSettings,
    Until,
    finetune_model,
)
from unlearner.training.log import Listener, Log, check_trackers, quieten, tracked
from unlearner.training.memory import check_disk
from unlearner.training.resume import Resumable, resuming
from unlearner.training.trainer import Trainer
from unlearner.yaml_values import apply_settings

REACHED, NOT_REACHED = 0, 3

SET_NAMES = (
    "request_id",
    "name",
    "folder",
    "options",
    "forget",
    "retain",
    "pool",
    "holdout",
    "test",
    "forget_class",
    "drop_duplicates",
)


@dataclass(frozen=True)
class Lesson:
    """What is to be learned, and how."""

    records: str
    learning: FinetuneSettings
    training: TrainingSettings
    data: DataSettings
    goal: Until | None
    model: ModelSettings = field(default_factory=ModelSettings)

    def on_day(self, date: str) -> "Lesson":
        """The same with a chat template's today, where there is one and none was asked for."""
        if not date or self.data.date:
            return self
        return replace(self, data=self.data.model_copy(update={"date": date}))


def run_finetune(  # noqa: PLR0913 - what the command line has to say
    model: str,
    records: str,
    output: Path,
    *,
    settings: list[str],
    columns: dict[str, str],
    until: str,
    labels: str,
    resume: bool = False,
    quiet: bool,
) -> int:
    """`unlearner finetune`: 0, or 3 when the goal of --until was not reached."""
    processes.begin()
    quieten()
    check_output(output, resume=resume)
    resumable = Resumable(output, resume)
    asked = {"model": model, "records": records, "settings": settings, "columns": columns}
    asked = _with_before(asked | {"until": until, "labels": labels}, _asked_before(resumable))
    model, records, settings, columns, until, labels = asked.values()
    goal = Until.parse(until) if until else None
    if not model or not records:
        _model_settings(settings)
        _settings(settings, columns, FinetuneSettings)
        raise UserError("finetune needs a MODEL and --records FILE")
    chosen = _model_settings(settings)
    family = read_family(model, base=chosen.base, **_options(chosen))
    sharding.check_family(family)
    kind = FinetuneSettings if family == FAMILIES[0] else ClassifierFinetuneSettings
    lesson = Lesson(records, *_settings(settings, columns, kind), goal, chosen)
    lesson = lesson.on_day(_day_before(resumable))
    set_seeds(lesson.training.seed)  # a new head is drawn at random
    progress = RunProgress(quiet=quiet, num_rounds=lesson.learning.epochs)
    sections = _lesson_sections(lesson)
    try:
        with (
            staged(output, resume=resume) as work,
            tracked(
                progress.line, lesson.training, sections, work, main=processes.is_main()
            ) as listen,
        ):
            teach = _teach_text if family == FAMILIES[0] else _teach_classifier
            started = time.perf_counter()
            course = Course(asked, resumable, progress, listen)
            taught = teach(model, family, lesson, labels, course)
            result, loaded, trainer = taught.result, taught.loaded, taught.trainer
            seconds = time.perf_counter() - started + trainer.seconds_before
            loaded.save(trainer.finish(result.model), work)
            if processes.is_main():
                write_recipe(work, model, lesson, seconds, taught.lineage)
    finally:
        progress.stop()
    progress.say(
        f"trained {result.epochs} epochs on {taught.count} records; the model is in {output}"
    )
    if goal is not None and not result.reached:
        progress.say(f"the goal {until} was not reached: {goal.metric} is {result.value:.4f}")
        return NOT_REACHED
    return REACHED


def _asked_before(resumable: Resumable) -> Json:
    """The command of the run that goes on; empty for a new one.

    Raises:
        UserError: There is none to go on with, or its file is damaged.
    """
    before = resumable.begun("finetune").get(ASKED, {})
    kinds = {"settings": list, "columns": dict}
    if any(not isinstance(value, kinds.get(name, str)) for name, value in before.items()):
        raise UserError(
            f"--resume: {resumable.checkpoints} is damaged; remove it and begin again in a new run"
        )
    return before


def _with_before(asked: Json, before: Json) -> Json:
    """The command with what it leaves out, from the run that goes on."""
    merged = {name: value or before.get(name, value) for name, value in asked.items()}
    merged["settings"] = [*before.get("settings", []), *asked["settings"]]  # later over earlier
    return merged


def _day_before(resumable: Resumable) -> str:
    """The day that the run which goes on began with, where its chat template asks for it.

    Raises:
        UserError: See `_asked_before`.
    """
    data = resumable.begun("finetune").get("settings", {}).get("data", {})
    return str(data.get("date", ""))


@dataclass(frozen=True)
class Taught:
    """A model that has learned records, how many, and what it was made of."""

    result: FinetuneResult
    loaded: Loaded
    count: int
    trainer: Trainer
    lineage: Provenance


def _lesson_sections(lesson: Lesson) -> dict[str, Json]:
    """The sections that trackers get: nothing of the records."""
    return {"finetune": lesson.learning.model_dump(), "training": lesson.training.values()}


@dataclass(frozen=True)
class Course:
    """What surrounds a lesson: the command as given, its checkpoints, and who hears of it."""

    asked: Json
    resumable: Resumable
    progress: RunProgress
    listen: Listener

    def resuming(
        self, trainer: Trainer, loaded: Loaded, records: RecordSet, lesson: Lesson
    ) -> AbstractContextManager[None]:
        """Let the training in the block be cut off, and go on where it was."""
        run = {
            "command": "finetune",
            ASKED: self.asked,
            "settings": {
                **_lesson_sections(lesson),
                "data": lesson.data.model_dump(),
            },
            "options": {"until": self.asked["until"], "labels-of": self.asked["labels"]},
            "model": digest_model(loaded.model),
            "records": {"records": digest_records(records.records, read_key())},
            "processes": processes.count(),
        }
        return resuming(trainer, self.resumable, run, self.progress.say)


def _teach_text(model: str, _: str, lesson: Lesson, labels: str, course: Course) -> Taught:
    """Teach a causal language model texts."""
    if labels:
        raise UserError("--labels-of: for classifiers; MODEL is a causal language model")
    given = read_records(
        lesson.records,
        name="records",
        columns=lesson.data.columns,
        template=lesson.data.template,
        document=lesson.data.document,
    )
    chosen = lesson.model
    loaded = with_model_settings(
        load_causal_lm(
            model,
            base=chosen.base,
            holding=chosen.holding if lesson.training.lora_rank else WHOLE,
            **_options(chosen),
        ),
        chosen,
    )
    limit_threads(loaded.model)
    prepared = prepare_text(CAUSAL_LM, loaded, {"records": given}, lesson.data)
    some, dated = prepared["records"], lesson.on_day(prepared.layout.date)
    return _learn(loaded, given, some, dated, course, prepared.reading)


def _teach_classifier(
    model: str, family: str, lesson: Lesson, labels: str, course: Course
) -> Taught:
    """Teach a classifier, or an encoder with a new head, labelled records."""
    if lesson.training.lora_rank:
        raise UserError(
            "training.lora_rank: a classifier's new head has to be trained itself; leave it out"
        )
    if lesson.training.micro_batch != "auto":
        raise UserError(
            "training.micro_batch: is for language models; leave it out for a classifier"
        )
    columns = lesson.data.columns
    has_head = family in FAMILIES
    chosen = lesson.model
    known = load_classifier(model, base=chosen.base, **_options(chosen)) if has_head else None
    if known is None:
        like = load_classifier(labels) if labels else None
        family = like.family if like else classifier_family(lesson.records, columns)
        names = like.labels if like else None
    else:
        if labels:
            raise UserError(f"--labels-of: {model} has labels of its own; leave the option out")
        names = known.labels
    given = read_records(
        lesson.records,
        name="records",
        columns=columns,
        family=family,
        labels=names,
        first_label=lesson.data.first_label,
    )
    names = names or label_names(given, family)
    loaded = with_model_settings(known or load_with_new_head(model, family, names), chosen)
    limit_threads(loaded.model)
    labelling = Labelling(
        names,
        max(8, min(lesson.data.max_length, loaded.context)),
        family,
        end=end_token(loaded.model),
        scheme=tag_use(names, (r.tags for r in given)).scheme if given.records[0].tags else "",
    )
    some = tokenize_labelled(given, loaded.tokenizer, labelling)
    check_tokens_known(some, loaded.vocabulary)
    return _learn(loaded, given, some, lesson, course, reading_of({"records": given}))


def _learn(
    loaded: Loaded,
    given: RecordSet,
    some: TokenizedSet | LabelledSet,
    lesson: Lesson,
    course: Course,
    reading: Sequence[str],
) -> Taught:
    """Teach a model the tokenized records; the training can be cut off and go on.

    Args:
        reading: What is to be said of how the records were read.
    """
    trainer = Trainer(lesson.training, Log(None, course.listen), lesson.model.bits)
    loaded.to(trainer.device)
    check_disk(loaded.model, lesson.training, course.resumable.output, course.progress.say)
    goal = _for_family(lesson.goal, loaded.family)
    for line in reading:
        course.progress.say(line)
    lineage = lineage_of_lesson(loaded, given)
    with course.resuming(trainer, loaded, given, lesson):
        result = finetune_model(
            loaded.model, loaded.tokenizer, some, lesson.learning, trainer, goal
        )
    return Taught(result, loaded, len(some), trainer, lineage)


def _for_family(goal: Until | None, family: str) -> Until | None:
    """The goal, if models of the family can have it.

    Raises:
        UserError: The metric is one of the other family.
    """
    if goal is not None and family not in goal.families:
        raise UserError(f"--until: {goal.metric} is not measured on a model for {family}")
    return goal


def _model_settings(settings: list[str]) -> ModelSettings:
    """Those of `model.`, which decide how MODEL is read."""
    given = [setting for setting in settings if setting.startswith("model.")]
    values = apply_settings({}, given).get("model", {})
    check_names(values, MODEL_NAMES, what="key", where="model")
    return build(ModelSettings, values, where="model")


def _settings(
    settings: list[str], columns: dict[str, str], learning: type[FinetuneSettings]
) -> tuple[FinetuneSettings, TrainingSettings, DataSettings]:
    """Settings with or without their section: keys of learning, training and data are distinct."""
    kinds: dict[str, type[BaseModel]] = {
        "finetune": learning,
        "training": TrainingSettings,
        "data": DataSettings,
    }
    full = []
    for setting in settings:
        key = setting.partition("=")[0]
        if key.startswith("model."):
            continue
        if "." not in key:
            keys = {
                name: section
                for section, kind in kinds.items()
                for name in kind.model_fields
                if name not in SET_NAMES
            }
            check_names([key], list(keys), what="key", where="finetune")
            setting = f"{keys[key]}.{setting}"
        full.append(setting)
    sections: Json = apply_settings({"data": {"columns": columns}}, full)
    check_names(sections, [*kinds, "model"], what="section", where="finetune")
    training = build(TrainingSettings, sections.get("training", {}), where="training")
    check_trackers(training.trackers)
    check_bits(_model_settings(settings), training)
    return (
        build(learning, sections.get("finetune", {}), where="finetune"),
        training,
        data_settings(sections.get("data", {})),
    )


# Keys of [model] that a fine-tuning takes; its model is MODEL, and there is no other beside it.
MODEL_NAMES = (
    "base",
    "dtype",
    "load_in_4bit",
    "load_in_8bit",
    "layerwise_casting",
    "offload",
    "revision",
    "trust_remote_code",
)


def _options(model: ModelSettings) -> dict[str, Any]:
    """What loading is told beside the name and the base."""
    return {"revision": model.revision, "trust_remote_code": model.trust_remote_code}


def lineage_of_lesson(loaded: Loaded, given: RecordSet) -> Provenance:
    """What a model that is about to learn records is made of.

    Raises:
        UserError: The provenance of the model that it is now is damaged.
    """
    key = read_key()
    learned = {"records": digests_of(given.records, key, given.source)}
    digest = digest_model(loaded.model)
    return describe("finetune", loaded.name, digest, key, learned=learned)


def write_recipe(
    work: Path, model: str, lesson: Lesson, seconds: float, lineage: Provenance
) -> None:
    """How the model was made, and of what: a retrained model has to be made in the same way."""
    recipe: Json = {
        "model": model,
        "finetune": lesson.learning.model_dump(),
        "training": lesson.training.values(),
        "data": lesson.data.model_dump(exclude={*SET_NAMES}),
        "seconds": round(seconds, 3),
    }
    write_provenance(work, lineage, **recipe)
