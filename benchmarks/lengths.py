"""A step's windows run together by length, beside all of them padded to one length.

    python benchmarks/lengths.py [--models FOLDER ...]

Steps of real answers of TOFU, which are of unequal length, drawn by seed: the forward and backward
pass of their mean loss by `unlearner.inference.reference.likelihoods`, with what one more pass is
taken to cost (`PASS_TOKENS`, in tokens) from nothing up to more than any padding. Every way of a
step is timed in turn. Writes `results/lengths.md` and `.json`.
"""

import argparse
import json
import os
import random
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from speed_cases import shared_data
from speed_timing import timed
from unlearner import provenance
from unlearner.data.batches import collate, length_groups
from unlearner.data.windows import Window
from unlearner.functional import Tensors
from unlearner.inference import reference
from unlearner.models.loading import load_causal_lm

RESULTS = Path(__file__).resolve().parent / "results" / "lengths.md"
TOGETHER = 10**9  # one pass, whatever the padding
COSTS = (TOGETHER, 512, 128, 64, 16, 0)
ANSWERS = 160
HEAD = """# A step's windows by length

Written by `python benchmarks/lengths.py`; do not edit. A forward and backward pass of windows of
TOFU's answers, drawn at random; processor time on one thread, times that of all windows padded to
one length, which is the line without a number: the median of {repeats} steps. Positions: tokens and
padding that went through the model, likewise. {machine}

| model | windows | a pass is taken to cost, tokens | passes | positions | time |
| --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    own = Path(__file__).resolve().parents[1] / ".models" / "SmolLM2-135M-Instruct"
    models = [str(shared_data() / "models" / "stories260k"), *([str(own)] if own.exists() else [])]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--windows", nargs="+", type=int, default=[11, 32])
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in asked.models:
        for count in asked.windows:
            rows += measure(model, count, asked.repeats)
            write(rows, asked.repeats)


def measure(name: str, count: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each of `COSTS`."""
    loaded = load_causal_lm(name)
    lines = (shared_data() / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[:ANSWERS]]
    texts = [f"{record['question']} {record['answer']}" for record in records]
    ids = [np.array(loaded.tokenizer(text).input_ids) for text in texts]
    draw, found = random.Random(0), defaultdict(list)
    for _ in range(repeats):
        drawn = draw.sample(ids, count)
        windows = [
            Window(row, str(row), one, np.ones(len(one) - 1, dtype=bool), 1)
            for row, one in enumerate(drawn)
        ]
        batch, lengths = collate(windows), [len(one) for one in drawn]
        whole = None

        def step(batch: Tensors = batch) -> None:
            loaded.model.zero_grad()
            reference.likelihoods(loaded.model, batch).loss().backward()

        step()  # so that memory is there, and the first way is not timed with that
        for costs in COSTS:
            reference.PASS_TOKENS = costs
            _, cost = timed(step)
            groups = length_groups(lengths, costs)
            positions = sum(len(some) * max(lengths[place] for place in some) for some in groups)
            whole = whole or (cost.process, positions)
            found[costs].append((len(groups), positions / whole[1], cost.process / whole[0]))
    return [
        {
            "model": Path(name).name,
            "windows": count,
            "costs": costs,
            **{
                key: median(one[place] for one in some)
                for place, key in enumerate(("passes", "positions", "time"))
            },
        }
        for costs, some in found.items()
    ]


def write(rows: list[dict[str, Any]], repeats: int) -> None:
    """The page and the same as JSON."""
    machine = provenance.environment(torch.device("cpu"), 0)
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "transformers")
    )
    text = HEAD.format(repeats=repeats, machine=f"{machine['hardware']['machine']}, {versions}.")
    for row in rows:
        costs = "-" if row["costs"] == TOGETHER else str(row["costs"])
        figures = f"{row['passes']:g} | {row['positions']:.2f} | {row['time']:.2f}"
        text += f"| {row['model']} | {row['windows']} | {costs} | {figures} |\n"
    RESULTS.write_text(text, encoding="utf-8")
    found = {"environment": machine, "repeats": repeats, "rows": rows}
    RESULTS.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
