"""The statistics of a race: medians, comparisons, profiles and sensitivity.

All are functions of arrays, whose first axis is seeds or instances. Lower is better everywhere:
values are losses, or costs until a target. Infinity stands for a run that diverged or never
arrived. It takes part in medians and in ranks, and two infinities are equal.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special, stats

Name = TypeVar("Name", int, str)

EXACT = 50
"""Pairs up to which the distribution of the signed ranks is counted."""
INTERVAL_SEEDS = 6
"""Seeds from which on an interval is one of 95 %: with fewer it goes from the lowest value to the
highest and covers 94 % at most."""
BEST_SOUND = "best with a verdict"
"""The verdict on the baseline where it is the best of the rules that are not withheld."""
MINIMUM_SEEDS = 12
"""With fewer seeds there is no verdict: a test of so few finds only large differences, or none."""


class Interval(NamedTuple):
    """A median, between the ends of its confidence interval."""

    low: Float[np.ndarray, "..."]
    median: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The median over seeds, and its bootstrap interval.

    The bootstrap distribution of a median is known: the k-th of n values drawn with replacement is
    at most the i-th of the original ones with the probability that a binomial number of n trials,
    each of probability i / n, is at least k. So nothing is drawn, and the same values always give
    the same interval. Its ends are values of the sample, without interpolation, and a miss at one
    end does not change the other. For a continuous distribution a 95 % interval covers the median
    with a probability between 91 % (13 seeds) and 98 % from 8 seeds on; it is 96 % for 12 and for
    30 seeds, and 88 % for 7. Up to 6 seeds it goes from the lowest value to the highest: it covers
    the median with 97 % for 6, and with 94, 88, 75 and 50 % for 5, 4, 3 and 2 of them.

    Args:
        values: numbers whose first axis is the seeds; infinity is a miss, and less than infinity is
            a difference from one.
        confidence: the confidence of the interval, between 0 and 1.

    Returns:
        Arrays with the shape of the other axes.

    Raises:
        ValueError: if there are no seeds, values that are not numbers, or another confidence.

    Source:
        Efron (1979), "Bootstrap methods: another look at the jackknife", section 3,
        doi:10.1214/aos/1176344552.

    Differs:
        For an even number of values the source's median is the mean of the two in the middle. Here
        the low end is of the distribution of the lower of the two, and the high end of the upper
        one's, so that the interval is never narrower.

    Example:
        >>> print(*median_interval(np.array([3.0, 1.0, 2.0, np.inf, 4.0])))
        1.0 3.0 inf
    """
    values = np.asarray(values, dtype=float)
    if not 0 < confidence < 1:
        raise ValueError(
            f"median_interval: expected a confidence between 0 and 1, got {confidence}; try 0.95"
        )
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"median_interval: expected seeds, got shape {values.shape}")
    if np.any(np.isnan(values)):
        raise ValueError("median_interval: expected numbers, got nan; try infinity for a miss")
    n = len(values)
    at_most = stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    first = int(np.argmax(at_most >= (1 - confidence) / 2))
    ordered = np.sort(values, axis=0)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    median = np.add(low, high, where=low != -high, out=np.zeros_like(low)) / 2
    return Interval(ordered[first], median, ordered[n - 1 - first])


# Comparisons --------------------------------------------------------------------------------------


class SignedRank(NamedTuple):
    """The result of Wilcoxon's test of pairs.

    Attributes:
        p: the two-sided p-value.
        effect: the rank-biserial correlation, from -1 (the first is larger in every pair) to 1 (the
            second is); 0 where neither is.
    """

    p: float
    effect: float


