"""Takes the screenshots of the service's web page in docs/images, of synthetic heads only.

Run it after `reslink demo`, which writes demo/, and after these commands, which make a model that can abstain on phantoms:

    reslink phantom --out heads --patients 60 --seed 77
    reslink calibrate demo/bundle heads --out phantoms
    python scripts/screenshots.py phantoms demo/new docs/images

It needs Playwright and Chromium, like the tests of the page. Look at every picture before you commit it.
"""

from __future__ import annotations

import csv
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image as Picture
from playwright.sync_api import Page, sync_playwright

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

DESKTOP, PHONE = (1240, 860), (390, 844)


@contextmanager
def service(bundles: Sequence[str]) -> Iterator[str]:
    """Runs the service and yields its address when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "reslink", "serve", *bundles, "--port", str(port), "--quiet"]
    process = subprocess.Popen(words)  # noqa: S603  (the arguments are ours)
    address = f"http://127.0.0.1:{port}"
    try:
        while not _ready(address):
            if process.poll() is not None:
                raise SystemExit(f"The service ended with exit code {process.returncode}; see its messages above.")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _ready(address: str) -> bool:
    try:
        return bool(httpx.get(f"{address}/health/ready").status_code == httpx.codes.OK)
    except httpx.TransportError:
        return False


def series(folder: Path) -> list[Path]:
    """Writes a synthetic CT series as DICOM and returns its files."""
    settings = PhantomSettings(patients=1, seed=5, slices=16, size=384, format="dicom", tumor_share=1.0)
    return sorted((make_cohort(folder, settings) / "images").iterdir())


def heads(folder: Path) -> list[Path]:
    """Returns the files of one image with a lesion and two without, from a folder of phantoms."""
    with (folder / "manifest.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    numbers = [("Tumor", 1), ("Healthy", 2)]
    return [folder / row["path"] for label, most in numbers for row in [r for r in rows if r["label"] == label][:most]]


def opened(browser: Any, address: str, size: tuple[int, int], files: Sequence[Path], theme: str = "light") -> Page:
    """Opens the page, uploads files and waits for the results."""
    page: Page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page.set_default_timeout(60_000)
    page.goto(address)
    page.locator("#models-line", has_text="ct").wait_for()
    if files:
        page.set_input_files("#pick", files)
        page.locator(".answer").first.wait_for()
    return page


def main() -> None:
    """Takes the screenshots."""
    if len(sys.argv) != 4:
        raise SystemExit(str(__doc__))
    bundle, pictures, out = sys.argv[1], heads(Path(sys.argv[2])), Path(sys.argv[3])
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit(
            "Chromium was not found. The script needs it on the PATH. Install it with scripts/install-debian-packages."
        )
    with service([bundle, "ct"]) as address, sync_playwright() as driver, tempfile.TemporaryDirectory() as work:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def shot(name: str, page: Page, scroll: str = "") -> None:
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(500)  # for the last drawing on the canvas
            page.evaluate("scrollTo(0, 0)")
            if scroll:
                page.locator(scroll).first.scroll_into_view_if_needed()
            picture = Picture.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.quantize(256).save(out / f"serve-{name}.png", optimize=True)
            page.close()

        shot("idle", opened(browser, address, DESKTOP, []))
        page = opened(browser, address, DESKTOP, pictures)
        page.select_option("#map", "final_attention")
        page.locator("#map-note", has_text=":").wait_for()
        shot("result", page)
        page = opened(browser, address, DESKTOP, pictures)
        page.uncheck(f"#models input[value='{Path(bundle).name}']")
        page.locator("#stacks button", has_text="No answer").first.click()
        shot("abstained", page)
        shot("dark", opened(browser, address, DESKTOP, pictures, "dark"))
        shot("phone", opened(browser, address, PHONE, pictures[:1]), ".answer")
        shot("series", opened(browser, address, DESKTOP, series(Path(work))))
        browser.close()


if __name__ == "__main__":
    main()
