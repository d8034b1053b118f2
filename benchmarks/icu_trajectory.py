"""ICU's preset "paper" beside the published loop, epoch by epoch, and variants of its defaults.

python benchmarks/icu_trajectory.py makes a small GPT-Neo that knows 32 records of 200 tokens and
their pairs, runs both loops on it over several seeds, and writes a table. On one thread; what has
been run is kept in WORK.
"""

import argparse
import copy
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from published_icu import PublishedLoop, remembered_by_text
from unlearner import provenance, unlearn
from unlearner.data.record import Record
from unlearner.data.windows import CONTINUATION_TOKENS, TokenizedSet, Window
from unlearner.inference.language_model import Questions
from unlearner.methods.icu import ICU
from unlearner.output import Json
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.retrieval.neighbours import Retrieved
from unlearner.settings import TrainingSettings
from unlearner.training.data import HoldoutBaseline, UnlearningData
from unlearner.training.log import Log
from unlearner.training.stop_rule import Refinement, Rules
from unlearner.training.trainer import Trainer

NUM_RECORDS = 32
NUM_KEPT = 128  # whose perplexity is measured; the first are the pairs
NUM_TOKENS = 200
VOCABULARY = 2000
SHAPE = {
    "hidden_size": 128,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 256,
}
RATE = 3e-4  # of unlearning
TARGET_RATE = 2e-3
KNOWN = 0.985  # MA of the records to be forgotten at which the target's training ends

# The published code's limits and no other.
LEVEL = HoldoutBaseline(0.5994, 0.0499, None, None, 0.5994, 0.0499, "published")

PUBLISHED = "published loop"
# The preset, and what it was with rules of the defaults in it.
BY_PAIRS: Mapping[str, Json] = {
    "preset": {},
    "preset, divided by B": {"mean_over": "records"},
    "preset, regrouped and divided by B": {"mean_over": "records", "batches": "regrouped"},
}
DEFAULTS: Mapping[str, Json] = {"defaults": {}, "defaults, original": {"batches": "original"}}
EQUAL_MA = 0.62  # where variants are compared


def main() -> None:
    """Run what was asked for and write the table and the figures."""
    asked = _arguments()
    torch.set_num_threads(1)
    tokenizer, sets = draw_records(asked.data)
    model = make_target(asked.work, sets)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    runs = {
        name: [kept_run(asked.work, name, model, tokenizer, sets, seed) for seed in seeds]
        for name, seeds in ((name, range(asked.seeds)) for name in asked.only)
    }
    environment = provenance.environment(torch.device("cpu"), 0)
    results = {
        "hardware": environment["hardware"],
        "versions": environment["versions"],
        "runs": runs,
    }
    page = render(results)
    asked.output.write_text(page, encoding="utf-8")
    asked.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(page)


def _arguments() -> argparse.Namespace:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("UNLEARNER_DATA", here.parents[1] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="keeps the target")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[PUBLISHED, *BY_PAIRS, *DEFAULTS])
    parser.add_argument("--output", type=Path, default=here / "results" / "icu-trajectory.md")
    return parser.parse_args()


def draw_records(data: Path) -> tuple[PreTrainedTokenizerBase, dict[str, np.ndarray]]:
    """A tokenizer of old prose, and rows of 200 tokens: to be forgotten, to be kept, unseen."""
    books = [path.read_text(encoding="utf-8") for path in sorted(data.glob("public-*/*.txt"))]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["</s>"], initial_alphabet=alphabet
    )
    fast.train_from_iterator([book[:400_000] for book in books], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="</s>")
    tokens = [fast.encode(book[:400_000]).ids for book in books]
    rows = np.concatenate([_rows(ids) for ids in tokens])
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    ends = np.cumsum([NUM_RECORDS, NUM_KEPT, NUM_KEPT])
    return tokenizer, dict(zip(("forget", "retain", "holdout"), np.split(rows, ends), strict=False))


