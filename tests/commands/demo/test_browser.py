# SPDX-License-Identifier: Apache-2.0
"""The demo page in a real browser: every control sends the value that it shows.

Needs a Chromium: at CHROMIUM, on the path, or where Playwright finds it.
"""

import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.demo import studio as module
from ldm_jax.commands.demo.server import HOST, make_server
from ldm_jax.commands.demo.studio import Studio
from ldm_jax.commands.demo.turns import Turns
from ldm_jax.files.formats import png

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


class Asked:
    """Stands for a model: keeps what the page sends, read as a model would."""

    def __init__(self, inputs):
        self._inputs, self.requests = inputs, []

    def describe(self):
        return {
            "name": "test",
            "kind": "test",
            "inputs": self._inputs,
            "classes": ["sky", "<b>rose</b>", "sea"],
            "size": 32,
            "step": 4,
            "low_res_side": 8,
            "reconstructs": False,
            "samplers": ["ddim", "heun"],
            "sampling": {"sampler": "heun", "num_steps": 20, "guidance_scale": 3},
        }

    def sample(self, request):
        inputs = request["inputs"]
        read = {name: module._read(name, inputs) for name in self._inputs}
        self.requests.append((request, read))
        image = png.png_bytes(np.zeros((8, 8, 3), np.uint8), {})
        return {"images": [module._url(image)], "settings": "made"}

    reconstruct = sample


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        try:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield browser
        browser.close()


def ask(browser, inputs, act, num_models=1):
    """Opens the page of models with these inputs, acts, and returns what was sent.

    With two models, (request, read) of each.
    """
    models, foreign = [Asked(inputs) for _ in range(num_models)], []
    with make_server(models, Turns(), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://{HOST}:{server.server_address[1]}"
        page = browser.new_page(bypass_csp=True)
        page.on("request", lambda request: foreign.append(request.url))
        page.goto(home)
        page.wait_for_selector("body[data-ready=yes]")
        act(page)
        page.click("#go")
        page.wait_for_selector(".made[data-done=yes] img")
        page.close()
        server.shutdown()
    assert [url for url in foreign if not url.startswith((home, "data:"))] == []
    sent = [pair for model in models for pair in model.requests]
    return sent[0] if len(sent) == 1 else sent


def drag(page, selector, start, end):
    box = page.locator(selector).bounding_box()
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"])
        for x, y in (start, end)
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=8)
    page.mouse.up()


def colour(page, selector, x, y):
    """Returns the colour of a pixel, which must be bright enough to be seen."""
    script = "([s, x, y]) => [...document.querySelector(s).getContext('2d')"
    script += ".getImageData(x, y, 1, 1).data]"
    red, green, blue, _ = page.evaluate(script, [selector, x, y])
    assert max(red, green, blue) > 100, "too dark to be seen"
    return red, green, blue


def test_controls_without_a_use_are_hidden(browser):
    """One model has no menu of models; this one does not reconstruct."""

    def act(page):
        for name in ("#model", "#reconstruct", "#num_steps_b"):
            assert not page.is_visible(name)
        page.check("#beside")
        assert page.is_visible("#num_steps_b") and not page.is_visible("#model_b")
        page.uncheck("#beside")

    ask(browser, [], act)


def test_a_long_name_of_a_model_stays_in_its_column(browser):
    """The name is a path, which has no space where a line could be broken."""

    def act(page):
        page.evaluate(
            "document.getElementById('title').textContent = 'runs/' + 'x'.repeat(60)"
        )
        column, name = (page.locator(s).bounding_box() for s in ("#controls", "#title"))
        assert page.evaluate(
            "(t => t.scrollWidth <= t.clientWidth)(document.getElementById('title'))"
        )
        assert name["width"] <= column["width"] < 400

    ask(browser, [], act)


def test_a_class_is_chosen_from_a_menu_and_settings_are_sent(browser):
    def act(page):
        page.select_option("#class_label", index=1)
        page.fill("#num_steps", "7")

    request, read = ask(browser, ["class_label"], act)
    assert read == {"class_label": ["<b>rose</b>"]}
    assert request["model"] == 0
    assert request["num"] == 4 and request["size"] == 32 and request["seed"] == 0
    expected = {"sampler": "heun", "num_steps": 7, "guidance_scale": 3}
    assert request["sampling"] == expected


