"""The table of what is left of a mark, from the reports of a comparison's runs."""

import json

import pytest

import no_mark


def figures(ma, auc, kept, unseen, records):
    return {
        "forget": {"ma": {"value": ma}, "mia_loss_auc": {"value": auc}},
        "retain": {"perplexity": {"value": kept}},
        "holdout": {"perplexity": {"value": unseen}, "loss": {"records": records}},
    }


@pytest.fixture
def folder(tmp_path):
    """ICU sets records aside, so that its target's perplexity of unseen text is another."""
    runs = {
        ("icu", 1): (figures(1.0, 1.0, 2.0, 50.0, 6), figures(0.3, 0.5, 2.2, 40.0, 6)),
        ("npo", 0): (figures(1.0, 0.99, 2.0, 60.0, 10), figures(0.4, 0.8, 3.0, 90.0, 10)),
    }
    for (method, seed), (target, unlearned) in runs.items():
        place = tmp_path / "runs" / method / f"seed-{seed}"
        place.mkdir(parents=True)
        again = {"figures": {"ma": [0.3, 0.45], "mia_loss_auc": [0.5, 0.7]}}
        report = {
            "results": {"target": target, "unlearned": unlearned},
            "verdict": {"status": "met"},
            "relearning": again if method == "icu" else {"skipped": "why"},
            "cost": {"seconds_unlearning": 12.4},
        }
        (place / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path


def test_each_line_is_beside_its_own_target_by_hand(folder):
    target, icu, npo = no_mark.lines(folder)
    assert (target["model"], target["mia_loss_auc"]) == ("target", 0.99)  # with all unseen records
    assert (icu["seed"], icu["retain"], icu["holdout"]) == ("1", 1.1, 0.8)
    assert (icu["relearnt_ma"], icu["relearnt_mia_loss_auc"]) == (0.45, 0.7)
    assert (npo["retain"], npo["holdout"], npo["relearnt_ma"]) == (1.5, 1.5, None)


def test_the_retrained_model_stands_behind_the_target(folder):
    retrained = figures(0.35, 0.52, 2.0, 54.0, 10)
    (folder / "retrained.json").write_text(json.dumps(retrained), encoding="utf-8")
    again = {"figures": {"ma": [0.35, 0.36], "mia_loss_auc": [0.52, 0.5]}}
    (folder / "retrained-relearning.json").write_text(json.dumps(again), encoding="utf-8")
    _, line, *_ = no_mark.lines(folder)
    assert (line["model"], line["holdout"], line["relearnt_ma"]) == ("retrained", 0.9, 0.36)
    assert line["mark"] is None
    marked = {
        "retrained-mark.json": {"retrained": 0.6},
        "runs/icu/seed-1/mark.json": {"unlearned": 0.7},
    }
    for name, found in marked.items():
        (folder / name).write_text(json.dumps(found), encoding="utf-8")
    assert [line["mark"] for line in no_mark.lines(folder)] == [None, 0.6, 0.7, None]
    assert no_mark.cells(line)[:5] == ["retrained", "-", "-", "0.350", "0.520"]
    assert no_mark.cells(line)[-1] == "-"


def test_the_committed_table_is_that_of_the_committed_figures():
    kept = json.loads((no_mark.RESULTS / "no-mark.json").read_text(encoding="utf-8"))
    page = (no_mark.RESULTS / "no-mark.md").read_text(encoding="utf-8")
    assert len(kept["rows"]) > 10
    for row in kept["rows"]:
        assert f"| {' | '.join(no_mark.cells(row))} |" in page
