"""Measure `unlearner` beside how its methods are published: epochs, evaluations, a whole job.

python benchmarks/peers.py makes stories260k know some stretches of TOFU and runs, taking turns,

- an epoch of ICU's published loop, and of a plain NPO step as trainers of preferences take it;
- the evaluation of ICU's published code, one `generate` for each prompt length and the whole batch,
  and that of one `generate` for each prompt, as evaluations of single answers are made;
- a whole job: that loop with that evaluation behind every epoch, until its limits are met.

`--model FOLDER` takes a larger model, which is asked about its own text and trained on random
pairs; the definitions are then extrapolated from some prompt lengths, and there is no whole job.
The peers' formulas are written out here and in `published_icu.py`, from the papers.
"""

import argparse
import copy
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from peers_table import render
from published_icu import PublishedLoop, remembered_by_text
from speed_asking import assert_same_continuations, ours
from speed_cases import (
    NUM_TOKENS,
    Case,
    NoText,
    learn,
    own_text,
    packed,
    random_ids,
    shared_data,
    tofu_stream,
    windows_of,
)
from speed_definition import Definition, prompt_lengths, spread_lengths
from speed_timing import Cost, median, peak_memory, timed
from unlearner import provenance
from unlearner.data.batches import collate
from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet
from unlearner.inference.decoding import eos_ids
from unlearner.inference.language_model import Questions
from unlearner.inference.reference import KeptReference, TargetDistribution
from unlearner.methods.icu import ICU
from unlearner.methods.npo import NPO
from unlearner.models.loading import load_causal_lm
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.retrieval.neighbours import Retrieved
from unlearner.settings import TrainingSettings
from unlearner.training.data import HoldoutBaseline, UnlearningData
from unlearner.training.log import Log
from unlearner.training.memory import held_bytes
from unlearner.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results" / "peers.md"
BATCH = 8
START = 150  # the shortest prompt of EL_10 of ICU's published code
BETA = 0.1
RATE = 3e-4  # of the whole job: falls below the published limits in a few epochs
STILL = 1e-9  # of timed epochs, which are to leave the model as it is
MOST_EPOCHS = 15

