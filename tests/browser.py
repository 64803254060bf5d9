"""A headless Chromium for tests, driven through two pipes in its DevTools protocol: no driver, no further package.

    with Browser(folder) as browser:
        browser.open("http://127.0.0.1:7860/", width=390)
        browser.wait("document.querySelector('h1')")

Every request that a page makes is in `requests`, also those that are refused or fail.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = """
    --headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-default-apps --disable-extensions --mute-audio --hide-scrollbars
    --remote-debugging-pipe
""".split()
PATIENCE = 60.0
"""Seconds: the machine may be busy"""


def find_chromium() -> str | None:
    """The program of a Chromium that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One window. Methods raise AssertionError with what was waited for when it does not come within `PATIENCE`."""

    def __init__(self, folder: Path):
        """`folder`: an empty one for what the browser keeps."""
        self.requests: list[str] = []
        self.refused: list[str] = []
        """what the page's own policy refused, as the console has it"""
        self.errors: list[str] = []
        """uncaught exceptions of the page's scripts"""
        self._number, self._buffer = 0, b""
        self._replies: dict[int, dict] = {}
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={folder}"]
        # the browser reads commands from its descriptor 3 and writes to 4
        wiring = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", wiring, "bash", find_chromium(), *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    # The protocol

    def send(self, method: str, **params) -> dict:
        """Call a method of the DevTools protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while self._number not in self._replies:
            self._receive(end, method)
        reply = self._replies.pop(self._number)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    def _receive(self, end: float, waiting_for: str) -> None:
        """Take in what the browser has written, waiting for it until `end`."""
        ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
        assert ready, f"the browser does not answer {waiting_for}"
        data = os.read(self._read, 1 << 20)
        assert data, f"the browser has ended instead of answering {waiting_for}"
        *whole, self._buffer = (self._buffer + data).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self._replies[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, event: str, params: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif event == "Log.entryAdded" and "Content Security Policy" in params["entry"]["text"]:
            self.refused.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])

    # What a person does

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Go to a page in a window of this size; of at most 600 pixels it is a phone's."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width <= 600
        )
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str):
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE):
        """Wait until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(f"(() => {{ const v = {expression}; return v instanceof Node || v; }})()")):
            assert time.monotonic() < end, f"never true: {expression}; the page says: {self.text()[:1500]}"
            time.sleep(0.05)
        return value

    def text(self) -> str:
        """What can be read on the page."""
        return self.evaluate("document.body ? document.body.innerText : ''")

    def point(self, selector: str, click: bool = True) -> None:
        """Move the pointer to the middle of an element, and click."""
        self.point_at(f"document.querySelector({json.dumps(selector)})", click)

    def point_at(self, expression: str, click: bool = True) -> None:
        """As `point`, of an element that an expression gives."""
        x, y = self.wait(
            f"""(() => {{ const e = {expression}; if (!e) return null;
            e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();
            return b.width ? [b.x + b.width / 2, b.y + b.height / 2] : null; }})()"""
        )
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        self.point(selector)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key such as Tab (9), ArrowDown (40) or Enter (13, which has the text `\\r`)."""
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def type(self, selector: str, text: str) -> None:
        """Put text in the place of what is in a field."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.send("Input.insertText", text=text)

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file in a file field."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"no {selector}"
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page, or of what the window shows."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