def test_a_prompt_is_written(browser):
    _, read = ask(browser, ["text"], lambda page: page.fill("#text", "a rose"))
    assert read == {"text": ["a rose"]}


def test_boxes_are_drawn(browser):
    def act(page):
        page.select_option("#box_class", index=2)
        drag(page, "#boxes", (0.25, 0.25), (0.75, 0.5))

    _, read = ask(browser, ["boxes"], act)
    ((box,),) = [read["boxes"]]
    assert box["label"] == 2
    np.testing.assert_allclose(box["box"], [0.25, 0.25, 0.5, 0.25], atol=0.02)


def test_a_label_map_is_painted(browser):
    def act(page):
        page.select_option("#map_class", index=2)
        drag(page, "#segmentation", (0.1, 0.5), (0.9, 0.5))
        assert colour(page, "#segmentation", 16, 16) != colour(
            page, "#segmentation", 16, 1
        )

    _, read = ask(browser, ["segmentation"], act)
    labels = read["segmentation"]
    assert labels.shape == (32, 32) and set(np.unique(labels)) == {0, 2}
    assert (labels[16, 6:26] == 2).all() and (labels[0] == 0).all()


def test_a_hole_is_painted_over_a_picture(browser, tmp_path):
    picture = np.full((20, 40, 3), 90, np.uint8)
    png.save_png(tmp_path / "a.png", picture)

    def act(page):
        page.set_input_files("#image_file", tmp_path / "a.png")
        page.wait_for_function(
            "document.getElementById('image').getContext('2d')"
            ".getImageData(5, 5, 1, 1).data[0] > 0"
        )
        drag(page, "#mask", (0.5, 0.2), (0.5, 0.8))

    _, read = ask(browser, ["image", "mask"], act)
    assert read["image"].shape == (32, 32, 3) and (read["image"] == 90).all()
    assert read["mask"][16, 16] == 255 and read["mask"][16, 0] == 0


def test_a_small_image_is_given(browser, tmp_path):
    png.save_png(tmp_path / "a.png", np.full((8, 8, 3), 60, np.uint8))

    def act(page):
        page.set_input_files("#low_res_file", tmp_path / "a.png")
        page.wait_for_function(
            "document.getElementById('low_res').getContext('2d')"
            ".getImageData(5, 5, 1, 1).data[0] > 0"
        )

    _, read = ask(browser, ["low_res"], act)
    assert read["low_res"].shape == (8, 8, 3) and (read["low_res"] == 60).all()


def test_a_file_that_is_no_picture_is_named_on_the_page(browser, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")

    def act(page):
        page.set_input_files("#low_res_file", tmp_path / "a.png")
        page.wait_for_function(
            "document.getElementById('error').textContent.includes('no picture')"
        )

    ask(browser, ["low_res"], act)


def test_two_settings_are_sampled_side_by_side_from_one_seed(browser):
    def act(page):
        page.fill("#seed", "5")
        page.check("#beside")
        page.fill("#num_steps_b", "3")
        page.select_option("#sampler_b", "ddim")

    (first, _), (second, _) = ask(browser, [], act)
    assert first["seed"] == second["seed"] == 5
    expected = {"sampler": "heun", "num_steps": 20, "guidance_scale": 3}
    assert first["sampling"] == expected
    assert second["sampling"] == {**expected, "num_steps": 3, "sampler": "ddim"}


def test_two_models_are_side_by_side_from_the_start(browser):
    def act(page):
        page.select_option("#class_label", index=2)

    sent = ask(browser, ["class_label"], act, num_models=2)
    assert [request["model"] for request, _ in sent] == [0, 1]
    assert [read["class_label"] for _, read in sent] == [["sea"], ["sea"]]


def test_a_huge_upload_is_refused_on_the_page(browser, tmp_path):
    """A header of 200 megapixels, in a small file."""
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 10_000)).save(path)
    assert path.stat().st_size < 2**20
    studio = Studio("digits", Turns())
    with make_server([studio], Turns(), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(bypass_csp=True)
        page.goto(f"http://{HOST}:{server.server_address[1]}")
        page.wait_for_selector("body[data-ready=yes]")
        page.set_input_files("#reconstruct", path)
        page.wait_for_function(
            "document.getElementById('error').textContent.includes('pixels')"
        )
        page.close()
        server.shutdown()