def signed_rank(first: ArrayLike, second: ArrayLike) -> SignedRank:
    """Wilcoxon's signed-rank test of pairs; lower is better, infinity a miss.

    Equal pairs say nothing and are left out, two misses among them; if all are equal, p is 1. The
    difference between a miss and a number is larger than all others. For up to 50 pairs the
    distribution is exact: that of these very ranks, ties included, under all changes of sign.

    Args:
        first: one value for each pair.
        second: likewise.

    Returns:
        The p-value and the size of the difference.

    Raises:
        ValueError: if the shapes differ, or values are not numbers.

    Source:
        Wilcoxon (1945), "Individual comparisons by ranking methods", doi:10.2307/3001968; Kerby
        (2014), "The simple difference formula", doi:10.2466/11.IT.3.1, for the effect.

    Example:
        >>> signed_rank([1.0, 2.0, 3.0], [2.0, 4.0, np.inf])
        SignedRank(p=0.25, effect=1.0)
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"signed_rank: expected pairs, got shapes {first.shape} and {second.shape}; try the "
            "same seeds for both"
        )
    _require_numbers("signed_rank", np.stack([first, second]))
    unequal = first != second
    differences = second[unequal] - first[unequal]
    if not len(differences):
        return SignedRank(1.0, 0.0)
    ranks = stats.rankdata(np.abs(differences))
    total = float(np.sum(ranks))
    effect = 2 * float(np.sum(ranks[differences > 0])) / total - 1
    if len(ranks) <= EXACT:
        p = _exact(ranks, (1 - abs(effect)) * total / 2)
    else:
        deviation = math.sqrt(float(np.sum(ranks**2))) / 2
        p = 2 * stats.norm.sf(abs(effect) * total / 2 / deviation)
    return SignedRank(min(1.0, float(p)), effect)


def _exact(ranks: Float[np.ndarray, " n"], smaller: float) -> float:
    """Twice the probability that the ranks of one random sign add up to at most `smaller`."""
    halves = np.sort(np.rint(2 * ranks).astype(int))  # mid-ranks are multiples of a half
    return 2 * float(np.sum(_sums(tuple(halves.tolist()))[: round(2 * smaller) + 1]))


@functools.lru_cache(maxsize=64)
def _sums(halves: tuple[int, ...]) -> Float[np.ndarray, " sums"]:
    """The probability of each sum of numbers of which each takes part with a probability of 1/2."""
    probability = np.zeros(sum(halves) + 1)
    probability[0] = 1
    for half in halves:
        probability /= 2
        probability[half:] += probability[:-half].copy()
    return probability


def friedman(values: ArrayLike) -> float:
    """The p-value of Friedman's test whether rules differ at all, by their ranks in each block.

    Args:
        values: one row for each block, one column for each rule; ties get the mean of their ranks.

    Returns:
        The p-value, by the F distribution of Iman and Davenport, which is nearer to the truth with
        few blocks than Friedman's chi-square; 1 where all values of each block are equal.

    Raises:
        ValueError: if there are fewer than two rules or blocks, or values that are not numbers.

    Source:
        Friedman (1937), doi:10.2307/2279372; Iman and Davenport (1980),
        doi:10.1080/03610928008827904.

    Example:
        >>> bool(friedman([[1.0, 2.0, 3.0]] * 5 + [[1.0, 3.0, 2.0]]) < 0.01)
        True
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(
            f"friedman: expected at least two blocks and two rules, got shape {values.shape}"
        )
    _require_numbers("friedman", values)
    blocks, rules = values.shape
    ranks = stats.rankdata(values, axis=1) - (rules + 1) / 2
    spread = np.sum(ranks**2) / (blocks * (rules - 1))  # rules (rules + 1) / 12 without ties
    if spread == 0:
        return 1.0
    chi_square = blocks * np.sum(np.mean(ranks, axis=0) ** 2) / spread
    most = blocks * (rules - 1)
    if chi_square >= most * (1 - 1e-12):  # the same ranks in every block: counted
        _, ties = np.unique(ranks[0], return_counts=True)
        orders = math.factorial(rules) / math.prod(math.factorial(tie) for tie in ties)
        return orders ** (1.0 - blocks)
    ratio = (blocks - 1) * chi_square / (most - chi_square)
    return float(special.fdtrc(rules - 1, (rules - 1) * (blocks - 1), ratio))


class Standing(NamedTuple):
    """A rule beside the baseline.

    Attributes:
        median: the median of its values.
        mean_rank: the mean over the seeds of its rank among all rules; 1 is the lowest.
        p: the p-value of equality with the baseline, corrected for all comparisons, and for the way
            in which the best was chosen where that is the baseline; 1 for the baseline itself and
            where there is no test.
        effect: the rank-biserial correlation, 1 where it is higher than the baseline in every seed
            and -1 where it is lower.
        verdict: "baseline", or "lowest median" where the best is the baseline, "best with a
            verdict" where a lower one is withheld; "better" or "worse"; "not told apart", where the
            test shows no difference; "differs", where it shows one that favors the rule with the
            higher median; "too few seeds to tell"; or "withheld".
    """

    median: float
    mean_rank: float
    p: float
    effect: float
    verdict: str


