"""How numbers, names and times are written, so that a person reads them and no one is misled.

What a user wrote is inert wherever it is shown: the templates escape every value for the kind of
file that they make.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unlearner.report.measures import Measure, measure

FOLDER = Path(__file__).parent

NO_VALUE = "no value"

NOTHING = "–"  # in the cell of a table

SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit

# Control, format, unassigned, surrogate, line and paragraph separators.
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

T = TypeVar("T")


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


def plural(number: float, noun: str) -> str:
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


def setting(value: object) -> str:
    """A value of a configuration as a person would write it; a dash for None."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(setting(item) for item in value)
        case dict():
            return ", ".join(f"{visible(key)}: {setting(item)}" for key, item in value.items())
    return visible(value)


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


def known(write: Callable[[T], str], value: T | None) -> str | None:
    """The value as it is written; None, which tables of facts leave out, for None."""
    return None if value is None else write(value)


def escape(text: object) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, no link, no new table cell or line.

    Letters, digits, spaces and quiet punctuation stay readable in the source.
    """
    plain = visible(text).strip()
    plain = re.sub(r"[\\`*_{}\[\]|~$#@!^]", r"\\\g<0>", plain)
    plain = re.sub(r"[&<>]", lambda match: ENTITIES[match[0]], plain)
    plain = re.sub(r"(?i)(?<=:)//|(?<=www)\.", lambda m: "".join(f"\\{c}" for c in m[0]), plain)
    # At the start of a line these would begin a list or underline a heading.
    plain = re.sub(r"^[-+=]", r"\\\g<0>", plain)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", plain)


def visible_lines(text: str) -> Markup:
    """A text of several lines, in which everything but the line breaks is visible."""
    return Markup("\n").join(visible(line) for line in text.splitlines())


@cache
def templates(kind: Literal["html", "markdown", "plain"]) -> Environment:
    """The templates beside this file, in which every value is escaped for what they become.

    Plain text is not: sentences are made of it, which are values of the other two.
    """
    finalize = {
        "html": lambda value: value if isinstance(value, Markup) else visible(value),
        "markdown": escape,
        "plain": None,
    }
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=kind == "html",
        finalize=finalize[kind],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=kind == "markdown",
    )
    writers = (
        change,
        duration,
        known,
        visible_lines,
        plural,
        setting,
        show,
        show_change,
        significant,
        size,
        visible,
        when,
    )
    environment.globals |= {writer.__name__: writer for writer in writers}
    return environment


def html_page(template: str, sheets: Iterable[str], **values: object) -> str:
    """A page that needs nothing but itself: the style sheets stand in it."""
    style = "".join((FOLDER / sheet).read_text(encoding="utf-8") for sheet in sheets)
    page = templates("html").get_template(template)
    return page.render(style=Markup(style), **values) + "\n"


def macros(template: str, **values: object) -> dict[str, Callable[..., str]]:
    """The macros of a template of plain sentences: see `one_paragraph` and `list_items`."""
    return vars(templates("plain").get_template(template).make_module(values))


def one_paragraph(text: str) -> str:
    """A paragraph of a template, in which a line break counts as a space."""
    return text.removesuffix("\n").replace("\n", " ")


def list_items(text: str) -> list[str]:
    """The paragraphs of a template, each of which begins with "- "; empty lines are none."""
    filled = "".join(f"\n{line}" for line in text.split("\n") if line)
    return [one_paragraph(paragraph) for paragraph in filled.split("\n- ")[1:]]


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write each whole or not at all: a reader never sees half a file."""
    for name, content in files.items():
        partial = folder / f".{name}.part"
        partial.write_text(content, encoding="utf-8", newline="\n")
        partial.replace(folder / name)
