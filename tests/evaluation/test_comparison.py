"""Figures over seeds, who is better than whom, and the files that a comparison is written into."""

import csv
import io
import json
import math
from copy import deepcopy

import pytest

from page_reader import Page
from unlearner.evaluation.comparison import (
    cost_over_seeds,
    front,
    is_met,
    label_picture,
    label_place,
    last_relearnt,
    mean_mark,
    membership_left,
    over_seeds,
    place,
    ratios_to_target,
    retrained_distance,
)
from unlearner.report.compare import (
    as_csv,
    comparison_rows,
    headings,
    markdown_comparison,
    paragraphs,
    pareto_near,
    render_comparison,
    write_comparison,
)

HOSTILE = 'a"b<script>alert(1)</script>|\u202e</h1>\n# x'
PICTURE = {"set": "retain", "level": 0.4, "target": 20.0}
FILES = ("compare.json", "compare.html", "compare.md", "compare.csv")


def figure(value, low=None, high=None, records=6):
    return {"value": value, "low": low, "high": high, "records": records}


def run(ma, perplexity=20.0, *, status="met", rounds=3, **cost):
    """What `report.json` holds of a run, as far as a comparison reads it."""
    spent = {"seconds_unlearning": 1.0, "steps": 1, "tokens": 1, "peak_memory_bytes": 1}
    return {
        "results": {
            "unlearned": {
                "forget": {"ma": figure(ma, ma - 0.1, ma + 0.1)},
                "retain": {"perplexity": figure(perplexity, 1.0, 99.0)},
            }
        },
        "verdict": {"status": status},
        "rounds": [{}] * rounds,
        "cost": {**spent, **cost},
    }


# Over seeds


def test_a_figure_over_seeds_is_their_mean_and_from_which_to_which_they_range():
    """(0.2 + 0.3 + 0.7) / 3 = 0.4, from 0.2 to 0.7."""
    found = over_seeds([run(0.3), run(0.2), run(0.7)])
    assert found["forget"]["ma"] == {
        "value": pytest.approx(0.4),
        "low": 0.2,
        "high": 0.7,
        "records": 6,
        "seeds": 3,
    }


def test_a_figure_of_one_seed_has_its_own_interval():
    found = over_seeds([run(0.3)])["forget"]["ma"]
    assert found == {**figure(0.3, pytest.approx(0.2), pytest.approx(0.4)), "seeds": 1}


def test_a_figure_that_one_seed_lacks_is_left_out_and_so_is_one_without_a_number():
    without, infinite = run(0.3), run(0.3, None)
    del without["results"]["unlearned"]["retain"]
    assert over_seeds([run(0.3), without])["retain"] == {}
    assert over_seeds([run(0.3), infinite])["retain"] == {}
    assert over_seeds([infinite])["retain"] == {}
    assert set(over_seeds([run(0.3), infinite])["forget"]) == {"ma"}


def test_costs_are_means_and_memory_is_the_most_of_any():
    """(10 + 20) / 2 s; rounds are 3 - 1 and 6 - 1, for round 0 is the target: (2 + 5) / 2."""
    one = run(0.3, rounds=3, seconds_unlearning=10.0, steps=4, tokens=100, peak_memory_bytes=7)
    two = run(0.3, rounds=6, seconds_unlearning=20.0, steps=6, tokens=300, peak_memory_bytes=5)
    assert cost_over_seeds([one, two]) == {
        "seconds_unlearning": 15.0,
        "steps": 5,
        "tokens": 200,
        "rounds": 3.5,
        "peak_memory_bytes": 7,
    }
    assert cost_over_seeds([run(0.3, rounds=0)])["rounds"] == 0


def test_ratios_are_to_each_runs_own_target_by_hand():
    """30 / 20 and 22 / 20 in the mean 1.3; of unseen text one run has no number."""
    runs = [run(0.3, 30.0), run(0.3, 22.0)]
    for one in runs:
        one["results"]["target"] = {"retain": {"perplexity": figure(20.0)}}
    assert ratios_to_target(runs) == {"retain": pytest.approx(1.3)}
    assert ratios_to_target([*runs, run(0.3)]) == {}


def test_the_mark_over_seeds_is_known_where_all_are():
    assert mean_mark([0.6, 0.8]) == {"value": pytest.approx(0.7), "low": 0.6, "high": 0.8}
    assert mean_mark([0.6, None]) is None
    assert mean_mark([]) is None


