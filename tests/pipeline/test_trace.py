"""What a run goes through: few files, and the target model is run and scored once."""

import importlib
import inspect
import pkgutil
import sys
from collections import Counter
from pathlib import Path

import pytest

import classifier_commands
import unlearner
from command_world import RUN, SHORT

PACKAGE = Path(unlearner.__file__).parent

SLACK = 3  # a run goes a few other ways by what is cached, and by how quick the machine is


class Trace:
    """Files of the package whose functions are called, and the arrows between them."""

    def __init__(self):
        self.files, self.arrows, self.scored = set(), set(), Counter()

    def __call__(self, frame, event, _):
        if event != "call" or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            return  # no call, or the body of a class
        here = Path(frame.f_code.co_filename)
        if not here.is_relative_to(PACKAGE) or here.suffix != ".py":
            return
        name = str(here.relative_to(PACKAGE))
        self.files.add(name)
        caller = Path(frame.f_back.f_code.co_filename) if frame.f_back else here
        if caller.is_relative_to(PACKAGE) and caller != here:
            self.arrows.add((str(caller.relative_to(PACKAGE)), name))
        if name == "evaluation/measure.py" and frame.f_code.co_name == "score_sets":
            self.scored.update(list(frame.f_locals["answers"]))


@pytest.fixture
def traced():
    """Files, arrows and scored sets of a command that ends with a verdict."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "unlearner."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)  # no part of a run is what an import runs

    def run(call, line):
        trace = Trace()
        sys.setprofile(trace)
        try:
            status, _, err, _ = call(line)
        finally:
            sys.setprofile(None)
        assert status in (0, 3), err
        return trace

    return run


@pytest.mark.slow
def test_a_language_models_run_enters_few_files_and_scores_each_set_once_a_model(call, traced):
    """Target and unlearned model: each set twice, ICU's own likewise.

    What is compared with unseen records is scored once more of the target: on those that are left
    when some are set aside as partners.
    """
    trace = traced(call, RUN + SHORT)
    assert len(trace.files) <= 115 + SLACK, " ".join(sorted(trace.files))  # 17 are metrics
    assert len(trace.arrows) <= 321 + SLACK
    assert trace.scored == {"forget": 3, "retain": 2, "holdout": 3, "analogous": 2}


@pytest.mark.slow
def test_a_classifiers_run_enters_few_files_and_scores_each_set_once_a_model(
    call_classifier, traced
):
    trace = traced(call_classifier, classifier_commands.RUN + classifier_commands.SHORT)
    assert len(trace.files) <= 98 + SLACK, " ".join(sorted(trace.files))
    assert len(trace.arrows) <= 252 + SLACK
    assert trace.scored == {"forget": 2, "retain": 2, "holdout": 2}
