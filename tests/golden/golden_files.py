"""What is kept of a golden run, and how a new run is compared with it.

With the same fingerprint of machine and libraries everything has to be the same, to the byte. With
another one, digests of what was computed are skipped, numbers may differ by `TOLERANCE`, and text
may differ in the numbers that it shows; and of a run whose counts or statuses came out otherwise,
as a near tie can (`course` tells what these are), only the names of its files are compared.

On the machine of the first kept files, with kernels for AVX2 or SSE in place of AVX512, no tiny run
took another course; with those for SSE all numbers were within 2e-4. Both demos, of thousands of
steps, took another course with those for AVX2.
"""

import difflib
import gzip
import hashlib
import importlib.metadata
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from golden_runs import RUNS, Ended, Run, carry_out, in_folder, unlearner

FOLDER = Path(__file__).parent / "kept"
PAGES = FOLDER / "pages"
FINGERPRINT = FOLDER / "fingerprint.json"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "jinja2",
    "optuna",
    "pyyaml",
    "rich",
)
# Settings of the environment that choose among kernels.
CHOOSING = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")

# Of numbers on another machine, beside the last place that a text shows.
TOLERANCE = 1e-2
# Shares of counted things: on another machine one of them can flip.
COUNTED = frozenset(
    (
        "ma",
        "el_3",
        "el_10",
        "es",
        "bleu",
        "rouge_l",
        "degenerate",
        "accuracy",
        "f1_micro",
        "f1_macro",
        "f1_entity",
        "mia_loss_auc",
        "mia_entropy_auc",
        "mia_modified_entropy_auc",
    )
)

MOMENT = "2000-01-01T00:00:00+00:00"
# Of bytes that were computed; those of records are keyed, and the same everywhere.
DIGEST = re.compile(r"(?<!hmac-)sha256:[0-9a-f]{64}")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")
# What `check` says of memory, which is measured and never twice the same.
MEMORY = re.compile(
    r"┏[^\n]*\n┃ memory of a run.*?\n└[^\n]*\n|(?<=and )(up to|more than) [^\n]* of memory[^\n]*",
    re.DOTALL,
)
DURATION = re.compile(r"\b\d[\d.]* (s|min|h|seconds)\b")
OF_LIBRARIES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def fingerprint() -> dict[str, Any]:
    """All that decides which bytes a run gives, beside the program."""
    processor = {}
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if _is_linux() else ():
        name, _, value = line.partition(":")
        processor.setdefault(name.strip(), value.strip())
    return {
        "processor": {
            name: processor.get(name) for name in ("vendor_id", "cpu family", "model", "model name")
        },
        "capability": torch.backends.cpu.get_cpu_capability(),
        "chosen": {name: os.environ[name] for name in CHOOSING if name in os.environ},
        "threads": 1,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _is_linux() -> bool:
    return Path("/proc/cpuinfo").is_file()


def kept_file(name: str) -> Path:
    """Where a run is kept."""
    return FOLDER / f"{name}.json"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, value: Any) -> None:
    """Sorted keys and one value a line, so that a change is seen in a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _without_measures(printed: str) -> str:
    return DURATION.sub("# s", MEMORY.sub("(memory)\n", printed))


def make(name: str, folder: Path, world: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Carry out a golden run; what is kept of it, and the pages by their digest."""
    run = RUNS[name]
    with in_folder(folder, world):
        before = {path.name for path in folder.iterdir()}
        ended = carry_out(run)
        printed = [_lines(_without_measures(one.printed)) for one in ended]
        for number, shown in _without_clock(run, folder).items():
            printed[number] = _lines(shown.printed)
        made = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    pages = [file.read_bytes() for path, file in made.items() if path.suffix == ".html"]
    files = {
        str(path): _content(file, brief=run.brief)
        for path, file in sorted(made.items())
        if path.parts[0] not in before
    }
    kept = {
        "commands": list(run.lines),
        "statuses": [one.status for one in ended],
        "printed": printed,
        "files": files,
    }
    return kept, {_digest(page): page.decode() for page in pages}


def _without_clock(run: Run, folder: Path) -> dict[int, Ended]:
    """Stop the clock in all reports, and make what is shown of them again.

    Pages that are not made again are removed: they tell the time. Comparisons are gathered again;
    returns what that gave, by the command's number.
    """
    for path in folder.rglob("report.json"):
        write(path, stopped(read(path)))
    for path in [*folder.rglob("report.html"), *folder.rglob("report.md")]:
        path.unlink()
    for page in run.pages:
        if (folder / page / "report.json").exists():
            unlearner(f"report {page}")
    compared = {n: line for n, line in enumerate(run.lines) if line.startswith("compare")}
    return {number: unlearner(f"{line} --resume") for number, line in compared.items()}