def test_what_was_relearnt_is_the_mean_of_the_last_look():
    looks = [
        {"steps": [0, 50], "figures": {"ma": [0.2, 0.5], "mia_loss_auc": [0.4, 0.9]}},
        {"steps": [0, 50], "figures": {"ma": [0.2, 0.3], "mia_loss_auc": [0.5, 0.6]}},
    ]
    found = last_relearnt(looks)
    assert found["steps"] == 50
    assert found["figures"] == pytest.approx({"ma": 0.4, "mia_loss_auc": 0.75})
    assert last_relearnt([looks[0], {"skipped": "why"}]) is None
    assert last_relearnt([]) is None


def test_relearning_has_columns_of_its_own():
    """Of the retrained model and of one method; the others were not measured."""
    found = comparison()
    assert not any("relearnt" in title for title in headings(found))
    first, *_ = found["methods"].values()
    first["relearnt"] = {"steps": 50, "figures": {"ma": 0.4, "mia_loss_auc": 0.75}}
    found["relearnt_retrained"] = {"steps": 50, "figures": {"ma": 0.3, "mia_loss_auc": 0.5}}
    titles = headings(found)
    places = [titles.index(title) for title in titles if title.endswith(", relearnt")]
    assert len(places) == 2
    cells = {row[0]: [row[place] for place in places] for row in comparison_rows(found)}
    assert cells["retrained model"] == ["30.0\u00a0%", "0.500"]
    assert cells["target model"] == ["–", "–"]
    assert list(cells.values())[-3:] == [["40.0\u00a0%", "0.750"], ["–", "–"], ["–", "–"]]
    assert "after 50 further training steps" in " ".join(paragraphs(found))


def test_seeds_that_met_everything_are_counted():
    assert is_met([run(0.3), run(0.3, status="not met"), run(0.3, status="not measured")]) == 1


# Who is better


def entry(*figures):
    """Of a seed for each MA and perplexity."""
    return {"seeds": [{"results": run(*some)["results"]["unlearned"]} for some in figures]}


def test_a_place_is_ma_above_the_level_and_perplexity_over_the_targets():
    """22 / 20 = 1.1; below the level 0.4 less MA is not better."""
    assert place(entry((0.6, 22.0)), PICTURE) == (0.6, pytest.approx(1.1))
    assert place(entry((0.3, 22.0)), PICTURE) == (0.4, pytest.approx(1.1))


def test_a_seed_below_what_counts_does_not_make_up_for_one_above():
    """MA (0.4 + 0.6) / 2, not 0.4 as their mean has it; ratios (1 + 1.1) / 2, not 0.95."""
    both = entry((0.2, 16.0), (0.6, 22.0))
    assert place(both, PICTURE) == (pytest.approx(0.5), pytest.approx(1.05))


def test_a_perplexity_too_large_for_a_number_is_the_worst_damage():
    assert place(entry((0.3, None), (0.3, 22.0)), PICTURE) == (0.4, math.inf)


def test_a_method_that_made_the_model_useless_is_on_no_front():
    """Though no other leaves as little; alone it is no better."""
    assert front({"a": (0.6, 1.1), "f": (0.4, math.inf)}) == {"a"}
    assert front({"f": (0.4, math.inf)}) == set()


def test_the_front_has_those_that_no_other_beats_and_ties_beat_nobody():
    """c loses to a by perplexity, e to a by MA, f to all by damage; d has the least damage."""
    places = {
        "a": (0.4, 1.1),
        "b": (0.4, 1.1),
        "c": (0.4, 1.2),
        "d": (0.5, 1.0),
        "e": (0.5, 1.1),
        "f": (0.4, math.inf),
    }
    assert front(places) == {"a", "b", "d"}
    assert front({}) == set()


# Classifiers


def label_run(forget, retained, test=0.7):
    figures = {
        "forget": {"accuracy": figure(forget), "f1_macro": figure(forget)},
        "retain": {"f1_macro": figure(retained)},
        "holdout": {"accuracy": figure(0.6), "f1_macro": figure(0.6)},
        "test": {"f1_macro": figure(test)},
    }
    return {name: some for name, some in figures.items() if test is not None or name != "test"}


def labels(**more):
    return {
        "criteria": [
            {"claim": "forgetting", "metric": "accuracy", "set": "forget", "at_most": 0.25},
            {"claim": "membership", "metric": "mia_loss_auc", "set": "forget", "at_most": 0.55},
            {"claim": "utility", "metric": "f1_macro", "set": "retain", "at_least": 0.88},
        ],
        "evaluation": {"score": "accuracy"},
        "results": {"target": label_run(1.0, 0.9), **more},
    }


