"""Write the table of ICU in `docs/measured.md` from finished rows.

    python benchmarks/icu_table.py --work FOLDER

FOLDER is that of `rows.py`. Every figure comes from the rows' own reports.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "measured.md"
RESULTS = Path(__file__).parent / "results" / "icu.json"
# Between these, the page has the table.
BEGIN, END = "<!-- icu: made by benchmarks/icu_table.py -->", "<!-- end of icu -->"
ROWS = {"TOFU": "tofu_forget01_icu", "LUME": "lume_icu"}
LINES = (
    ("MA of forgotten records", "ma", "forget"),
    ("EL_10 of forgotten records", "el_10", "forget"),
    ("perplexity of forgotten records", "perplexity", "forget"),
    ("perplexity of kept records", "perplexity", "retain"),
    ("perplexity of unseen records", "perplexity", "holdout"),
    ("AUC by loss, forgotten against unseen", "mia_loss_auc", "forget"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".bench/rows"))
    work = parser.parse_args().work
    measured = {name: figures(work / row / "run" / "report.json") for name, row in ROWS.items()}
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")
    print(PAGE)


def figures(path: Path) -> dict[str, Any]:
    """What the table needs of a row's report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    results = report["results"]
    return {
        "status": report["verdict"]["status"],
        "epochs": len(report["rounds"]) - 1,
        "seconds": report["cost"]["seconds_unlearning"],
        "environment": report["environment"],
        "figures": {
            f"{metric} of {role}": {
                "target": _value(results["target"], role, metric),
                "unlearned": _value(results["unlearned"], role, metric),
                "unseen": _value(results["target"], "holdout", metric),
            }
            for _, metric, role in LINES
        },
    }


def _value(results: Mapping[str, Any], role: str, metric: str) -> float | None:
    return results[role].get(metric, {}).get("value")


def with_table(page: str, measured: Mapping[str, Any]) -> str:
    """The text of a page with the table between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines(measured))
    return f"{before}{BEGIN}\n\n{table}{END}{after}"


def lines(measured: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of each line: of every data set the target, the unlearned model, unseen text."""
    yield ["", *(cell for name in measured for cell in (f"{name} target", "unlearned", "unseen"))]
    yield ["---"] * (1 + 3 * len(measured))
    for words, metric, role in LINES:
        cells = []
        for row in measured.values():
            found = row["figures"][f"{metric} of {role}"]
            unseen = _number(found["unseen"]) if role == "forget" else ""
            cells += [_number(found["target"]), _number(found["unlearned"]), unseen]
        yield [words, *cells]
    ends = (
        ["", f"{row['epochs']}, {row['seconds']:.0f}", row["status"]] for row in measured.values()
    )
    yield ["epochs, seconds; verdict", *(cell for end in ends for cell in end)]


def _number(value: float | None) -> str:
    """Three places below 1, three digits above, and the first digit of what is tiny."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    if value >= 1:
        return f"{value:#.3g}"
    return f"{value:.3f}" if value == 0 or value >= 0.001 else f"{value:.1g}"


if __name__ == "__main__":
    main()
