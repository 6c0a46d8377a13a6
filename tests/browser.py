"""A page in headless Chromium, driven by its DevTools protocol through a pair of pipes."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Mobile Safari/537.36"
SECONDS = 60
"""A page that shows nothing after this time has failed."""


class Page:
    """One page, without a network.

    Skips the test where no Chromium is installed.
    """

    def __init__(self, folder: Path) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("needs Chromium, which is not installed")
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()

        def connect() -> None:
            # Chromium reads from descriptor 3 and writes to 4.
            os.dup2(to_browser, 13)
            os.dup2(from_browser, 4)
            os.dup2(13, 3)

        options = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        options += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        options += [
            "--no-first-run",
            "--disable-gpu-shader-disk-cache",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        self._process = subprocess.Popen(
            [program, *options, "about:blank"],
            close_fds=False,
            preexec_fn=connect,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_browser, from_browser):
            os.close(end)
        self._numbers, self._rest, self.messages = itertools.count(), b"", []
        self._session = {}
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def open(self, page: Path | str, width: int, height: int, phone: bool = False) -> None:
        """Show a file, or an address of this machine, in a window of this size, in pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self._call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self._call("Emulation.setUserAgentOverride", userAgent=PHONE if phone else "")
        # By way of an empty page, so that nothing that follows is asked of the page before.
        for address in ("about:blank", page if isinstance(page, str) else page.absolute().as_uri()):
            self._call("Page.navigate", url=address)

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true.

        Raises:
            TimeoutError: With what the page has logged.
        """
        end = time.monotonic() + SECONDS
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is not true after {SECONDS} s: {self.logged()}")
            time.sleep(0.1)

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression, awaited if it is a promise."""
        result = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression} fails in the page: {result['exceptionDetails']}")
        return result["result"].get("value")

    def screenshot(self) -> UInt8[np.ndarray, "h w 3"]:
        """What the window shows once it has stopped changing."""
        data, before = None, None
        while data is None or data != before:
            time.sleep(0.1)
            before, data = data, self._call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Press the left mouse button at one place of the window, in pixels, and let go at another."""
        held = {"button": "left", "buttons": 1}
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        self._call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], clickCount=1, **held)
        for step in range(1, 9):
            x, y = (a + (b - a) * step / 8 for a, b in zip(start, end, strict=True))
            self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **held)
        self._call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], clickCount=1, **held)

    def requests(self) -> list[str]:
        """Addresses that the page has asked for."""
        return [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    def logged(self) -> list[str]:
        """What the page wrote to its console, and errors that nothing caught."""
        texts = [
            " ".join(str(part.get("value", part.get("description"))) for part in event["params"]["args"])
            for event in self._events("Runtime.consoleAPICalled")
        ]
        return texts + [str(event["params"]["exceptionDetails"]) for event in self._events("Runtime.exceptionThrown")]

    def _events(self, method: str) -> list[dict]:
        return [message for message in self.messages if message.get("method") == method]

    def _call(self, method: str, **parameters: object) -> dict:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") != number:
                self.messages.append(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            else:
                return message["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise RuntimeError("Chromium has ended.")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
