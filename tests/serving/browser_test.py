"""The page in a real browser: positions, ellipses, residual test, rate; no other site."""

import json
import time
import urllib.request

import live_page
import live_server
import numpy as np
import pytest
from serving import surfaces

from ris_jax.data.recordings import containers

MEASUREMENT, TRUTH, POSITIONS = surfaces.simulated()
_SECONDS = 30.0


def _until(condition, what):
    """Wait until a condition holds."""
    end = time.monotonic() + _SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def _post(address, body):
    request = urllib.request.Request(f"{address}/localize", body)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def _requested(driver):
    """Return the addresses that the page has requested."""
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {
        entry["params"]["request"]["url"]
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    }


@pytest.mark.full
@pytest.mark.skipif(
    live_page.programs() is None,
    reason="no Chromium: apt-get install chromium chromium-driver",
)
def test_live_map(tmp_path):
    path = tmp_path / "surface.npz"
    arrays = {
        "snapshots": MEASUREMENT.snapshots,
        "channel": MEASUREMENT.channel,
        "codes": MEASUREMENT.codes,
        "wavelength": 0.3,
        "element_positions": POSITIONS,
    }
    containers.save(path, arrays)
    with live_page.browser() as driver:

        def text(name):
            return driver.execute_script(
                "return document.getElementById(arguments[0]).textContent", name
            )

        def count(selector):
            return driver.execute_script(
                "return document.querySelectorAll(arguments[0]).length", selector
            )

        with live_server.running(path, "--max_sources=2", "--static_path=off") as server:
            driver.get(server.address)
            _until(lambda: text("state") == "ready", "the page is connected")
            assert text("residual") == "residual test: no scene yet"
            two = int(np.argmax(TRUTH.num_sources))
            answer = _post(server.address, live_server.as_json(MEASUREMENT.snapshots[two]))
            sources = answer["scenes"][0]["sources"]
            assert len(sources) == 2
            _until(lambda: count("#above .source circle") == 2, "sources are on the map")
            assert count("#front .source .ellipse") == 2
            assert count("#above .source .ellipse") == 2
            rows = driver.execute_script(
                "return [...document.querySelectorAll('#sources tr')].map((r) => r.textContent)"
            )
            for row, source in zip(rows, sources, strict=True):
                for value, digits in (("azimuth_deg", 2), ("elevation_deg", 2), ("range_m", 3)):
                    assert f"{source[value]:.{digits}f}" in row
            assert text("residual") == "residual test: passed"
            assert text("answered") == "1"
            assert text("rate") == "0.1 /s"
            assert text("latency").endswith(" ms")

            # A wrong phase on one antenna: the model does not fit.
            wrong = MEASUREMENT.snapshots[two] * np.where(np.arange(8) == 3, 1j, 1.0)
            scene = _post(server.address, live_server.as_json(wrong))["scenes"][0]
            assert "misfit" in scene["flags"]
            _until(lambda: text("residual") == "residual test: failed", "the misfit is shown")
            assert "the residual is not white" in text("warnings")

            noise = np.random.default_rng(0).normal(size=(8, 8, 2)) @ np.array([1.0, 1.0j])
            _post(server.address, live_server.as_json(noise))
            _until(lambda: count("#above .source") == 0, "a scene without sources is empty")
            assert driver.execute_script("return !document.getElementById('empty').hidden")

            def inside(address):
                return address.startswith((server.address, "data:"))

            requested = {url for url in _requested(driver) if not url.startswith("chrome:")}
            assert server.address + "/page.js" in requested
            assert all(map(inside, requested)), requested
            assert [
                entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"
            ] == []
            blocked = driver.execute_async_script(
                "const done = arguments[0];"  # the policy of the page forbids other sites
                "fetch('http://127.0.0.2:9/').then(() => done('sent'), () => done('refused'))"
            )
            assert blocked == "refused"
        _until(lambda: text("state").startswith("connection lost"), "the end is shown")
