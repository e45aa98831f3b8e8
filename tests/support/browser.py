"""A real browser: its size, and checks for accessibility and for texts that it cuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from selenium import webdriver

CLIPPED = """
const wide = document.documentElement.clientWidth, bad = [];
const outside = (inner, outer) => inner.left < outer.left - 0.5 || inner.right > outer.right + 0.5
  || inner.top < outer.top - 0.5 || inner.bottom > outer.bottom + 0.5;
for (const text of document.querySelectorAll("svg text")) {
  const box = text.getBoundingClientRect(), picture = text.ownerSVGElement.getBoundingClientRect();
  if (box.width && (outside(box, picture) || box.right > wide)) bad.push(text.textContent);
}
for (const each of document.querySelectorAll("h1, h2, h3, p, figcaption, .tile, .tile b, header *")) {
  const block = getComputedStyle(each).display != "inline";
  if (block && each.scrollWidth > each.clientWidth + 1) bad.push(each.textContent);
}
return bad;
"""

AXE = (resources.files("axe_core_python") / "axe.min.js").read_text()
RUN_AXE = """
const done = arguments[0];
axe.run().then(found => done(found.violations.map(
  each => [each.impact, each.id, ...each.nodes.map(node => node.html)].join(": "))));
"""


def axe_violations(browser: webdriver.Chrome) -> list[str]:
    """Return what axe finds on the page: impact, rule and elements of each violation."""
    browser.execute_script(AXE)
    return list(browser.execute_async_script(RUN_AXE))


def chromium(binary: str, driver: str, profile: Path) -> webdriver.Chrome:
    """Start Chromium without a screen, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1300,1000",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@contextmanager
def screen(browser: webdriver.Chrome, width: int, height: int = 1000, scheme: str = "light") -> Iterator[None]:
    """Give the page a screen of another size, light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
