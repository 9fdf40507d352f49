"""Takes the pictures of the documentation: the page of a Space, in headless Chromium, on a desktop and on a phone.

Needs `pip install selenium gradio`, Chromium and its driver (Debian: `apt-get install chromium chromium-driver`).

    hf-rec space --model_name_or_path MODEL --output_dir space
    python scripts/space_screenshots.py --space space --search "star wars" matrix alien
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}  # CSS pixels
PATIENCE = 120  # seconds that a start or an answer may take on a busy machine
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
OWN_HOST = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextmanager
def served(space: Path, *start: str) -> Iterator[str]:
    """The address of a Space that runs while the context does.

    Args:
        start: Arguments of Python that start the page in its folder; `app.py` by default.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    variables.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, *(start or ["app.py"])]
        process = subprocess.Popen(command, cwd=space, env=variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + PATIENCE
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{space} did not start:\n{log.read()[-5000:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def installed_browser() -> str | None:
    """The path of Chromium or Chrome, None where they or their driver are missing."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found if shutil.which("chromedriver") else None


@contextmanager
def chromium(width: int, height: int, dark: bool = False):
    """Headless Chromium, driven by selenium, which keeps a log of its requests."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = installed_browser()
    for switch in (*SWITCHES, OWN_HOST, f"--window-size={width},{height}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield browser


class Page:
    """The page of a Space in a browser."""

    def __init__(self, browser, url: str):
        self.browser = browser
        browser.get(url)
        self.until(lambda: self.titles("ranked"), "the list")

    def until(self, found, what: str):
        """What a function returns as soon as it is true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := found()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the page does not show {what}")
            time.sleep(0.05)
        return value

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements, read at once."""
        script = "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText.trim())"
        return self.browser.execute_script(script, selector)

    def titles(self, part: str) -> list[str]:
        """The titles of a list: of what was "found", of the "history" or of the "ranked" items."""
        return self.texts(f"#{part} > div > div > :is(ol, ul) > li > .about > .title")

    def changed(self, part: str, click) -> list[str]:
        """The titles of a list after a click has changed it."""
        before = self.titles(part)
        click()
        self.until(lambda: self.titles(part) != before, f"another {part}")
        return self.titles(part)

    def type(self, text: str) -> list[str]:
        """The titles that a search finds."""
        box = self.all("#search :is(textarea, input)")[0]
        return self.changed("found", lambda: box.send_keys(text))

    def button(self, label: str):
        """The first button that screen readers call so."""
        script = "return [...document.querySelectorAll('button')].find(button => button.ariaLabel === arguments[0])"
        return self.until(lambda: self.browser.execute_script(script, label), label)

    def press(self, label: str) -> list[str]:
        """The titles of the history after a click on a button that changes it."""
        return self.changed("history", self.button(label).click)

    def add(self, text: str) -> list[str]:
        """The history with the first item that a search finds."""
        found = self.type(text)
        return self.press(f"Add {found[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, required=True, help="folder that hf-rec space wrote")
    parser.add_argument("--search", nargs="+", required=True, help="searches, of which the first item is added")
    parser.add_argument("--output_dir", type=Path, default=Path("docs"), help="folder of the pictures")
    parser.add_argument("--dark", action="store_true", help="dark colours")
    args = parser.parse_args()
    with served(args.space) as url:
        for device, size in SIZES.items():
            with chromium(*size, args.dark) as browser:
                page = Page(browser, url)
                for text in args.search:
                    page.add(text)
                similar = page.all("#ranked .similar")[1]
                similar.click()
                page.until(lambda: page.texts(".nearest .title"), "similar items")  # noqa: B023
                if device == "phone":
                    browser.execute_script("document.querySelector('#history').scrollIntoView()")
                browser.execute_script("document.activeElement.blur()")
                time.sleep(1)  # for transitions
                browser.save_screenshot(str(args.output_dir / f"space-{device}.png"))


if __name__ == "__main__":
    main()
