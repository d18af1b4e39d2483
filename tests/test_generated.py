"""What nobody thought of: the generator of benchmarks/soak, for fewer cases; and what it found."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.gate

SOAK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "soak" / "generated.py"))


def test_every_layer_loss_and_rule_is_generated():
    SOAK["assert_complete"]()
    twenty = [SOAK["sound"](number) for number in range(20)]
    assert {program.loss for program in twenty} == set(SOAK["LOSSES"])
    assert len({program.rule for program in twenty}) == 20


def test_two_hundred_cases_over_twenty_programs_train_or_say_what_is_wrong():
    counts = Counter()
    SOAK["hostile"](range(20), 200, counts)
    assert counts.total() >= 200
    assert counts["trained"] > 100
    assert counts["refused"] > 5


def test_a_hundred_programs_of_any_layers_are_traced_or_say_what_is_wrong():
    counts = Counter()
    SOAK["free"](100, counts)
    assert counts["traced"] > 10
    assert counts["refused"] > 10
