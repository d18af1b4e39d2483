"""Whose failure an error is: that of a rule leaves the rule out, and any other ends the race.

Everything that an entrant's own code takes part in, its start, its tracing, its compiling and its
runs, happens inside `blaming_the_rule`. A full disk or a lost cluster does not.
"""

from collections.abc import Generator
from contextlib import contextmanager

_LONGEST = 400
"""Letters of a reason. Longer ones quote a traceback, the ends of which tell what went wrong; the
sentences of this package are shorter."""


class RuleFailedError(Exception):
    """The error of a rule in a race; it says in one line why the rule is left out.

    It has nothing but words, so that it comes whole from another process.
    """


@contextmanager
def blaming_the_rule() -> Generator[None]:
    """Every error inside, and an exit, becomes a `RuleFailedError`; a KeyboardInterrupt passes."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise RuleFailedError(_in_one_line(error)) from error


def _in_one_line(error: BaseException) -> str:
    """The kind of an error and its words, of which a table and a list of the report are made."""
    words = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
    if len(words) <= _LONGEST:
        return words
    return f"{words[: _LONGEST // 2]} ... {words[-_LONGEST // 2 :]}"
