"""Records with labels as tensors: one label of a text, or one tag of each word.

B examples, T tokens, N labelled positions, M labelled positions of one example.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError
from unlearner.functional import Tensors


@dataclass(frozen=True)
class Example:
    """Tokens of one record with its labels; a long record with tags becomes several examples.

    Attributes:
        record: Index of the record in its set.
        id: The record's id.
        input_ids: (T,) int64.
        token_type_ids: (T,) which text of a pair a token is of; zeros for a single text.
        positions: (M,) the token that stands for each labelled position: the first of each word,
            and token 0 for the label of a whole text.
        labels: (M,) the index of each label.
    """

    record: int
    id: str
    input_ids: np.ndarray
    token_type_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class LabelledSet:
    """A record set and its examples.

    Attributes:
        truncated: Texts that are read up to the model's limit only.
        scheme: How its tags are written, see `tag_schemes.TagUse`.
    """

    name: str
    records: tuple[Record, ...]
    examples: tuple[Example, ...]
    source: str
    truncated: int = 0
    scheme: str = ""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def groups(self) -> list[str]:
        """The unit of resampling of each record: its subject, or itself."""
        return [record.group for record in self.records]

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples."""
        return sum(map(len, self.examples))

    def subset(self, records: Sequence[int]) -> "LabelledSet":
        """The set of some records, numbered anew in the order given."""
        place = {record: index for index, record in enumerate(records)}
        examples = [
            replace(example, record=place[example.record])
            for example in self.examples
            if example.record in place
        ]
        examples.sort(key=lambda example: example.record)
        kept = tuple(self.records[record] for record in records)
        return LabelledSet(self.name, kept, tuple(examples), self.source, scheme=self.scheme)


@dataclass(frozen=True)
class Labelling:
    """How records become examples.

    Attributes:
        names: The names of the model's outputs, in their order.
        max_length: Longest example in tokens.
        family: "sequence-classification" or "token-classification".
        end: A token that every text has to hold, or None: it is put behind a text where the
            tokenizer does not do that.
        scheme: How tags are written, see `tag_schemes.TagUse`.
    """

    names: tuple[str, ...]
    max_length: int
    family: str
    end: int | None = None
    scheme: str = ""


def tokenize_labelled(
    records: RecordSet, tokenizer: PreTrainedTokenizerBase, labelling: Labelling
) -> LabelledSet:
    """Every record of the set as examples of at most `labelling.max_length` tokens.

    A text with one label is cut off at the limit, as the model would read it; words with
    tags go on in a further example, so that every tag counts once.

    Raises:
        UserError: The tokenizer is too slow to tell words apart, or makes no token of a word.
    """
    index_of = {name: index for index, name in enumerate(labelling.names)}
    tagged, limit = labelling.family == "token-classification", labelling.max_length
    if tagged and not tokenizer.is_fast:
        raise UserError(
            "MODEL: its tokenizer cannot tell which token is of which word; save the model with a "
            "fast tokenizer (tokenizer.json)"
        )
    end = labelling.end
    if end is not None and end in tokenizer("")["input_ids"]:
        end = None  # the tokenizer puts it there itself, also behind what is cut off
    examples: list[Example] = []
    truncated = 0
    for index, record in enumerate(records):
        if tagged:
            labels = np.array([index_of[tag] for tag in record.tags])
            examples += _tagged(index, record, labels, tokenizer, limit)
            continue
        encoded, cut = _encode_text(record, tokenizer, limit, end)
        truncated += cut
        examples.append(_example(index, record.id, encoded, [0], [index_of[record.label]]))
    return LabelledSet(
        records.name,
        records.records,
        tuple(examples),
        records.source,
        truncated,
        labelling.scheme,
    )


def _encode_text(
    record: Record, tokenizer: PreTrainedTokenizerBase, limit: int, end: int | None
) -> tuple[BatchEncoding, bool]:
    """A text, or a pair, with the end token behind it if there is one; whether it was cut off."""
    texts = record.text, record.text_pair or None
    room = limit - (end is not None)
    cut = len(tokenizer(*texts)["input_ids"]) > room
    encoded = tokenizer(*texts, truncation=True, max_length=room)
    for name, last in (("input_ids", end), ("token_type_ids", 0)):
        if end is not None and name in encoded:
            encoded[name] = [*encoded[name], last]
    return encoded, cut


def _tagged(
    index: int,
    record: Record,
    labels: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Iterator[Example]:
    words, start = list(record.tokens), 0
    while start < len(words):
        encoded = tokenizer(
            words[start:], is_split_into_words=True, truncation=True, max_length=max_length
        )
        first: dict[int, int] = {}
        for position, word in enumerate(encoded.word_ids()):
            if word is not None:
                first.setdefault(word, position)
        cut = bool(encoded[0].overflowing)
        words_read = sorted(first)
        # A word of which the limit left only the beginning comes again, whole, in the next one.
        if cut and len(words_read) > 1:
            words_read = words_read[:-1]
        if not words_read and not start:
            raise UserError(
                f"{record.id!r}: the tokenizer makes no token of any of its words; remove the "
                "record, or correct its tokens"
            )
        if words_read:
            positions = [first[word] for word in words_read]
            yield _example(index, record.id, encoded, positions, labels[start:][words_read])
        start = start + words_read[-1] + 1 if cut else len(words)


def _example(
    index: int,
    identifier: str,
    encoded: BatchEncoding,
    positions: Sequence[int],
    labels: Sequence[int] | np.ndarray,
) -> Example:
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    types = np.asarray(encoded.get("token_type_ids", np.zeros_like(ids)), dtype=np.int64)
    return Example(index, identifier, ids, types, np.asarray(positions), np.asarray(labels))


def collate_examples(
    examples: Sequence[Example], device: torch.device | str = "cpu", *, padding: int = 0
) -> Tensors:
    """Padded tensors of some examples.

    Returns:
        `input_ids`, `attention_mask`, `token_type_ids` (B, T); `positions` (N, 2), the example and
        the token of each labelled position, in order; `labels` (N,).
    """
    longest = max(map(len, examples))
    input_ids = torch.full((len(examples), longest), padding, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    token_type_ids = torch.zeros_like(input_ids)
    positions = []
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.from_numpy(example.input_ids)
        token_type_ids[row, : len(example)] = torch.from_numpy(example.token_type_ids)
        attention_mask[row, : len(example)] = 1
        positions += [(row, int(position)) for position in example.positions]
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
        "positions": torch.tensor(positions),
        "labels": torch.from_numpy(np.concatenate([example.labels for example in examples])),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}
