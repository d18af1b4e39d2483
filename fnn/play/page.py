"""The page: controls, buttons and panels of one visitor, in NiceGUI."""

import contextlib
from collections.abc import Callable
from typing import Any

from nicegui import Client, ui

from fnn.play import settings as chosen
from fnn.play.session import Session
from fnn.play.settings import BOUNDS, CHOICES, FEATURES, HELP, Settings

TITLE = "fnn play"

CSS = """
body { background: #f3f4f6; color: #1f2430; }
.nicegui-content { padding: 0; gap: 0; align-items: stretch; }
.bar { position: sticky; top: 0; z-index: 10; background: #1f2430; color: #fff; display: flex;
  flex-wrap: wrap; gap: 6px; align-items: center; padding: 8px 12px; }
.bar h1 { font-size: 17px; font-weight: 600; line-height: 1.2; margin: 0 10px 0 0; }
.bar .state { flex: 1 1 120px; font-size: 13px; color: #d5d9e0; }
.said { display: grid; gap: 4px; padding: 0 12px; }
.said > div { background: #fdecea; color: #7a1710; border-left: 4px solid #c0392b;
  padding: 8px 12px; font-size: 14px; margin-top: 8px; overflow-wrap: anywhere; }
.play { display: grid; grid-template-columns: 232px minmax(0, 1fr); gap: 10px; padding: 10px; }
.panels { display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 8px;
  align-content: start; }
.panel { background: #fff; border: 1px solid #d9dde3; border-radius: 4px; padding: 4px;
  grid-column: span 4; }
.panel.wide { grid-column: span 3; }
.panel svg { display: block; width: 100%; height: auto; font-family: inherit; }
.controls { background: #fff; border: 1px solid #d9dde3; border-radius: 4px; padding: 8px 12px;
  display: grid; gap: 2px; align-content: start; }
.controls h2 { font-size: 13px; font-weight: 600; line-height: 1.3; margin: 8px 0 0; }
.controls .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 10px; }
.link { font-size: 12px; overflow-wrap: anywhere; padding: 6px 12px; background: #e8f0fb; }
@media (max-width: 1000px) {
  .play { grid-template-columns: minmax(0, 1fr); }
  .play .controls { order: 2; }
  .panel, .panel.wide { grid-column: span 6; }
}
@media (max-width: 640px) {
  .panel, .panel.wide { grid-column: span 12; }
  .panel { order: 1; }
  .panel[data-panel$=regions] { order: 0; }
}
"""

PANELS = (
    "first-regions", "first-network", "second-regions", "second-network", "loss-steps",
    "loss-seconds", "gradient", "first-spectrum", "second-spectrum", "slice",
)  # fmt: skip


def build(client: Client, query: str) -> None:
    """Builds the page of a visitor, whose address may hold settings."""
    trouble = ""
    try:
        settings = chosen.of_link(query)
    except ValueError as error:
        settings, trouble = Settings(), f"The link cannot be followed. {error}"
    ui.add_css(CSS)
    ui.colors(primary="#2f5d8a")
    ui.page_title(TITLE)
    Visit(client, settings, trouble, runs=not query)


