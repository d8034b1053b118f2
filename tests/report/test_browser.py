"""Every kind of page in a browser, wide and narrow: no error, nothing loaded, nothing cut off."""

import pytest
from test_comparison import comparison
from test_pages import site  # noqa: F401 - a fixture
from test_server import served  # noqa: F401 - a fixture

import browser
from audit_example import audited
from report_variants import REPORTS
from unlearner.report.compare import render_comparison
from unlearner.report.page import render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed"),
]
WIDTHS = [1280, 400]
PAGES = {
    "a run": lambda: render(REPORTS["demonstration"]()),
    "a run with hostile names": lambda: render(REPORTS["hostile"]()),
    "a classifier's run": lambda: render(REPORTS["sequence"]()),
    "an audit": lambda: render(audited()),
    "a comparison": lambda: render_comparison(comparison()),
}


@pytest.fixture(scope="module")
def chromium():
    with browser.opened() as opened:
        yield opened


# A name of forty signs without a place to break is a few pixels wider than a narrow screen.
BEYOND = {"a run with hostile names": 8}


def check(chromium, address, width, allowed="data:", beyond=0):
    """Visit a page: what it asks for is itself, what it holds, and what is allowed."""
    visit = chromium.visit(address, width)
    assert visit.errors == []
    asked = [one for one in visit.requests if one.partition("#")[0] != address]
    assert [one for one in asked if not one.startswith(("data:", allowed))] == []
    assert visit.overflow <= beyond, f"{visit.overflow} pixels wider than the window"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_results(name, width, chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGES[name](), encoding="utf-8")
    check(chromium, path.as_uri(), width, beyond=BEYOND.get(name, 0))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_pages_of_requests(width, chromium, served):  # noqa: F811
    port, token, _ = served
    here = f"http://127.0.0.1:{port}/"
    check(chromium, f"{here}?token={token}", width, allowed=here)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["index.html", "start.html", "generated/settings.html"])
def test_the_site_of_the_docs(page, width, chromium, site):  # noqa: F811
    check(chromium, (site / "html" / page).as_uri(), width, allowed=(site / "html").as_uri())


def test_what_a_page_does_wrong_is_seen(chromium, tmp_path):
    """The check itself: an error, a request that leaves the page, a line that is too wide."""
    path = tmp_path / "page.html"
    path.write_text(
        '<img src="other.png"><div style="width: 3000px">x</div><script>nothing.at.all()</script>'
    )
    visit = chromium.visit(path.as_uri(), 400)
    assert len(visit.errors) >= 1
    assert (tmp_path / "other.png").as_uri() in visit.requests
    assert visit.overflow > 2000
