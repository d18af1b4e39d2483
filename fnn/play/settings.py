"""What is chosen on the page: one tuple, which a link holds whole, and which is judged as one."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_type_hints
from urllib.parse import parse_qsl, urlencode

from fnn import names
from fnn.race import ENTRANTS

DATA = "spirals", "circles", "moons", "xor", "clusters", "sine", "plane"
"""The makers of `fnn.data` whose points are learned; of the last two the heights are."""

FEATURES = "x", "y", "x^2", "y^2", "xy", "sin x", "sin y"
ACTIVATIONS = "tanh", "relu", "sigmoid", "gelu", "softplus", "sin"
PACES = "steps", "seconds"
RULES = tuple(ENTRANTS)

MOST_LAYERS, MOST_UNITS = 4, 16
"""A larger network has more weights than are told apart in its picture."""

LARGEST_RATE = 1000.0
"""A rate above it is a slip of the keyboard: that of every rule in the package's races is below."""


class Settings(NamedTuple):
    """All that is chosen; the start page has these.

    Attributes:
        data: one of `DATA`.
        examples: how many points there are.
        noise: the data's.
        train: the share of the points that is trained on, in percent.
        features: what the network sees of a point, some of `FEATURES`, joined by commas.
        layers: units of each hidden layer, joined by dashes; nothing is a linear model.
        activation: one of `ACTIVATIONS`.
        regularization: the weight of `l2`.
        batch_size: examples in a step; 0 is all of them.
        first: a rule.
        first_rate: its learning rate, if it has one.
        first_damping: its damping, if it has one; 0 leaves it to the rule.
        second: a rule.
        second_rate: its learning rate, if it has one.
        second_damping: its damping, if it has one; 0 leaves it to the rule.
        pace: what both rules have as much of from picture to picture, steps or seconds.
        speed: steps, or milliseconds, from picture to picture.
        seed: of the data, the starting point and the batches.
        first_steps: steps that the first rule has taken when a link is opened.
        second_steps: steps that the second rule has taken.
    """

    data: str = "spirals"
    examples: int = 400
    noise: float = 0.1
    train: int = 80
    features: str = "x,y"
    layers: str = "8-8"
    activation: str = "tanh"
    regularization: float = 1e-5
    batch_size: int = 0
    first: str = "adam"
    first_rate: float = 0.02
    first_damping: float = 0.0
    second: str = "levenberg_marquardt"
    second_rate: float = 0.02
    second_damping: float = 0.0
    pace: str = "steps"
    speed: int = 4
    seed: int = 2
    first_steps: int = 0
    second_steps: int = 0

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(int(count) for count in self.layers.split("-") if count)

    @property
    def seen(self) -> tuple[str, ...]:
        """The features."""
        return tuple(self.features.split(","))

    @property
    def weight(self) -> float | None:
        """That of the regularization, None without any."""
        return self.regularization or None

    @property
    def is_regression(self) -> bool:
        """Whether heights are learned, not classes."""
        return self.data in ("sine", "plane")

    def rules(self) -> tuple[tuple[str, dict[str, float]], ...]:
        """Both rules, each with the numbers that it takes."""
        return (
            (self.first, _numbers(self.first, self.first_rate, self.first_damping)),
            (self.second, _numbers(self.second, self.second_rate, self.second_damping)),
        )


def takes(rule: str) -> tuple[str, ...]:
    """The main numbers of a rule: learning_rate, damping, both or neither."""
    return tuple(ENTRANTS[rule].space)


def _numbers(rule: str, rate: float, damping: float) -> dict[str, float]:
    """The numbers that a rule takes; a damping of 0 is the rule's own choice."""
    given = {"learning_rate": rate} | ({"damping": damping} if damping else {})
    return {name: given[name] for name in takes(rule) if name in given}


HELP: Mapping[str, str] = {
    "data": "What is learned: a class for each point of the plane, or of sine and plane a height.",
    "examples": "How many points there are, from 20 to 1000.",
    "noise": "How far points, or heights, are moved at random; 0 moves none.",
    "train": "Percent of the points that are trained on; hollow points are for the test alone.",
    "features": "What the network sees of a point: its coordinates, and functions of them.",
    "layers": "Units of each hidden layer, such as 8-8; nothing leaves a linear model.",
    "activation": "The function at the end of every hidden unit.",
    "regularization": "The weight of half the sum of squares of all parameters in the loss.",
    "batch_size": "Examples in one step; 0 takes all, as rules that judge their steps always do.",
    "first": "The rule that trains the network on the left.",
    "first_rate": "How far a step of the first rule goes.",
    "first_damping": "Holds steps of the first rule back; 0 leaves it to the rule.",
    "second": "The rule that trains the same network on the right, from the same start.",
    "second_rate": "How far a step of the second rule goes.",
    "second_damping": "Holds steps of the second rule back; 0 leaves it to the rule.",
    "pace": "Both take as many steps, or as many seconds of training alone, between two pictures.",
    "speed": "How many steps, or thousandths of a second, lie between two pictures.",
    "seed": "Another seed draws other points and another start of both networks.",
}
"""One sentence for each control."""


