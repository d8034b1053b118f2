"""LUME: invented stories, invented people's private data, and real biographies (SemEval-2025 4).

Files: `forget.jsonl` and `retain.jsonl` with `id`, `input`, `output` and `task`. An id ends in scN
(the rest of a text has to be completed) or qaN (a question). What stands before that is the
subject: a story (task 1), a person (task 2, six rows each) or a biography (task 3).

The trap: the rows of one person repeat the same facts, so a person is in one set as a whole, and
the unseen ones are persons of `retain.jsonl` that are in no other set.

Reference: Ramakrishna et al. (2025), arXiv:2502.15097.
"""

import re
from typing import Literal

from pydantic import PositiveInt

from unlearner.data.record import RecordSet
from unlearner.datasets import base
from unlearner.errors import UserError

FAMILY = "causal-lm"
HUB_ID = ""
FETCH = "give the folder of forget.jsonl and retain.jsonl of amazon-science/lume-llm-unlearning"

IDENTIFIER = re.compile(r"(.+?)(sc|qa)(\d+)")


class Options(base.Options):
    """Which rows of LUME.

    Args:
        task: 1, stories; 2, persons; 3, biographies.
        form: "sc", texts to complete; "qa", questions; "both".
        forget_subjects: How many stories or persons are to be forgotten; None for all.
        retain_subjects: How many are kept.
        holdout_subjects: How many are unseen: trained on by nobody.
    """

    task: Literal[1, 2, 3] = 2
    form: Literal["sc", "qa", "both"] = "both"
    forget_subjects: PositiveInt | None = 10
    retain_subjects: PositiveInt = 40
    holdout_subjects: PositiveInt = 20


def sets(folder: str, options: Options) -> dict[str, RecordSet]:
    """Subjects to forget, and of the retain file some to keep and others that stay unseen.

    Raises:
        UserError: The files cannot be read, or hold fewer subjects than are wanted.
    """
    forget = base.shuffled(_subjects(folder, "forget", options).values(), options.seed)
    others = base.shuffled(_subjects(folder, "retain", options).values(), options.seed)
    wanted = options.retain_subjects + options.holdout_subjects
    if wanted > len(others):
        raise UserError(
            f"data.options: retain_subjects and holdout_subjects: at most {len(others)} together, "
            f"got {wanted}"
        )
    chosen = {
        "forget": base.take(forget, options.forget_subjects, "forget_subjects"),
        "retain": others[: options.retain_subjects],
        "holdout": others[options.retain_subjects : wanted],
    }
    return {
        role: base.record_set(
            role, [row for rows in some for row in rows], FAMILY, f"lume task {options.task}"
        )
        for role, some in chosen.items()
    }


def _subjects(folder: str, part: str, options: Options) -> dict[str, base.Rows]:
    """The rows of every subject that has any of the wanted form."""
    found: dict[str, base.Rows] = {}
    for number, row in enumerate(base.read_part(folder, part, f"default:{part}", FETCH), 1):
        # Identifiers of stories have quotes around their first part.
        match = IDENTIFIER.fullmatch(str(row.get("id", "")).replace('"', ""))
        if match is None:
            raise UserError(f"data.folder: {part}, row {number}: the id must end in scN or qaN")
        if row.get("task") != f"Task{options.task}":
            continue
        if options.form in ("both", match.group(2)):
            subject = match.group(1)
            texts = {"prompt": row.get("input"), "response": row.get("output")}
            found.setdefault(subject, []).append({"id": match.group(), "subject": subject, **texts})
    return found
