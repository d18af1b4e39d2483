"""The search for settings: what is tried, for how long, and that the best one is found."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import race
from fnn.problems import COSTS, Budget
from fnn.race import Linear, Log, OneOf, Whole, runner, search, spaces
from fnn.race.entrants import ENTRANTS, Entrant
from fnn.race.report import findings, tables

STEPS, TRIALS = 96, 5
TERMS = {"seeds": 2, "trials": TRIALS, "budget": Budget(STEPS, "steps")}
PLANTED = 0.5


def planted(problem, rate):
    """Gradient descent that is fastest at a rate beyond its range."""
    del problem
    return optax.sgd(0.02 * jnp.exp(-(jnp.log10(rate / PLANTED) ** 2)))


def of_each_kind(problem, rate, share, memory, method):
    """A rule whose static values must be Python's own, and that is best at ("long", 2)."""
    del problem
    assert type(memory) is int
    speed = {"short": 0.01, "long": 0.02}[method] * len(range(memory))
    return optax.sgd(speed * jnp.exp(-((share - 0.4) ** 2) - 0.1 * jnp.log10(rate / 1e-2) ** 2))


def either(problem, fast):
    del problem
    return optax.sgd(0.02 if fast is True else 0.01)


def at_the_end(problem, peak):
    """A schedule that moves in the last step of a run only."""
    last = problem.budget.amount - 1
    assert problem.budget.unit == "steps"
    return optax.sgd(lambda count: jnp.where(count == last, peak, 0.0))


ENTRY = {
    one.name: one
    for one in (
        Entrant("planted", planted, {"rate": (1e-3, 1e-1)}, {"rate": 1e-3}),
        Entrant(
            "of_each_kind",
            of_each_kind,
            {
                "method": OneOf(("short", "long")),
                "rate": Log(1e-3, 1e-1),
                "share": Linear(0, 1),
                "memory": Whole(1, 2),
            },
            {"rate": 1, "method": "short"},
        ),
        Entrant("either", either, {"fast": OneOf((False, True))}, {"fast": False}),
        Entrant("at_the_end", at_the_end, {"peak": Log(1e-3, 1e-1)}),
    )
}


@pytest.fixture(scope="module")
def kept():
    """The programs of all races of this module, by the names of their variants."""
    kept, compiled = {}, runner.lanes.programs

    def programs(problem, one, setting, most):
        if one.name not in kept:
            kept[one.name] = compiled(problem, one, setting, most)
        return kept[one.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.lanes, "programs", programs)
        yield kept


@pytest.fixture(scope="module")
def folder(kept, tmp_path_factory):
    del kept
    folder = tmp_path_factory.mktemp("race")
    race.run("bowl", list(ENTRY.values()), folder=folder, **TERMS)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return {result.rule: result for result in race.read(folder).results}