class Bounds(NamedTuple):
    """From where to where a number may be, and what to try instead."""

    least: float
    most: float
    instead: float


BOUNDS: Mapping[str, Bounds] = {
    "examples": Bounds(20, 1000, 400),
    "noise": Bounds(0, 2, 0.1),
    "train": Bounds(10, 90, 80),
    "regularization": Bounds(0, 10, 1e-5),
    "batch_size": Bounds(0, 1000, 0),
    "first_rate": Bounds(1e-12, LARGEST_RATE, 0.01),
    "first_damping": Bounds(0, 1e6, 0.01),
    "second_rate": Bounds(1e-12, LARGEST_RATE, 0.01),
    "second_damping": Bounds(0, 1e6, 0.01),
    "speed": Bounds(1, 1000, 4),
    "seed": Bounds(0, 2**31 - 1, 2),
    "first_steps": Bounds(0, 1_000_000, 0),
    "second_steps": Bounds(0, 1_000_000, 0),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "data": DATA,
    "activation": ACTIVATIONS,
    "first": RULES,
    "second": RULES,
    "pace": PACES,
}
_KINDS: Mapping[str, Callable[[Any], Any]] = get_type_hints(Settings)


OWN_PRIOR = "bayesian_levenberg_marquardt"
"""The rule that takes no regularization but the one that it finds."""

GOES_ON = frozenset(("pace", "speed"))
"""What can be changed while both rules learn; any other change starts them anew."""


def link(settings: Settings) -> str:
    """The part of an address that holds the settings, without those that the start page has."""
    return urlencode({
        name: _number(value) if isinstance(value, float) else value
        for name, value in settings._asdict().items()
        if value != Settings._field_defaults[name]
    })


def of_link(query: str) -> Settings:
    """The settings in a link; a ValueError says what cannot be."""
    given = dict(parse_qsl(query.lstrip("?"), keep_blank_values=True))
    for name in given:
        names.look_up("setting", name, Settings._field_defaults)
    return checked(Settings(), **given)


def checked(settings: Settings, **changes: object) -> Settings:
    """Settings with some changed; a ValueError says what cannot be, and what to try."""
    for name, value in changes.items():
        changes[name] = _checked(name, value)
    changed = settings._replace(**changes)
    trained = changed.examples * changed.train // 100
    if changed.batch_size > trained:
        raise ValueError(
            f"batch size: expected at most the {trained} examples that are trained on, got "
            f"{changed.batch_size}; try 0, which takes all"
        )
    if changed.regularization and OWN_PRIOR in (changed.first, changed.second):
        raise ValueError(
            f"regularization: expected 0 beside {OWN_PRIOR}, which finds its own, got "
            f"{changed.regularization:g}; try 0, and then the rule"
        )
    return changed


def _checked(name: str, value: object) -> object:
    """The value of a field, of its type and within its bounds."""
    said = name.replace("_", " ")
    if name in CHOICES:
        try:
            names.look_up(said, str(value), dict.fromkeys(CHOICES[name]))
        except ValueError as error:
            raise ValueError(f"{said}: {error}") from None
        return str(value)
    if name == "features":
        return _features(value)
    if name == "layers":
        return _layers(str(value))
    least, most, instead = BOUNDS[name]
    try:
        number = float(str(value))
        number = _KINDS[name](number) if math.isfinite(number) else math.nan
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        kind = "a whole number" if _KINDS[name] is int else "a number"
        lowest = "above 0" if 0 < least < 1e-6 else f"from {least:g}"
        raise ValueError(
            f"{said}: expected {kind} {lowest} to {most:g}, got {value}; try {instead:g}"
        )
    return number


def _features(value: object) -> str:
    """The features, in the order of `FEATURES`."""
    chosen = [one for one in str(value).split(",") if one]
    if not chosen:
        raise ValueError(f"features: expected some of {', '.join(FEATURES)}, got none; try x,y")
    for one in chosen:
        if one not in FEATURES:
            raise ValueError(
                f"features: expected some of {', '.join(FEATURES)}, got '{one}'; try x,y"
            )
    return ",".join(one for one in FEATURES if one in chosen)


def _layers(text: str) -> str:
    """The units of the layers, checked and joined by dashes."""
    counts = [count.strip() for count in text.replace(",", "-").split("-")] if text.strip() else []
    possible = all(count.isdecimal() and 1 <= int(count) <= MOST_UNITS for count in counts)
    if not possible or len(counts) > MOST_LAYERS:
        raise ValueError(
            f"layers: expected up to {MOST_LAYERS} numbers of units from 1 to {MOST_UNITS}, got "
            f"'{text}'; try 8-8"
        )
    return "-".join(str(int(count)) for count in counts)


def _number(value: float) -> str:
    """A number as short as it can be."""
    return f"{value:.12g}"
