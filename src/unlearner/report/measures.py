"""What every number in a report is called, how it is written and what its direction means.

The readers are people who answer for personal data, not people who train models, so every measure
has a sentence without jargon. A measure that is not listed here is shown under its own name.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

NO_VALUE = "no value"
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit
# Control, format, unassigned, surrogate, line and paragraph separators.
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}


@dataclass(frozen=True)
class Measure:
    """How one metric is shown.

    Attributes:
        label: Short name for tables and plots.
        meaning: What is measured, in everyday words.
        reading: Which direction means what.
        percent: True for shares between 0 and 1, which are shown as percentages.
    """

    label: str
    meaning: str
    reading: str
    percent: bool = True


_LEVEL = (
    "Forgotten records should score like text the model has never seen. Higher: still "
    "remembered. Far lower: over-unlearned, which betrays that the records were treated."
)
_CONTINUATION = "Lower on forgotten records is better; it should not fall on text to be kept."
_CORRECT = "Higher is better on text to be kept; forgotten records should score like unseen text."
_MEMBERSHIP = (
    "0.5 means the two cannot be told apart. Towards 1: the records are recognised as known. "
    "Towards 0: they are recognised as treated, a failure as well."
)


def _attack(score: str) -> str:
    return f"How well {score} tells the forgotten records from text the model has never seen."


MEASURES = {
    "loss": Measure(
        "Loss",
        "How surprised the model is by the text, in nats per token.",
        "On text to be kept it should stay where it was. Lower means better predicted.",
        percent=False,
    ),
    "perplexity": Measure(
        "Perplexity",
        "Among how many equally likely next tokens the model seems to waver while reading.",
        "On text to be kept it should stay where it was; 1 means known by heart. In the "
        "thousands: the model breaks down on such text.",
        percent=False,
    ),
    "ma": Measure(
        "MA",
        "Memorisation accuracy: how often the model's first guess for the next token of a record "
        "is right.",
        _LEVEL,
    ),
    "el_3": Measure(
        "EL₃",
        "Extraction likelihood, short runs: as EL₁₀, counting runs of three tokens.",
        _LEVEL,
    ),
    "el_10": Measure(
        "EL₁₀",
        "Extraction likelihood: the model continues a record from every possible beginning; EL₁₀ "
        "is the share of ten-token runs that match the true rest word for word.",
        _LEVEL,
    ),
    "es": Measure(
        "ES",
        "Extraction strength: how much of a record the model can complete without an error once "
        "it has read the part before.",
        _LEVEL,
    ),
    "bleu": Measure(
        "BLEU", "Overlap in short runs of words between continuation and truth.", _CONTINUATION
    ),
    "rouge_l": Measure(
        "ROUGE-L",
        "Longest sequence of words, in order, that continuation and truth share.",
        _CONTINUATION,
    ),
    "bertscore_f1": Measure(
        "BERTScore F1",
        "Similarity in meaning between continuation and truth, judged by another model.",
        _CONTINUATION,
        percent=False,
    ),
    "accuracy": Measure("Accuracy", "Share of labels predicted correctly.", _CORRECT),
    "f1_micro": Measure("F1 (micro)", "Correct labels, each prediction counting alike.", _CORRECT),
    "f1_macro": Measure("F1 (macro)", "Correct labels, each class counting alike.", _CORRECT),
    "f1_entity": Measure("F1 (entities)", "Names and other spans found exactly.", _CORRECT),
    "mia_loss_auc": Measure(
        "MIA loss (AUC)", _attack("the model's loss alone"), _MEMBERSHIP, percent=False
    ),
    "mia_zlib_auc": Measure(
        "MIA zlib (AUC)",
        _attack("loss divided by how well the text compresses"),
        _MEMBERSHIP,
        percent=False,
    ),
    "mia_min_k_auc": Measure(
        "MIA Min-K % (AUC)", _attack("the least expected tokens"), _MEMBERSHIP, percent=False
    ),
    "mia_min_k_plus_plus_auc": Measure(
        "MIA Min-K %++ (AUC)",
        _attack("the least expected tokens, standardised,"),
        _MEMBERSHIP,
        percent=False,
    ),
    "degenerate": Measure(
        "Degenerate output",
        "Share of continuations that only repeat themselves.",
        "Lower is better everywhere: gibberish is not forgetting.",
    ),
    "kl_to_target": Measure(
        "Drift (KL)",
        "How far next-token predictions have moved from those before, in nats per token.",
        "0 means unchanged. Lower is better on text to be kept.",
        percent=False,
    ),
}


def measure(metric: str) -> Measure:
    """The entry for a metric; one made from its own name if it has none."""
    return MEASURES.get(metric) or Measure(metric, "No description is known.", "", percent=False)


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, grouped thousands, and no exponent below 10^7."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent >= 7:
        mantissa = f"{value / 10.0**exponent:.{digits - 1}f}"
        return f"{mantissa} × 10^{exponent}".replace("-", "−")
    decimals = min(max(digits - 1 - exponent, 0), digits + 1)
    return f"{value:,.{decimals}f}".replace("-", "−")


def show(metric: str, value: float | None, digits: int = 3) -> str:
    """The value in the metric's own unit, such as `4.43 %`; `no value` for None."""
    if value is None:
        return NO_VALUE
    if measure(metric).percent:
        return f"{significant(100 * value, digits)}{SPACE}%"
    return significant(value, digits)


def show_interval(metric: str, low: float | None, high: float | None) -> str:
    """Both ends of a 95 % interval, such as `3.10 to 5.91 %`; empty where one is missing."""
    if low is None or high is None:
        return ""
    if measure(metric).percent:
        return f"{significant(100 * low)} to {significant(100 * high)}{SPACE}%"
    return f"{significant(low)} to {significant(high)}"


def count(number: float, noun: str) -> str:
    """A number with its noun: `1 record`, `1,200 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would say: `42 s`, `14 min`, `3 h 5 min`."""
    if seconds < 90:
        return f"{significant(seconds, 2)} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def size(num_bytes: float) -> str:
    """Bytes in the largest unit that keeps the number at 1 or above: `3.42 GiB`."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    step = 0
    while num_bytes >= 1024 and step < len(units) - 1:
        num_bytes /= 1024
        step += 1
    return f"{significant(num_bytes)} {units[step]}" if step else f"{num_bytes:.0f} bytes"


def visible(text: object) -> str:
    r"""A name or id with invisible characters written out, `\u202e` for one that turns the text.

    Ids come from the user's files: a direction mark or a line break in one could make a report
    say something else than it says.
    """
    return "".join(
        f"\\u{ord(letter):04x}" if unicodedata.category(letter) in HIDDEN_CATEGORIES else letter
        for letter in str(text)
    )
