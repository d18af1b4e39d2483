"""The report of a race.

statistics    tests and intervals
findings      the numbers that tables and figures show
wording       how numbers and verdicts are written
sentences     the answer, how it was tested, and what speaks against it
sheets        a table, in a form for the terminal, papers and pages
tables        standings, trials, ranges, rules beside a baseline
figures       for papers
charts        for the page
page          the report: one page, files, and a glance for notebooks
suite         several problems: a table and one picture
"""

from fnn.race.report import sentences as sentences
from fnn.race.report import sheets as sheets
from fnn.race.report import suite as suite
from fnn.race.report import tables as tables
from fnn.race.report.page import PAGE as PAGE
from fnn.race.report.page import export as export
from fnn.race.report.page import glance as glance
from fnn.race.report.page import html as html
from fnn.race.report.page import write as write
