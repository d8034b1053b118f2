"""Count what drafts could save where text is not memorised: tokens and forward passes, no clock.

python benchmarks/drafts.py asks models about text of TOFU that they were never trained on and looks
at the continuations behind its breaks. Three numbers bound what asking can cost:

- the tokens that the definition puts through the model, and ours;
- the passes that a row takes one after the other, if a draft is verified many tokens at a time: a
  draft is what follows the last tokens of the continuation where they stand in the record, or in
  the prompt and the continuation so far;
- the tokens of those passes, the rejected ones among them.

A draft saves passes, not tokens: every token of a continuation has a context of its own, and goes
through the model once whoever proposes it. So where arithmetic takes the time, as on a processor
with hundreds of rows, the first number is the bound; where a pass takes the time whatever it holds,
as of few rows on an accelerator, it is the second.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from speed_cases import NUM_TOKENS, packed, shared_data, tofu_stream, windows_of
from speed_definition import prompt_lengths
from unlearner.inference.answers import Answer
from unlearner.inference.language_model import Questions, infer
from unlearner.models.loading import load_causal_lm

RESULTS = Path(__file__).resolve().parent / "results" / "drafts.md"
MATCHED = 3  # last tokens that have to stand in the source; fewer than 3 hit by chance
DRAFTED = 8  # tokens of a draft at most
START = 150


class Drafted(NamedTuple):
    """What decoding some tokens takes with drafts.

    Attributes:
        passes: Forward passes one after the other.
        tokens: That went through the model in them.
    """

    passes: int
    tokens: int


def drafted(context: Sequence[int], continuation: Sequence[int], record: Sequence[int]) -> Drafted:
    """The passes behind the first token of a continuation, which the pass over the text gave.

    Args:
        context: The prompt.
        continuation: What the model says behind it.
        record: The source of drafts; empty for the prompt and the continuation so far.
    """
    known, passes, tokens = 1, 0, 0
    while known < len(continuation):
        before = [*context, *continuation[:known]]
        draft = _draft(before, record or before)
        draft = draft[: min(DRAFTED, len(continuation) - known - 1)]
        accepted = 0
        for one, other in zip(draft, continuation[known:], strict=False):
            if one != other:
                break
            accepted += 1
        passes, tokens = passes + 1, tokens + 1 + len(draft)
        known += accepted + 1
    return Drafted(passes, tokens)


def _draft(before: Sequence[int], source: Sequence[int]) -> list[int]:
    """What follows the last place in the source where the last tokens stand."""
    last = list(before[-MATCHED:])
    for end in range(len(source) - 1, MATCHED - 1, -1):
        if list(source[end - MATCHED : end]) == last:
            return list(source[end : end + DRAFTED])
    return []


def count(answers: Sequence[Answer]) -> dict[str, float]:
    """The figures of some records of `NUM_TOKENS` tokens, per record."""
    definition = sum(range(1, NUM_TOKENS))  # MA's prompts
    # A continuation's first token comes from the pass that reads its prompt.
    definition += sum(NUM_TOKENS - 1 for _ in prompt_lengths(START, NUM_TOKENS))
    found = dict.fromkeys(("rows", "own", "record_passes", "record_tokens"), 0.0)
    found |= dict.fromkeys(("self_passes", "self_tokens"), 0.0)
    longest = {"own": 0, "record": 0, "self": 0}
    for answer in answers:
        ids = answer.input_ids.tolist()
        for length, tokens in answer.decoded.items():
            said = tokens.tolist()
            found["rows"] += 1
            found["own"] += len(said) - 1
            longest["own"] = max(longest["own"], len(said) - 1)
            for name, source in (("record", ids), ("self", ())):
                one = drafted(ids[:length], said, source)
                found[f"{name}_passes"] += one.passes
                found[f"{name}_tokens"] += one.tokens
                longest[name] = max(longest[name], one.passes)
    per_record = {name: value / len(answers) for name, value in found.items()}
    return {
        "definition": definition,
        "text": NUM_TOKENS,
        **per_record,
        **{f"{name}_longest": value for name, value in longest.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask each model and write the page and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    small = shared_data() / "models" / "stories260k"
    parser.add_argument("--models", nargs="+", type=Path, default=[small])
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = {}
    for folder in options.models:
        loaded = load_causal_lm(str(folder))
        ids = packed(tofu_stream(loaded.tokenizer, slice(0, 200)), options.records)
        questions = Questions(prompt_start=START)
        answers = infer(loaded.model, loaded.tokenizer, windows_of(ids), questions)
        rows[folder.name] = count(answers) | {"records": len(answers)}
    page = render(rows)
    options.output.write_text(page, encoding="utf-8")
    options.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    print(page)


def render(rows: dict[str, dict[str, Any]]) -> str:
    """The page."""
    columns = (
        *("model", "records", "rows", "definition", "ours", "times fewer", "longest row"),
        *("passes, record as draft", "tokens", "longest row", "passes, own text as draft"),
        *("tokens", "longest row"),
    )
    lines = [columns, ["---"] * len(columns)]
    for name, row in rows.items():
        ours = row["text"] + row["own"]
        shares = [
            (f"{row[f'{kind}_passes'] / row['own']:.1%}", f"{row[f'{kind}_tokens']:.0f}")
            for kind in ("record", "self")
        ]
        lines.append(
            [
                *(name, str(row["records"]), f"{row['rows']:.0f}", f"{row['definition']:,}"),
                *(f"{ours:,.0f}", f"{row['definition'] / ours:.1f}", str(row["own_longest"])),
                *(*shares[0], str(row["record_longest"]), *shares[1], str(row["self_longest"])),
            ]
        )
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return f"""# What drafts could save

Written by `python benchmarks/drafts.py`; do not edit. Counts, not times, of text of TOFU that the
models were never trained on, prompts of EL_10 from {START} of {NUM_TOKENS} tokens on; per record.
"Definition" and "ours" are tokens that go through the model: times fewer is the most that asking
can gain where arithmetic takes the time. "Passes" are those that the rows take one after the other
with drafts of up to {DRAFTED} tokens behind {MATCHED} that match, as a share of those without; the
tokens beside them are what these passes read, rejected ones among them; the longest row is what a
batch waits for, in passes.

{table}"""


if __name__ == "__main__":
    main()