def label_entry(*runs):
    return {"seeds": [{"results": label_run(*one)} for one in runs]}


def test_a_classifier_is_held_to_unseen_records_or_to_the_retrained_model():
    assert label_picture(labels()) == {
        "set": "retain",
        "score": "accuracy",
        "kept_score": "f1_macro",
        "level": 0.6,
        "one_class": False,
        "target": 0.9,
        "floor": 0.88,
    }
    assert label_picture(labels(retrained=label_run(0.4, 0.9)))["level"] == 0.4


def test_of_a_class_to_be_removed_the_level_is_chance():
    one_class = labels()
    del one_class["criteria"][1]
    picture = label_picture(one_class)
    assert (picture["level"], picture["one_class"]) == (0.25, True)
    assert label_place(label_entry((0.0, 0.9)), picture) == (0, 0)
    assert label_place(label_entry((0.75, 0.9)), picture) == (0.5, 0)


def test_a_classifier_stands_where_its_seeds_do_on_either_side_of_the_level():
    """|0.8 - 0.6| and |0.5 - 0.6|: 0.15; 0.9 - 0.8 and none lost: 0.05."""
    place_of = label_place(label_entry((0.8, 0.8), (0.5, 0.95)), label_picture(labels()))
    assert place_of == (pytest.approx(0.15), pytest.approx(0.05))


def test_the_distance_to_the_retrained_model_is_of_three_sets():
    """(1 - 0.2) (1 - 0.1) (1 - 0.3); without a test set the holdout set's, which are alike."""
    found = retrained_distance(label_run(0.6, 0.8, 0.4), label_run(0.4, 0.9))
    assert found == pytest.approx(0.8 * 0.9 * 0.7)
    assert retrained_distance(label_run(0.4, 0.9, None), label_run(0.4, 0.9, None)) == 1
    assert retrained_distance({}, label_run(0.4, 0.9)) is None


# The files


def point(share, ma, ratio):
    return {
        "share": share,
        "ma": ma,
        "el_10": None,
        "es": 0.1,
        "kept_ratio": ratio,
        "suppressed": False,
    }


def trial(number, ma=0.5, ratio=1.05, status="reached"):
    return {
        "number": number,
        "settings": {"learning_rate": 1e-3 * (number + 1)},
        "status": status,
        "score": 1.05,
        "ma": ma,
        "el_10": None,
        "es": 0.1,
        "kept_ratio": ratio,
        "rounds": 4,
        "seconds": 2.0,
    }


def method(name, ma, perplexity, *, on_front=True, search=None):
    runs = [run(ma, perplexity), run(ma, perplexity, status="not met")]
    points = [point(0.5, 0.8, 1.01), point(1.0, ma, None if perplexity is None else 1.2)]
    return {
        "name": name,
        "settings": {"name": name, "learning_rate": 1e-3, "stop": "suppressed"},
        "search": search,
        "met": 1,
        "summary": over_seeds(runs),
        "cost": cost_over_seeds(runs),
        "strength": {"points": points, "at_the_floor": points[0]},
        "on_front": on_front,
        "diverged": [],
        "seeds": [
            {
                "seed": seed,
                "status": one["verdict"]["status"],
                "cost": one["cost"],
                "results": one["results"]["unlearned"],
            }
            for seed, one in enumerate(runs)
        ],
    }


def comparison(model="tiny", reason="the records have no prompts"):
    """Of three methods: one searched, one given, one that made the model useless."""
    searched = {"reached": True, "chosen": 1, "trials": [trial(0, None, None, "failed"), trial(1)]}
    return {
        "schema": "unlearner/compare/1",
        "created": "2025-05-03T14:02:00+00:00",
        "request": {"id": model, "records": 6},
        "model": {"name": model, "family": "causal-lm"},
        "seeds": [0, 1],
        "criteria": [{"claim": "verbatim", "metric": "ma", "set": "forget", "at_most": 0.4}],
        "results": {
            "target": {"forget": {"ma": figure(0.95)}, "retain": {"perplexity": figure(20.0)}},
            "retrained": {"forget": {"ma": figure(0.35)}, "retain": {"perplexity": figure(20.5)}},
        },
        "methods": {
            "npo": method("npo", 0.4, 21.0, search=searched),
            "icu": method("icu", 0.5, 20.0),
            "gradient_ascent": method("gradient_ascent", 0.0, None, on_front=False),
        },
        "not_run": {"idk": reason},
        "picture": {"set": "retain", "level": 0.4, "target": 20.0, "floor": 22.0},
    }


