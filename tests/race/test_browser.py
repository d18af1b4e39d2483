"""The report in a real browser: it draws, it answers, it asks nobody for anything."""

import pytest

from fnn.problems import COSTS
from fnn.race import report
from fnn.race.report.figures import LABELS
from tests.race import synthetic
from tests.race.chromium import Browser

pytestmark = pytest.mark.gate

RULES = {
    "levenberg_marquardt": 2.2, "adam": 0.9, "sgd": 0.35, "random_steps": 0.0, "a_b<&>%$x$": 0.8,
}  # fmt: skip
DRAWN = "document.querySelector('html[data-drawn]') !== null"
BOXES = """[...document.querySelectorAll(".chart")].map((chart) => {
  const traces = [...chart.querySelectorAll(".scatterlayer .trace")];
  const boxes = traces.map((trace) => trace.getBoundingClientRect());
  const frame = chart.querySelector(".main-svg").getBoundingClientRect();
  return {traces: boxes.filter((b) => b.width > 0 || b.height > 0).length, width: frame.width,
          height: frame.height, left: frame.left, right: frame.right};
})"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.html([synthetic.race(RULES)]), encoding="utf-8")
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
        assert box["traces"] >= len(RULES) - 1
        assert box["width"] > 300
        assert box["height"] > 200
        assert box["left"] >= 0
        assert box["right"] <= width
    assert tab.run("document.documentElement.scrollWidth") <= width
    outside = tab.run(
        "[...document.querySelectorAll('.updatemenu-button, .legendtext')].map((e) => "
        f"e.getBoundingClientRect()).filter((b) => b.left < 0 || b.right > {width}).length"
    )
    assert outside == 0
    ink, paper = tab.run(
        "[getComputedStyle(document.querySelector('.xtick text')).fill, "
        "getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, color[4:-1].split(","))) > 380 for color in (ink, paper)]
    assert light == ([False, True] if scheme == "light" else [True, False])
    assert complaints(tab) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_buttons_switch_what_the_loss_is_over(tab, width):
    opened(tab, width)
    seen = []
    for i, cost in enumerate(COSTS):
        tab.quiet()  # a button that is drawn anew under the pointer is not clicked
        x, y = tab.run(
            "(() => { const button = document.querySelector('.chart')"
            f".querySelectorAll('.updatemenu-button')[{i}];"
            "button.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = button.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        tab.click(x, y)
        title = "document.querySelector('.chart .xtitle').textContent"
        tab.wait(f"{title} === {LABELS[cost]!r}")
        path = "document.querySelector('.chart .scatterlayer').innerHTML"
        ticks = "[...document.querySelectorAll('.chart')][0].querySelector('.xaxislayer-above')"
        seen.append((tab.run(f"{ticks}.textContent"), tab.run(path)))
    assert len({ticks for ticks, _ in seen}) == len(COSTS)
    assert complaints(tab) == []


def test_the_pointer_is_told_the_values(tab):
    opened(tab, 1280)
    x, y = tab.run(
        "(() => { const chart = document.querySelector('.chart'); chart.scrollIntoView();"
        "const line = [...chart.querySelectorAll('.scatterlayer .trace .js-line')].at(-1);"
        "const place = line.getPointAtLength(line.getTotalLength() / 2);"
        "const at = place.matrixTransform(line.getScreenCTM()); return [at.x, at.y]; })()"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait("document.querySelector('.hoverlayer .hovertext') !== null")
    said = tab.run("document.querySelector('.hoverlayer .hovertext').textContent")
    assert "middle half of seeds" in said


def test_paper_is_white_and_wide_enough(tab):
    opened(tab, 1280, "dark")
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('.xtick text')).fill") == "rgb(0, 0, 0)"
    assert {round(box["width"]) for box in tab.run(BOXES)} == {680}
    tab.run("window.dispatchEvent(new Event('afterprint'))")
    assert {round(box["width"]) for box in tab.run(BOXES)} != {680}
    tab.call("Emulation.setEmulatedMedia", media="", features=[])
    assert complaints(tab) == []
