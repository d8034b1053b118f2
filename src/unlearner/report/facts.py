"""The plain facts of a run as names and values: request, data, method, retrieval, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlearner.report import names
from unlearner.report.writing import duration, show, significant, size, visible


def data(report: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Sets by name: records, tokens, how many of them overlap with the forget set, digest."""
    rows = []
    for set_name, label in names.sets(report).items():
        entry = report["data"].get(set_name)
        if entry is None:
            continue
        overlap = entry.get("overlap_with_forget")
        shown = "–" if set_name == "forget" else setting(overlap)
        tokens = setting(entry.get("tokens"))
        rows.append((label, setting(entry["records"]), tokens, shown, visible(entry["digest"])))
    return rows


def request(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The request and the model it is about, as names and values."""
    model, asked = report["model"], report["request"]
    rows = [
        ("Request", visible(asked["id"])),
        ("Class to be forgotten", setting(asked.get("forget_class"))),
        ("Records", setting(asked["records"])),
        ("Subjects", setting(asked.get("subjects"))),
        ("Digest of the request", visible(asked["digest"])),
        ("Model", visible(model["name"])),
        ("Kind of model", visible(model["family"])),
        ("Parameters", setting(model.get("parameters"))),
        ("Digest before", setting(model.get("digest_target"))),
        ("Digest after", setting(model.get("digest_unlearned"))),
        ("Digest of the criteria", visible(report["criteria_digest"])),
    ]
    return [(name, value) for name, value in rows if value != "–"]


def method(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The hyper-parameters, as the run file names them."""
    fields = report.get("method", {})
    return [(visible(name), setting(value)) for name, value in fields.items()]


def retrieval(report: dict[str, Any]) -> list[tuple[str, str]]:
    """How the analogous set was found (ICU)."""
    entry = report.get("retrieval")
    if not entry:
        return []
    pairs = {"fixed": "found once, before training", "fresh": "found anew during training"}
    return [
        ("Encoder", visible(entry["encoder"])),
        ("Pairs", pairs.get(entry["pairs"], visible(entry["pairs"]))),
        ("Near duplicates left out", setting(entry["near_duplicates_excluded"])),
        ("Records without a clean pair", setting(entry["without_clean_pair"])),
        ("Longest run of tokens shared in a pair", setting(entry["longest_shared_run"])),
    ]


def cost(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Time, memory and work of the run."""
    entry = report["cost"]
    shown = {
        "seconds": ("Whole run", duration),
        "seconds_unlearning": ("Unlearning", duration),
        "seconds_retraining": ("Retraining, to compare", duration),
        "seconds_evaluation": ("Evaluation", duration),
        "peak_memory_bytes": ("Peak memory", size),
        "steps": ("Training steps", lambda n: f"{n:,}"),
        "tokens": ("Tokens trained on", lambda n: f"{n:,}"),
    }
    return [
        (label, write(entry[key]))
        for key, (label, write) in shown.items()
        if entry.get(key) is not None
    ]


def environment(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run ran on and with."""
    entry = report["environment"]
    return [
        ("Hardware", setting(entry["hardware"])),
        ("Processes", setting(entry["processes"])),
        ("Seed", setting(entry["seed"])),
        *((visible(name), visible(version)) for name, version in entry["versions"].items()),
    ]


def setting(value: Any) -> str:
    """A value of a configuration as a person would write it; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(setting(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{visible(k)}: {setting(v)}" for k, v in value.items())
    return visible(value)


NOTHING = "–"


@dataclass(frozen=True)
class TrialRow:
    """One trial, as text."""

    number: str
    chosen: bool
    settings: str
    ended: str
    ma: str
    kept_ratio: str
    rounds: str
    time: str


def rows(report: Mapping[str, Any]) -> list[TrialRow]:
    """Every trial of the report's search in its order; none where nothing was searched."""
    search = report.get("search")
    return [_row(trial, search["chosen"]) for trial in search["trials"]] if search else []


def lead(report: Mapping[str, Any]) -> str:
    """What the search came to, in a sentence or two; empty where nothing was searched."""
    search = report.get("search")
    if not search:
        return ""
    tried = len(search["trials"])
    if search["reached"]:
        taken = (
            f"Of {tried} settings tried, those taken did the least harm to text to be kept among "
            "those that met the aim on the records."
        )
    else:
        taken = (
            f"None of the {tried} settings tried met the aim on the records with text to be kept "
            "within its limit; those taken came nearest."
        )
    return (
        f"{taken} Each trial began with the model before. A “hopeless” one was cut short, and its "
        "figures are those of its best round."
    )


def _row(trial: Mapping[str, Any], chosen: int) -> TrialRow:
    ratio = trial["kept_ratio"]
    return TrialRow(
        number=str(trial["number"]),
        chosen=trial["number"] == chosen,
        settings=", ".join(
            # Learning rates are far below what `significant` has decimals for.
            f"{visible(name)} {value:.3g}"
            for name, value in trial["settings"].items()
        ),
        ended=visible(trial["status"]),
        ma=NOTHING if trial["ma"] is None else show("ma", trial["ma"]),
        kept_ratio=NOTHING if ratio is None else significant(ratio),
        rounds=str(trial["rounds"]),
        time=duration(trial["seconds"]),
    )
