"""How numbers, names and times are written, so that a person reads them and no one is misled."""

from __future__ import annotations

import math
import unicodedata
from datetime import datetime

from unlearner.report.measures import Measure, measure

NO_VALUE = "no value"

SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit

# Control, format, unassigned, surrogate, line and paragraph separators.
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}


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
    return show_as(measure(metric), value, digits)


def show_as(each: Measure, value: float | None, digits: int = 3) -> str:
    """The value in the measure's own unit; `no value` for None."""
    if value is None:
        return NO_VALUE
    if each.percent:
        return f"{significant(100 * value, digits)}{SPACE}%"
    return significant(value, digits)


def show_change(metric: str, before: float | None, after: float | None) -> str:
    """Both values with their unit once, such as `80.4 → 80.1 %`; only one where one is missing."""
    if before is None or after is None:
        return show(metric, before if after is None else after)
    first = show(metric, before)
    return f"{first.removesuffix(f'{SPACE}%')} → {show(metric, after)}"


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


def change(before: float, after: float) -> str:
    """The relative change as a signed percentage: `+1.4 %`; from elevenfold on, a factor."""
    percent = 100 * (after / before - 1)
    if percent >= 1000:
        return f"× {significant(after / before)}"
    decimals = 1 if abs(percent) < 100 else 0
    return f"{percent:+.{decimals}f}{SPACE}%".replace("-", "−")


def when(created: str) -> str:
    """An ISO time as a person writes it: `3 May 2025, 14:02 UTC`."""
    moment = datetime.fromisoformat(created)
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"
