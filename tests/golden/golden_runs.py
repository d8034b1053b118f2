"""The golden runs: command lines, and the one place that calls the program.

Nothing of the package is imported but to take its clock away: all goes through `python -m
unlearner`, within this process.
"""

import io
import math
import os
import runpy
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"  # saved tokenizers tell whether the hub was within reach

import torch
from huggingface_hub import constants as hub
from threadpoolctl import threadpool_limits
from torch.optim.optimizer import register_optimizer_step_post_hook

# Digests of records are keyed by this file's text.
KEY = "golden " * 8
ON_TEXT = "--forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl --quiet "
ON_REPLIES = ON_TEXT.replace("forget.jsonl", "replies.jsonl")
ON_LABELLED = (
    "--forget labelled-forget.jsonl --retain labelled-retain.jsonl "
    "--holdout labelled-holdout.jsonl --quiet "
)
ON_TAGGED = ON_LABELLED.replace("labelled", "tagged")
FEW = "evaluation.resamples=20"
SHORT = f"{FEW} method.max_epochs=3 method.stop=never"
BRIEF = f"{FEW} method.max_epochs=2 method.learning_rate=1e-3 method.steps_per_round=2"
ICU = (
    f"forget good {ON_TEXT} --pool pool.jsonl --output run {FEW} method.max_epochs=4 "
    "method.batch_size=3 method.fresh_per_step=4 method.learning_rate=1e-3 method.encoder=tf-idf "
    "training.checkpoint_every=1"
)
DEEPCUT = f"forget texts {ON_LABELLED} --output run {BRIEF} training.checkpoint_every=1"
COMPARED = "idk,dpo,simnpo,undial,weighted_gradient_ascent,kl_minimization,gradient_ascent,rmu,llmu"
CLASSIFIED = (
    "finetune",
    "gradient_ascent",
    "gradient_difference",
    "random_labels",
    "bad_teacher",
    "scrub",
    "contrastive_unlearning",
    "salun",
    "l1_sparse",
    "calibrated_distillation",
)


@dataclass(frozen=True)
class Run:
    """Command lines in one folder of records and models.

    Attributes:
        lines: Without the program's name.
        stop_behind: The first command gets Ctrl-C behind this optimiser step.
        pages: Folders whose report is rendered, and the pages kept, without the clock.
        brief: Of reports the figures and a digest are kept.
        slow: Takes a minute.
    """

    lines: tuple[str, ...]
    stop_behind: int | None = None
    pages: tuple[str, ...] = ("run",)
    brief: bool = False
    slow: bool = False