def test_the_same_comparison_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_comparison(deepcopy(comparison()), tmp_path / name)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one/compare.json").read_text("utf-8")) == comparison()


def test_a_number_that_json_has_not_leaves_no_file(tmp_path):
    broken = comparison()
    broken["methods"]["npo"]["met"] = math.nan
    with pytest.raises(ValueError, match="JSON"):
        write_comparison(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_name_is_text_on_the_page_and_in_markdown():
    """In a name, a request's id and a reason: no tag, no direction mark, no line of its own."""
    hostile = comparison(HOSTILE, HOSTILE)
    page = render_comparison(hostile)
    assert "<script" not in page
    assert "\u202e" not in page
    assert "\\u202e" in page
    assert "alert(1)" in Page(page).shown
    told = markdown_comparison(hostile)
    assert "<script" not in told
    assert "\n# x" not in told
    assert "\\|" in told.splitlines()[0]


def test_the_page_needs_nothing_but_itself_and_has_what_was_compared():
    page = Page(render_comparison(comparison()))
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert tags.count("svg") == 2
    assert not [
        value
        for _, some in page.tags
        for name, value in some.items()
        if name in ("src", "href") and not str(value).startswith("#")
    ]
    for words in (
        "3 methods",
        "2 seeds",
        "Every criterion met with every seed: by no method",
        "where no other method leaves less, damages less and is nearer to the range of the "
        "membership AUC: npo, icu",
        "idk was not run: the records have no prompts",
        "1 (taken)",
        "failed",
        "retrained model",
    ):
        assert words in page.shown


def test_a_method_that_made_the_model_useless_is_shown_without_a_number():
    """Its perplexity was infinite: no cell, no mark in the pictures, and words that say so."""
    assert "gradient_ascent: MA 0 %, perplexity beyond any number" in (
        render_comparison(comparison()).replace("\N{NO-BREAK SPACE}", " ")
    )
    row = next(
        row for row in comparison_rows(comparison(), short=True) if row[0] == "gradient_ascent"
    )
    assert row[headings(comparison(), short=True).index("Perplexity, kept")] == "–"


def test_methods_near_the_level_have_a_picture_of_their_own_where_one_is_far_off():
    """MA within 0.06 of the level 0.4, damage within 1.25 of the 0.1 allowed: icu is at 0.5."""
    assert pareto_near(comparison()) is None
    far = comparison()
    far["methods"]["rmu"] = method("rmu", 0.41, 60.0)
    drawn = pareto_near(far)
    assert drawn is not None
    assert "near the level: npo." in drawn
    assert "near the level" in render_comparison(far)


def test_markdown_has_a_row_for_each_model_under_the_headings():
    lines = markdown_comparison(comparison()).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert {row.count(" | ") for row in rows} == {len(headings(comparison())) - 1}
    names = ["model", "---", "target model", "retrained model", "npo *", "icu *", "gradient_ascent"]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == names
    assert "| 1 of 2 |" in rows[4]


def test_csv_has_a_line_for_each_seed_and_for_all():
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison()))))
    ma = {(row["model"], row["seed"]): row["value"] for row in rows if row["metric"] == "ma"}
    seeds = {(name, seed) for name in comparison()["methods"] for seed in ("0", "1", "all")}
    assert set(ma) == seeds | {("target", ""), ("retrained", "")}
    assert ma["npo", "all"] == "0.4"
    infinite = [row for row in rows if row["model"] == "gradient_ascent" and row["set"] == "retain"]
    assert {(row["seed"], row["value"]) for row in infinite} == {("0", ""), ("1", "")}


def test_what_membership_finds_counts_beyond_its_range_by_hand():
    """Range 0.4 to 0.6: 0.7 is 0.1 beyond, 0.3 likewise, 0.5 within; their mean is 0.2 / 3."""
    seeds = [{"results": {"forget": {"mia_loss_auc": {"value": auc}}}} for auc in (0.7, 0.3, 0.5)]
    limit = {"claim": "membership", "metric": "mia_loss_auc", "at_least": 0.4, "at_most": 0.6}
    assert membership_left({"seeds": seeds}, [limit]) == pytest.approx(0.2 / 3)
    assert membership_left({"seeds": seeds}, []) == 0.0
