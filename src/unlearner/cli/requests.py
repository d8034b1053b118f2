"""The options of `unlearner requests ...`; what the commands do is in `requests_commands.py`."""

from pathlib import Path
from typing import Annotated

import typer

from unlearner.cli.arguments import Quiet, column_names, sections_of
from unlearner.errors import UserError
from unlearner.settings import check_names

app = typer.Typer(no_args_is_help=True, help="Deletion requests over time, as a record.")
models = typer.Typer(no_args_is_help=True, help="Models that the ledger is to know.")
app.add_typer(models, name="models")

LedgerFile = Annotated[
    str, typer.Option("--ledger", metavar="FILE", help="The record of all requests.")
]
AnchorFile = Annotated[
    str,
    typer.Option(
        "--anchor", metavar="FILE", help="Keep the head of the chain there too, on another disk."
    ),
]
Request = Annotated[str, typer.Argument(metavar="REQUEST", help="Its id.")]
Columns = Annotated[str, typer.Option("--map", help="Rename columns: question=prompt.")]
Output = Annotated[str, typer.Option("--output", metavar="FILE", help="Where it is written.")]

LEDGER = "requests.db"


@app.command()
def add(
    ledger: LedgerFile = LEDGER,
    records: Annotated[str, typer.Option(help="The records that it asks for.")] = "",
    corpus: Annotated[
        str, typer.Option(help="Instead: all records, of which some are meant.")
    ] = "",
    subject: Annotated[str, typer.Option(help="Of the corpus: those of this subject.")] = "",
    confirm: Annotated[str, typer.Option(help="Of the corpus: those of this list of ids.")] = "",
    name: Annotated[str, typer.Option("--id", help="Its name; drawn where none is given.")] = "",
    received: Annotated[str, typer.Option(help="The day it came, 2026-11-26; today.")] = "",
    due: Annotated[str, typer.Option(help="Answer by this day; a month later.")] = "",
    article: Annotated[str, typer.Option(help="Its basis in law.")] = "Art. 17 GDPR",
    decision: Annotated[
        str, typer.Option(help="unlearn, retrain, suppress or refuse.")
    ] = "unlearn",
    reason: Annotated[str, typer.Option(help="Of the decision; kept as it is.")] = "",
    columns: Columns = "",
    anchor: AnchorFile = "",
) -> int:
    """Enter a request: its records by file, by subject, or by a list that `find` has written."""
    from unlearner.cli.requests_commands import run_add

    options = {
        "id": name,
        "subject": subject,
        "confirm": confirm,
        "received": received,
        "due": due,
        "article": article,
        "decision": decision,
        "reason": reason,
        "columns": column_names(columns),
    }
    return run_add(ledger, anchor, records, corpus, options)


@app.command()
def find(
    ledger: LedgerFile = LEDGER,
    corpus: Annotated[str, typer.Option(help="The records to search.")] = "",
    query: Annotated[
        list[str] | None, typer.Option(help="A name, address, number or text; more than once.")
    ] = None,
    query_file: Annotated[
        str, typer.Option(help="Queries, a line each, that leave no trace in the shell.")
    ] = "",
    kinds: Annotated[str, typer.Option(help="Searches to make.")] = "exact,near,semantic",
    encoder: Annotated[str, typer.Option(help="auto, tf-idf, or an encoder's folder.")] = "tf-idf",
    similar: Annotated[float | None, typer.Option(help="Least cosine of what is like it.")] = None,
    output: Output = "found.tsv",
    columns: Columns = "",
    anchor: AnchorFile = "",
) -> int:
    """Find the records that somebody may be meant by; writes ids, prints counts."""
    from unlearner.cli.requests_commands import run_find

    options = {
        "kinds": [kind.strip() for kind in kinds.split(",") if kind.strip()],
        "encoder": encoder,
        "similar": similar,
        "columns": column_names(columns),
    }
    return run_find(ledger, anchor, corpus, query or [], query_file, output, options)


@app.command("list")
def list_requests(
    ledger: LedgerFile = LEDGER,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """List all requests with state and deadline, the most urgent first."""
    from unlearner.cli.requests_commands import run_list

    return run_list(ledger, as_json=as_json)


@app.command()
def show(
    request: Request,
    ledger: LedgerFile = LEDGER,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> int:
    """Show what the ledger holds of one request."""
    from unlearner.cli.requests_commands import run_show

    return run_show(ledger, request, as_json=as_json)


@app.command()
def reopen(
    request: Request,
    ledger: LedgerFile = LEDGER,
    reason: Annotated[str, typer.Option(help="Why; kept as it is.")] = "",
    anchor: AnchorFile = "",
) -> int:
    """Open an answered request again, for instance where verify finds that it does not hold."""
    from unlearner.cli.requests_commands import run_reopen

    return run_reopen(ledger, anchor, request, reason)


@app.command("run")
def run_requests(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL] [SECTION.KEY=VALUE]...")
    ] = None,
    ledger: LedgerFile = LEDGER,
    output: Annotated[str, typer.Option(metavar="DIR", help="A folder for all runs.")] = "runs",
    request: Annotated[
        list[str] | None, typer.Option("--request", help="An id; more than once. All open ones.")
    ] = None,
    together: Annotated[bool, typer.Option(help="One run for all of them.")] = False,
    retain: Annotated[str, typer.Option(help="Records to keep.")] = "",
    pool: Annotated[str, typer.Option(help="Text to learn meanwhile.")] = "",
    holdout: Annotated[str, typer.Option(help="Like the records, never trained on.")] = "",
    test: Annotated[str, typer.Option(help="Unseen records for the report alone.")] = "",
    method: Annotated[str, typer.Option(help="See `unlearner list methods`.")] = "",
    config: Annotated[Path | None, typer.Option(help="A run file.")] = None,
    columns: Columns = "",
    force: Annotated[bool, typer.Option(help="Run though nothing is memorised.")] = False,
    again: Annotated[
        bool, typer.Option(help="Also earlier ones that hold no more, with the next.")
    ] = False,
    anchor: AnchorFile = "",
    quiet: Quiet = False,
) -> int:
    """Carry out open requests on the current model; measure all earlier ones again."""
    model, sections = sections_of(
        arguments,
        config,
        data__retain=retain,
        data__pool=pool,
        data__holdout=holdout,
        data__test=test,
        data__columns=column_names(columns),
        method__name=method,
    )
    from unlearner.cli.requests_commands import run_run

    return run_run(
        ledger,
        anchor,
        model,
        output,
        requests=request or [],
        together=together,
        sections=sections,
        force=force,
        again=again,
        quiet=quiet,
    )


