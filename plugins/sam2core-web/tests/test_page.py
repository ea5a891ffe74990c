"""The page in a browser: Chromium opens, clicks, drags, paints, tracks and saves, beside the library's own masks."""

from __future__ import annotations

import base64
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
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import registry
from sam2core.ops import rle

webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tested through selenium")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("SAM2CORE_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="the page is tested in Chromium, which needs chromium and chromedriver"
)
SAMPLES = Path(registry.__file__).parent / "samples"
MODEL, SIZE = "sam2core_nano", 256
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
).split()
CHAIR = (0.26, 0.25)  # parts of the sample video's width and height
FLOOR = (0.6, 0.8)
SECONDS = 240.0
"""Until the page must have done what was asked of it; machines of others may be busy."""


@contextlib.contextmanager
def serving(media: Path, kept: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`sam2core serve` with a media folder and a folder for its sessions: its address and its process."""
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    command = [sys.executable, "-c", "from sam2core.cli import main; main()", "serve", "--port", str(port)]
    command += ["--model", MODEL, "--image-size", str(SIZE), "--media", str(media)]
    process = subprocess.Popen([*command, "--save", str(kept)])
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
    try:
        while True:
            assert process.poll() is None and time.monotonic() < until
            try:
                urllib.request.urlopen(f"{address}/api/about").close()
                break
            except OSError:
                time.sleep(0.1)
        yield address, process
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that all tests of the page share."""
    media = tmp_path_factory.mktemp("media")
    (media / "clips").mkdir()
    shutil.copy(SAMPLES / "chair.mp4", media / "clips" / "a chair.mp4")
    with serving(media, tmp_path_factory.mktemp("kept")) as (address, _):
        yield address


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Chromium, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,820"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Page:
    """The page in one window, by what its user does and sees."""

    def __init__(self, driver: Any, address: str, downloads: Path) -> None:
        self.driver = driver
        self.address = address
        self.downloads = downloads
        self.window = driver.current_window_handle

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"const s = globalThis.sam2core?.session; {script}", *arguments)

    def wait(self, condition: str) -> Any:
        until = time.monotonic() + SECONDS
        while not (value := self.run(f"return {condition};")):
            told = self.run("return document.getElementById('toasts').innerText;")
            assert time.monotonic() < until, f"not in time: {condition}; the page says {told!r}"
            time.sleep(0.02)
        return value

    def wait_open(self, name: str) -> None:
        self.wait(f"s?.name === {json.dumps(name)} && s.image && document.getElementById('busy').hidden")

    def settle(self) -> None:
        """Until what was asked of the server is answered and drawn."""
        self.wait("s.pending === 0 && !s.tracking")
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def open(self, where: str = "", name: str | None = None) -> None:
        self.driver.get(f"{self.address}/{where}")
        self.wait("document.body.dataset.ready")
        if name:
            self.wait_open(name)

    def press(self, id: str) -> None:
        self.driver.find_element(By.ID, id).click()

    def keys(self, *names: str) -> None:
        ActionChains(self.driver).send_keys(*names).perform()

    def control(self, letter: str) -> None:
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(letter).key_up(Keys.CONTROL).perform()
        self.settle()

    def at(self, part: tuple[float, float]) -> ActionChains:
        """The pointer moves to a place of the image."""
        canvas = self.driver.find_element(By.ID, "canvas")
        x, y = ((where - 0.5) * canvas.size[side] for where, side in zip(part, ("width", "height")))
        return ActionChains(self.driver, duration=60).move_to_element_with_offset(canvas, int(x), int(y))

    def click(self, part: tuple[float, float], *, negative: bool = False) -> None:
        hand = self.at(part)
        (hand.context_click() if negative else hand.click()).perform()
        self.settle()

    def drag(self, *parts: tuple[float, float]) -> None:
        self.at(parts[0]).click_and_hold().perform()
        for part in parts[1:]:
            self.at(part).perform()
        ActionChains(self.driver).release().perform()
        self.settle()

    def masks(self, frame: int = 0) -> dict[int, np.ndarray]:
        """The masks that the page has of a frame."""
        found = self.run("return s.masks.get(arguments[0]) || {};", frame)
        return {int(number): rle.decode(one["segmentation"]) for number, one in found.items()}

    def prompts(self, number: int, frame: int = 0) -> dict[str, Any]:
        return self.run("return s.things.get(arguments[0]).prompts.get(arguments[1]);", number, frame)

    def visible(self, number: int) -> list[int]:
        return sorted(self.run("return [...s.things.get(arguments[0]).visible.keys()];", number))

    def drawn(self) -> np.ndarray:
        """The canvas, at the image's size, RGB."""
        data = self.run("return document.getElementById('canvas').toDataURL();").partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            return np.array(picture.convert("RGB").resize(tuple(self.run("return [s.width, s.height];"))))

    def effect(self, name: str) -> None:
        self.run("const e = document.getElementById('effect'); e.value = arguments[0]; e.onchange();", name)
        self.settle()

    def saved(self, kind: str) -> Path:
        """Press one of the export buttons; the file that comes of it."""
        before = set(self.downloads.iterdir())
        self.driver.find_element(By.CSS_SELECTOR, f"#exports [data-kind={kind}]").click()
        until = time.monotonic() + SECONDS
        while True:
            new = [path for path in set(self.downloads.iterdir()) - before if path.suffix != ".crdownload"]
            if new and new[0].stat().st_size and not list(self.downloads.glob("*.crdownload")):
                return new[0]
            assert time.monotonic() < until, f"no file of {kind}"
            time.sleep(0.05)

    def rename(self, number: int, name: str) -> None:
        field = self.driver.find_element(By.CSS_SELECTOR, f"[data-object='{number}'] .name")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(name, Keys.ENTER)
        self.settle()

    def width(self, pixels: int, *, height: int = 844, dark: bool = False) -> None:
        size = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


