"""What an audit found, in words and pictures for the page, and as claims of the verdict.

`audit.json` holds everything, its schema is docs/audit.schema.json. It stands beside the report of
a run, which stays as it is: the two come together on the page alone.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlearner.errors import UserError, quoted
from unlearner.evaluation.attack_figures import FEWEST
from unlearner.evaluation.verdict import Claim, overall
from unlearner.files import LARGE, read_json
from unlearner.output import Json
from unlearner.report import plots, svg
from unlearner.report.facts import Report
from unlearner.report.plots import DotRow
from unlearner.report.writing import NOTHING, html_page, plural, show, show_interval, significant

AUDIT_FILE, AUDIT_SCHEMA = "audit.json", "unlearner/audit/1"

AUDIT_CLAIMS = ("membership", "robustness", "unseen forms")

# What an attack's status is on the page, and the mark of it.
STATUSES = {
    "holds": ("Holds", "met"),
    "opened": ("Opened", "not met"),
    "not informative": ("Not informative", "not informative"),
    "not run": ("Not run", "not measured"),
}

SENTENCES = {
    "holds": "The attack finds no more than on the control.",
    "opened": "The attack finds what the control does not have.",
    "not informative": "Nothing follows from this attack here.",
    "not run": "The attack was not made.",
}

# The metric whose unit a figure is in.
UNITS = {"mean": "ma", "auc": "mia_loss_auc"}

# An AUC below it is explained in words, where the attack is opened from below.
NEAR_ZERO = 0.1

LEAST_SHOWN = 5e-7  # as a share; smaller ones have only zeros

LABEL_WIDTH = 26  # letters of a line beside a picture

LABELS = {"target": "before", "unlearned": "after", "retrained": "control"}

# Lines of what a run did not measure that an audit measures, by how they begin.
MEASURED_BY = {
    "membership": "Membership by stronger attacks",
    "robustness": "Robustness as a claim",
    "unseen forms": "Paraphrased knowledge",
}


@dataclass(frozen=True)
class FigureRow:
    """One figure of an attack, as the table shows it."""

    label: str
    cells: list[tuple[str, str]]  # before, after, control: value and interval
    difference: str
    status: str
    back: list[str]


@dataclass(frozen=True)
class AttackSection:
    """One attack, as the page shows it."""

    label: str
    status: str
    word: str
    mark: str
    sentence: str
    reason: str
    shows: str
    cannot_show: str
    source: str
    remarks: list[str]
    rows: list[FigureRow]
    drawings: list[Markup]


# Claims


def audit_claims(attacks: Sequence[Report]) -> Json:
    """The claims that the attacks are evidence for, and the status of all that were made.

    A claim that no attack was made for is not among them. The status is "met" where an attack holds
    and none is opened, whether or not others say nothing.
    """
    found = []
    for name in AUDIT_CLAIMS:
        mine = [one for one in attacks if one["claim"] == name and one["status"] != "not run"]
        if mine:
            found.append(_claim(name, mine))
    statuses = {one["status"] for one in attacks}
    status = "met" if "holds" in statuses else "not measured"
    status = "not met" if "opened" in statuses else status
    claims = [{"claim": one.claim, "status": one.status, "reason": one.reason} for one in found]
    return {"claims": claims, "status": status}


def _claim(name: str, attacks: Sequence[Report]) -> Claim:
    opened = [one for one in attacks if one["status"] == "opened"]
    held = [one for one in attacks if one["status"] == "holds"]
    if opened:
        words = "; ".join(f"{one['label']} ({one['reason']})" for one in opened)
        return Claim(name, "not met", f"Opened by {words}.")
    if held:
        silent = len(attacks) - len(held)
        beside = f", {silent} say nothing" if silent else ""
        words = ", ".join(one["label"] for one in held)
        return Claim(
            name, "met", f"As on the control in {plural(len(held), 'attack')}: {words}{beside}."
        )
    words = "; ".join(f"{one['label']} ({one['reason']})" for one in attacks)
    return Claim(name, "not informative", f"No attack says anything: {words}.")


WORST_FIRST = ("not met", "not measured", "not informative", "met")


def with_audit(report: Report, audit: Report) -> dict[str, Any]:
    """The report as the page shows it beside an audit: with its claims and without their lack.

    A claim that both make has the worse of the two statuses.
    """
    verdict = dict(report["verdict"])
    claims = {one["claim"]: dict(one) for one in verdict["claims"]}
    for one in audit["claims"]:
        before, reason = claims.get(one["claim"]), f"Audit: {one['reason']}"
        if before is None or (before["status"] == "not measured"):
            claims[one["claim"]] = {**one, "reason": reason}
            continue
        status = min(before["status"], one["status"], key=WORST_FIRST.index)
        claims[one["claim"]] = {
            **before,
            "status": status,
            "reason": f"{before['reason']} {reason}",
        }
    lines = [
        line
        for line in verdict.get("not_measured", [])
        if not any(
            line.startswith(MEASURED_BY[one["claim"]])
            for one in audit["claims"]
            if one["status"] in ("met", "not met")
        )
    ]
    lines += [
        f"Attack {one['label']}: not run, {one['reason']}."
        for one in audit["attacks"]
        if one["status"] == "not run"
    ]
    found = [Claim(**one) for one in claims.values()]
    verdict |= {"claims": list(claims.values()), "not_measured": lines, "status": overall(found)}
    return {**report, "verdict": verdict, "audit": audit}


# RecordValues


def read_audit(directory: Path) -> Json | None:
    """The contents of audit.json; None where there is none.

    Raises:
        UserError: It is not JSON, of another schema, or not whole.
    """
    path = directory / AUDIT_FILE
    if not path.is_file():
        return None
    try:
        found = read_json(path, LARGE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it, or run the audit again"
        ) from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != AUDIT_SCHEMA or not {"claims", "attacks", "control"} <= found.keys():
        raise UserError(
            f"{path}: schema must be {AUDIT_SCHEMA!r} and the audit whole, got {quoted(schema)}; "
            "remove the file, or run the audit again"
        )
    return found


# The page


def audit_page(audit: Report) -> str:
    """A page of an audit alone, where there is no run beside it."""
    return html_page("audit.html.j2", ("style.css",), **audit_context(audit), report=audit)


def audit_context(audit: Report) -> dict[str, object]:
    """What the templates show of an audit."""
    with svg.style():
        sections = [_section(entry) for entry in audit["attacks"]]
    return {
        "audit": audit,
        "attack_sections": sections,
        "attack_control": audit["control"]["sentence"],
        "fewest_subjects": FEWEST,
    }


def _section(entry: Report) -> AttackSection:
    word, mark = STATUSES[entry["status"]]
    return AttackSection(
        label=entry["label"],
        status=entry["status"],
        word=word,
        mark=mark,
        sentence=SENTENCES[entry["status"]],
        reason=entry["reason"],
        shows=entry["shows"],
        cannot_show=entry["cannot_show"],
        source=entry["source"],
        remarks=_remarks(entry),
        rows=[_figure_row(figure) for figure in entry["figures"]],
        drawings=[*_drawings(entry)],
    )


def _figure_row(figure: Report) -> FigureRow:
    metric = UNITS[figure["kind"]]
    cells = [_figure_cell(metric, figure[role]) for role in ("target", "unlearned", "control")]
    difference = figure["difference"]
    return FigureRow(
        label=figure["label"],
        cells=cells,
        difference=" ".join(part for part in _figure_cell(metric, difference) if part),
        status=figure["status"],
        back=list(figure["records_back"]),
    )


def _figure_cell(metric: str, estimate: Report) -> tuple[str, str]:
    value, low, high = (_rounded(estimate[name]) for name in ("value", "low", "high"))
    if value is None:
        return NOTHING, ""
    between = show_interval(metric, low, high)
    return show(metric, value), f"({between})" if between else ""


def _rounded(value: float | None) -> float | None:
    """The value, and 0 for one of which no digit would be shown."""
    return 0.0 if value is not None and abs(value) < LEAST_SHOWN else value


def _remarks(entry: Report) -> list[str]:
    """What is to be said beside the figures: extremes, the blind check, records that came back."""
    remarks = []
    details = entry.get("details", {})
    blind = details.get("blind")
    if blind and blind["value"] is not None:
        remarks.append(
            "A classifier of words that never asks the model tells the two sets apart with an AUC "
            f"of {significant(blind['value'])}, where 0.5 is guessing."
        )
    if details.get("half_width") is not None:
        remarks.append(
            "With so few records an AUC is known to within "
            f"{significant(details['half_width'], 2)} of its value."
        )
    privleak = [
        value
        for name, value in (details.get("privleak") or {}).items()
        if name == "mia_min_k_auc" and value is not None
    ]
    if privleak:
        remarks.append(
            f"PrivLeak by Min-K % is {significant(privleak[0])} %: above 0 the records look more "
            "learned than to the retrained model, below 0 less."
        )
    for figure in entry["figures"]:
        value = figure["unlearned"]["value"]
        below = figure["status"] == "opened" and figure["reason"].startswith("below")
        if below and value is not None and value < NEAR_ZERO:
            remarks.append(
                f"{figure['label']} is near 0: the model finds the records far less likely than "
                "any unseen text. They were pushed too far, and who holds a candidate text sees it."
            )
        if figure["records_back"]:
            remarks.append(
                f"{figure['label']}: {plural(len(figure['records_back']), 'record')} came at least "
                "halfway back to what the model knew before."
            )
    within = details.get("unlearned", {}).get("records_within", {}).get("0.5")
    if within:
        remarks.append(
            "Of the records come out word for word, as likely as not: "
            + ", ".join(f"{number} in {int(count):,} samples" for count, number in within.items())
            + "."
        )
    sampled = details.get("unlearned", {})
    if sampled.get("samples"):
        remarks.append(
            f"{plural(sampled['leaks'], 'leak')} in {sampled['samples']:,} samples: the chance of "
            f"one is at most {significant(100 * sampled['at_most'])} %, with 95 % confidence."
        )
    spelled = details.get("unlearned", {}).get("records_spelled")
    if spelled:
        remarks.append(
            f"{plural(spelled, 'record')} can be spelled out whole by taking the least likely word "
            "each time."
        )
    return remarks + [str(line) for line in details.get("lines", [])]


def _drawings(entry: Report) -> list[Markup]:
    found, rows = [], []
    for kind in ("mean", "auc"):
        rows = [_dot_row(figure) for figure in entry["figures"] if figure["kind"] == kind]
        rows = [row for row in rows if row.figures]
        if rows:
            name = f"attack-{entry['name']}-{kind}"
            found.append(plots.dots(name, rows, LABELS, cut_out=kind == "auc"))
    if entry.get("curves"):
        found.append(_attack_curves(f"attack-{entry['name']}-curves", entry["curves"]))
    return found


def _dot_row(figure: Report) -> DotRow:
    roles = {"target": "target", "unlearned": "unlearned", "control": "retrained"}
    figures = {
        shown: {name: _rounded(end) for name, end in figure[role].items()}
        for role, shown in roles.items()
        if figure[role]["value"] is not None
    }
    label = "\n".join(textwrap.wrap(figure["label"], LABEL_WIDTH))
    return DotRow(label, UNITS[figure["kind"]], figures)


def _attack_curves(name: str, curves: Mapping[str, Report]) -> Markup:
    """What each model gives by how far the attack went, one line for each."""
    figure, axes = svg.canvas(2.6)
    spoken = []
    styles = {**plots.MODEL_STYLES, "control": plots.MODEL_STYLES["retrained"]}
    words = {**LABELS, "control": "control"}
    for role, curve in curves.items():
        for dash, (label, values) in zip(plots.DASHES, curve["values"].items(), strict=False):
            shown = [plots.number(value) for value in values]
            text = f"{words[role]}: {label}"
            axes.plot(curve["steps"], shown, label=text, linestyle=dash, **styles[role])
            listed = ", ".join(significant(value) for value in values if value is not None)
            spoken.append(f"{text} {listed}")
        axes.set_xlabel(curve["axis"], color=svg.MUTED)
    drawn = axes.legend(loc="best", frameon=False, labelcolor=svg.INK, fontsize=7.0)
    for text in drawn.get_texts():
        text.set_parse_math(False)
    return svg.inline(figure, name, "; ".join(spoken) + ".")
