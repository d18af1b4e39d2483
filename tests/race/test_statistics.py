"""What is said of a race: by hand, by scipy, and in 4000 simulated races."""

import warnings

import numpy as np
import pytest
from scipy import stats

from fnn.race.report import statistics

INF = np.inf


# Medians ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [9, 21])
def test_the_interval_of_a_median_is_that_of_a_bootstrap_without_end(n):
    values = np.random.default_rng(n).normal(size=n)
    found = statistics.median_interval(values)
    drawn = stats.bootstrap(
        (values,), np.median, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_allclose([found.low, found.high], drawn)
    assert found.median == np.median(values)


@pytest.mark.parametrize(("n", "known"), [(12, 0.961), (13, 0.908), (30, 0.957)])
def test_the_interval_of_a_median_covers_it(n, known):
    values = np.random.default_rng(0).exponential(size=(n, 4000))
    low, _, high = statistics.median_interval(values)
    assert np.mean((low <= np.log(2)) & (np.log(2) <= high)) == pytest.approx(known, abs=0.015)


def test_misses_have_a_median_and_nothing_is_interpolated_between_them_and_numbers():
    values = np.array([[1, 1], [2, INF], [INF, INF], [4, INF], [3, 2.0], [5, INF]])
    low, median, high = statistics.median_interval(values)
    np.testing.assert_array_equal(median, [3.5, INF])
    np.testing.assert_array_equal(low, [1, 1])
    np.testing.assert_array_equal(high, [INF, INF])
    one = statistics.median_interval([7.0])
    assert one == (7, 7, 7)
    assert np.array_equal(statistics.median_interval(values)[0], low)


def test_differences_may_be_infinite_both_ways():
    assert statistics.median_interval([-INF, 0, INF]) == (-INF, 0, INF)
    assert statistics.median_interval([-INF, INF]).median == 0
    assert statistics.median_interval([-INF, -INF, 3.0, INF]).median == -INF


def test_a_higher_confidence_is_a_wider_interval():
    values = np.arange(21.0)
    ends = [statistics.median_interval(values, confidence) for confidence in (0.5, 0.9, 0.99)]
    assert ends[0].low > ends[1].low > ends[2].low
    assert all(end.low + end.high == 20 for end in ends)


# Pairs and blocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 12, 40, 90])
def test_pairs_are_tested_as_scipy_does(n):
    first, second = np.random.default_rng(n).normal(size=(2, n))
    p, effect = statistics.signed_rank(first, second + 0.3)
    ranks = stats.rankdata(np.abs(first - second - 0.3))
    theirs = stats.wilcoxon(first, second + 0.3, method="exact" if n <= 50 else "asymptotic")
    np.testing.assert_allclose(p, theirs.pvalue, rtol=1e-12)
    signed = np.sum(ranks * np.sign(second + 0.3 - first)) / np.sum(ranks)
    np.testing.assert_allclose(effect, signed, atol=1e-12)
    assert statistics.signed_rank(second + 0.3, first) == (pytest.approx(p), pytest.approx(-effect))


def test_tied_pairs_are_tested_by_all_changes_of_sign():
    first = np.array([1, 2, 3, 4, 5, 6, 7, INF, INF])
    second = np.array([2, 3, 4, 3, 7, 4, 7, INF, 1.0])  # two pairs are equal
    difference = np.array([1, 1, 1, -1, 2, -2, -INF])
    theirs = stats.permutation_test(
        (stats.rankdata(np.abs(difference)) * np.sign(difference),),
        lambda ranks: np.sum(ranks),
        permutation_type="samples",
        n_resamples=INF,
    )
    found = statistics.signed_rank(first, second)
    np.testing.assert_allclose(found.p, theirs.pvalue, rtol=1e-12)


def test_blocks_are_tested_as_scipy_does():
    rng = np.random.default_rng(0)
    tied = rng.integers(0, 4, size=(15, 5)).astype(float)
    chi_square = stats.friedmanchisquare(*tied.T).statistic
    theirs = stats.f.sf(14 * chi_square / (60 - chi_square), 4, 56)
    np.testing.assert_allclose(statistics.friedman(tied), theirs, rtol=1e-10)
    assert statistics.friedman(np.exp(tied)) == statistics.friedman(tied)
    assert statistics.friedman(np.full((6, 3), INF)) == 1
    np.testing.assert_allclose(statistics.friedman(np.tile([3.0, 1, 2], (4, 1))), 6**-3)
    np.testing.assert_allclose(statistics.friedman(np.tile([3.0, 1, 1], (4, 1))), 3**-3)


# Comparisons --------------------------------------------------------------------------------------


KINDS = {
    "normal": lambda noise, start: noise + start,
    "shared": lambda noise, start: np.exp(noise) + np.exp(2 * start),
    "ties": lambda noise, start: np.round(noise + start),
    "heavy tails": lambda noise, start: start + noise / np.abs(start),
    "infinities": lambda noise, start: np.where(noise + start > 0.7, INF, noise),
}
"""Values of equal rules, of which each has noise, and all have a seed's start in common."""


def races(rules, kind, count=200, seeds=12):
    """Races of equal rules by name, a row of values for each."""
    rng = np.random.default_rng(rules)
    for _ in range(count):
        noise, start = rng.normal(size=(rules, seeds)), rng.normal(size=seeds)
        yield KINDS[kind](noise, start)


def different(compared):
    told = "better", "worse", "differs"
    return [name for name, s in compared.standings.items() if s.verdict in told]


@pytest.mark.parametrize(
    ("rules", "kind"), [(8, kind) for kind in KINDS] + [(n, "shared") for n in (2, 3, 5)]
)
def test_among_equal_rules_differences_are_seldom_found(rules, kind):
    """At most 9 % of 200 races, beside a baseline and beside the best."""
    false = np.zeros(2)
    for values in races(rules, kind):
        named = dict(enumerate(values))
        false += [bool(different(statistics.compare(named, base))) for base in (0, None)]
    assert (false / 200 <= 0.09).all()


@pytest.mark.parametrize(
    ("rules", "start", "planted"),
    [(2, 0.5, 1), (8, 0.75, 1), (8, 0.5, 0)],
    ids=["one of two", "one of eight", "the baseline"],
)
def test_a_difference_of_one_standard_deviation_is_found(rules, start, planted):
    """In 80 % of 200 races and more; the seed's start makes a share of the variance of values.

    With a half, it is the standard deviation of the differences within a pair, too. One of eight
    rules is found where seeds matter more; a baseline that all differ from, in any case.
    """
    rng, count = np.random.default_rng(rules), 0
    for _ in range(200):
        common, own = rng.normal(size=12), rng.normal(size=(rules, 12))
        values = np.sqrt(1 - start) * own + np.sqrt(start) * common
        values[planted] -= 1
        found = different(statistics.compare(dict(enumerate(values)), 0))
        count += bool(found) if planted == 0 else planted in found
    assert count / 200 >= 0.8


def test_a_bad_rule_does_not_vouch_for_others():
    false = 0
    for values in races(5, "shared"):
        found = different(statistics.compare({"bad": values[0] + 1e6} | dict(enumerate(values))))
        assert "bad" in found
        false += len(found) > 1
    assert false / 200 <= 0.09


def test_a_planted_difference_is_found_a_copy_ties_and_the_bad_rule_comes_last():
    rng = np.random.default_rng(0)
    hard = rng.lognormal(size=30)
    named = {f"rule {i}": hard * rng.lognormal(sigma=0.1, size=30) for i in range(4)}
    better = hard * rng.lognormal(-0.3, sigma=0.1, size=30)
    bad = np.where(np.arange(30) < 20, INF, hard)
    compared = statistics.compare({"bad": bad, "better": better, "copy": better.copy()} | named)
    assert compared.best == "better"
    assert list(compared.standings)[:2] == ["better", "copy"]
    assert list(compared.standings)[-1] == "bad"
    assert different(compared) == list(compared.standings)[2:]
    copy, bad = compared.standings["copy"], compared.standings["bad"]
    assert (copy.p, copy.effect, copy.verdict) == (1, 0, "not told apart")
    assert (bad.median, bad.verdict) == (INF, "worse")
    assert bad.effect > 0.5


def test_holm_by_hand():
    """p of 2 / 2^12 three times: 6 / 2^12 is the smallest, and none is smaller than it."""
    seeds = np.arange(12.0)
    values = {"c": seeds + 2, "a": seeds, "d": seeds + 3, "b": seeds + 1}
    compared = statistics.compare(values)
    assert list(compared.standings) == ["a", "b", "c", "d"]
    assert [s.p for s in compared.standings.values()] == [1] + [pytest.approx(6 / 2**12)] * 3
    assert [s.mean_rank for s in compared.standings.values()] == [1, 2, 3, 4]
    assert compared.standings["b"].effect == 1


def test_two_rules_are_told_apart_by_their_pairs_alone():
    first, second = np.random.default_rng(2).normal(size=(2, 20))
    compared = statistics.compare({"first": first, "second": second + 0.7})
    assert compared.best == "first"
    theirs = stats.wilcoxon(first, second + 0.7).pvalue
    np.testing.assert_allclose(compared.standings["second"].p, theirs, rtol=1e-12)


def test_identical_runs_tie_without_a_warning():
    values = {name: np.array([1.0, INF] * 6) for name in "abc"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared = statistics.compare(values)
    assert [s.p for s in compared.standings.values()] == [1, 1, 1]
    assert [s.verdict for s in compared.standings.values()] == [
        "lowest median",
        "not told apart",
        "not told apart",
    ]
    assert compared.mean_ranks == {"a": 2, "b": 2, "c": 2}
    assert compared.alike == ("a", "b", "c")


def test_a_baseline_is_all_that_others_are_tested_against():
    """Four p-values of 2 / 2^12, and the twin's; nothing is corrected for how it was chosen."""
    seeds = np.arange(12.0)
    values = {"d": seeds + 3, "a": seeds, "twin": seeds + 1, "b": seeds + 1, "c": seeds + 2}
    compared = statistics.compare(values, "b")
    verdicts = {name: s.verdict for name, s in compared.standings.items()}
    assert verdicts == {
        "a": "better", "twin": "not told apart", "b": "baseline", "c": "worse", "d": "worse"
    }  # fmt: skip
    assert (compared.best, compared.baseline, compared.tests) == ("a", "b", 4)
    p = [compared.standings[name].p for name in "acd"]
    assert p == [pytest.approx(8 / 2**12)] * 3
    assert compared.standings["a"].effect == -1
    assert compared.alike == ("twin", "b")


def test_who_gets_no_verdict_is_not_tested_and_counts_for_no_correction():
    seeds = np.arange(12.0)
    values = {"a": seeds, "b": seeds + 1, "c": seeds + 2}
    compared = statistics.compare(values, "b", withheld=["a"])
    verdicts = [s.verdict for s in compared.standings.values()]
    assert verdicts == ["withheld", "baseline", "worse"]
    assert [s.p for s in compared.standings.values()] == [1, 1, pytest.approx(2 / 2**12)]
    assert (compared.best, compared.tests, compared.alike) == ("a", 1, ("a", "b"))
    compared = statistics.compare(values, withheld=["a"])
    assert (compared.best, compared.baseline, compared.chosen) == ("a", "b", True)
    assert compared.standings["b"].verdict == "best with a verdict"
    nobody = statistics.compare(values, "a", withheld=["a"])
    assert [s.verdict for s in nobody.standings.values()] == ["baseline"] + ["withheld"] * 2
    nobody = statistics.compare(values, withheld=values)
    assert (nobody.baseline, nobody.chosen) == ("a", True)
    assert [s.verdict for s in nobody.standings.values()] == ["withheld"] * 3


def test_too_few_seeds_give_no_verdict():
    for seeds in (1, 11):
        values = {"a": np.arange(seeds), "b": np.arange(seeds) + 1.0, "c": np.arange(seeds) + 9}
        verdicts = [s.verdict for s in statistics.compare(values).standings.values()]
        assert verdicts == ["lowest median"] + 2 * ["too few seeds to tell"]
    assert statistics.compare({"alone": [1.0]}).best == "alone"


def test_a_higher_median_with_lower_pairs_is_not_called_worse():
    """Hardly above in 21 pairs, far below in 19: the pairs speak against the median."""
    first = np.repeat([5.0, 7.0], [21, 19])
    second = np.repeat([5.1, 6.0], [21, 19])
    compared = statistics.compare({"first": first, "second": second})
    assert compared.best == "first"
    second = compared.standings["second"]
    assert second.p < 0.05
    assert (second.effect, second.verdict) == (pytest.approx(1 - 2 * 589 / 820), "differs")


def test_the_order_of_rules_and_the_unit_of_values_do_not_matter():
    values = np.random.default_rng(4).normal(size=(6, 14)) + np.arange(6)[:, None]
    forth = statistics.compare(dict(enumerate(values)))
    back = statistics.compare({i: values[i] for i in range(5, -1, -1)})
    assert forth == back
    assert list(forth.standings) == list(back.standings)
    scaled = statistics.compare(dict(enumerate(8 * values))).standings
    assert {i: s._replace(median=s.median / 8) for i, s in scaled.items()} == forth.standings


# Profiles and sensitivity -------------------------------------------------------------------------


def test_a_profile_by_hand():
    times = {
        "fast": [1.0, 2.0, 5.0, INF, INF],
        "slow": [2.0, 2.0, INF, INF, 6.0],
        "never": [INF] * 5,
        "late": [10.0, 3.0, 5.0, INF, 24.0],
    }
    profile = statistics.performance_profile(times)
    np.testing.assert_array_equal(profile.ratios["late"], [10, 1.5, 1, INF, 4])
    np.testing.assert_array_equal(profile.share("fast", [1, 2, 4, INF]), [0.6] * 4)
    np.testing.assert_array_equal(profile.share("slow", [0.9, 1, 1.99, 2]), [0, 0.4, 0.4, 0.6])
    np.testing.assert_array_equal(profile.share("never", [1, INF]), [0, 0])
    np.testing.assert_array_equal(profile.share("late", [1, 1.5, 4, 10]), [0.2, 0.4, 0.6, 0.8])
    assert profile.scores == pytest.approx({
        "fast": 0.6,
        "slow": (2 * 3 + 2) / 15,
        "never": 0,
        "late": (2.5 + 3) / 15,
    })


def test_the_score_is_the_integral_of_the_profile():
    times = dict(enumerate(np.random.default_rng(0).lognormal(size=(4, 30))))
    for largest in (2.0, 4.0):
        profile = statistics.performance_profile(times, largest)
        for rule, score in profile.scores.items():
            ends = np.unique(np.clip(np.r_[1.0, profile.ratios[rule], largest], 1, largest))
            area = np.sum(profile.share(rule, ends[:-1]) * np.diff(ends))
            np.testing.assert_allclose(score, area / (largest - 1), rtol=1e-12)


def test_who_had_arrived_at_the_start_took_no_time():
    profile = statistics.performance_profile({"a": [0.0, 0.0, 1.0], "b": [0.0, 3.0, 1.0]})
    np.testing.assert_array_equal(profile.ratios["a"], [1, 1, 1])
    np.testing.assert_array_equal(profile.ratios["b"], [1, INF, 1])


def test_sensitivity_by_hand():
    """Good up to 1.5 x 2: half a decade before 0.1 (4 -> 2), one to 1, a tenth after (2.5 -> 7.5).

    The trial of 0.1 with the lower loss counts, and the median over its seeds.
    """
    settings = [{"rate": rate, "decay": 0.9} for rate in (1.0, 0.01, 0.1, 0.1, 10.0, 100.0)]
    losses = [[2.5, 0, 9], [4, 4, 4], [2, 8, 1], [5, 5, 5], [7.5, 7.5, INF], [INF, INF, 1]]
    found = statistics.sensitivity(settings, losses, "rate")
    np.testing.assert_array_equal(found.setting, [0.01, 0.1, 1, 10, 100])
    np.testing.assert_array_equal(found.loss, [4, 2, 2.5, 7.5, INF])
    assert found.limit == 3
    np.testing.assert_allclose([found.decades, found.share], [1.6, 0.4])
    wide = statistics.sensitivity(settings, losses, "rate", tolerance=5.5, searched=(1e-4, 1e4))
    np.testing.assert_allclose([wide.limit, wide.decades, wide.share], [7.5, 3, 3 / 8])


def test_sensitivity_without_anything_good_or_anything_to_vary():
    rates = [{"rate": 0.1}, {"rate": 1.0}]
    assert statistics.sensitivity(rates, [[INF], [INF]], "rate").decades == 0
    assert statistics.sensitivity(rates, [[INF], [1.0]], "rate").decades == 0
    one = statistics.sensitivity(rates[:1], [[2.0]], "rate")
    assert (one.decades, one.share) == (0, 0)
    below = statistics.sensitivity(rates, [[-2.0], [-1.0]], "rate", tolerance=0.5)
    assert below.decades == pytest.approx(0.5)


# Misuse -------------------------------------------------------------------------------------------

RATES = [{"rate": 0.1}, {"rate": 1.0}]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: statistics.median_interval([]), "expected seeds"),
        (lambda: statistics.median_interval([np.nan]), "got nan"),
        (lambda: statistics.median_interval([1.0], 95), "try 0.95"),
        (lambda: statistics.signed_rank([1.0], [1.0, 2.0]), "same seeds"),
        (lambda: statistics.friedman(np.ones((1, 3))), "two blocks"),
        (lambda: statistics.compare({}), "one number for each seed"),
        (lambda: statistics.compare({"a": []}), "one number for each seed"),
        (lambda: statistics.compare({"a": [1, 2], "b": [1]}), r"'a': \(2,\), 'b': \(1,\)"),
        (lambda: statistics.compare({"a": [1, np.nan]}), "got nan"),
        (lambda: statistics.compare({"a": [1, -INF]}), "-inf"),
        (lambda: statistics.compare({"a": [1, 2]}, "b"), r"a baseline among \['a'\], got 'b'"),
        (lambda: statistics.performance_profile({"a": [-1.0]}), "at least 0, got -1"),
        (lambda: statistics.performance_profile({"a": [1.0]}, 1), "above 1"),
        (lambda: statistics.sensitivity(RATES, [[1.0]], "rate"), "losses of 2 trials"),
        (lambda: statistics.sensitivity(RATES, [[1.0], [2.0]], "decay"), "trials of decay"),
        (lambda: statistics.sensitivity(RATES, [[-1.0], [2.0]], "rate"), "tolerance="),
        (lambda: statistics.sensitivity([{"rate": 0}], [[1.0]], "rate"), "logarithmic"),
    ],
)
def test_misuse_raises(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
