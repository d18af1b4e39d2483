"""The playground in a real browser: it draws, it answers, it asks nobody for anything."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fnn.play import server
from tests.race import chromium

SMALL = "data=xor&examples=40&layers=3&seed=1&first_rate=0.1"
STEPS = "document.querySelector('.state').textContent.match(/\\d+/g)?.map(Number)"
STATE = "document.querySelector('.state').textContent"
SAID = "document.querySelector('[role=alert]').textContent"
SEEN = "document.querySelector('[data-panel=first-regions] svg')?.getAttribute('aria-label')"
DRAWN = "document.querySelectorAll('.panel svg').length === 10"
CLIPPED = """[...document.querySelectorAll("svg text, button, .controls .q-field__label")].filter(
  (each) => { const box = each.getBoundingClientRect();
    const frame = (each.ownerSVGElement ?? document.body).getBoundingClientRect();
    return box.width > 0 && (box.left < frame.left - 1 || box.right > frame.right + 1); }
).map((each) => each.textContent)"""


def test_a_port_in_use_is_said_with_what_to_try():
    with socket.socket() as taken:
        taken.bind((server.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"play: expected a free port, got {port}, which anot"):
            server._door(port)
    with server._door(0) as door:
        assert door.getsockname()[0] == "127.0.0.1"


@pytest.fixture(scope="module")
def served():
    """The address of the page and the process that serves it."""
    if importlib.util.find_spec("nicegui") is None and "FNN_REQUIRE_BROWSER" not in os.environ:
        pytest.skip("play: expected nicegui, got none installed; try pip install 'fnn[play]'")
    command = [sys.executable, "-u", "-m", "fnn", "play", SMALL, "--port", "0", "--no-open"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"is at (http://\S+) until", line):
                yield found[1], process
                break
        else:
            raise AssertionError("".join(lines))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def browser():
    with chromium.Browser() as tab:
        yield tab


@pytest.fixture
def tab(served, browser):
    opened(browser, served[0])
    return browser


def opened(tab, address, width=1280):
    tab.events.clear()
    tab.address = address
    tab.show(width)
    tab.call("Page.navigate", url=address)
    tab.wait(DRAWN)


def complaints(tab):
    """Errors and warnings of the page, and addresses of others that it asked for."""
    wrong, home = [], tab.address.split("?")[0].split("//")[1]
    for event in tab.events:
        method, params = event["method"], event["params"]
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            wrong.append(params)
        elif method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            address = params["request"]["url"] if "request" in params else params["url"]
            if not re.match(rf"(data:|blob:|(http|ws)://{re.escape(home)})", address):
                wrong.append(address)
    return wrong


def press(tab, name):
    """A click on a button, wherever the page is scrolled."""
    click(tab, f"[data-button={name}]")


def click(tab, selector):
    x, y = tab.run(
        f"(() => {{ const one = document.querySelector({selector!r});"
        "one.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = one.getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    tab.click(x, y)


def write(tab, name, text):
    """Another text in a control."""
    tab.run(f"document.querySelector('[data-control={name}]').select()")
    tab.call("Input.insertText", text=text)


def choose(tab, name, option):
    """Another choice in a control, when the menu of the last one has gone."""
    tab.wait("document.querySelector('.q-menu') === null")
    click(tab, f".q-field:has([data-control={name}])")
    items = "[...document.querySelectorAll('.q-menu .q-item')]"
    tab.wait(f"{items}.some((item) => item.textContent === {option!r})")
    tab.run(f"{items}.find((item) => item.textContent === {option!r}).click()")


def loss(tab):
    return float(re.search(r"loss ([\d.e-]+)", tab.run(SEEN))[1])


@pytest.mark.gate
def test_run_pause_step_reset_and_come_back(tab):
    before = loss(tab)
    assert tab.run(STEPS) == [0, 0]
    press(tab, "run")
    tab.wait(f"{STEPS}[0] >= 40")
    press(tab, "run")
    tab.wait(f"{STATE}.startsWith('held')")
    held = tab.run(STEPS)
    assert loss(tab) < before
    press(tab, "step")  # what was under way when the rules were held ends before it
    tab.wait(f"{STEPS}[0] > {held[0]} && {STATE}.startsWith('held')")
    tab.quiet()
    steps = tab.run(STEPS)
    press(tab, "step")
    tab.wait(f"{STEPS}[0] === {steps[0] + 1} && {STEPS}[1] === {steps[1] + 1}")
    press(tab, "link")
    tab.wait("document.querySelector('[data-link]') !== null")
    seen, link = tab.run(SEEN), tab.run("document.querySelector('[data-link]').href")
    assert link == tab.run("location.href")
    press(tab, "reset")
    tab.wait(f"{STEPS}[0] === 0 && {STATE}.startsWith('held')")
    assert loss(tab) == before
    wrong = complaints(tab)
    opened(tab, link)
    tab.wait(f"{STEPS}[0] === {steps[0] + 1}")
    without_seconds = re.compile(r"[\d.]+ m?s, ")
    tab.quiet()
    assert without_seconds.sub("", tab.run(SEEN)) == without_seconds.sub("", seen)
    assert wrong + complaints(tab) == []


@pytest.mark.gate
def test_data_and_units_change_and_what_cannot_be_is_said(tab, served):
    opened(tab, f"{served[0]}&second=sgd")  # which is compiled sooner
    choose(tab, "data", "moons")
    tab.wait("location.href.includes('data=moons')")
    write(tab, "layers", "0")
    tab.wait(f"{SAID}.includes(\"got '0'; try 8-8\")")
    write(tab, "layers", "2-2")
    tab.wait("location.href.includes('layers=2-2')")
    tab.wait("document.querySelectorAll('[data-panel=first-network] image').length === 5")
    assert tab.run(SAID) == ""
    for rate in ("0", "1e9"):
        write(tab, "first_rate", rate)
        tab.wait(f"{SAID}.includes('got {rate}; try 0.01')")
    press(tab, "reset")
    tab.wait(f"{SAID} === ''")
    assert tab.run("document.querySelector('[data-control=first_rate]').value") == "0.1"
    choose(tab, "first", "sgd")
    write(tab, "first_rate", "1000")
    choose(tab, "activation", "softplus")
    choose(tab, "data", "plane")
    tab.wait("location.href.includes('data=plane')")
    tab.wait(f"{STATE}.startsWith('held')")
    press(tab, "run")
    tab.wait(f"{SAID}.includes('try a smaller learning rate, and reset')")
    assert "sgd: the loss" in tab.run(SAID)
    write(tab, "first_rate", "0.1")
    tab.wait(f"{SAID} === '' && {STATE}.startsWith('held')")
    press(tab, "step")
    tab.wait(f"{STEPS}[0] === 1")
    assert complaints(tab) == []


@pytest.mark.gate
def test_a_link_that_cannot_be_followed_is_said(tab, served):
    tab.call("Page.navigate", url=served[0].split("?")[0] + "?layers=0")
    tab.wait(f"document.readyState === 'complete' && {SAID}.includes('The link cannot be')")
    press(tab, "reset")
    tab.wait(f"{SAID} === ''")


@pytest.mark.gate
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_clipped_and_every_control_has_its_help(tab, served, width):
    opened(tab, served[0], width)
    press(tab, "step")
    tab.wait(f"{STEPS}[0] === 1")
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(CLIPPED) == []
    boxes = tab.run(
        "[...document.querySelectorAll('.panel')].map((one) => one.getBoundingClientRect().width)"
    )
    assert min(boxes) > 240
    x, y = tab.run(
        "(() => { const one = document.querySelector('[data-control=noise]');"
        "one.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const b = one.getBoundingClientRect(); return [b.x + 20, b.y + 5]; })()"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait("document.body.textContent.includes('0 moves none.')")
    assert complaints(tab) == []


@pytest.mark.gate
def test_two_tabs_do_not_disturb_each_other_and_who_leaves_stops(tab, served):
    address, process = served
    with chromium.Browser() as other:
        opened(other, address)
        threads = len(os.listdir(f"/proc/{process.pid}/task"))
        press(other, "run")
        other.wait(f"{STEPS}[0] >= 8")
        assert tab.run(STEPS) == [0, 0]
        press(tab, "step")
        tab.wait(f"{STEPS}[0] === 1")
        assert other.run(STATE).startswith("learning")
    until = time.monotonic() + 60  # the server waits for a visitor to come back
    while len(os.listdir(f"/proc/{process.pid}/task")) >= threads:
        assert time.monotonic() < until
        time.sleep(0.1)
    press(tab, "step")
    tab.wait(f"{STEPS}[0] === 2")


@pytest.mark.gate
def test_a_lost_connection_is_said(tab, served):
    served[1].send_signal(signal.SIGSTOP)
    try:
        tab.run("[...document.querySelectorAll('button')][0].click()")
        tab.run("void window.socket.disconnect()")
        tab.wait("document.getElementById('popup').innerText.includes('onnection lost')")
    finally:
        served[1].send_signal(signal.SIGCONT)