@pytest.fixture
def page(chromium: Any, server: str, tmp_path: Path) -> Iterator[Page]:
    """The page; in the end, nothing must have gone wrong in the browser."""
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    chromium.get_log("browser")
    one = Page(chromium, server, tmp_path)
    yield one
    one.driver.get("about:blank")
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.fixture(scope="module")
def predictors() -> tuple[Any, Any]:
    """The library's own predictors, over a model of their own."""
    image, video = (registry.predictor(MODEL, task, image_size=SIZE) for task in ("image", "video"))
    return image, video


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def inside(mask: np.ndarray, part: tuple[float, float]) -> bool:
    return bool(mask[int(part[1] * mask.shape[0]), int(part[0] * mask.shape[1])])


def frames(path: Path, codec: str | None = None) -> list[np.ndarray]:
    """The frames of a video; RGBA where the decoder is named."""
    with av.open(str(path)) as container:
        if codec is None:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        decoder = av.codec.CodecContext.create(codec, "r")
        return [
            frame.to_ndarray(format="rgba") for packet in container.demux(video=0) for frame in decoder.decode(packet)
        ]


def test_a_click_in_the_sample_gives_the_predictors_mask(page: Page, predictors: tuple[Any, Any]) -> None:
    page.open()
    page.driver.find_element(By.CSS_SELECTOR, "#samples [data-name='coffee.jpg']").click()
    page.wait_open("coffee.jpg")
    page.at((0.5, 0.3)).perform()
    page.wait("s.hover")
    page.run("""globalThis.took = null;
        document.getElementById("canvas").addEventListener("pointerup", () => {
            const from = performance.now();
            const seen = () => { took = performance.now() - from; };
            const look = () => s.masks.get(0) && !s.pending ? requestAnimationFrame(seen) : setTimeout(look, 5);
            look();
        }, { once: true });""")
    page.click((0.5, 0.3))
    took = page.wait("globalThis.took")
    sys.stdout.write(f"from the click to the mask on the screen: {took:.0f} ms\n")
    assert took < 10_000, "a second is what is wanted, on two cores with nothing else to do"
    mask = page.masks()[1]
    assert inside(mask, (0.5, 0.3)) and 0.01 < mask.mean() < 0.9
    with Image.open(SAMPLES / "coffee.jpg") as picture:
        handle = predictors[0].encode(np.array(picture.convert("RGB")))
    said = page.prompts(1)
    assert said["labels"] == [1]
    assert iou(mask, handle.predict(points=said["points"]).masks[0, 0].numpy()) == 1.0

    page.click((0.5, 0.93), negative=True)
    said = page.prompts(1)
    assert said["labels"] == [1, 0]
    refined = handle.predict(points=said["points"], labels=said["labels"]).masks[0, 0].numpy()
    assert iou(page.masks()[1], refined) == 1.0

    page.press("add")
    page.drag((0.2, 0.7), (0.5, 0.8), (0.8, 0.97))
    second = page.masks()[2]
    assert iou(second, handle.predict(box=page.prompts(2)["box"]).masks[0, 0].numpy()) == 1.0
    assert iou(page.masks()[1], refined) == 1.0, "the first object is as it was"

    # what is drawn: with the background removed, all that is not plain is inside a mask (or a prompt's mark)
    page.keys("n")
    page.effect("remove")
    shown = (np.abs(page.drawn().astype(int) - [242, 242, 239]) > 3).any(axis=2)
    assert iou(shown, page.masks()[1] | second) > 0.95, "the cup is nearly as white"


