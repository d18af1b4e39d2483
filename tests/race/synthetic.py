"""Races that were never run: what tables and figures are tested with."""

import numpy as np

from fnn.race.result import Race, Result

RATES = {"steps": 40.0, "examples": 1280.0, "gradients": 1.1, "flops": 3.1e7, "seconds": 0.013}


def race(rules, *, seeds=12, rounds=25, trials=5, name="digits", random=0, target=0.05):
    """A race of rules that fall at speeds of their own, some seeds missing the target.

    Args:
        rules: for each rule its speed; 0 diverges with a third of its seeds.
    """
    generator = np.random.default_rng(random)
    results = [
        _result(rule, speed, generator, seeds, rounds, trials, name)
        for rule, speed in rules.items()
    ]
    header = {
        "problem": name,
        "summary": "1797 handwritten digits, a 64-32-10 network <&> 100 % real",
        "source": "Alpaydin and Kaynak (1998)",
        "target": target,
        "measure": "accuracy",
        "highest": True,
        "protocol": {
            "track": "external",
            "trials": trials,
            "seeds": seeds,
            "budget": [2.0, "seconds"],
        },
        "versions": {"fnn": "0.1.0", "jax": "0.10.2"},
        "device": "cpu",
        "code": "2f179cb",
    }
    return Race(header, results, ["killed once, and went on"])


def _result(rule, speed, generator, seeds, rounds, trials, problem):
    rate = np.exp(0.08 * generator.normal(size=(seeds, 1)))
    at = np.arange(1, rounds + 1) * rate
    floor = 0.03 * np.exp(0.12 * generator.normal(size=(seeds, 1))) / (0.3 + speed)
    train = 2.3 * np.exp(-0.4 * max(speed, 0.1) * at) + 0.3 * floor
    validation = 2.3 * np.exp(-0.35 * max(speed, 0.1) * at) + floor
    stopped = ["budget"] * seeds
    test = 0.97 - floor[:, 0] + 0.003 * generator.normal(size=seeds)
    if speed == 0:
        for seed in range(0, seeds, 3):
            train[seed, rounds // 2 :] = validation[seed, rounds // 2 :] = np.inf
            stopped[seed], test[seed] = "non_finite", np.nan
    settings = [{"learning_rate": 10.0 ** (-3 + 0.5 * i)} for i in range(trials)]
    best = trials // 2
    tuning = floor[:3, 0] * (1 + 0.8 * np.abs(np.arange(trials)[:, None] - best) ** 2)
    if trials > 4:
        tuning[-1] = np.inf
    finals = np.where(np.arange(trials)[:, None] % 2 == best % 2, 0.9 * tuning, np.nan)
    slow = 1 + 3 * generator.random()
    costs = {
        cost: np.tile(np.arange(1, rounds + 1) * unit * slow, (seeds, 1))
        for cost, unit in RATES.items()
    }
    costs["seconds"] = costs["seconds"] * rate
    return Result(
        problem, rule, settings, best, tuning, finals, (10, 40), dict(RATES),
        list(range(100, 100 + seeds)), costs, train, validation, test, stopped, 32,
        1.5 * slow, costs["seconds"][:, -1],
    )  # fmt: skip
