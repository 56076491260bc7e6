"""The map in a browser shows the rows that were given, and nothing of theirs is run."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from skembed import EmbeddingMapDisplay
from tests.inspection.browser import SIZES, browser, drag, on_screen, opened, settle, touch

__all__ = ["browser"]

RNG = np.random.default_rng(0)
N = 240  # given, of which 180 are on the map
CLASSES = np.arange(N) % 3
CENTRES = np.array([[0, 0], [30, 0], [15, 24]])
PLACES = CENTRES[CLASSES] + RNG.uniform(-6, 6, (N, 2))
VECTORS = RNG.normal(size=(N, 16))  # whose neighbours are anywhere on the map
NAMES = np.array(["cats", "dogs", "bills"])[CLASSES]
TEXTS = [f"text {i} on {NAMES[i]}{' with Fish' * (i % 7 == 0)}" for i in range(N)]
COLOURS = {"bills": "tab:blue", "cats": "tab:orange", "dogs": "tab:green"}

EVIL = [
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "two\u2028lines\u2029 <!-- <script>",
    "a null \0 and half a pair \ud83d",
    "{{script}} &lt;b&gt; &amp; ${window.broken = 1} `",
]


def draw(places=PLACES, y=NAMES, vectors=VECTORS, **params):
    matplotlib.use("Agg")
    display = EmbeddingMapDisplay.from_embeddings(vectors, y, places=places, **params)
    matplotlib.pyplot.close(display.figure_)
    return display


@pytest.fixture(scope="module")
def display():
    return draw(max_rows=180)


@pytest.fixture(scope="module")
def path(display, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    return display.to_html(folder / "map.html", texts=TEXTS, title="Cats & dogs")


@pytest.fixture(scope="module", params=SIZES)
def open_page(browser, path, request):
    with opened(browser, path, request.param) as page:
        yield page


@pytest.fixture
def page(open_page):
    """Return the map as it was when it was opened, without what a test has done to it."""
    open_page.mouse.move(1, 1)
    for _ in range(2):
        open_page.keyboard.press("Escape")
    open_page.click("#all")
    open_page.click("#whole")
    settle(open_page)
    return open_page


def ring(page):
    """Return the middle of the ring around the open row, in pixels of the map."""
    settle(page)
    shape = page.locator("#marks .open")
    return np.array([float(shape.get_attribute(name)) for name in ("cx", "cy")])


def farthest(points, some):
    """Return which of some points is farthest from all others."""
    distances = np.linalg.norm(points[some][:, None] - points[None], axis=-1)
    return some[np.sort(distances, axis=1)[:, 1].argmax()]


def colour_at(page, point):
    shot = Image.open(io.BytesIO(page.screenshot()))
    return np.array(shot.convert("RGB").getpixel(tuple(np.round(point).astype(int)))) / 255


def open_at(page, point):
    page.mouse.move(*point)
    settle(page)
    page.mouse.click(*point)
    page.wait_for_selector("#row:not([hidden])")


def listed(page, where):
    return [int(each) for each in page.locator(f"{where} .at").all_text_contents()]


def test_the_row_under_the_pointer_is_shown(page, display):
    places = on_screen(page, display.places)
    for name in COLOURS:
        row = farthest(places, np.flatnonzero(display.y == name))
        page.mouse.move(*places[row])
        card = page.locator("#card")
        card.wait_for(state="visible")
        assert card.locator(".text").text_content() == TEXTS[display.rows[row]]
        assert card.locator(".what").text_content() == display.y[row]
        assert card.locator(".of").text_content().endswith(f"row {display.rows[row]}")
        page.mouse.move(1, 1)
        card.wait_for(state="hidden")


def test_points_have_the_colours_of_the_drawn_map(page, display):
    places = on_screen(page, display.places)
    for name, colour in COLOURS.items():
        row = farthest(places, np.flatnonzero(display.y == name))
        expected = np.array(matplotlib.colors.to_rgb(colour))
        seen = colour_at(page, places[row])
        assert np.abs(seen - (0.9 * expected + 0.1)).max() < 0.12


def test_the_caption_says_that_rows_are_a_sample_and_how_good_the_map_is(page, display):
    caption = page.locator("#caption").text_content()
    assert caption == f"Map of 180 of 240 rows\n{display.quality_}"
    assert "trustworthiness" in caption


def test_search_finds_and_highlights(page, display):
    places = on_screen(page, display.places)
    is_found = np.array(["Fish" in TEXTS[i] for i in display.rows])
    hit, other = (farthest(places, np.flatnonzero(each)) for each in (is_found, ~is_found))
    before = colour_at(page, places[other])
    page.fill("#query", "fISH")
    page.wait_for_selector("#selection:not([hidden])")
    assert page.locator("#status").text_content() == f"{is_found.sum()} rows found"
    assert listed(page, "#found") == display.rows[is_found].tolist()
    assert page.locator("#found mark").first.text_content() == "Fish"
    settle(page)
    places = on_screen(page, display.places)  # the panel of a phone has grown
    paper = np.ones(3)
    assert np.abs(colour_at(page, places[other]) - paper).max() < 0.5 * np.abs(before - paper).max()
    expected = matplotlib.colors.to_rgb(COLOURS[display.y[hit]])
    np.testing.assert_allclose(colour_at(page, places[hit]), expected, atol=0.05)
    page.fill("#query", "nothing has this")
    page.wait_for_function("document.getElementById('status').textContent === '0 rows found'")
    page.click("#clear")
    assert page.locator("#selection").is_hidden()


def test_the_lasso_selects_rows_and_copies_their_positions(page, display):
    (x0, y0), (x1, y1) = (
        edge(on_screen(page, display.places)[display.y == "dogs"], axis=0)
        for edge in (np.min, np.max)
    )
    page.click("#lasso")
    m = 6
    corners = [(x0 - m, y0 - m), (x1 + m, y0 - m), (x1 + m, y1 + m), (x0 - m, y1 + m)]
    drag(page, [*corners, corners[0]])
    page.wait_for_selector("#selection:not([hidden])")
    assert page.locator("#card").is_hidden()
    dogs = display.rows[display.y == "dogs"].tolist()
    assert page.locator("#status").text_content() == f"{len(dogs)} rows selected"
    page.click("#copy")
    page.wait_for_function("document.getElementById('copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == str(dogs)
    assert page.locator("#lasso").get_attribute("aria-pressed") == "false"


def test_a_drag_with_shift_is_a_lasso_too(page, display):
    page.keyboard.down("Shift")
    box = page.locator("#canvas").bounding_box()
    (x0, y0), (x1, y1) = (
        (box["x"] + 2, box["y"] + 120),
        (box["x"] + box["width"] - 2, box["y"] + box["height"] - 2),
    )
    drag(page, [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    page.keyboard.up("Shift")
    page.wait_for_selector("#selection:not([hidden])")
    n_selected = int(page.locator("#status").text_content().split()[0])
    assert 120 < n_selected <= 180


def test_classes_are_hidden_and_shown(page, display):
    places = on_screen(page, display.places)
    row = farthest(places, np.flatnonzero(display.y == "cats"))
    box = page.get_by_role("checkbox", name="cats")
    box.uncheck()
    settle(page)
    page.mouse.move(*places[row])
    settle(page)
    assert page.locator("#card").is_hidden()
    np.testing.assert_allclose(colour_at(page, places[row]), 1, atol=0.02)
    page.fill("#query", "text")
    page.wait_for_selector("#selection:not([hidden])")
    n_left = int((display.y != "cats").sum())
    more = f", {180 - n_left} more in hidden classes"
    assert page.locator("#status").text_content() == f"{n_left} rows found{more}"
    box.check()
    assert page.locator("#status").text_content() == "180 rows found"
    page.click("#none")
    assert page.locator("#status").text_content() == "0 rows found, 180 more in hidden classes"
    page.click("#all")
    assert page.locator("#status").text_content() == "180 rows found"


def test_a_found_text_is_cut_only_where_the_match_would_be_out_of_sight(browser, tmp_path):
    near, far = "A short text that ends in fish", f"{'Many words. ' * 12}Then fish, and more"
    display = draw(PLACES[:3], NAMES[:3], VECTORS[:3])
    path = display.to_html(tmp_path / "map.html", texts=[near, far, f"Fish. {far}"])
    with opened(browser, path) as page:
        page.fill("#query", "fish")
        page.wait_for_selector("#found button")
        said = page.locator("#found .says").all_text_contents()
        assert said[0] == near
        assert said[1].startswith("\u2026 ")
        assert said[1].endswith("Then fish, and more")
        assert said[2] == f"Fish. {far}"
        page.click("#found button >> nth=0")
        assert sorted(page.locator("#near-rows .says").all_text_contents()) == [
            f"Fish. {far}",
            far,
        ]


def test_a_clicked_row_has_the_neighbours_of_the_original_space(page, display):
    unit = display.vectors / np.linalg.norm(display.vectors, axis=1, keepdims=True)
    places = on_screen(page, display.places)
    row = farthest(places, np.arange(180))
    open_at(page, places[row])
    near = np.argsort(-(unit @ unit[row]))
    near = near[near != row][:10]
    assert listed(page, "#near-rows") == display.rows[near].tolist()
    assert page.locator("#row-card .text").text_content() == TEXTS[display.rows[row]]
    assert page.locator("#marks line").count() == 10
    page.click("#near-rows button >> nth=0")
    assert page.locator("#row-card .text").text_content() == TEXTS[display.rows[near[0]]]
    page.keyboard.press("Escape")
    assert page.locator("#row").is_hidden()


def test_the_map_is_moved_by_mouse_wheel_and_keys(page, display):
    places = on_screen(page, display.places)
    open_at(page, places[farthest(places, np.arange(180))])
    at = ring(page)
    box = page.locator("#canvas").bounding_box()
    corner = np.array([box["width"] - 60, box["height"] - 60])
    pointer = corner + np.array([box["x"], box["y"]])
    drag(page, [pointer, pointer - [40, 25]])
    np.testing.assert_allclose(ring(page) - at, [-40, -25], atol=2)
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    moved = ring(page)
    np.testing.assert_allclose(moved - at, [-100, -25], atol=2)
    page.mouse.move(*pointer)
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(100)
    factor = (ring(page) - corner) / (moved - corner)
    assert factor[0] > 1.2
    np.testing.assert_allclose(*factor, rtol=0.05)  # what is below the pointer stays there
    page.keyboard.press("0")
    np.testing.assert_allclose(ring(page), at, atol=2)


def test_the_keyboard_opens_rows(page, display):
    box = page.locator("#canvas").bounding_box()
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    row = np.linalg.norm(on_screen(page, display.places) - middle, axis=1).argmin()
    page.focus("#canvas")
    page.keyboard.press("Enter")
    assert page.locator("#row-card .text").text_content() == TEXTS[display.rows[row]]
    page.focus("#query")
    page.keyboard.type("fish")
    page.wait_for_selector("#found button")
    page.focus("#clear")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    first = listed(page, "#found")[0]
    assert page.locator("#row-card .text").text_content() == TEXTS[first]
    assert page.evaluate("document.activeElement.id") == "close"


def test_fingers_open_move_and_select(browser, path, display):
    with opened(browser, path, "phone") as page:
        places = on_screen(page, display.places)
        row = farthest(places, np.arange(180))
        page.touchscreen.tap(*places[row])
        page.wait_for_selector("#row:not([hidden])")
        assert page.locator("#row-card .text").text_content() == TEXTS[display.rows[row]]
        before = ring(page)
        touch(page, [[(195, 300)], [(195, 320)], [(215, 330)], [(225, 330)]])
        after = ring(page)
        np.testing.assert_allclose(after - before, [30, 30], atol=2)
        # Two fingers, twice as far apart, around a point that stays where it is.
        touch(page, [[(100, 200), (140, 200)], [(90, 200), (150, 200)], [(80, 200), (160, 200)]])
        box = page.locator("#canvas").bounding_box()
        centre = np.array([120, 200 - box["y"]])
        np.testing.assert_allclose(ring(page) - centre, 2 * (after - centre), atol=4)

        page.click("#close")
        page.click("#whole")
        settle(page)
        dogs = display.y == "dogs"
        places = on_screen(page, display.places)[dogs]
        (x0, y0), (x1, y1) = places.min(axis=0) - 6, places.max(axis=0) + 6
        page.click("#lasso")
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        touch(page, [[corner] for corner in corners])
        assert page.locator("#status").text_content() == f"{dogs.sum()} rows selected"


def test_what_the_data_says_stays_text(browser, tmp_path):
    evil = np.array(EVIL, dtype=object)
    n = len(evil)
    places = np.column_stack([np.arange(n), np.arange(n) % 2])
    display = draw(places, evil, VECTORS[:n], labels=False, legend=False)
    path = display.to_html(tmp_path / "map.html", texts=evil, title=" ".join(EVIL))
    with opened(browser, path) as page:
        for row, at in enumerate(on_screen(page, display.places)):
            open_at(page, at)
            shown = letters(page, ["#row-card .text", "#row-card .what"])
            assert shown == [[ord(letter) for letter in evil[row]]] * 2
        (heading,) = letters(page, ["h1"])
        # HTML has neither null nor half a pair.
        whole = " ".join(EVIL).replace("\0", "\ufffd").replace("\ud83d", "?")
        assert heading == [ord(letter) for letter in whole]
        assert page.evaluate("window.broken") is None
        assert page.locator("body img, body b").count() == 0


def letters(page, selectors):
    """Return texts as numbers: half a pair cannot be sent otherwise."""
    return page.evaluate(
        "selectors => selectors.map(each => [...document.querySelector(each).textContent]"
        ".map(letter => letter.codePointAt(0)))",
        selectors,
    )


def test_the_page_may_not_reach_any_network(browser, path):
    page = browser.new_page()
    page.goto(path.as_uri())
    blocked = page.evaluate(
        """() => new Promise(done => {
          document.addEventListener("securitypolicyviolation", event => done(event.blockedURI));
          new Image().src = "http://127.0.0.1:9/picture.png";
        })"""
    )
    page.close()
    assert blocked.startswith("http://127.0.0.1:9/")


def test_pictures_are_shown_and_files_are_named(browser, tmp_path):
    images = []
    for i in range(6):
        images.append(tmp_path / f"{'<b>' * (i == 3)}{i}.png")
        Image.new("RGB", (300, 200), (40 * i, 0, 0)).save(images[-1])
    display = draw(PLACES[:6], NAMES[:6], VECTORS[:6])
    path = display.to_html(tmp_path / "map.html", images=images)
    with opened(browser, path) as page:
        page.mouse.move(*on_screen(page, display.places)[3])
        image = page.locator("#card img")
        image.wait_for(state="visible")
        assert page.locator("#card .text").text_content() == "<b>3.png"
        drawn = image.evaluate(
            "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        )
        assert drawn == [128, 85]


def test_sounds_have_a_player_that_can_be_reached(browser, tmp_path):
    rate = 16_000
    tone = np.sin(np.arange(rate * 3) * 0.2) * 0.5
    display = draw(PLACES[:4], NAMES[:4], VECTORS[:4])
    path = display.to_html(tmp_path / "map.html", sounds=[(tone, rate)] * 4, sound_seconds=1.5)
    with opened(browser, path) as page:
        page.mouse.move(*on_screen(page, display.places)[2])
        player = page.locator("#card audio")
        player.wait_for(state="visible")
        length = player.evaluate(
            "audio => new Promise(done => { const tell = () => done(audio.duration);"
            "audio.readyState ? tell() : audio.addEventListener('loadedmetadata', tell) })"
        )
        assert length == pytest.approx(1.5, abs=0.1)
        player.hover()
        page.wait_for_timeout(600)
        assert player.is_visible()


def test_numbers_have_a_scale(browser, tmp_path):
    y = np.linspace(0, 10, N)
    y[5] = np.nan
    display = draw(PLACES, y)
    path = display.to_html(tmp_path / "map.html", cmap="plasma")
    with opened(browser, path) as page:
        assert page.locator("#ticks span").all_text_contents() == ["0", "5", "10"]
        assert page.locator("#legend-head").text_content() == "Numbers (1 row without, in grey)"
        places = on_screen(page, display.places)
        row = farthest(places, np.arange(6, N))
        expected = np.array(matplotlib.colormaps["plasma"](y[row] / 10)[:3])
        assert np.abs(colour_at(page, places[row]) - (0.9 * expected + 0.1)).max() < 0.12
        page.mouse.move(*places[row])
        page.locator("#card").wait_for(state="visible")
        shown = float(page.locator("#card .what").text_content())
        assert shown == pytest.approx(y[row], rel=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_maps_of_few_rows_open(browser, tmp_path, n):
    display = draw(np.zeros((n, 2)), None, VECTORS[:n])
    path = display.to_html(tmp_path / "map.html", texts=TEXTS[:n])
    with opened(browser, path) as page:
        page.focus("#canvas")
        page.keyboard.press("Enter")
        assert page.locator("#near-rows li").count() == max(n - 1, 0)


@pytest.mark.parametrize(
    ("before", "notice"),
    [
        (
            """const get = HTMLCanvasElement.prototype.getContext;
            HTMLCanvasElement.prototype.getContext = function (kind, ...options) {
              return kind === "2d" ? get.call(this, kind, ...options) : null;
            };""",
            "This map needs WebGL",
        ),
        ("delete window.DecompressionStream", "This map needs a browser of 2023 or later"),
    ],
    ids=["WebGL", "DecompressionStream"],
)
def test_a_browser_that_cannot_show_the_map_says_why(browser, path, before, notice):
    with opened(browser, path, before=before) as page:
        assert page.get_by_role("alert").text_content().startswith(notice)


def test_many_classes_scroll_and_the_dark_map_is_dark(browser, tmp_path):
    y = np.array([f"class {i}" for i in range(N)])
    path = draw(y=y).to_html(tmp_path / "map.html")
    with opened(browser, path, color_scheme="dark") as page:
        assert page.get_by_role("checkbox").count() == N
        heights = page.locator("#classes").evaluate(
            "each => [each.scrollHeight, each.clientHeight]"
        )
        assert heights[0] > 2 * heights[1] > 400
        box = page.locator("#canvas").bounding_box()
        assert colour_at(page, [box["x"] + 200, box["y"] + box["height"] - 5]).max() < 0.2