def test_undo_redo_names_and_removing(page: Page) -> None:
    page.open("?sample=cat.jpg", "cat.jpg")
    page.click((0.5, 0.5))
    one = page.masks()[1]
    page.keys("n")
    page.click((0.05, 0.9))
    two = page.masks()[2]
    page.control("z")
    assert list(page.masks()) == [1]
    page.control("z")
    assert page.masks() == {} and not page.run("return s.undoable;")
    page.control("y")
    page.press("redo")
    page.settle()
    assert {number: iou(mask, known) for (number, mask), known in zip(page.masks().items(), (one, two))} == {1: 1, 2: 1}
    assert page.run("return document.getElementById('redo').disabled;")
    page.rename(2, "Blanket")
    page.run(
        """const c = document.querySelector("[data-object='2'] [type=color]"); c.value = "#123456"; c.onchange();"""
    )
    page.settle()
    assert page.run("const o = s.things.get(2); return [o.name, o.color];") == ["Blanket", "#123456"]
    page.driver.find_element(By.CSS_SELECTOR, "[data-object='1'] button").click()
    page.settle()
    assert list(page.masks()) == [2] and iou(page.masks()[2], two) == 1.0
    page.control("z")
    assert {number: iou(mask, known) for (number, mask), known in zip(page.masks().items(), (one, two))} == {1: 1, 2: 1}
    page.keys("1", Keys.DELETE)
    page.wait("s.things.size === 1")
    page.press("undo")
    page.settle()
    assert page.run("return [...s.things.values()].map((one) => one.name);") == ["Object 1", "Blanket"]


def test_the_brush_paints_and_erases_a_mask(page: Page) -> None:
    page.open("?sample=cat.jpg", "cat.jpg")
    page.keys("p")
    page.drag((0.3, 0.3), (0.6, 0.3), (0.6, 0.7))
    painted = page.masks()[1]
    assert all(inside(painted, part) for part in [(0.3, 0.3), (0.45, 0.3), (0.6, 0.3), (0.6, 0.5), (0.6, 0.7)])
    assert not inside(painted, (0.4, 0.6)) and page.prompts(1)["mask"]
    page.press("erase")
    page.drag((0.45, 0.2), (0.45, 0.4))
    erased = page.masks()[1]
    assert not inside(erased, (0.45, 0.3)) and inside(erased, (0.3, 0.3)) and not (erased & ~painted).any()
    page.control("z")
    assert iou(page.masks()[1], painted) == 1.0


def test_a_picture_is_saved_in_every_format(page: Page) -> None:
    page.open("?sample=coffee.jpg", "coffee.jpg")
    page.click((0.5, 0.3))
    page.keys("n")
    page.click((0.1, 0.9))
    masks = page.masks()
    with Image.open(SAMPLES / "coffee.jpg") as picture:
        source = np.array(picture.convert("RGB"))
    assert Image.open(page.saved("overlay")).size == (600, 400)
    both = masks[1] | masks[2]
    transparent = np.array(Image.open(page.saved("transparent")))
    assert np.array_equal(transparent[..., 3] > 0, both) and np.array_equal(transparent[both][:, :3], source[both])
    page.effect("cut")
    view = page.saved("frame")
    assert view.name == "coffee.cut.png" and iou(np.array(Image.open(view))[..., 3] > 127, both) > 0.99
    known = json.loads(page.saved("coco").read_text())
    assert [iou(rle.decode(one["segmentation"]), masks[one["category_id"]]) for one in known["annotations"]] == [1, 1]
    with zipfile.ZipFile(page.saved("palette")) as archive:
        (name,) = archive.namelist()
        numbers = np.array(Image.open(io.BytesIO(archive.read(name))))
    assert np.array_equal(numbers == 2, masks[2]) and np.array_equal(numbers == 1, masks[1] & ~masks[2])
    with zipfile.ZipFile(page.saved("cutouts")) as archive:
        alphas = [np.array(Image.open(io.BytesIO(archive.read(name))))[..., 3] > 0 for name in archive.namelist()]
    assert [iou(alpha, mask) for alpha, mask in zip(alphas, masks.values())] == [1, 1]


