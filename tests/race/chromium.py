"""Chromium without a window, driven by its own protocol over a pair of pipes.

https://chromedevtools.github.io/devtools-protocol: JSON with a zero byte behind every message.
"""

import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time


def found():
    """The browser's path, None if there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One tab; `with Browser() as tab`."""

    def __init__(self, timeout=240.0):  # a busy machine compiles slowly
        self.timeout, self.events = timeout, []
        self._ids, self._buffer, self._session = itertools.count(1), b"", None

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        names = (
            "headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars",
            "no-first-run", "disable-extensions", "remote-debugging-pipe",
        )  # fmt: skip
        flags = [f"--{name}" for name in names]
        self._process = subprocess.Popen(
            # the browser reads from 3 and writes to 4
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", found(), *flags,
             f"--user-data-dir={self._folder.name}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def call(self, method, **params):
        """What the browser answers."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(method)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self, waiting):
        until = time.monotonic() + self.timeout
        while b"\0" not in self._buffer:
            left = until - time.monotonic()
            ready = select.select([self._in], [], [], max(left, 0))[0]
            assert ready, f"{waiting}: no answer"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, f"{waiting}: the browser has gone"
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def run(self, expression):
        """The value of a JavaScript expression, promises awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition):
        """Until a JavaScript expression is true."""
        until = time.monotonic() + self.timeout
        while not self.run(condition):
            assert time.monotonic() < until, f"never true: {condition}"
            time.sleep(0.02)

    def quiet(self):
        """Until nothing on the page has changed for a tenth of a second."""
        self.run("""new Promise((done) => {
          let timer = setTimeout(finish, 100);
          const observer = new MutationObserver(() => {
            clearTimeout(timer);
            timer = setTimeout(finish, 100);
          });
          observer.observe(document, {subtree: true, childList: true, attributes: true});
          function finish() { observer.disconnect(); done(); }
        })""")

    def show(self, width, height=900, scheme="light"):
        """The window's size, and the color scheme that its user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def click(self, x, y):
        """A click of the left button at a place in the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
