"""A real browser and a real JupyterLab for tests, with every address outside this machine shut."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


def executable() -> str | None:
    """Chromium or Chrome as installed on this machine, or None."""
    places = [shutil.which(name) for name in NAMES] + list(PLACES)
    return next((p for p in places if p and Path(p).exists()), None)


# Of a file of tests that open pages.
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(executable() is None, reason="install Chromium (apt-get install chromium)"),
]


class Browser:
    """Pages of one headless browser. `refused`: addresses outside this machine that were asked."""

    def __init__(self, browser) -> None:
        self.refused: list[str] = []
        self._browser = browser

    def _guard(self, route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in ("http", "https") and url.hostname not in ("127.0.0.1", "localhost"):
            self.refused.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    def page(self, javascript: bool = True):
        """A new page with storage of its own."""
        context = self._browser.new_context(
            viewport={"width": 1400, "height": 1100}, java_script_enabled=javascript
        )
        context.route("**/*", self._guard)
        context.set_default_timeout(60_000)
        return context.new_page()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with a profile of its own, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable(), args=FLAGS)
        try:
            yield Browser(browser)
        finally:
            browser.close()


class Lab:
    """A JupyterLab server on this machine over `folder`, with settings and trust of its own."""

    token = "only-for-tests"

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        own = folder / ".jupyter"
        settings = {
            "@jupyterlab/apputils-extension/notification": {
                "fetchNews": "false",
                "checkForUpdates": False,
            },
            # The harsher setting: with it a widget that is left open would be saved.
            "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
        }
        for name, values in settings.items():
            path = own / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        env = os.environ | {
            "JUPYTER_CONFIG_DIR": str(own / "config"),
            "JUPYTER_DATA_DIR": str(own / "data"),
            "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
            "IPYTHONDIR": str(own / "ipython"),
            "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])),
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"]
        command += [f"--IdentityProvider.token={self.token}", "--LabApp.expose_app_in_browser=True"]
        command += ["--LabApp.extension_manager=readonly"]
        self._log = (own / "server.log").open("wb")
        self._server = subprocess.Popen(
            command, cwd=folder, env=env, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            wait_for(self._up, "JupyterLab answers", 60)
        except BaseException:
            self.close()
            raise

    def _up(self) -> bool:
        assert self._server.poll() is None, (self.folder / ".jupyter/server.log").read_text()[
            -2000:
        ]
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url("api")) as answer:
            return answer.status == 200
        return False

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def open(self, browser: Browser, name: str) -> Notebook:
        """The notebook `name` of the folder in a page with a workspace of its own, kernel ready."""
        page = browser.page()
        workspace = f"lab/workspaces/{name.removesuffix('.ipynb')}-{time.monotonic_ns()}"
        page.goto(self._url(f"{workspace}?token={self.token}"))
        page.wait_for_function("window.jupyterapp !== undefined")
        return Notebook(page, self.folder / name)

    def close(self) -> None:
        self._server.terminate()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()


class Notebook:
    """One notebook in JupyterLab, driven through the application's own commands."""

    def __init__(self, page, path: Path) -> None:
        self.page, self.path = page, path
        page.evaluate(
            """async (path) => {
                const app = window.jupyterapp;
                await app.restored;
                app.shell.collapseLeft();
                const panel = await app.commands.execute('docmanager:open', {path});
                await panel.context.ready;
                await panel.sessionContext.ready;
                await panel.sessionContext.session.kernel.info;
                app.shell.activateById(panel.id);
                window.panel = panel;
            }""",
            path.name,
        )

    def run_all(self, wait: bool = True) -> None:
        """Run every cell; unless `wait` is False, return when the last one has run."""
        command = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
        self.page.evaluate(
            f"async () => {{ await {command}; }}" if wait else f"() => {{ {command}; }}"
        )

    def counts(self) -> list[int | None]:
        """The execution count of each code cell."""
        return self.page.evaluate(
            """() => window.panel.content.widgets.filter(c => c.model.type === 'code')
                .map(c => c.model.executionCount)"""
        )

    def trusted(self) -> bool:
        """Whether JupyterLab trusts every code cell."""
        return self.page.evaluate(
            """() => window.panel.content.widgets
                .every(cell => cell.model.type !== 'code' || cell.model.trusted)"""
        )

    def save(self) -> nbformat.NotebookNode:
        """Save through the application and read the file back."""
        self.page.evaluate("() => window.panel.context.save()")
        return nbformat.read(self.path, as_version=4)


def write_notebook(path: Path, *sources: str, outputs: dict[int, list[dict]] | None = None) -> Path:
    """A notebook of code cells; `outputs` holds the data bundles of cells that were run."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for number, bundles in (outputs or {}).items():
        cells[number].execution_count = number + 1
        cells[number].outputs = [nbformat.v4.new_output("display_data", data=b) for b in bundles]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)
    return path


def wait_for(check: Callable[[], object], what: str, seconds: float = 60):
    """The first true answer of `check`, asked again and again; fails by name after `seconds`."""
    end = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.2)
    return answer


def pixels(png: bytes, colour: str, tolerance: int = 12) -> int:
    """How many pixels of a screenshot have `colour` ("#RRGGBB"), each channel within tolerance."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) <= tolerance).sum())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def dead_links(study: Path) -> list[str]:
    """Links of the pages of a folder to what is not in it; those to the web are not followed."""
    pages = {f.name: BeautifulSoup(f.read_text(), "html.parser") for f in study.glob("*.html")}
    dead = []
    for name, page in pages.items():
        for link in page.find_all("a", href=True):
            to, _, fragment = unquote(link["href"]).partition("#")
            there = to in {"", *pages} and (not fragment or pages[to or name].find(id=fragment))
            if urlsplit(to).scheme not in ("https", "data") and not there:
                dead.append(f"{name}: {link['href']}")
    return dead
