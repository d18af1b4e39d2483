"""The report in a real browser: it draws, it answers, it asks nobody for anything."""

import pytest

from fnn.problems import COSTS
from fnn.race import ENTRANTS, report
from fnn.race.report.figures import LABELS
from tests.race import synthetic
from tests.race.chromium import Browser

pytestmark = pytest.mark.gate

OWN = "a_b<&>%$x$", "optax.contrib.schedule_free_adamw"
RULES = {rule: 0.8 + 0.1 * i for i, rule in enumerate([*ENTRANTS, *OWN])} | {"rprop": 0.0}
DRAWN = "document.querySelector('html[data-drawn]') !== null"
BOXES = """[...document.querySelectorAll(".chart")].map((chart) => {
  const boxes = [...chart.querySelectorAll(".series")].map((one) => one.getBoundingClientRect());
  const frame = chart.querySelector(".plot svg").getBoundingClientRect();
  return {series: boxes.filter((b) => b.width > 0 || b.height > 0).length, width: frame.width,
          height: frame.height, left: frame.left, right: frame.right};
})"""
CLIPPED = """(() => {
  const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1;
  const box = (element) => element.getBoundingClientRect();
  const clipped = [...document.querySelectorAll(".chart")].flatMap((chart) => [
    ...[...chart.querySelectorAll("button")].filter((each) => outside(box(each), box(chart))),
    ...[...chart.querySelectorAll(".plot text")].filter(
      (each) => each.getAttribute("clip-path") === null
        && !each.closest("[clip-path]") && outside(box(each), box(each.ownerSVGElement))),
  ]);
  return clipped.map((each) => each.textContent);
})()"""
"""The texts of buttons, legends and axes that are cut off at the side."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    raced = synthetic.race(RULES)._replace(withheld={"sgd": "it had 6 steps, and 10 are needed"})
    path.write_text(report.html([raced]), encoding="utf-8")
    with Browser() as tab:
        tab.path = path
        yield tab


def opened(tab, width, scheme="light"):
    tab.events.clear()
    tab.show(width, scheme=scheme)
    tab.call("Page.navigate", url=tab.path.as_uri())
    tab.wait(DRAWN)


def complaints(tab):
    """Errors and warnings of the page, and addresses it asked for, its own excepted."""
    wrong = []
    for event in tab.events:
        method, params = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            wrong.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled":
            wrong.append([argument.get("value") for argument in params["args"]])
        elif method == "Log.entryAdded":
            wrong.append(params["entry"]["text"])
        elif method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            address = params["request"]["url"] if "request" in params else params["url"]
            if address != tab.path.as_uri() and not address.startswith(("data:", "blob:")):
                wrong.append(address)
    return wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_seen_and_nothing_is_asked_for(tab, width, scheme):
    opened(tab, width, scheme)
    boxes = tab.run(BOXES)
    assert len(boxes) == 6
    for box in boxes:
        assert box["series"] >= len(RULES) - 1  # one never arrives
        assert box["width"] > 300
        assert box["height"] > 200
        assert box["left"] >= 0
        assert box["right"] <= width
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(CLIPPED) == []
    ink, paper = tab.run(
        "[getComputedStyle(document.querySelector('.chart text')).fill, "
        "getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, color[4:-1].split(","))) > 380 for color in (ink, paper)]
    assert light == ([False, True] if scheme == "light" else [True, False])
    assert complaints(tab) == []


def test_a_narrow_screen_shows_rule_and_loss_first(tab):
    """Both stand in the first screen of a telephone, and the rule stays when the table moves."""
    opened(tab, 390)
    for cell in ("th", "td"):
        element = f"document.querySelector('tbody {cell}').getBoundingClientRect()"
        box = [tab.run(f"{element}.{side}") for side in ("left", "right", "bottom")]
        assert 0 <= box[0] < box[1] <= 390
        assert box[2] < 844
    left = "document.querySelector('tbody th').getBoundingClientRect().left"
    before = tab.run(left)
    tab.run("document.querySelector('.scroll').scrollLeft = 300")
    assert tab.run(left) == before
    withheld = "document.querySelector('.caveats summary').getBoundingClientRect().bottom"
    assert tab.run(withheld) < 844


def test_a_wide_screen_clips_no_column(tab):
    opened(tab, 1280)
    widths = "[...document.querySelectorAll('.scroll')].map((e) => [e.scrollWidth, e.clientWidth])"
    assert all(content <= frame for content, frame in tab.run(widths))
    assert tab.run("document.querySelector('.caveats').open")


def test_lines_of_two_rules_differ_in_color_or_dashes(tab):
    opened(tab, 1280)
    looks = tab.run(
        "[...document.querySelector('.chart').querySelectorAll('.series')].map((one) => "
        "[one.dataset.name, getComputedStyle(one).stroke, "
        "one.querySelector('path').getAttribute('stroke-dasharray')])"
    )
    assert {name for name, *_ in looks} == set(RULES)
    assert len({tuple(look) for _, *look in looks}) == len(RULES)


@pytest.mark.parametrize("width", [1280, 390])
def test_buttons_switch_what_the_loss_is_over(tab, width):
    opened(tab, width)
    seen = []
    for i, cost in enumerate(COSTS):
        click(tab, f"document.querySelector('.chart').querySelectorAll('.views button')[{i}]")
        title = "document.querySelector('.chart .title').textContent"
        tab.wait(f"{title} === {LABELS[cost]!r}")
        ticks = "[...document.querySelectorAll('.chart')[0].querySelectorAll('.tick')]"
        seen.append(tab.run(f"{ticks}.map((tick) => tick.textContent).join()"))
    assert len(set(seen)) == len(COSTS)
    assert complaints(tab) == []


def click(tab, element):
    """A click in the middle of an element."""
    x, y = tab.run(
        f"(() => {{ const element = {element};"
        "element.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = element.getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    tab.click(x, y)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_in_the_legend_hides_a_rule_and_brings_it_back(tab, width):
    opened(tab, width)
    count = "document.querySelectorAll('.chart')[1].querySelectorAll('.series').length"
    for left in (len(RULES) - 1, len(RULES)):
        click(tab, "document.querySelectorAll('.chart')[1].querySelector('.legend button')")
        tab.wait(f"{count} === {left}")


def test_dragging_enlarges_and_a_double_click_shows_all(tab):
    opened(tab, 1280)
    chart = "document.querySelector('.chart')"
    ticks = f"[...{chart}.querySelectorAll('.tick')].map((tick) => tick.textContent).join()"
    before = tab.run(ticks)
    x, y = tab.run(
        f"(() => {{ {chart}.scrollIntoView(); const b = {chart}.querySelector('.plot svg')"
        ".getBoundingClientRect(); return [b.x, b.y]; })()"
    )
    for kind, dx in (("mousePressed", 300), ("mouseMoved", 360), ("mouseReleased", 360)):
        place = {"x": x + dx, "y": y + dx - 100, "button": "left", "buttons": 1, "clickCount": 1}
        tab.call("Input.dispatchMouseEvent", type=kind, **place)
    tab.wait(f"{ticks} !== {before!r}")
    tab.run(f"{chart}.querySelector('.plot svg').dispatchEvent(new Event('dblclick'))")
    tab.wait(f"{ticks} === {before!r}")


def test_settings_are_found_by_words(tab):
    opened(tab, 1280)
    rows = "[...document.querySelectorAll('.filter + .scroll tbody tr')]"
    total = tab.run(f"{rows}.length")
    assert total == 5 * len(RULES)
    tab.run(
        "(() => { const input = document.querySelector('.filter'); input.value = 'KFAC chosen';"
        "input.dispatchEvent(new Event('input')); })()"
    )
    shown = tab.run(f"{rows}.filter((row) => !row.hidden).map((row) => row.cells[0].textContent)")
    assert set(shown) == {"kfac", "ekfac"}


def test_the_pointer_is_told_the_values(tab):
    opened(tab, 1280)
    x, y = tab.run(
        "(() => { const chart = document.querySelector('.chart'); chart.scrollIntoView();"
        "const line = [...chart.querySelectorAll('.series path')].at(-1);"
        "const place = line.getPointAtLength(line.getTotalLength() / 2);"
        "const at = place.matrixTransform(line.getScreenCTM()); return [at.x, at.y]; })()"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait("document.querySelector('.chart .tip').hidden === false")
    said = tab.run("document.querySelector('.chart .tip').textContent")
    assert "middle half of seeds" in said


def test_paper_is_white_and_wide_enough(tab):
    opened(tab, 1280, "dark")
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('.chart text')).fill") == "rgb(0, 0, 0)"
    assert {round(box["width"]) for box in tab.run(BOXES)} == {680}
    tab.show(688)  # A4 between its margins
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert tab.run("document.documentElement.scrollWidth") <= 688
    tab.show(1280)
    tab.run("window.dispatchEvent(new Event('afterprint'))")
    assert {round(box["width"]) for box in tab.run(BOXES)} != {680}
    tab.call("Emulation.setEmulatedMedia", media="", features=[])
    assert complaints(tab) == []
