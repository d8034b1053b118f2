"""The results as Markdown, from the same dictionary that is saved as JSON."""

from collections.abc import Sequence
from typing import Any

MEMORISED_GOAL, OTHER_GOAL, BYTES_GOAL, STEP_GOAL = 100, 20, 50, 1.15


def render(results: dict[str, Any]) -> str:
    """The whole page."""
    parts = [_head(results)]
    if results["asking"]:
        parts.append(_asking(results["asking"], results["clock"]))
    parts += [f"Left out: {reason}\n" for reason in results["left_out"]]
    if results["bytes"]:
        parts.append(_bytes(results["bytes"]))
    if results["steps"]:
        parts.append(_steps(results["steps"], results["clock"]))
    return "\n".join(parts)


def _head(results: dict[str, Any]) -> str:
    hardware, versions = results["hardware"], results["versions"]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    load = " and ".join(f"{value:.1f}" for value in results["load"])
    return f"""# Speed

Written by `{results["command"]}`; do not edit. All figures are of one run, taken in turns.

- Machine: {hardware["device"]}, {hardware["processors"]} processors, threads used:
  {hardware["threads"]}. Load of the machine at the start and at the end: {load}.
- Versions: {used}
- Seconds are {_clock_words(results["clock"])}. Ratios are given for both clocks.
- Took {results["seconds"] / 60:.1f} minutes.
"""


def _clock_words(clock: str) -> str:
    if clock == "process":
        return "processor time of the process, since other work shares the machine"
    return "wall time, the device's work included"


def _asking(rows: Sequence[dict[str, Any]], clock: str) -> str:
    table = _table(
        [
            "model",
            "set",
            "prompts from",
            "MA",
            "EL_10",
            "decoded per record",
            "definition, s",
            "ours, s",
            "times faster",
            "by wall time",
            "goal",
            "",
        ],
        [_asking_line(row, clock) for row in rows],
    )
    notes = [
        "The definition is one greedy `generate` for each prompt length and the whole batch of "
        f"{rows[0]['records']} records of 200 tokens: 199 of one token for MA, and for EL_10 one "
        "to the end of the text for each prompt of s..190 tokens (s = 1: all of them; s = 150: the "
        "range of ICU's published code). Ours is `unlearner.inference.language_model.infer` with "
        "both metrics. "
        '"Decoded" are the prompts behind which the model leaves the text. Where no figure is '
        "marked, MA and EL_10 of every record were found equal, bit for bit.",
    ]
    if any(row["extrapolated"] for row in rows):
        notes.append(
            "(e) Extrapolated: only some prompt lengths of the definition were run, drawn by seed "
            "from equal parts of the range. The time of reading prompts is scaled by their tokens, "
            "and the time of every further token by the number of forward passes (T - 1 - t behind "
            "a prompt of t tokens). What those prompts were continued with was found equal to the "
            "token; the values of MA and EL_10 are ours."
        )
    if any(row["ours_records"] < row["records"] for row in rows):
        notes.append(
            "(p) Ours was run on a part of the records and its time multiplied up to all of them."
        )
    return "## MA and EL_10 against their definition\n\n" + table + "\n" + "\n\n".join(notes) + "\n"


def _asking_line(row: dict[str, Any], clock: str) -> list[str]:
    goal = MEMORISED_GOAL if row["kind"] == "memorised" else OTHER_GOAL
    ratio = row["ratio"][clock]
    lengths = f" (e: {row['asked_lengths']} of {row['all_lengths']} lengths)"
    records = f" (p: {row['ours_records']} of {row['records']} records)"
    return [
        row["name"],
        row["kind"],
        str(row["start"]),
        f"{row['ma']:.3f}",
        f"{row['el_10']:.3f}",
        f"{row['decoded']:.0f}",
        _seconds(row["definition"][clock]) + (lengths if row["extrapolated"] else ""),
        _seconds(row["ours"][clock]) + (records if row["ours_records"] < row["records"] else ""),
        _ratio(ratio),
        _ratio(row["ratio"]["wall"]),
        f"at least {goal}",
        _reached(ratio >= goal),
    ]


def _bytes(found: dict[str, Any]) -> str:
    ratio = found["table"] / found["kept"]
    both = found["table"] / (found["kept"] + found["head"])
    rows = [
        ["softmax table, N T V 4", _size(found["table"]), "", "", ""],
        [
            "hidden states kept",
            _size(found["kept"]),
            _ratio(ratio),
            f"at least {BYTES_GOAL}",
            _reached(ratio >= BYTES_GOAL),
        ],
        [
            "hidden states and the frozen head, which does not grow with the records",
            _size(found["kept"] + found["head"]),
            _ratio(both),
            "",
            "",
        ],
    ]
    return (
        "## The target's distribution on the analogous set\n\n"
        + _table(["what", "bytes", "times fewer", "goal", ""], rows)
        + f"\n{found['name']}, {found['records']} records of {found['tokens']} tokens. The states "
        f"were computed for {found['measured_records']} records and their bytes multiplied: every "
        "record of a length has as many.\n"
    )


def _steps(rows: Sequence[dict[str, Any]], clock: str) -> str:
    table = _table(
        [
            "model",
            "windows",
            "ICU step, s",
            "plain, s",
            "ratio",
            "by wall time",
            "goal",
            "",
            "Adam's update, s",
        ],
        [
            [
                row["name"],
                f"{row['windows']} + {row['windows']}",
                _seconds(row["icu"][clock]),
                _seconds(row["plain"][clock]),
                f"{row['ratio'][clock]:.2f}",
                f"{row['ratio']['wall']:.2f}",
                f"at most {STEP_GOAL}",
                _reached(row["ratio"][clock] <= STEP_GOAL),
                _seconds(row["update"][clock]),
            ]
            for row in rows
        ],
    )
    return (
        "## One step\n\n"
        + table
        + "\nICU: collate the forget windows and as many analogous ones, all three terms, backward "
        "and Adam's update (`Trainer.step`). Plain: `model(input_ids, labels=input_ids)."
        "loss.backward()` on the same windows as one batch, without an update. The memory figures "
        "in the `.json` are not shown: pages that the C library keeps make them depend on order.\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _size(value: int | None) -> str:
    if value is None:
        return "not measured"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def _reached(reached: bool) -> str:
    return "reached" if reached else "**not reached**"
