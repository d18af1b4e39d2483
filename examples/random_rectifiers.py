"""Need hidden units learn? Random ones beside trained ones on digits; and deep networks of width 5.

uv run examples/random_rectifiers.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import curvature, data, initializers, layers, losses, plots, rules
from fnn.problems.problem import accuracy

PICTURE = Path(__file__).parent / "drawn" / "random_rectifiers.png"
UNITS = {"rectified": jax.nn.relu, "logistic": jax.nn.sigmoid}
START = initializers.he_gaussian()
TRAIN, TEST = data.split(data.digits(), (100 / 1797, 1697 / 1797), jax.random.key(0))
LINE = np.linspace(-1, 1, 100)[:, None]
WAVE = LINE, np.sin(3 * LINE)


def starts(model, x, members):
    """Starting points of many members."""
    return jax.vmap(model.init, (0, None))(jax.random.split(jax.random.key(1), members), x)


def digits(unit, hidden, seeds, steps):
    """Test accuracies after 100 digits: all weights by Adam and K-FAC; the last by Adam and LM."""
    unit = layers.elementwise(UNITS[unit])
    model = layers.serial(layers.dense(hidden, weight=START), unit, layers.dense(10))
    objective = fnn.Objective(model.apply, losses.softmax_cross_entropy) + fnn.l2(1e-3)
    params = starts(model, TEST.inputs[0], seeds)
    last = {"weight": False, "bias": False}, (), {"weight": True, "bias": True}
    known = curvature.structure(model.apply, jax.tree.map(lambda p: p[0], params), TEST.inputs[0])
    return {
        name: fits_of(rule, objective, params, count)
        for name, rule, count in (
            ("trained, adam", rules.adam(0.01), steps),
            ("trained, K-FAC", rules.kfac(known), steps // 5),
            ("random, adam", rules.only(rules.adam(0.01), last), steps),
            ("random, LM", rules.only(rules.levenberg_marquardt(), last), steps // 10),
        )
    }


def fits_of(rule, objective, params, steps):
    """The accuracies in the end, on digits that were not trained on."""
    how = {"steps": steps, "every": steps, "validation": TEST, "metrics": {"right": accuracy}}
    runs = fnn.fits(rule, objective, params, TRAIN, **how)
    return np.array([history.validation["right"][-1] for history in runs.history])


def narrow(depth, seeds, steps):
    """Errors of deep networks of n + 4 = 5 rectified units a layer on sin 3x, by Adam and LM."""
    unit = layers.dense(5, weight=START), layers.elementwise(jax.nn.relu)
    model = layers.serial(*unit * depth, layers.dense(1))
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    params, errors = starts(model, LINE[0], seeds), {}
    for name, rule in (("adam", rules.adam(0.003)), ("LM", rules.levenberg_marquardt())):
        began = time.perf_counter()
        runs = fnn.fits(rule, objective, params, WAVE, steps=steps[name])
        errors[name] = np.array([history.value[-1] for history in runs.history])
        print(name, time.perf_counter()-began, np.sort(errors[name]))
    return errors

if __name__ == "__main__":
    for u in UNITS:
        t=time.time()
        print(u, {k:(round(v.mean(),3),round(v.std(),3)) for k,v in digits(u,100,10,200).items()}, time.time()-t,flush=True)
    for d in (2,4,8):
        narrow(d, 10, {"adam":3000,"LM":300})
