"""How the cost of measuring grows with the number of records: MA and EL_10 of real text.

    python benchmarks/records.py

stories260k is asked about text that it has not seen, the worst case: nearly every continuation has
to be decoded. Writes `results/records.{md,json}`.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import numpy as np
import torch

from speed_cases import shared_data, tofu_stream
from speed_timing import timed
from unlearner import provenance
from unlearner.data.windows import Window
from unlearner.inference.language_model import Questions, infer
from unlearner.models.loading import load_causal_lm

RESULTS = Path(__file__).parent / "results"
TOKENS = 100
COUNTS = (32, 64, 128, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_causal_lm(str(shared_data() / "models" / "stories260k"))
    stream = torch.tensor(tofu_stream(loaded.tokenizer, slice(0, 2000)))
    ids = stream[: max(COUNTS) * TOKENS].view(-1, TOKENS).numpy()
    scored = np.ones(TOKENS - 1, dtype=bool)
    windows = [
        Window(record=number, id=str(number), input_ids=row, scored=scored, prefix=TOKENS // 2)
        for number, row in enumerate(ids)
    ]
    rows = []
    for start in (1.0, 0.75):
        questions = Questions(prompt_start=1 if start == 1.0 else start)
        for count in COUNTS:
            seconds = [
                timed(
                    lambda n=count, q=questions: infer(
                        loaded.model, loaded.tokenizer, windows[:n], q
                    )
                )[1].process
                for _ in range(asked.repeats)
            ]
            rows.append(
                {
                    "prompts": "all" if start == 1.0 else "last quarter",
                    "records": count,
                    "seconds": statistics.median(seconds),
                }
            )
            print(rows[-1], flush=True)
    write_table(rows)


def write_table(rows: list[dict]) -> None:
    """The table: seconds, seconds for each record, and the growth against the row before."""
    environment = provenance.environment(torch.device("cpu"), 0)
    lines = [
        "# Measuring more records",
        "",
        f"stories260k, TOFU text it was not trained on, records of {TOKENS} tokens, MA and EL_10;",
        "processor seconds on one thread, median of repeats. `growth` is the exponent between a",
        "row and the one before: 1 is linear. Made by `benchmarks/records.py`.",
        "",
        "| prompts of EL | records | seconds | milliseconds a record | growth |",
        "| --- | --- | --- | --- | --- |",
    ]
    for before, row in zip([None, *rows[:-1]], rows, strict=True):
        growth = "-"
        if before is not None and before["prompts"] == row["prompts"]:
            ratio = row["seconds"] / before["seconds"]
            growth = f"{math.log(ratio) / math.log(row['records'] / before['records']):.2f}"
        each = 1000 * row["seconds"] / row["records"]
        cells = [row["prompts"], row["records"], f"{row['seconds']:.2f}", f"{each:.1f}", growth]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    (RESULTS / "records.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n"
    (RESULTS / "records.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
