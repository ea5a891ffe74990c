"""Take the images of docs/web.md: the page is used in Chromium as its tests use it, at the model's own size.

    python docs/web_pictures.py

Needs plugins/sam2core-web with its ``test`` extra, and chromium with chromedriver.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins" / "sam2core-web" / "tests")]

import conftest  # noqa: E402
import test_page  # noqa: E402
from sam2core_web.app import create_app  # noqa: E402
from sam2core_web.engine import Engine  # noqa: E402
from sam2core_web.store import Store  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDTH = 1218  # of an image, at most
SPOON, HANDLE = (0.62, 0.68), ((0.64, 0.59), (0.665, 0.45), (0.69, 0.33))
CUP = ((0.285, 0.04), (0.685, 0.535))
CHAIR, FLOOR = (0.157, 0.25), test_page.FLOOR
BACK = ((0.303, 0.13), (0.29, 0.18), (0.275, 0.26))  # of the chair on frame 21


def keep(picture: Image.Image, name: str) -> None:
    picture = picture.convert("RGB")
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    picture.save(IMAGES / f"{name}.jpg", quality=85, optimize=True)


def shown(page: test_page.Page, *, still: bool = True) -> Image.Image:
    """The window; still: once its images are there and its messages gone."""
    if still:
        page.wait("[...document.images].every((one) => one.complete)")
        page.wait("['toasts', 'hint'].every((id) => !document.getElementById(id).textContent)")
        page.driver.execute_async_script("setTimeout(arguments[0], 400)")
    with Image.open(io.BytesIO(page.driver.get_screenshot_as_png())) as picture:
        return picture.convert("RGB")


def pictures(page: test_page.Page) -> None:
    """What the guide says of an image, step by step."""
    page.width(1280, height=800)
    page.open()
    keep(shown(page), "web_start")
    page.open("?sample=coffee.jpg", "coffee.jpg")
    page.at(SPOON).perform()
    page.wait("s.hover")
    keep(shown(page), "web_hover")
    page.click(SPOON)
    page.rename(1, "Spoon")
    page.keys("p")
    page.drag(*HANDLE)
    keep(shown(page), "web_brush")
    page.open("?sample=coffee.jpg", "coffee.jpg")
    page.click(SPOON)
    page.rename(1, "Spoon")
    page.keys("n")
    page.drag(*CUP)
    page.rename(2, "Cup")
    keep(shown(page), "web_objects")
    page.open("?sample=cat.jpg", "cat.jpg")
    page.press("everything")
    page.wait("s.found?.length")
    page.settle()
    keep(shown(page), "web_everything")
    page.open("?sample=cat.jpg", "cat.jpg")
    page.keys("?")
    page.wait("document.getElementById('keys').open")
    keep(shown(page), "web_keys")


def kept(page: test_page.Page) -> None:
    """The start for somebody who comes back."""
    page.width(1280, height=800)
    for name, part in (("cat.jpg", (0.5, 0.5)), ("coffee.jpg", SPOON), ("chair.mp4", FLOOR)):
        page.open(f"?sample={name}", name)
        page.click(part)
    page.press("home")
    page.wait("document.querySelectorAll('#kept img.in').length > 2")
    keep(shown(page), "web_kept")


def clip(page: test_page.Page) -> None:
    """What it says of a video, and all effects of its last frame side by side."""
    page.width(1280, height=800, dark=True)
    page.open("?sample=chair.mp4", "chair.mp4")
    page.click(CHAIR)
    page.rename(1, "Chair")
    page.keys("n")
    page.click(FLOOR)
    page.rename(2, "Floor")
    page.keys("1")
    keep(shown(page), "web_clip")
    page.press("track")
    page.wait("s.frame >= 13")
    keep(shown(page, still=False), "web_track")
    page.wait("s.frame >= 21")
    page.press("stop")
    page.settle()
    page.keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 21)
    page.wait("s.shown === 21")
    page.keys("1", "p")
    page.drag(*BACK)
    keep(shown(page), "web_refine")
    page.press("resume")
    page.settle()
    page.keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 26)
    page.wait("s.shown === 26")
    page.settle()
    keep(shown(page), "web_tracked")
    page.keys("2", Keys.DELETE)
    page.settle()
    views = []
    for effect in ("contour", "dim", "blur", "cut"):
        page.effect(effect)
        views.append(Image.fromarray(page.drawn()))
    width, height = views[0].size
    sheet = Image.new("RGB", (2 * width + 8, 2 * height + 8), "white")
    for number, view in enumerate(views):
        sheet.paste(view, (number % 2 * (width + 8), number // 2 * (height + 8)))
    keep(sheet, "web_effects")


def phone(page: test_page.Page) -> None:
    """The start, and a tracked video, on a narrow screen."""
    views = []
    for dark, where in ((True, ""), (False, "?sample=chair.mp4"), (True, "?sample=chair.mp4")):
        page.width(390, dark=dark)
        page.open(where, "chair.mp4" if where else None)
        if where:
            page.click(CHAIR)
            page.rename(1, "Chair")
            page.press("track")
            page.settle()
        if dark and where:
            page.run("window.scrollTo(0, document.body.scrollHeight);")
        views.append(shown(page))
    sheet = Image.new("RGB", (3 * 390 + 48, 844), "white")
    for number, view in enumerate(views):
        sheet.paste(view, (number * (390 + 24), 0))
    keep(sheet, "web_phone")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as profile,
        conftest.running(create_app(Engine("sam2core_nano"), store=Store(Path(profile) / "kept"))) as address,
        test_page.browser(Path(profile) / "browser") as driver,
    ):
        page = test_page.Page(driver, address, Path(profile))
        for scene in (pictures, kept, clip, phone):
            scene(page)


if __name__ == "__main__":
    main()