class Visit:
    """What one visitor sees and does.

    The start page runs at once; a link shows what it holds and waits.
    """

    def __init__(self, client: Client, settings: Settings, trouble: str, runs: bool):
        """Builds the page and starts its thread."""
        self.settings, self.trouble = settings, trouble
        self.session = Session(settings, run=runs)
        self.seen, self.sent = -1, {}
        self.controls: dict[str, Any] = {}
        self._build_bar()
        self.said = ui.element("div").classes("said").props('role="alert"')
        with ui.element("div").classes("play"):
            self._build_controls()
            with ui.element("div").classes("panels"):
                self.panels = {
                    name: ui
                    .html("", sanitize=False)
                    .classes("panel wide" if name in PANELS[:4] else "panel")
                    .props(f"data-panel={name}")
                    for name in PANELS
                }
        ui.timer(0.04, self.show)
        client.on_disconnect(lambda: self.session.order("pause"))
        client.on_delete(lambda: self.session.order("close"))

    def _build_bar(self) -> None:
        """The title, the buttons, and where the training stands."""
        with ui.element("div").classes("bar"):
            ui.html(TITLE, sanitize=False, tag="h1")
            self.toggle = _button("Run", "Let both rules learn, or hold them.", self.run_or_pause)
            _button("Step", "One step of each rule.", lambda: self.session.order("step"))
            _button("Reset", "Back to the start of both rules.", self.reset)
            _button("Link", "An address that leads back to this very state.", self.share)
            self.state = ui.element("div").classes("state").props('role="status"')
            with self.state:
                self.stands = ui.label("")
        self.link = ui.element("div").classes("link")
        self.link.set_visibility(False)

    def _build_controls(self) -> None:
        """A control for each setting, with its sentence of help."""
        with ui.element("div").classes("controls"):
            _heading("Data")
            self._choice("data")
            with ui.element("div").classes("pair"):
                for name in ("examples", "noise", "train", "seed"):
                    self._number(name)
            _heading("Network")
            self._features()
            self._text("layers")
            self._choice("activation")
            with ui.element("div").classes("pair"):
                for name in ("regularization", "batch_size"):
                    self._number(name)
            for which in ("first", "second"):
                _heading(f"{which.capitalize()} rule")
                self._choice(which)
                with ui.element("div").classes("pair"):
                    self._number(f"{which}_rate", "learning rate")
                    self._number(f"{which}_damping", "damping")
            _heading("Pace")
            with ui.element("div").classes("pair"):
                self._choice("pace")
                self._number("speed")
        self._match_numbers()

    def _choice(self, name: str) -> None:
        control = ui.select(list(CHOICES[name]), value=getattr(self.settings, name))
        self._prepared(name, control, name)

    def _number(self, name: str, label: str = "") -> None:
        control = ui.input(value=f"{getattr(self.settings, name):g}")
        self._prepared(name, control.props("inputmode=decimal"), label or name)

    def _text(self, name: str) -> None:
        self._prepared(name, ui.input(value=getattr(self.settings, name)), name)

    def _features(self) -> None:
        control = ui.select(list(FEATURES), value=list(self.settings.seen), multiple=True)
        self._prepared("features", control, "features")

    def _prepared(self, name: str, control: Any, label: str) -> None:
        """A control with its label, its help and what it does."""
        control.props(f'label="{label.replace("_", " ")}" dense options-dense debounce=400')
        control.props(f'data-control={name} hint="{HELP[name]}" hide-hint hide-bottom-space')
        control.tooltip(HELP[name])
        control.on_value_change(lambda event: self.change(name, event.value))
        self.controls[name] = control

    def _match_numbers(self) -> None:
        """Shows those numbers alone that the rules take."""
        for which in ("first", "second"):
            numbers = chosen.takes(getattr(self.settings, which))
            self.controls[f"{which}_rate"].set_visibility("learning_rate" in numbers)
            self.controls[f"{which}_damping"].set_visibility("damping" in numbers)

    # What a visitor does --------------------------------------------------------------------------

    def change(self, name: str, value: Any) -> None:
        """Another setting: judged, and then learned anew; what cannot be is said."""
        value = ",".join(value) if isinstance(value, list) else value
        try:
            fresh = {"first_steps": 0, "second_steps": 0} if name not in chosen.GOES_ON else {}
            settings = chosen.checked(self.settings, **{name: value, **fresh})
        except ValueError as error:
            self.trouble = str(error)
            self.say()
            return
        self.trouble = ""
        if settings == self.settings:
            self.say()
            return
        self.settings = settings
        self.link.set_visibility(False)
        self._match_numbers()
        self.session.order("pace" if name in chosen.GOES_ON else "reset", settings)
        self._address(settings)
        self.say()

    def run_or_pause(self) -> None:
        """Runs what is held, and holds what runs."""
        running = self.toggle.text == "Pause"
        self.session.order("pause" if running else "run")
        self._stand("held" if running else "learning")  # before the thread has heard of it

    def reset(self) -> None:
        """Back to the start, with the settings that were good last."""
        self.trouble = ""
        self.settings = self.settings._replace(first_steps=0, second_steps=0)
        for name, control in self.controls.items():
            value = getattr(self.settings, name)
            shown = list(self.settings.seen) if name == "features" else value
            control.set_value(f"{shown:g}" if name in BOUNDS else shown)
        self.session.order("reset", self.settings)
        self._address(self.settings)
        self.link.set_visibility(False)
        self.say()

    def share(self) -> None:
        """Shows the address of this very state, and makes it the page's own."""
        self.session.order("pause")
        first, second = self.session.frame.steps
        settings = self.settings._replace(first_steps=first, second_steps=second)
        self._address(settings)
        self.link.clear()
        with self.link:
            ui.link(f"/?{chosen.link(settings)}", f"/?{chosen.link(settings)}").props("data-link")
            ui.label("The address of this page leads back to this state.")
        self.link.set_visibility(True)

    def _address(self, settings: Settings) -> None:
        """Makes settings the page's address, without a visit."""
        ui.navigate.history.replace(f"/?{chosen.link(settings)}")

    # What a visitor sees --------------------------------------------------------------------------

    async def show(self) -> None:
        """The newest picture, where there is one; the next is made when the browser has this."""
        frame = self.session.frame
        if frame.number == self.seen:
            return
        self.seen = frame.number
        for name, picture in frame.pictures.items():
            if self.sent.get(name) != picture:
                self.panels[name].set_content(picture)
        self.sent = frame.pictures
        self.say()
        with contextlib.suppress(TimeoutError):  # of a browser that has gone, or sleeps
            await ui.run_javascript("return 0", timeout=5.0)
            self.session.take()

    def say(self) -> None:
        """What goes on, and what went wrong."""
        frame = self.session.frame
        said = [text for text in (self.trouble, *frame.troubles) if text]
        self._stand("compiling ..." if frame.preparing else "learning" if frame.running else "held")
        if said != getattr(self, "_said", None):
            self._said = said
            self.said.clear()
            with self.said:
                for text in said:
                    ui.label(text)

    def _stand(self, state: str) -> None:
        """Says in one word what goes on, beside the steps."""
        steps = " and ".join(map(str, self.session.frame.steps))
        self.stands.set_text(f"{state}, steps {steps}")
        self.toggle.set_text("Pause" if state == "learning" else "Run")


def _button(text: str, helps: str, act: Callable[[], Any]) -> Any:
    """A button with its sentence of help."""
    button = ui.button(text, on_click=act).props("dense no-caps unelevated padding='4px 14px'")
    return button.props(f"data-button={text.lower()}").tooltip(helps)


def _heading(text: str) -> None:
    """A heading among the controls."""
    ui.html(text, sanitize=False, tag="h2")
