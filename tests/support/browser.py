"""A headless Chromium, driven by chromedriver over plain HTTP."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=1100,1400")
_SECONDS = 60


def missing() -> str | None:
    """Which program is not here; None if both are."""
    return next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)


class Browser:
    """One browser with one page; a context manager."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile

    def __enter__(self) -> Self:
        self._driver = subprocess.Popen(
            [str(shutil.which("chromedriver")), "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._driver.stdout is not None
        port = next(
            match[1] for line in self._driver.stdout if (match := re.search(r"successfully on port (\d+)", line))
        )
        self._url = f"http://127.0.0.1:{port}/session"
        options = {"args": [*_FLAGS, f"--user-data-dir={self._profile}"], "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            session = self._call("", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._driver.kill()
            raise
        self._url += f"/{session['sessionId']}"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("", None, method="DELETE")
        finally:
            self._driver.kill()
            self._driver.wait()

    def open(self, page: Path) -> None:
        """Load a page from disk."""
        self._call("/url", {"url": page.absolute().as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """What a script in the page returns."""
        return self._call("/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def console(self) -> list[str]:
        """Messages on the console since the last call."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def _call(self, path: str, content: object, method: str = "POST") -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = Request(self._url + path, body, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        with urlopen(request, timeout=_SECONDS) as reply:  # noqa: S310 - chromedriver on this machine
            return json.loads(reply.read())["value"]
