"""ICU's learning rate over widths of the model: how soon it is at the level, and what that costs.

    python benchmarks/rate_by_width.py --work FOLDER

For each width a Llama of two layers with random weights learns 72 paragraphs of old books by heart;
ICU makes it forget 24 of them at its defaults, but for the rate, which is `times` / width.
`--data` holds `public-domain-text` and the tokenizer of `models/stories260k`. Finished rows stay in
the work folder. Writes `results/rate-by-width.{md,json}`.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from real_classifiers import Rows, one_thread
from speed_cases import shared_data
from unlearner import provenance
from unlearner.data.loading import read_records
from unlearner.data.windows import Layout, tokenize_set
from unlearner.models.loading import num_parameters, save
from unlearner.pipeline import pipeline
from unlearner.settings import CriteriaSettings, TrainingSettings
from unlearner.training.finetune import FinetuneSettings, Until, finetune_model
from unlearner.training.log import Log
from unlearner.training.stop_rule import RECOVERED_AT
from unlearner.training.trainer import AUTO_RATE_TIMES_WIDTH, Result, Trainer

RESULTS = Path(__file__).parent / "results"
WIDTHS = (64, 128, 256, 512)
TIMES = (0.016, 0.032, 0.064, 0.128)  # the rate is one of them / width
SEEDS = (0, 1)

BOOKS = ("GrimmsFairyTales", "bronte", "darwin", "dubois", "shakespeare")
NUM_OF_BOOK = 20
LEAST_TOKENS, MOST_TOKENS = 40, 80  # of a paragraph
SETS = {"forget": 24, "retain": 48, "holdout": 28}
GOAL = "ma>=0.97"
HEAD_WIDTH = 32
# Steps of an epoch in which all are remembered: the page is of ICU with eight records a step.
EPOCH = SETS["forget"] / 8

COLUMNS = (
    "width",
    "c",
    "rate",
    "steps to the limits",
    "epochs",
    "MA there",
    "overshoot",
    "retain ratio there",
    "steps in all",
    "epochs in all",
    "MA",
    "retain ratio",
    "unseen ratio",
    "verdict",
)
SUMMARY = (
    "c",
    "widths",
    "met",
    "steps to the limits, mean",
    "steps in all, mean",
    "overshoot, most",
    "retain ratio there, most",
    "overshoot in the end, most",
    "retain ratio, most",
    "unseen ratio, mean",
)

INTRODUCTION = f"""\
# ICU's learning rate over widths

Llamas of two layers with random weights, trained on {SETS["forget"] + SETS["retain"]} paragraphs
of five old books ({LEAST_TOKENS} to {MOST_TOKENS} tokens of stories260k's 512) until {GOAL}. ICU
makes them forget {SETS["forget"]} at its defaults, but for the learning rate, c / width; "auto" is
{AUTO_RATE_TIMES_WIDTH} / width. One target per width; seeds are of ICU.

`there` is the first round with MA, EL_10 and ES of the set, and MA and EL_10 of each record, within
what unseen text could have: from there on records are pushed no more and retained text recovers.
`overshoot` is how far MA was below unseen text's mean there. `retain ratio` is the perplexity of
the retained paragraphs over the target's, in the end as the report measures it; ICU ends at
{RECOVERED_AT} and the verdict asks for {CriteriaSettings().perplexity_ratio:.2f}; `unseen ratio` is
that of the unseen paragraphs. An epoch of all records is {EPOCH:g} steps; epochs are steps over
that, since later ones are shorter."""

# Measured apart from this script, with an epoch between two rounds.
SMOLLM2 = """\
One larger model, measured before rounds came sooner near the level and the rate fell there, with an
epoch of 3 steps between two rounds: SmolLM2-135M-Instruct (30 layers, width 576), TOFU, 8 forget
and 24 retained windows a step, 0.064 / 576. MA by round 1.000, .929, .849, .783, .652, .421; unseen
about .37, limit .60; perplexity of retained text 1.023 before and 1.046 after, ratio 1.023; met
after 5 epochs, 15 steps."""


class WatchedTrainer(Trainer):
    """Keeps every evaluation round whole; a report's lines leave out whether limits are kept."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings, Log())
        self.course: list[dict[str, Any]] = []

    def evaluate_round(self, examine: Callable[[], Result]) -> Result:
        found = super().evaluate_round(examine)
        assert isinstance(found, dict)
        kept = {name: found[name] for name in ("suppressed", "kept_ratio")}
        figures = {name: found["values"].get(name) for name in ("ma", "el_10", "es")}
        line = {"steps": self.steps, "active": len(found["active"])} | figures | kept
        self.course.append(line)
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=shared_data())
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--times", type=float, nargs="+", default=TIMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--output", type=Path, default=RESULTS / "rate-by-width.md")
    asked = parser.parse_args(arguments)
    one_thread()
    tokenizer = AutoTokenizer.from_pretrained(asked.data / "models" / "stories260k")
    write_sets(asked.data / "public-domain-text", asked.work, tokenizer)
    rows = Rows(asked.work / "rows.jsonl")
    for width in asked.widths:
        for seed in asked.seeds:
            for times in asked.times:
                if not rows.has({"width": width, "seed": seed, "times": times}):
                    target = make_target(width, asked.work, tokenizer)
                    rows.add(measure(target, width, seed, times, asked.work))
    write_table(rows.all(), asked.output)