def _rows(ids: list[int]) -> np.ndarray:
    return np.array(ids[: len(ids) // NUM_TOKENS * NUM_TOKENS]).reshape(-1, NUM_TOKENS)


def make_target(work: Path, sets: Mapping[str, np.ndarray]) -> PreTrainedModel:
    """A model that knows the records to be forgotten and those to be kept; made once."""
    folder = work / "icu-trajectory-target"
    if not folder.exists():
        config = AutoConfig.for_model("gpt_neo", vocab_size=VOCABULARY, **SHAPE)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _learn(model, *(torch.from_numpy(sets[name]) for name in ("forget", "retain")))
        model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def _learn(model: PreTrainedModel, forget_NT: Tensor, kept_NT: Tensor) -> None:
    """The records to be forgotten twice for each time of the others, and half of it from within.

    A model that has learned rows from their beginning alone knows nothing of them at other
    positions, where refinement asks for them.
    """
    optimiser = torch.optim.AdamW(model.parameters(), TARGET_RATE)
    ids_NT = torch.cat([forget_NT, forget_NT, kept_NT])
    known, epoch = 0.0, 0
    while known < KNOWN:
        for number, rows in enumerate(torch.randperm(len(ids_NT)).split(16)):
            start = int(torch.randint(1, NUM_TOKENS - CONTINUATION_TOKENS, ())) * (number % 2)
            optimiser.zero_grad()
            _loss_and_hits(model, ids_NT[rows, start:])[0].backward()
            optimiser.step()
        epoch += 1
        with torch.no_grad():
            known = float(_loss_and_hits(model, forget_NT)[1])
        print(f"target: epoch {epoch}, MA {known:.3f}", flush=True)


def _loss_and_hits(model: PreTrainedModel, ids_NT: Tensor) -> tuple[Tensor, Tensor]:
    logits_NTV, labels_NT = model(input_ids=ids_NT).logits[:, :-1], ids_NT[:, 1:]
    loss = cross_entropy(logits_NTV.flatten(0, 1), labels_NT.flatten())
    return loss, (logits_NTV.argmax(-1) == labels_NT).float().mean()


def kept_run(work: Path, name: str, *given: Any) -> list[Json]:
    """As `run`, of a copy of the model; what was run before is read."""
    model, tokenizer, sets, seed = given
    path = work / f"icu-trajectory-{name.replace(' ', '-').replace(',', '')}-{seed}.json"
    if not path.exists():
        found = run(name, copy.deepcopy(model), tokenizer, sets, seed)
        path.write_text(json.dumps(found), encoding="utf-8")
        print(name, seed, found[-1], flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def run(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, np.ndarray],
    seed: int,
) -> list[Json]:
    """MA, EL_10, kept perplexity and active records after each epoch, and the steps taken."""
    if name in DEFAULTS:
        return _defaults(model, tokenizer, sets, {"batches": "regrouped", **DEFAULTS[name]}, seed)
    data = _paired_data(tokenizer, sets)
    if name == PUBLISHED:
        return _published(model, data, sets, seed)
    worker = Trainer(TrainingSettings(device="cpu", seed=seed), Log())
    fields = {"preset": "paper", "learning_rate": RATE, "max_epochs": 15, **BY_PAIRS[name]}
    ICU(**fields).unlearn(model, data, worker)
    return _lines(worker.rounds)


def _published(
    model: PreTrainedModel, data: UnlearningData, sets: Mapping[str, np.ndarray], seed: int
) -> list[Json]:
    records_NT, pairs_NT = (
        torch.from_numpy(sets[name][:NUM_RECORDS]) for name in ("forget", "retain")
    )
    loop = PublishedLoop(model, records_NT, pairs_NT, RATE)
    measure, generator = Refinement(Rules(), data), torch.Generator().manual_seed(seed)
    first, lines = None, []
    for number in range(16):
        state = measure.examine(model, number, first)
        first = first or state
        remembered = remembered_by_text(model, data.tokenizer, records_NT)
        lines.append({**state.line({}), "active": len(remembered)})
        if (state.values["ma"] < LEVEL.ma and state.values["el_10"] < LEVEL.el_10) or (
            not remembered
        ):
            break
        loop.epoch(remembered, torch.randperm(NUM_RECORDS, generator=generator).tolist())
    return _lines(lines)


def _defaults(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, np.ndarray],
    fields: Json,
    seed: int,
) -> list[Json]:
    settings = {
        "method": {"encoder": "tf-idf", **fields},
        "training": {"seed": seed, "device": "cpu"},
        "evaluation": {"resamples": 10},
    }
    forget, retain, holdout = (
        [{"input_ids": row.tolist()} for row in sets[name]]
        for name in ("forget", "retain", "holdout")
    )
    result = unlearn(
        model,
        forget=forget,
        retain=retain,
        holdout=holdout,
        method="icu",
        tokenizer=tokenizer,
        settings=settings,
    )
    return [*_lines(result.report["rounds"]), {"verdict": result.verdict.status}]


def _paired_data(
    tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, np.ndarray]
) -> UnlearningData:
    forget, retain = (_tokenized(name, sets[name]) for name in ("forget", "retain"))
    every = list(range(NUM_RECORDS))
    found = Retrieved(((0,),), ((1.0,),), "none", (), 0)
    pairs = AnalogousSet(every, retain.subset(every), every, found, 0)
    return UnlearningData(
        *(tokenizer, forget, retain, retain, pairs, LEVEL, Questions(prompt_start=0.75), 1e9)
    )