@app.command()
def verify(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL] [SECTION.KEY=VALUE]...")
    ] = None,
    ledger: LedgerFile = LEDGER,
    records: Annotated[
        list[str] | None, typer.Option(help="REQUEST=FILE, where working files were shredded.")
    ] = None,
    retain: Annotated[str, typer.Option(help="Records to keep, if they were moved.")] = "",
    holdout: Annotated[str, typer.Option(help="Unseen records, if they were moved.")] = "",
    measure: Annotated[
        bool, typer.Option("--measure/--bytes-only", help="Run the model on the records.")
    ] = True,
    audit: Annotated[
        str, typer.Option(metavar="quick|full", help="Also attack the records, see `audit`.")
    ] = "",
    retrained: Annotated[
        str, typer.Option(help="With --audit: a model trained without the records.")
    ] = "",
    pretrained: Annotated[
        str, typer.Option(help="With --audit: what training started from, for a proxy.")
    ] = "",
    anchor: AnchorFile = "",
    quiet: Quiet = False,
) -> int:
    """Check the chain, the files, and that answered requests hold on a model: 0, or else 3."""
    model, sections = sections_of(arguments, None, data__retain=retain, data__holdout=holdout)
    attacks = {"budget": audit, "retrained": retrained, "pretrained": pretrained}
    if audit:
        check_names([audit], ["quick", "full"], what="budget", where="--audit")
        if not measure:
            raise UserError(
                "--bytes-only: leaves the model alone, and --audit attacks it; give one"
            )
    elif retrained or pretrained:
        raise UserError("--retrained and --pretrained: are for --audit; give that too")
    from unlearner.cli.requests_commands import run_verify

    return run_verify(
        ledger,
        anchor,
        model,
        records=records or [],
        sections=sections,
        measure=measure,
        attacks=attacks if audit else None,
        quiet=quiet,
    )


@app.command()
def report(
    request: Annotated[str, typer.Argument(metavar="[REQUEST]", help="Its id.")] = "",
    ledger: LedgerFile = LEDGER,
    since: Annotated[str, typer.Option(help="Instead: requests received from this day on,")] = "",
    until: Annotated[str, typer.Option(help="up to this day.")] = "",
    output: Output = "erasure.html",
) -> int:
    """Write the record of erasure of a request, or of a time: one page that prints."""
    from unlearner.cli.requests_commands import run_report

    return run_report(ledger, request, since, until, output)


@app.command()
def leftovers(
    request: Annotated[str, typer.Argument(metavar="[REQUEST]", help="Its id.")] = "",
    ledger: LedgerFile = LEDGER,
) -> int:
    """List what still has to be deleted: 0 once all of it is gone, else 3."""
    from unlearner.cli.requests_commands import run_leftovers

    return run_leftovers(ledger, request)


@app.command()
def export(ledger: LedgerFile = LEDGER, output: Output = "requests.json") -> int:
    """Write the whole ledger as JSON, for another register."""
    from unlearner.cli.requests_commands import run_export

    return run_export(ledger, output)


@app.command()
def shred(request: Request, ledger: LedgerFile = LEDGER, anchor: AnchorFile = "") -> int:
    """Overwrite and remove the working files of a request, which hold its records' text."""
    from unlearner.cli.requests_commands import run_shred

    return run_shred(ledger, anchor, request)


@app.command()
def serve(
    ledger: LedgerFile = LEDGER,
    port: Annotated[int, typer.Option(help="To listen on; 0 for one that is free.")] = 0,
) -> int:
    """Show requests, deadlines and records of erasure in a browser, on this machine alone."""
    from unlearner.cli.requests_commands import run_serve

    return run_serve(ledger, port)


@models.command("list")
def list_models(ledger: LedgerFile = LEDGER) -> int:
    """List the models that the ledger knows, and the requests whose records are still in them."""
    from unlearner.cli.requests_commands import run_list_models

    return run_list_models(ledger)


@models.command("add")
def add_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its folder.")],
    ledger: LedgerFile = LEDGER,
    kind: Annotated[
        str,
        typer.Option(
            help="fine-tuned, adapter, merged, quantised, unlearned, pretrained or other."
        ),
    ] = "other",
    base: Annotated[str, typer.Option(help="The folder of the model that it was made of.")] = "",
    current: Annotated[
        bool, typer.Option("--current", help="Later requests begin with it.")
    ] = False,
    anchor: AnchorFile = "",
) -> int:
    """Enter a model that was made elsewhere."""
    from unlearner.cli.requests_commands import run_add_model

    return run_add_model(ledger, anchor, model, kind=kind, base=base, current=current)
