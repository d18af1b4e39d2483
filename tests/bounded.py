"""Least squares within bounds: the classics, with bounds that cut off their minimum or do not.

Each is residuals of at most `WIDTH` parameters, filled up with zeros, so that one compiled program
serves them all, by `residuals(params, index)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WIDTH, ROWS = 4, 20
GRID = np.linspace(0.1, 3, ROWS)
TARGETS = 2 * np.exp(-1.3 * GRID) + 0.05 * np.sin(17 * GRID)
BARD = np.array([
    0.14,
    0.18,
    0.22,
    0.25,
    0.29,
    0.32,
    0.35,
    0.39,
    0.37,
    0.58,
    0.73,
    0.96,
    1.34,
    2.1,
    4.39,
])
KOWALIK = (
    np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]),
    np.array([
        0.1957,
        0.1947,
        0.1735,
        0.16,
        0.0844,
        0.0627,
        0.0456,
        0.0342,
        0.0323,
        0.0235,
        0.0246,
    ]),
)
MISRA = (
    np.array([77.6, 114.9, 141.1, 190.8, 239.9, 289, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1,
              689.1, 760]),
    np.array([10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.4,
              75.47, 81.78]),
)  # fmt: skip


class Problem(NamedTuple):
    """Residuals, a start and bounds."""

    residuals: object
    start: tuple
    lower: tuple
    upper: tuple


def rosenbrock(p):
    return jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


def powell(p):
    return jnp.stack([
        p[0] + 10 * p[1],
        5**0.5 * (p[2] - p[3]),
        (p[1] - 2 * p[2]) ** 2,
        10**0.5 * (p[0] - p[3]) ** 2,
    ])


def helical(p):
    turn = jnp.arctan2(p[1], p[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (p[2] - 10 * turn), 10 * (jnp.hypot(p[0], p[1]) - 1), p[2]])


def beale(p):
    return jnp.stack([c - p[0] * (1 - p[1] ** k) for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))])


def freudenstein(p):
    return jnp.stack([
        -13 + p[0] + ((5 - p[1]) * p[1] - 2) * p[1],
        -29 + p[0] + ((p[1] + 1) * p[1] - 14) * p[1],
    ])


def bard(p):
    u = jnp.arange(1.0, 16)
    v = 16 - u
    return BARD - (p[0] + u / (v * p[1] + jnp.minimum(u, v) * p[2]))


def kowalik(p):
    u, y = KOWALIK
    return y - p[0] * (u**2 + u * p[1]) / (u**2 + u * p[2] + p[3])


def box(p):
    t = jnp.arange(1.0, 11) / 10
    return jnp.exp(-t * p[0]) - jnp.exp(-t * p[1]) - p[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def jennrich(p):
    i = jnp.arange(1.0, 11)
    return 2 + 2 * i - (jnp.exp(i * p[0]) + jnp.exp(i * p[1]))


def brown_dennis(p):
    t = jnp.arange(1.0, 21) / 5
    return (p[0] + t * p[1] - jnp.exp(t)) ** 2 + (p[2] + p[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def wood(p):
    return jnp.stack([
        10 * (p[1] - p[0] ** 2),
        1 - p[0],
        90**0.5 * (p[3] - p[2] ** 2),
        1 - p[2],
        10**0.5 * (p[1] + p[3] - 2),
        (p[1] - p[3]) / 10**0.5,
    ])


def misra(p):
    x, y = MISRA
    return y - 100 * p[0] * (1 - jnp.exp(-p[1] * x / 1000))


def decay(p):
    return p[0] * jnp.exp(-p[1] * GRID) + p[2] - TARGETS


def linear(p):
    rows = jnp.asarray(np.vander(GRID, 4))
    return rows @ p - jnp.asarray(np.cos(GRID))


OPEN = np.inf
PROBLEMS = {
    "rosenbrock, free": Problem(rosenbrock, (-1.2, 1.0), (-2, -2), (2, 2)),
    "rosenbrock, cut off": Problem(rosenbrock, (-1.2, 1.0), (-2, -2), (0.5, 2)),
    "rosenbrock, from a corner": Problem(rosenbrock, (-2.0, 2.0), (-2, 0), (0.8, 2)),
    "rosenbrock, above the valley": Problem(rosenbrock, (-1.2, 2.0), (-OPEN, 1.5), (OPEN, OPEN)),
    "powell, free": Problem(powell, (3.0, -1, 0, 1), (-5,) * 4, (5,) * 4),
    "powell, cut off": Problem(powell, (3.0, -1, 0, 1), (0.1, -OPEN, -OPEN, -OPEN), (OPEN,) * 4),
    "helical, cut off": Problem(helical, (-1.0, 0.5, 0), (-OPEN, -1, -1), (0.8, 1, 1)),
    "beale, free": Problem(beale, (1.0, 1), (0.6, 0.5), (10, 100)),
    "beale, cut off": Problem(beale, (1.0, 0.5), (-OPEN, -OPEN), (2, OPEN)),
    "freudenstein": Problem(freudenstein, (0.5, -2), (-20, -20), (20, -0.95)),
    "bard, free": Problem(bard, (1.0, 1, 1), (0, 0, 0), (OPEN,) * 3),
    "bard, cut off": Problem(bard, (1.0, 1, 1), (0.1, 0, 0), (50, 1, 50)),
    "kowalik": Problem(kowalik, (0.25, 0.39, 0.415, 0.39), (0, 0, 0, 0.2), (0.42, 0.42, 1, 1)),
    "box, cut off": Problem(box, (0.0, 9, 20), (0, 5, 0), (2, 9.5, 20)),
    "jennrich": Problem(jennrich, (0.3, 0.4), (0, 0.26), (OPEN, OPEN)),
    "brown and dennis": Problem(
        brown_dennis, (25.0, 5, -5, -1), (-10, 0, -100, -20), (100, 15, 0, 0.2)
    ),
    "wood, cut off": Problem(wood, (0.0, -1, 0, -1), (-OPEN,) * 4, (OPEN, OPEN, 0.7, OPEN)),
    "misra, positive": Problem(misra, (5.0, 0.1), (0, 0), (OPEN, OPEN)),
    "decay, no offset": Problem(decay, (1.0, 1, 0.5), (0, 0, 0), (OPEN, 1.2, OPEN)),
    "linear, non-negative": Problem(linear, (1.0, 1, 1, 1), (0, 0, 0, 0), (OPEN,) * 4),
}


def filled(numbers, rest):
    """Four numbers, the last of them of no meaning."""
    return np.array([*numbers, *[rest] * (WIDTH - len(numbers))], float)


MODELS = [*dict.fromkeys(problem.residuals for problem in PROBLEMS.values())]


def index_of(name):
    """The number of the residuals of a problem."""
    return MODELS.index(PROBLEMS[name].residuals)


def _padded(model):
    size = next(len(p.start) for p in PROBLEMS.values() if p.residuals is model)

    def padded(p):
        r = model(p[:size])
        return jnp.concatenate([r, jnp.zeros(ROWS - len(r))])

    return padded


def residuals(params, index):
    """The residuals of a problem, as many of each."""
    return jax.lax.switch(index, [_padded(model) for model in MODELS], params)


residuals_of = jax.jit(residuals)


@jax.jit
def rows_of(params, index):
    """Their derivatives."""
    return jax.jacfwd(residuals)(params, index)
