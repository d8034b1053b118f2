"""A figure of an attack beside its control: what is opened, what holds, what says nothing."""

import numpy as np
import pytest

from unlearner.evaluation.attack_figures import (
    LEAST_SHARE,
    AttackFigure,
    RecordValues,
    Resampling,
    compare_with_control,
    has_learned_unseen,
    units,
)

MEAN = AttackFigure("known", "known", "mean")
AUC = AttackFigure("auc", "auc", "auc", two_sided=True)
TWENTY = [str(number) for number in range(20)]


def drawn(forget=TWENTY, unseen=TWENTY):
    return Resampling(forget, unseen, resamples=500)


def shares(value, unseen=0.0, count=20):
    """Records that all have one value, a little apart so that intervals have a width."""
    wiggle = 0.01 * np.tile([-1.0, 1.0], count // 2)
    return RecordValues(value + wiggle, unseen + wiggle)


def scores(shift, count=20):
    """Forget records whose scores are those of unseen ones, shifted."""
    base = np.arange(count, dtype=float)
    return RecordValues(base + shift, base.copy())


def found(figure=MEAN, groups=TWENTY, **readings):
    return compare_with_control(figure, readings, drawn(groups))


def test_a_mean_and_its_difference_from_the_control_are_those_of_the_values():
    """(0.2 + 0.4) / 2 - (0.1 + 0.1) / 2 = 0.2; of the target 0.9 - 0.1 = 0.8: a quarter is back."""
    readings = {
        "target": RecordValues(np.array([0.9, 0.9]), np.zeros(2)),
        "unlearned": RecordValues(np.array([0.2, 0.4]), np.zeros(2)),
        "control": RecordValues(np.array([0.1, 0.1]), np.zeros(2)),
    }
    one = compare_with_control(MEAN, readings, drawn(["a", "b"], ["a", "b"]))
    assert one.models["unlearned"].value == pytest.approx(0.3)
    assert one.difference.value == pytest.approx(0.2)
    assert one.share == pytest.approx(0.25)


def test_an_auc_counts_pairs_and_half_a_tie():
    """2 beats 1 and ties with 2; 3 beats both: (1 + 0.5 + 1 + 1) / 4 = 0.875."""
    reading = RecordValues(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    one = compare_with_control(
        AUC, {"target": reading, "unlearned": reading}, drawn(["a", "b"], ["a", "b"])
    )
    assert one.models["unlearned"].value == 0.875
    assert one.difference.value == 0.375  # from the 0.5 of records that are alike


@pytest.mark.parametrize(
    ("unlearned", "status"),
    [(0.9, "opened"), (0.5, "opened"), (0.1, "holds"), (0.12, "holds"), (0.0, "holds")],
)
def test_what_is_above_the_control_is_opened_and_below_it_holds(unlearned, status):
    one = found(target=shares(0.9), unlearned=shares(unlearned), control=shares(0.1))
    assert one.status == status


def test_less_than_a_tenth_of_the_way_is_nothing_that_came_back():
    """The control is at 0, the target at 1: 0.09 of the way holds, 0.11 is opened."""
    assert LEAST_SHARE == 0.1
    for value, status in ((0.09, "holds"), (0.11, "opened")):
        one = found(target=shares(1.0), unlearned=shares(value), control=shares(0.0))
        assert one.status == status


def test_no_absolute_number_decides():
    """A control of 0.7 is passed by 0.7, and one of 0.1 is not."""
    for control, status in ((0.7, "holds"), (0.1, "opened")):
        one = found(target=shares(1.0), unlearned=shares(0.7), control=shares(control))
        assert one.status == status


def test_without_a_control_unseen_records_under_the_same_model_are_it():
    held = found(target=shares(1.0, 0.2), unlearned=shares(0.3, 0.3))
    opened = found(target=shares(1.0, 0.2), unlearned=shares(0.8, 0.3))
    assert (held.status, opened.status) == ("holds", "opened")
    assert opened.models["control"].value == pytest.approx(0.3)


def test_a_target_like_its_control_makes_the_attack_say_nothing():
    one = found(target=shares(0.1), unlearned=shares(0.1), control=shares(0.1))
    assert one.status == "not informative"
    assert "target" in one.reason


def test_fewer_than_five_subjects_say_nothing_however_many_records():
    one = found(
        groups=[str(number % 4) for number in range(20)],
        target=shares(1.0),
        unlearned=shares(1.0),
        control=shares(0.0),
    )
    assert one.status == "not informative"
    assert "subjects" in one.reason


def test_a_control_that_has_learned_the_unseen_records_is_told():
    """Its unseen records are likelier than its forget records and than the target's."""
    unseen = np.arange(20.0)
    target, learned = RecordValues(unseen + 50, unseen), RecordValues(unseen, unseen + 50)
    assert has_learned_unseen(target, learned, drawn())
    assert not has_learned_unseen(target, RecordValues(unseen, unseen), drawn())
    # of another kind to both models; surer of everything
    other_kind = RecordValues(unseen - 50, unseen)
    assert not has_learned_unseen(RecordValues(unseen, unseen), other_kind, drawn())
    surer = RecordValues(unseen + 50, unseen + 50)
    assert not has_learned_unseen(target, surer, drawn())


def test_records_of_fewer_than_five_subjects_are_drawn_one_by_one():
    five, four = list("abcdeabcde"), list("abcdabcd")
    assert units(five) == five
    assert units(four) == [str(number) for number in range(8)]
    assert units([]) == []


@pytest.mark.parametrize(("shift", "reason"), [(25, "above"), (-25, "below")])
def test_a_mark_is_a_failure_from_either_side(shift, reason):
    one = found(AUC, target=scores(25), unlearned=scores(shift), control=scores(0))
    assert one.status == "opened"
    assert reason in one.reason


def test_one_side_is_enough_where_below_is_no_mark():
    one_sided = AttackFigure("auc", "auc", "auc")
    one = found(one_sided, target=scores(25), unlearned=scores(-25), control=scores(0))
    assert one.status == "holds"


def test_too_wide_an_interval_is_no_acquittal():
    """Of ten subjects five are at 1: 0.5 -+ 0.3 beside a control at 0.4 and a target at 1."""
    halves = np.tile([0.0, 1.0], 10)
    one = found(
        groups=[str(number % 10) for number in range(20)],
        target=shares(1.0),
        unlearned=RecordValues(halves, halves),
        control=RecordValues(np.full(20, 0.4), halves),
    )
    assert one.difference.low < 0 < one.difference.high
    assert one.status == "not informative"
    assert "half of the way" in one.reason


def test_records_that_cannot_say_on_a_model_are_left_out_on_all():
    """Of the values 1, 1 and 0 the last counts for the target alone."""
    readings = {
        "target": RecordValues(np.array([1.0, 1.0, 1.0]), np.zeros(3)),
        "unlearned": RecordValues(np.array([1.0, 0.0, np.nan]), np.zeros(3)),
        "control": RecordValues(np.array([0.0, np.nan, 0.0]), np.zeros(3)),
    }
    one = compare_with_control(MEAN, readings, drawn(["a", "b", "c"], ["a", "b", "c"]))
    assert one.records == 1
    assert one.models["unlearned"].value == 1.0
    assert one.models["control"].value == 0.0


def test_one_record_that_came_back_is_named_though_the_mean_holds():
    forget = np.full(20, 0.1)
    back = forget.copy()
    back[7] = 0.95
    one = found(
        target=RecordValues(np.full(20, 1.0), forget),
        unlearned=RecordValues(back, forget),
        control=RecordValues(forget, forget),
    )
    assert one.status == "holds"
    assert one.back == (7,)
    assert one.to_json(TWENTY)["records_back"] == ["7"]


def test_the_order_of_records_changes_nothing():
    order = np.random.default_rng(0).permutation(20)
    values = {
        role: np.random.default_rng(i).random(20)
        for i, role in enumerate(("target", "unlearned", "control"))
    }
    one = compare_with_control(MEAN, {r: RecordValues(v, v) for r, v in values.items()}, drawn())
    names = [TWENTY[place] for place in order]
    shuffled = {r: RecordValues(v[order], v[order]) for r, v in values.items()}
    other = compare_with_control(MEAN, shuffled, drawn(names, names))
    assert other.difference.low == pytest.approx(one.difference.low)
    assert other.difference.high == pytest.approx(one.difference.high)


def test_numbers_that_are_not_finite_are_no_alarm_and_no_acquittal():
    nothing = RecordValues(np.full(20, np.nan), np.full(20, np.nan))
    one = found(target=shares(1.0), unlearned=nothing, control=shares(0.0))
    assert one.status == "not informative"
    assert one.to_json(TWENTY)["unlearned"]["value"] is None


def test_of_few_subjects_more_than_half_of_the_way_has_to_be_back():
    """The control is at 0, the target at 1; the records are of four people."""
    few = Resampling.of([str(number % 4) for number in range(20)], TWENTY, 0)
    assert few.single
    assert not Resampling.of(TWENTY, TWENTY, 0).single
    for value, status in ((0.05, "holds"), (0.3, "not informative"), (0.6, "opened")):
        readings = {"target": shares(1.0), "unlearned": shares(value), "control": shares(0.0)}
        assert compare_with_control(MEAN, readings, few).status == status


def test_the_more_is_tried_the_clearer_a_difference_has_to_be():
    """0.12 above the control, with a standard error of 0.2 / sqrt(20) = 0.045: 2.7 of them.

    Two normal tails of 5 % begin at 1.96, of 5 % over 60 tests at 3.3.
    """
    spread = 0.2 * np.tile([-1.0, 1.0], 10)
    readings = {
        "target": shares(0.9),
        "unlearned": RecordValues(0.22 + spread, np.zeros(20)),
        "control": RecordValues(np.full(20, 0.1), np.zeros(20)),
    }
    many = Resampling(TWENTY, TWENTY)
    assert compare_with_control(MEAN, readings, many, 1).status == "opened"
    assert compare_with_control(MEAN, readings, many, 60).status == "holds"


def test_models_alike_but_for_chance_are_rarely_opened():
    """Of 200 pairs of models whose records differ by chance alone at most 4 are opened."""
    opened = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        readings = {
            "target": RecordValues(0.9 + 0.05 * draw.standard_normal(20), np.zeros(20)),
            "unlearned": RecordValues(0.3 + 0.2 * draw.standard_normal(20), np.zeros(20)),
            "control": RecordValues(0.3 + 0.2 * draw.standard_normal(20), np.zeros(20)),
        }
        opened += compare_with_control(MEAN, readings, drawn()).status == "opened"
    assert opened <= 4
