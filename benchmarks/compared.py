"""Write the table of `docs/choosing.md` from the committed comparison of all methods.

    python benchmarks/compared.py

Every figure comes from `results/tofu_forget01_compare.json`, which `make bench-compare` makes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMPARISON = HERE / "results" / "tofu_forget01_compare.json"
PAGE = HERE.parent / "docs" / "choosing.md"
# Between these, the page has the table.
BEGIN, END = "<!-- compared: made by benchmarks/compared.py -->", "<!-- end of compared -->"
HEADING = (
    "model",
    "settings found",
    "met",
    "MA",
    "EL_10",
    "ES",
    "AUC by loss",
    "kept perplexity, times the target's",
    "unseen perplexity, times",
    "drift (KL), kept",
    "mark classifier",
    "MA relearnt",
    "AUC relearnt",
    "seconds",
    "search",
)
FIGURES = ("ma", "el_10", "es", "mia_loss_auc")
RATIOS = ("retain", "holdout")
# A perplexity beyond it is a ruin, whatever its size.
RUIN = 1000.0


def main() -> None:
    comparison = json.loads(COMPARISON.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, comparison), encoding="utf-8")
    print(PAGE)


def with_table(page: str, comparison: Mapping[str, Any]) -> str:
    """The text of a page with the table between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(comparison)}\n{END}{after}"


def table(comparison: Mapping[str, Any]) -> str:
    """A line for the target, the retrained model, and each method, in the order of `_order`."""
    lines = [HEADING, ["---"] * len(HEADING), *rows(comparison)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def rows(comparison: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of each line: means over the seeds."""
    target = comparison["results"]["target"]
    for name, figures in comparison["results"].items():
        again = _relearnt(comparison.get(f"relearnt_{name}"))
        mark = _number(comparison.get("marks", {}).get(name))
        yield [name, "", "", *_figures(figures, target), mark, *again, "", ""]
    seeds = len(comparison["seeds"])
    entries = sorted(comparison["methods"].values(), key=lambda entry: _order(entry, target))
    for entry in entries:
        name = f"`{entry['name']}`" + (" *" if entry["on_front"] else "")
        cost = f"{entry['cost']['seconds_unlearning']:.0f}"
        yield [
            name,
            _settings(entry),
            f"{entry['met']} of {seeds}",
            *_figures(entry["summary"], target, entry.get("ratios", {})),
            _number(entry.get("mark")),
            *_relearnt(entry.get("relearnt")),
            cost,
            _search(entry),
        ]


def _order(entry: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[int, bool, float]:
    """Those met most often first, then those on the front, then by damage."""
    kept = entry["summary"]["retain"].get("perplexity")
    damage = RUIN if kept is None else kept["value"] / target["retain"]["perplexity"]["value"]
    return -entry["met"], not entry["on_front"], damage


def _settings(entry: Mapping[str, Any]) -> str:
    search = entry["search"]
    if search is None:
        return "as given"
    found = search["trials"][search["chosen"]]["settings"]
    return ", ".join(f"{name} {value:.2g}" for name, value in found.items())


def _search(entry: Mapping[str, Any]) -> str:
    """How many trials reached the criteria, and their time."""
    if entry["search"] is None:
        return ""
    trials = entry["search"]["trials"]
    reached = sum(trial["status"] == "reached" for trial in trials)
    return f"{reached} of {len(trials)} reached, {sum(some['seconds'] for some in trials):.0f} s"


def _figures(
    figures: Mapping[str, Any], target: Mapping[str, Any], ratios: Mapping[str, float] | None = None
) -> Iterator[str]:
    for name in FIGURES:
        yield _number(figures["forget"].get(name))
    for role in RATIOS:
        if ratios and role in ratios:
            yield _number({"value": ratios[role]})
            continue
        before = target.get(role, {}).get("perplexity", {}).get("value", 1.0)
        yield _number(figures.get(role, {}).get("perplexity"), before)
    yield _number(figures.get("retain", {}).get("kl_to_target"))


def _relearnt(found: Mapping[str, Any] | None) -> Iterator[str]:
    for name in ("ma", "mia_loss_auc"):
        yield f"{found['figures'][name]:.3f}" if found else "-"


def _number(found: Mapping[str, Any] | None, divisor: float = 1.0) -> str:
    if found is None:
        return "-"
    value = found["value"] / divisor
    return f"over {RUIN:.0f}" if value >= RUIN else f"{value:.3f}"


if __name__ == "__main__":
    main()
