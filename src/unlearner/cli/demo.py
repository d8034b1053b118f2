"""The whole story on invented people: a model learns them, a request comes, the model forgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from unlearner import provenance
from unlearner.cli.terminal import RunProgress, print_verdict
from unlearner.config import RunConfig
from unlearner.data.record import RecordSet
from unlearner.demo.customers import DemoData, dossiers, split
from unlearner.demo.models import build_model, build_tokenizer
from unlearner.families import CAUSAL_LM
from unlearner.families.causal_lm import prepare_text
from unlearner.inference.answers import Answer
from unlearner.models.loading import Loaded, limit_threads
from unlearner.output import staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import Outcome, write_outcome
from unlearner.settings import DataSettings, TrainingSettings
from unlearner.training.finetune import FinetuneSettings, finetune
from unlearner.training.log import Log, quieten
from unlearner.training.trainer import Trainer

NUM_PEOPLE, NUM_FORGET, NUM_HOLDOUT = 252, 12, 40

LEARNING = FinetuneSettings(epochs=20)

# The vocabulary is not unlearned, so it is learned from people who are in none of the sets.
NUM_OTHERS, OTHER_SEED = 400, 1000

# Six in seven of the people who stay are recited word for word at the usual 1.05.
RECOVERED_AT = 1.01

MET, NOT_MET = 0, 3


def run_demo(output: Path, *, seed: int) -> int:
    """`unlearner demo icu`: 0 when the verdict is met, else 3."""
    quieten()
    started = time.perf_counter()
    console = Console(highlight=False)
    with staged(output) as work:
        data = split(
            dossiers(NUM_PEOPLE, seed=seed), num_forget=NUM_FORGET, num_holdout=NUM_HOLDOUT
        )
        console.print(
            f"{NUM_PEOPLE} invented customers: a small GPT-Neo learns the dossiers of "
            f"{len(data.trained)} by heart; {len(data.holdout)} it never sees",
            soft_wrap=True,
        )
        loaded = _train(data, seed)
        outcome, config = _forget(loaded, data, work, seed)
        outcome.report["examples"] = _examples(data, outcome)
        write_outcome(outcome, config, work)
    _tell(console, outcome, data)
    print_verdict(outcome.report, output)
    console.print(f"{time.perf_counter() - started:.0f} seconds in all")
    return MET if outcome.verdict.status == "met" else NOT_MET


def _train(data: DemoData, seed: int) -> Loaded:
    """A model from scratch that has memorised everybody but the holdout people."""
    others = dossiers(NUM_OTHERS, seed=seed + OTHER_SEED)
    tokenizer = build_tokenizer(record.content for record in others)
    loaded = Loaded(build_model(tokenizer, seed=seed).eval(), tokenizer, "demo GPT-Neo")
    limit_threads(loaded.model)
    provenance.set_seeds(seed)
    trained = RecordSet("records", data.trained, "memory")
    records = prepare_text(CAUSAL_LM, loaded, {"records": trained}, DataSettings())["records"]
    progress = RunProgress(quiet=False, num_rounds=LEARNING.epochs)
    trainer = Trainer(TrainingSettings(seed=seed, device="cpu"), Log(None, progress.quiet_line))
    try:
        result = finetune(loaded.model, tokenizer, records, LEARNING, trainer)
    finally:
        progress.stop()
    return Loaded(result.model, tokenizer, loaded.name)


def _forget(loaded: Loaded, data: DemoData, work: Path, seed: int) -> tuple[Outcome, RunConfig]:
    sections = {
        "training": {"seed": seed, "device": "cpu"},
        "data": {"request_id": "demo"},
        "method": {"recovered_at": RECOVERED_AT},
    }
    config = RunConfig.from_sections(sections)
    given = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout}
    prepared = pipeline.start(config, CAUSAL_LM, given, loaded)
    progress = RunProgress(quiet=False, num_rounds=config.method.max_epochs)
    progress.say(f"a deletion request arrives for {len(data.forget)} of them")
    log = Log(work / "log.jsonl", progress.line)
    try:
        outcome = pipeline.forget(config, prepared, work, log=log, say=progress.say)
    finally:
        progress.stop()
    outcome.report["model"]["name"] = loaded.name
    return outcome, config


def _examples(data: DemoData, outcome: Outcome) -> list[dict[str, Any]]:
    """What the model says of the first forgotten people, and of as many who stay."""
    return [
        {
            "id": record.id,
            "role": role,
            "prompt": record.prompt,
            "truth": record.response,
            "before": before.continuation_text.strip(),
            "after": after.continuation_text.strip(),
        }
        for role, records, name in (
            ("forgotten", data.forget, "forget"),
            ("kept", data.retain, "retain"),
        )
        for record, before, after in list(
            zip(records, outcome.before[name], outcome.after[name], strict=False)
        )[:3]
    ]


def _tell(console: Console, outcome: Outcome, data: DemoData) -> None:
    """One person before and after, and how many of each kind are still answered."""
    for example in outcome.report["examples"]:
        if example["id"] not in (data.forget.records[0].id, data.retain.records[0].id):
            continue
        console.print(f"\n[bold]{example['role']}: {escape(example['prompt'])}[/]")
        for when in ("truth", "before", "after"):
            console.print(f"  {when:7}{escape(example[when].strip())}", soft_wrap=True)
    console.print()
    for role, name in (("forgotten", "forget"), ("kept", "retain")):
        before, after = outcome.before[name], outcome.after[name]
        console.print(
            f"{role}: {_right(before)} of {len(before)} answered word for word before, "
            f"{_right(after)} after"
        )


def _right(answers: Sequence[Answer]) -> int:
    return sum(answer.continuation_text == answer.reference_text for answer in answers)