RUNS: Mapping[str, Run] = {
    "icu": Run((ICU,)),
    "icu-resumed": Run((ICU, "forget --resume --quiet --output run"), stop_behind=3),
    "icu-text": Run(
        (
            f"forget good {ON_TEXT} --output run {FEW} method.max_epochs=3 method.refine_by=text "
            "method.pairs=fixed method.forget_bound=none method.encoder=tf-idf method.batch_size=4",
        )
    ),
    "npo": Run(
        (
            f"forget good {ON_REPLIES} --output run --method npo {SHORT} data.scope=response "
            "data.request_id=letter-7 --show-text",
            "strength run --points 3 --quiet",
        )
    ),
    "gradient-difference-lora": Run(
        (
            f"forget good {ON_TEXT} --output run --method gradient_difference {SHORT} "
            "training.lora_rank=2 training.keep_adapter=true method.learning_rate=5e-3",
        )
    ),
    "search": Run(
        (
            f"forget good {ON_TEXT} --output run --method npo --search search.trials=3 {FEW} "
            "method.max_epochs=4 method.learning_rate=5e-3",
        )
    ),
    "compare": Run(
        (
            f"compare good {ON_TEXT} --methods npo,gradient_difference --seeds 2 --output run "
            f"search.trials=2 {FEW} method.max_epochs=3 method.learning_rate=5e-3",
        )
    ),
    "compare-methods": Run(
        (
            f"compare good {ON_REPLIES} --methods {COMPARED} --no-search --output run {FEW} "
            "--retrained retrained method.max_epochs=1 method.learning_rate=1e-3",
        ),
        brief=True,
    ),
    "task-arithmetic": Run(
        (f"forget good {ON_TEXT} --output run --method task_arithmetic {FEW} method.max_epochs=2",)
    ),
    "evaluate": Run(
        (
            f"evaluate good {ON_TEXT} --output alone {FEW}",
            f"evaluate retrained {ON_TEXT} --target good --retrained retrained --output run {FEW}",
        ),
        pages=("run", "alone"),
    ),
    "check": Run(
        (
            "check good --forget forget.jsonl --retain pool.jsonl --holdout holdout.jsonl "
            f"training.device=cpu {FEW}",
            "check texts --forget labelled-forget.jsonl --retain labelled-all.jsonl "
            f"--holdout labelled-holdout.jsonl training.device=cpu {FEW} --drop-duplicates",
        ),
        pages=(),
    ),
    "finetune": Run(
        (
            "finetune good --records replies.jsonl --output run --quiet epochs=3 batch_size=4",
            "finetune good --records replies.jsonl --output until --quiet epochs=30 batch_size=3 "
            "learning_rate=3e-3 --until ma>=0.9",
            "finetune encoder --records labelled-all.jsonl --output texts-again --quiet epochs=2",
            "finetune encoder --records tagged-all.jsonl --output tags-again --quiet epochs=2 "
            "--labels-of tags",
        ),
        pages=(),
    ),
    "deepcut-texts": Run((f"{DEEPCUT} --test labelled-test.jsonl --retrained texts-retrained",)),
    "deepcut": Run((DEEPCUT,)),
    "deepcut-resumed": Run((DEEPCUT, "forget --resume --quiet --output run"), stop_behind=3),
    "deepcut-tags": Run(
        (
            f"forget tags {ON_TAGGED} --test tagged-test.jsonl --output run {BRIEF} "
            "--retrained tags-retrained",
        )
    ),
    "forget-class": Run(
        (
            "forget texts --forget-class colour --retain labelled-all.jsonl "
            f"--holdout labelled-holdout.jsonl --quiet --output run {BRIEF}",
        )
    ),
    "evaluate-classifier": Run(
        (
            f"evaluate texts-retrained {ON_LABELLED} --target texts --retrained texts-retrained "
            f"--output run {FEW}",
            f"evaluate tags {ON_TAGGED} --output tags-run {FEW}",
        ),
        pages=("run", "tags-run"),
    ),
    "classifier-methods": Run(
        tuple(
            f"forget {model} {records} --output {model}-{name} --method {name} {FEW} "
            "method.max_epochs=1 method.learning_rate=1e-3"
            for model, records in (("texts", ON_LABELLED), ("tags", ON_TAGGED))
            for name in CLASSIFIED
        ),
        pages=(),
        brief=True,
    ),
    "retrain": Run(
        (
            "finetune encoder --records labelled-all.jsonl --output target --quiet epochs=4",
            f"forget target {ON_LABELLED} --force --output run --method retrain {FEW}",
            f"forget target {ON_LABELLED} --force --output sisa --method sisa {FEW} "
            "method.num_shards=2 method.num_slices=2",
        ),
        pages=("run", "sisa"),
    ),
    "list": Run(("list methods", "list metrics", "list attacks", "list datasets"), pages=()),
    "demo-icu": Run(("demo icu --seed 0 --output run",), slow=True),
    "demo-deepcut": Run(("demo deepcut --seed 0 --output run",), slow=True),
}


@dataclass(frozen=True)
class Ended:
    """How a command line ended.

    Attributes:
        status: Its exit status.
        printed: What it wrote to standard output.
    """

    status: int
    printed: str


def unlearner(line: str) -> Ended:
    """Run a command line as `python -m unlearner` does, in this process."""
    before, printed, status = signal.getsignal(signal.SIGTERM), io.StringIO(), 0
    try:
        with patch.object(sys, "argv", ["unlearner", *line.split()]), redirect_stdout(printed):
            runpy.run_module("unlearner", run_name="__main__")
    except SystemExit as end:
        status = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(status, int)
    return Ended(status, printed.getvalue())


@contextmanager
def in_folder(folder: Path, world: Path) -> Iterator[None]:
    """Let the block's commands run in a folder of the world's files, alike on every machine.

    One thread, an environment of its own, no encoder that happens to lie on the machine, no clock.
    """
    for path in world.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "key").write_text(KEY, encoding="ascii")
    (folder / "hub").mkdir()
    environment = {
        "UNLEARNER_KEY_FILE": str(folder / "key"),
        "UNLEARNER_CACHE": str(folder / "cache"),
        "UNLEARNER_TRACEBACK": "1",
        "COLUMNS": "100",
    }
    here, threads = Path.cwd(), torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment))
        stack.enter_context(patch.object(hub, "HF_HUB_CACHE", str(folder / "hub")))
        # Else a slow machine would leave out what a fast one measures.
        stack.enter_context(patch("unlearner.pipeline.relearning.SECONDS", math.inf))
        stack.enter_context(threadpool_limits(1))
        stack.callback(os.chdir, here)
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        os.chdir(folder)
        yield


def carry_out(run: Run) -> list[Ended]:
    """Run the lines in the working folder, the first one until it is stopped, if it is to be."""
    ended = []
    for number, line in enumerate(run.lines):
        with _stopped(run.stop_behind if number == 0 else None):
            ended.append(unlearner(line))
    return ended


@contextmanager
def _stopped(step: int | None) -> Iterator[None]:
    """Ctrl-C behind an optimiser step of the block."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGINT)

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()
