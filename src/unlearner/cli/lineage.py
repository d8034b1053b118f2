"""`unlearner lineage`: which records a model and its ancestors learned, and what is left in it."""

from rich.markup import escape
from rich.table import Table

from unlearner.cli.terminal import MET, NOT_MET, results_console
from unlearner.data.record import digest_content, digest_subject
from unlearner.errors import UserError, printable
from unlearner.models.lineage import Line, trace
from unlearner.provenance import read_key
from unlearner.requests.records import read_any


def run_lineage(models: list[str], records: str, subject: str, columns: dict[str, str]) -> int:
    """`unlearner lineage`: 3 where a model still has records that were asked for, else 0."""
    if not models:
        raise UserError("lineage needs the folder of a MODEL, or several")
    key, asked = read_key(), set()
    if records:
        asked |= {digest_content(one, key) for one in read_any(records, "records", columns)}
    if subject:
        asked.add(digest_subject(subject, key))
    traced = [trace(model, key, asked) for model in models]
    for line in traced:
        _print_line(line, asked=bool(asked))
    return NOT_MET if any(line.remaining for line in traced) else MET


def _print_line(line: Line, *, asked: bool) -> None:
    console = results_console()
    console.print(escape(printable(line.model)))
    if line.stages:
        table = Table("model", "made by", "when", "weights")
        for heading in ("learned", "to be forgotten", "verdict") if asked else ("verdict",):
            table.add_column(heading)
        for stage in line.stages:
            counts = (str(stage.learned), str(stage.forgotten)) if asked else ()
            table.add_row(
                escape(printable(stage.name or "a model in memory")),
                stage.made_by,
                stage.created,
                stage.weights.partition(":")[2][:12],
                *counts,
                stage.verdict or "-",
            )
        console.print(table)
    for problem in line.problems:
        console.print(f"  {problem}")
    if asked and line.stages:
        left = len(line.remaining)
        console.print(
            f"  {left} of the records asked for were learned and not forgotten: still to be treated"
            if left
            else "  none of the records asked for is left that was learned and not forgotten"
        )
