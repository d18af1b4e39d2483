"""The command line: `fnn race`, `suite`, `report`, `plot`, `play` and what else `fnn --help` lists.

Here is what is typed, and what help says of it. What is done is in `commands`, which is imported by
the command that runs: JAX and matplotlib take seconds that `fnn --help` should not.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

RACING = "sgd,momentum,adagrad,rmsprop,adam,lbfgs,newton,levenberg_marquardt,kfac"
"""`race.CLASSIC`, which is not imported for help."""

WALKING = "sgd,momentum,adagrad,rmsprop,adam,newton,saddle_free_newton"
"""`race.trajectories.SHOWN`, likewise."""

SURFACES = "bowl, ravine, saddle, rosenbrock, beale"
"""`problems.SURFACES`, likewise."""

SUITES = "small"
"""`problems.SUITES`, likewise."""

Racing = Annotated[
    str,
    typer.Option(
        help="Who races, separated by commas: names of `fnn rules`, of packages such as "
        "optax.contrib.muon, and files my_rules.py."
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, help="Fresh starting points of each rule; 12 for verdicts.")
]
Trials = Annotated[
    int, typer.Option(min=0, help="Runs' worth of tuning of each rule; 0 for its defaults.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Run it on Ray: the cluster's address, or local for this machine's cores.",
        metavar="ADDRESS",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="The rule that all others are tested against.",
        show_default="adam where it races, or else the best",
        metavar="RULE",
    ),
]

app = typer.Typer(
    name="fnn",
    help="Neural networks that are pure functions: race optimizers on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main() -> None:
    """Neural networks that are pure functions: race optimizers on them."""


@app.command("race")
def race_command(
    problem: Annotated[
        str,
        typer.Argument(help="What is trained: one of `fnn problems`, or a file my_problem.py."),
    ],
    rules: Racing = RACING,
    seeds: Seeds = 12,
    trials: Trials = 5,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What a run may spend, a number of seconds, steps, examples, gradients or flops.",
            show_default="the problem's",
            metavar="'NUMBER UNIT'",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="What the problem reads, if it does.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the race is written down; one that was stopped there goes on.",
            show_default="races/PROBLEM/TIME",
        ),
    ] = None,
    cluster: Cluster = None,
    baseline: Baseline = None,
    float64: Annotated[bool, typer.Option("--float64", help="Compute in float64.")] = False,
) -> None:
    """Race rules on a problem by equal terms: trials, seeds and a budget."""
    with _plain_errors():
        from fnn import commands

        commands.set_precision(float64)
        commands.race_rules(problem, rules, seeds, trials, budget, data, folder, cluster, baseline)


@app.command("suite")
def suite_command(
    suite: Annotated[str, typer.Argument(help=f"Which problems: {SUITES}.")] = "small",
    rules: Racing = RACING,
    seeds: Seeds = 12,
    trials: Trials = 5,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the races are written down; a suite that was stopped there goes on.",
            show_default="races/SUITE/TIME",
        ),
    ] = None,
    cluster: Cluster = None,
    baseline: Baseline = None,
    float64: Annotated[bool, typer.Option("--float64", help="Compute in float64.")] = False,
) -> None:
    """Race rules on several problems, one after another, and draw how often each is the first."""
    with _plain_errors():
        from fnn import commands

        commands.set_precision(float64)
        commands.race_suite(suite, rules, seeds, trials, folder, cluster, baseline)


@app.command("report")
def report_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of races, one or more.")],
    baseline: Baseline = None,
) -> None:
    """Make the tables, figures and page of a race anew from its folder, or compare several."""
    with _plain_errors():
        from fnn import commands

        commands.report_races(folders, baseline)


@app.command("trajectories")
def trajectories_command(
    surface: Annotated[str, typer.Argument(help=f"One of {SURFACES}.")],
    rules: Annotated[str, typer.Option(help="Who walks, separated by commas.")] = WALKING,
    steps: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("trajectories"),
    video: Annotated[bool, typer.Option("--video", help="MP4 beside GIF; needs ffmpeg.")] = False,
) -> None:
    """Draw the paths of rules on a surface over the plane: a PNG and an animated GIF."""
    with _plain_errors():
        from fnn import commands

        commands.draw_trajectories(surface, rules, steps, out, video)


@app.command("plot")
def plot_command(
    problem: Annotated[str, typer.Argument(help="What is trained, as in `fnn race`.")],
    rule: Annotated[str, typer.Option(help="Who trains it, at its default setting.")] = "adam",
    steps: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the starting point.")] = 0,
    data: Annotated[Path | None, typer.Option(help="What the problem reads, if it does.")] = None,
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("plots"),
    float64: Annotated[bool, typer.Option("--float64", help="Compute in float64.")] = False,
) -> None:
    """Train one network and draw it: how it learned, what it answers, the loss around it."""
    with _plain_errors():
        from fnn import commands

        commands.set_precision(float64)
        commands.draw_training(problem, rule, steps, seed, data, out)


@app.command("play")
def play_command(
    link: Annotated[
        str, typer.Argument(help="What the page begins with: an address, or its part behind the ?.")
    ] = "",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On the loopback address; 0 takes any.")
    ] = 8010,
    record: Annotated[
        Path | None, typer.Option(help="In place of a page, a film: a .gif, or an .mp4 by ffmpeg.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long the film is.")] = 6.0,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Whether a browser is opened.")
    ] = True,
) -> None:
    """Watch two rules train the same small network, side by side, on a page or in a film."""
    with _plain_errors():
        from fnn import commands

        if record is None:
            commands.serve_playground(link, port, open_page)
        else:
            commands.record_playground(link, record, seconds)


@app.command("rules")
def rules_command() -> None:
    """List the rules."""
    with _plain_errors():
        from fnn import commands

        commands.list_rules()


@app.command("problems")
def problems_command() -> None:
    """List the problems."""
    with _plain_errors():
        from fnn import commands

        commands.list_problems()


@contextmanager
def _plain_errors() -> Generator[None]:
    """Misuse, what is not installed, and trouble with files are sentences, not tracebacks."""
    try:
        yield
    except typer.Exit:  # a RuntimeError
        raise
    except (ValueError, RuntimeError, ImportError) as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        typer.secho(f"{error}. What was finished before is kept.", fg="red")
        raise typer.Exit(1) from None
