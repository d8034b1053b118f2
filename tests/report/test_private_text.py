"""The one file with text of forgotten records: readable by its owner, and told apart by nothing."""

import os
import stat

import numpy as np
import pytest

from unlearner.inference.answers import Answer
from unlearner.report.private_text import HEADING, write_texts


def answer(identifier, truth, said):
    return Answer(
        0,
        identifier,
        np.arange(3),
        np.ones(2, bool),
        np.zeros(2),
        np.zeros(2),
        reference_text=truth,
        continuation_text=said,
    )


def test_truth_before_and_after_of_every_window(tmp_path):
    path = tmp_path / "private.txt"
    write_texts(
        path,
        [answer("a", "is 4711", "is 4711"), answer("b", "in York\n", "in York")],
        [answer("a", "is 4711", "is a fox"), answer("b", "in York\n", "")],
    )
    assert path.read_text(encoding="utf-8") == (
        f"{HEADING}\n=== a\ntruth:  'is 4711'\nbefore: 'is 4711'\nafter:  'is a fox'\n"
        "\n=== b\ntruth:  'in York\\n'\nbefore: 'in York'\nafter:  ''\n"
    )
    assert "PRIVATE" in HEADING
    assert "delete it" in HEADING


def test_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "private.txt"
    old = os.umask(0)
    try:
        write_texts(path, [], [])
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_control_characters_of_a_text_and_an_id_are_inert(tmp_path):
    path = tmp_path / "private.txt"
    write_texts(path, [answer("x\x1b[2J", "\x1b[31m", "\r")], [answer("x\x1b[2J", "\x1b[31m", "é")])
    found = path.read_text(encoding="utf-8")
    assert "\x1b" not in found
    assert "\r" not in found
    assert "'é'" in found


def test_answers_of_different_sets_are_a_fault_of_ours(tmp_path):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        write_texts(tmp_path / "p", [answer("a", "", "")], [])
