"""Unseen records for a method: which are partners, which are held still."""

from test_lm_methods import POOL, QUESTIONS, tokenized

from unlearner.training.quantiles import divide


def test_one_unseen_record_in_four_is_held_still_and_no_partner():
    unseen = tokenized("holdout", (*POOL, *QUESTIONS))
    partners, held = divide(unseen)
    ids = [record.id for record in unseen.records]
    assert [record.id for record in held.records] == ids[::4]
    assert [record.id for record in partners.records] == [one for one in ids if one not in ids[::4]]


def test_a_single_record_is_both():
    unseen = tokenized("holdout", POOL[:1])
    partners, held = divide(unseen)
    assert partners.records == held.records == unseen.records