_TOLD_APART = "better", "worse", "differs"
"""The verdicts of a difference that the test shows."""


class Comparison(NamedTuple):
    """Rules beside a baseline: every view of a race takes its verdicts from here.

    Attributes:
        best: the rule with the lowest median; among equals, the one with the lowest mean rank.
        baseline: the rule that all others were tested against.
        standings: the standing of every rule, from the lowest median to the highest.
        tests: how many of them were tested, for which p-values are corrected.
        seeds: the number of seeds, or of other units that make pairs.
        alpha: the largest probability that any of the differences is a false one.
    """

    best: str
    baseline: str
    standings: dict[str, Standing]
    tests: int
    seeds: int
    alpha: float

    @property
    def chosen(self) -> bool:
        """Whether the baseline is the best by these values, and was not named beforehand."""
        return self.standings[self.baseline].verdict != "baseline"

    @property
    def mean_ranks(self) -> dict[str, float]:
        """The mean rank of every rule, ascending."""
        ranks = {rule: standing.mean_rank for rule, standing in self.standings.items()}
        return dict(sorted(ranks.items(), key=lambda pair: pair[1]))

    @property
    def alike(self) -> tuple[str, ...]:
        """The baseline and the rules that are not told apart from it, by their mean ranks."""
        verdicts = {rule: standing.verdict for rule, standing in self.standings.items()}
        return tuple(rule for rule in self.mean_ranks if verdicts[rule] not in _TOLD_APART)

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The bars of a diagram of mean ranks: `alike`, where that is more than the baseline."""
        return [self.alike] if len(self.alike) > 1 else []


def compare(
    values: Mapping[str, ArrayLike],
    baseline: str | None = None,
    *,
    withheld: Collection[str] = (),
    alpha: float = 0.05,
) -> Comparison:
    """Which rules are better or worse than a baseline: the one test of a race.

    Hypotheses: to exchange a rule and the baseline within a seed would change nothing, so that
    their differences are symmetric about 0; one hypothesis for each rule. Unit: the seed, which is
    the same starting point and order of examples for all rules. Test: Wilcoxon's of pairs,
    two-sided, exact up to 50 seeds, see `signed_rank`. Correction: Holm's, so that a race has a
    false difference with a probability of at most alpha: the smallest of m p-values is multiplied
    by m, the next by m - 1, and none is smaller than the one before. Rules are not tested against
    each other: of 9 rules that would be 36 hypotheses in place of 8, and of 15 rules no test of 12
    seeds could tell any two apart.

    Without a baseline the best takes its place, and the correction must go further, because the
    best is chosen by the same values: of equal rules, the lucky one is compared with the unlucky
    ones. So every step of Holm's procedure first asks, by Friedman's test, whether the rules still
    in question, the best among them, differ at all, and its p-value is the larger of the two. A
    rule that is clearly worse leaves the question before the next one is asked, so that it does not
    vouch for the others.

    In 4000 simulated races of equal rules with 12 seeds, from 3 to 5 % had a difference from the
    baseline, of 2 to 9 rules alike. A rule that differs from the baseline by one standard deviation
    of the differences within a pair was found in 84 % of races between two rules and in 56 % of
    races between eight (in 84 % with 18 seeds); a baseline that differs so from seven equal rules
    was told from some of them in 94 %, and a best rule that does, in 78 %. One standard deviation
    of a rule's own values is more, because seeds make all rules better or worse together: where
    they make 0.75 of the variance, it was found in 99 and in 89 %, and where they make none of it,
    in 57 and in 23 %. Without a baseline, 5 % of 1000 races between equal rules had a difference
    with 2 rules, and 2 to 4 % with 3 to 12; it would be 5, 7, 9 and 11 % with 3, 5, 8 and 12 rules
    if Friedman's test were not asked.

    Args:
        values: for each rule one number for each seed, in the same order of seeds; infinity is a
            miss.
        baseline: the rule that the others are tested against, which must be known before the values
            are; None is the one with the lowest median.
        withheld: rules that get no verdict, because something was wrong with their runs. They are
            not tested; where the baseline is one of them, no rule is.
        alpha: the largest probability of any false difference.

    Returns:
        The best and the standing of all; "too few seeds to tell" with fewer than `MINIMUM_SEEDS`.

    Raises:
        ValueError: if there are no rules, no seeds, unequal numbers of them or nan, or if the
            baseline is not among the rules.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal
        of Statistics 6, 65-70; Demsar (2006), "Statistical comparisons of classifiers over multiple
        data sets", Journal of Machine Learning Research 7, 1-30, section 3.2.2 for comparisons with
        a control; Benavoli, Corani and Mangili (2016), "Should we really use post-hoc tests based
        on mean-ranks?", same journal 17, 1-10, for tests of pairs in place of mean ranks.

    Example:
        >>> seeds = np.arange(12.0)
        >>> compared = compare({"slow": seeds + 1, "fast": seeds, "twin": seeds}, "twin")
        >>> for name, standing in compared.standings.items():
        ...     print(name, f"{standing.p:.4f}", standing.verdict)
        fast 1.0000 not told apart
        twin 1.0000 baseline
        slow 0.0010 worse
    """
    names, table = _table("compare", values)
    if baseline is not None and baseline not in names:
        raise ValueError(f"compare: expected a baseline among {names}, got {baseline!r}")
    medians = np.median(table, axis=0)
    mean_ranks = np.mean(stats.rankdata(table, axis=1), axis=0)
    order = [int(i) for i in np.lexsort((mean_ranks, medians))]
    sound = [i for i in order if names[i] not in withheld]
    base = names.index(baseline) if baseline is not None else (sound or order)[0]
    tests = {i: signed_rank(table[:, base], table[:, i]) for i in order if i != base}
    asked = {i: tests[i].p for i in sound if i != base and base in sound}

    def differ_at_all(others: Sequence[int]) -> float:
        asks = baseline is None and len(others) > 1 and len(table) > 1
        return friedman(table[:, [base, *others]]) if asks else 0.0

    p = dict.fromkeys(order, 1.0) | _step_down(asked, differ_at_all)
    standings = {}
    for i in order:
        effect = tests[i].effect if i in tests else 0.0
        if i == base:
            chosen = "lowest median" if base == order[0] else BEST_SOUND
            chosen = chosen if i in sound else "withheld"
            verdict = chosen if baseline is None else "baseline"
        elif i not in asked:
            verdict = "withheld"
        elif len(table) < MINIMUM_SEEDS:
            verdict = "too few seeds to tell"
        elif p[i] > alpha:
            verdict = "not told apart"
        elif effect > 0:
            verdict = "worse" if medians[i] >= medians[base] else "differs"
        else:
            verdict = "better" if medians[i] <= medians[base] else "differs"
        standings[names[i]] = Standing(
            float(medians[i]), float(mean_ranks[i]), p[i], effect, verdict
        )
    return Comparison(names[order[0]], names[base], standings, len(asked), len(table), alpha)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """P-values by Holm's correction for their number.

    Args:
        p: the p-value of each hypothesis.

    Returns:
        The corrected ones, from the smallest up, at most 1.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal
        of Statistics 6, 65-70.

    Example:
        >>> holm({"a": 0.02, "b": 0.01, "c": 0.5})
        {'b': 0.03, 'a': 0.04, 'c': 0.5}
    """
    return _step_down(p, lambda _: 0.0)


def _step_down(
    p: Mapping[Name, float], differ_at_all: Callable[[Sequence[Name]], float]
) -> dict[Name, float]:
    """Holm's procedure, with another p-value of all that are still in question at each step."""
    ascending = sorted(p, key=lambda i: p[i])
    corrected, largest = {}, 0.0
    for place, i in enumerate(ascending):
        others = ascending[place:]
        largest = max(largest, min(1.0, len(others) * p[i]))
        if largest < 1:
            largest = max(largest, differ_at_all(others))
        corrected[i] = largest
    return corrected


