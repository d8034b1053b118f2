"""MUSE: news articles or books to be forgotten as running text.

On the hub as `hf:muse-bench/MUSE-News` and `hf:muse-bench/MUSE-Books`; as local files the folder
holds `raw/forget`, `raw/retain1`, `raw/holdout` and `knowmem/forget_qa`, `knowmem/retain_qa`, each
.jsonl, .json, .csv or .parquet. retain1 is what methods may learn on; retain2, on which MUSE
measures, stays untouched. A text longer than the model's context is cut into windows.

Reference: Shi et al. (2024), arXiv:2407.06460.
"""

from typing import Literal

from pydantic import PositiveInt

from unlearner.data.record import RecordSet
from unlearner.datasets import base

FAMILY = "causal-lm"
HUB_ID = "hf:muse-bench/MUSE-News"
FETCH = f"give the folder of MUSE's raw and knowmem files, or {HUB_ID}"

PARTS = {
    "raw": {"forget": "forget", "retain": "retain1", "holdout": "holdout"},
    "knowmem": {"forget": "forget_qa", "retain": "retain_qa"},
}


class Options(base.Options):
    """Which texts of MUSE.

    Args:
        part: "raw", the texts; "knowmem", questions about them. Questions have no unseen set: give
            one, or the level by hand (`criteria.ma`, `criteria.el_10`).
        forget_records: How many; None for all.
        retain_records: Likewise.
        holdout_records: Likewise.
    """

    part: Literal["raw", "knowmem"] = "raw"
    forget_records: PositiveInt | None = None
    retain_records: PositiveInt | None = None
    holdout_records: PositiveInt | None = None


def sets(folder: str, options: Options) -> dict[str, RecordSet]:
    """The texts, or the questions about them, in a drawn order.

    Raises:
        UserError: The files cannot be read, or hold fewer texts than are wanted.
    """
    found = {}
    for role, split in PARTS[options.part].items():
        path = f"{options.part}/{split}"
        rows = base.read_part(folder, path, f"{options.part}:{split}", FETCH)
        named = [_named(row, f"{split}-{number}") for number, row in enumerate(rows, 1)]
        count = options.model_dump()[f"{role}_records"]
        drawn = base.take(base.shuffled(named, options.seed), count, f"{role}_records")
        found[role] = base.record_set(role, drawn, FAMILY, f"muse {path}")
    return found


def _named(row: dict[str, object], identifier: str) -> dict[str, object]:
    if "question" in row:
        return {"id": identifier, "prompt": row["question"], "response": row.get("answer")}
    return {"id": identifier, "text": row.get("text")}