def _tokenized(name: str, rows: np.ndarray) -> TokenizedSet:
    scored, prefix = np.ones(NUM_TOKENS - 1, dtype=bool), NUM_TOKENS - CONTINUATION_TOKENS
    windows = tuple(Window(i, str(i), row, scored, prefix) for i, row in enumerate(rows))
    records = tuple(Record(str(i), input_ids=tuple(row)) for i, row in enumerate(rows.tolist()))
    return TokenizedSet(name, records, windows, "memory")


def _lines(rounds: Sequence[Json]) -> list[Json]:
    return [
        {name: line[name] for name in ("ma", "el_10", "retain_perplexity", "active")}
        for line in rounds
    ]


def render(results: Json) -> str:
    """The trajectories: mean over the seeds that still ran, and least to most."""
    runs = {
        name: [[line for line in lines if "ma" in line] for lines in found]
        for name, found in results["runs"].items()
    }
    longest = max(len(lines) for found in runs.values() for lines in found)
    epochs = range(min(longest, 9))
    table = [
        ["loop", "figure", *map(str, epochs), f"at MA {EQUAL_MA}", "epochs"],
        ["---"] * (len(epochs) + 4),
    ]
    for name, found in runs.items():
        for key, label in (("ma", "MA"), ("retain_perplexity", "kept perplexity")):
            row = [_spread([lines[n][key] for lines in found if n < len(lines)]) for n in epochs]
            at = [perplexity_at(lines, EQUAL_MA) for lines in found]
            is_ma = key == "ma"
            ends = ", ".join(str(len(lines) - 1) for lines in found) if is_ma else ""
            table.append([name, label, *row, "" if is_ma else _spread(at), ends])
    return "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def perplexity_at(lines: Sequence[Json], level: float) -> float:
    """Kept perplexity where MA first falls to a level, between two epochs by a straight line."""
    for before, after in pairwise(lines):
        if after["ma"] <= level < before["ma"]:
            share = (before["ma"] - level) / (before["ma"] - after["ma"])
            first, last = before["retain_perplexity"], after["retain_perplexity"]
            return first + share * (last - first)
    return math.nan


def _spread(values: Sequence[float]) -> str:
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
