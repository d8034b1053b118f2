"""Chain, seal, anchor and lock: what is changed is found, what is killed is whole."""

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from ledger_world import filled, ledger_in, pretend_run

from unlearner.errors import UserError
from unlearner.requests.seal import Head, Seal, read_seal, write_seal
from unlearner.requests.store import (
    FOLLOWS,
    START,
    Damaged,
    Event,
    Store,
    _connect,
    check_entries,
    digest_entry,
)

KEY = b"k" * 64


@pytest.fixture
def ledger(tmp_path):
    return filled(tmp_path)


def test_the_digest_of_an_entry_by_hand():
    """SHA-256 of six lines: number, time, kind, request, body, the digest before."""
    text = '2\n2026-01-31T10:00:00+00:00\nshred\nr1\n{"files": 1}\n' + "0" * 64
    expected = hashlib.sha256(text.encode("ascii")).hexdigest()
    content = (2, "2026-01-31T10:00:00+00:00", "shred", "r1", '{"files": 1}', START)
    assert digest_entry(*content) == expected


def test_entries_are_chained_from_zeros(ledger):
    entries = ledger.store.entries()
    assert entries[0].previous == "0" * 64
    assert [one.previous for one in entries[1:]] == [one.digest for one in entries[:-1]]
    assert [one.number for one in entries] == [1, 2, 3, 4]
    assert [one.kind for one in entries] == ["ledger", "request", "request", "request"]


def changed_entries(entries, how):
    a, b, c, *rest = entries
    match how:
        case "removed":
            return [a, c, *rest]
        case "the last removed and another made":
            return [a, b, c]
        case "reordered":
            return [a, c, b, *rest]
        case "inserted":
            return [a, b, b, c, *rest]
        case "changed":
            values = {**b.values, "due": "2030-01-01"}
            return [
                a,
                type(b)(
                    *(b.number, b.time, b.kind, b.request, json.dumps(values), b.previous, b.digest)
                ),
                c,
                *rest,
            ]
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["removed", "reordered", "inserted", "changed"])
def test_a_chain_that_is_not_whole_is_found(how, ledger):
    with pytest.raises(Damaged, match=r"entry \d"):
        check_entries(changed_entries(ledger.store.entries(), how))


def rewrite(path, entries):
    """The table of entries written anew by somebody who has dropped the triggers."""
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM entries")
        for place, one in enumerate(entries, 1):
            row = (place, one.time, one.kind, one.request, one.body, one.previous, f"{one.digest}")
            connection.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()


@pytest.mark.parametrize(
    "how", ["removed", "the last removed and another made", "reordered", "inserted", "changed"]
)
def test_verify_finds_entries_that_were_tampered_with(how, ledger):
    rewrite(ledger.path, changed_entries(ledger.store.entries(), how))
    found = ledger.verify(measure=False)
    assert not found.holds
    assert found.findings[0].what == "ledger"
    with pytest.raises(UserError, match="is damaged"):
        ledger.add(["x"], id="later")


def test_a_chain_made_anew_without_the_key_is_found_by_the_seal(ledger):
    """Every digest is right again; only the seal is not."""
    entries, previous, made = ledger.store.entries(), START, []
    for one in entries:
        body = one.body.replace("2026-01-31", "2026-02-01")
        content = (one.number, one.time, one.kind, one.request, body, previous)
        previous = digest_entry(*content)
        made.append(type(one)(*content, previous))
    check_entries(made)
    rewrite(ledger.path, made)
    assert "sealed" in ledger.verify(measure=False).findings[0].sentence


