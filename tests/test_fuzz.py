"""Whatever is wrong with records, settings and model folders, a command ends with one line.

The status is 0, 2 or 3, never 1; nothing hangs or takes memory without end, and no three words of a
record in a row come out. Mutations are drawn from a seed: UNLEARNER_FUZZ=2000 tries so many, and
UNLEARNER_FUZZ_SEED others.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import traceback
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

import classifier_commands
import command_world
from classifier_commands import lines, rows
from classifier_world import SEQUENCE, TOKEN
from command_world import FORGET, HOLDOUT, RETAIN, json_lines, texts
from unlearner.cli import app
from unlearner.config import RunConfig
from unlearner.settings import SECTIONS

SEED = os.environ.get("UNLEARNER_FUZZ_SEED", "0")
NUMBER = int(os.environ.get("UNLEARNER_FUZZ", "160"))
BATCHES = 8

SECONDS = 60  # of one case; the machine may be busy
MEMORY = 6 * 2**30  # bytes beside those held before

ENDINGS = (app.MET, app.WRONG_INPUT, app.NOT_MET)

QUICK = ["evaluation.resamples=2", "evaluation.prompt_start=0.9"]


class HangsError(BaseException):
    """Past every `except Exception`."""


# Mutations

NUMBERS = [0, -1, 1, 2, 5, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, 10**30, 1e-320]
NUMBERS += [float("nan"), float("inf"), 10**4000]
WORDS = ["", " ", "\0", "\n", "\u202e", "\ufeff", "\ud83d\ude00", "e\u0301", "\x1b[31m", "a" * 5000]
WORDS += [
    "null",
    "true",
    "nan",
    "../..",
    "/dev/zero",
    "hf:",
    "${HOME}",
    "{prompt}",
    "%s",
    "*",
    "[]",
]
ODD = [None, True, False, [], {}, [[]], [None], {"": None}, *NUMBERS, *WORDS]


def odd_value(rng):
    value = rng.choice(ODD)
    for _ in range(rng.choice([0, 0, 0, 1, 3, 60])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def places(value, found=()):
    """Every container of a JSON value with the keys in it."""
    found = list(found)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, dict | list) and inner:
            found = places(inner, found)
    return found


def mutated_json(rng, value):
    """The value with one to three of its parts lost, doubled, or of another type."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        some = places(value)
        if not some:
            break
        container, key = rng.choice(some)
        action = rng.randrange(4)
        if action == 0:
            del container[key]
        elif action == 1:
            container[key] = odd_value(rng)
        elif action == 2 and isinstance(container, dict):
            container[rng.choice(WORDS)] = container.pop(key)
        elif isinstance(container[key], bool | str | list | dict) or container[key] is None:
            container[key] = [container[key]] * rng.randint(0, 3)
        else:
            container[key] = container[key] * rng.choice([-1, 0, 2, 1000, 10**9])
    return value


def flipped(rng, content, place):
    for _ in range(rng.randint(1, 20) if content else 0):
        place = rng.randrange(len(content))
        content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    return content


def put_in(rng, content, place):
    odd = [b"\0", b"[" * 9999, b"\xff\xfe", b'"', b"\r", b"9" * 5000, b"\xc3", b"\xed\xa0\x80"]
    return content[:place] + rng.choice([*odd, rng.randbytes(rng.randint(1, 9))]) + content[place:]


def encoded(rng, content, _):
    encoding = rng.choice(["utf-16", "utf-32", "cp500"])
    return content.decode("utf-8", "replace").encode(encoding, "replace")


BYTES = [
    flipped,
    put_in,
    put_in,
    encoded,
    lambda _, content, place: content[:place],
    lambda rng, content, place: content[:place] + content[place + rng.randint(1, 40) :],
    lambda rng, content, _: content * rng.choice([0, 2, 30]),
    lambda _, content, place: b"\xef\xbb\xbf" + content[place:],
]


