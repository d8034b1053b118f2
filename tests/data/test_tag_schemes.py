"""The scheme of tags, from the sentences of a data set and the names of a model's outputs."""

import pytest

from unlearner.data.tag_schemes import has_entities, split_tags, tag_use

BIO = ("O", "B-x", "I-x", "B-y", "I-y")


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (BIO, "IOB2"),
        (("O", "B-x"), "IOB2"),
        (("O", "I-x", "I-y"), "IOB1"),
        (("O", "I-x", "E-x"), "IOE2"),
        (("O", "B-x", "I-x", "E-x", "S-x"), "BIOES"),
        (("O", "B-x", "M-x", "E-x", "S-x"), "BIOES"),
        (("O", "S-x"), "BIOES"),
        (("O", "B-x", "I-x", "L-x", "U-x"), "BILOU"),
        (("O", "B_x", "I_x"), "IOB2"),
        (("O", "b-x", "i-x"), "IOB2"),
        (("O", "x-B", "x-I"), "IOB2"),
        (("O", "B", "I"), "IOB2"),
        (("O", "BANK", "LOAN"), "types"),
        (("O", "B-x", "other"), "types"),
        (("NOUN", "VERB"), "none"),
    ],
)
def test_without_an_entity_in_the_data_the_names_decide(names, scheme):
    assert tag_use(names).scheme == scheme
    assert tag_use(names, [["O", "O"]] if "O" in names else []).scheme == scheme
    assert has_entities(names) == (scheme != "none")


@pytest.mark.parametrize(
    ("sentences", "scheme", "broken"),
    [
        (["B-x I-x O"], "IOB2", 0),
        (["I-x I-x O", "I-y B-y"], "IOB1", 0),
        (["O O"], "IOB2", 0),
        # One slip in data of the other kind is reported, and does not turn the rest.
        (["B-x I-x", "B-y", "B-x", "O I-y"], "IOB2", 1),
        (["I-x I-x", "I-y", "I-x O", "O B-y"], "IOB1", 1),
        # As many of each: what most tools write.
        (["B-x", "I-y"], "IOB2", 1),
        # B- to I- of another type.
        (["B-x I-y", "B-x", "B-y I-y"], "IOB2", 1),
    ],
)
def test_the_data_of_all_sets_decide_between_schemes_of_the_same_names(sentences, scheme, broken):
    split = [sentence.split() for sentence in sentences]
    tagged = sum(tag != "O" for sentence in split for tag in sentence)
    use = tag_use(BIO, split)
    assert (use.scheme, use.num_broken, use.num_tagged) == (scheme, broken, tagged)


def test_data_that_use_only_some_of_the_prefixes_decide_too():
    """Labels of BIOES, sentences that never end one."""
    names = ("O", "B-x", "I-x", "E-x", "S-x")
    assert tag_use(names, [["B-x", "I-x", "O"], ["B-x"]]).scheme == "IOB2"
    assert tag_use(names, [["S-x", "O"]]).scheme == "BIOES"


def test_prefix_and_type_of_a_name():
    assert split_tags(("O", "B-a-b")) == {"O": ("O", ""), "B-a-b": ("B", "a-b")}
    assert split_tags(("O", "W-a")) == {"O": ("O", ""), "W-a": ("S", "a")}
    assert split_tags(("O", "a-b-I")) == {"O": ("O", ""), "a-b-I": ("I", "a-b")}
    assert split_tags(("O",)) == {}
