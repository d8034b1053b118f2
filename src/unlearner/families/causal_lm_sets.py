"""The sets of a run on a language model: which are needed, their tokens, what a method may learn.

Everything that is wrong with them is refused before the target is measured.
"""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from unlearner.config import RunConfig
from unlearner.data.chat import reads_date
from unlearner.data.duplicates import find_duplicates
from unlearner.data.loading import check_ids_in_vocabulary
from unlearner.data.record import RecordSet
from unlearner.data.windows import Layout, TokenizedSet, contents, tokenize_set
from unlearner.errors import UserError
from unlearner.families.base import (
    AnyFamily,
    Prepared,
    check_tokens_known,
    columns_of,
    reading_of,
    refuse_or_drop_copies,
)
from unlearner.families.causal_lm_criteria import measure_holdout_baseline
from unlearner.inference.dialogue import last_turns
from unlearner.models.loading import Loaded
from unlearner.settings import DataSettings, Template, further_kind, option_of


def prepare_text(
    family: AnyFamily, loaded: Loaded, sets: Mapping[str, RecordSet], data: DataSettings
) -> Prepared[TokenizedSet]:
    """Tokenize every set for the model and find the copies of forget records.

    Raises:
        UserError: Token ids are outside the vocabulary, a record cannot be tokenized, or unseen
            records are to be forgotten.
    """
    chat = _is_chat(loaded, sets, data)
    by_chat = chat or any(record.messages for some in sets.values() for record in some)
    layout = Layout(
        template=Template.parse(data.template).layout,
        chat=chat,
        scope=data.scope,
        max_length=max(2, min(data.max_length, loaded.context)),
        append_eos=data.append_eos,
        date=day_of(data) if by_chat and reads_date(loaded.tokenizer) else "",
    )
    size = loaded.vocabulary
    tokenized = {}
    for role, records in sets.items():
        check_ids_in_vocabulary(records, size)
        own = replace(layout, scope="response") if further_kind(role) == "dialogue" else layout
        tokenized[role] = tokenize_set(records, loaded.tokenizer, own)
        check_tokens_known(tokenized[role], size)
        if further_kind(role) == "dialogue":
            _check_dialogues(role, tokenized[role])
    duplicates = {}
    if "forget" in tokenized:
        forget = contents(tokenized["forget"], loaded.tokenizer)
        duplicates = {
            role: find_duplicates(forget, contents(some, loaded.tokenizer))
            for role, some in tokenized.items()
            if role != "forget"
        }
        tokenized, duplicates = refuse_or_drop_copies(
            tokenized, duplicates, drop=data.drop_duplicates, refused=("holdout", "test")
        )
    notes = tuple(
        f"{role} {some.source}: {note}" for role, some in tokenized.items() for note in some.notes
    )
    return Prepared(
        family,
        loaded,
        tokenized,
        duplicates,
        layout,
        reading=(*reading_of(sets), *notes),
        columns=columns_of(sets),
    )


def _check_dialogues(role: str, some: TokenizedSet) -> None:
    """Refuse a dialogue without a response that could be compared with the model's.

    Raises:
        UserError: There is one.
    """
    turns = last_turns(some.windows)
    for number, record in enumerate(some.records):
        if number not in turns:
            raise UserError(
                f"{option_of(role)} {some.source}, record {record.id!r}: has no response to be "
                "answered; give messages that end with the assistant's, or prompt and response"
            )


DEFAULT_TEMPLATE = DataSettings.model_fields["template"].default


def day_of(data: DataSettings) -> str:
    """The day that a chat template takes for today."""
    return data.date or datetime.datetime.now().date().isoformat()


def _is_chat(loaded: Loaded, sets: Mapping[str, RecordSet], data: DataSettings) -> bool:
    """Whether prompt and response are joined by the chat template.

    Raises:
        UserError: There is one, and nothing says whether it is to be used; or there is none, and
            the records are conversations.
    """
    for some in sets.values():
        if any(record.messages for record in some) and not loaded.tokenizer.chat_template:
            raise UserError(
                f"{some.name} {some.source}: conversations need a chat template, and the model's "
                "tokenizer has none; put the chat_template.jinja that the model was tuned with "
                "into its folder, or give prompt and response (with --map)"
            )
    if data.chat is not None:
        return data.chat
    template = Template.parse(data.template)
    own_template = data.template != DEFAULT_TEMPLATE and bool(template.response)
    asked = [some for some in sets.values() if any(record.prompt for record in some)]
    if not asked or own_template or not loaded.tokenizer.chat_template:
        return False
    raise UserError(
        f"data.chat: {asked[0].name} {asked[0].source} has prompts and responses, and the model's "
        "tokenizer has a chat template; say data.chat=true (the records are asked as a chat with "
        "an instruct model) or data.chat=false (they are joined by data.template, without it)"
    )


