"""Ledgers for tests: small ones that need no model, and one with models that runs carry on."""

import json
from pathlib import Path

from unlearner.requests.ledger import Ledger
from unlearner.requests.store import Event

TEXTS = [f"the phone number of mara is 55{i}" for i in range(3)]

# Beside MODEL; a run of few steps, whose verdict is of no matter.
QUICK = {
    "method": {"max_epochs": 1, "fresh_per_step": 4},
    "evaluation": {"resamples": 20},
    "training": {"device": "cpu"},
}


def ledger_in(folder, anchor=""):
    return Ledger(Path(folder) / "requests.db", anchor)


def filled(folder, count=3):
    """A ledger of as many requests, of which no model knows."""
    ledger = ledger_in(folder)
    for number in range(count):
        ledger.add([f"{text}{number}" for text in TEXTS], id=f"r{number}", received="2026-01-31")
    return ledger


def pretend_run(ledger, name, folder, state="met", before="sha256:before", after="sha256:after"):
    """Enter a run that was never made, with the files that lie in its folder."""
    from unlearner.requests.runs import file_list

    book = ledger.book
    model = {"path": str(Path(folder).parent / "target"), "weights": before}
    with ledger.store.locked("test"):
        body = {"requests": [name], "model": model, "output": str(folder), "sections": {}}
        ledger.store.append(Event("run begun", body, states={name: "running"}))
        done = {
            "run": len(book.runs) + 1,
            "dropped": 0,
            "verdict": state,
            "claims": [],
            "criteria": [],
            "utility": [],
            "taken": state != "not met",
            "model": str(Path(folder) / "model"),
            "weights": after,
            "files": file_list(Path(folder)),
            "report": "sha256:report",
            "request_digest": "hmac-sha256:0",
            "sentence": "",
        }
        ledger.store.append(Event("run finished", done, states={name: state}))


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)
