"""Every topic of the lectures is shown or tested somewhere, and what the table names exists."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LAST = 40  # lines of the lectures in the table
TABLE = (HERE / "README.md").read_text()


def test_the_table_has_every_line_of_the_lectures_once():
    lines = [int(line) for line in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)]
    assert lines == [*range(1, LAST + 1)]
    for row in re.findall(r"^\| \d+ \|.*$", TABLE, re.MULTILINE):
        assert re.search(r"`tests/\S+::test_\w+`|\(\S+\.py\)", row), row


def test_all_that_the_table_names_exists():
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", TABLE)
    assert named
    for file, test in named:
        text = (ROOT / file).read_text()
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), test
    for link in re.findall(r"\]\(([^)]+)\)", TABLE):
        assert (HERE / link).is_file(), link
