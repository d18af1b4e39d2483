"""A race from terms to results: what is written down, what goes on, and what is refused."""

import errno
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import problems, race
from fnn.objective import Objective
from fnn.problems import Budget
from fnn.race import failures, meter, pricing, protocol, records, report, runner, store
from fnn.race.alone import Timing
from fnn.race.entrants import ENTRANTS, Entrant
from fnn.race.protocol import TUNING_SEEDS
from fnn.race.report import findings

TERMS = {"seeds": 2, "trials": 3, "budget": Budget(30, "steps")}


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """The programs of a rule on a problem, for all races of this module in this process."""
    kept, compiled = {}, runner.lanes.programs

    def programs(problem, one, setting, most):
        original, *_ = getattr(one.make, "args", [one])
        if original is not ENTRANTS.get(one.name) or problem.name not in problems.PROBLEMS:
            return compiled(problem, one, setting, most)
        key = problem.name, one.name, *setting, most
        if key not in kept:
            kept[key] = compiled(problem, one, setting, most)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.lanes, "programs", programs)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("race")
    race.run("xor", ["adam", "lbfgs"], folder=folder, **TERMS)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return race.read(folder)


def lines(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def content(folder):
    """The lines and the curves of a store, seconds aside."""
    told = lines(folder)
    for line in told:
        for name in ("seconds", "compile_seconds", "spread", "waited"):
            line.pop(name, None)
    curves = {p.name: p.read_bytes() for p in sorted((folder / "curves").iterdir())}
    return told, (folder / "race.json").read_text(), curves


def test_a_race_leaves_a_page_and_a_page_that_fails_loses_no_race(folder, found, monkeypatch):
    page = folder / report.PAGE
    assert page.read_text() == report.html([found])
    page.unlink()

    def fails(*_):
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr(report, "write", fails)
    said = f"the page in {folder} was not written .ZeroDivisionError: no picture.*fnn report"
    with pytest.warns(UserWarning, match=said):
        again = race.run("xor", ["adam", "lbfgs"], folder=folder, **TERMS)
    assert [result.rule for result in again.results] == ["adam", "lbfgs"]


def test_every_run_is_a_line_that_says_how_to_repeat_it(folder):
    runs = [line for line in lines(folder) if line["kind"] == "run"]
    assert [(r["rule"], r["stage"], r["seed"]) for r in runs] == [
        *[("adam", f"round-{i}", seed) for i in (1, 2, 3) for _ in "ab" for seed in TUNING_SEEDS],
        *[("adam", "seed", i) for i in (0, 1)],
        *[("lbfgs", "seed", i) for i in (0, 1)],
    ]
    assert set(runs[0]["versions"]) == {"fnn", "jax", "jaxlib", "optax", "numpy", "scipy"}
    assert runs[0]["setting"] == ENTRANTS["adam"].defaults == {"learning_rate": 1e-3}
    for key in ("problem", "device", "float64", "code", "steps", "batch", "protocol", "stopped"):
        assert all(key in run for run in runs)


def test_the_choice_is_by_the_validation_loss_of_the_trials(found, folder):
    adam = found.results[0]
    told = lines(folder)
    trials = [run for run in told if run.get("stage", "").startswith("round")]
    seen = np.array([run["validation"] for run in trials]).reshape(6, 2)
    np.testing.assert_array_equal(adam.tuning, seen)
    assert adam.chosen == np.argmin(np.median(seen, axis=1))
    assert adam.settings == [run["setting"] for run in trials[::2]]
    # A whole run has 30 steps, and shorter ones would have fewer than ten: there is no final.
    assert {run["steps"] for run in trials} == {7}
    assert adam.rungs == (7, 0)
    assert np.isnan(adam.finals).all()
    lbfgs = found.results[1]
    assert (lbfgs.rungs, lbfgs.tuning_spent["steps"]) == ((0, 0), 0)
    assert np.isnan(lbfgs.finals).all()
    assert {run["setting"]["learning_rate"] for run in lines(folder) if run.get("stage") == "seed"
            and run["rule"] == "adam"} == {adam.setting["learning_rate"]}  # fmt: skip


def test_five_costs(found):
    for result in found.results:
        assert list(result.costs) == list(problems.COSTS)
        for cost in result.costs.values():
            assert cost.shape == result.validation.shape == result.train.shape == (2, 30)
            assert (np.diff(cost) > 0).all()
        np.testing.assert_array_equal(result.costs["examples"], 4 * result.costs["steps"])
    adam, lbfgs = found.results
    unit = meter.gradient_flops(problems.get("xor"))
    beside = adam.costs["flops"] - unit * adam.costs["steps"]  # a step's moments
    expected = adam.costs["steps"] + 0.1 * beside / unit
    np.testing.assert_allclose(adam.costs["gradients"], expected, rtol=1e-5)
    assert (lbfgs.costs["gradients"] > 1.5 * lbfgs.costs["steps"]).all()  # its line search
    seconds = np.median(adam.run_seconds)
    np.testing.assert_allclose(adam.costs["seconds"][:, -1], seconds)
    assert len(adam.run_seconds) == 2
    assert adam.compile_seconds > 0


def test_time_to_target(found):
    adam = found.results[0]._replace(
        validation=np.array([[3.0, 1.0, 2.0], [3.0, 3.0, 3.0]]),
        costs={"steps": np.array([[1.0, 2.0, 3.0]] * 2)},
    )
    assert adam.to_target(1.0, "steps").tolist() == [2, np.inf]
    assert adam.to_target(5.0, "steps").tolist() == [1, 1]


def test_a_race_that_is_done_is_not_run_again(folder):
    before = (folder / "runs.jsonl").read_bytes()
    seen = []
    race.run(
        "xor", ["adam", "lbfgs"], folder=folder, watch=lambda what, _: seen.append(what), **TERMS
    )
    assert seen == ["compiling", "done"]
    assert (folder / "runs.jsonl").read_bytes() == before


@pytest.mark.gate
def test_a_race_goes_on_wherever_it_was_cut(folder, tmp_path):
    """Before each group of lines and after its first one, and half of the next line is written."""
    whole, expected = (folder / "runs.jsonl").read_bytes(), content(folder)
    cut = whole.splitlines(keepends=True)
    groups = [(line["rule"], line.get("stage", line["kind"])) for line in lines(folder)]
    firsts = {groups.index(group) for group in groups}
    for n in sorted(firsts | {first + 1 for first in firsts} - {len(cut)}):
        part = tmp_path / str(n)
        part.mkdir()
        (part / "race.json").write_bytes((folder / "race.json").read_bytes())
        (part / "runs.jsonl").write_bytes(b"".join(cut[:n]) + cut[n][: len(cut[n]) // 2])
        (part / "curves").mkdir()
        for curves in (folder / "curves").iterdir():
            (part / "curves" / curves.name).write_bytes(curves.read_bytes())
        race.run("xor", ["adam", "lbfgs"], folder=part, **TERMS)
        assert content(part) == expected


SCRIPT = textwrap.dedent(
    """
    import sys
    import jax
    jax.config.update("jax_enable_x64", True)
    from fnn import race
    from fnn.problems import Budget
    budget = Budget(30, "steps")
    race.run("xor", ["adam", "lbfgs"], seeds=2, trials=3, budget=budget, folder=sys.argv[1],
             watch=lambda what, _: print(what, flush=True))
    """
)


@pytest.mark.gate
@pytest.mark.parametrize("when", ["tuning adam", "timing adam", "racing lbfgs"])
def test_a_race_that_is_killed_goes_on_with_the_same_numbers(folder, tmp_path, when):
    """SIGKILL as soon as that begins; the rest is done here."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for said in child.stdout:
            if said.strip() == when:
                time.sleep(0.01)
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    race.run("xor", ["adam", "lbfgs"], folder=tmp_path, **TERMS)
    assert content(tmp_path) == content(folder)


def bad(problem):
    del problem
    raise TypeError("no such rule")


def random_steps(problem):
    del problem
    return optax.chain(optax.scale(0.0), optax.add_noise(1.0, 0.0, 0))


def test_who_cannot_race_is_left_out_and_said(tmp_path):
    racing = [Entrant("bad", bad), "adam", "newton", "kfac", Entrant("random", random_steps)]
    terms = {"seeds": 2, "trials": 0, "budget": Budget(20, "steps"), "folder": tmp_path}
    found = race.run("bowl", racing, **terms)
    assert [result.rule for result in found.results] == ["adam", "newton", "random"]
    assert [result.setting for result in found.results] == [{"learning_rate": 1e-3}, {}, {}]
    assert any("bad was left out: TypeError: no such rule" in said for said in found.caveats)
    assert any("kfac was left out: it needs examples" in said for said in found.caveats)


def raising(when, error=RuntimeError):
    """An entrant that raises in `init`, while `update` is traced, or while that is running."""

    def fail(grad=None):
        raise error(f"no luck,\nin {when}" if grad is None else "no luck, while running")

    def make(problem, learning_rate):
        del problem

        def init(params):
            return fail() if when == "init" else optax.sgd(learning_rate).init(params)

        def update(updates, state, params=None):
            del params
            if when == "update":
                fail()
            host = functools.partial(jax.pure_callback, fail, vmap_method="sequential")
            return jax.tree.map(lambda grad: host(grad, grad), updates), state

        return optax.GradientTransformation(init, update)

    return Entrant(when, make, {"learning_rate": (1.0, 100.0)})


def test_a_rule_that_raises_is_left_out_and_the_rest_goes_on(tmp_path):
    needing = raising("needs")._replace(needs=(lambda _: {}["nothing"],))
    racing = [*map(raising, ("init", "update", "running")), needing, "adam"]
    terms = {"seeds": 2, "trials": 3, "budget": Budget(20, "steps"), "folder": tmp_path}
    found = race.run("xor", racing, **terms)
    assert [result.rule for result in found.results] == ["adam"]
    reasons = {line["rule"]: line["why"] for line in lines(tmp_path) if line["kind"] == "left_out"}
    assert reasons.keys() == {"init", "update", "running", "needs"}
    assert reasons["init"] == "RuntimeError: no luck, in init"
    assert reasons["update"] == "RuntimeError: no luck, in update"
    assert reasons["running"].endswith("RuntimeError: no luck, while running")
    assert max(map(len, reasons.values())) < 410  # though JAX quotes a whole traceback
    assert reasons["needs"] == "KeyError: 'nothing'"
    assert {f"{rule} was left out: {why}" for rule, why in reasons.items()} <= set(found.caveats)
    page = report.html([found], ["race"])
    assert all(f"{rule} was left out: " in page for rule in reasons)
    # Left out is done: the same race has nothing to do any more.
    before = (tmp_path / "runs.jsonl").read_bytes()
    race.run("xor", racing, **terms)
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_a_race_in_which_all_rules_raise_ends_with_their_reasons(tmp_path):
    racing = [raising("init"), raising("update")]
    with pytest.raises(RuntimeError, match=r"a rule that comes to its end.*init was.*update was"):
        race.run("xor", racing, **TERMS, folder=tmp_path)


def test_an_interrupt_ends_the_race_and_leaves_no_rule_out(tmp_path):
    racing = [raising("init", KeyboardInterrupt), "adam"]
    with pytest.raises(KeyboardInterrupt):
        race.run("xor", racing, folder=tmp_path, **TERMS)
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_rule_that_would_end_the_process_is_to_blame():
    with (
        pytest.raises(failures.RuleFailedError, match="SystemExit: 3"),
        failures.blaming_the_rule(),
    ):
        sys.exit(3)


def test_what_waited_is_one_sentence_and_what_is_withheld_is_not_rough(tmp_path):
    seconds = {"adam": (0.0, 0.23), "sgd": (0.5, 0.2), "kfac": (0.5, 0.0), "lbfgs": (0.0, 0.0)}
    kept = [
        records.Seconds(rule, [1.0], 1.0, spread, waited)
        for rule, (spread, waited) in seconds.items()
    ]
    said = store._caveats_of_seconds(
        store.Store(tmp_path, {}, kept, threading.Lock()), list(seconds), {"kfac": "not quiet"}
    )
    assert said == [
        "The seconds of sgd are rough: readings of one run did not agree.",
        "Other processes had the processor in up to 23% of the time while seconds were measured "
        "(adam, sgd); what a rule waited is not counted.",
    ]


def test_a_rule_that_diverges_is_infinite_from_there_on(tmp_path):
    def burst(problem, learning_rate):
        del problem
        return optax.scale(jnp.nan * learning_rate)

    rule = Entrant("burst", burst, {"learning_rate": (1.0, 100.0)})
    terms = {"seeds": 2, "trials": 2, "budget": Budget(20, "steps"), "folder": tmp_path}
    (result,) = race.run("xor", [rule], **terms).results
    assert result.stopped == ["non_finite"] * 2
    assert np.isinf(result.validation[:, -1]).all()
    assert np.isinf(result.tuning).all()
    assert "burst diverged from 2 of 2 seeds." in race.read(tmp_path).caveats
    said = "No setting of burst came through its runs; the first was taken."
    assert said in race.read(tmp_path).caveats
    assert result.chosen == 0


def test_where_all_diverge_in_the_final_the_best_of_the_rounds_is_taken(tmp_path):
    def late(problem, learning_rate):
        del problem
        return optax.scale_by_schedule(
            lambda count: jnp.where(count < 30, 0.0, jnp.nan) * learning_rate
        )

    rule = Entrant("late", late, {"learning_rate": (1.0, 100.0)})
    terms = {"seeds": 2, "trials": 3, "budget": Budget(200, "steps"), "folder": tmp_path}
    race_of_one = race.run("xor", [rule], **terms)
    (result,) = race_of_one.results
    short, long = result.rungs
    assert short < 30 <= long
    assert np.isfinite(result.tuning).all()
    assert result.chosen == 0  # All settings tie in the rounds.
    said = "No setting of late came through its longer runs; the best of the shorter ones was "
    assert f"{said}taken." in race_of_one.caveats


def test_a_copy_ties_and_random_steps_come_last(tmp_path):
    adam = ENTRANTS["adam"]
    racing = [Entrant("random", random_steps), adam, adam._replace(name="copy")]
    terms = {"seeds": 12, "trials": 2, "budget": Budget(100, "steps"), "folder": tmp_path}
    standings = findings.comparison(race.run("iris", racing, **terms)).standings
    assert list(standings)[-1] == "random"
    assert standings["random"].verdict == "worse"
    (other,) = (s for rule, s in standings.items() if s.verdict == "not told apart")
    assert (other.p, other.effect) == (1, 0)


# What a budget buys -------------------------------------------------------------------------------


def test_a_race_repeats_and_every_seed_spends_them_itself(tmp_path):
    terms = TERMS | {"budget": Budget(3e5, "flops")}
    found = race.run("xor", ["adam", "lbfgs"], folder=tmp_path / "one", **terms)
    race.run("xor", ["adam", "lbfgs"], folder=tmp_path / "two", **terms)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    for result in found.results:
        spent, steps = result.costs["flops"], result.costs["steps"]
        dearest = np.diff(spent, prepend=0).max(axis=1)
        assert (spent[:, -1] >= 3e5 * (1 - 1e-6)).all()
        assert (spent[:, -1] - 3e5 < dearest).all()
        assert result.stopped == ["budget"] * 2
        assert (steps[:, -1] > 10).all()
    adam, lbfgs = found.results
    assert adam.costs["steps"][0, -1] == adam.costs["steps"][1, -1]
    assert lbfgs.costs["steps"][0, -1] != lbfgs.costs["steps"][1, -1]  # its line searches
    assert found.withheld == {}


def clock(*prices):
    """A stand-in for runs alone, in each of which a step takes the next of some seconds."""
    following = itertools.chain(prices, itertools.repeat(prices[-1]))

    def measure(setting, seeds, steps):
        del setting, seeds
        return Timing([next(following) * n for n in steps], 1.0, 0.0)

    return measure


def test_seconds_become_steps_by_the_least_of_readings_that_agree(monkeypatch):
    monkeypatch.setattr(pricing, "_PAUSE", 0.0)
    budget = Budget(2.0, "seconds")
    assert pricing.counted_budget(budget, clock(0.01), {}, [0]) == (200, "steps")
    disturbed = clock(0.05, 0.07, 0.01)  # a step tells what to measure, and then a whole run
    assert pricing.counted_budget(budget, disturbed, {}, [0]) == (200, "steps")
    little = Budget(1e-3, "seconds")
    assert pricing.counted_budget(little, clock(0.01), {}, [0]) == (pytest.approx(0.1), "steps")
    assert pricing.counted_budget(Budget(5.0, "flops"), clock(1.0), {}, [0]) == (5, "flops")


def test_readings_that_never_agree_are_said_to_be_apart(monkeypatch):
    monkeypatch.setattr(pricing, "_PAUSE", 0.0)
    growing = iter(2.0**n for n in range(100))

    def measure(setting, seeds, steps):
        del setting, steps
        return Timing([next(growing) for _ in seeds], 1.0, 0.5)

    reading = pricing.settled(measure, {}, [0, 1], [10, 10])
    assert reading.seconds == [1.0, 2.0]
    assert (reading.spread, reading.waited) == (3.0, 0.5)
    run = run_of(0, steps=50, flops=1e6)
    why = pricing.objection(Budget(1.0, "seconds"), reading, [run])
    assert why.startswith("the machine was not quiet: two readings of one run are 300% apart")
    assert pricing.objection(Budget(1.0, "flops"), reading, [run]) is None


@pytest.mark.parametrize(
    ("prices", "budgets", "why"),
    [
        ([1e-3], [200], None),
        ([1e-3] * 13 + [1e-2], [200, 20], None),
        (
            [1e-3] * 13 + [2e-3] * 3 + [4e-3] * 3 + [8e-3],
            [200, 100, 50],
            "its runs took 2 times the seconds",
        ),
    ],
)
def test_a_rule_races_again_until_its_seconds_are_those_of_the_budget(
    tmp_path, monkeypatch, prices, budgets, why
):
    """Thirteen readings plan it; where its steps take longer after that, it gets fewer of them."""
    monkeypatch.setattr(pricing, "_PAUSE", 0.0)
    compiled, timed = runner.lanes.programs, clock(*prices)
    monkeypatch.setattr(
        runner.lanes, "programs", lambda *asked: compiled(*asked)._replace(alone=timed)
    )
    terms = {"seeds": 2, "trials": 0, "budget": Budget(0.2, "seconds"), "folder": tmp_path}
    found = race.run("xor", ["sgd"], **terms)
    choices = [line["budget"] for line in lines(tmp_path) if line["kind"] == "choice"]
    assert choices == [[steps, "steps"] for steps in budgets]
    assert found.results[0].costs["steps"][:, -1].tolist() == [budgets[-1]] * 2
    assert found.results[0].run_seconds == pytest.approx([budgets[-1] * prices[-1]] * 2)
    assert found.withheld.keys() == ({"sgd"} if why else set())
    assert why is None or found.withheld["sgd"].startswith(why)
    before = (tmp_path / "runs.jsonl").read_bytes()
    assert race.run("xor", ["sgd"], **terms).withheld == found.withheld
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def run_of(seed, stopped="budget", **numbers):
    """The record of a run of L-BFGS."""
    about = {"rule": "lbfgs", "stage": "seed", "trial": 0, "setting": {}, "batch": 4}
    losses = {"train": 0.1, "validation": 0.1, "test": 0.1}
    return records.Run(
        seed=seed, stopped=stopped, curves="lbfgs-seeds.npz", **about, **losses, **numbers
    )


def test_seeds_whose_steps_cost_more_are_given_so_many_flops():
    """Here the line searches of one seed take three times as many trials as those of the other."""
    budget, choice = Budget(1.0, "seconds"), records.Choice("lbfgs", 0, [100, "steps"])
    runs = [run_of(0, steps=100, flops=1e6), run_of(1, steps=100, flops=3e6)]
    other = pricing.corrected(budget, choice, [1.0, 3.0], runs)
    assert (other.budget, other.price) == ([1e6, "flops"], 2e4)
    # From there on the price of a flop is corrected.
    runs = [run_of(0, steps=100, flops=1e6), run_of(1, steps=33, flops=1e6)]
    assert pricing.corrected(budget, other, [2.0, 2.0], runs).budget == [5e5, "flops"]
    assert pricing.corrected(budget, other, [1.05, 0.95], runs) is None
    arrived = [run_of(seed, "stalled", steps=3, flops=1e4) for seed in (0, 1)]
    assert pricing.corrected(budget, choice, [0.01, 0.03], arrived) is None
    assert pricing.objection(budget, pricing.Reading([0.01, 0.03], 1, 0, 0), arrived) is None


def test_a_run_is_as_long_as_the_loop_takes_a_budget_to_be_reached():
    """The price is a quotient of sums in float32; a run of 100,000 steps is not one step longer."""
    budget = Budget(1e8, "flops")
    assert pricing.expected_steps(budget, 1e3 * (1 - 2e-7)) == 100_000
    assert pricing.expected_steps(budget, 1e3 * (1 + 2e-7)) == 100_000
    assert pricing.expected_steps(Budget(10.5, "steps"), 1.0) == 11


@pytest.mark.parametrize("unit", ["examples", "gradients", "flops"])
def test_budgets_buy_steps(unit):
    problem, adam = problems.get("xor"), ENTRANTS["adam"]
    setting = {"learning_rate": 0.01}
    run = runner.lanes.programs(problem, adam, setting, 2).run

    def bought(amount, unit):
        return run([setting] * 2, [0, 1], Budget(amount, unit))

    one = bought(1, "steps")
    flops, model = float(one.flops[0, 0]), float(one.model[0, 0])
    gradients = meter.in_gradients(flops, model, meter.gradient_flops(problem))
    price = {"examples": 4, "gradients": gradients, "flops": flops}[unit]
    assert bought(100 * price, unit).steps[:, -1].tolist() == [100, 100]
    assert bought(1e-9, unit).steps[:, -1].tolist() == [1, 1]


def idle(problem):
    """A rule that never asks the model, nor does anything else."""
    del problem
    return optax.set_to_zero()


@pytest.mark.parametrize("unit", ["gradients", "flops"])
def test_a_rule_that_spends_nothing_comes_to_its_end(tmp_path, unit):
    terms = {"seeds": 1, "trials": 0, "folder": tmp_path}
    unit_of = {"gradients": 1.0, "flops": meter.gradient_flops(problems.get("xor"))}
    found = race.run(
        "xor", [Entrant("idle", idle)], budget=Budget(20 * unit_of[unit], unit), **terms
    )
    assert found.results[0].costs["steps"][0, -1] == 80  # four examples
    assert found.results[0].costs["flops"][0, -1] == 0


def test_too_little_for_ten_steps_is_said_at_once(tmp_path):
    unit = meter.gradient_flops(problems.get("xor"))
    terms = {"seeds": 2, "trials": 0, "folder": tmp_path / "none"}
    seen = []
    with pytest.raises(ValueError, match=r"at least 10 steps.*fewer of adam, lbfgs; try .* flops"):
        race.run(
            "xor", ["adam", "lbfgs"], budget=Budget(2 * unit, "flops"),
            watch=lambda what, _: seen.append(what), **terms,
        )  # fmt: skip
    assert seen == ["compiling", "planning adam", "planning lbfgs"]
    terms["folder"], budget = tmp_path / "some", Budget(40 * unit, "flops")

    def stopped(what, _):
        if what == "tuning lbfgs":
            raise KeyboardInterrupt

    said = r"fewer of lbfgs; try .* No verdict on these rules"
    with pytest.warns(UserWarning, match=said), pytest.raises(KeyboardInterrupt):
        race.run("xor", ["adam", "lbfgs"], budget=budget, watch=stopped, **terms)
    with pytest.warns(UserWarning, match=said):  # the dear rule is not judged alone
        found = race.run("xor", ["adam", "lbfgs"], budget=budget, **terms)
    assert [result.rule for result in found.results] == ["adam", "lbfgs"]
    assert found.withheld.keys() == {"lbfgs"}
    assert re.match(r"its budget bought \d steps.*try .* flops\.", found.withheld["lbfgs"])
    steps = race.run(  # who asks for three steps gets them, and whatever they say
        "xor", ["adam"], seeds=2, trials=0, budget=Budget(3, "steps"), folder=tmp_path / "steps"
    )
    assert steps.withheld == {}


# Misuse and trouble -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"seeds": 0}, "seeds of at least 1, got 0"),
        ({"trials": -1}, "trials of at least 0, got -1"),
        ({"budget": Budget(10, "hours")}, "a budget in one of steps, examples"),
        ({"budget": Budget(0.0, "seconds")}, "a budget above 0 seconds"),
        ({"budget": Budget(100)}, r"got Budget.* without a unit; try Budget\(100, 'steps'\)"),
        ({"budget": (100, "flops")}, r"got \(100, 'flops'\); try Budget\(100, 'flops'\)"),
        ({"budget": Budget("ten", "steps")}, r"got 'ten' steps; try Budget\(10, 'steps'\)"),
        ({"budget": 100}, r"got 100 without a unit; try Budget\(100, 'steps'\)"),
        ({"problem": "digitz"}, "did you mean 'digits'"),
    ],
)
def test_misuse_raises_before_anything_is_written(tmp_path, terms, message):
    terms = {"problem": "xor", "rules": ["adam"], "folder": tmp_path / "new"} | terms
    with pytest.raises(ValueError, match=message):
        race.run(**terms)
    assert not (tmp_path / "new").exists()


def test_a_folder_is_of_one_race(folder, tmp_path):
    with pytest.raises(ValueError, match="hold this very race, got another one: its protocol"):
        race.run("xor", ["adam"], folder=folder, **TERMS | {"seeds": 3})
    with pytest.raises(ValueError, match=r"expected .* to be the folder of a race"):
        race.read(tmp_path)
    (tmp_path / "runs.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"to be new or to hold race\.json"):
        race.run("xor", ["adam"], folder=tmp_path, **TERMS)


OTHERS = {
    "training data": lambda p: p._replace(train=(p.train[0], 5 * p.train[1])),
    "validation data": lambda p: p._replace(validation=(p.validation[0], 5 * p.validation[1])),
    "test data": lambda p: p._replace(test=jax.tree.map(lambda a: a + 1, p.test)),
    "start": lambda p: p._replace(init=lambda key: jax.tree.map(lambda a: 2 * a, p.init(key))),
    "model and loss": lambda p: p._replace(objective=doubled(p.objective)),
    "measure": lambda p: p._replace(measure=p.measure._replace(of=lambda *a: 2 * p.measure.of(*a))),
}


def doubled(objective):
    """An objective whose model's outputs are twice as large."""
    return Objective(lambda params, x: 2 * objective.model(params, x), objective.loss)


@pytest.mark.parametrize("what", OTHERS)
def test_a_problem_of_the_same_name_is_another_race(folder, what):
    other = OTHERS[what](problems.get("xor"))
    with pytest.raises(ValueError, match=f"got another one: its .*{what}.* differ, .* in place"):
        race.run(other, ["adam"], folder=folder, **TERMS)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("program", {"make": lambda _, **setting: optax.adam(**setting, b1=0.8)}),
        ("program", {"make": lambda *_, **__: 1 / 0}),
        ("space", {"space": {"learning_rate": (1e-3, 1e1)}}),
        ("defaults", {"defaults": {"learning_rate": 1e-1}}),
    ],
)
def test_a_rule_of_the_same_name_is_another_race(folder, what, change):
    before = (folder / "runs.jsonl").read_bytes()
    other = ENTRANTS["adam"]._replace(**change)
    with pytest.raises(ValueError, match=f"another rule adam: its .*{what}.* differ, .* in place"):
        race.run("xor", [other], folder=folder, **TERMS)
    assert (folder / "runs.jsonl").read_bytes() == before


def test_another_batch_is_another_race(folder):
    halves = problems.get("xor")._replace(batch_size=2)
    with pytest.raises(
        ValueError, match=r"another rule adam: its batch, program differ, 4 in place of 2"
    ):
        race.run(halves, ["adam"], folder=folder, **TERMS)


def test_a_rule_that_was_mended_is_another_one_than_that_which_was_left_out(tmp_path):
    terms = TERMS | {"folder": tmp_path}
    race.run("xor", [Entrant("mine", bad), "sgd"], **terms)
    mended = Entrant("mine", random_steps)
    with pytest.raises(ValueError, match=r"another rule mine: its .*program differ"):
        race.run("xor", [mended, "sgd"], **terms)


def test_two_races_do_not_share_a_folder(tmp_path):
    terms = protocol.Protocol(1, 1, Budget(1, "steps"))
    problem = problems.get("xor")
    twice = pytest.raises(OSError, match="another race is writing")
    with store.opened(tmp_path, problem, terms), twice, store.opened(tmp_path, problem, terms):
        pass
    with store.opened(tmp_path, problem, terms) as again:
        assert again.records == []


def test_a_torn_line_is_not_read_and_is_cut_off(folder, tmp_path):
    (tmp_path / "race.json").write_bytes((folder / "race.json").read_bytes())
    whole = (folder / "runs.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "runs.jsonl").write_bytes(whole + b'{"kind": "ru')
    assert race.read(tmp_path).results == []
    assert race.read(tmp_path).caveats == ["adam is not done yet."]
    terms = protocol.Protocol(TERMS["trials"], TERMS["seeds"], TERMS["budget"])
    with store.opened(tmp_path, problems.get("xor"), terms) as again:
        assert len(again.records) == 1
    assert (tmp_path / "runs.jsonl").read_bytes() == whole


@pytest.mark.parametrize("damaged", [b"3\n", b'{"kind": "run", "rule": "adam"}\n', b"\xff\n"])
def test_a_damaged_line_gives_way_and_a_foreign_one_is_passed_over(folder, tmp_path, damaged):
    (tmp_path / "race.json").write_bytes((folder / "race.json").read_bytes())
    first, second, *_ = (folder / "runs.jsonl").read_bytes().splitlines(keepends=True)
    foreign = b'{"kind": "of a later version", "rule": "adam"}\n'
    (tmp_path / "runs.jsonl").write_bytes(first + foreign + second + damaged + second)
    terms = protocol.Protocol(TERMS["trials"], TERMS["seeds"], TERMS["budget"])
    with store.opened(tmp_path, problems.get("xor"), terms) as again:
        assert [type(record) for record in again.records] == [records.Entered] * 2
    assert (tmp_path / "runs.jsonl").read_bytes() == first + foreign + second


def test_a_record_is_its_line_and_back(folder):
    about = json.loads((folder / "race.json").read_text())
    for line in (folder / "runs.jsonl").read_bytes().splitlines(keepends=True):
        record = records.from_line(line)
        assert type(record).__name__.lower() == json.loads(line)["kind"]
        assert records.to_line(record, about).encode() == line
    lost = records.Run("sgd", "seed", 0, 1, {}, 4, 9, np.inf, 0.5, np.nan, "non_finite", "sgd.npz")
    again = records.from_line(records.to_line(lost, about).encode())
    assert np.isnan([again.train, again.test]).all()
    assert again.loss == lost.loss == np.inf


def test_a_race_from_before_budgets_were_counted_is_read(folder, found, tmp_path):
    """It has plans and choices of so many steps, and says neither what was entered nor spreads."""
    newer = "budget", "price", "spread", "waited", "identity"
    older = [
        {key: entry for key, entry in line.items() if key not in newer}
        | ({"steps": 30} if line["kind"] in ("plan", "choice") else {})
        for line in lines(folder)
        if line["kind"] != "entered"
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in older))
    (tmp_path / "race.json").write_bytes((folder / "race.json").read_bytes())
    shutil.copytree(folder / "curves", tmp_path / "curves")
    again = race.read(tmp_path)
    assert again.withheld == {}
    for one, other in zip(again.results, found.results, strict=True):
        np.testing.assert_array_equal(one.validation, other.validation)
        np.testing.assert_array_equal(one.costs["seconds"], other.costs["seconds"])


def test_a_full_disk_leaves_what_was_finished(folder, tmp_path, monkeypatch):
    calls, fsync = [], os.fsync

    def full(fd):
        calls.append(fd)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            race.run("xor", ["adam", "lbfgs"], folder=tmp_path, **TERMS)
    assert race.read(tmp_path).results == []
    race.run("xor", ["adam", "lbfgs"], folder=tmp_path, **TERMS)
    assert content(tmp_path) == content(folder)


def test_what_is_not_finite_is_null_in_json():
    assert records.plain({"a": np.float32(np.inf), "b": [np.int32(3)]}) == {"a": None, "b": [3]}
