"""Write the table of `docs/choosing.md` from the committed comparisons of all methods.

    python benchmarks/compared.py

Every figure comes from `results/tofu_forget01_compare.json`, which `make bench-compare` makes, or
from `tofu_forget01_compare_later.json`, where it is there: some of the methods once more, beside a
target and a retrained model that were made anew by the same recipe.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMPARISON = HERE / "results" / "tofu_forget01_compare.json"
LATER = COMPARISON.with_stem(COMPARISON.stem + "_later")
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
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, comparisons()), encoding="utf-8")
    print(PAGE)


def comparisons() -> list[dict[str, Any]]:
    """What the files hold."""
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (COMPARISON, LATER)
        if path.exists()
    ]


def with_table(page: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The text of a page with the table between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(found)}\n{END}{after}"


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A line for the target, the retrained model, and each method, in the order of `_order`."""
    lines = [HEADING, ["---"] * len(HEADING), *rows(*found)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def rows(comparison: Mapping[str, Any], *later: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of each line: means over the seeds.

    Args:
        later: Their lines are marked, and stand in place of those of the same method.
    """
    methods = []
    for number, one in enumerate((comparison, *later)):
        mark, target = " †" * bool(number), one["results"]["target"]
        for name, figures in one["results"].items():
            again = _relearnt(one.get(f"relearnt_{name}"))
            classified = _number(one.get("marks", {}).get(name))
            figures = _figures(figures, target)
            yield [name + mark, "", "", *figures, classified, *again, "", ""]
        newer = {name for some in later[number:] for name in some["methods"]}
        for entry in one["methods"].values():
            if entry["name"] not in newer:
                methods.append((entry, target, mark, len(one["seeds"])))
    for entry, target, mark, seeds in sorted(methods, key=lambda some: _order(*some[:2])):
        # The front is that of the methods that were run together.
        front = " *" if entry["on_front"] and not later else ""
        name = f"`{entry['name']}`{front}{mark}"
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