# Profiles -----------------------------------------------------------------------------------------


class PerformanceProfile(NamedTuple):
    """How often each rule is nearly the fastest.

    Attributes:
        ratios: for each rule and each instance its time over that of the fastest rule; infinity
            for a miss.
        scores: for each rule the mean of its profile between ratios of 1 and `largest`: 1 if it is
            the fastest everywhere, 0 if it never comes within `largest` times of the fastest.
        largest: the ratio at which the scores end.
    """

    ratios: dict[str, Float[np.ndarray, " instances"]]
    scores: dict[str, float]
    largest: float

    def share(self, rule: str, ratio: ArrayLike) -> Float[np.ndarray, "..."]:
        """The profile rho: the share of instances that a rule solves within a ratio to the best."""
        ordered = np.sort(self.ratios[rule])
        within = np.searchsorted(ordered, np.asarray(ratio, dtype=float), side="right")
        solved = np.sum(np.isfinite(ordered))
        return np.minimum(within, solved) / len(ordered)


def performance_profile(times: Mapping[str, ArrayLike], largest: float = 4.0) -> PerformanceProfile:
    """Performance profiles, and AlgoPerf's score.

    score = integral of rho from 1 to `largest`, over (largest - 1), and rho(tau) the share of
    instances solved in at most tau times the time of the fastest rule; the integral of the step
    function, not of points on it.

    Args:
        times: for each rule one time (or other cost) for each instance, in the same order of
            instances; at least 0, infinity where the target was missed.
        largest: r_max, more than 1.

    Returns:
        Ratios and scores. Where no rule arrived, all ratios are infinite; where the fastest took no
        time at all, the ratios of slower rules are infinite.

    Raises:
        ValueError: if there are no rules or no instances, unequal numbers of them, times below 0 or
            not numbers, or another `largest`.

    Source:
        Dolan and More (2002), "Benchmarking optimization software with performance profiles",
        doi:10.1007/s101070100263; Dahl et al. (2023), "Benchmarking neural network training
        algorithms", arXiv:2306.07179, for the score and its end at 4.

    Example:
        >>> profile = performance_profile({"a": [1.0, 4.0], "b": [2.0, np.inf]})
        >>> print(profile.scores, profile.share("b", [1.0, 2.0, 4.0]))
        {'a': 1.0, 'b': 0.333...} [0.  0.5 0.5]
    """
    names, table = _table("performance_profile", times)
    if not largest > 1:
        raise ValueError(f"performance_profile: expected a largest above 1, got {largest}; try 4")
    if np.any(table < 0):
        raise ValueError(
            f"performance_profile: expected times of at least 0, got {np.min(table)}; losses have "
            "no ratios"
        )
    fastest = np.min(table, axis=1, keepdims=True)
    ratios = np.full_like(table, np.inf)
    arrived = np.isfinite(table) & np.isfinite(fastest)
    np.divide(table, fastest, out=ratios, where=arrived & (fastest > 0))
    ratios[arrived & (table == fastest)] = 1
    scores = np.mean(np.maximum(largest - ratios, 0), axis=0) / (largest - 1)
    return PerformanceProfile(
        {name: ratios[:, i] for i, name in enumerate(names)},
        {name: float(scores[i]) for i, name in enumerate(names)},
        largest,
    )


