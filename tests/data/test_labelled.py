"""Labelled records as tensors: which token stands for what, and that every tag counts once."""

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    RobertaTokenizer,
)

from classifier_world import SEQUENCE, TOKEN
from conftest import tiny_tokenizer
from unlearner.data.labelled import Labelling, collate_examples, tokenize_labelled
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError
from unlearner.models.loading import Loaded, load_with_new_head

torch.set_num_threads(1)

NAMES = ("O", "B-x", "I-x")
LETTERS = "abcdefghij"
PAD, UNKNOWN, CLS, SEP, FIRST = 0, 1, 2, 3, 4


@pytest.fixture(scope="module")
def tokenizer():
    """One token a letter, "abc" as a ##b ##c between [CLS] and [SEP]; a null character vanishes."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    ids = {word: number for number, word in enumerate(words)}
    raw = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    raw.normalizer = normalizers.Replace("\x00", "")
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tokens(word):
    """The first letter's number, then those of the continuing ones."""
    first, *rest = (LETTERS.index(letter) for letter in word)
    return [FIRST + first, *(FIRST + len(LETTERS) + place for place in rest)]


def examples_of(tokenizer, *records, family=TOKEN, max_length=64, names=NAMES):
    some = RecordSet("forget", tuple(records), "memory")
    return tokenize_labelled(some, tokenizer, Labelling(names, max_length, family))


def tagged(words, tags, name="r"):
    return Record(name, tokens=tuple(words.split()), tags=tuple(tags.split()))


# Texts with one label


def test_a_text_is_its_tokens_with_its_label_at_the_first(tokenizer):
    found = examples_of(tokenizer, Record("r", text="ab c", label="I-x"), family=SEQUENCE)
    (example,) = found.examples
    assert example.input_ids.tolist() == [CLS, *tokens("ab"), *tokens("c"), SEP]
    assert (example.positions.tolist(), example.labels.tolist()) == ([0], [2])
    assert (example.record, example.id, len(example)) == (0, "r", 5)
    assert example.token_type_ids.tolist() == [0] * 5
    assert found.truncated == 0


def test_a_pair_is_told_apart_by_its_types(tokenizer):
    record = Record("r", text="ab", text_pair="cd", label="O")
    (example,) = examples_of(tokenizer, record, family=SEQUENCE).examples
    assert example.input_ids.tolist() == [CLS, *tokens("ab"), SEP, *tokens("cd"), SEP]
    assert example.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_texts_beyond_the_limit_are_cut_off_and_counted(tokenizer):
    """At most 5 tokens: 3 letters between [CLS] and [SEP]; 3 fit, 4 and 9 do not."""
    records = [Record(text, text=text, label="O") for text in ("abc", "abcd", "a b c d e f g h i")]
    found = examples_of(tokenizer, *records, family=SEQUENCE, max_length=5)
    assert found.truncated == 2
    assert [len(example) for example in found.examples] == [5, 5, 5]
    assert found.examples[1].input_ids.tolist() == [CLS, *tokens("abc"), SEP]


# Words with tags


def test_the_first_token_of_a_word_stands_for_it(tokenizer):
    """[CLS] a ##b ##c d e ##f [SEP]: words begin at 1, 4 and 5."""
    (example,) = examples_of(tokenizer, tagged("abc d ef", "B-x O I-x")).examples
    assert example.input_ids.tolist() == [CLS, *tokens("abc"), *tokens("d"), *tokens("ef"), SEP]
    assert example.positions.tolist() == [1, 4, 5]
    assert example.labels.tolist() == [1, 0, 2]


def test_a_long_record_goes_on_in_further_examples(tokenizer):
    """Room for 4 letters: "ab" and "cd" fill it, and the second of them could have been cut.

    So "cd" comes again, with the whole of "e" and "f" behind it.
    """
    found = examples_of(tokenizer, tagged("ab cd e f", "B-x I-x O B-x"), max_length=6)
    parts = [(one.positions.tolist(), one.labels.tolist()) for one in found.examples]
    assert parts == [([1], [1]), ([1, 3, 4], [2, 0, 1])]
    assert {one.record for one in found.examples} == {0}
    assert found.truncated == 0


@pytest.mark.parametrize("max_length", [8, 9, 12, 30])
def test_every_tag_counts_exactly_once_with_the_whole_word_before_it(max_length, tokenizer):
    """60 random records: labels in order are the tags; a word's tokens follow its position."""
    draw = random.Random(0)
    records = []
    for number in range(60):
        words = [
            "".join(draw.choices(LETTERS, k=draw.randint(1, 5))) for _ in range(draw.randint(1, 25))
        ]
        records.append(
            Record(f"r{number}", tokens=tuple(words), tags=tuple(draw.choices(NAMES, k=len(words))))
        )
    found = examples_of(tokenizer, *records, max_length=max_length)
    for number, record in enumerate(records):
        mine = [example for example in found.examples if example.record == number]
        labels = [label for example in mine for label in example.labels.tolist()]
        assert labels == [NAMES.index(tag) for tag in record.tags]
        words = iter(record.tokens)
        for example in mine:
            assert len(example) <= max_length
            for position in example.positions:
                expected = tokens(next(words))
                assert example.input_ids[position:][: len(expected)].tolist() == expected


