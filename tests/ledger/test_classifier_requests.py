"""Requests on classifiers of texts and of words: carried out, measured again, verified."""

import pytest
from ledger_world import ledger_in

from classifier_commands import SHORT, rows
from classifier_world import SEQUENCE, TOKEN
from command_world import json_lines
from unlearner.cli.app import MET, NOT_MET

# No limit can fail, see `test_runs.py`.
EASY = (
    " --force criteria.score_margin=1 criteria.auc_margin=0.5 criteria.score_drop=1 "
    "training.device=cpu method.max_repair_rounds=1"
)


@pytest.mark.parametrize(
    ("family", "prefix", "model"), [(SEQUENCE, "", "texts"), (TOKEN, "tagged-", "tags")]
)
def test_two_requests_on_a_classifier(family, prefix, model, call_classifier, tmp_path):
    """The second one's records stand in the retain set, and are left out of it."""
    asked, kept = rows(family, "forget"), rows(family, "retain")
    files = {"a.jsonl": json_lines(*asked[:4]), "b.jsonl": json_lines(*asked[4:], kept[0])}
    for name in ("a", "b"):
        assert call_classifier(f"requests add --records {name}.jsonl --id {name}", files)[0] == MET
    line = f"requests run $classifiers/{model} --output runs --retain {prefix}retain.jsonl "
    line += f"--holdout {prefix}holdout.jsonl" + SHORT + EASY
    status, out, err, _ = call_classifier(line)
    assert status in (MET, NOT_MET), err
    book = ledger_in(tmp_path).book
    assert set(book.states().values()) <= {"met", "not measured"}, out
    assert [run.finished["dropped"] for run in book.runs] == [1, 1]
    [(_, values)] = book.measured
    assert {one["status"] for one in values["held"]} == {"holds"}
    assert all(one["figures"] for one in values["held"])
    status, out, err, _ = call_classifier("requests verify --quiet")
    assert status == MET, (out, err)
