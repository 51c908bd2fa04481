"""A headless Chromium that looks at the page, and what a person without eyes would check there."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.nodes import wait_for

LEAST_CONTRAST, LEAST_CONTRAST_LARGE = 4.5, 3.0
"""Of text, and of text from 24 px, or 18.66 px if bold (WCAG 2.2, 1.4.3)."""

MOST_TABS = 150

UNLABELLED = """
return [...document.querySelectorAll(
  "a[href], button, input:not([type=hidden]), select, textarea, summary, canvas, progress,"
  + "[tabindex='0']"
)].filter((each) => {
  const by = each.getAttribute("aria-labelledby");
  const words = [
    each.getAttribute("aria-label"),
    by && document.getElementById(by)?.textContent,
    ...[...(each.labels || [])].map((label) => label.textContent),
    each.matches("a, button, summary") ? each.textContent : "",
    each.querySelector("img")?.alt,
  ];
  return each.checkVisibility() && !words.some((word) => word && word.trim());
}).map((each) => each.outerHTML.slice(0, 120));
"""

PALE = """
const [least, large] = arguments;
const seen = (text) => text.replace(/[^0-9.,]/g, "").split(",").map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function ground(element) {
  for (let each = element; each; each = each.parentElement) {
    const color = seen(getComputedStyle(each).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
    if (color[3] > 0) return null; // half through: not judged here
  }
  return [255, 255, 255];
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim();
  const element = walker.currentNode.parentElement;
  if (!text || element.closest("script, style, template, noscript, canvas, :disabled")) continue;
  if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
  const style = getComputedStyle(element);
  const ink = seen(element instanceof SVGElement ? style.fill : style.color);
  const back = ground(element instanceof SVGElement ? element.ownerSVGElement : element);
  if (!back) continue;
  const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (isLarge ? large : least)) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
}
return found;
"""


class Chromium:
    """One window of a browser.

    Args:
        driver: Selenium's.
        base: What every address must begin with.
    """

    def __init__(self, driver: webdriver.Chrome, base: str) -> None:
        self.driver = driver
        self.base = base
        self._trouble: list[str] = []
        self._asked: list[str] = []

    def open(self, address: str) -> None:
        """Go to a page of the node."""
        self.driver.get(self.base + address)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script on the page returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any, timeout_s: float = 60, what: str = "") -> Any:
        """Return the first true answer of a script."""
        return wait_for(
            lambda: self.run(script, *arguments), timeout_s=timeout_s, what=what or script
        )

    def keys(self, *keys: str, shift: bool = False) -> None:
        """Press keys, one after the other, wherever the focus is."""
        actions = ActionChains(self.driver)
        if shift:
            actions.key_down(Keys.SHIFT)
        for key in keys:
            actions.send_keys(key)
        if shift:
            actions.key_up(Keys.SHIFT)
        actions.perform()

    def tab_to(self, selector: str) -> None:
        """Go to an element as who has no pointer does: by the Tab key alone."""
        for _ in range(MOST_TABS):
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"the Tab key never reaches {selector}")

    def be_dark(self, dark: bool) -> None:
        """Let the system be dark, or light."""
        value = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def unlabelled(self) -> list[str]:
        """Return the visible controls of which nobody is told what they are for."""
        found: list[str] = self.run(UNLABELLED)
        return found

    def pale(self) -> list[str]:
        """Return the visible texts that stand out too little."""
        found: list[str] = self.run(PALE, LEAST_CONTRAST, LEAST_CONTRAST_LARGE)
        return found

    def trouble(self) -> list[str]:
        """Return all warnings and errors of the console since the beginning."""
        for entry in self.driver.get_log("browser"):
            if entry["level"] in ("WARNING", "SEVERE"):
                self._trouble.append(f"{entry['level']} {entry['message']}")
        return self._trouble

    def asked(self) -> list[str]:
        """Return every address that was asked for since the beginning."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._asked.append(str(message["params"]["request"]["url"]))
        return self._asked


@contextmanager
def chromium(find: Callable[[str], str], folder: Path, base: str) -> Iterator[Chromium]:
    """Give a browser window with a profile of its own.

    Args:
        find: Finds a program.
        folder: Gets the profile.
        base: Address of the node's page.
    """
    options = Options()
    options.binary_location = find("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1300,1000",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(find("chromedriver")))
    try:
        yield Chromium(driver, base)
    finally:
        driver.quit()