# The published code's limits.
LEVEL = HoldoutBaseline(0.5994, 0.0499, None, None, 0.5994, 0.0499, "published")


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        what: An epoch, an evaluation or a whole job.
        peer: The other way, in words.
        peer_cost: Its seconds; `own_cost` ours.
        peer_bytes: Most memory beyond what was held before, where the system says; ours likewise.
        note: What is to be said of the line.
    """

    model: str
    what: str
    peer: str
    peer_cost: Cost
    own_cost: Cost
    peer_bytes: int | None = None
    own_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class World:
    """A model and what is done with it.

    Attributes:
        records: (N, T) to be forgotten; the model knows them.
        pairs: (N, T) kept records, one for each.
        unseen: (N, T) text that it does not know.
        lengths: Prompt lengths of the definitions that are run; None for all.
    """

    name: str
    model: Any
    tokenizer: Any
    records: Tensor
    pairs: Tensor
    unseen: Tensor
    lengths: int | None
    device: str

    def trainer(self, seed: int = 0) -> Trainer:
        """A trainer on the device."""
        device = "cpu" if self.device == "cpu" else "auto"
        return Trainer(TrainingSettings(device=device, seed=seed), Log())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything; the page and the figures are written anew behind every line."""
    options = _parser().parse_args(arguments)
    if options.device == "cpu":
        torch.set_num_threads(1)
    started, load = time.perf_counter(), os.getloadavg()[0]
    environment = provenance.environment(torch.device(options.device), 0)
    results: dict[str, Any] = {
        "hardware": environment["hardware"],
        "versions": environment["versions"],
        "clock": "processor time" if options.device == "cpu" else "wall time",
        "records": options.records,
        "tokens": NUM_TOKENS,
        "start": START,
        "batch": BATCH,
        "rate": RATE,
        "limits": {"ma": LEVEL.ma, "el_10": LEVEL.el_10},
        "repeats": options.repeats,
        "lines": [],
        "job": None,
    }
    if options.append:
        before = json.loads(options.output.with_suffix(".json").read_text(encoding="utf-8"))
        results |= {name: before[name] for name in ("lines", "job", "records")}

    def keep() -> None:
        results["seconds"] = time.perf_counter() - started
        results["load"] = [load, os.getloadavg()[0]]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(render(results), encoding="utf-8")
        figures = json.dumps(results, indent=1) + "\n"
        options.output.with_suffix(".json").write_text(figures, encoding="utf-8")

    world = make_world(options)
    for measure in (icu_epoch, npo_epoch, *EVALUATIONS):
        line = _plain(measure(world, options.repeats)) | {"records": options.records}
        results["lines"].append(line)
        print(results["lines"][-1], file=sys.stderr, flush=True)
        keep()
    if options.model is None and not options.no_job:
        line, results["job"] = whole_job(world)
        results["lines"].append(_plain(line) | {"records": options.records})
        keep()
    print(render(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a larger model in place of stories260k")
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument(
        "--lengths", type=int, help="prompt lengths of the definitions that are run"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-job", action="store_true", help="without the whole job")
    parser.add_argument("--append", action="store_true", help="keep the lines that are there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def _plain(line: Line) -> dict[str, Any]:
    return dataclasses.asdict(line) | {"ratio": line.peer_cost.over(line.own_cost)}


def make_world(options: argparse.Namespace) -> World:
    """stories260k that has learned records of TOFU, or a model with text of its own."""
    count, device = options.records, options.device
    folder = options.model or str(shared_data() / "models" / "stories260k")
    loaded = load_causal_lm(folder)
    model, tokenizer = loaded.model.to(device), loaded.tokenizer
    if options.model:
        records = own_text(model, random_ids(model, count, 2))
        pairs, unseen = (random_ids(model, count, seed) for seed in (3, 1))
        name = Path(options.model).name
        return World(*(name, model, NoText(), records, pairs, unseen, options.lengths or 4, device))
    records = packed(tofu_stream(tokenizer, slice(-200, None)), count)
    others = packed(tofu_stream(tokenizer, slice(0, 200)), 2 * count).to(device)
    model = learn(model, tokenizer, records, device)
    sides = records.to(device), others[:count], others[count:]
    return World("stories260k", model, tokenizer, *sides, options.lengths, device)


# Epochs


def _turns(
    peer: Callable[[], Any], own: Callable[[], Any], repeats: int
) -> tuple[Cost, Cost, int | None, int | None]:
    """Medians of both, taking turns behind a warm-up of each, and their peaks of memory."""
    peaks = _peak(peer), _peak(own)
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    for _ in range(repeats):
        for run, some in zip((peer, own), costs, strict=True):
            some.append(timed(run)[1])
    return median(costs[0]), median(costs[1]), *peaks


def _peak(function: Callable[[], Any]) -> int | None:
    """Most bytes held beyond what was held before; what was freed goes back to the system first."""
    held_bytes(torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))
    return peak_memory(function)


def icu_epoch(world: World, repeats: int) -> Line:
    """ICU's preset "paper" and its published loop, every record remembered."""
    count = len(world.records)
    loop = PublishedLoop(
        copy.deepcopy(world.model), world.records, world.pairs, STILL, batch_size=BATCH
    )
    trainer, method = world.trainer(), ICU(preset="paper", batch_size=BATCH)
    model = copy.deepcopy(world.model)
    kept, forget = windows_of(world.pairs.cpu()), windows_of(world.records.cpu())
    target = TargetDistribution.of(trainer.prepare(model), kept)
    model = trainer.start(model, STILL, betas=(0.9, 0.98))

    def own() -> None:
        for start in range(0, count, BATCH):
            rows = range(start, min(start + BATCH, count))
            batch = {
                "analogous": collate([kept[row] for row in rows], model.device),
                "forget": collate([forget[row] for row in rows], model.device),
            }
            logits = target.logits(rows, batch["analogous"])
            trainer.step(partial(method._terms, model, batch, logits, None))

    def peer() -> None:
        loop.epoch(range(count), range(count))

    costs = _turns(peer, own, repeats)
    return Line(world.name, "an epoch of ICU", "the published loop", *costs)


class PlainNPO:
    """An epoch of NPO with whole tables of log-probabilities and a second model beside the first.

    -2 / beta log sigmoid(-beta (log p(x) - log p_ref(x))) of the records, and cross-entropy of the
    kept ones (Zhang et al. 2024, arXiv:2404.05868).
    """

    def __init__(self, model: Any, records_NT: Tensor, pairs_NT: Tensor) -> None:
        self.model, self.reference = model, copy.deepcopy(model).eval()
        self.records_NT, self.pairs_NT = records_NT, pairs_NT
        self.optimiser = torch.optim.AdamW(model.parameters(), STILL)

    def epoch(self) -> None:
        """Batches of all records in their order."""
        for records, pairs in zip(
            self.records_NT.split(BATCH), self.pairs_NT.split(BATCH), strict=True
        ):
            self.optimiser.zero_grad()
            self.loss(records, pairs).backward()
            self.optimiser.step()

    def loss(self, records_NT: Tensor, pairs_NT: Tensor) -> Tensor:
        """The objective of a batch."""
        own_N = _log_prob(self.model, records_NT)
        with torch.no_grad():
            before_N = _log_prob(self.reference, records_NT)
        pushed = -(2 / BETA) * logsigmoid(-BETA * (own_N - before_N)).mean()
        logits = self.model(input_ids=pairs_NT).logits[:, :-1]
        return pushed + cross_entropy(logits.flatten(0, 1), pairs_NT[:, 1:].flatten())


def _log_prob(model: Any, ids_NT: Tensor) -> Tensor:
    """Log p(x) of each row, (N,) in nats."""
    table_NTV = model(input_ids=ids_NT).logits[:, :-1].log_softmax(-1)
    return table_NTV.gather(-1, ids_NT[:, 1:, None])[..., 0].sum(-1)


def npo_epoch(world: World, repeats: int) -> Line:
    """The method `npo`, and the plain step.

    Raises:
        AssertionError: The losses differ.
    """
    plain = PlainNPO(copy.deepcopy(world.model), world.records, world.pairs)
    trainer, method = world.trainer(), NPO(beta=BETA)
    model = copy.deepcopy(world.model)
    sets = {
        "forget": windows_of(world.records.cpu()),
        "retain": windows_of(world.pairs.cpu()),
    }
    reference = KeptReference.of(trainer.prepare(model), sets, method.asks)
    model = trainer.start(model, STILL)

    def terms(rows: range) -> dict[str, Tensor]:
        batch = {
            name: collate([some[row] for row in rows], model.device) for name, some in sets.items()
        }
        return method.loss(model, batch, reference.at(dict.fromkeys(sets, rows), batch))

    def own() -> None:
        for start in range(0, len(world.records), BATCH):
            rows = range(start, min(start + BATCH, len(world.records)))
            trainer.step(partial(terms, rows))

    rows = range(min(BATCH, len(world.records)))
    first = float(sum(term.detach() for term in terms(rows).values()))
    expected = float(plain.loss(world.records[:BATCH], world.pairs[:BATCH]).detach())
    assert abs(first - expected) < 1e-3 * abs(expected), (first, expected)
    costs = _turns(plain.epoch, own, repeats)
    return Line(world.name, "an epoch of NPO", "whole tables, a second model", *costs)


# Evaluations


def evaluation(world: World, repeats: int, *, kind: str, single: bool) -> Line:
    """MA and EL_10 of the records, by `generate` and by one pass; continuations are the same.

    Args:
        single: One `generate` for each prompt of each record; else of the whole batch. One record
            is asked so and stands for the others, which are as long.

    Raises:
        AssertionError: A continuation differs.
    """
    ids = world.records if kind == "memorised" else world.unseen
    case = Case(world.name, kind, world.model, world.tokenizer, ids)
    own_bytes = _peak(lambda: ours(case, case.windows, START))
    found = [timed(lambda: ours(case, case.windows, START)) for _ in range(repeats)]
    answers, own = found[-1][0], median([cost for _, cost in found])
    asked = ids[:1] if single else ids
    peer = Definition(world.model, asked, eos_ids(world.model))
    peer_bytes = _peak(partial(peer.infer, [START]))
    lengths = _lengths(world.lengths)
    peer.infer(lengths)
    assert_same_continuations(peer, START, answers[: len(asked)])
    notes = [f"{len(asked)} of {len(ids)} records"] if single else []
    if not peer.is_complete:
        notes.append(f"{len(peer.first)} of {NUM_TOKENS - 1} prompt lengths")
    how = "prompt" if single else "prompt length, whole batch"
    return Line(
        world.name,
        f"an evaluation (MA, EL_10), {kind}",
        f"one generate per {how}",
        peer.cost(START) * (len(ids) / len(asked)),
        own,
        peer_bytes,
        own_bytes,
        f"scaled from {', '.join(notes)}" if notes else "",
    )


EVALUATIONS: tuple[Callable[[World, int], Line], ...] = tuple(
    partial(evaluation, kind=kind, single=single)
    for kind in ("memorised", "unseen")
    for single in (False, True)
)


def _lengths(count: int | None) -> list[int]:
    if count is None:
        return list(range(1, NUM_TOKENS))
    return spread_lengths(NUM_TOKENS, START, count, torch.Generator().manual_seed(0))


# A whole job


def whole_job(world: World) -> tuple[Line, dict[str, Any]]:
    """The published loop with its own evaluation, and the preset "paper", from the same model.

    Returns:
        The line, and MA, EL_10 and epochs at the end of both.
    """
    (peer, peer_cost) = timed(partial(_published_job, world))
    (own, own_cost) = timed(partial(_own_job, world))
    line = Line(world.name, "a whole job", "the published loop", peer_cost, own_cost)
    return line, {"peer": peer, "own": own}


def _published_job(world: World) -> dict[str, float]:
    model = copy.deepcopy(world.model)
    loop = PublishedLoop(model, world.records, world.pairs, RATE, batch_size=BATCH)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(MOST_EPOCHS + 1):
        accuracy, likelihood = published_evaluation(model, world.records)
        remembered = remembered_by_text(model, world.tokenizer, world.records)
        low = accuracy < LEVEL.ma and likelihood < LEVEL.el_10
        if low or not remembered or epoch == MOST_EPOCHS:
            break
        loop.epoch(remembered, torch.randperm(len(world.records), generator=generator).tolist())
    return {"epochs": epoch, "ma": accuracy, "el_10": likelihood}


def published_evaluation(model: Any, records_NT: Tensor) -> tuple[float, float]:
    """MA and EL_10 of the set, by one `generate` of the whole batch for each prompt length.

    MA takes one of one token for each length; EL_10 one to the end of the text for each from
    `START` on.
    """
    definition = Definition(model, records_NT, eos_ids(model))
    prompts = set(prompt_lengths(START, records_NT.shape[1]))
    for length in range(1, records_NT.shape[1]):
        definition.infer_first(length)
        if length in prompts:
            definition.infer_rest(length)
    found = definition.memorization_accuracy(), definition.extraction_likelihood(START)
    return sum(found[0]) / len(found[0]), sum(found[1]) / len(found[1])


def _own_job(world: World) -> dict[str, float]:
    trainer, model = world.trainer(), copy.deepcopy(world.model)
    sets = [
        _tokenized(name, ids.cpu())
        for name, ids in (("forget", world.records), ("retain", world.pairs))
    ]
    every = list(range(len(world.records)))
    found = Retrieved(((0,),), ((1.0,),), "none", (), 0)
    pairs = AnalogousSet(every, sets[1], every, found, 0)
    data = UnlearningData(
        *(world.tokenizer, sets[0], sets[1], sets[1], pairs, LEVEL),
        *(Questions(prompt_start=START / NUM_TOKENS), 1e9),
    )
    fields = {"preset": "paper", "learning_rate": RATE, "max_epochs": MOST_EPOCHS}
    ICU(**fields, batch_size=BATCH).unlearn(model, data, trainer)
    last = trainer.rounds[-1]
    return {"epochs": last["round"], "ma": last["ma"], "el_10": last["el_10"]}


def _tokenized(name: str, ids: Tensor) -> TokenizedSet:
    records = tuple(Record(str(i), input_ids=tuple(row)) for i, row in enumerate(ids.tolist()))
    return TokenizedSet(name, records, tuple(windows_of(ids)), "memory")


if __name__ == "__main__":
    main()
