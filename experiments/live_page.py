"""Screenshot of the page of `ris-jax serve` in headless Chromium, with sources that move.

  python experiments/live_page.py --out=docs/live.png

Starts the service for the surface of `ris-jax example` and posts scenes of three sources, two of
which move. Needs Chromium and its driver (Debian: chromium, chromium-driver) and the package
selenium.
"""

import contextlib
import pathlib
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import live_server
import numpy as np
from absl import app, flags

from ris_jax.data.recordings import containers, example

_OUT = flags.DEFINE_string("out", "live.png", "image to write")
_NUM_SCENES = flags.DEFINE_integer("num_scenes", 60, "scenes before the screenshot", lower_bound=1)
_SIZE = 1100, 860


def programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and of its driver, if both are installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextlib.contextmanager
def browser(size: tuple[int, int] = _SIZE) -> Iterator[Any]:
    """Start headless Chromium; it logs messages of the console and requests.

    Args:
      size: of the window.

    Raises:
      RuntimeError: Chromium or its driver is not installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    if (found := programs()) is None:
        raise RuntimeError("browser: expected chromium and chromedriver; found none; install them")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = found[0]
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
            "--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}", "--hide-scrollbars",
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(found[1]))
        try:
            yield driver
        finally:
            driver.quit()


def moving_scenes(count: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return the arrays of the example, and snapshots [count, L, M] of sources that move."""
    arrays = example.recordings(1, 0, 15.0)
    random = np.random.default_rng(1)
    scenes = []
    for step in np.linspace(0.0, 1.0, count):
        places = np.array(
            [[-35.0 + 20 * step, 12.0, 2.0 + step], [5.0, -10.0, 3.0], [40.0, 5 - 8 * step, 4.0]]
        )
        scenes.append(
            example.received(
                random, places, arrays["element_positions"], arrays["channel"], arrays["codes"],
                15.0,
            )
        )  # fmt: skip
    return arrays, np.stack(scenes)


def main(_: list[str]) -> None:
    """Send the scenes of moving sources to a service, and save a picture of its page."""
    arrays, scenes = moving_scenes(_NUM_SCENES.value)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "recordings.npz"
        containers.save(path, {k: v for k, v in arrays.items() if k != "snr_db"})
        with live_server.running(path) as server, browser() as driver:
            driver.get(server.address)
            for scene in scenes:
                body = live_server.as_json(scene)
                request = urllib.request.Request(f"{server.address}/localize", body)
                with urllib.request.urlopen(request, timeout=60) as response:
                    response.read()
            driver.execute_async_script("requestAnimationFrame(() => arguments[0]())")
            driver.save_screenshot(_OUT.value)
    print(f"written: {_OUT.value}")


if __name__ == "__main__":
    app.run(main)
