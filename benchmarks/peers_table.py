"""The page of `peers.py`, from the same dictionary that is saved as JSON."""

from typing import Any

COLUMNS = (
    *("model", "records", "what", "peer", "peer, s", "ours, s", "times faster", "by wall time"),
    *("peer, peak MiB", "ours, peak MiB", "notes"),
)


def render(results: dict[str, Any]) -> str:
    """The whole page."""
    hardware, batch = results["hardware"], results["batch"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    load = " and ".join(f"{value:.1f}" for value in results["load"])
    rows = [_row(line, results["clock"]) for line in results["lines"]]
    table = "".join(
        "| " + " | ".join(row) + " |\n" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)
    )
    return f"""# Beside peers

Written by `python benchmarks/peers.py`; do not edit. Both ways of a line run in one process, epochs
in turns. Seconds are {results["clock"]}, medians of {results["repeats"]}; the definitions and the
whole job are run once. Load of the machine at the start and at the end: {load}. Other work shared
it, so that wall time says less.

- Device: {hardware["device"]}, {hardware["processors"]} processors, threads used:
  {hardware["threads"]}.
- Versions: {versions}

{table}
Records are of {results["tokens"]} tokens. An epoch is batches of {batch}. ICU's are of so many
records and their pairs, by the preset "paper" against the published loop, which runs the target
again in every step and has whole tables of probabilities. NPO's are of so many records and kept
windows, against a step that keeps a second model and whole tables, as trainers of preferences do.
An evaluation is MA and EL_10, prompts from {results["start"]} on; all continuations that the peer
was asked for were found the same, to the token. Peak is what a run held beyond what was held before
it; of the definitions, one call behind {results["start"]} tokens.
{_job(results)}"""


def _row(line: dict[str, Any], clock: str) -> list[str]:
    key = "process" if clock == "processor time" else "wall"
    return [
        *(line["model"], str(line["records"]), line["what"], line["peer"]),
        *(f"{line[name][key]:.3g}" for name in ("peer_cost", "own_cost")),
        *(f"{line['ratio'][name]:.3g}" for name in (key, "wall")),
        *(_mib(line[name]) for name in ("peer_bytes", "own_bytes")),
        line["note"],
    ]


def _mib(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:.0f}"


def _job(results: dict[str, Any]) -> str:
    job, limits = results["job"], results["limits"]
    if job is None:
        return ""
    ends = "; ".join(
        f"{name} {some['epochs']} epochs, MA {some['ma']:.3f}, EL_10 {some['el_10']:.4f}"
        for name, some in (("the published loop", job["peer"]), ("ours", job["own"]))
    )
    return f"""
The whole job: an evaluation, an examination of every record by its text (beams of two, BLEU), and
an epoch, in turns, from the same model with the same rate {results["rate"]:g}, until MA is below
{limits["ma"]} and EL_10 below {limits["el_10"]}. At the end: {ends}.
"""