# Sensitivity --------------------------------------------------------------------------------------


class Sensitivity(NamedTuple):
    """The loss against one hyperparameter, and how wide its good range is.

    Attributes:
        name: the hyperparameter.
        setting: its values, ascending, each once.
        loss: the median over the seeds at each; infinity where most diverged.
        limit: the largest loss that counts as good.
        decades: the length of the good range, in powers of ten, between the settings of trials.
        share: the good range as a share of the range of the search.
    """

    name: str
    setting: Float[np.ndarray, " settings"]
    loss: Float[np.ndarray, " settings"]
    limit: float
    decades: float
    share: float


def sensitivity(
    settings: Sequence[Mapping[str, float]],
    losses: ArrayLike,
    name: str,
    *,
    factor: float = 1.5,
    tolerance: float | None = None,
    searched: tuple[float, float] | None = None,
) -> Sensitivity:
    """How much depends on one hyperparameter: the range in which the loss is nearly the best.

    Between two settings the loss counts as linear in the logarithm of the setting. Nothing counts
    as good next to a setting that diverged, nor beyond the settings of the trials. Among trials
    with the same value of the hyperparameter the best counts; where other hyperparameters vary
    along with it, the curve has their noise.

    Args:
        settings: the hyperparameters of each trial.
        losses: one row for each trial with its loss for each seed; infinity where it diverged.
        name: the hyperparameter; its values must be more than 0.
        factor: a loss of at most this times the best is good; at least 1. For losses that cannot be
            negative.
        tolerance: in place of the factor, how far above the best a loss may be.
        searched: the lowest and the highest value of the search; those of the trials, if None.

    Returns:
        The curve, and the length of its good range.

    Raises:
        ValueError: if there are no trials or another number of losses, a trial has no such
            hyperparameter, a value that is not positive, or the best loss is negative and a factor
            is to be used.

    Example:
        >>> settings = [{"learning_rate": rate} for rate in (0.001, 0.01, 0.1, 1.0)]
        >>> curve = sensitivity(settings, [[3.0], [1.0], [1.0], [np.inf]], "learning_rate")
        >>> print(f"{curve.decades:.2f} {curve.share:.3f}")
        1.25 0.417
    """
    losses = np.asarray(losses, dtype=float)
    if losses.ndim != 2 or len(settings) != len(losses) or 0 in losses.shape:
        raise ValueError(
            f"sensitivity: expected losses of {len(settings)} trials, each for at least one seed, "
            f"got shape {losses.shape}"
        )
    _require_numbers("sensitivity", losses)
    missing = [trial for trial in settings if name not in trial]
    if missing:
        raise ValueError(f"sensitivity: expected trials of {name}, got one of {list(missing[0])}")
    rates = np.array([float(trial[name]) for trial in settings])
    if not np.all(rates > 0):
        raise ValueError(
            f"sensitivity: expected values of {name} above 0, got {np.min(rates)}: it has no place "
            "on a logarithmic scale; try to leave that trial out"
        )
    setting = np.unique(rates)
    medians = np.median(losses, axis=1)
    loss = np.array([np.min(medians[rates == rate]) for rate in setting])
    best = float(np.min(loss))
    if tolerance is None and best < 0:
        raise ValueError(
            f"sensitivity: expected losses of at least 0 for a factor, got {best}; try tolerance="
        )
    limit = best * factor if tolerance is None else best + tolerance
    at = np.log10(setting)
    decades = _length_below(limit, at, loss) if np.isfinite(best) else 0.0
    span = float(np.ptp(np.log10(searched)) if searched is not None else np.ptp(at))
    return Sensitivity(name, setting, loss, limit, decades, decades / span if span else 0.0)


