"""Pages in headless Chromium, Debian's, that are closed without having logged an error."""

import contextlib
import itertools
import math
import shutil

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from tests.materials import skip_missing

SIZES = {"wide": (1280, 800), "phone": (390, 844)}

# WebGL without a graphics card; root may not have a sandbox.
OPTIONS = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
]


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        skip_missing("chromium is missing: `apt-get install chromium` (Debian)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, size="wide", *, before="", **context_options):
    """Open a map; fail if it logs an error or asks for anything but itself and data URLs.

    The script `before` runs before those of the page.
    """
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=size == "phone",
        reduced_motion="reduce",
        **context_options,
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(before)
    page = context.new_page()
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=240_000)
    yield page
    context.close()
    assert errors == []
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}


def on_screen(page, places):
    """Return where places are on the screen while the whole map is shown, shape (n, 2)."""
    box = page.locator("#canvas").bounding_box()
    low, high = places.min(axis=0), places.max(axis=0)
    centred = (places - (low + high) / 2) / (max(high - low) / 2)
    reach = np.abs(centred).max(axis=0)
    distance = 1.06 * max(reach[1], reach[0] * box["height"] / box["width"])
    middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    return middle + centred * [1, -1] / distance * box["height"] / 2


def settle(page):
    """Wait until what was asked for is drawn."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def drag(page, corners):
    """Draw a line with the mouse."""
    page.mouse.move(*corners[0])
    settle(page)
    page.mouse.down()
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        for step in np.linspace(0, 1, max(2, math.ceil(math.dist((x0, y0), (x1, y1)) / 60)))[1:]:
            page.mouse.move(x0 + step * (x1 - x0), y0 + step * (y1 - y0))
            page.wait_for_timeout(12)  # the library takes no more than a point each 10 ms
    settle(page)
    page.mouse.up()


def touch(page, steps):
    """Move fingers, each step a list of where they are."""
    session = page.context.new_cdp_session(page)
    kinds = ["touchStart", *["touchMove"] * (len(steps) - 1), "touchEnd"]
    for kind, points in zip(kinds, [*steps, []], strict=True):
        at = [{"x": float(x), "y": float(y), "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
        page.wait_for_timeout(15)
        settle(page)
    session.detach()
