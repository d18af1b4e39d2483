"""Numbers to predict from real measurements, and from a chaotic past.

Inputs and targets are standardized by the training examples, so that the root mean square error of
the best constant is about 1, and that of the chaotic series is the non-dimensional one of the
literature. Most of the progress of diabetes is noise to its inputs. The series is predicted from
x(t), x(t - 6), x(t - 12) and x(t - 18) at x(t + horizon), for t = 118 to 1117: the first 500
examples train, the next 250 validate, the last 250 test.

Source:
    diabetes      Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of
                  Statistics 32 (2004), as scikit-learn carries the data
    mackey-glass  Mackey and Glass, "Oscillation and chaos in physiological control systems",
                  Science 197 (1977), doi:10.1126/science.267326; the embedding and the range of t
                  of Jang, "ANFIS", IEEE Transactions on Systems, Man, and Cybernetics 23 (1993),
                  doi:10.1109/21.256541

Differs: Jang's last 500 examples all test; here half of them validate.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float

from fnn import data, losses
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import ERROR, network, standardized, supervised


def diabetes() -> Problem:
    """442 patients and the progress of their diabetes after a year, a 10-16-1 network."""
    patients = data.diabetes()
    column = patients._replace(targets=patients.targets[:, None])
    parts = data.split(column, (0.6, 0.2, 0.2), jax.random.key(0))
    return supervised(
        "diabetes",
        "442 patients and their progress after a year, 10-16-1",
        "Efron et al. (2004), as scikit-learn carries them",
        model=network([16, 1]),
        loss=losses.half_squared_error,
        parts=standardized(parts, targets=True),
        score=ERROR,
        batch_size=32,
        budget=Budget(1000, "gradients"),
        target=0.22,
    )


def mackey_glass(horizon: int = 6) -> Problem:
    """A chaotic series some time ahead from four values of its past, a 4-16-1 network."""
    times = np.arange(118, 1118)
    series = mackey_glass_series(int(times[-1]) + horizon)
    past = series[times[:, None] - np.array([0, 6, 12, 18])]
    ahead = series[times + horizon][:, None]
    parts = [data.Data(past[s], ahead[s]) for s in map(slice, (0, 500, 750), (500, 750, 1000))]
    name = "mackey-glass" if horizon == 6 else f"mackey-glass-{horizon}"
    return supervised(
        name,
        f"a chaotic series {horizon} ahead from four past values, 4-16-1",
        "Mackey and Glass (1977); embedding of Jang (1993)",
        model=network([16, 1]),
        loss=losses.half_squared_error,
        parts=standardized(parts, targets=True),
        score=ERROR,
        batch_size=50,
        budget=Budget(1500, "gradients"),
        target=5e-4 if horizon == 6 else 0.05,
    )


def mackey_glass_series(
    end: int, *, delay: float = 17.0, steps: int = 10
) -> Float[np.ndarray, " times"]:
    """x'(t) = 0.2 x(t - delay) / (1 + x(t - delay)^10) - x(t) / 10 at t = 0, 1, ..., end."""
    # The method is the classical Runge-Kutta one. x(0) = 1.2, and x(t) = 0 before; between two
    # steps the delayed value is the cubic of their values and slopes.
    h, lag = 1 / steps, round(delay * steps)

    def slope(x: float, past: float) -> float:
        return 0.2 * past / (1 + past**10) - x / 10

    x, slopes = [1.2], []
    for k in range(end * steps):
        first = middle = last = 0.0
        if k >= lag:
            first, last = x[k - lag], x[k - lag + 1]
            middle = (first + last) / 2 + h / 8 * (slopes[k - lag] - slopes[k - lag + 1])
        a = slope(x[k], first)
        b = slope(x[k] + h / 2 * a, middle)
        c = slope(x[k] + h / 2 * b, middle)
        d = slope(x[k] + h * c, last)
        slopes.append(a)
        x.append(x[k] + h / 6 * (a + 2 * b + 2 * c + d))
    return np.array(x[::steps])


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "diabetes": diabetes,
    "mackey-glass": mackey_glass,
    "mackey-glass-85": described(
        "A chaotic series 85 ahead from four values of its past.", mackey_glass, 85
    ),
}
"""The problems by their names."""
