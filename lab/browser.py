"""Chromium without a window, driven over its DevTools pipe: look at a page as a person does."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.wait import eventually

__all__ = ["Browser"]

#: Seconds that the browser has for an answer.
TIMEOUT = 30


class Browser:
    """One browser with one page. A context manager.

    :param command: how to run a program where the page can be reached, as Namespace.command does.
    :param profile: a directory for the browser's files.
    :ivar complaints: what the page has written to the console as errors, and uncaught exceptions.
    """

    def __init__(self, command: Sequence[str], profile: Path) -> None:
        self.complaints: list[str] = []
        self._number = 0
        self._read = b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        arguments = (
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe"),
            f"--user-data-dir={profile}",
        )
        # The pipe's ends are descriptors 3 and 4 by convention.
        wrapper = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        with (profile / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", wrapper, "chromium", *command, *arguments],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = {"targetId": target, "flatten": True}
        self._session: str | None = None
        self._session = self._ask("Target.attachToTarget", attached)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, url: str, *, width: int = 1480, height: int = 1180) -> None:
        """Go to a page, with a window of so many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", size)
        self._ask("Page.navigate", {"url": url})

    def prefer(self, scheme: str) -> None:
        """Have it ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", {"features": features})

    def find(self, expression: str) -> Any:
        """The value of a JavaScript expression.

        :raises AssertionError: it throws.
        """
        answer = self._ask(
            "Runtime.evaluate",
            {"expression": expression, "returnByValue": True, "awaitPromise": True},
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, what: str, expression: str, timeout: float = 20) -> Any:
        """The value of an expression once it is true."""
        return eventually(what, lambda: self.find(expression), timeout=timeout)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._ask("Input.insertText", {"text": text})

    def press(self, key: str) -> None:
        """Press a key such as ``Tab`` or ``ArrowRight``."""
        codes = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
            self._ask("Input.dispatchKeyEvent", event)

    def picture(self, path: Path) -> None:
        """Keep what is to be seen as a PNG file."""
        data = self._ask("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(data))

    def _ask(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method}
        message["params"] = parameters or {}
        session = getattr(self, "_session", None)
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            assert piece, "the browser does not answer"
            self._read += piece
        text, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(event["exceptionDetails"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.complaints.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.complaints.append(str(event["args"]))
