"""TOFU: questions about 200 invented authors, some of them to be forgotten.

forget01, forget05 and forget10 are the last 2, 10 and 20 authors, 20 rows each; the rest is
retain99, retain95 and retain90. Files: `forget01.json` (`forget05`, `forget10`), `retain99.json`
(`retain95`, `retain90`), `real_authors.json`, `world_facts.json`, and for TOFU's own metrics
`forget01_perturbed.json`, `retain_perturbed.json`, `real_authors_perturbed.json` and
`world_facts_perturbed.json`.

Two traps. One question, "What is the full name of the author?", is asked of two authors with two
answers, so rows are distinguished by their place, never by their question, and a held back row
whose question is also asked elsewhere is left out. And the published TOFU models were trained on
all 4,000 rows: for them no row is unseen, and `holdout` must be real_authors or world_facts.

Reference: Maini et al. (2024), arXiv:2401.06121.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt

from unlearner.data.record import RecordSet
from unlearner.datasets import base
from unlearner.errors import UserError

FAMILY = "causal-lm"
HUB_ID = "hf:locuslab/TOFU"
FETCH = f"give the folder of TOFU's JSON files, or {HUB_ID}"

ROWS_PER_AUTHOR = 20
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}

# The sets of TOFU's metrics: the file, and the column of the answer that the wrong ones reword.
PERTURBED = {
    "retain": ("retain_perturbed", "paraphrased_answer"),
    "real_authors": ("real_authors_perturbed", "answer"),
    "world_facts": ("world_facts_perturbed", "answer"),
}


class Options(base.Options):
    """Which rows of TOFU.

    Args:
        split: What is to be forgotten.
        forget_records: Rows of the split, from its beginning, 20 an author; None for all. The
            others of the split are in no set.
        retain_records: Rows of the retain split, from its beginning; None for all. The first 400
            are those of which TOFU's metrics have wrong answers.
        holdout: The unseen text: "held_back", rows of whole authors that are in no other set, for a
            model trained on this run's sets; or "real_authors" or "world_facts".
        holdout_records: How many.
        tofu_metrics: Also measure TOFU's own metrics (`unlearner run`).
        tofu_records: Rows of each set that they are measured on at most; TOFU takes 300.
    """

    split: Literal["forget01", "forget05", "forget10"] = "forget01"
    forget_records: PositiveInt | None = None
    retain_records: PositiveInt | None = 400
    holdout: Literal["held_back", "real_authors", "world_facts"] = "held_back"
    holdout_records: PositiveInt = 100
    tofu_metrics: bool = False
    tofu_records: PositiveInt = 300


@dataclass(frozen=True)
class Question:
    """A question with its answer, the answer in other words, and wrong answers in such words."""

    question: str
    answer: str
    paraphrased: str
    perturbed: tuple[str, ...]


def sets(folder: str, options: Options) -> dict[str, RecordSet]:
    """The rows to forget, rows to keep, and unseen rows.

    Args:
        folder: A local folder or `hf:locuslab/TOFU`.

    Raises:
        UserError: The files cannot be read, or hold fewer rows than are wanted.
    """
    forget = base.take(_authors(folder, options.split), options.forget_records, "forget_records")
    everything = _authors(folder, RETAIN_OF[options.split])
    retain = base.take(everything, options.retain_records, "retain_records")
    if options.holdout == "held_back":
        holdout = _held_back(everything[len(retain) :], [*forget, *retain], options.seed)
        if len(holdout) < options.holdout_records:
            raise UserError(
                f"data.options.holdout_records: {len(holdout)} rows are held back, "
                f"{options.holdout_records} wanted; lower retain_records, or holdout=real_authors"
            )
    else:
        holdout = base.shuffled(_question_rows(folder, options.holdout), options.seed)
    rows = {
        "forget": forget,
        "retain": retain,
        "holdout": base.take(holdout, options.holdout_records, "holdout_records"),
    }
    return {
        role: base.record_set(role, some, FAMILY, f"tofu {options.split}")
        for role, some in rows.items()
    }


def questions(folder: str, options: Options) -> dict[str, list[Question]]:
    """The sets of TOFU's metrics: forget, retain, real_authors and world_facts.

    Of forget and retain only rows that are in this run's sets: the others were not learned.

    Raises:
        UserError: The files cannot be read, or hold no row of the forget or the retain set.
    """
    wrong = {"forget": (f"{options.split}_perturbed", "paraphrased_answer"), **PERTURBED}
    found = {role: _questions(folder, part, answer) for role, (part, answer) in wrong.items()}
    learned = {
        "forget": _authors(folder, options.split)[: options.forget_records],
        "retain": _authors(folder, RETAIN_OF[options.split])[: options.retain_records],
    }
    for role, rows in learned.items():
        known = {(row["prompt"], row["response"]) for row in rows}
        found[role] = [row for row in found[role] if (row.question, row.answer) in known]
        if not found[role]:
            raise UserError(
                f"data.options.tofu_metrics: none of the {role} set's rows is in {wrong[role][0]}"
            )
    return {role: some[: options.tofu_records] for role, some in found.items()}


def _question_rows(folder: str, part: str) -> base.Rows:
    rows = base.read_part(folder, part, f"{part}:train", FETCH)
    return [
        {"id": f"{part}-{number}", "prompt": row.get("question"), "response": row.get("answer")}
        for number, row in enumerate(rows, 1)
    ]


def _authors(folder: str, part: str) -> base.Rows:
    """The rows with their author as subject."""
    rows = _question_rows(folder, part)
    for place, row in enumerate(rows):
        row["subject"] = f"{part}-author-{place // ROWS_PER_AUTHOR + 1}"
    return rows


def _held_back(rest: base.Rows, used: Iterable[base.Row], seed: int) -> base.Rows:
    """The rest of the rows, author by author in a drawn order."""
    used_questions = {row["prompt"] for row in used}
    authors: dict[str, base.Rows] = {}
    for row in rest:
        if row["prompt"] not in used_questions:
            authors.setdefault(row["subject"], []).append(row)
    return [row for author in base.shuffled(authors, seed) for row in authors[author]]


def _questions(folder: str, part: str, answer: str) -> list[Question]:
    rows = base.read_part(folder, part, f"{part}:train", FETCH)
    needed = {"question", "answer", answer, "perturbed_answer"}
    for number, row in enumerate(rows, 1):
        if not needed <= row.keys() or not _is_list(row["perturbed_answer"]):
            raise UserError(f"data.folder: {part}, row {number}: needs {', '.join(sorted(needed))}")
    return [
        Question(row["question"], row["answer"], row[answer], tuple(row["perturbed_answer"]))
        for row in rows
    ]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
