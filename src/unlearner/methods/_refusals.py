"""Refusals: what a model may answer in place of what it is to forget."""

from dataclasses import replace

import torch

from unlearner.data.loading import read_records
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import TokenizedSet, tokenize_set
from unlearner.errors import UserError
from unlearner.training.data import UnlearningData

REFUSALS = (
    "I don't know.",
    "I do not know the answer to that.",
    "I am not sure.",
    "I have no information about this.",
    "That is something I cannot tell you.",
    "Sorry, I have never heard of it.",
    "I'm afraid I can't help with this one.",
    "This is outside of what I know.",
    "My knowledge does not reach that far.",
    "You would have to ask somebody else.",
    "I can only guess, and I would rather not.",
    "There is nothing that I could say about it.",
    "No idea, I am sorry.",
    "I was not taught anything on this subject.",
    "I wish I knew, but I don't.",
    "It would be wrong of me to pretend that I know this.",
    "That question is beyond me.",
    "I can't answer that with any confidence.",
    "As far as I can tell, I have no answer.",
    "Unfortunately, the answer is not known to me.",
    "I have to pass on this question.",
    "Nothing that I have learned covers this.",
    "Let me be honest: I don't have the answer.",
    "I would need to look that up, and I can't.",
    "I'm not familiar with this matter.",
    "Please check another source, for I am unable to say.",
    "I lack the details to answer that.",
    "This is not something that I am able to answer.",
    "I could not tell you, even roughly.",
    "My apologies, but I know nothing about it.",
)


def read_refusals(path: str) -> tuple[str, ...]:
    """Our own list where the path is empty, or the texts of a file of records.

    Raises:
        UserError: The file cannot be read, or holds something other than texts.
    """
    if not path:
        return REFUSALS
    texts = tuple(record.text for record in read_records(path, name="method.refusals"))
    if not all(texts):
        raise UserError(
            f"method.refusals {path}: texts are needed, one a line of a .txt file, or as a column "
            "`text`; it holds other columns; give such a file, or leave it empty for our own list"
        )
    return texts


def check_refusable(forget: TokenizedSet, path: str, method: str) -> None:
    """Refuse forget records without a prompt that could be answered otherwise.

    Args:
        path: Of the refusals, or empty.
        method: The method's name, for the message.

    Raises:
        UserError: A record has no prompt and response, or the file of refusals cannot be read.
    """
    read_refusals(path)
    for record in forget.records:
        if not (record.prompt and record.response):
            came = "token ids" if record.input_ids else "text"
            came = "a conversation" if record.messages else came
            raise UserError(
                f"--forget {forget.source}, record {record.id!r}: method {method} needs a prompt "
                f"and a response, the record has {came}; map columns to prompt and response, or "
                "use another method, such as npo"
            )


def refusal_set(data: UnlearningData, path: str, generator: torch.Generator) -> TokenizedSet:
    """The forget records with a refusal each for a response, of which alone the tokens count.

    Args:
        path: Of the refusals, or empty for our own list.
        generator: Draws the refusal of each record.
    """
    refusals = read_refusals(path)
    drawn = torch.randint(len(refusals), (len(data.forget),), generator=generator).tolist()
    records = tuple(
        Record(record.id, prompt=record.prompt, response=refusals[number], subject=record.subject)
        for record, number in zip(data.forget.records, drawn, strict=True)
    )
    layout = replace(data.layout, scope="response")
    return tokenize_set(RecordSet("refusal", records, "memory"), data.tokenizer, layout)
