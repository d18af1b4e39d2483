"""A pytest plugin: optax's own alias tests, with our rules in place of optax's optimizers.

    FNN_PATCH=1 python -m pytest --pyargs optax._src.alias_test -p fnn_into_optax

Those tests take every optimizer by name from the module `alias`, so that replacing the names there
is enough and the test file stays as it is. Only the cases of our names are selected: absl numbers
the cases it generates, and keeps their arguments in `__x_params_repr__`. Without FNN_PATCH=1 the
same cases run on optax's own optimizers; that is the control.
"""

import json
import os
import re
from collections import Counter

import optax
import pytest
from optax._src import alias

from fnn import rules

NAMES = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "rprop")
ALSO_CALLED = {"sgd_mom": "sgd"}
PATCHED = os.environ.get("FNN_PATCH") == "1"

if PATCHED:
    for name in NAMES:
        setattr(alias, name, getattr(rules, name))
        setattr(optax, name, getattr(rules, name))


def rule_of(item):
    """The name of the rule that a test case is about, or None."""
    match = re.search(r"opt_name='(\w+)'", getattr(item.obj, "__x_params_repr__", ""))
    name = match and ALSO_CALLED.get(match[1], match[1])
    return name if name in NAMES else None


def pytest_collection_modifyitems(config, items):
    tested = {item.module.alias for item in items}  # the modules the tests take optimizers from
    for name in NAMES:
        ours = [getattr(module, name) is getattr(rules, name) for module in tested]
        if ours != [PATCHED]:
            raise pytest.UsageError(f"FNN_PATCH={PATCHED:d}, and yet {name} is not of that kind")
    selected = [item for item in items if rule_of(item)]
    config.hook.pytest_deselected(items=[item for item in items if not rule_of(item)])
    items[:] = selected
    config.selected = Counter(map(rule_of, selected))


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"selected {json.dumps(config.selected)}")
