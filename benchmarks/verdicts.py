"""What the test of a race finds in simulated races: what is there, and what is not.

    uv run --extra race benchmarks/verdicts.py [RACES]

Every race has 12 seeds; 2000 races are drawn. `false` is the share of races of equal rules in which
any rule gets a verdict, beside a baseline and beside the best of them. `found` is the share of
races in which a rule is told from the baseline that is lower by one standard deviation of the
differences within a pair, or of its own values where seeds make so large a share of their variance;
where it is the baseline that is lower, the share in which any rule is told from it.
"""

import sys

import numpy as np

from fnn.race.report import statistics

SEEDS = 12
ALIKE = {
    "normal noise": lambda noise, start: noise + start,
    "factors": lambda noise, start: np.exp(noise) + np.exp(2 * start),
    "ties": lambda noise, start: np.round(noise + start),
    "heavy tails": lambda noise, start: start + noise / np.abs(start),
    "runs that diverge": lambda noise, start: np.where(noise + start > 0.7, np.inf, noise),
}
PLANTED = {
    "one of two rules": (2, 12, 0.5, 1),
    "one of eight": (8, 12, 0.5, 1),
    "one of eight, 18 seeds": (8, 18, 0.5, 1),
    "one of eight, one deviation of its own values, seeds 0.75": (8, 12, 0.75, 1),
    "the baseline among eight": (8, 12, 0.5, 0),
}


def told(values, baseline):
    """The rules that get a verdict."""
    compared = statistics.compare(dict(enumerate(values)), baseline)
    verdicts = {rule: standing.verdict for rule, standing in compared.standings.items()}
    return [rule for rule, word in verdicts.items() if word in ("better", "worse", "differs")]


def main(races=2000):
    """Prints both tables."""
    rng = np.random.default_rng(0)
    print("false, eight equal rules: beside a baseline, beside the best")
    for name, values_of in ALIKE.items():
        false = np.zeros(2)
        for _ in range(races):
            values = values_of(rng.normal(size=(8, SEEDS)), rng.normal(size=SEEDS))
            false += [bool(told(values, baseline)) for baseline in (0, None)]
        print(f"  {name:60}{false[0] / races:7.1%}{false[1] / races:7.1%}")
    print("found, a rule that is lower by one standard deviation")
    for name, (rules, seeds, start, planted) in PLANTED.items():
        found = 0
        for _ in range(races):
            common, own = rng.normal(size=seeds), rng.normal(size=(rules, seeds))
            values = np.sqrt(1 - start) * own + np.sqrt(start) * common
            values[planted] -= 1
            seen = told(values, 0)
            found += bool(seen) if planted == 0 else planted in seen
        print(f"  {name:60}{found / races:7.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