def _length_below(limit: float, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """The length of x over which y, linear between its points, is at most the limit."""
    low, high = np.minimum(y[:-1], y[1:]), np.maximum(y[:-1], y[1:])
    below = low <= limit
    part = np.where(below & (high <= limit), 1.0, 0.0)
    crossing = below & (high > limit) & np.isfinite(high)
    rise = np.where(crossing, high, 1.0) - np.where(crossing, low, 0.0)
    part = np.where(crossing, (limit - np.where(crossing, low, 0.0)) / rise, part)
    return float(np.sum(part * np.diff(x)))


# What is expected of values -----------------------------------------------------------------------


def _table(
    name: str, values: Mapping[str, ArrayLike]
) -> tuple[list[str], Float[np.ndarray, "n rules"]]:
    """The names, and the values side by side."""
    columns = [np.asarray(column, dtype=float) for column in values.values()]
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or (0,) in shapes:
        raise ValueError(
            f"{name}: expected for each rule one number for each seed, got shapes "
            f"{ {rule: np.shape(column) for rule, column in values.items()} }; try the same seeds "
            "for all rules"
        )
    table = np.stack(columns, axis=1)
    _require_numbers(name, table)
    return list(values), table


def _require_numbers(name: str, values: Float[np.ndarray, "..."]) -> None:
    """Raises a ValueError for NaN and for -inf, which is no miss."""
    if np.any(np.isnan(values) | (values == -np.inf)):
        raise ValueError(
            f"{name}: expected numbers, or infinity for a miss, got nan or -inf; try "
            "np.where(np.isfinite(values), values, np.inf)"
        )