SLOW_STATE = r"""
const asked = window.fetch;
window.fetch = async (where, options) => {
  if (/sessions\/[^/]+$/.test(where)) await new Promise((done) => setTimeout(done, 300));
  return asked(where, options);
};
"""  # how a run has ended is told a little later than it ends


def test_a_clip_is_tracked_stopped_refined_gone_on_with_and_saved(page: Page, predictors: tuple[Any, Any]) -> None:
    page.open()
    page.driver.find_element(By.CSS_SELECTOR, "#samples [data-name='chair.mp4']").click()
    page.wait_open("chair.mp4")
    page.click(CHAIR)
    page.press("track")
    page.wait("s.frame >= 4")
    assert page.run("return !document.getElementById('progress').hidden && s.tracking;")
    page.press("stop")
    page.settle()
    reached = page.visible(1)
    assert reached == list(range(len(reached))) and 4 < len(reached) < 40
    session = predictors[1].open(str(SAMPLES / "chair.mp4"), keep="all")
    session.prompt(0, 1, points=page.prompts(1)["points"])
    for result in session.propagate(stop=4):
        assert iou(page.masks(result.frame)[1], result.masks[1].numpy()) == 1.0

    page.keys("1")
    at = page.run("return s.frame;")
    page.click(FLOOR, negative=True)  # what is said here is of the latest frame
    assert page.prompts(1, at)["labels"] == [0]
    page.run(SLOW_STATE)
    page.press("resume")
    page.settle()
    assert page.visible(1) == list(range(40)) and page.run("return [s.frame, s.resumable];") == [39, False]
    page.keys(Keys.HOME)
    page.wait("s.shown === 0")
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.wait("s.shown === 2")

    masks = {number: page.masks(number).get(1, np.zeros((360, 540), dtype=bool)) for number in (0, 2, 3, 39)}
    clip = page.saved("overlay")
    assert clip.suffix == ".mp4" and [one.shape for one in frames(clip)] == [(360, 540, 3)] * 40
    page.effect("remove")
    plain = frames(page.saved("overlay"))
    assert all(iou((np.abs(plain[at].astype(int) - 240) > 24).any(axis=2), masks[at]) > 0.9 for at in masks)
    shown = frames(page.saved("transparent"), "libvpx-vp9")
    assert len(shown) == 40 and all(iou(shown[at][..., 3] > 127, masks[at]) > 0.98 for at in masks)
    known = json.loads(page.saved("coco").read_text())["annotations"]
    coco = {one["image_id"] - 1: rle.decode(one["segmentation"]) for one in known}
    assert all(iou(coco[at], masks[at]) == 1.0 for at in masks)
    with zipfile.ZipFile(page.saved("palette")) as archive:
        assert len(archive.namelist()) == 40
        assert np.array_equal(np.array(Image.open(io.BytesIO(archive.read("00002.png")))) == 1, masks[2])
    with zipfile.ZipFile(page.saved("cutouts")) as archive:
        assert len(archive.namelist()) == 40
    assert page.saved("frame").name == "chair.00002.remove.png"


def test_backward_and_both_ways_from_a_frame_of_the_media_folder(page: Page) -> None:
    page.open("?media=clips/a%20chair.mp4", "a chair.mp4")
    page.keys(*[Keys.ARROW_RIGHT] * 5)
    page.wait("s.shown === 5")
    page.click(CHAIR)
    page.press("back")
    page.settle()
    assert page.visible(1) == [0, 1, 2, 3, 4, 5]
    page.keys("n")
    page.keys(Keys.END, *[Keys.ARROW_LEFT] * 3)
    page.wait("s.shown === 36")
    page.click(FLOOR)
    page.keys("y")
    page.wait("s.things.get(2).visible.has(30)")
    page.keys(Keys.ESCAPE)
    page.settle()
    assert {36, 37, 38, 39, 35} <= set(page.visible(2)), "forward to the end, then backward"