def check_needs(config: RunConfig, roles: Collection[str], needs: Collection[str]) -> None:
    """Refuse a run that lacks a set before anything slow is done.

    Args:
        needs: "pool", text that may be learned, and "level", unseen text to compare with.

    Raises:
        UserError: There is no text to learn, or no level of unseen text can be known.
    """
    if "pool" in needs and not {"pool", "retain"} & set(roles):
        raise UserError(
            f"--retain or --pool: method {config.method.name} needs text that may be kept, to "
            "learn on or to watch; give the records to keep, or any public text as --pool"
        )
    if "level" in needs and "holdout" not in roles:
        measure_holdout_baseline(None, config.criteria)


def partners_of(prepared: Prepared[TokenizedSet], config: RunConfig) -> TokenizedSet | None:
    """The unseen records that the method learns from, which are left out of every figure.

    As many as there are to be forgotten, or half of all where that is fewer, drawn by the seed:
    first of those beyond the sample that is measured, which is drawn by the same seed.
    """
    holdout = prepared.get("holdout")
    if holdout is None or not config.method.learns_from_unseen:
        return None
    generator = torch.Generator().manual_seed(config.training.seed)
    order = torch.randperm(len(holdout), generator=generator).tolist()
    count = min(len(prepared["forget"]), len(holdout) // 2)
    limit = config.evaluation.limit_for("causal-lm")
    chosen = (order[limit:] + order[:limit])[:count]
    return holdout.subset(sorted(chosen)) if count else None


def check_unseen(config: RunConfig, holdout: RecordSet | TokenizedSet | None) -> None:
    """Refuse too few unseen records for a method that cannot do without some to learn from.

    Raises:
        UserError: There are fewer than two.
    """
    if "holdout" in config.method.needs and (holdout is None or len(holdout) < 2):
        raise UserError(
            f"--holdout: {config.method.name} learns from unseen records and is measured on "
            "others; give 2 at least, better twice as many as --forget has"
        )


def pool_of(config: RunConfig, prepared: Prepared[TokenizedSet]) -> TokenizedSet:
    """The text that the method may learn on.

    Raises:
        UserError: There is none, or it holds nothing but copies of what is to be forgotten, or no
            level of unseen text can be known.
    """
    check_needs(config, prepared.sets, prepared.family.needs["forget"])
    role = "pool" if prepared.get("pool") else "retain"
    pool, copies = prepared[role], {copy.other for copy in prepared.duplicates[role]}
    if len(copies) == len(pool):
        raise UserError(
            f"--{role}: all of its {len(pool)} records are duplicates of records to forget, so "
            "there is nothing to learn meanwhile; give other texts as --pool"
        )
    return pool


def without_copies(prepared: Prepared[TokenizedSet], pool: TokenizedSet) -> TokenizedSet:
    """The pool without exact and near duplicates of what is to be forgotten."""
    copies = {copy.other for copy in prepared.duplicates[pool.name]}
    if not copies:
        return pool
    return pool.subset([record for record in range(len(pool)) if record not in copies])


# Records of so many times the length, or of so much less, are of another make-up.
OTHER_LENGTH = 2.0


def notes_on_holdout(prepared: Prepared[TokenizedSet]) -> list[str]:
    """Where the unseen records that limits rest on are unlike those to be forgotten."""
    forget, holdout = prepared["forget"], prepared.get("holdout")
    if holdout is None:
        return []
    notes = []
    asked, also = has_prompts(forget), has_prompts(holdout)
    if asked != also:
        forms = ("prompts and responses", "plain texts")
        mine, other = forms if asked else forms[::-1]
        notes.append(
            f"the records to be forgotten are {mine} and the unseen ones {other}: the limits come "
            "from text of another form, give unseen records of the same"
        )
    mine, other = (
        sum(int(window.scored.sum()) for window in some.windows) / len(some)
        for some in (forget, holdout)
    )
    if max(mine, other) > OTHER_LENGTH * min(mine, other):
        notes.append(
            f"the unseen records are of another length ({other:.0f} counted tokens a record, those "
            f"to be forgotten {mine:.0f}): limits of single records allow for it, limits of the "
            "whole set do not"
        )
    return notes


def has_prompts(some: RecordSet | TokenizedSet) -> bool:
    """Whether any record is a prompt and its response."""
    return any(record.is_asked for record in some.records)