def test_the_last_word_comes_again_where_its_end_was_cut_off(tokenizer):
    """Room for 4 letters: "abc" leaves room for the d of "de", which then stands by itself."""
    found = examples_of(tokenizer, tagged("abc de", "O B-x"), max_length=6)
    assert [one.labels.tolist() for one in found.examples] == [[0], [1]]
    assert found.examples[1].input_ids.tolist() == [CLS, *tokens("de"), SEP]


def test_a_word_longer_than_the_limit_counts_once_by_its_beginning(tokenizer):
    """Room for 4 letters, a word of 10 between two short ones."""
    found = examples_of(tokenizer, tagged("a abcdefghij b", "O B-x I-x"), max_length=6)
    assert [label for one in found.examples for label in one.labels.tolist()] == [0, 1, 2]
    long = next(one for one in found.examples if 1 in one.labels)
    place = long.positions[long.labels.tolist().index(1)]
    assert long.input_ids[place:-1].tolist() == tokens("abcd")


@pytest.mark.parametrize("nothing", [0, 1, 2])
def test_a_word_without_a_token_is_left_out_with_its_tag(nothing, tokenizer):
    """A null character is no token, wherever it stands; the other two words keep their own tags."""
    words, tags = ["ab", "c", "de"], list(NAMES[:3])
    words[nothing] = "\x00"
    record = Record("r7", tokens=tuple(words), tags=tuple(tags))
    (example,) = examples_of(tokenizer, record).examples
    assert example.labels.tolist() == [label for label in range(3) if label != nothing]
    assert len(example.positions) == 2


def test_a_record_without_any_token_is_refused(tokenizer):
    record = Record("r7", tokens=("\x00", "\x00"), tags=("O", "O"))
    with pytest.raises(UserError, match="no token of any of its words"):
        examples_of(tokenizer, record)


def test_a_slow_tokenizer_cannot_tell_words_apart():
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="fast tokenizer"):
        examples_of(Slow(), tagged("a", "O"))


def test_words_of_a_roberta_carry_the_space_before_them(tmp_path):
    """It knows "the" and " the" apart; within a sentence it was taught the latter."""
    tiny_tokenizer().save_pretrained(tmp_path)
    RobertaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    RobertaModel(RobertaConfig(vocab_size=96, intermediate_size=8, **small)).save_pretrained(
        tmp_path
    )
    tokenizer = load_with_new_head(str(tmp_path), TOKEN, NAMES).tokenizer
    (example,) = examples_of(tokenizer, tagged("the phone", "O B-x")).examples
    starts = tokenizer.convert_ids_to_tokens(example.input_ids[example.positions].tolist())
    assert [start[0] for start in starts] == ["Ġ", "Ġ"]


# Sets


def test_a_subset_is_numbered_anew_in_the_order_given(tokenizer):
    records = [
        tagged("ab cd e f", "B-x I-x O B-x", name="a"),
        tagged("a", "O", name="b"),
        tagged("bc", "B-x", name="c"),
    ]
    found = examples_of(tokenizer, *records, max_length=6)
    some = found.subset([2, 0])
    assert [record.id for record in some.records] == ["c", "a"]
    numbers = [(example.record, example.id) for example in some.examples]
    assert numbers == [(0, "c")] + [(1, "a")] * (len(numbers) - 1)
    assert len(numbers) > 2
    assert len(some) == 2


def test_a_set_tells_its_tokens_and_the_subjects_of_its_records(tokenizer):
    records = [Record("a", text="ab", label="O", subject="s"), Record("b", text="c", label="O")]
    found = examples_of(tokenizer, *records, family=SEQUENCE)
    assert found.groups == ["s", "b"]
    assert found.num_tokens == 4 + 3


# Batches


def test_examples_are_padded_on_the_right_and_positions_name_their_row(tokenizer):
    found = examples_of(tokenizer, tagged("abc d", "B-x O"), tagged("e", "I-x"))
    batch = collate_examples(found.examples, padding=7)
    long, short = found.examples
    assert batch["input_ids"].tolist() == [
        long.input_ids.tolist(),
        [*short.input_ids.tolist(), 7, 7, 7],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 3 + [0] * 3]
    assert batch["token_type_ids"].tolist() == [[0] * 6] * 2
    assert batch["positions"].tolist() == [[0, 1], [0, 4], [1, 1]]
    assert batch["labels"].tolist() == [1, 0, 2]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_pair_keeps_its_types_in_a_batch(tokenizer):
    records = [Record("a", text="ab", text_pair="cd", label="O"), Record("b", text="c", label="O")]
    found = examples_of(tokenizer, *records, family=SEQUENCE)
    types = collate_examples(found.examples)["token_type_ids"]
    assert types.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0] * 7]


# The limit of the model


def test_the_context_of_a_roberta_is_less_than_its_positions(tokenizer):
    """Positions count from behind the padding's, 1: of 34 a text can have 32, not 33."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=34,
        num_labels=3,
    )
    loaded = Loaded(RobertaForSequenceClassification(config).eval(), tokenizer, "memory")
    assert tokenizer.model_max_length > 10**6  # as of a tokenizer saved without a limit
    assert loaded.context == 32
    ids = torch.from_numpy(np.full((1, 32), FIRST))
    assert loaded.model(input_ids=ids).logits.shape == (1, 3)
    with pytest.raises((RuntimeError, IndexError)):
        loaded.model(input_ids=torch.cat([ids, ids[:, :1]], 1))
