"""Padded tensors and label positions, by hand."""

import numpy as np
import pytest
import torch

from conftest import tiny_model
from unlearner.data.batches import collate, join, length_batches, length_groups
from unlearner.data.windows import Window
from unlearner.functional import mean_per_record
from unlearner.inference.reference import logits_at
from unlearner.models.heads import output_head


def window(record, ids, scored=None):
    counts = np.ones(len(ids) - 1, bool) if scored is None else np.array(scored, bool)
    return Window(record, f"id{record}", np.array(ids, dtype=np.int64), counts, 1)


def test_labels_positions_and_owners_by_hand():
    """The second window's second label (its 8) does not count; records 7 and 3 are 0 and 1.

    Position 0 of row 0 predicts the 5 behind it, and so on.
    """
    batch = collate([window(7, [4, 5, 6]), window(3, [9, 7, 8, 2], [1, 0, 1]), window(7, [6, 1])])
    assert batch["input_ids"].tolist() == [[4, 5, 6, 0], [9, 7, 8, 2], [6, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["positions"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 2], [2, 0]]
    assert batch["labels"].tolist() == [5, 6, 7, 2, 1]
    assert batch["owner"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("token", [0, 1])
def test_padding_is_known_by_position_not_by_its_id(token):
    """A real 0, which rows are padded with, and a real 1, end of text, are read and predicted."""
    batch = collate([window(0, [token, token, token]), window(1, [5, 6, 7, 8, 9])])
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 0, 0]
    assert batch["labels"].tolist() == [token, token, 6, 7, 8, 9]


def test_no_position_lies_in_the_padding():
    """Rows of 2, 5 and 3 tokens have 1 + 4 + 2 labels, each read one before its own position."""
    batch = collate([window(0, [3, 4]), window(1, [5, 6, 7, 8, 9]), window(2, [3, 3, 3])])
    row, position = batch["positions"].unbind(-1)
    assert len(row) == 7
    assert batch["attention_mask"][row, position + 1].all()
    assert (batch["labels"] == batch["input_ids"][row, position + 1]).all()


def test_a_window_without_labels_that_count_has_no_position_but_an_owner():
    batch = collate([window(0, [3, 4, 5], [0, 0]), window(1, [6, 7])])
    assert batch["positions"].tolist() == [[1, 0]]
    assert batch["owner"].tolist() == [0, 1]
    values = torch.tensor([2.0])
    owner = batch["owner"][batch["positions"][:, 0]]
    assert mean_per_record(values, owner, 2).tolist() == [0, 2]


def test_one_window_is_a_batch():
    batch = collate([window(5, [3, 4])])
    assert batch["input_ids"].tolist() == [[3, 4]]
    assert batch["positions"].tolist() == [[0, 0]]
    assert batch["owner"].tolist() == [0]


def test_join_by_hand():
    """The first's rows and positions stay, the second's rows are 2 further and owners 2 higher."""
    first = collate([window(0, [4, 5]), window(9, [6, 7])])
    second = collate([window(0, [8, 9, 3]), window(0, [3, 2])])
    both = join(first, second)
    assert both["input_ids"].tolist() == [[4, 5, 0], [6, 7, 0], [8, 9, 3], [3, 2, 0]]
    assert both["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]]
    assert both["positions"].tolist() == [[0, 0], [1, 0], [2, 0], [2, 1], [3, 0]]
    assert both["labels"].tolist() == [5, 7, 9, 3, 2]
    assert both["owner"].tolist() == [0, 1, 2, 2]


def test_join_equals_collate_of_all_where_no_record_is_in_both():
    one, other = [window(0, [4, 5, 6, 7])], [window(1, [8, 9]), window(2, [3, 2, 1])]
    whole, joined = collate([*one, *other]), join(collate(one), collate(other))
    assert whole.keys() == joined.keys()
    assert all(torch.equal(whole[name], joined[name]) for name in whole)


def test_a_record_gives_the_same_logits_alone_and_padded_beside_others(architecture):
    """Trained on in a batch or alone: the numbers are the model's own, not the padding's."""
    model = tiny_model(architecture)
    head = output_head(model)
    short, long = window(0, [7, 0, 1, 9]), window(1, list(range(5, 17)))
    with torch.no_grad():
        alone = logits_at(model, head, collate([short]))
        beside = logits_at(model, head, collate([short, long]))
        joined = logits_at(model, head, join(collate([short]), collate([long])))
    torch.testing.assert_close(beside[:3], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(joined[:3], alone, rtol=1e-4, atol=1e-4)


def lengths(*numbers):
    return [window(i, [2] * number) for i, number in enumerate(numbers)]


@pytest.mark.parametrize("max_tokens", [1, 7, 10, 24, 1000])
def test_every_window_is_in_one_batch_of_at_most_max_tokens_padded(max_tokens):
    """Padded to the longest of the batch; a window longer than the limit is alone."""
    windows = lengths(5, 2, 9, 2, 7, 3, 3, 12)
    batches = list(length_batches(windows, max_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    for batch in batches:
        longest = max(len(windows[index]) for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= max_tokens


def test_batches_are_of_similar_length_by_hand():
    """Sorted 2 2 3 5 9: 2 2 3 pad to 9 <= 10; a 5 would make 20; 5 and 9 would make 18."""
    assert list(length_batches(lengths(5, 2, 9, 3, 2), 10)) == [[1, 4, 3], [0], [2]]


def test_no_windows_make_no_batch():
    assert list(length_batches([], 10)) == []


def test_groups_hold_every_index_once_and_split_where_it_pays():
    """3 texts of 10 tokens beside one of 100: apart they save 3 x 90 = 270 tokens of padding."""
    groups = length_groups([10, 100, 10, 10], 64)
    assert [sorted(group) for group in groups] == [[0, 2, 3], [1]]


def test_groups_stay_together_where_a_pass_costs_more_than_the_padding():
    """8 texts of 10 tokens beside one of 18: 8 x 8 = 64 tokens, which is what a pass costs."""
    assert len(length_groups([10] * 8 + [18], 64)) == 1
    assert len(length_groups([10] * 8 + [19], 64)) == 2


def test_groups_of_random_lengths_hold_every_index_once():
    numbers = np.random.default_rng(0).integers(1, 500, size=200).tolist()
    groups = length_groups(numbers, 64)
    assert sorted(index for group in groups for index in group) == list(range(200))
    assert len(groups) > 3


def test_no_sequences_make_no_group():
    assert length_groups([], 64) == []
