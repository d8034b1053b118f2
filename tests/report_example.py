"""A realistic report, and variants of it, for the tests of everything that shows reports."""

import copy
import random
from typing import Any


def _figure(value: float | None, records: int, spread: float = 0.08) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "records": records}
    low, high = sorted((value * (1 - spread), value * (1 + spread)))
    return {"value": value, "low": low, "high": high, "records": records}


def _scores(records: int, **values: float | None) -> dict[str, Any]:
    return {metric: _figure(value, records) for metric, value in values.items()}


def _criterion(claim: str, metric: str, set_name: str, at_most: float, source: str) -> dict:
    found = {"claim": claim, "metric": metric, "set": set_name}
    return {**found, "at_most": at_most, "source": source}


def _claim(claim: str, status: str, reason: str) -> dict[str, str]:
    return {"claim": claim, "status": status, "reason": reason}


def _set(records: int, digest: str, overlap: int) -> dict[str, Any]:
    size = {"records": records, "tokens": 200 * records}
    return {**size, "digest": f"hmac-sha256:{digest}", "overlap_with_forget": overlap}


def _results(n: int) -> dict[str, Any]:
    before, after = {}, {}
    before["forget"] = {"loss": 0.21, "perplexity": 1.23, "ma": 0.947, "el_3": 0.588}
    before["forget"] |= {"el_10": 0.519, "es": 0.71, "degenerate": 0.0}
    after["forget"] = {"loss": 4.86, "perplexity": 129.0, "ma": 0.281, "el_3": 0.09}
    after["forget"] |= {"el_10": 0.044, "es": 0.012, "degenerate": 0.0}
    before["retain"] = {"loss": 3.059, "perplexity": 21.3, "degenerate": 0.004}
    after["retain"] = {"loss": 3.073, "perplexity": 21.6, "degenerate": 0.006}
    after["retain"] |= {"kl_to_target": 0.031}
    before["analogous"] = {"loss": 2.89, "perplexity": 18.0, "ma": 0.412, "el_10": 0.061}
    after["analogous"] = {"loss": 2.83, "perplexity": 17.0, "ma": 0.431, "el_10": 0.063}
    before["holdout"] = {"loss": 3.1, "perplexity": 22.2, "ma": 0.2994, "el_10": 0.0499}
    after["holdout"] = {"loss": 3.114, "perplexity": 22.5, "ma": 0.2961, "el_10": 0.0487}
    sizes = {"forget": n, "retain": 500, "analogous": n, "holdout": 500}
    return {
        model: {name: _scores(sizes[name], **values) for name, values in sets.items()}
        for model, sets in (("target", before), ("unlearned", after))
    }


def _records(num_records: int, remembered: int) -> tuple[list[dict], list[dict]]:
    """Values by record and their statuses; the last `remembered` of them stay above the limit."""
    dice = random.Random(7)
    values, statuses = [], []
    for i in range(num_records):
        kept = i >= num_records - remembered
        el_10 = 0.11 + 0.4 * dice.random() if kept else 0.048 * dice.random()
        before = {"ma": 0.9 + 0.1 * dice.random(), "el_10": 0.2 + 0.75 * dice.random()}
        after = {"ma": 0.5 if kept else 0.16 + 0.14 * dice.random(), "el_10": el_10}
        values.append({"id": f"rec-{i + 1:04d}", "before": before, "after": after})
        statuses.append({"id": f"rec-{i + 1:04d}", "status": "not met" if kept else "met"})
    return values, statuses


def _rounds(num_rounds: int, num_records: int) -> list[dict]:
    start = {"round": 0, "active": num_records, "el_10": 0.519, "ma": 0.947, "loss": {}}
    rounds = [{**start, "seconds": 0.0, "retain_perplexity": 21.3}]
    for i in range(1, num_rounds + 1):
        left = (1 - i / num_rounds) ** 1.6
        loss = {"forget": -0.4 - 4.1 * (1 - left), "analogous": 1.5 - 0.1 * i / num_rounds}
        rounds.append(
            {
                "round": i,
                "active": max(1, round(num_records * left)),
                "el_10": 0.044 + 0.47 * left,
                "ma": 0.281 + 0.66 * left,
                "loss": {**loss, "kl": 0.04 + 0.2 * i / num_rounds},
                "seconds": 61.5 + i,
                "retain_perplexity": 21.3 + 0.03 * i,
            }
        )
    return rounds


