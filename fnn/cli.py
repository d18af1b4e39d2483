"""The command line: `fnn race`, `fnn rules`, `fnn problems`."""

import inspect
from pathlib import Path
from typing import Annotated

import optax
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fnn import names, plots, problems, race, rules
from fnn.race import report, store

app = typer.Typer(
    name="fnn",
    help="Neural networks that are pure functions: race optimizers on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = Console()


@app.callback()
def _main() -> None:
    """Neural networks that are pure functions: race optimizers on them."""


@app.command("race")
def race_command(
    problem: Annotated[str, typer.Argument(help="What is trained; `fnn problems` lists them.")],
    rules: Annotated[str, typer.Option(help="Who races, separated by commas.")] = ",".join(
        race.CLASSIC
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Starting points of each rule.")] = 5,
    trials: Annotated[int, typer.Option(min=1, help="Learning rates tried for each rule.")] = 5,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes through the data.", show_default="the problem's"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where folders of results go.")] = Path("races"),
) -> None:
    """Race rules on a problem: the same seeds, trials and epochs for each."""
    try:
        raced = problems.get(problem)
        entrants = [names.look_up("rule", name.strip(), race.ENTRANTS) for name in rules.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    folder = store.create(out, raced)
    results = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"racing {entrants[0].name}", total=len(entrants))
        for result in race.run(raced, entrants, seeds=seeds, trials=trials, epochs=epochs):
            store.append(folder, raced, result)
            results.append(result)
            following = entrants[len(results) :]
            text = f"racing {following[0].name}" if following else "drawing"
            bar.update(task, advance=1, description=text)
        _draw(raced, results).savefig(folder / "loss.png", dpi=150)
    console.print(report.table(raced, results))
    console.print(f"Raw runs and loss.png are in {folder}")


def _draw(problem: problems.Problem, results: list[race.Result]):
    steps, seconds = {}, {}
    for r in results:
        losses = r.train_loss[r.chosen]
        steps[r.name] = plots.Curve(r.steps, losses)
        seconds[r.name] = plots.Curve(r.steps / r.steps[-1] * r.run_seconds, losses)
    return plots.loss_figure(f"{problem.name}: {problem.summary}", steps, seconds)


@app.command("rules")
def rules_command() -> None:
    """List the rules."""
    table = Table("rule", "what it is")
    for name in rules.__all__:
        rule = getattr(rules, name)
        kind = inspect.isfunction(rule) and inspect.signature(rule).return_annotation
        if kind is optax.GradientTransformationExtraArgs:
            table.add_row(name, (rule.__doc__ or "").splitlines()[0])
    console.print(table)


@app.command("problems")
def problems_command() -> None:
    """List the problems."""
    table = Table("problem", "what it is")
    for name, problem in problems.PROBLEMS.items():
        table.add_row(name, (problem.__doc__ or "").splitlines()[0])
    console.print(table)