def stopped(value: Any, key: str = "") -> Any:
    """The value of a report with a clock that stands still, on a machine without properties."""
    if isinstance(value, dict):
        inside = key in ("versions", "hardware")
        return {name: stopped(one, key if inside else name) for name, one in value.items()}
    if isinstance(value, list):
        return [stopped(one, key) for one in value]
    if key == "created":
        return MOMENT
    if key in ("versions", "hardware"):
        return 1 if isinstance(value, int) else key
    if key.startswith("seconds") and isinstance(value, (int, float)):
        return 1.0
    return 2**20 if key == "peak_memory_bytes" else value


def _content(path: Path, *, brief: bool) -> Any:
    """What is kept of a file: its values, its lines, or its digest."""
    if path.suffix == ".json" and path.name not in OF_LIBRARIES:
        value = stopped(read(path))
        return _figures(value) if brief and isinstance(value, dict) else value
    if path.suffix == ".jsonl":
        lines = [stopped(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
        return _digest(json.dumps(lines, sort_keys=True).encode())
    if path.suffix in (".md", ".yaml", ".csv", ".txt"):
        text = path.read_text("utf-8")
        return _lines(DURATION.sub("# s", text) if path.name == "README.md" else text)
    return _digest(path.read_bytes())


def _figures(value: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value[name] for name in ("results", "rounds", "verdict") if name in value}
    return shown | {"digest": _digest(json.dumps(value, sort_keys=True).encode())}


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def course(value: Any, key: str = "") -> Any:
    """What of a run's values can only flip: statuses, shares of counted things, whole numbers."""
    if isinstance(value, dict):
        if key in COUNTED and "value" in value:
            return course(value["value"], key)
        kept = {name: course(one, name) for name, one in value.items()}
        return {name: one for name, one in kept.items() if one is not None}
    if isinstance(value, list) and not all(isinstance(one, str) for one in value):
        return [course(one, key) for one in value]
    if isinstance(value, float):
        return round(value, 6) if key in COUNTED else None
    return value if isinstance(value, int) or key == "status" else None


def differences(old: Any, new: Any, *, exactly: bool, place: str = "") -> Iterator[str]:
    """Lines that tell where two kept values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            inner = f"{place} / {name}" if place else name
            if name not in new or name not in old:
                yield f"{inner}: {'only before' if name in old else 'only now'}"
            else:
                yield from differences(old[name], new[name], exactly=exactly, place=inner)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_differences(old, new, exactly=exactly, place=place)
    elif not _same(old, new, exactly=exactly):
        yield f"{place}: {old!r} -> {new!r}"


def _list_differences(
    old: Sequence[Any], new: Sequence[Any], *, exactly: bool, place: str
) -> Iterator[str]:
    if len(old) != len(new):
        yield f"{place}: {len(old)} -> {len(new)} entries"
        if all(isinstance(one, str) for one in [*old, *new]):
            yield from (f"{place}: {line}" for line in difflib.ndiff(old, new) if line[0] in "+-")
        return
    for number, (one, other) in enumerate(zip(old, new, strict=True)):
        yield from differences(one, other, exactly=exactly, place=f"{place}[{number}]")


def _same(old: Any, new: Any, *, exactly: bool) -> bool:
    if exactly or type(old) is not type(new):
        return old == new and type(old) is type(new)
    if isinstance(old, float):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 100)
    if isinstance(old, str):
        return _same_text(DIGEST.sub("digest", old), DIGEST.sub("digest", new))
    return old == new


def _same_text(old: str, new: str) -> bool:
    """Equal but for the last place of the numbers in it, and the tolerance of these."""
    if NUMBER.split(old) != NUMBER.split(new):
        return False
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    return all(
        math.isclose(float(one), float(other), rel_tol=TOLERANCE, abs_tol=1.01 * _last_place(one))
        for one, other in pairs
    )


def _last_place(number: str) -> float:
    """What one in the last place of a written number stands for."""
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def page_file(digest: str) -> Path:
    return PAGES / f"{digest.removeprefix('sha256:')[:16]}.html.gz"


def write_page(digest: str, text: str) -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    page_file(digest).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read_page(digest: str) -> str:
    return gzip.decompress(page_file(digest).read_bytes()).decode()


def page_digests(kept: Mapping[str, Any]) -> dict[str, str]:
    """The digests of a run's pages, by file."""
    return {path: some for path, some in kept["files"].items() if path.endswith(".html")}