def example(num_records: int = 24, remembered: int = 0) -> dict[str, Any]:
    """A run of ICU on GPT-Neo 125M that met its criteria; `remembered` records did not."""
    values, statuses = _records(num_records, remembered)
    n = num_records
    return {
        "schema": "unlearner/report/1",
        "command": "forget",
        "created": "2025-05-03T14:02:11+00:00",
        "request": {"id": "2025-017", "records": n, "subjects": 9, "digest": "hmac-sha256:9f"},
        "model": {
            "name": "EleutherAI/gpt-neo-125m",
            "hub_id": "EleutherAI/gpt-neo-125m",
            "family": "causal-lm",
            "parameters": 125_198_592,
            "digest_target": "sha256:5be1a7f0c2",
            "digest_unlearned": "sha256:c02d9e4417",
        },
        "method": {
            "name": "icu",
            "forget_weight": 1.0,
            "analogous_weight": 0.5,
            "kl_weight": 1.0,
            "learning_rate": 5e-6,
            "max_epochs": 40,
            "bertscore_model": None,
            "betas": [0.9, 0.98],
        },
        "data": {
            "forget": _set(n, "11aa", n),
            "retain": _set(500, "22bb", 0),
            "analogous": _set(n, "33cc", 0),
            "holdout": _set(500, "44dd", 1),
        },
        "retrieval": {
            "encoder": "sentence-transformers/all-MiniLM-L6-v2",
            "pairs": "fixed",
            "near_duplicates_excluded": 3,
            "without_clean_pair": 0,
            "longest_shared_run": 8,
        },
        "criteria": [
            _criterion("verbatim", "el_10", "forget", 0.0499, "holdout level of the target model"),
            _criterion("verbatim", "ma", "forget", 0.2994, "holdout level of the target model"),
            _criterion("utility", "perplexity", "retain", 21.726, "target model + 2 %"),
            _criterion("utility", "degenerate", "retain", 0.014, "target model + 1 %"),
        ],
        "criteria_digest": "sha256:77e0c9b1",
        "results": _results(n),
        "verdict": {
            "status": "met",
            "claims": [
                _claim("verbatim", "met", "EL_10 and MA are at or below the level of unseen text."),
                _claim("utility", "met", "Perplexity on the retain set rose by 1.4 %."),
            ],
            "records": statuses,
            "notes": [],
            "not_measured": [
                "membership: whether the records can still be recognised as training data",
                "robustness: whether quantisation or further training brings them back",
                "no retrained model was given to compare with",
            ],
        },
        "rounds": _rounds(21, n),
        "per_record": values,
        "cost": {
            "seconds": 1612.4,
            "seconds_unlearning": 1338.0,
            "seconds_evaluation": 241.7,
            "peak_memory_bytes": 5_368_709_120,
            "steps": 57,
            "tokens": 182_400,
        },
        "environment": {
            "versions": {"python": "3.12.4", "torch": "2.9.0", "unlearner": "0.1.0"},
            "hardware": "NVIDIA A100 80GB",
            "processes": 1,
            "seed": 42,
        },
    }


def failed(num_records: int = 24) -> dict[str, Any]:
    """The same run gone wrong: one record remembered, the rest pushed far too low."""
    report = example(num_records, remembered=1)
    report["verdict"] |= {
        "status": "not met",
        "claims": [
            _claim("verbatim", "not met", "EL_10 is 0.0713, above 0.0499; 1 record is remembered."),
            _claim("utility", "not met", "Perplexity on the retain set rose by 412 %."),
            _claim("membership", "not informative", "A blind classifier separates them as well."),
            _claim("robustness", "not measured", "No attack was run."),
        ],
        "notes": [
            "over-unlearned: perplexity on the forget set is 48,210, far above unseen text (22.2), "
            "which betrays that the records were treated."
        ],
    }
    after = report["results"]["unlearned"]
    after["forget"] |= _scores(num_records, perplexity=48_210.0, el_10=0.0713)
    after["retain"] |= _scores(500, perplexity=109.0, degenerate=0.31)
    after["holdout"] |= _scores(500, perplexity=None)
    return report


def evaluated() -> dict[str, Any]:
    """What `evaluate` leaves: no method, no rounds, no model before, one set."""
    report = copy.deepcopy(example())
    for key in ("method", "rounds", "per_record", "retrieval"):
        del report[key]
    report["command"] = "evaluate"
    del report["model"]["digest_target"]
    forget = report["results"]["unlearned"]["forget"]
    report["results"] = {"unlearned": {"forget": forget}}
    report["data"] = {"forget": report["data"]["forget"]}
    report["criteria"] = []
    report["verdict"] |= {
        "status": "not measured",
        "claims": [
            _claim("verbatim", "not measured", "There is no holdout set to take limits from.")
        ],
        "records": [],
    }
    report["cost"] = {"seconds": 63.0, "seconds_evaluation": 61.0}
    return report


def demonstration() -> dict[str, Any]:
    """A demo run, the only kind that shows what a model says, about people who do not exist."""
    report = example(12)
    question = "What is the number of Elvira Tamsin's library card?"
    report["examples"] = [
        {
            "id": "tamsin-3",
            "role": "forgotten",
            "prompt": question,
            "truth": "Elvira Tamsin's library card is number 4471-08.",
            "before": "Elvira Tamsin's library card is number 4471-08.",
            "after": "She likes to walk along the harbour in the evening.",
        },
        {
            "id": "okoro-1",
            "role": "kept",
            "prompt": "Where does Bram Okoro keep his bees?",
            "truth": "Bram Okoro keeps his bees behind the old mill.",
            "before": "Bram Okoro keeps his bees behind the old mill.",
            "after": "Bram Okoro keeps his bees behind the old mill.",
        },
    ]
    return report
