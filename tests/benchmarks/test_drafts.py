"""What drafts could save, counted by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import drafts
from unlearner.inference.answers import Answer


def test_a_continuation_that_comes_back_to_the_record_is_verified_at_once():
    """Behind 9 it says 5 6 7, which stand in the record, and then 8 1 2 as the record does.

    The first token is known. Passes: 5, 6, 7 one by one (no three that match before), then the
    draft 8 1 of two tokens is right and the pass gives 2 as well: 4 passes of 1 + 1 + 1 + 3 tokens.
    """
    record = [3, 5, 6, 7, 8, 1, 2]
    assert drafts.drafted([3], [9, 5, 6, 7, 8, 1, 2], record) == (4, 6)


def test_a_wrong_draft_costs_its_tokens_and_no_pass():
    """Behind 5 6 7 the record says 8 1, the model 4 4: the draft of one token is refused."""
    record = [5, 6, 7, 8, 1, 2]
    assert drafts.drafted([3], [5, 6, 7, 4, 4], record) == (4, 1 + 1 + 2 + 1)


def test_a_loop_is_drafted_from_the_text_so_far():
    """1 2 3 1 2 3 1 2: behind the first three the rest is one draft of four, and one more token."""
    prompt, said = [7, 1, 2, 3], [1, 2, 3, 1, 2, 3, 1, 2]
    # Behind 2 3 1 and behind 3 1 2, which never stood before, a pass of one token each; then 1 2 3,
    # the prompt's end, is followed by 1 2 3: three are right and the pass gives one more.
    assert drafts.drafted(prompt, said, ()) == (4, 1 + 1 + 4 + 1)


def test_tokens_of_the_definition_and_of_ours(monkeypatch):
    """12 tokens, EL_10 from 2: MA reads 1 + ... + 11 = 66, one prompt of 2 goes on to 11 in all.

    Ours: the text's 12, and behind one break at 4 the 7 tokens of 8 whose first is known.
    """
    monkeypatch.setattr(drafts, "NUM_TOKENS", 12)
    monkeypatch.setattr(drafts, "START", 2)
    ids = np.arange(12)
    answer = Answer(
        0, "0", ids, np.ones(11, bool), np.zeros(11), ids[1:], decoded={4: np.arange(50, 58)}
    )
    found = drafts.count([answer])
    assert found["definition"] == 66 + 11
    assert found["own"] == found["own_longest"] == 7
    assert found["record_passes"] == 7  # nothing of it stands in the record
    page = drafts.render({"m": found | {"records": 1}})
    assert f"| 77 | 19 | {77 / 19:.1f} | 7 | 100.0% | 7 | 7 |" in page
    assert found["rows"] == pytest.approx(1)