def mutated_bytes(rng, content):
    """The bytes with some flipped, cut off, put in, or in another encoding."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(BYTES)(rng, content, rng.randrange(len(content) + 1))
    return content


def no_file(rng, path):
    """Something in the place of a file that is none."""
    path.unlink()
    ways = {
        "zeros": lambda: path.symlink_to("/dev/zero"),
        "link to nothing": lambda: path.symlink_to("nothing"),
        "circle": lambda: path.symlink_to(path.name),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "empty": path.touch,
        "missing": lambda: None,
    }
    ways[rng.choice(sorted(ways))]()


# Records

SETS = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}


def table(rows, suffix):
    """Rows as the bytes of a file."""
    if suffix == ".json":
        return json.dumps(rows).encode()
    if suffix in (".csv", ".tsv"):
        cut = "," if suffix == ".csv" else "\t"
        names = list(rows[0])
        quoted = [
            ['"' + str(one.get(name, "")).replace('"', '""') + '"' for name in names]
            for one in rows
        ]
        return "\n".join(cut.join(line) for line in [names, *quoted]).encode()
    if suffix == ".txt":
        return "\n".join(str(one.get("text", one)) for one in rows).encode()
    if suffix == ".parquet":
        file = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), file)
        return file.getvalue()
    if suffix == ".npy":
        return command_world.npy(np.array([[3, 4, 5, 6 + i] for i, _ in enumerate(rows)]))
    if suffix == ".conll":
        some = [
            "\n".join(f"{t} {g}" for t, g in zip(r["tokens"], r["tags"], strict=True)) for r in rows
        ]
        return "\n\n".join(some).encode()
    return json_lines(*rows).encode()


def records_case(rng, folder, models, classifiers):
    """One of the record files of a command is wrong."""
    family = rng.choice(["text", "prompt", SEQUENCE, TOKEN])
    labelled = family in (SEQUENCE, TOKEN)
    suffixes = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".npy", ".conll"]
    suffix = rng.choice(suffixes)
    role = rng.choice(["forget", "retain", "holdout"])
    files = {}
    for name, some in SETS.items():
        if labelled:
            given = rows(family, name)
        elif family == "prompt":
            given = [{"prompt": t[: len(t) // 2], "response": t[len(t) // 2 :]} for t in some]
        else:
            given = [{"id": f"r{i}", "text": t} for i, t in enumerate(some)]
        path = folder / f"{name}.jsonl"
        content = table(given, ".jsonl")
        if name == role:
            path = folder / f"{name}{suffix}"
            try:
                if rng.random() < 0.6 and suffix not in (".npy", ".conll"):
                    given = mutated_json(rng, given)
                content = table(given, suffix)
            except (
                KeyError,
                TypeError,
                AttributeError,
                IndexError,
                ValueError,
                pa.ArrowException,
                OverflowError,
            ):
                content = json.dumps(given).encode()
            if rng.random() < 0.6:
                content = mutated_bytes(rng, content)
        path.write_bytes(content)
        files[name] = path
        if name == role and rng.random() < 0.05:
            no_file(rng, path)
    model = (
        classifiers / ("texts" if family == SEQUENCE else "tags") if labelled else models / "good"
    )
    sets = [f"--{name}={path}" for name, path in files.items()]
    command = rng.choice(["check", "check", "check", "evaluate", "finetune", "forget"])
    return a_command(rng, command, model, sets, files[role], folder)


def a_command(rng, command, model, sets, records, folder):
    output = ["--output", str(folder / "out"), "--quiet"]
    if command == "check":
        return ["check", str(model), *sets, *QUICK]
    if command == "evaluate":
        return ["evaluate", str(model), *sets, *output, *QUICK]
    if command == "finetune":
        return ["finetune", str(model), "--records", str(records), *output, "epochs=1"]
    short = ["method.max_epochs=1", "method.learning_rate=1e-3", *QUICK]
    return ["forget", str(model), *sets, *output, *rng.choice([[], ["--force"]]), *short]


def right_files(folder, family="text"):
    """The record files of a command, all right."""
    found = {}
    for name, some in SETS.items():
        path = folder / f"{name}.jsonl"
        path.write_text(texts(some) if family == "text" else lines(family, name))
        found[name] = path
    return found


# Settings

SETTINGS = [
    f"{section}.{key}"
    for section, kind in SECTIONS.items()
    for key in kind.model_fields
    if (section, key) not in (("training", "trackers"), ("search", "trials"), ("search", "seconds"))
]
METHOD = [f"method.{key}" for key in RunConfig.from_sections({}).sections()["method"]]
SLOW = {"method.max_epochs": 1, "evaluation.resamples": 20, "method.num_beams": 2}


def setting(rng, command):
    name = rng.choice(SETTINGS + METHOD * 2)
    if command == "finetune":
        name = rng.choice(["epochs", "batch_size", "learning_rate", "weight_decay", "seed", name])
    if rng.random() < 0.15:
        name = mutated_bytes(rng, name.encode()).decode("utf-8", "replace").replace("\0", "")[:3000]
    value = rng.choice([odd_value(rng), rng.choice(NUMBERS)])
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and name in SLOW
        and value > 0
    ):
        value = min(value, SLOW[name]) if value < 10**5 else value
    return name, value


def settings_case(rng, folder, models, classifiers):
    """Settings of the command line or of a run file are wrong."""
    labelled = rng.random() < 0.25
    files = right_files(folder, SEQUENCE if labelled else "text")
    model = classifiers / "texts" if labelled else models / "good"
    command = rng.choice(["check", "check", "evaluate", "forget", "finetune"])
    sets = [f"--{name}={path}" for name, path in files.items()]
    arguments = a_command(rng, command, model, sets, files["forget"], folder)
    given = [setting(rng, command) for _ in range(rng.choice([1, 1, 2, 4]))]
    if command != "finetune" and rng.random() < 0.4:
        sections = {}
        for name, value in given:
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        if rng.random() < 0.3:
            sections = mutated_json(rng, sections)
        text = yaml.safe_dump(sections, allow_unicode=True).encode("utf-8", "replace")
        path = folder / "run.yaml"
        path.write_bytes(mutated_bytes(rng, text) if rng.random() < 0.4 else text)
        return [*arguments, "--config", str(path)]
    some = [f"{name}={text_of(value)}" for name, value in given]
    return [*arguments, *some]


def text_of(value):
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except ValueError:
        text = "9" * 5000
    return text.replace("\0", "")  # which no argument can hold


# Model folders


def models_case(rng, folder, models, classifiers):
    """A file of the model's folder is wrong."""
    labelled = rng.random() < 0.4
    files = right_files(folder, SEQUENCE if labelled else "text")
    source = classifiers / "texts" if labelled else models / "good"
    model = Path(shutil.copytree(source, folder / "model"))
    names = sorted(path.name for path in model.iterdir())
    name = rng.choice([*names, "config.json", "config.json", "config.json", "tokenizer.json"])
    path = model / name
    action = rng.random()
    if action < 0.1:
        no_file(rng, path)
    elif action < 0.75 and name.endswith(".json"):
        changed = mutated_json(rng, json.loads(path.read_text()))
        path.write_text(json.dumps(changed), "utf-8")
    elif name.endswith(".safetensors") and action < 0.6:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = mutated_json(rng, json.loads(content[8 : 8 + length]))
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    else:
        path.write_bytes(mutated_bytes(rng, path.read_bytes()))
    command = rng.choice(["check", "check", "check", "forget", "evaluate", "finetune", "target"])
    sets = [f"--{role}={file}" for role, file in files.items()]
    if command == "target":
        given = a_command(rng, "evaluate", source, sets, files["forget"], folder)
        return [*given, rng.choice(["--target", "--retrained"]), str(model)]
    return a_command(rng, command, model, sets, files["forget"], folder)