def write_sets(books: Path, work: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """The three sets of paragraphs, as many of each book, shuffled; the same for all widths."""
    rng, found = np.random.default_rng(0), []
    for book in BOOKS:
        text = (books / f"{book}.txt").read_text(encoding="utf-8", errors="replace")
        parts = dict.fromkeys(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
        fitting = [
            part
            for part in parts
            if len(part.split()) <= MOST_TOKENS  # a word is a token at least
            and LEAST_TOKENS <= len(tokenizer(part, truncation=False)["input_ids"]) <= MOST_TOKENS
        ]
        found += [fitting[i] for i in rng.choice(len(fitting), NUM_OF_BOOK, replace=False)]
    order = iter(rng.permutation(len(found)))
    work.mkdir(parents=True, exist_ok=True)
    for name, count in SETS.items():
        lines = [json.dumps({"text": found[next(order)]}) + "\n" for _ in range(count)]
        (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def make_model(width: int, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama of two layers with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // HEAD_WIDTH),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    provenance.set_seeds(0)
    return LlamaForCausalLM(config)


def make_target(width: int, work: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of a model that knows forget and retain set by heart; it is made once."""
    folder = work / f"target-{width}"
    if (folder / "learned.json").exists():
        return folder
    records = [
        record
        for name in ("forget", "retain")
        for record in read_records(work / f"{name}.jsonl", name=name).records
    ]
    texts = read_records([record.text for record in records], name="records")
    lesson = tokenize_set(texts, tokenizer, Layout())
    model, started = make_model(width, tokenizer), time.process_time()
    result = finetune_model(
        model,
        tokenizer,
        lesson,
        FinetuneSettings(epochs=200),
        Trainer(TrainingSettings(device="cpu"), Log()),
        Until.parse(GOAL),
    )
    assert result.reached, f"width {width}: MA {result.value} after {result.epochs} epochs"
    save(result.model, tokenizer, folder)
    learned = {"epochs": result.epochs, "ma": result.value}
    learned["seconds"] = time.process_time() - started
    (folder / "learned.json").write_text(json.dumps(learned), encoding="utf-8")
    return folder


def measure(target: Path, width: int, seed: int, times: float, work: Path) -> dict[str, Any]:
    """One run of ICU and its verdict."""
    sections = {
        "model": {"name": str(target)},
        "data": {name: str(work / f"{name}.jsonl") for name in SETS},
        "method": {"name": "icu", "learning_rate": times / width},
        "training": {"seed": seed, "device": "cpu"},
        "evaluation": {"resamples": 100},
    }
    config, family = pipeline.read_config(sections)
    provenance.set_seeds(seed)
    prepared, trainer = pipeline.start(config, family), WatchedTrainer(config.training)
    baseline = pipeline.measure_baseline(config, prepared, lambda _: None, force=False)
    baseline = family.for_method(config, prepared, baseline)
    started = time.process_time()
    outcome = pipeline.carry_out(
        config,
        prepared,
        baseline,
        trainer,
        work / "last-run",
        unlearn=lambda: config.method.unlearn(prepared.loaded.model, baseline.data, trainer),
        say=lambda _: None,
    )
    level = baseline.data.level
    return {
        "width": width,
        "seed": seed,
        "times": times,
        "rate": times / width,
        "parameters": num_parameters(prepared.loaded.model),
        "learned": json.loads((target / "learned.json").read_text(encoding="utf-8")),
        "level": level.ma,
        "limit": level.limit("ma"),
        "verdict": outcome.verdict.status,
        "final": figures(outcome.report["results"]),
        "course": trainer.course,
        "seconds": time.process_time() - started,
        "environment": provenance.environment(torch.device("cpu"), seed),
    }


def figures(results: dict[str, Any]) -> dict[str, float]:
    """What the report says of the saved model."""
    before, after = results["target"], results["unlearned"]
    ratio = {
        name: after[name]["perplexity"]["value"] / before[name]["perplexity"]["value"]
        for name in ("retain", "holdout")
    }
    forget = {name: after["forget"][name]["value"] for name in ("ma", "el_10", "mia_loss_auc")}
    return forget | {f"{name}_ratio": value for name, value in ratio.items()}


def to_limits(row: dict[str, Any]) -> dict[str, Any] | None:
    """The first round with the set and each single record within the limits; None without one."""
    return next((line for line in row["course"] if line["suppressed"]), None)


def overshoot(row: dict[str, Any]) -> float | None:
    """How far MA was below the level of unseen text in that round; 0 when it was above it."""
    first = to_limits(row)
    return None if first is None else max(0.0, row["level"] - first["ma"])


def equal_steps_power(rows: Sequence[dict[str, Any]]) -> float:
    r"""The power p of the width with which c / width^p takes as many steps at every width.

    Least squares of log steps = k - b log c - a log width, which was measured with p = 1; with
    another p, c is c width^{1 - p}, and the width has no effect where b (1 - p) + a = 0.
    """
    lines = [(row, first["steps"]) for row in rows if (first := to_limits(row))]
    known = [[1.0, -np.log(row["times"]), -np.log(row["width"])] for row, _ in lines]
    steps = [np.log(count) for _, count in lines]
    (_, b, a), *_ = np.linalg.lstsq(np.array(known), np.array(steps), rcond=None)
    return float(1 + a / b)


def line_of(rows: Sequence[dict[str, Any]]) -> str:
    """A line of the table: the runs of one width and rate, a figure for each seed."""
    one, firsts = rows[0], [to_limits(row) for row in rows]
    ends = [row["course"][-1]["steps"] for row in rows]
    cells = [
        one["width"],
        f"{one['times']:g}",
        f"{one['rate']:.2e}",
        " / ".join(str(first["steps"]) if first else "-" for first in firsts),
        " / ".join(f"{first['steps'] / EPOCH:.1f}" if first else "-" for first in firsts),
        " / ".join(f"{first['ma']:.3f}" if first else "-" for first in firsts),
        " / ".join("-" if (some := overshoot(row)) is None else f"{some:.3f}" for row in rows),
        " / ".join(f"{first['kept_ratio']:.2f}" if first else "-" for first in firsts),
        " / ".join(map(str, ends)),
        " / ".join(f"{steps / EPOCH:.1f}" for steps in ends),
        " / ".join(f"{row['final']['ma']:.3f}" for row in rows),
        " / ".join(f"{row['final']['retain_ratio']:.3f}" for row in rows),
        " / ".join(f"{row['final']['holdout_ratio']:.1f}" for row in rows),
        " / ".join(row["verdict"] for row in rows),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def target_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each width: its target, and what unseen text has under it."""
    found = {row["width"]: row for row in rows}
    return [
        f"| {width} | {row['parameters']:,} | {row['learned']['epochs']} "
        f"| {row['learned']['ma']:.3f} | {row['level']:.3f} | {row['limit']:.3f} |"
        for width, row in sorted(found.items())
    ]


def summary_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each c: all its runs together."""
    found = []
    for times in sorted({row["times"] for row in rows}):
        same = [row for row in rows if row["times"] == times]
        firsts = [first for row in same if (first := to_limits(row))]
        cells = [
            f"{times:g}",
            ", ".join(str(width) for width in sorted({row["width"] for row in same})),
            f"{sum(row['verdict'] == 'met' for row in same)} of {len(same)}",
            f"{fmean(first['steps'] for first in firsts):.0f}" if firsts else "-",
            f"{fmean(row['course'][-1]['steps'] for row in same):.0f}",
            f"{max(overshoot(row) or 0.0 for row in same):.3f}",
            f"{max(first['kept_ratio'] for first in firsts):.2f}" if firsts else "-",
            f"{max(max(0.0, row['level'] - row['final']['ma']) for row in same):.3f}",
            f"{max(row['final']['retain_ratio'] for row in same):.3f}",
            f"{fmean(row['final']['holdout_ratio'] for row in same):.1f}",
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def write_table(rows: list[dict[str, Any]], output: Path) -> None:
    """The page, and every row with its course as JSON."""
    rows = sorted(rows, key=lambda row: (row["width"], row["times"], row["seed"]))
    environment = rows[0]["environment"] | {"seed": sorted({row["seed"] for row in rows})}
    rows = [{name: row[name] for name in row if name != "environment"} for row in rows]
    pairs = {(row["width"], row["times"]): [] for row in rows}
    for row in rows:
        pairs[row["width"], row["times"]].append(row)
    versions = environment["versions"]
    lines = [
        *INTRODUCTION.splitlines(),
        "",
        f"{environment['hardware']['machine']}, one thread, float32; torch {versions['torch']}, "
        f"transformers {versions['transformers']}.",
        "Made by `benchmarks/rate_by_width.py`, with the whole course of each run in the JSON.",
        "",
        "| width | parameters | epochs to learn | MA | MA of unseen text | limit |",
        "|" + " --- |" * 6,
        *target_lines(rows),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * len(COLUMNS),
        *map(line_of, pairs.values()),
        "",
        f"Seeds: {' / '.join(map(str, sorted({row['seed'] for row in rows})))}. "
        "One figure: one of them only. All widths together (not every width with every c, nor",
        "with both seeds; `in the end` is of the saved model):",
        "",
        f"| {' | '.join(SUMMARY)} |",
        "|" + " --- |" * len(SUMMARY),
        *summary_lines(rows),
        "",
        f"By least squares a rate of c / width^{equal_steps_power(rows):.2f} takes as many steps "
        "to the limits at every width.",
        "",
        *SMOLLM2.splitlines(),
    ]
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n"
    output.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
