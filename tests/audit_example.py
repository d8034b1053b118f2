"""A small audit of the example report: one attack that was opened, one that holds, one not run."""

from report_example import example
from unlearner.report.audit import audit_claims, with_audit


def estimate(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def figure(name, label, values, status):
    """A figure of the target, the unlearned model and the control."""
    target, unlearned, control = values
    return {
        "name": name,
        "label": label,
        "kind": "mean",
        "two_sided": False,
        "target": estimate(target),
        "unlearned": estimate(unlearned),
        "control": estimate(control),
        "difference": estimate(unlearned - control),
        "share_back": (unlearned - control) / (target - control),
        "status": status,
        "reason": "like the control" if status == "holds" else "above the control",
        "records": 12,
        "records_back": [],
    }


def attack(name, label, status, figures, claim="robustness"):
    return {
        "name": name,
        "label": label,
        "claim": claim,
        "cost": "quick",
        "source": "arXiv:2410.16454",
        "shows": "Whether the records return when the weights are rounded.",
        "cannot_show": "Other ways to round them.",
        "status": status,
        "reason": "like the control" if status == "holds" else "above the control",
        "seconds": 1.5,
        "figures": figures,
    }


def audit():
    rounding = figure("int8", "known after rounding to 8 bits", (1.0, 0.54, 0.55), "holds")
    mark = figure("mark_auc", "AUC of a classifier on token losses", (1.0, 0.8, 0.5), "opened")
    attacks = [
        attack("quantisation", "quantisation", "holds", [rounding]),
        attack("mark", "marks of treatment", "opened", [mark], claim="membership"),
        attack("pair", "the pair of models", "not run", []),
    ]
    return {
        "schema": "unlearner/audit/1",
        "created": "2025-05-03T14:02:00+00:00",
        "budget": "quick",
        "request": {"id": "2025-017", "records": 12, "subjects": 12, "digest": "hmac-sha256:00"},
        "model": {"name": "model", "audited": "model", "family": "causal-lm"},
        "control": {"kind": "unseen", "sentence": "unseen records under the same model"},
        "records": {"forget": 12, "unseen": 28},
        "attacks": attacks,
        "seconds": 3.0,
        "environment": {},
        **audit_claims(attacks),
    }


def audited():
    """The example report as its page shows it with the audit beside it."""
    return with_audit(example(3), audit())