# Reports and the rest


def other_case(rng, folder, _models, _classifiers):
    """The report of a run is wrong, or a name on the command line."""
    run_dir = folder / "run"
    run_dir.mkdir()
    if rng.random() < 0.2:
        words = [rng.choice([*app.LISTED, *WORDS, "icu"]).replace("\0", "")]
        return ["list", *words * rng.choice([1, 1, 2])]
    report = json.loads(KEPT.read_text())
    path = run_dir / "report.json"
    if rng.random() < 0.7:
        path.write_text(json.dumps(mutated_json(rng, report)), "utf-8")
    else:
        path.write_bytes(mutated_bytes(rng, json.dumps(report).encode()))
    return ["report", str(run_dir)]


KEPT = Path(__file__).parent / "golden" / "kept" / "icu.json"

KINDS = [records_case] * 8 + [settings_case] * 5 + [models_case] * 6 + [other_case] * 1


def trigrams(some):
    for text in some:
        words = text.split()
        yield from (" ".join(words[i : i + 3]) for i in range(len(words) - 2))


MARKED = {
    *trigrams(text for some in SETS.values() for text in some),
    *trigrams(
        record.text or " ".join(record.tokens)
        for sets in classifier_commands.SETS.values()
        for name in SETS
        for record in sets[name].records
    ),
}


def wrong_with(status, out, err):
    """What is wrong with how a command ended; empty where nothing is."""
    shown = f"{out}\n{err}"
    if status not in ENDINGS:
        return f"status {status}"
    if "Traceback" in shown:
        return "a traceback"
    if status == app.WRONG_INPUT and (err.count("\n") != 1 or not err.startswith("unlearner: ")):
        return f"{err.count(chr(10))} lines on standard error"
    if len(err) > 5000:
        return "a message without end"
    leaked = next((words for words in MARKED if words in " ".join(shown.split())), None)
    return f"words of a record: {leaked}" if leaked else ""


def run_bounded(arguments):
    """The status of a command line; `HangsError` where it does not end."""

    def stop(*_):
        raise HangsError

    before = signal.signal(signal.SIGALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    most = psutil.Process().memory_info().data + MEMORY
    signal.alarm(SECONDS)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (most, limits[1]))
        return app.run(arguments)
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGALRM, before)


def tried(number, folder, models, classifiers, capsys):
    """One mutation: what is wrong with how it ended, if anything."""
    rng = random.Random(f"{SEED}-{number}")
    folder.mkdir()
    arguments = rng.choice(KINDS)(rng, folder, models, classifiers)
    try:
        status = run_bounded(arguments)
        why = ""
    except HangsError:
        status, why = None, "hangs: " + traceback.format_exc()[-1500:]
    except BaseException as error:  # noqa: BLE001 - whatever comes out is to be shown
        status, why = None, f"{type(error).__name__} came out"
    streams = capsys.readouterr()
    why = why or wrong_with(status, streams.out, streams.err)
    shutil.rmtree(folder, ignore_errors=True)
    short = " ".join(one[:200] for one in arguments)
    return f"{SEED}-{number}: {why}\n  {short!a}\n  {streams.err[-600:]!a}" if why else ""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_whatever_is_wrong_a_command_ends_with_one_line(
    batch, tmp_path, model_folders, classifier_folders, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = [
        tried(number, tmp_path / str(number), model_folders, classifier_folders, capsys)
        for number in range(batch, NUMBER, BATCHES)
    ]
    found = [one for one in found if one]
    assert not found, "\n".join(found)