@pytest.mark.parametrize("table", ["entries", "requests", "records", "states", "follows"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET rowid = 9"])
def test_nothing_is_changed_or_deleted(table, statement, ledger):
    columns = {"requests": "id = 'x'", "records": "digest = 'x'", "follows": "after = 'x'"}
    statement = statement.format(table).replace("rowid = 9", columns.get(table, "rowid = 9"))
    with closing(_connect(ledger.path)) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
        row = (9, "t", "k", "", "{}", START, "d")
        with pytest.raises(sqlite3.IntegrityError, match="chained"):
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)


@pytest.mark.parametrize("before", [state for state in FOLLOWS if state])
@pytest.mark.parametrize("after", [state for state in FOLLOWS if state])
def test_a_state_follows_only_where_it_may(before, after, tmp_path):
    """The way to each state is made first; then one step more."""
    ways = {
        "open": ["open"],
        "running": ["open", "running"],
        "refused": ["refused"],
        "suppressed": ["suppressed"],
    }
    way = ways.get(before, ["open", "running", before])
    store = Store(tmp_path / "l.db", KEY)
    with store.locked("test"):
        first = {"record_digests": [], "x": 1}
        store.append(Event("request", first, "r", {"r": way[0]}))
        for state in way[1:]:
            store.append(Event("step", {}, "r", {"r": state}))
        count = len(store.entries())
        if after in FOLLOWS[before]:
            store.append(Event("step", {}, "r", {"r": after}))
            return
        with pytest.raises(UserError, match="no such change of state"):
            store.append(Event("step", {}, "r", {"r": after}))
        assert len(store.entries()) == count
        store.settle()


def test_events_are_entered_all_or_none(ledger):
    with ledger.store.locked("test"), pytest.raises(UserError):
        ledger.store.append(Event("a"), Event("b", {}, "r0", {"r0": "met"}))
    assert len(ledger.store.entries()) == 4
    assert ledger.verify(measure=False).holds


def test_every_flipped_byte_of_the_store_is_found(tmp_path):
    """200 places, of the file and of its seal, wherever they fall: in entries, pages, free room."""
    ledger = filled(tmp_path, 8)
    draw = random.Random(0)
    seal = ledger.path.with_name(f"{ledger.path.name}.seal")
    assert ledger.verify(measure=False).holds
    for number in range(200):
        path = seal if number % 10 == 0 else ledger.path
        content = path.read_bytes()
        place = draw.randrange(len(content))
        flipped = content[place] ^ (1 << draw.randrange(8))
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        assert not ledger.verify(measure=False).holds, (path.name, place)
        path.write_bytes(content)
    assert ledger.verify(measure=False).holds


def test_every_flipped_byte_of_the_model_is_found(tmp_path):
    """20 places of the files of a run."""
    ledger, folder = filled(tmp_path), tmp_path / "runs" / "r0"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(random.Random(1).randbytes(5000))
    (folder / "model" / "config.json").write_text('{"hidden_size": 32}')
    (folder / "report.json").write_text("{}")
    from unlearner.models.lineage import digest_weights

    pretend_run(ledger, "r0", folder, after=digest_weights(folder / "model"))
    assert ledger.verify(measure=False).holds
    draw = random.Random(0)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for number in range(20):
        path = files[number % len(files)]
        content = path.read_bytes()
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = ledger.verify(measure=False)
        assert not found.holds, (path, place)
        assert any(path.name in one.sentence for one in found.findings if one.status == "wrong")
        path.write_bytes(content)
    (folder / "model" / "extra.bin").write_bytes(b"x")
    assert not ledger.verify(measure=False).holds


def test_no_text_is_in_the_ledger_and_all_of_it_is_in_the_working_files(ledger, tmp_path):
    held = b"".join(path.read_bytes() for path in tmp_path.glob("requests.db*") if path.is_file())
    assert b"mara" not in held
    for path in tmp_path.glob("requests.db.work/*/*"):
        assert "mara" in path.read_text("utf-8")
        assert path.stat().st_mode & 0o077 == 0
    assert ledger.path.stat().st_mode & 0o077 == 0


def test_another_key_is_told(tmp_path, monkeypatch):
    filled(tmp_path, 1)
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(tmp_path / "other-key"))
    with pytest.raises(UserError, match="another key"):
        ledger_in(tmp_path).list()
    with pytest.raises(UserError, match="another key"):
        ledger_in(tmp_path).add(["x"])


def test_working_files_of_a_request_that_did_not_come_to_be_go(ledger):
    """Killed between the files and the entry; and an entry that is refused."""
    ledger.files.write("lost", ledger.files.read("r0"))
    ledger.add(["x"], id="late")
    assert {path.name for path in ledger.files.root.iterdir()} == {"r0", "r1", "r2", "late"}
    with pytest.raises(UserError, match="already"):
        ledger.add(["y"], id="late")
    assert ledger.files.read("late").records[0].text == "x"


def test_a_reader_that_stays_long_leaves_the_sealing_to_the_next(ledger, monkeypatch):
    monkeypatch.setattr("unlearner.requests.store.WAIT_SECONDS", 0.1)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM entries").fetchone() == (4,)
        ledger.add(["x"], id="late")
        assert ledger.book.requests["late"].state == "open"
        assert reader.execute("SELECT count(*) FROM entries").fetchone() == (4,)
    assert ledger.verify(measure=False).holds
    ledger.add(["y"], id="later")
    assert ledger.verify(measure=False).holds


# A process that is killed


def test_what_was_announced_and_written_is_sealed_by_the_next(ledger):
    """Killed behind the commit: the seal is of the file before, and names the entry that came."""
    seal_path = ledger.path.with_name(f"{ledger.path.name}.seal")
    before = read_seal(seal_path, ledger.key)
    ledger.add(["x"], id="late")
    last = ledger.store.entries()[-1]
    write_seal(seal_path, before.announcing(Head(last.number, last.digest)), ledger.key)
    ledger.add(["y"], id="later")
    assert ledger.verify(measure=False).holds
    assert [*ledger.book.requests] == ["r0", "r1", "r2", "late", "later"]