def test_everything_and_keeping_one_of_it(page: Page) -> None:
    page.open("?sample=coffee.jpg", "coffee.jpg")
    page.press("everything")
    count = page.wait("s.found?.length")
    x, y, mask = page.run("""const one = s.found.at(-1), at = one.inside.indexOf(255);
        return [(at % s.width + 0.5) / s.width, (Math.floor(at / s.width) + 0.5) / s.height, one.segmentation];""")
    page.click((x, y))
    assert page.masks()[1].any() and page.run("return s.found?.length || 0;") == count - 1
    assert iou(page.masks()[1], rle.decode(mask)) == 1.0 or inside(page.masks()[1], (x, y))
    page.keys(Keys.ESCAPE)
    assert page.run("return document.getElementById('found').hidden;")


def test_files_come_by_choosing_by_dropping_and_from_the_camera(page: Page) -> None:
    page.open()
    page.driver.find_element(By.ID, "picker").send_keys(str(SAMPLES / "cat.jpg"))
    page.wait_open("cat.jpg")
    page.driver.back()
    page.wait("document.body.dataset.view === 'home'")
    page.driver.execute_async_script(
        """const done = arguments[arguments.length - 1];
        fetch("api/thumbnail?name=coffee.jpg").then((one) => one.blob()).then((data) => {
            const carried = new DataTransfer();
            carried.items.add(new File([data], "dropped.jpg"));
            const said = { dataTransfer: carried, bubbles: true, cancelable: true };
            for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, said));
            done();
        });"""
    )
    page.wait_open("dropped.jpg")
    page.press("home")
    page.press("opencamera")
    page.wait("document.getElementById('finder').videoWidth")
    page.press("snap")
    page.wait_open("camera.jpg")
    page.press("home")
    page.press("opencamera")
    page.wait("document.getElementById('finder').videoWidth")
    page.press("record")
    time.sleep(1)
    page.press("record")
    page.wait("s?.kind === 'clip' && s.image && s.frames > 3")
    page.press("home")
    page.run("""const carried = new DataTransfer(); carried.items.add(new File(["no picture"], "words.jpg"));
        const said = { dataTransfer: carried, bubbles: true, cancelable: true };
        document.body.dispatchEvent(new DragEvent("drop", said));""")
    page.wait("document.querySelector('.toast.bad')?.textContent.includes('no image')")
    assert page.run("return document.body.dataset.view;") == "home"
    page.driver.get_log("browser")  # Chromium notes the 415 that was asked for


def test_two_windows_do_not_disturb_each_other(page: Page) -> None:
    page.open("?sample=chair.mp4", "chair.mp4")
    page.click(CHAIR)
    first, mask = page.run("return s.id;"), page.masks()[1]
    page.press("track")
    page.driver.switch_to.new_window("window")
    other = Page(page.driver, page.address, page.downloads)
    try:
        other.open("?sample=chair.mp4", "chair.mp4")
        assert other.run("return s.id;") != first and other.masks() == {}
        other.click(FLOOR)
        assert list(other.masks()) == [1] and iou(other.masks()[1], mask) < 0.5
        other.control("z")
        assert other.masks() == {}
        time.sleep(0.5)
    finally:
        other.driver.get("about:blank")
        other.driver.close()
        page.driver.switch_to.window(page.window)
    page.keys(Keys.ESCAPE)
    page.settle()
    assert page.run("return s.id;") == first and len(page.visible(1)) > 4
    assert iou(page.masks()[1], mask) == 1.0


