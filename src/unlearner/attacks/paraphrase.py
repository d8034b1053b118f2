r"""Paraphrase: is a record known when its question is put in other words?

By rule: a question becomes a request ("What is X?" becomes "Please tell me what X is."), is asked
in lower case and without its mark, and is led in as small talk. With `--wordings` also the user's
own, which find more. Of each record the share of the response's tokens that are the most probable
ones, in the wording that gives most.

Reference: none; paraphrased questions are a part of TOFU's measures, Maini et al. (2024),
arXiv:2401.06121.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject, per_record
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import TokenizedSet, tokenize_set
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.families.causal_lm import questions_of
from unlearner.inference.language_model import infer
from unlearner.metrics import ma

QUESTION = re.compile(
    r"^(what|who|where|when|which|how|why)\s+(is|are|was|were)\s+(.+?)\s*\?*$", re.IGNORECASE
)


class Paraphrase(Attack):
    """Is a record known when its question is put in other words?"""

    label = "other wordings"
    claim = "unseen forms"
    cost = "full"
    shows = "Whether the model forgot the facts, or only the questions as they were worded."
    cannot_show = (
        "Facts asked about in ways that no rule makes; your own wordings find more. What follows "
        "from the rest of the response is known to every model that reads it."
    )
    figures = (
        AttackFigure("by_rule", "known in other words, by rule", "mean"),
        AttackFigure("wordings", "known in your own words", "mean"),
    )

    def skipped(self, materials: Materials) -> str:
        if not any(record.prompt for record in materials.sets[FORGET].records):
            return "the records have no prompts to put in other words"
        return ""

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        found = {}
        by_rule = [
            _known(subject, materials, role, by_rules(materials.sets[role]))
            for role in (FORGET, UNSEEN)
        ]
        found["by_rule"] = RecordValues(*by_rule)
        if materials.wordings and materials.control != "unseen":
            own = _known(subject, materials, FORGET, materials.wordings)
            found["wordings"] = RecordValues(own, by_rule[1])
        return Attempt(found)


def by_rules(some: TokenizedSet) -> dict[str, list[str]]:
    """The rules' wordings of each prompt, by the id of its record."""
    rules: Sequence[Callable[[str], str]] = (as_request, as_small_talk, without_case)
    return {
        record.id: [rule(record.prompt) for rule in rules]
        for record in some.records
        if record.prompt
    }


def as_request(prompt: str) -> str:
    """`Where is X?` as `Please tell me where X is.`; another prompt with a request before it."""
    match = QUESTION.match(prompt.strip())
    if match is None:
        return f"Please answer this for me: {prompt.strip()}"
    word, verb, rest = match.groups()
    return f"Please tell me {word.lower()} {rest} {verb.lower()}."


def as_small_talk(prompt: str) -> str:
    """Led in by words that say nothing."""
    return f"I was wondering about something the other day. {prompt.strip()}"


def without_case(prompt: str) -> str:
    """In lower case and without the marks at its end."""
    return prompt.strip().lower().rstrip("?!. ")


def _known(
    subject: Subject, materials: Materials, role: str, wordings: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """(N,) what is known of each record in the wording that gives most; NaN without one."""
    some, owners = materials.sets[role], []
    reworded: list[Record] = []
    for place, record in enumerate(some.records):
        for number, prompt in enumerate(wordings.get(record.id, ()) if record.prompt else ()):
            reworded.append(
                replace(record, id=f"{record.id} in wording {number + 1}", prompt=prompt)
            )
            owners.append(place)
    found = np.full(len(some), np.nan)
    if not reworded:
        return found
    loaded = subject.loaded
    records = RecordSet(role, tuple(reworded), some.source)
    tokens = tokenize_set(records, loaded.tokenizer, materials.prepared.layout)
    asked = replace(questions_of(materials.config.evaluation), continuations="none")
    answers = infer(loaded.model, loaded.tokenizer, tokens.windows, asked)
    for owner, value in zip(owners, per_record(answers, ma.metric, len(tokens)), strict=True):
        found[owner] = np.fmax(found[owner], value)
    return found


attack = Paraphrase()
