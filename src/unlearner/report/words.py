"""A report in everyday words: what was asked, what was done, what the tests say and do not say.

Nothing here says that something is forgotten. The strongest sentence is that records are
suppressed on the tests that were run.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from unlearner.report.measures import (
    SPACE,
    count,
    duration,
    measure,
    show,
    significant,
    visible,
)

SETS = {
    "forget": "Records to be forgotten",
    "retain": "Text to be kept",
    "analogous": "Similar text, kept",
    "holdout": "Text never seen",
}
CLAIMS = {  # a title, and what is claimed
    "verbatim": (
        "Word-for-word recall",
        "asked to continue them, the model does no better on the records than the limit allows.",
    ),
    "membership": (
        "Traces of membership",
        "the records can no longer be told from text that the model has never seen.",
    ),
    "utility": (
        "Quality on everything else",
        "the model works about as well as before on text that is not to be forgotten.",
    ),
    "robustness": (
        "Resistance to attacks",
        "attempts to bring the records back do not succeed.",
    ),
}
STATUS_WORDS = {
    "met": "Met",
    "not met": "Not met",
    "not measured": "Not measured",
    "not informative": "Not informative",
}
METHODS = {"icu": "ICU (iterative contrastive unlearning)", "deepcut": "DeepCUT"}


def model_labels(report: dict[str, Any]) -> dict[str, str]:
    """What each measured model is called on the page."""
    after = "after" if "target" in report["results"] else "tested model"
    return {"target": "before", "unlearned": after, "retrained": "retrained"}


def headline(report: dict[str, Any]) -> str:
    """The verdict as one sentence."""
    verdict = report["verdict"]
    wanting = [c for c in verdict["claims"] if c["status"] != "met"]
    total = len(verdict["claims"])
    if verdict["status"] == "met":
        return "The records are suppressed on the tests run."
    if verdict["status"] == "not met":
        failed = [CLAIMS[c["claim"]][0].lower() for c in wanting if c["status"] == "not met"]
        are = "is" if len(failed) == 1 else "are"
        return f"{len(failed)} of {count(total, 'claim')} {are} not met: {', '.join(failed)}."
    untested = [CLAIMS[c["claim"]][0].lower() for c in wanting]
    return f"There is no verdict, for lack of a test: {', '.join(untested) or 'no claim was made'}."


def requested(report: dict[str, Any]) -> str:
    """What someone asked for."""
    request, tokens = report["request"], report["data"]["forget"].get("tokens")
    length = f" ({count(tokens, 'token')} of text)" if tokens else ""
    subjects = request.get("subjects")
    about = f" about {count(subjects, 'subject')}" if subjects else ""
    records = count(request["records"], "record")
    return (
        f"Request “{visible(request['id'])}”: that the model “{visible(report['model']['name'])}” "
        f"no longer reproduces {records}{about}{length}."
    )


def done(report: dict[str, Any]) -> str:
    """What was done about it."""
    if report["command"] == "evaluate":
        return (
            "Nothing was changed. A finished model was asked about the records, and its answers "
            "were scored."
        )
    cost, rounds = report["cost"], sum(entry["round"] > 0 for entry in report.get("rounds", []))
    effort = [count(rounds, "round")] if rounds else []
    if cost.get("steps") is not None:
        effort.append(count(cost["steps"], "training step"))
    if cost.get("seconds_unlearning") is not None:
        effort.append(duration(cost["seconds_unlearning"]))
    spent = f" ({', '.join(effort)})" if effort else ""
    return (
        f"The method {method_name(report)} changed the model’s weights{spent}. The same tests "
        "were run on the model before and after."
    )


def method_name(report: dict[str, Any]) -> str:
    """The method as people write it, or as the run names it; empty where none was run."""
    name = report.get("method", {}).get("name", "")
    return METHODS.get(name, visible(name))


def findings(report: dict[str, Any]) -> list[str]:
    """What the tests say, one sentence each."""
    return [
        *_recall(
            report,
            "el_10",
            "Asked to continue the records, the model reproduces {} of the "
            "ten-token runs that follow",
        ),
        *_recall(
            report, "ma", "Its first guess for the next token of a record is right in {} of cases"
        ),
        *_correct(report),
        *_by_record(report),
        *_kept(report),
    ]


def _recall(report: dict[str, Any], metric: str, sentence: str) -> Iterator[str]:
    after = value(report, "unlearned", "forget", metric)
    if after is None:
        return
    before = value(report, "target", "forget", metric)
    text = sentence.format(show(metric, after))
    text += f"; before, it was {show(metric, before)}. " if before is not None else ". "
    level = limit(report, metric)
    if level is not None:
        text += f"The limit is {show(metric, level)}. "
    retrained = value(report, "retrained", "forget", metric)
    if retrained is not None:
        text += f"A model trained without the records: {show(metric, retrained)}. "
    yield text.strip()


def _correct(report: dict[str, Any]) -> Iterator[str]:
    """The sentence for a classifier, which has labels to get right instead of text to recite."""
    after = value(report, "unlearned", "forget", "accuracy")
    if after is None:
        return
    before = value(report, "target", "forget", "accuracy")
    was = f"; before, {show('accuracy', before)}" if before is not None else ""
    yield f"It labels {show('accuracy', after)} of the records as in training{was}."


def _by_record(report: dict[str, Any]) -> Iterator[str]:
    records = report["verdict"].get("records", [])
    tested = [r for r in records if r["status"] != "not measured"]
    if not tested:
        return
    failed = [r for r in tested if r["status"] == "not met"]
    text = f"{len(tested) - len(failed)} of {count(len(tested), 'record')} pass one by one"
    if len(tested) < len(records):
        text += f" ({count(len(records) - len(tested), 'record')} not tested)"
    if not failed:
        yield text + "."
    elif len(failed) > 5:
        yield f"{text}; the table by record names the {len(failed)} that do not."
    else:
        yield f"{text}; not: {', '.join(visible(r['id']) for r in failed)}."


def _kept(report: dict[str, Any]) -> Iterator[str]:
    """Perplexity on what is to be kept, or on unseen text where nothing else was given."""
    for name in ("retain", "holdout"):
        after = value(report, "unlearned", name, "perplexity")
        before = value(report, "target", name, "perplexity")
        if after is None or not before:
            continue
        text = {"retain": "On text to be kept", "holdout": "On text it has never seen"}[name]
        yield (
            f"{text}, perplexity went from {show('perplexity', before)} to "
            f"{show('perplexity', after)} ({change(before, after)}; lower is better)."
        )
        return


def change(before: float, after: float) -> str:
    """The relative change as a signed percentage: `+1.4 %`; from elevenfold on, a factor."""
    percent = 100 * (after / before - 1)
    if percent >= 1000:
        return f"× {significant(after / before)}"
    decimals = 1 if abs(percent) < 100 else 0
    return f"{percent:+.{decimals}f}{SPACE}%".replace("-", "−")


def limits(report: dict[str, Any]) -> str:
    """What a verdict of this kind can and cannot mean."""
    text = (
        "“Met” means suppressed on the tests run. It is evidence, not proof: it does not show "
        "that nothing of the records is left in the weights, or that no other question could "
        "bring them out."
    )
    if "retrained" not in report["results"]:
        text += (
            " There was no model retrained without the records to compare with, so text that the "
            "model has never seen is the yardstick where it was given."
        )
    return text


def value(report: dict[str, Any], model: str, set_name: str, metric: str) -> float | None:
    """One figure of the results; None where it was not measured or is not finite."""
    entry = report["results"].get(model, {}).get(set_name, {}).get(metric)
    return None if entry is None else entry["value"]


def limit(report: dict[str, Any], metric: str) -> float | None:
    """The highest value of the forget set that the criteria allow; None where they set none."""
    return next((c["at_most"] for c in report["criteria"] if is_limit(c, metric)), None)


def is_limit(criterion: dict[str, Any], metric: str) -> bool:
    """Whether the criterion bounds the metric of the forget set from above."""
    return (criterion["metric"], criterion["set"]) == (metric, "forget") and "at_most" in criterion


def when(created: str) -> str:
    """An ISO time as a person writes it: `3 May 2025, 14:02 UTC`."""
    moment = datetime.fromisoformat(created)
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def criterion_words(criterion: dict[str, Any]) -> str:
    """What is required, such as `EL₁₀ of records to be forgotten`."""
    return f"{measure(criterion['metric']).label} of {SETS[criterion['set']].lower()}"