def test_what_was_written_and_not_announced_is_refused(ledger):
    seal_path = ledger.path.with_name(f"{ledger.path.name}.seal")
    before = read_seal(seal_path, ledger.key)
    ledger.add(["x"], id="late")
    write_seal(seal_path, before, ledger.key)
    with pytest.raises(UserError, match="damaged"):
        ledger.add(["y"], id="later")
    write_seal(seal_path, before.announcing(Head(5, "0" * 64)), ledger.key)
    with pytest.raises(UserError, match="damaged"):
        ledger.add(["y"], id="later")


def test_what_was_announced_and_not_written_is_as_if_it_had_not_been(ledger):
    seal_path = ledger.path.with_name(f"{ledger.path.name}.seal")
    before = read_seal(seal_path, ledger.key)
    write_seal(seal_path, before.announcing(Head(5, "0" * 64)), ledger.key)
    ledger.add(["y"], id="later")
    assert ledger.verify(measure=False).holds


def test_a_seal_is_of_every_byte_and_of_the_key(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    seal = Seal.of(path, Head(1, "d"), KEY)
    path.write_bytes(b"abd")
    assert Seal.of(path, Head(1, "d"), KEY) != seal
    path.write_bytes(b"abc")
    assert Seal.of(path, Head(1, "d"), b"l" * 64) != seal
    write_seal(tmp_path / "s", seal, KEY)
    assert read_seal(tmp_path / "s", KEY) == seal
    with pytest.raises(ValueError, match="another key"):
        read_seal(tmp_path / "s", b"l" * 64)


KILLED = """
import os, signal, sys, threading, time
sys.path[:0] = {path!r}
from unlearner.requests.store import Store, Event
store = Store({file!r}, {key!r})
threading.Timer({delay!r}, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
number = 0
while True:
    with store.locked("test"):
        name = f"p{{os.getpid()}}-{{number}}"
        store.append(Event("request", {{"record_digests": ["d"] * 20}}, name, {{name: "open"}}))
        print(name, flush=True)
    number += 1
"""


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_had_entered(tmp_path):
    """What a process has said to be entered is there, and nothing is there twice."""
    store, draw, said = Store(tmp_path / "l.db", KEY), random.Random(0), []
    with store.locked("test"):
        pass
    for _ in range(int(os.environ.get("UNLEARNER_KILLS", "3"))):
        code = KILLED.format(
            path=[p for p in sys.path if p],
            file=store.path,
            key=KEY,
            delay=draw.uniform(0.01, 0.5),
        ).replace("PosixPath", "__import__('pathlib').Path")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        said += done.stdout.split()
        with store.locked("test"):
            names = [one.request for one in store.checked() if one.request]
        assert len(names) == len(set(names))
        assert set(said) <= set(names)


# Two processes


def test_a_second_process_is_told_who_is_at_work(ledger):
    with ledger.store.locked("requests run"), pytest.raises(UserError) as refused:
        ledger.add(["x"])
    message = str(refused.value)
    assert f"process {os.getpid()}" in message
    assert "requests run" in message
    ledger.add(["x"])


def test_reading_goes_on_while_another_process_writes(ledger):
    with ledger.store.locked("requests run"):
        assert len(ledger.list()) == 3
        ledger.store.append(Event("note"))
        assert len(ledger.list()) == 3
    assert ledger.verify(measure=False).holds


# The anchor


def test_an_older_copy_is_found_by_the_anchor_and_what_came_since_is_listed(tmp_path):
    anchor = tmp_path / "elsewhere" / "anchor"
    anchor.parent.mkdir()
    ledger = ledger_in(tmp_path, anchor)
    ledger.add(["a"], id="first")
    pretend_run(ledger, "first", tmp_path / "none")
    copies = {path: path.read_bytes() for path in tmp_path.glob("requests.db*") if path.is_file()}
    ledger.add(["b"], id="second")
    pretend_run(ledger, "second", tmp_path / "none")
    ledger.add(["c"], id="third")
    assert ledger.verify(measure=False).findings[1].status == "ok"
    for path, content in copies.items():
        path.write_bytes(content)
    found = ledger.verify(measure=False)
    anchored = next(one for one in found.findings if one.what == "anchor")
    assert anchored.status == "wrong"
    assert anchored.requests == ("second", "third")
    assert not found.holds
    with pytest.raises(UserError, match="older copy"):
        ledger.add(["d"], id="fourth")
    assert ledger_in(tmp_path).add(["b"], id="second").state == "open"


def test_a_changed_anchor_is_refused(tmp_path):
    ledger = ledger_in(tmp_path, tmp_path / "anchor")
    ledger.add(["a"], id="first")
    text = (tmp_path / "anchor").read_text("utf-8")
    (tmp_path / "anchor").write_text(text.replace("open", "met"), encoding="utf-8")
    with pytest.raises(UserError, match="was changed"):
        ledger.verify(measure=False)
