"""A browser for tests: Chromium without a window and without network (a namespace with no link that is up).

It is steered by its DevTools protocol over a pipe: messages are JSON, ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from testbed.deadlines import scaled

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Chromium reads descriptor 3 and writes descriptor 4
_PIPED = 'from=$0 to=$1; shift; exec "$@" 3<&"$from" 4>&"$to"'
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
_ALONE = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"] if os.geteuid() == 0 else []
_KEYS = {"ArrowDown": 40, "ArrowUp": 38, "Enter": 13, "End": 35, "Home": 36, "Tab": 9}


class Browser:
    """One page. ``complaints`` are errors and warnings of its console, ``requests`` what it asked for."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to, self._from = to_it, from_it
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while (answer := self._next(method)).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, file: Path, anchor: str = "") -> None:
        """Loads a file, and runs its scripts."""
        self._go("about:blank")  # or the same file with another anchor would not be loaded again
        self.complaints.clear()
        self.requests.clear()
        self._go(file.as_uri() + (f"#{anchor}" if anchor else ""))

    def _go(self, url: str) -> None:
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._note(self._next(f"the load event of {url}"))

    def evaluate(self, script: str) -> Any:
        """What an expression is on the page, once a frame has been drawn."""
        script = f"new Promise(done => requestAnimationFrame(() => done(({script}))))"
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, pressed and let go; Enter and single characters are typed too."""
        more: dict[str, Any] = {"windowsVirtualKeyCode": _KEYS.get(key, ord(key[0].upper()))}
        if len(key) == 1 or key == "Enter":
            more["text"] = "\r" if key == "Enter" else key
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def media(self, kind: str = "", scheme: str = "light") -> None:
        """``print`` or a screen, and its scheme of colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def size(self, width: int, height: int) -> None:
        """The window's, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        """The page printed."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _next(self, awaited: str) -> dict[str, Any]:
        deadline = time.monotonic() + scaled(30)
        while b"\0" not in self._buffer:
            ready = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"Chromium does not answer: awaiting {awaited}"
            data = os.read(self._from, 1 << 20)
            assert data, f"Chromium has ended: awaiting {awaited}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@contextmanager
def browser() -> Iterator[Browser]:
    """It runs until the block ends, and nothing of it any longer: its folder is emptied only then.

    It ends when nobody steers it any more. For root it is the first of its PID namespace, so all that
    it has started has ended when it has (pid_namespaces(7)).
    """
    assert CHROMIUM is not None, "there is no Chromium"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=not _ALONE))
        ends = [*os.pipe(), *os.pipe()]
        command = [*_ALONE, CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            ["/bin/bash", "-c", _PIPED, str(ends[0]), str(ends[3]), *command],
            pass_fds=(ends[0], ends[3]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait, scaled(20))
        for end in ends[1:3]:
            stack.callback(os.close, end)
        os.close(ends[0])
        os.close(ends[3])
        yield Browser(ends[1], ends[2])