def lines(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


# A race -------------------------------------------------------------------------------------------


def test_the_best_setting_is_found_beyond_the_range(found):
    result = found["planted"]
    rates = [setting["rate"] for setting in result.settings]
    assert max(rates[:4]) < 0.1 < max(rates)
    assert abs(np.log10(result.setting["rate"] / PLANTED)) < 0.2


def test_the_better_half_comes_to_the_final_and_the_best_of_it_is_chosen(found):
    for rule in ("planted", "of_each_kind", "at_the_end"):
        result = found[rule]
        assert result.rungs == (10, 40)
        better = np.argsort(np.median(result.tuning, axis=1), kind="stable")[:4]
        assert set(np.flatnonzero(np.isfinite(result.finals).all(axis=1))) == set(better)
        assert result.chosen == np.nanargmin(np.median(result.finals, axis=1))


def test_every_kind_of_hyperparameter_is_searched(found):
    result = found["of_each_kind"]
    assert (result.setting["method"], result.setting["memory"]) == ("long", 2)
    assert {type(v) for s in result.settings for v in s.values()} == {str, float, int}
    assert all(0 <= setting["share"] <= 1 for setting in result.settings)
    # A default is tried though it lies outside, and the middle of a range stands in for none.
    assert result.settings[0] == {"method": "short", "rate": 1, "share": 0.5, "memory": 2}
    assert found["either"].settings == [{"fast": False}, {"fast": True}]
    assert found["either"].setting == {"fast": True}


def test_numbers_share_a_program_and_static_values_have_their_own(found, kept):
    static = {(s["method"], s["memory"]) for s in found["of_each_kind"].settings}
    names = [name for name in kept if name.startswith("of_each_kind")]
    assert len(names) == len(static) <= 4
    assert [name for name in kept if name.startswith("planted")] == ["planted"]
    assert len([name for name in kept if name.startswith("either")]) == 2


def test_all_rules_spend_the_same_on_their_settings(found):
    for result in found.values():
        assert list(result.tuning_spent) == list(COSTS)
        assert result.tuning_spent["steps"] == TRIALS * STEPS
        assert result.tuning_spent["examples"] == TRIALS * STEPS * result.batch


def test_a_schedule_lasts_as_long_as_its_run(found, folder):
    result = found["at_the_end"]
    assert (np.diff(result.validation) != 0).sum(axis=1).tolist() == [1, 1]
    assert (result.validation[:, -1] < result.validation[:, -2]).all()
    for stage, steps in (("round-1", 10), ("final", 40)):
        with np.load(folder / "curves" / f"at_the_end-{stage}.npz") as curves:
            assert (curves["steps"][:, -1] == steps).all()
            assert (np.diff(curves["train"], axis=1) != 0).sum(axis=1).tolist() == [1] * 8


def test_a_search_repeats_and_goes_on_wherever_it_was_cut(kept, folder, tmp_path):
    """In the middle of each stage of the rule with most to tune, and between two of them."""
    del kept
    entrants = [ENTRY["of_each_kind"]]
    told = [line for line in lines(folder) if line["rule"] == "of_each_kind"][:-1]
    stages = [line.get("stage", line["kind"]) for line in told]
    firsts = {stages.index(stage) for stage in stages}
    for cut in sorted(firsts | {first + 1 for first in firsts} - {len(told)}):
        part = tmp_path / str(cut)
        shutil.copytree(folder / "curves", part / "curves")
        shutil.copy(folder / "race.json", part)
        whole = "".join(json.dumps(line) + "\n" for line in told[:cut])
        (part / "runs.jsonl").write_text(whole + '{"kind": "run", "ru')
        race.run("bowl", entrants, folder=part, **TERMS)
        assert lines(part)[:-1] == told


def test_reports_show_settings_of_every_kind(folder):
    found = race.read(folder)
    sheet = tables.trials(found)
    rows = [[cell.text for cell in row] for row in sheet.rows if row[0].text == "of_each_kind"]
    assert len(rows) == 8
    assert "method short, rate 1, share 0.5, memory 2" in rows[0]
    assert "as much as 5 whole runs" in sheet.caption
    assert [row[3] for row in rows].count("10, then 40") == 4
    assert [row[5] for row in rows].count("") == 4
    sweeps = findings.sweeps(found)
    assert "method" not in sweeps
    assert "fast" not in sweeps
    assert len(sweeps["memory"]["of_each_kind"].setting) == 8


# What is tried ------------------------------------------------------------------------------------


def tried(one, loss, trials=5):
    """The settings that are tried of a rule whose loss is a function of its setting."""
    plan = search.rungs(one, trials)
    settings = search.settings(one, trials)
    for i, number in enumerate(plan.rounds):
        losses = np.array([[loss(setting)] * 2 for setting in settings])
        if i:
            settings += search.closer(one.space, settings, losses, number, i)
    return settings


@pytest.mark.parametrize("best", [3e-5, 1e-3, 2e-2, 0.7])
def test_rounds_draw_near_and_follow_the_best_beyond_either_end(best):
    rates = [
        setting["learning_rate"]
        for setting in tried(ENTRANTS["adam"], lambda s: abs(np.log(s["learning_rate"] / best)))
    ]
    assert len(set(rates)) == 8
    assert min(abs(np.log10(rate / best)) for rate in rates) < 0.2


def test_nothing_is_said_of_a_direction_where_no_setting_is_finite():
    rates = [s["learning_rate"] for s in tried(ENTRANTS["adam"], lambda _: np.inf)]
    assert len(set(rates)) == 8
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)


@pytest.mark.parametrize(
    "space",
    [
        {"a": OneOf(("x", "y", "z"))},
        {"a": Whole(1, 8)},
        {"a": Whole(1, 9)},
        {"a": Whole(0, 1), "b": OneOf((True, 1, 1.0))},
        {"a": Whole(1, 30), "b": Linear(-1, 1), "c": Log(1, 10)},
    ],
)
def test_settings_are_all_different(space):
    one = Entrant("one", None, space)
    settings = tried(one, lambda s: 0.0 if isinstance(s["a"], str) else s["a"])
    assert len({repr(setting) for setting in settings}) == sum(search.rungs(one, 5).rounds)


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 5, 6, 7, 10, 20, 100])
@pytest.mark.parametrize("values", [2, 3, 7, 9, 10**6])
@pytest.mark.parametrize("steps", [10, 95, 96, np.inf])
def test_a_search_spends_its_trials_and_no_more(trials, values, steps):
    plan = search.rungs(Entrant("one", None, {"a": Whole(1, values)}), trials, steps)
    spent = 2 * (sum(plan.rounds) * plan.short + plan.finalists * plan.long)
    assert spent <= trials + 1e-9
    assert spent == pytest.approx(trials) or max(plan.short, plan.long) == 1
    assert 2 <= sum(plan.rounds) <= values
    if plan.finalists:
        assert plan.short <= plan.long <= 1
        assert plan.short * steps > 9.5
        assert 2 <= plan.finalists <= sum(plan.rounds)
    else:
        assert steps < np.inf


