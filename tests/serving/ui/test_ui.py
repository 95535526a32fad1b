"""The web page in a real browser without access to other hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uploaded import dicom, head, png

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None and os.environ.get("CI") != "true":
        pytest.skip("no chromium here: scripts/install-debian-packages installs it")
    assert executable is not None, "CI needs chromium: scripts/install-debian-packages"
    with playwright.sync_playwright() as driver:
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        yield driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu", rules])


@pytest.fixture
def page(browser, service) -> Iterator[Any]:
    """The page, which must log no error and send no request to another host."""
    yield from open_page(browser, service, "head")


def open_page(browser, service, model: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    complaints: list[str] = []
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    opened.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if outside(request.url, service.url) else None)
    opened.goto(service.url)
    opened.locator("#models-line", has_text=model).wait_for()
    yield opened
    context.close()
    ours = ("422", "willReadFrequently")  # the status of a refused file; a warning about how these tests read the canvas
    assert [text for text in complaints if not any(word in text for word in ours)] == []


def outside(url: str, own: str) -> bool:
    return not url.startswith((own, "data:", "blob:"))


def give(page: Any, *files: tuple[str, bytes]) -> None:
    page.set_input_files("#pick", [{"name": name, "mimeType": "", "buffer": content} for name, content in files])
    page.locator("#status", has_text=re.compile("ready|refused")).wait_for()


def test_an_image_gets_an_explained_prediction(page, service) -> None:
    give(page, ("a.png", png(4)))
    page.locator(".answer .label").first.wait_for()
    [answers] = service.post("/v1/predict", [("a.png", png(4))], {"model": ["head", "three"]}).json()["files"]
    rows = page.locator(".answer")
    assert rows.locator("th").all_inner_texts() == ["head", "three"]
    for i, one in enumerate(answers["answers"]):
        assert rows.nth(i).locator(".label").inner_text() == one["slices"][0]["label"]
    value = 100 * answers["answers"][0]["slices"][0]["probabilities"]["Tumor"]
    text = rows.first.inner_text()
    assert f"Tumor {value:.1f} %" in text
    assert "threshold 50.0 %" in text
    page.get_by_text("How these numbers were obtained").click()
    details = page.locator("#details").inner_text()
    for meaning in ("not calibrated", "threshold for Tumor: 50.0 %", "not fitted", "no out-of-distribution detector"):
        assert meaning in details
    assert page.get_by_text("it gives an answer for any image").count() == 2, "once for each model"


def test_the_notice_is_always_visible(page) -> None:
    give(page, ("a.png", png(4)))
    notice = page.locator(".notice").first
    assert "Research use only, not a medical device" in notice.inner_text()
    page.mouse.wheel(0, 5000)
    box = notice.bounding_box()
    assert 0 <= box["y"] < 200


def test_a_map_is_shown_over_the_image(page) -> None:
    give(page, ("a.png", png(4)))
    before = pixels(page)
    page.select_option("#map", "first_attention")
    page.locator("#map-note:not(:empty)").wait_for()
    after = pixels(page)
    assert before["gray"], "without a map the image is gray"
    assert not after["gray"]
    page.locator("#opacity").fill("0")
    assert pixels(page) == before
    assert "First attention α: " in page.locator("#map-note").inner_text()


def pixels(page: Any) -> dict[str, Any]:
    """Whether the canvas is gray, and the sum of its values; measured in the browser."""
    measured = page.locator("#viewer").evaluate(
        """(canvas) => {
             const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
             let sum = 0, gray = true;
             for (let i = 0; i < data.length; i += 4) {
               sum += data[i] + data[i + 1] + data[i + 2];
               gray &&= data[i] === data[i + 1] && data[i] === data[i + 2];
             }
             return {sum, gray};
           }"""
    )
    return dict(measured)


def test_a_series_is_scrolled_with_the_keyboard_in_its_order(page) -> None:
    give(page, *[(f"{i}.dcm", dicom(i, place)) for i, place in enumerate((30.0, 10.0, 20.0))])
    viewer = page.locator("#viewer")
    viewer.focus()
    assert page.locator("#slice-out").inner_text() == "2 of 3"
    shown = [pixels(page)["sum"]]
    for key, place in (("ArrowDown", "3 of 3"), ("ArrowDown", "3 of 3"), ("Home", "1 of 3")):
        viewer.press(key)
        assert page.locator("#slice-out").inner_text() == place
        shown.append(pixels(page)["sum"])
    assert shown[1] == shown[2]
    assert len({shown[0], shown[1], shown[3]}) == 3
    assert "slice 1 of 3" in viewer.get_attribute("aria-label")
    assert page.locator(".strip rect").count() == 6
    page.get_by_text("All slices").click()
    assert page.locator("#table tbody tr").count() == 3


def test_a_series_has_a_prediction_with_rule_and_interval(page, service) -> None:
    files = [(f"{i:02}.dcm", dicom(i, float(i))) for i in range(12)]
    give(page, *files)
    [series] = service.post("/v1/predict", files, {"model": ["head", "three"]}).json()["series"]
    rows, answer = page.locator("#answers .answer"), series["answers"][0]
    assert rows.locator("th").all_inner_texts() == ["head", "three"]
    assert page.locator("#answers caption").inner_text() == "Whole series, 12 slices"
    low, high = (f"{100 * answer[word]:.1f}" for word in ("ci_low", "ci_high"))
    assert f"95 % interval {low}\N{EN DASH}{high} %" in rows.first.inner_text()
    page.get_by_text("How these numbers were obtained").click()
    text = page.locator("#details").inner_text()
    for words in (answer["rule"], "12 of 12 slices classified", "fitted on single slices", answer["interval"]):
        assert words in text
    page.locator("#details").get_by_role("button", name=f"Slice {answer['used'][1] + 1}", exact=True).first.click()
    assert page.locator("#slice-out").inner_text() == f"{answer['used'][1] + 1} of 12"
    assert page.locator(".chart figcaption").first.inner_text() == "head: probability of Tumor by slice"
    assert page.locator(".chart").first.locator(".x span").all_inner_texts() == ["slice 1", "12"]
    assert page.locator(".legend li").all_inner_texts() == ["answer", "no answer", "threshold", "shown slice"]
    with page.expect_download() as waiting:
        page.click("#save-csv")
    line = next(line for line in waiting.value.path().read_text().splitlines() if ",series,head," in line)
    assert str(answer["ci_low"])[:8] in line
    page.get_by_label("head", exact=True).first.uncheck()
    page.wait_for_function("() => document.querySelectorAll('#answers .answer').length === 1")


def test_few_slices_state_why_there_is_no_interval(page) -> None:
    give(page, *[(f"{i}.dcm", dicom(i, float(i))) for i in range(3)])
    assert "3 blocks of neighboring slices" in page.locator("#details").text_content()


def test_a_series_without_a_prediction_states_the_reason(page) -> None:
    give(page, *[(f"{i}.dcm", dicom(i, float(i), BodyPartExamined="CHEST")) for i in range(3)])
    rows = page.locator("#answers .answer")
    assert rows.locator(".label").all_inner_texts() == ["No answer", "No answer"]
    assert "its header states another part of the body" in rows.first.locator(".why").inner_text()
    sizes = [rows.first.locator(part).evaluate("(e) => parseFloat(getComputedStyle(e).fontSize)") for part in (".label", "li")]
    assert sizes[0] > 1.4 * sizes[1]


def test_an_abstention_is_no_answer_in_large_letters_with_its_label_in_small_ones(page) -> None:
    """The models of the service never abstain; the predictions of one are changed on their way to the page."""

    def abstain(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for answers in [
            *(one["answers"][0]["slices"] for one in body["files"]),
            *([one["answers"][0]] for one in body["series"]),
        ]:
            for entry in answers:
                entry |= {"abstain": True, "reasons": ["unlike the <training> data"]}
        route.fulfill(response=answer, json=body)

    page.route("**/v1/predict", abstain)
    give(page, *[(f"{i}.dcm", dicom(i, float(i))) for i in range(3)])
    for table in page.locator("table.answers").all():  # of the series, and folded, of the shown slice
        declined, answered = table.locator("tbody").all()
        assert declined.locator(".label").text_content() == "No answer"
        assert declined.get_attribute("class") == "answer abstains"
        assert re.fullmatch(
            r"The model abstains\. Its label would be (Healthy|Tumor)\.", declined.locator("td small").first.text_content()
        )
        assert declined.locator(".why li").text_content() == "unlike the <training> data"
        large, small = (
            declined.locator(part).first.evaluate("(e) => parseFloat(getComputedStyle(e).fontSize)")
            for part in (".label", "small")
        )
        assert large > 1.4 * small
        assert answered.get_attribute("class") == "answer"
        assert answered.locator(".label").text_content() in ("glioma", "none", "other")
    assert page.locator("table.answers").count() == 2
    assert page.locator(".strip").first.locator("rect.abstains").count() == 3
    cells = page.locator("#table tbody td:nth-child(2)").all_text_contents()
    assert all(re.fullmatch(r"No answer \((Healthy|Tumor) [\d.]+ %\)", text) for text in cells)
    assert len(cells) == 3


def test_the_viewer_states_what_the_file_states(page) -> None:
    told = {"SliceThickness": 2, "SeriesDescription": "Head <b>2.0", "PatientName": "Doe^Jane", "PixelSpacing": [0.5, 0.5]}
    give(page, ("a.dcm", dicom(3, 12.5, **told)))
    assert page.locator("#about").inner_text() == "CT · Head <b>2.0"
    assert page.locator("#place").inner_text() == "position 12.5 mm\nthickness 2 mm"
    assert page.locator("#preset option").all_inner_texts() == ["brain", "subdural", "stroke", "bone", "custom"]
    box = page.locator("#viewer").bounding_box()
    side, (x, y) = min(box["width"], box["height"]), (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(x + 0.5 * side / 96, y + 0.5 * side / 96)
    assert page.locator("#value").inner_text() == f"{int(head(3)[48, 48]) - 20} HU"
    page.click("#ruler")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + side / 4, y)
    assert page.locator("#value").inner_text() == "12.0 mm", "a quarter of 96 pixels of 0.5 mm"
    page.mouse.up()
    assert marked(page), "R and L"
    give(page, ("b.png", png(4)))
    page.locator("#stacks button").nth(1).click()
    assert not marked(page), "a picture does not state its orientation"
    assert page.locator("#place").inner_text() == page.locator("#about").inner_text() == ""
    assert not page.is_visible("#preset")


def marked(page: Any) -> bool:
    """Whether there are white pixels at the left and right border, where the image is black."""
    script = """(canvas) => [0, canvas.width - 24 * devicePixelRatio].every((x) =>
        canvas.getContext('2d').getImageData(x, canvas.height / 2 - 12, 24 * devicePixelRatio, 24).data
          .some((v, i) => i % 4 === 0 && v > 200))"""
    return bool(page.locator("#viewer").evaluate(script))


def test_the_window_can_be_changed(page) -> None:
    give(page, ("a.dcm", dicom(3)))
    assert (page.input_value("#center"), page.input_value("#width")) == ("40", "80")
    before = pixels(page)["sum"]
    page.select_option("#preset", label="bone")
    assert (page.input_value("#center"), page.input_value("#width")) == ("600", "2800")
    assert pixels(page)["sum"] != before
    page.locator("#viewer").press("0")
    assert pixels(page)["sum"] == before
    page.fill("#width", "20")
    page.locator("#width").press("Enter")
    assert page.input_value("#preset") == ""
    assert pixels(page)["sum"] != before


def test_a_bad_file_is_reported_beside_the_others(page) -> None:
    give(page, ("bad.png", png(1)[:300]), ("<img src=x onerror=alert(1)>.png", png(2)))
    names = page.locator("#stacks button")
    assert names.count() == 2
    assert "refused" in names.nth(0).inner_text()
    assert "<img src=x onerror=alert(1)>.png" in names.nth(1).inner_text()
    names.nth(0).click()
    assert "cannot be read" in page.locator("#problem").inner_text()
    assert names.nth(0).locator("canvas").count() == 0
    assert not page.is_visible("#save-png"), "there is no image to save"
    assert page.is_visible("#save-csv")
    names.nth(1).click()
    assert page.is_visible("#save-png")


def test_a_request_with_only_refused_files_is_shown(page) -> None:
    give(page, ("bad.png", png(1)[:300]))
    assert "refused" in page.locator("#stacks button").inner_text()


def test_downloads(page, tmp_path: Path) -> None:
    give(page, ("=a.png", png(4)))
    downloads = {}
    for kind in ("json", "csv", "png"):
        with page.expect_download() as waiting:
            page.click(f"#save-{kind}")
        waiting.value.save_as(tmp_path / kind)
        downloads[kind] = (tmp_path / kind).read_bytes()
    [image] = json.loads(downloads["json"])["images"]
    assert set(image["slices"][0]["answers"]) == {"head", "three"}
    lines = downloads["csv"].decode().splitlines()
    assert "Research use only" in lines[0]
    assert lines[2].startswith("'=a.png,0,head,"), "a spreadsheet would run the name as a formula"
    assert downloads["png"].startswith(b"\x89PNG")


def test_keyboard_and_screen_reader_access(page) -> None:
    give(page, ("a.dcm", dicom(4)))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas[tabindex], [role=img]')]
             .filter((e) => !e.closest('[hidden]'))
             .filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))
             .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
    assert reached >= {"pick", "viewer", "map", "opacity", "preset", "ruler", "save-json", "theme"}
    assert page.locator("#status").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_overflows_the_page(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    give(page, ("a-very-long-name-" * 8 + ".png", png(4)))
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_contrast_is_sufficient_in_both_themes(page) -> None:
    give(page, ("a.png", png(4)))
    for _ in range(2):
        poor = page.evaluate(CONTRAST)
        assert poor == []
        page.click("#theme")


CONTRAST = """() => {
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0.5) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('main p, main dd, main dt, main button, main small, .notice, header p, label, h2, h3')]
    .filter((e) => e.offsetParent && e.textContent.trim() && !e.closest('.stage'))
    .map((e) => {
      const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 30)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.fixture
def series_page(browser, serving, series_bundle) -> Iterator[Any]:
    """The page of a service whose only model answers for series."""
    with serving(bundles=[str(series_bundle)]) as service:
        yield from open_page(browser, service, "whole")


def test_a_model_of_series_shows_the_weights_of_slices_and_refuses_an_image(series_page, tmp_path: Path) -> None:
    page = series_page
    assert "whole: Healthy, Tumor (one answer per series)" in page.locator("#models-line").inner_text()
    assert "Drop a series here" in page.locator("#drop").inner_text()
    give(page, *[(f"{i}.dcm", dicom(i, float(i))) for i in range(4)])
    assert page.locator("#answers caption").inner_text() == "Whole series, 4 slices"
    assert "whole: weight of each slice in the answer" in page.locator("#strip").inner_text()
    page.get_by_text("All slices").click()
    cells = page.locator("#table tbody td:nth-child(2)").all_inner_texts()
    weights = [float(text.removeprefix("weight ").removesuffix(" %")) for text in cells]
    assert sum(weights) == pytest.approx(100, abs=0.3)
    heights = page.locator(".strip rect").evaluate_all("bars => bars.map((bar) => Number(bar.getAttribute('height')))")
    assert heights == pytest.approx([100 * weight / max(weights) for weight in weights], abs=1)
    page.get_by_text("How these numbers were obtained").click()
    assert "gated attention over 4 slices" in page.locator("#details").inner_text()
    page.select_option("#map", "class_activation")
    page.locator("#map-note", has_text="relative evidence for Tumor").wait_for()
    with page.expect_download() as waiting:
        page.click("#save-csv")
    waiting.value.save_as(tmp_path / "csv")
    rows = [line.split(",") for line in (tmp_path / "csv").read_text().splitlines()[1:]]
    assert [float(row[rows[0].index("weight")]) for row in rows[2:]] == pytest.approx([w / 100 for w in weights], abs=6e-4)
    give(page, ("a.png", png(1)))
    page.locator("#problem", has_text="Send a volume, or all DICOM files of the series").wait_for()
    assert page.locator("#stacks li:nth-child(2)").inner_text().endswith("refused")
