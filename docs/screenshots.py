"""Take the screenshots of Airflow's UI for `docs/operations.md`, in a real browser.

It needs a running stack, and Chromium or Chrome; it speaks the browser's own protocol, so no driver is needed:

    .venv/bin/python docs/screenshots.py --browser /usr/bin/chromium

Source: the Chrome DevTools Protocol, domains Page, Runtime and Input.
"""  # noqa: INP001

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from lakehouse.settings import AirflowSettings, load_settings

IMAGES = Path(__file__).with_name("images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1500, 950
WAIT_SECONDS = 30
SETTLE_SECONDS = 1.5
"""What a page needs to finish its animations once its content is there."""


class Page:
    """One tab of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._sent = 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the browser and return its result."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(WAIT_SECONDS))
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def run(self, script: str) -> Any:
        """Evaluate JavaScript and return its value."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, url: str, shows: str) -> None:
        """Go to an address, and wait until the page shows this text."""
        self.ask("Page.navigate", url=url)
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(shows)})", f"{url} to show {shows!r}")

    def wait(self, condition: str, what: str) -> None:
        """Wait until a condition in JavaScript holds, and until the page is still."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {WAIT_SECONDS} s in vain for {what}; it shows: {self.text()[:500]!r}")
            time.sleep(0.2)
        time.sleep(SETTLE_SECONDS)

    def text(self) -> str:
        """What the page shows."""
        return self.run("document.body ? document.body.innerText : ''") or ""

    def press(self, key: str) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")

    def click(self, name: str) -> None:
        """Click the button of this name or text."""
        script = f"""(() => {{
            const name = {json.dumps(name)};
            const button = [...document.querySelectorAll("button, a, [role=tab]")].find(
                (one) => one.getAttribute("aria-label") === name || one.innerText.trim() === name);
            if (button) button.click();
            return Boolean(button);
        }})()"""
        if not self.run(script):
            raise LookupError(f"no button {name!r} on the page; it shows: {self.text()[:500]!r}")

    def shoot(self, file: Path) -> None:
        """Write what the window shows as a PNG."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
        sys.stdout.write(f"{file}\n")


@contextmanager
def browsing(browser: str) -> Generator[Page]:
    """Open a browser without a window, with a profile of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
        window = (f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}", "--remote-debugging-port=0")
        process = subprocess.Popen([browser, *options, *window, "about:blank"], stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + WAIT_SECONDS
            while not (port_file.exists() and port_file.read_text().strip()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{browser} did not start")
                time.sleep(0.1)
            port = port_file.read_text().splitlines()[0]
            tabs = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
            (tab,) = [tab for tab in tabs if tab["type"] == "page"]
            with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                page = Page(socket)
                size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
                page.ask("Emulation.setDeviceMetricsOverride", **size)
                yield page
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


def take(page: Page, airflow: AirflowSettings, directory: Path, dag_id: str) -> None:
    """Log in and take each picture."""
    directory.mkdir(parents=True, exist_ok=True)
    url = airflow.url.rstrip("/")
    page.open(f"{url}/auth/login/", "Sign In")
    login = {"username": airflow.user, "password": airflow.password.get_secret_value()}
    page.run(
        "".join(f"document.getElementById({json.dumps(k)}).value = {json.dumps(v)};" for k, v in login.items())
        + "document.querySelector('form [type=submit]').click()"
    )
    page.wait("!location.pathname.startsWith('/auth/login')", "the login")
    page.open(f"{url}/dags", dag_id)
    page.shoot(directory / "airflow-dags.png")
    page.open(f"{url}/dags/{dag_id}", dag_id)
    page.press("g")
    page.wait("document.querySelector('.react-flow__node')", "the graph")
    page.shoot(directory / "airflow-graph.png")
    page.click("Dag Docs")
    page.wait("document.body.innerText.includes('Triage')", "the runbook")
    page.shoot(directory / "airflow-runbook.png")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description="Take the screenshots of Airflow's UI.")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    parser.add_argument("--browser", default=found, required=found is None, help="Chromium or Chrome")
    parser.add_argument("--directory", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("--dag", default="transform", help="whose graph and runbook")
    options = parser.parse_args()
    with browsing(options.browser) as page:
        take(page, load_settings().airflow, options.directory, options.dag)


if __name__ == "__main__":
    main()