def test_three_clicks_are_there_when_the_page_is_loaded_again(page: Page) -> None:
    page.open("?sample=coffee.jpg", "coffee.jpg")
    page.click((0.5, 0.3))
    page.click((0.45, 0.3))
    page.click((0.5, 0.93), negative=True)
    page.rename(1, "Cup")
    masks, prompts, address = page.masks(), page.prompts(1), page.driver.current_url
    assert len(prompts["points"]) == 3 and page.run("return document.getElementById('saved').textContent;") == "Saved"
    page.driver.refresh()
    page.wait_open("coffee.jpg")
    page.settle()
    assert page.driver.current_url == address and "?" not in address
    assert np.array_equal(page.masks()[1], masks[1]) and page.prompts(1) == prompts
    assert page.run("return [s.active, s.things.get(1).name];") == [1, "Cup"]
    page.control("z")  # undo is the server's, which still runs
    assert len(page.prompts(1)["points"]) == 2
    page.press("home")  # leaving does not end it
    page.wait("document.body.dataset.view === 'home'")
    page.driver.back()
    page.wait_open("coffee.jpg")
    assert len(page.prompts(1)["points"]) == 2


def test_the_start_lists_what_can_be_gone_on_with(page: Page) -> None:
    page.open("?media=clips/a%20chair.mp4", "a chair.mp4")
    page.click(CHAIR)
    id = page.run("return s.id;")
    page.press("home")
    page.wait(f"document.querySelector('#kept [data-session=\"{id}\"] img.in')")
    card = page.driver.find_element(By.CSS_SELECTOR, f"#kept [data-session='{id}']")
    assert card.text.splitlines()[:2] == ["a chair.mp4", "1 object · just now"]
    card.find_element(By.CSS_SELECTOR, ".card").click()
    page.wait_open("a chair.mp4")
    assert page.run("return s.id;") == id and list(page.masks()) == [1]
    page.press("home")
    page.wait(f"document.querySelector('#kept [data-session=\"{id}\"]')")
    page.driver.execute_script(
        "arguments[0].click();", page.driver.find_element(By.CSS_SELECTOR, f"#kept [data-session='{id}'] .remove")
    )
    page.driver.switch_to.alert.accept()
    page.wait(f"!document.querySelector('#kept [data-session=\"{id}\"]')")
    page.driver.get("about:blank")
    page.open(f"#{id}")
    page.wait("document.querySelector('.toast.bad')?.textContent.includes('no such session')")
    assert page.run("return document.body.dataset.view;") == "home" and "#" not in page.driver.current_url
    page.driver.get_log("browser")  # Chromium notes the 404 that was asked for


def test_a_killed_server_has_forgotten_nothing(chromium: Any, predictors: tuple[Any, Any], tmp_path: Path) -> None:
    """kill -9 in a run, another server over the same folder, the address loaded again: it goes on as if unbroken."""
    with serving(tmp_path, tmp_path / "kept") as (address, process):
        page = Page(chromium, address, tmp_path)
        page.open("?sample=chair.mp4", "chair.mp4")
        page.click(CHAIR)
        page.keys("n")
        page.click(FLOOR)
        prompts = {number: page.prompts(number)["points"] for number in (1, 2)}
        page.press("track")
        page.wait("s.frame >= 20")
        process.kill()
        process.wait(SECONDS)
        page.wait("!s.tracking")
    with serving(tmp_path, tmp_path / "kept", port=int(address.rpartition(":")[2])):
        page.driver.refresh()
        page.wait_open("chair.mp4")
        page.settle()
        assert {number: page.prompts(number)["points"] for number in (1, 2)} == prompts
        reached = page.visible(1)
        assert reached == list(range(len(reached))) and 1 < len(reached) < 40 and page.run("return s.resumable;")
        page.press("resume")
        page.settle()
        assert page.visible(1) == page.visible(2) == list(range(40))
        session = predictors[1].open(str(SAMPLES / "chair.mp4"), keep="all")
        for number, points in prompts.items():
            session.prompt(0, number, points=points)
        unbroken = {one.frame: one.masks for one in session.propagate()}
        for frame in (0, len(reached) - 1, len(reached), 39):
            page.run("document.activeElement.blur();")
            found = page.driver.execute_async_script(
                "const done = arguments[1]; fetch(`api/sessions/${sam2core.session.id}/masks/${arguments[0]}`)"
                ".then((one) => one.json()).then(done);",
                frame,
            )["masks"]
            for number, mask in unbroken[frame].items():
                assert np.array_equal(rle.decode(found[str(number)]["segmentation"]), mask.numpy()), (frame, number)
        page.driver.get("about:blank")
        chromium.get_log("browser")  # Chromium notes the connection that broke off


