"""The pages in a real Chromium, from files, without a network: what is laid out, what answers, who can use it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.compared import compare
from analysis.load import find_reference, load, read_plan
from analysis.page.index import write_index
from analysis.page.sweep import write_report
from tests.analysis import pages, synthetic

pytestmark = pytest.mark.long
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
NEEDED = "this test needs Chromium and its driver: sudo apt-get install chromium; .venv/bin/pip install -e '.[browser]'"
MANY = 50_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail(NEEDED)
    if program is None:
        pytest.fail(NEEDED)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file; in the end nothing may have been asked of a network, and no error said."""
    wrong: list[str] = []
    contexts = []

    def opened(file: Path, width: int = 1200, scheme: str = "light", **more: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("dialog", lambda dialog: wrong.append("a dialog"))
        page.on("request", lambda asked: None if asked.url[:5] in ("file:", "data:") else wrong.append(asked.url))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An out folder with a page for each state, and their index."""
    folder = tmp_path_factory.mktemp("runs")
    for sweep in (
        pages.many(folder, 600, 200),
        pages.failed(folder),
        pages.empty(folder),
        synthetic.budget_sweep(folder),
    ):
        report(folder, sweep)
    write_index(folder)
    return folder


def report(out: Path, sweep: Path, pictures: bool = True) -> Path:
    plan = read_plan(sweep)
    results = load(out, plan)
    return write_report(plan, results, compare(results, find_reference(plan, results.cells)), sweep, pictures)


def page_of(out: Path, name: str) -> Path:
    return out / "sweeps" / name / "report.html"


def cards(page: Any) -> int:
    return page.locator(".card").count()


def until(page: Any, count: int) -> None:
    """Wait for so many questions: words are looked for once typing has paused."""
    from playwright.sync_api import expect

    expect(page.locator(".card")).to_have_count(count)


def test_of_many_questions_a_few_are_laid_out(tmp_path: Path, show: Callable[..., Any]) -> None:
    """`pytest -m long -k laid_out -s` prints how long the page takes to open."""
    sweep = pages.many(tmp_path, MANY, 600)
    page = show(report(tmp_path, sweep))
    opened = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    print(
        f"\n{MANY:,} questions, {(sweep / 'report.html').stat().st_size / 1e6:.1f} MB: open after {opened / 1000:.2f} s"
    )
    assert cards(page) == 25
    assert page.evaluate("document.querySelectorAll('*').length") < 2000
    results = load(tmp_path, read_plan(sweep))
    scores = {label: group["score"].to_numpy() for label, group in results.questions.groupby("label")}
    one, other = scores["dense"], scores["nsa"]
    differ = int((np.nan_to_num(one, nan=-1) != np.nan_to_num(other, nan=-1)).sum())
    assert page.inner_text("#found") == f"{differ:,} questions"
    first = page.locator(".card h3").first.inner_text()
    page.click("#next")
    assert page.inner_text("#page").startswith("page 2 of ")
    assert cards(page) == 25
    assert page.locator(".card h3").first.inner_text() != first
    page.select_option("[name=show]", "all")
    assert page.inner_text("#found") == f"{MANY:,} questions"
    assert cards(page) == 25
    assert len(page.evaluate("Object.keys(data.sheets)")) == 500, "pictures are of so many questions at most"


def test_questions_that_two_variants_answer_differently(out: Path, show: Callable[..., Any]) -> None:
    page = show(page_of(out, "tiny-many"))
    assert page.input_value("[name=a]") != page.input_value("[name=b]")
    card = page.locator(".card").first
    assert card.locator("tbody tr").count() == 3
    verdicts = card.locator(".answers tr td:last-child").all_inner_texts()
    assert {"✓ right", "✗ wrong"} <= set(verdicts)
    picture = page.locator(".card img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 512
    assert "frames that were seen" in picture.get_attribute("alt")
    said = [int(text.replace(",", "")) for text in page.locator("#crossed td.n").all_inner_texts()]
    assert sum(said) == 600
    page.select_option("[name=suite]", label="suite_1")
    page.select_option("[name=part]", "counting")
    page.select_option("[name=lasts]", label="1 to 10 min")
    page.select_option("[name=show]", "all")
    found = page.locator(".card .about").all_inner_texts()
    assert len(found) == 6  # of the 100 with pictures, whose lengths are known, every fifteenth
    assert set(found) == {"counting · video of 5 min 0 s"}


def test_odd_texts_are_shown_as_they_are(out: Path, show: Callable[..., Any]) -> None:
    page = show(page_of(out, "tiny-many"))
    page.select_option("[name=show]", "all")
    page.fill("[name=words]", "no markup")
    until(page, 2)  # the first of each benchmark
    assert pages.ODD in page.locator(".card .prompt").first.inner_text()
    assert page.locator(".card .answers td").nth(2).inner_text() == pages.ODD
    assert page.locator("main b").count() == 0
    page.fill("[name=words]", "moov")
    until(page, 0)  # that is no answer
    page.fill("[name=words]", "")
    page.select_option("[name=show]", "error")
    assert "moov atom not found" in page.locator(".card").first.inner_text()


def test_tables_are_sorted_by_their_headings(out: Path, show: Callable[..., Any]) -> None:
    page = show(page_of(out, "tiny-budget"))
    table = page.locator("#results table")
    heading = table.locator("thead th").nth(3)
    heading.locator("button").focus()
    for key, order in (("Enter", "descending"), ("Space", "ascending")):
        page.keyboard.press(key)
        assert heading.get_attribute("aria-sort") == order
        shown = [text.split()[0] for text in table.locator("tbody tr td:nth-child(4)").all_inner_texts()]
        assert shown[-1] == "failed", "what has no number is last"
        numbers = list(map(float, shown[:-1]))
        assert numbers == sorted(numbers, reverse=order == "descending")
    assert table.locator("[aria-sort]").count() == 1


def test_charts_answer_the_pointer_and_the_arrow_keys(out: Path, show: Callable[..., Any]) -> None:
    page = show(page_of(out, "tiny-budget"))
    chart = page.locator("[data-chart=accuracy] .chart").first
    chart.locator("circle").nth(2).hover()
    pointed = chart.locator("output").inner_text()
    assert "200 questions" in pointed
    assert "p = " in pointed
    page.mouse.move(5, 5)
    assert chart.locator("output").inner_text() == ""
    chart.locator("svg").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert chart.locator("output").inner_text() == pointed
    page.locator("[data-chart=layers] svg").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("[data-chart=layers] output").first.inner_text().startswith("swa\nlayer 5\ngate, mean: ")
    page.select_option("#cost", label="peak MiB")
    costs = page.locator("[data-chart=cost] .chart")
    costs.first.locator("circle").first.hover()
    assert "peak MiB: " in costs.first.locator("output").inner_text()


OVERLAPS = """[...document.querySelectorAll(".chart svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  const meet = (one, other) =>
    Math.min(one.right, other.right) - Math.max(one.left, other.left) > -8  // or so near that they read as one
    && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3;  // boxes are higher than letters
  return texts.flatMap(([name, box], at) => texts.slice(at + 1)
    .filter(([other, its]) => (isNaN(name) || isNaN(other)) && meet(box, its)).map(([other]) => [name, other]));
})"""


@pytest.mark.parametrize("width", [1200, 320])
def test_no_words_of_a_chart_lie_on_others(out: Path, show: Callable[..., Any], width: int) -> None:
    page = show(page_of(out, "tiny-budget"), width=width)
    assert page.locator("[data-chart=layers] svg").count() >= 3
    page.evaluate(  # as of a model without sinks: all lines end at the axis
        "() => { data.layers.forEach(one => Object.values(one.lines).forEach(line => line.at(-1)[1] = 0)); "
        "dispatchEvent(new Event('resize')); charts(); }"
    )
    assert page.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["tiny-many", "tiny-failed", "tiny-empty", "tiny-budget", ""])
def test_everybody_can_use_them(out: Path, show: Callable[..., Any], name: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = show(page_of(out, name) if name else out / "index.html", scheme=scheme, bypass_csp=True)
    for details in page.locator("details > summary").all():
        details.click()
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.locator("table").count() == page.locator("table > caption").count()


@pytest.mark.parametrize("name", ["tiny-many", "tiny-failed", "tiny-empty", "tiny-budget"])
def test_a_narrow_window_is_not_wider_than_it_is(out: Path, show: Callable[..., Any], name: str) -> None:
    page = show(page_of(out, name), width=320)
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_what_is_printed(out: Path, show: Callable[..., Any]) -> None:
    page = show(page_of(out, "tiny-failed"))
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("nav").is_visible()
    assert page.locator("pre").first.is_visible(), "a traceback that was closed"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("pre").first.is_visible()


def test_links_lead_to_files_that_are_there(out: Path, show: Callable[..., Any]) -> None:
    page = show(out / "index.html")
    page.click("text=tiny-many")
    page.click("text=all sweeps")
    assert page.title() == "Sweeps"
    for name in ("tiny-many", "tiny-failed"):
        page = show(page_of(out, name))
        for link in page.locator("a[href*='.json'], a[href*='.html'], .card a").all():
            assert Path(link.evaluate("link => new URL(link.href).pathname")).is_file()


def test_the_copy_to_share_shows_no_pictures(out: Path, show: Callable[..., Any]) -> None:
    page = show(report(out, out / "sweeps" / "tiny-many", pictures=False))
    assert cards(page) == 25
    assert page.locator(".card img, .card a").count() == 0
