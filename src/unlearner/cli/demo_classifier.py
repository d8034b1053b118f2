"""The whole story for a classifier: it learns wrong labels by heart, a request comes, it forgets.

What is forgotten are records that only memory gives the label of: messages that somebody filed
wrongly. A model that has not seen them sorts them by what they say, and so does the same model
retrained without them, which is the yardstick here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from unlearner import provenance
from unlearner.cli.commands import Lesson, write_recipe
from unlearner.cli.terminal import RunProgress, print_verdict
from unlearner.config import RunConfig
from unlearner.data.labelled import Labelling, tokenize_labelled
from unlearner.data.record import Record, RecordSet
from unlearner.demo.messages import LABELS, DemoMessages, messages, mislabelled, split
from unlearner.demo.models import MAX_LENGTH, build_classifier, build_message_tokenizer
from unlearner.families import SEQUENCE
from unlearner.inference.answers import ClassAnswer
from unlearner.inference.classifier import ask
from unlearner.models.loading import Loaded, limit_threads, save
from unlearner.output import staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import Outcome, write_outcome
from unlearner.settings import DataSettings, ModelSettings, TrainingSettings
from unlearner.training.classifier_finetune import ClassifierFinetuneSettings, finetune_classifier
from unlearner.training.log import Log, quieten
from unlearner.training.trainer import Trainer

NUM_MESSAGES = 2150

NUM_CUSTOMERS = {"num_forget": 30, "num_holdout": 150, "num_test": 150}

LEARNING = ClassifierFinetuneSettings(epochs=20)

# The automatic rate, 4e-4, suits a pretrained encoder; this model learned at 2e-3 from scratch. At
# seed 1 the attack had an AUC of 0.60 after 20 epochs at that rate, and of 0.60 after 30 at
# temperature 1; here it has 0.52 after 10, and F1 on unseen messages is as before.
METHOD: dict[str, Any] = {"learning_rate": 1e-3, "temperature": 2.0}

# The vocabulary is not unlearned, so it is learned from messages that are in none of the sets.
NUM_OTHERS, OTHER_SEED = 600, 1000

NUM_EXAMPLES = 3

MET, NOT_MET = 0, 3


def run_classifier_demo(output: Path, *, seed: int) -> int:
    """`unlearner demo deepcut`: 0 when the verdict is met, else 3."""
    quieten()
    started = time.perf_counter()
    console = Console(highlight=False)
    with staged(output) as work, tempfile.TemporaryDirectory(prefix="unlearner-") as folder:
        data = _sets(seed)
        console.print(
            f"{NUM_MESSAGES} invented messages to a shop: a small BERT learns to file "
            f"{len(data.trained)} of them under {len(LABELS)} labels; those of "
            f"{len(_customers(data.forget))} customers ({len(data.forget)}) are filed wrongly, and "
            "it learns them by heart",
            soft_wrap=True,
        )
        target = _train(data.trained, seed)
        console.print(f"the yardstick: the same training without these {len(data.forget)}")
        retrained = _train(data.retain.records, seed, Path(folder))
        outcome, config, said = _forget(target, retrained, data, work, seed, folder)
        write_outcome(outcome, replace(config, model=ModelSettings()), work)
    _tell(console, outcome, said)
    print_verdict(outcome.report, output)
    console.print(f"{time.perf_counter() - started:.0f} seconds in all")
    return MET if outcome.verdict.status == "met" else NOT_MET


def _sets(seed: int) -> DemoMessages:
    """The sets; unseen messages are filed wrongly as well, for those are what to compare with.

    How many rightly filed messages a model gets right says nothing of wrongly filed ones.
    """
    data = split(messages(NUM_MESSAGES, seed=seed), **NUM_CUSTOMERS, seed=seed)
    unseen = mislabelled(data.holdout.records, seed=seed + 1)
    return replace(data, holdout=RecordSet("holdout", unseen, "memory"))


def _customers(records: RecordSet) -> set[str]:
    return {record.subject for record in records}


def _train(records: Sequence[Record], seed: int, folder: Path | None = None) -> Loaded:
    """A classifier from scratch that has learned the records; saved where a folder is given."""
    others = messages(NUM_OTHERS, seed=seed + OTHER_SEED)
    tokenizer = build_message_tokenizer(record.text for record in others)
    model = build_classifier(tokenizer, LABELS, seed=seed).eval()
    limit_threads(model)
    provenance.set_seeds(seed)
    labelling = Labelling(LABELS, MAX_LENGTH, "sequence-classification")
    some = tokenize_labelled(RecordSet("records", tuple(records), "memory"), tokenizer, labelling)
    progress = RunProgress(quiet=False, num_rounds=LEARNING.epochs)
    training = TrainingSettings(seed=seed, device="cpu")
    trainer = Trainer(training, Log(None, progress.quiet_line))
    started = time.perf_counter()
    try:
        model = finetune_classifier(model, some, LABELS, LEARNING, trainer).model
    finally:
        progress.stop()
    if folder is not None:
        lesson = Lesson("memory", LEARNING, training, DataSettings(), None)
        save(model, tokenizer, folder)
        write_recipe(folder, "demo BERT", lesson, time.perf_counter() - started)
    return Loaded(model, tokenizer, "demo BERT")


Said = Mapping[str, Mapping[str, Sequence[ClassAnswer]]]


def _forget(
    target: Loaded, retrained: Loaded, data: DemoMessages, work: Path, seed: int, folder: str
) -> tuple[Outcome, RunConfig, Said]:
    sections = {
        "model": {"retrained": folder},
        "training": {"seed": seed, "device": "cpu"},
        "data": {"request_id": "demo"},
        "method": METHOD,
    }
    config = RunConfig.from_sections(sections, family=target.family)
    given = {
        "forget": data.forget,
        "retain": data.retain,
        "holdout": data.holdout,
        "test": data.test,
    }
    prepared = pipeline.start(config, SEQUENCE, given, target)
    progress = RunProgress(quiet=False, num_rounds=None)
    progress.say(f"a deletion request arrives for the {len(data.forget)} wrongly filed ones")
    log = Log(work / "log.jsonl", progress.line)
    try:
        outcome = pipeline.forget(config, prepared, work, log=log, say=progress.say)
    finally:
        progress.stop()
    outcome.report["model"]["name"] = target.name
    names = ("forget", "retain")
    said = {
        "before": outcome.before,
        "after": outcome.after,
        "retrained": {
            name: ask(retrained.model, prepared[name].examples, LABELS) for name in names
        },
    }
    outcome.report["examples"] = [
        {
            "id": record.id,
            "role": role,
            "prompt": record.text,
            "truth": record.label,
            "before": _label(before),
            "after": _label(after),
        }
        for role, records, name in (
            ("forgotten", data.forget, "forget"),
            ("kept", data.retain, "retain"),
        )
        for record, before, after in list(
            zip(records, outcome.before[name], outcome.after[name], strict=True)
        )[:NUM_EXAMPLES]
    ]
    return outcome, config, said


def _label(answer: ClassAnswer) -> str:
    return answer.label_names[int(answer.predicted[0])]


def _tell(console: Console, outcome: Outcome, said: Said) -> None:
    """One message that was forgotten and one that was kept, and how many get the filed label."""
    roles = {"forgotten": "forget", "kept": "retain"}
    for role, name in roles.items():
        example = next(one for one in outcome.report["examples"] if one["role"] == role)
        console.print(f"\n[bold]{role}: {escape(example['prompt'])}[/]", soft_wrap=True)
        console.print(f"  {'filed':10}{example['truth']}")
        for when, answers in said.items():
            console.print(f"  {when:10}{_label(answers[name][0])}")
    console.print()
    for role, name in roles.items():
        before, after, retrained = (_right(answers[name]) for answers in said.values())
        console.print(
            f"{role}: {before} of {len(said['before'][name])} given the filed label before, "
            f"{after} after, {retrained} by the retrained model",
            soft_wrap=True,
        )


def _right(answers: Sequence[ClassAnswer]) -> int:
    return sum(answer.predicted[0] == answer.labels[0] for answer in answers)
