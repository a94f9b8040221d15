"""The report in a real browser: nothing is asked for, nothing is wrong, and it works by keyboard and on paper."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medformer.reporting.report import build_report

AXE = Path(__file__).parent / "browser" / "node_modules" / "axe-core" / "axe.min.js"
REPORTS = ("segmentation", "classification", "connectomes", "volumes")
OpenReport = Callable[..., Any]


def unavailable(reason: str) -> None:
    """Skip on a machine without a browser; fail where the browser was promised."""
    if os.environ.get("MEDFORMER_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and MEDFORMER_REQUIRE_BROWSER=1 forbids to skip")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(chromium: ModuleType) -> Iterator[Any]:
    executable = chromium.find_chromium()
    if executable is None:
        unavailable(f"no browser: none of {', '.join(chromium.NAMES)} on PATH, and CHROMIUM does not name one")
    with chromium.Chromium(executable) as running:
        yield running


@pytest.fixture(scope="module")
def reports(finished: Path, classified: Path, connectomes: Path, segmented_volumes: Path) -> dict[str, Path]:
    folders = {
        "segmentation": finished / "run",
        "classification": classified,
        "connectomes": connectomes,
        "volumes": segmented_volumes / "run",
    }
    return {name: build_report(folder) for name, folder in folders.items()}


@pytest.fixture
def open_report(browser: Any, reports: dict[str, Path]) -> Iterator[OpenReport]:
    """Open a report, and check at the end that it neither complained nor asked for anything."""
    pages = []

    def open_page(name: str = "segmentation", scheme: str = "light") -> Any:
        page = browser.open(reports[name], scheme=scheme)
        pages.append((reports[name], page))
        return page

    yield open_page
    for file, page in pages:
        assert page.complaints() == []
        assert page.requests() == [file.resolve().as_uri()]
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", REPORTS)
def test_axe_finds_nothing_serious(open_report: OpenReport, name: str, scheme: str) -> None:
    if not AXE.is_file():
        unavailable(f"axe-core is not installed: npm ci --prefix {AXE.parents[2]}")
    page = open_report(name, scheme)
    dark = page.run("matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark")
    # axe passes over what is folded.
    page.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.run(AXE.read_text("utf-8"))
    passed = set()
    for width in (1280, 480):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        found = page.run(
            "axe.run().then(({ violations, passes }) => ({ violations, passes: passes.map((r) => r.id) }))"
        )
        serious = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
        assert serious == [], json.dumps(serious, indent=1)
        passed |= set(found["passes"])
    # What must not pass by being left out.
    assert {"color-contrast", "scrollable-region-focusable", "button-name", "skip-link"} <= passed


def test_what_the_policy_forbids_is_refused(browser: Any, reports: dict[str, Path], tmp_path: Path) -> None:
    """The same harness on a tampered page: the policy holds, and the checks above can fail."""
    text = reports["segmentation"].read_text("utf-8")
    smuggled = (
        '<img src="http://127.0.0.1:9/leak.png" alt="">'
        "<script>document.title = 'taken over'</script>"
        "<p onclick=\"document.title = 'taken over'\" id='trap'></p>"
    )
    file = tmp_path / "tampered.html"
    file.write_text(text.replace("</main>", smuggled + "</main>"), "utf-8")
    page = browser.open(file)
    page.run("document.getElementById('trap').click()")
    assert page.run("document.title") != "taken over"
    assert page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    said = " ".join(page.complaints())
    for part in ("leak.png", "inline script", "inline event handler"):
        assert part in said
    assert "Content Security Policy" in said
    page.close()


def test_the_keyboard_reaches_everything(open_report: OpenReport) -> None:
    page = open_report()
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().left") > 0
    page.press("Enter")
    assert page.run("location.hash") == "#main"
    page.run("document.activeElement.blur(); history.replaceState(null, '', location.pathname); scrollTo(0, 0)")
    page.run(
        "window.reachable = () => [...document.querySelectorAll('a, button, summary, [tabindex=\"0\"]')]"
        ".filter((element) => element.checkVisibility())"
    )
    wanted = page.run("reachable().length")
    describe = """(() => {
        const element = document.activeElement;
        element.dataset.seen = "";
        return { tag: element.tagName, outline: getComputedStyle(element).outlineStyle };
    })()"""
    reached = []
    for _ in range(2 * wanted):
        page.press("Tab")
        reached.append(page.run(describe))
        if page.run("reachable().every((element) => 'seen' in element.dataset)"):
            break
    missed = page.run(
        "reachable().filter((element) => !('seen' in element.dataset)).map((element) => element.outerHTML.slice(0, 99))"
    )
    assert missed == []
    assert {step["tag"] for step in reached} >= {"A", "BUTTON", "SUMMARY", "DIV", "PRE"}
    assert all(step["outline"] != "none" for step in reached if step["tag"] not in ("BODY", "HTML"))


def test_tables_sort_by_keyboard(open_report: OpenReport) -> None:
    page = open_report()
    page.run("window.table = document.querySelector('#results table[data-sortable]')")
    page.run("window.head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.startsWith('Mean Dice'))")
    column = "[...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent)"
    as_written = page.run(column)
    assert len(set(as_written)) == 3
    page.run("head.querySelector('button').focus()")
    for key, order, expected in (
        ("Enter", "ascending", sorted(as_written)),
        (" ", "descending", sorted(as_written, reverse=True)),
        ("Enter", None, as_written),
    ):
        page.press(key)
        assert page.run("head.getAttribute('aria-sort')") == order
        assert page.run(column) == expected
    assert page.run("table.tFoot.rows[0].cells[0].textContent") == "All"
    # Dashes are no numbers and stay last in both directions; sorting another column takes the mark over.
    page.run("window.table = document.querySelectorAll('#results table[data-sortable]')[1]")
    page.run("window.last = [...table.tHead.rows[0].cells].at(-1)")
    for order in ("ascending", "descending"):
        page.run("last.querySelector('button').click()")
        cells = page.run("[...table.tBodies[0].rows].map((row) => row.cells[last.cellIndex].textContent)")
        assert page.run("last.getAttribute('aria-sort')") == order
        dashes = [cell == "–" for cell in cells]
        assert dashes == sorted(dashes)
        assert any(dashes) and not all(dashes)
    page.run("table.tHead.rows[0].cells[0].querySelector('button').click()")
    assert page.run("table.querySelectorAll('[aria-sort]').length") == 1


@pytest.mark.parametrize("name", REPORTS)
def test_paper_gets_everything(open_report: OpenReport, name: str) -> None:
    page = open_report(name, "dark")
    folded = "document.querySelectorAll('details:not([open])').length"
    before = page.run(folded)
    assert before > 0
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(folded) == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(folded) == before
    pdf = base64.b64decode(page.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    # Wide tables must not be cut off at the edge of the sheet.
    page.call("Emulation.setDeviceMetricsOverride", width=700, height=900, deviceScaleFactor=1, mobile=False)
    cut = page.run(
        "[...document.querySelectorAll('table')].filter((table) => table.getBoundingClientRect().right > innerWidth)"
        ".map((table) => table.caption.textContent)"
    )
    assert cut == []


def test_a_phone_scrolls_tables_and_not_the_page(open_report: OpenReport) -> None:
    page = open_report()
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False)
    assert page.run("document.documentElement.scrollWidth") <= 360


def test_without_script_everything_is_there(browser: Any, reports: dict[str, Path]) -> None:
    page = browser.open(reports["segmentation"])
    count = "document.querySelectorAll('table td, table th, figure, details').length"
    text = "document.querySelector('main').textContent.replaceAll(/\\s+/g, ' ')"
    with_script = page.run(count), page.run(text)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.call("Page.reload")
    page.wait_for("Page.loadEventFired", 2)
    # The protocol still evaluates; the page's own script does not run.
    assert page.run("document.querySelectorAll('button').length") == 0
    assert (page.run(count), page.run(text)) == with_script
    page.close()
