"""report.json, which holds everything, and report.html and report.md, which are made from it.

Its schema is docs/report.schema.json. The other two can be made again at any time.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError

from unlearner.errors import UserError, quoted
from unlearner.files import LARGE, read_json
from unlearner.report.audit import AUDIT_FILE, read_audit, with_audit
from unlearner.report.facts import SCHEMA, Report
from unlearner.report.page import markdown_report, render
from unlearner.report.writing import write_files

# The order in which keys are written, at every depth; others follow in alphabetical order.
ORDER = (
    "schema command created request model method data retrieval criteria criteria_digest results "
    "distance_to_retrained geometry verdict rounds search strength per_record examples confusion "
    "projection cost environment target unlearned retrained forget retain analogous holdout test "
    "holdout_class id name hub_id family parameters digest_target digest_unlearned claim metric "
    "set at_most at_least source status reason claims round active el_10 ma retain_perplexity loss "
    "forget_score holdout_score retain_score forget_loss holdout_loss value low high records "
    "subjects tokens digest overlap_with_forget columns notes not_measured role prompt truth "
    "before after seconds seconds_unlearning seconds_retraining seconds_evaluation "
    "peak_memory_bytes steps versions hardware processes seed"
)

REQUIRED = (
    *("command", "created", "request", "model", "data", "criteria", "criteria_digest"),
    *("results", "verdict", "cost", "environment"),
)

_RANK = {key: rank for rank, key in enumerate(ORDER.split())}


def write_report(report: Report, directory: Path) -> None:
    """Write report.json, report.html and report.md into an existing directory.

    Nothing is written unless all three could be made. The same report gives the same bytes.

    Raises:
        ValueError: A number is NaN or infinite; such values are None in a report.
    """
    report = cast(Report, _ordered(report))
    text = _one_number_list_a_line(json.dumps(report, indent=1, allow_nan=False)) + "\n"
    write_files(directory, {"report.json": text, **_rendered(_beside_audit(report, directory))})


def read_report(directory: Path) -> dict[str, Any]:
    """The contents of report.json.

    Raises:
        UserError: There is none, or it is not JSON, of another schema or not whole.
    """
    path = directory / "report.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the output directory of a finished run")
    try:
        report = read_json(path, LARGE)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); restore the file") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); restore the file") from error
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA:
        raise UserError(
            f"{path}: schema must be {SCHEMA!r}, got {quoted(found)}; run the command again, or "
            "use the version of unlearner that wrote it"
        )
    missing = [key for key in REQUIRED if key not in report]
    if missing:
        raise UserError(f"{path}: not whole, without {', '.join(missing)}; restore the file")
    return report


def rewrite(directory: Path) -> None:
    """Make report.html and report.md again from report.json.

    Raises:
        UserError: report.json is missing, broken, of another schema or not whole.
    """
    report = read_report(directory)
    try:
        files = _rendered(_beside_audit(cast(Report, _ordered(report)), directory))
    except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
        path = directory / "report.json"
        raise UserError(
            f"{path}: does not follow docs/report.schema.json ({type(error).__name__}: {error}); "
            "restore the file"
        ) from error
    write_files(directory, files)


def _beside_audit(report: Report, directory: Path) -> Report:
    """The report as the page shows it: with the audit that lies beside it, if any.

    Raises:
        UserError: The audit is broken, or is not of the model that the report is about.
    """
    audit = read_audit(directory)
    if audit is None:
        return report
    if audit["model"]["digest_unlearned"] != report["model"].get("digest_unlearned"):
        raise UserError(
            f"{directory / AUDIT_FILE}: is of another model than report.json; remove it, or run "
            "the audit again"
        )
    return with_audit(report, audit)


def _rendered(report: Report) -> dict[str, str]:
    return {"report.html": render(report), "report.md": markdown_report(report)}


def _ordered(value: object) -> object:
    """The same value with keys in one order, so that equal reports are equal bytes."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (_RANK.get(key, len(_RANK)), key))
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    return value


def _one_number_list_a_line(text: str) -> str:
    """JSON with every point and every row of a confusion table on one line.

    They are lists of three that end with a whole number; no string holds a line break.
    """
    row = r"\[\n\s+([^\[\]{}\n]+,)\n\s+([^\[\]{}\n]+,)\n\s+(\d+)\n\s+\]"
    return re.sub(row, r"[\1 \2 \3]", text)
