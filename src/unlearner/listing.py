"""`unlearner list`: names with what they are, laid out for a terminal of 100 columns.

Nothing heavy is imported: everything is read from file names and source text.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from unlearner import catalog

WIDTH = 100
# Sets of language models as the user gives them.
SETS = {
    "retain": "retain or pool",
    "analogous": "similar records found in retain or pool",
}


def lines(what: str) -> Iterator[str]:
    """The lines of a folder's list: a name with what it is, and what follows indented below.

    Args:
        what: A folder of `catalog`: methods, metrics, attacks or datasets.
    """
    names = catalog.names(what)
    indent = max(map(len, names), default=0) + 2
    for name in names:
        told = [catalog.summary(what, name)]
        if what == "methods":
            told.append(method_words(catalog.method_facts(name)))
        broken = [
            line for text in told for line in wrap(text, WIDTH - indent, break_on_hyphens=False)
        ]
        yield f"{name:{indent}}{''.join(broken[:1])}".rstrip()
        yield from (" " * indent + line for line in broken[1:])
    if not names:
        yield f"no {what} in this version"


def method_words(facts: catalog.MethodFacts) -> str:
    """Paper, families of models and needs of a method in a line."""
    paper = "no paper" if facts.paper == "none" else f"paper {facts.paper}"
    if not facts.families or not facts.needs:
        return f"{paper}; what it works on and needs is in its file"
    texts = "causal-lm" in facts.families
    classifiers = any(family != "causal-lm" for family in facts.families)
    kinds = ["language models"] * texts + ["classifiers"] * classifiers
    # Of language models unseen text gives the level of every run, which no method reads itself.
    needs = [name for name in facts.needs if name != "holdout" or not texts]
    told = ", ".join(needs if classifiers else [SETS.get(name, name) for name in needs])
    also = "; for classifiers also holdout" if len(needs) < len(facts.needs) and classifiers else ""
    anew = "; begins anew from a pretrained model" if facts.begins_anew else ""
    return f"{paper}; for {' and '.join(kinds)}; needs {told}{also}{anew}"