def test_what_is_not_saved_is_not_left_without_a_question(
    chromium: Any, live: Callable[..., Any], tmp_path: Path
) -> None:
    asks = "return !dispatchEvent(new Event('beforeunload', { cancelable: true }));"
    page = Page(chromium, live().address, tmp_path)
    page.open("?sample=cat.jpg", "cat.jpg")
    assert not page.run(asks)
    page.click((0.5, 0.5))
    assert page.run(asks) and page.run("return document.getElementById('saved').textContent;") == "Not kept"
    page.driver.get("about:blank")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it_in_its_width(page: Page, dark: bool) -> None:
    page.width(390, dark=dark)
    try:
        page.open()
        assert page.run("return document.documentElement.dataset.theme;") == ("dark" if dark else "light")
        assert page.run("return document.documentElement.scrollWidth;") == 390
        page.open("?sample=chair.mp4", "chair.mp4")
        page.click(CHAIR)
        page.keys("p")
        script = """return [...document.querySelectorAll("#work :is(button, select, input, canvas)")]
            .filter((one) => one.checkVisibility())
            .map((one) => [one.id || one.textContent, one.getBoundingClientRect()])
            .filter(([, box]) => box.left < 0 || box.right > 390 || box.width < 10).map(([name]) => name);"""
        assert page.run(script) == []
        assert page.run("return document.documentElement.scrollWidth;") == 390
        page.press("theme")
        assert page.run("return document.documentElement.dataset.theme;") == ("light" if dark else "dark")
        page.run("localStorage.clear();")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def touch(page: Page, kind: str, *places: tuple[float, float]) -> None:
    """Fingers on parts of the image, as it lies in the window before it is magnified."""
    left, top, width, height = page.run(
        "const box = arguments[0].getBoundingClientRect(); return [box.left, box.top, box.width, box.height];",
        page.driver.find_element(By.ID, "stage"),
    )
    points = [{"x": left + x * width, "y": top + y * height, "id": id} for id, (x, y) in enumerate(places)]
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})


def test_fingers_click_and_make_the_picture_larger(page: Page) -> None:
    page.width(390)
    try:
        page.open("?sample=cat.jpg", "cat.jpg")
        touch(page, "Start", (0.5, 0.5))
        touch(page, "End")
        page.wait("s.things.size === 1")
        page.settle()
        assert page.prompts(1)["points"] == [pytest.approx([451 / 2, 300 / 2], abs=2)]
        touch(page, "Start", (0.45, 0.5))
        touch(page, "Start", (0.45, 0.5), (0.55, 0.5))
        touch(page, "Move", (0.35, 0.5), (0.65, 0.5))
        touch(page, "End")
        canvas = "document.getElementById('canvas')"
        page.wait(f"Math.abs({canvas}.getBoundingClientRect().width / {canvas}.offsetWidth - 3) < 0.1")
        assert page.run("return s.things.size;") == 1 and len(page.prompts(1)["points"]) == 1
        touch(page, "Start", (0.8, 0.5))
        touch(page, "End")
        page.wait("s.things.get(1).prompts.get(0).points.length === 2")
        assert page.prompts(1)["points"][1] == pytest.approx([451 * 0.6, 300 / 2], abs=3), "clicks go where one looks"
        page.press("fullsize")
        assert page.run(f"return {canvas}.style.transform;") == ""
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keys_are_listed(page: Page) -> None:
    page.open()
    page.keys("?")
    listed = page.wait("document.getElementById('keys').open && document.getElementById('keylist').innerText")
    assert all(words in listed for words in ("Track forward", "Redo", "Brush", "Everything in the image"))
    page.keys(Keys.ESCAPE)
    page.wait("!document.getElementById('keys').open")


def test_the_token_comes_with_the_address(chromium: Any, live: Callable[..., Any], tmp_path: Path) -> None:
    page = Page(chromium, live(token="a~secret").address, tmp_path)
    page.open()
    page.wait("document.querySelector('.toast.bad')?.textContent.includes('token')")
    page.driver.get("about:blank")
    page.open("?sample=cat.jpg#token=a%7Esecret", "cat.jpg")
    assert "secret" not in page.driver.current_url
    page.click((0.5, 0.5))
    assert list(page.masks()) == [1]
    page.driver.refresh()
    page.wait_open("cat.jpg")  # the tab remembers it
    page.driver.get("about:blank")
    chromium.get_log("browser")  # Chromium notes the 401 that was asked for
