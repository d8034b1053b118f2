"""What `unlearner requests ...` does: words for people, and the exit status."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from unlearner import processes
from unlearner.cli.terminal import MET, NOT_MET, RunProgress, results_console
from unlearner.errors import UserError, printable, quoted
from unlearner.files import LARGE, read_small, write_whole
from unlearner.pipeline.audit import AuditRequest
from unlearner.requests.erasure import OPEN_STATES
from unlearner.requests.ledger import Ledger, write_json, write_list
from unlearner.training.log import quieten

COLOURS = {
    "met": "green",
    "not memorised": "green",
    "ok": "green",
    "holds": "green",
    "not met": "red",
    "wrong": "red",
    "lost": "red",
}


def run_add(ledger: str, anchor: str, records: str, corpus: str, options: Mapping[str, Any]) -> int:
    """`requests add`."""
    if bool(records) == bool(corpus):
        raise UserError("add needs --records FILE, or --corpus FILE with --subject or --confirm")
    some = options["subject"] or options["confirm"]
    if corpus and not some:
        raise UserError("--corpus: say by --subject or --confirm which of its records are meant")
    if records and some:
        raise UserError("--subject and --confirm: are for a --corpus; leave --records out")
    request = Ledger(ledger, anchor).add(records or corpus, **options)
    _say(
        f"request {request.id}: {request.records} records, {request.decision}, to be answered by "
        f"{request.due}; {request.state}"
    )
    return MET


def run_find(
    ledger: str,
    anchor: str,
    corpus: str,
    queries: Sequence[str],
    query_file: str,
    output: str,
    options: Mapping[str, Any],
) -> int:
    """`requests find`: counts are printed, ids go into a file."""
    if not corpus:
        raise UserError("find needs --corpus FILE")
    if Path(output).exists():
        raise UserError(f"--output {quoted(output)}: is there already; give another file")
    quieten()
    all_queries = [*queries, *(_lines(query_file) if query_file else ())]
    some, found = Ledger(ledger, anchor).find(all_queries, corpus, **options)
    write_list(Path(output), some, found)
    for kind in options["kinds"]:
        _say(f"{kind}: {sum(one.kind == kind for one in found)} of {len(some)} records")
    _say(f"their ids are in {output}: leave those that are meant, and give it as --confirm")
    return MET


def _lines(path: str) -> list[str]:
    try:
        return [line for line in read_small(Path(path), LARGE).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"--query-file {quoted(path)}: cannot be read ({error})") from None


def run_list(ledger: str, *, as_json: bool) -> int:
    """`requests list`."""
    rows = Ledger(ledger).list()
    if as_json:
        _say_json(rows)
        return MET
    table = Table("request", "state", "decision", "received", "answer by", "records")
    for row in rows:
        left = row["days_left"]
        due = row["due"] if left is None else f"{row['due']} ({_in_days(left)})"
        table.add_row(
            escape(row["id"]),
            _coloured(row["state"]),
            row["decision"],
            row["received"],
            due,
            str(row["records"]),
        )
    results_console().print(table)
    return MET


def _in_days(left: int) -> str:
    late = left < 0
    words = "1 day" if abs(left) == 1 else f"{abs(left)} days"
    return f"[red]{words} late[/]" if late else f"{words} left"


def run_show(ledger: str, request: str, *, as_json: bool) -> int:
    """`requests show`."""
    shown = Ledger(ledger).show(request)
    if as_json:
        _say_json(shown)
        return MET
    console = results_console()
    console.print(f"request {escape(shown['id'])}: {_coloured(shown['state'])}")
    reason = f" ({_no_markup(shown['reason'])})" if shown["reason"] else ""
    console.print(
        f"  {shown['records']} records, received {shown['received']}, to be answered by "
        f"{shown['due']}, {_no_markup(shown['article'])}; {shown['decision']}{reason}"
    )
    for step in shown["history"]:
        console.print(f"  {step['time']}  {_coloured(step['state'])}  (entry {step['entry']})")
    if shown["run"]:
        console.print(f"  run {shown['run']['number']}: {shown['run']['verdict']}")
        for claim in shown["run"]["claims"]:
            console.print(
                f"    {claim['claim']}: {_coloured(claim['status'])}. {_no_markup(claim['reason'])}"
            )
    for one in shown["held"]:
        reason = f": {_no_markup(one['reason'])}" if one["reason"] else ""
        console.print(f"  behind run {one['run']}: {_coloured(one['status'])}{reason}")
    return MET


def run_reopen(ledger: str, anchor: str, request: str, reason: str) -> int:
    """`requests reopen`."""
    Ledger(ledger, anchor).reopen(request, reason)
    _say(f"request {request}: open")
    return MET


def run_run(  # noqa: PLR0913 - the command's options
    ledger: str,
    anchor: str,
    model: str,
    output: str,
    *,
    requests: Sequence[str],
    together: bool,
    sections: Mapping[str, Any],
    force: bool,
    again: bool,
    quiet: bool,
) -> int:
    """`requests run`: 0 when all are carried out and all earlier ones hold, else 3."""
    _refuse_processes("run")
    quieten()
    with _progress(quiet=quiet) as progress:
        ended = Ledger(ledger, anchor).run(
            model,
            output=output,
            requests=requests,
            together=together,
            sections=sections,
            force=force,
            again=again,
            say=progress.say,
        )
    console = results_console()
    if not ended:
        console.print("no request is open")
        return MET
    for one in ended:
        names = _no_markup(", ".join(one.requests))
        console.print(f"request {names}: {_coloured(one.state)}; {_no_markup(str(one.output))}")
        for held in one.held:
            what = f"request {_no_markup(', '.join(held.requests))}" if held.requests else "quality"
            reason = f": {_no_markup(held.reason)}" if held.reason else ""
            console.print(f"  {what}: {_coloured(held.status)}{reason}")
    last = ended[-1].held
    if any(held.requests and held.status == "lost" for held in last):
        console.print("`requests run --again` runs those that are lost once more, in one run")
    states = {name: one.state for one in ended for name in one.requests}
    carried = all(state in ("met", "not memorised") for state in states.values())
    return MET if carried and all(held.status == "holds" for held in last) else NOT_MET


def run_verify(
    ledger: str,
    anchor: str,
    model: str,
    *,
    records: Sequence[str],
    sections: Mapping[str, Any],
    measure: bool,
    attacks: Mapping[str, Any] | None,
    quiet: bool,
) -> int:
    """`requests verify`: 0 when nothing is wrong and nothing unknown, else 3."""
    _refuse_processes("verify")
    quieten()
    given = {}
    for pair in records:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise UserError(f"--records {quoted(pair)}: write REQUEST=FILE")
        given[name] = path
    with _progress(quiet=quiet) as progress:
        found = Ledger(ledger, anchor).verify(
            model,
            records=given,
            sections=sections,
            measure=measure,
            attacks=None if attacks is None else AuditRequest(**attacks),
            say=progress.say,
        )
    console = results_console()
    for one in found.findings:
        console.print(f"{one.what}: {_coloured(one.status)}. {_no_markup(one.sentence)}")
    if found.run_again:
        console.print(f"to be run again: {_no_markup(', '.join(found.run_again))}")
    return MET if found.holds else NOT_MET


def run_report(ledger: str, request: str, since: str, until: str, output: str) -> int:
    """`requests report`."""
    if request and (since or until):
        raise UserError("report: name a REQUEST, or a time by --since and --until")
    page = Ledger(ledger).report(request, since=since, until=until)
    try:
        write_whole(Path(output), page, mode=0o600)
    except OSError as error:
        raise UserError(f"--output {quoted(output)}: cannot be written ({error})") from None
    _say(output)
    return MET


def run_leftovers(ledger: str, request: str) -> int:
    """`requests leftovers`: 3 while something is there."""
    found = Ledger(ledger).left_overs(request)
    console = results_console()
    for one in found:
        state = "[green]gone[/]" if one.is_gone else "[red]still there[/]"
        console.print(f"{state}  {_no_markup(one.path)}  ({one.what})")
    there = sum(not one.is_gone for one in found)
    console.print(f"{there} of {len(found)} are still to be deleted")
    return NOT_MET if there else MET


def run_export(ledger: str, output: str) -> int:
    """`requests export`."""
    write_json(Path(output), Ledger(ledger).export())
    _say(output)
    return MET


def run_shred(ledger: str, anchor: str, request: str) -> int:
    """`requests shred`."""
    count = Ledger(ledger, anchor).shred(request)
    _say(f"request {request}: {count} working files overwritten and removed")
    return MET


def run_add_model(
    ledger: str, anchor: str, model: str, *, kind: str, base: str, current: bool
) -> int:
    """`requests models add`."""
    Ledger(ledger, anchor).add_model(model, kind=kind, base=base, current=current)
    _say(f"{model}: entered as {kind}{', and current' if current else ''}")
    return MET


def run_list_models(ledger: str) -> int:
    """`requests models list`."""
    table = Table("model", "what", "made of", "weights", "still has records of")
    for row in Ledger(ledger).models():
        place = _no_markup(row["path"]) + (" (current)" if row["is_current"] else "")
        holds = ", ".join(row["requests"]) or "none"
        table.add_row(
            place,
            row["kind"],
            _no_markup(row["base"]) or "-",
            row["weights"].partition(":")[2][:12],
            escape(holds) if row["is_there"] else "not there any more",
        )
    results_console().print(table)
    return MET


def run_serve(ledger: str, port: int) -> int:
    """`requests serve`: until it is stopped."""
    from unlearner.requests.server import serve

    def tell(address: str) -> None:
        _say(f"open {address}")
        _say("it is shown once, and is good until this process is stopped by Ctrl-C")
        sys.stdout.flush()

    serve(Ledger(ledger), port, tell)
    return MET


def _refuse_processes(command: str) -> None:
    processes.begin()
    if processes.count() > 1:
        raise UserError(
            f"requests {command}: not for processes that share a run; leave `accelerate launch` out"
        )


@contextmanager
def _progress(*, quiet: bool) -> Iterator[RunProgress]:
    progress = RunProgress(quiet=quiet, num_rounds=None)
    try:
        yield progress
    finally:
        progress.stop()


def _coloured(status: str) -> str:
    colour = COLOURS.get(status, "yellow" if status not in OPEN_STATES else "")
    return f"[{colour}]{status}[/]" if colour else status


def _no_markup(text: str) -> str:
    return escape(printable(text))


def _say(text: str) -> None:
    results_console().print(_no_markup(text))


def _say_json(values: Any) -> None:
    sys.stdout.write(json.dumps(values, indent=1) + "\n")
