"""The statistics of a race: medians, comparisons, ranks, profiles and sensitivity.

All are functions of arrays, whose first axis is seeds or instances. Lower is better everywhere:
values are losses, or costs until a target. Infinity stands for a run that diverged or never
arrived. It takes part in medians and in ranks, and two infinities are equal.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special, stats

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
    with a probability between 91 % (13 seeds) and 98 %; it is 96 % for 12 and for 30 seeds.

    Args:
        values: numbers whose first axis is the seeds; infinity is a miss.
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
    _require_numbers("median_interval", values)
    n = len(values)
    at_most = stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    first = int(np.argmax(at_most >= (1 - confidence) / 2))
    ordered = np.sort(values, axis=0)
    return Interval(ordered[first], np.median(values, axis=0), ordered[n - 1 - first])


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
    if len(ranks) <= 50:
        p = _exact(ranks, (1 - abs(effect)) * total / 2)
    else:
        deviation = math.sqrt(float(np.sum(ranks**2))) / 2
        p = 2 * stats.norm.sf(abs(effect) * total / 2 / deviation)
    return SignedRank(min(1.0, float(p)), effect)


def _exact(ranks: Float[np.ndarray, " n"], smaller: float) -> float:
    """Twice the probability that the ranks of one random sign add up to at most `smaller`."""
    halves = np.rint(2 * ranks).astype(int)  # mid-ranks are multiples of a half
    probability = np.zeros(int(np.sum(halves)) + 1)
    probability[0] = 1
    for half in halves:
        probability /= 2
        probability[half:] += probability[:-half].copy()
    return 2 * float(np.sum(probability[: round(2 * smaller) + 1]))


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
    """A rule beside the best.

    Attributes:
        median: the median of its values.
        mean_rank: the mean over the seeds of its rank among all rules; 1 is the lowest.
        p: the p-value of equality with the best, corrected for all comparisons and for the way in
            which the best was chosen; 1 for the best itself.
        effect: the rank-biserial correlation, 1 where it is higher than the best in every seed.
        verdict: "lowest median"; "worse"; "tied", where the test shows no difference; "differs",
            where it shows one that favors the rule with the higher median; or "too few seeds to
            tell".
    """

    median: float
    mean_rank: float
    p: float
    effect: float
    verdict: str


class Comparison(NamedTuple):
    """Rules beside the best of them.

    Attributes:
        best: the rule with the lowest median; among equals, the one with the lowest mean rank.
        standings: the standing of every rule, from the lowest median to the highest.
        seeds: the number of seeds.
        alpha: the largest probability that any of the differences is a false one.
    """

    best: str
    standings: dict[str, Standing]
    seeds: int
    alpha: float


def compare(values: Mapping[str, ArrayLike], *, alpha: float = 0.05) -> Comparison:
    """Which rules are worse than the best.

    Every other rule is compared with the best, and only with it, by Wilcoxon's signed-rank test of
    the pairs that a seed makes, with Holm's correction: the smallest of m p-values is multiplied by
    m, the next by m - 1, and none is smaller than the one before.

    That alone is not honest, because the best is chosen by the same values: of equal rules, the
    lucky one is compared with the unlucky ones. So every step of Holm's procedure first asks, by
    Friedman's test, whether the rules still in question, the best among them, differ at all, and
    its p-value is the larger of the two. A rule that is clearly worse leaves the question before
    the next one is asked, so that it does not vouch for the others.

    In 1000 simulated races between equal rules, with 12 and with 30 seeds, the share that reported
    a difference was 5 % with 2 rules, 2 to 4 % with 3 to 12, and 1 to 5 % where one or three worse
    rules raced along. Without Friedman's test it was 5, 7, 9 and 11 % with 3, 5, 8 and 12 rules. A
    rule that was better than the others by 1.5 standard deviations of a pair's member was told from
    70 to 79 % of them with 12 seeds (from 78 to 84 % without Friedman's test).

    Args:
        values: for each rule one number for each seed, in the same order of seeds; infinity is a
            miss. No rules, no seeds, unequal numbers of them and nan raise a ValueError.
        alpha: the largest probability of any false difference.

    Returns:
        The best and the standing of all; "too few seeds to tell" with fewer than `MINIMUM_SEEDS`.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal
        of Statistics 6, 65-70; Demsar (2006), section 3.2, for Friedman's test before others.

    Example:
        >>> seeds = np.arange(12.0)
        >>> compared = compare({"slow": seeds + 1, "fast": seeds, "twin": seeds})
        >>> for name, standing in compared.standings.items():
        ...     print(name, f"{standing.p:.4f}", standing.verdict)
        fast 1.0000 lowest median
        twin 1.0000 tied
        slow 0.0010 worse
    """
    names, table = _table("compare", values)
    medians = np.median(table, axis=0)
    mean_ranks = np.mean(stats.rankdata(table, axis=1), axis=0)
    order = [int(i) for i in np.lexsort((mean_ranks, medians))]
    best = order[0]
    tests = {i: signed_rank(table[:, best], table[:, i]) for i in order[1:]}
    p = {best: 1.0} | _step_down(table, best, {i: test.p for i, test in tests.items()})
    standings = {}
    for i in order:
        effect = tests[i].effect if i in tests else 0.0
        if i == best:
            verdict = "lowest median"
        elif len(table) < MINIMUM_SEEDS:
            verdict = "too few seeds to tell"
        elif p[i] > alpha:
            verdict = "tied"
        else:
            verdict = "worse" if effect > 0 else "differs"
        standings[names[i]] = Standing(
            float(medians[i]), float(mean_ranks[i]), p[i], effect, verdict
        )
    return Comparison(names[best], standings, len(table), alpha)


def _step_down(
    table: Float[np.ndarray, "seeds rules"], best: int, p: dict[int, float]
) -> dict[int, float]:
    """Holm's procedure, with Friedman's test of the rules still in question at each step."""
    ascending = sorted(p, key=lambda i: p[i])
    corrected, largest = {}, 0.0
    for place, i in enumerate(ascending):
        others = ascending[place:]
        differ_at_all = 0.0
        if len(others) > 1 and len(table) > 1:
            differ_at_all = friedman(table[:, [best, *others]])
        largest = max(largest, min(1.0, len(others) * p[i]), differ_at_all)
        corrected[i] = largest
    return corrected


# Ranks over problems ------------------------------------------------------------------------------


class CriticalDifference(NamedTuple):
    """Mean ranks over blocks (problems, or seeds), and the difference between two that counts.

    Attributes:
        mean_ranks: the mean rank of each rule, ascending; 1 is the lowest value in every block.
        difference: two rules differ if their mean ranks differ by more than this.
        groups: the largest sets of two and more rules that are not told apart, in order.
        p: the p-value of Friedman's test, whether any rules differ.
        blocks: the number of blocks.
    """

    mean_ranks: dict[str, float]
    difference: float
    groups: list[tuple[str, ...]]
    p: float
    blocks: int


def critical_difference(
    values_by_block: Mapping[str, ArrayLike], alpha: float = 0.05
) -> CriticalDifference:
    """Nemenyi's test of all rules against each other, the critical-difference diagram's numbers.

    difference = q sqrt(k (k + 1) / (6 n)) of k rules in n blocks, with q the quantile of the
    studentized range over sqrt(2).

    Args:
        values_by_block: for each rule one number for each block (problem, or seed), in the same
            order of blocks; ties get the mean of their ranks. Fewer than two rules or blocks,
            unequal numbers of them and nan raise a ValueError.
        alpha: the largest probability of any false difference.

    Returns:
        Mean ranks, the difference, and groups.

    Source:
        Demsar (2006), "Statistical comparisons of classifiers over multiple data sets", section
        3.2.2 and table 5, Journal of Machine Learning Research 7, 1-30.

    Example:
        >>> ranked = critical_difference({"a": [1, 1, 1, 1], "b": [2, 3, 2, 3], "c": [3, 2, 3, 2]})
        >>> ranked.mean_ranks
        {'a': 1.0, 'b': 2.5, 'c': 2.5}
        >>> print(f"{ranked.difference:.3f}", ranked.groups)
        1.657 [('a', 'b', 'c')]
    """
    names, table = _table("critical_difference", values_by_block)
    blocks, k = table.shape
    p = friedman(table)
    mean_ranks = np.mean(stats.rankdata(table, axis=1), axis=0)
    quantile = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
    difference = quantile * math.sqrt(k * (k + 1) / (6 * blocks))
    order = np.argsort(mean_ranks, kind="stable")
    ordered = mean_ranks[order]
    ends = np.searchsorted(ordered, ordered + difference, side="right")
    groups = [
        tuple(names[i] for i in order[start:end])
        for start, end in enumerate(ends)
        if end - start > 1 and (start == 0 or end > ends[start - 1])
    ]
    return CriticalDifference(
        {names[i]: float(mean_ranks[i]) for i in order}, difference, groups, p, blocks
    )


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