def test_rules_with_dear_steps_are_tuned_in_longer_runs():
    assert search.rungs(ENTRANTS["adam"], 5, 96).finalists == 4
    dear = search.rungs(ENTRANTS["adam"], 5, 12)
    assert (dear.rounds, dear.finalists) == ((2, 2, 2), 0)
    assert dear.short == pytest.approx(5 / 12)


def test_nothing_to_choose_is_no_search():
    fixed = Entrant("fixed", None, {"a": Whole(3, 3), "b": OneOf(("x",))})
    assert search.rungs(fixed, 5) is None
    assert search.settings(fixed, 5) == [{"a": 3, "b": "x"}]
    assert search.rungs(ENTRANTS["lbfgs"], 5) is None
    assert search.settings(ENTRANTS["lbfgs"], 5) == [{}]
    assert search.rungs(ENTRANTS["adam"], 0) is None
    # A default that is no choice is one more setting.
    assert len(search.settings(fixed._replace(defaults={"b": "y"}), 5)) == 2


@pytest.mark.parametrize(
    "given", [(1e-3, 1e-1), Log(2, 3), Linear(-1, 4), Whole(2, 9), OneOf("ab")]
)
def test_a_value_is_at_its_place(given):
    for place in (0.01, 0.3, 0.5, 0.99):
        value = spaces.value_at(given, place)
        again = spaces.value_at(given, spaces.place_of(given, value))
        assert again == pytest.approx(value) if isinstance(value, float) else again == value


# Misuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ((1e-1, 1e-3), r"from a low to a high end, got 0\.1 and 0\.001; try \(0\.001, 0\.1\)"),
        ((1e-3, 1e-3), "from a low to a high end, got 0.001 and 0.001; try the value"),
        ((0, 1), r"above 0 on a logarithmic scale, got 0 to 1; try Linear\(0, 1\)"),
        (Log(-1, 1), r"above 0 on a logarithmic scale, got -1 to 1; try Linear\(-1, 1\)"),
        ((1e-3, np.inf), "between finite numbers, got 0.001 and inf"),
        (Linear(0, "1"), "between finite numbers, got 0 and '1'"),
        (Whole(1.0, 3), r"between whole numbers, got 1.0 and 3; try Whole\(1, 10\)"),
        (Whole(3, 1), r"got 3 and 1; try \(1, 3\)"),
        ((1, 2, 3), r"\(low, high\), got \(1, 2, 3\)"),
        (0.1, r"\(low, high\), Linear, Whole or OneOf, got 0\.1"),
        (OneOf(()), r"one of several, got \(\); try OneOf"),
        (OneOf("ab"), "one of several, got 'ab'"),
        (OneOf((np.tanh,)), "which can be written down, got <ufunc 'tanh'>; try its name"),
    ],
)
def test_a_space_without_values_raises_before_anything_is_written(tmp_path, space, message):
    one = ENTRANTS["adam"]._replace(space={"learning_rate": space}, defaults={})
    with pytest.raises(ValueError, match=rf"expected the learning_rate of adam to be.*{message}"):
        race.run("xor", [one], folder=tmp_path / "new", **TERMS)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"learning_rat": 1e-3}, "by name, got 'learning_rat'; did you mean 'learning_rate'"),
        ({"learning_rate": None}, "default learning_rate of adam to be a number, got None"),
        ({"learning_rate": np.nan}, "to be a number, got nan; try to leave it out"),
        ({"kind": np.tanh}, "default kind of adam to be a value such as"),
    ],
)
def test_defaults_that_nothing_takes_raise(tmp_path, defaults, message):
    space = {"learning_rate": (1e-3, 1e-1), "kind": OneOf(("x", "y"))}
    one = ENTRANTS["adam"]._replace(space=space, defaults=defaults)
    with pytest.raises(ValueError, match=message):
        race.run("xor", [one], folder=tmp_path / "new", **TERMS)
    assert not (tmp_path / "new").exists()
