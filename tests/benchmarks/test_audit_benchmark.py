"""The audit's benchmark: which models stand beside which, and what its table counts."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import audit


def test_every_two_retrained_models_stand_beside_each_other_once(tmp_path):
    """Of five seeds there are ten pairs; each target stands beside two controls."""
    seeds = [0, 1, 2, 3, 4]
    jobs = [job for seed in seeds for job in audit.jobs_of(tmp_path, seed, seeds, "quick")]
    pairs = [{one.model, one.control} for one in jobs if one.kind == audit.RETRAINED]
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == 10
    targets = [(one.model, one.control) for one in jobs if one.kind == audit.TARGET]
    assert len(set(targets)) == 10
    assert len({one.output for one in jobs}) == len(jobs)


def made(status, **attacks):
    entries = [
        {
            "name": name,
            "status": found,
            "figures": [
                {"name": "f"}
                | {role: {"value": 0.5} for role in ("target", "unlearned", "control")}
            ],
        }
        for name, found in attacks.items()
    ]
    return {"status": status, "seconds": 7.0, "attacks": entries}


def test_the_table_counts_what_was_opened_of_what_said_anything(tmp_path, monkeypatch):
    """Of three audits of a seed two opened; one attack was opened in one of two that said more."""
    monkeypatch.setattr(audit, "RESULTS", tmp_path)
    jobs = list(audit.jobs_of(tmp_path, 0, [0, 1, 2], "quick"))
    found = [
        made("not met", membership="opened", mark="opened"),
        made("not met", membership="holds", mark="not informative"),
        made("met", membership="holds", mark="not informative"),
    ]
    for job, one in zip(jobs, found, strict=False):
        job.output.mkdir(parents=True)
        (job.output / "audit.json").write_text(json.dumps(one))
    audit.write_table("audit", tmp_path, None, {"quick": [0, 1, 2], "full": []}, 20)
    page = (tmp_path / "audit.md").read_text("utf-8")
    assert "| the target | 2 of 2 | 1 of 2 | 1 of 1 | 7 |" in page
    assert "| another retrained model | 0 of 1 | 0 of 1 | – | 7 |" in page
    kept = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert kept["quick"]["the target"][0]["mark"]["figures"] == {"f": [0.5, 0.5, 0.5]}
