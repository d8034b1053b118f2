"""How steps draw from sets: each example once in a pass, classes as asked for, by seed."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from classifier_world import SEQUENCE, TOKEN, tiny_data
from unlearner.data.labelled import Example
from unlearner.training.data import ClassifierData, Remaining, passes, similar_lengths

torch.set_num_threads(1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def example(number, *labels, length=3):
    zeros = np.zeros(length, dtype=np.int64)
    return Example(number, f"e{number}", zeros, zeros, np.arange(len(labels)), np.array(labels))


def numbers(some):
    return [one.record for one in some]


# Passes


def test_a_pass_holds_every_example_once_in_batches_as_even_as_can_be():
    """7 examples in batches of at most 3: 3, 2 and 2; then the next pass begins."""
    items = [example(number, 0) for number in range(7)]
    batches = list(islice(passes(items, 3, generator()), 6))
    assert [len(batch) for batch in batches] == [3, 2, 2] * 2
    for some in (batches[:3], batches[3:]):
        assert sorted(number for batch in some for number in numbers(batch)) == list(range(7))
    assert numbers(batches[0]) != numbers(batches[3])


def test_similar_lengths_hold_every_example_once_in_batches_of_little_padding():
    """64 lengths from 1 to 64 in random order, batches of 8 from one pool: 8 lengths in a row."""
    order = torch.randperm(64, generator=generator(1)).tolist()
    items = [example(number, 0, length=1 + number) for number in order]
    batches = list(similar_lengths(items, 8, generator()))
    assert sorted(n for batch in batches for n in numbers(batch)) == list(range(64))
    assert all(max(numbers(batch)) - min(numbers(batch)) == 7 for batch in batches)
    firsts = [min(numbers(batch)) for batch in batches]
    assert firsts != sorted(firsts)  # a short text does not always come before a long one


def test_pools_are_sorted_by_themselves():
    """One batch a pool: nothing is sorted into another batch, and the last one is smaller."""
    items = [example(number, 0, length=1 + number) for number in range(20)]
    batches = list(similar_lengths(items, 8, generator(), pool=1))
    assert sorted(len(batch) for batch in batches) == [4, 8, 8]
    assert sorted(n for batch in batches for n in numbers(batch)) == list(range(20))
    assert max(max(numbers(b)) - min(numbers(b)) for b in batches) > 7


@pytest.mark.parametrize("draw", [passes, similar_lengths])
def test_batches_follow_from_the_seed(draw):
    items = [example(number, 0, length=1 + number % 5) for number in range(30)]

    def drawn(seed):
        return [numbers(batch) for batch in islice(draw(items, 4, generator(seed)), 7)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


# Remaining examples


def test_uniform_draws_take_every_example_once_before_any_comes_again():
    """10 examples in draws of 4: the first 10 drawn are all of them, and so are the next 10."""
    remaining = Remaining([example(number, number % 3) for number in range(10)], generator())
    drawn = [number for _ in range(5) for number in numbers(remaining.draw(4, []))]
    assert len(drawn) == 20
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_more_can_be_drawn_than_there_are():
    remaining = Remaining([example(number, 0) for number in range(3)], generator())
    assert sorted(numbers(remaining.draw(6, []))) == [0, 0, 1, 1, 2, 2]


def test_balanced_draws_take_classes_equally_often():
    """90 of class 0 and 10 of class 1: of 2,000 draws half each, give or take 5 x 22.4 = 112.

    Within class 1 each of the 10 comes 100 times, give or take 5 x 9.7.
    """
    items = [example(number, int(number >= 90)) for number in range(100)]
    remaining = Remaining(items, generator(), balanced=True)
    drawn = Counter(numbers(remaining.draw(2000, [])))
    rare = [drawn[number] for number in range(90, 100)]
    assert abs(sum(rare) - 1000) < 112
    assert all(abs(count - 100) < 49 for count in rare)


@pytest.mark.parametrize(("share", "least"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_related_examples_are_of_the_classes_of_the_forget_examples(share, least):
    """1 in 50 is of class 1: of 16 draws share x 16 are by rule, the others hardly ever."""
    items = [example(number, int(number % 50 == 0)) for number in range(1000)]
    remaining = Remaining(items, generator(), related_share=share)
    forget = [example(0, 1), example(1, 1)]
    counts = [sum(one.labels[0] == 1 for one in remaining.draw(16, forget)) for _ in range(20)]
    assert min(counts) >= least
    assert np.mean(counts) < least + 1.5


def test_related_classes_come_equally_often():
    """Forget examples of classes 1 and 2; 300 draws of each, give or take 5 x 12.2 = 61."""
    items = [example(number, min(number % 20, 2)) for number in range(100)]
    remaining = Remaining(items, generator(), related_share=1.0)
    forget = [example(0, 1), example(1, 1), example(2, 2)]
    drawn = Counter(int(one.labels[0]) for one in remaining.draw(600, forget))
    assert set(drawn) == {1, 2}
    assert abs(drawn[1] - 300) < 61


def test_a_class_that_is_gone_from_the_rest_has_no_related_examples():
    remaining = Remaining(
        [example(number, 0) for number in range(8)], generator(), related_share=0.5
    )
    assert sorted(numbers(remaining.draw(8, [example(0, 1)]))) == list(range(8))


def test_the_outside_tag_is_no_class_of_a_sentence():
    """Sentence 2 has tags 0 and 1, the others 0 alone: related to tag 1 is sentence 2 only."""
    items = [example(0, 0, 0), example(1, 0), example(2, 0, 1), example(3, 0)]
    forget = [example(0, 0, 1)]
    related = Remaining(items, generator(), related_share=1.0, outside=0)
    assert set(numbers(related.draw(8, forget))) == {2}
    counted = Remaining(items, generator(), related_share=1.0)
    assert set(numbers(counted.draw(40, forget))) == {0, 1, 2, 3}


def test_balanced_draws_of_sentences_without_entities_are_uniform():
    remaining = Remaining(
        [example(number, 0) for number in range(4)], generator(), balanced=True, outside=0
    )
    assert sorted(numbers(remaining.draw(4, []))) == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{}, {"balanced": True}, {"related_share": 0.5}])
def test_draws_follow_from_the_seed(options):
    items = [example(number, number % 3) for number in range(30)]

    def drawn(seed):
        remaining = Remaining(items, generator(seed), **options)
        return [numbers(remaining.draw(5, [items[0]])) for _ in range(10)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


# What is outside


def test_the_outside_tag_is_known_by_its_name_and_of_tags_only():
    assert tiny_data(TOKEN).outside == 0
    assert tiny_data(SEQUENCE).outside is None
    assert ClassifierData.outside_of(TOKEN, ("B-x", "O")) == 1
    assert ClassifierData.outside_of(TOKEN, ("noun", "verb")) is None
    assert replace(tiny_data(), labels=("O", "b", "c")).outside is None  # a text's label named O
