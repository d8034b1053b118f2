"""What cannot be used is refused in one line, with status 2, and nothing is entered."""

import json

import pytest
from ledger_world import ledger_in, pretend_run

from command_world import json_lines, texts
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT

ONE = {"one.jsonl": texts(["a text"])}
PEOPLE = {
    "people.jsonl": json_lines(
        {"id": "1", "text": "of mara", "subject": "Mara"},
        {"id": "2", "text": "of tom", "subject": "Tom"},
    )
}

CASES = {
    "add": ("needs --records",),
    "add --records none.jsonl": ("none.jsonl",),
    "add --records empty.jsonl": ("holds no records", {"empty.jsonl": ""}),
    "add --records one.jsonl --corpus one.jsonl": ("add needs", ONE),
    "add --corpus people.jsonl": ("which of its records", PEOPLE),
    "add --records one.jsonl --subject Mara": ("for a --corpus", ONE),
    "add --corpus people.jsonl --subject Zoe": ("no record has that subject", PEOPLE),
    "add --corpus people.jsonl --subject Tom --confirm l": ("give one of them", PEOPLE),
    "add --corpus people.jsonl --confirm none.tsv": ("cannot be read", PEOPLE),
    "add --corpus people.jsonl --confirm l.tsv": ("line 2", PEOPLE | {"l.tsv": "1\n9\n"}),
    "add --corpus people.jsonl --confirm e.tsv": ("names no record", PEOPLE | {"e.tsv": "# no\n"}),
    "add --records one.jsonl --id a/b": ("use letters", ONE),
    "add --records one.jsonl --id ..": ("use letters", ONE),
    "add --records one.jsonl --received 26.11.2026": ("must be a day", ONE),
    "add --records one.jsonl --due tomorrow": ("must be a day", ONE),
    "add --records one.jsonl --received 2026-02-01 --due 2026-01-01": ("later day", ONE),
    "add --records one.jsonl --decision forgive": ("forgive", ONE),
    "add --records one.jsonl --decision refuse": ("a reason is needed", ONE),
    "add --records one.jsonl --reason " + "x" * 501: ("at most 500", ONE),
    "add --records one.jsonl --ledger one.jsonl": ("damaged", ONE),
    "add --records one.jsonl --ledger .": ("name a file", ONE),
    "add --records one.jsonl --anchor .": ("is a folder", ONE),
    "add --records one.jsonl --ledger one.jsonl/l.db": ("cannot be made", ONE),
    "list": ("no such file",),
    "list --ledger one.jsonl": ("no ledger", ONE),
    "show r1": ("no such file",),
    "verify": ("no such file",),
    "verify --records x": ("REQUEST=FILE",),
    "verify --audit slow": ("slow",),
    "verify --audit quick --bytes-only": ("give one",),
    "verify --retrained model": ("are for --audit",),
    "report --since soon": ("no such file",),
    "export": ("no such file",),
    "shred r1": ("no such request",),
    "reopen r1": ("no such request",),
    "find --query Mara": ("needs --corpus",),
    "find --corpus people.jsonl": ("needs a query", PEOPLE),
    "find --corpus people.jsonl --query Mara --kinds sounds": ("sounds", PEOPLE),
    "find --corpus people.jsonl --query Mara --similar 2": ("at most 1", PEOPLE),
    "find --corpus people.jsonl --query-file none": ("cannot be read", PEOPLE),
    "find --corpus people.jsonl --query Mara --output people.jsonl": ("is there already", PEOPLE),
    "run": ("no such request", ONE, "--request r9"),
    "run stray stray": ("neither an option nor a setting",),
    "models add nowhere": ("holds no weights",),
    "models add . --kind nice": ("nice",),
    "serve --port 70000": ("no such file",),
}


@pytest.mark.parametrize("command", CASES)
def test_bad_input_is_refused_in_a_line(command, call, tmp_path):
    says, *rest = CASES[command]
    files, more = [*rest, *({}, "")[len(rest) :]]
    status, out, err, _ = call(f"requests {command} {more}", files)
    assert status == WRONG_INPUT, (out, err)
    assert err.startswith("unlearner: ")
    assert err.count("\n") == 1
    assert says in err
    if (tmp_path / "requests.db").exists():
        assert not ledger_in(tmp_path).book.requests


def test_a_name_is_given_once(call):
    assert call("requests add --records one.jsonl --id r", ONE)[0] == MET
    status, _, err, _ = call("requests add --records one.jsonl --id r")
    assert status == WRONG_INPUT
    assert "is in the ledger already" in err


def test_a_request_that_is_to_be_run_is_not_shredded(call):
    call("requests add --records one.jsonl --id r", ONE)
    status, _, err, _ = call("requests shred r")
    assert status == WRONG_INPUT
    assert "carry it out first" in err
    call("requests add --records one.jsonl --id no --decision refuse --reason unfounded")
    status, out, _, _ = call("requests shred no")
    assert (status, "1 working files" in out) == (MET, True)
    assert call("requests show no --json")[1].count('"shredded": true') == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("run", "needs a MODEL"),
        ("run nowhere", "holds no weights"),
        ("run $models/good --holdout none.jsonl --retain retain.jsonl", "none.jsonl"),
        ("run $models/good --retain retain.jsonl", "--holdout"),
        ("run $models/good method.name=magic", "magic"),
    ],
)
def test_a_run_that_cannot_be_leaves_the_request_open(command, says, call, tmp_path):
    call("requests add --records forget.jsonl --id r")
    status, _, err, _ = call(f"requests {command} --quiet")
    assert status == WRONG_INPUT
    assert says in err
    ledger = ledger_in(tmp_path)
    assert ledger.book.requests["r"].state == "open"
    assert ledger.verify(measure=False).holds


def test_list_and_show_tell_state_and_deadline(call, tmp_path):
    call("requests add --records forget.jsonl --id late --received 2020-01-31")
    call("requests add --records forget.jsonl --id no --decision refuse --reason unfounded")
    out = call("requests list")[1]
    assert "2020-02-29" in out
    assert "late" in out
    rows = json.loads(call("requests list --json")[1])
    assert [row["id"] for row in rows] == ["late", "no"]
    assert rows[0]["days_left"] < 0
    assert rows[1]["days_left"] is None
    out = call("requests show no")[1]
    assert "refused" in out
    assert "unfounded" in out
    assert call("requests leftovers")[0] == MET
    pretend_run(ledger_in(tmp_path), "late", tmp_path / "none")
    status, out, _, _ = call("requests leftovers late")
    assert status == NOT_MET
    assert "working files" in out
    assert call("requests shred late")[0] == MET
    assert call("requests leftovers late")[0] == MET
