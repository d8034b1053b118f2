"""Which set utility is watched on."""

import pytest

from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet
from unlearner.inference.language_model import Questions
from unlearner.training.data import HoldoutBaseline, UnlearningData

LEVEL = HoldoutBaseline(0, 0, None, None, 0, 0, "")


def one(name):
    return TokenizedSet(name, (Record("1", text="x"),), (), "memory")


def data(pool, retain):
    return UnlearningData(None, one("forget"), pool, retain, None, LEVEL, Questions(), 1.1)


def test_the_retain_set_goes_before_the_pool():
    assert data(one("pool"), one("retain")).kept.name == "retain"
    assert data(None, one("retain")).kept.name == "retain"
    assert data(one("pool"), None).kept.name == "pool"


def test_a_run_without_either_is_a_fault_of_ours():
    with pytest.raises(AssertionError):
        data(None, None).kept  # noqa: B018 - the property is what is tested
