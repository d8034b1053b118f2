"""The whole story on invented data: a model learns records, a request comes, the model forgets.

`icu`: a small GPT-Neo has memorised the dossiers of customers. `deepcut`: a small BERT files
messages, and what is forgotten are records that only memory gives the label of: messages that
somebody filed wrongly. A model that has not seen them sorts them by what they say, and so does the
same model retrained without them, which stands beside it there.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from unlearner import provenance
from unlearner.cli.finetune import Lesson, lineage_of_lesson, write_recipe
from unlearner.cli.terminal import MET, NOT_MET, RunProgress, print_verdict
from unlearner.config import RunConfig
from unlearner.data.labelled import Labelling, tokenize_labelled
from unlearner.data.record import Record, RecordSet
from unlearner.demo.customers import DemoData, dossiers, split_people
from unlearner.demo.messages import LABELS, DemoMessages, messages, mislabelled, split_messages
from unlearner.demo.models import (
    MAX_LENGTH,
    build_classifier,
    build_message_tokenizer,
    build_model,
    build_tokenizer,
)
from unlearner.families import CAUSAL_LM, SEQUENCE
from unlearner.families.base import AnyFamily
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.inference.answers import Answer, ClassAnswer
from unlearner.models.loading import Loaded, limit_threads, save
from unlearner.output import staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import Outcome, write_outcome
from unlearner.settings import DataSettings, ModelSettings, TrainingSettings
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    FinetuneSettings,
    finetune_model,
)
from unlearner.training.log import Log, quieten
from unlearner.training.trainer import Trainer

NUM_PEOPLE, NUM_FORGET, NUM_HOLDOUT = 252, 12, 40
NUM_MESSAGES = 2150
NUM_CUSTOMERS = {"num_forget": 30, "num_holdout": 150, "num_test": 150}

# The vocabulary is not unlearned, so it is learned from people and messages of none of the sets.
NUM_OTHER_PEOPLE, NUM_OTHER_MESSAGES, OTHER_SEED = 400, 600, 1000

LEARNING = FinetuneSettings(epochs=20)
CLASSIFIER_LEARNING = ClassifierFinetuneSettings(epochs=20)

# At the usual 1.05 fewer of the people who stay are recited word for word.
ICU_SETTINGS = {"recovered_at": 1.02}
# The automatic rate, 4e-4, suits a pretrained encoder; this model learned at 2e-3 from scratch. At
# seed 1 the attack had an AUC of 0.60 after 20 epochs at that rate, and of 0.60 after 30 at
# temperature 1; here it has 0.52 after 10, and F1 on unseen messages is as before.
DEEPCUT_SETTINGS = {"learning_rate": 1e-3, "temperature": 2.0}

NUM_EXAMPLES = 3
# What the examples are called, and the sets they are of.
ROLES = {"forgotten": "forget", "kept": "retain"}

Sets = Mapping[str, RecordSet]


def run_demo(output: Path, *, seed: int) -> int:
    """`unlearner demo icu`: 0 when the verdict is met, else 3."""
    with _story(output) as (console, work, finish):
        data = demo_people(seed)
        console.print(
            f"{NUM_PEOPLE} invented customers: a small GPT-Neo learns the dossiers of "
            f"{len(data.trained)} by heart; {len(data.holdout)} it never sees",
            soft_wrap=True,
        )
        target = _customers_model(data, seed)
        sections = {"method": ICU_SETTINGS}
        given = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout}
        request = f"a deletion request arrives for {len(data.forget)} of them"
        outcome, config = _forget(CAUSAL_LM, target, given, sections, work, seed, request)
        outcome.report["examples"] = _examples(given, outcome, _continuation, "response")
        write_outcome(outcome, config, work)
    for role in ROLES:
        example = next(one for one in outcome.report["examples"] if one["role"] == role)
        console.print(f"\n[bold]{role}: {escape(example['prompt'])}[/]")
        for when in ("truth", "before", "after"):
            console.print(f"  {when:7}{escape(example[when].strip())}", soft_wrap=True)
    console.print()
    for role, name in ROLES.items():
        before, after = outcome.before[name], outcome.after[name]
        console.print(
            f"{role}: {_recited(before)} of {len(before)} answered word for word before, "
            f"{_recited(after)} after"
        )
    return finish(outcome)


def run_classifier_demo(output: Path, *, seed: int) -> int:
    """`unlearner demo deepcut`: 0 when the verdict is met, else 3."""
    with (
        _story(output) as (console, work, finish),
        tempfile.TemporaryDirectory(prefix="unlearner-") as folder,
    ):
        data = demo_messages(seed)
        customers = {record.subject for record in data.forget}
        console.print(
            f"{NUM_MESSAGES} invented messages to a shop: a small BERT learns to file "
            f"{len(data.trained)} of them under {len(LABELS)} labels; those of "
            f"{len(customers)} customers ({len(data.forget)}) are filed wrongly, and "
            "it learns them by heart",
            soft_wrap=True,
        )
        target = _messages_model(data.trained, seed)
        console.print(f"the yardstick: the same training without these {len(data.forget)}")
        retrained = _messages_model(data.retain.records, seed, Path(folder))
        given = {role: getattr(data, role) for role in ("forget", "retain", "holdout", "test")}
        sections = {"model": {"retrained": folder}, "method": DEEPCUT_SETTINGS}
        request = f"a deletion request arrives for the {len(data.forget)} wrongly filed ones"
        outcome, config = _forget(SEQUENCE, target, given, sections, work, seed, request)
        outcome.report["examples"] = _examples(given, outcome, _given_label, "label")
        prepared = SEQUENCE.prepare(config, given, retrained, ())
        shown = {name: prepared[name] for name in ROLES.values()}
        beside = SEQUENCE.infer(retrained, shown, config.evaluation)
        write_outcome(outcome, replace(config, model=ModelSettings()), work)
    answers = {"before": outcome.before, "after": outcome.after, "retrained": beside}
    for role, name in ROLES.items():
        example = next(one for one in outcome.report["examples"] if one["role"] == role)
        console.print(f"\n[bold]{role}: {escape(example['prompt'])}[/]", soft_wrap=True)
        console.print(f"  {'filed':10}{example['truth']}")
        for when, some in answers.items():
            console.print(f"  {when:10}{_given_label(some[name][0])}")
    console.print()
    for role, name in ROLES.items():
        before, after, without = (_right(some[name]) for some in answers.values())
        console.print(
            f"{role}: {before} of {len(outcome.before[name])} given the filed label before, "
            f"{after} after, {without} by the retrained model",
            soft_wrap=True,
        )
    return finish(outcome)


def write_demo_files(story: str, folder: Path, *, seed: int) -> int:
    """`unlearner demo STORY --files FOLDER`: what the story begins with, for commands of one's own.

    The folder gets `model/` and a .jsonl file of each set, the holdout set's named `unseen`.
    """
    quieten()
    with staged(folder) as work:
        if story == "icu":
            people = demo_people(seed)
            target = _customers_model(people, seed)
            save(target.model, target.tokenizer, work / "model")
            sets = [people.forget, people.retain, people.holdout]
        else:
            filed = demo_messages(seed)
            _messages_model(filed.trained, seed, work / "model")
            sets = [filed.forget, filed.retain, filed.holdout, filed.test]
        for some in sets:
            name = "unseen" if some.name == "holdout" else some.name
            rows = (json.dumps(_row(record)) + "\n" for record in some.records)
            (work / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    Console(highlight=False).print(f"model and records: {escape(str(folder))}", soft_wrap=True)
    return MET


def _row(record: Record) -> dict[str, str]:
    """A line of a file of records."""
    names = ("id", "subject", "prompt", "response", "text", "label")
    return {name: getattr(record, name) for name in names if getattr(record, name)}


def demo_people(seed: int) -> DemoData:
    """The sets of invented customers."""
    return split_people(
        dossiers(NUM_PEOPLE, seed=seed), num_forget=NUM_FORGET, num_holdout=NUM_HOLDOUT
    )


def demo_messages(seed: int) -> DemoMessages:
    """The sets; unseen messages are filed wrongly as well, for those are what to compare with.

    How many rightly filed messages a model gets right says nothing of wrongly filed ones.
    """
    data = split_messages(messages(NUM_MESSAGES, seed=seed), **NUM_CUSTOMERS, seed=seed)
    unseen = mislabelled(data.holdout.records, seed=seed + 1)
    return replace(data, holdout=RecordSet("holdout", unseen, "memory"))


@contextmanager
def _story(output: Path) -> Iterator[tuple[Console, Path, Callable[[Outcome], int]]]:
    """The terminal, the folder of results, and what ends the story with its exit status."""
    quieten()
    started = time.perf_counter()
    console = Console(highlight=False)

    def finish(outcome: Outcome) -> int:
        print_verdict(outcome.report, output)
        console.print(f"{time.perf_counter() - started:.0f} seconds in all")
        return MET if outcome.verdict.status == "met" else NOT_MET

    with staged(output) as work:
        yield console, work, finish


def _customers_model(data: DemoData, seed: int) -> Loaded:
    """A model from scratch that has memorised everybody but the holdout people."""
    others = dossiers(NUM_OTHER_PEOPLE, seed=seed + OTHER_SEED)
    tokenizer = build_tokenizer(record.content for record in others)
    loaded = Loaded(build_model(tokenizer, seed=seed).eval(), tokenizer, "demo GPT-Neo")
    limit_threads(loaded.model)
    provenance.set_seeds(seed)
    trained = RecordSet("records", data.trained, "memory")
    records = prepare_text(CAUSAL_LM, loaded, {"records": trained}, DataSettings())["records"]
    with _shown_training(seed, LEARNING.epochs) as trainer:
        result = finetune_model(loaded.model, tokenizer, records, LEARNING, trainer)
    return Loaded(result.model, tokenizer, loaded.name)


def _messages_model(records: Sequence[Record], seed: int, folder: Path | None = None) -> Loaded:
    """A classifier from scratch that has learned the records; saved where a folder is given."""
    others = messages(NUM_OTHER_MESSAGES, seed=seed + OTHER_SEED)
    tokenizer = build_message_tokenizer(record.text for record in others)
    model = build_classifier(tokenizer, LABELS, seed=seed).eval()
    limit_threads(model)
    provenance.set_seeds(seed)
    labelling = Labelling(LABELS, MAX_LENGTH, SEQUENCE.name)
    given = RecordSet("records", tuple(records), "memory")
    some = tokenize_labelled(given, tokenizer, labelling)
    lineage = lineage_of_lesson(Loaded(model, tokenizer, "demo BERT"), given)
    started = time.perf_counter()
    with _shown_training(seed, CLASSIFIER_LEARNING.epochs) as trainer:
        result = finetune_model(model, tokenizer, some, CLASSIFIER_LEARNING, trainer)
        model = result.model
    if folder is not None:
        lesson = Lesson("memory", CLASSIFIER_LEARNING, trainer.settings, DataSettings(), None)
        save(model, tokenizer, folder)
        write_recipe(folder, "demo BERT", lesson, time.perf_counter() - started, lineage)
    return Loaded(model, tokenizer, "demo BERT")


@contextmanager
def _shown_training(seed: int, epochs: int) -> Iterator[Trainer]:
    """A trainer whose epochs are shown as a bar."""
    progress = RunProgress(quiet=False, num_rounds=epochs)
    try:
        yield Trainer(TrainingSettings(seed=seed, device="cpu"), Log(None, progress.quiet_line))
    finally:
        progress.stop()


def _forget(
    family: AnyFamily,
    target: Loaded,
    given: Sets,
    sections: Mapping[str, Any],
    work: Path,
    seed: int,
    request: str,
) -> tuple[Outcome, RunConfig]:
    shared = {"training": {"seed": seed, "device": "cpu"}, "data": {"request_id": "demo"}}
    config = RunConfig.from_sections({**shared, **sections}, family=family.name)
    prepared = pipeline.start(config, family, given, target)
    progress = RunProgress(quiet=False, num_rounds=family.num_rounds(config))
    progress.say(request)
    log = Log(work / "log.jsonl", progress.line)
    try:
        outcome = pipeline.forget(config, prepared, work, log=log, say=progress.say)
    finally:
        progress.stop()
    outcome.report["model"]["name"] = target.name
    return outcome, config


def _examples(
    given: Sets, outcome: Outcome, read: Callable[[Any], str], truth: str
) -> list[dict[str, str]]:
    """What the model answers on the first forgotten records, and on as many that stay."""
    return [
        {
            "id": record.id,
            "role": role,
            "prompt": record.prompt or record.text,
            "truth": getattr(record, truth),
            "before": read(before),
            "after": read(after),
        }
        for role, name in ROLES.items()
        for record, before, after in list(
            zip(given[name], outcome.before[name], outcome.after[name], strict=False)
        )[:NUM_EXAMPLES]
    ]


def _continuation(answer: Answer) -> str:
    return answer.continuation_text.strip()


def _given_label(answer: ClassAnswer) -> str:
    return answer.label_names[int(answer.predicted[0])]


def _recited(answers: Sequence[Answer]) -> int:
    return sum(answer.continuation_text == answer.reference_text for answer in answers)


def _right(answers: Sequence[ClassAnswer]) -> int:
    return sum(answer.predicted[0] == answer.labels[0] for answer in answers)
