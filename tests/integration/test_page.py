"""The page of `yr-fastload serve` in a real browser: what it shows, what its buttons do, and what it survives."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from .service import WAIT_S, Service

sys.path.append(str(Path(__file__).parents[2] / "tools"))  # the browser is shared with what makes the picture in docs
from browser import MISSING, chromium, opened

WAIT_MS = 1000 * WAIT_S
# Chromium's own words for an answer that is an error or does not come, which some of these tests provoke.
NO_ANSWER = "Failed to load resource"
MARKUP = "<img src=x>"


@pytest.fixture(scope="module")  # while it is open, its thread cannot run another event loop
def browser() -> Iterator[Browser]:
    executable = chromium()
    if executable is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LD_PRELOAD", raising=False)  # a sanitizer is for the interpreter alone
        with opened(executable) as launched:
            yield launched


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with an instance that is ready, which no test changes."""
    service = Service(tmp_path_factory.mktemp("well"), limits={})
    try:
        service.until_ready(1)
        yield service
    finally:
        service.end()


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose instance has failed, and says so in markup."""
    service = Service(tmp_path_factory.mktemp("failed"), "crash", limits={"restarts": 0})
    yield service
    service.end()


class Shown:
    """The page of one service, as somebody sees it, and all that it asked and complained of."""

    def __init__(self, page: Page, service: Service) -> None:
        self.page = page
        self.url = str(service.client.base_url)
        self.asked: list[str] = []
        self.wrong: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text))

    def open(self) -> None:
        self.page.goto(self.url)

    def row(self, name: str) -> Locator:
        return self.page.locator("tbody tr", has_text=name)

    def cell(self, name: str, number: int) -> Locator:
        return self.row(name).locator("td").nth(number)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def bar(self, name: str, number: int) -> tuple[str | None, float]:
        """Its kind, and its length as a share of the longest there can be, as they were drawn."""
        outer = self.cell(name, number).locator(".bar:not(.start)")
        inner = outer.locator("div")
        return inner.get_attribute("class"), inner.bounding_box()["width"] / outer.bounding_box()["width"]

    def expect_rows(self, count: int) -> None:
        expect(self.page.locator("tbody tr")).to_have_count(count)


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Shown]]:
    """Opens the page of a service; at the end nothing was wrong with it, and it asked nobody else."""
    expect.set_options(timeout=WAIT_MS)
    shown = []
    with browser.new_context() as context:
        context.set_default_timeout(WAIT_MS)

        def show(service: Service, before: Callable[[Page], object] = lambda page: None) -> Shown:
            shown.append(Shown(context.new_page(), service))
            before(shown[-1].page)
            shown[-1].open()
            return shown[-1]

        yield show
        for each in shown:
            each.page.unroute_all(behavior="ignoreErrors")  # an answer on its way may not come any more
    for each in shown:
        assert [text for text in each.wrong if not text.startswith(NO_ANSWER)] == []
        assert each.asked
        assert all(url.startswith((each.url, "data:")) for url in each.asked), each.asked


def test_a_start_is_shown_phase_by_phase(well: Service, show: Callable[..., Shown]) -> None:
    (instance,) = well.instances("ready")
    shown = show(well)
    shown.open()
    cell = shown.cell("instance-1", 3)
    parts = cell.locator(".start > div")
    expect(parts).to_have_count(len(instance["phases"]))
    for part, phase in zip(parts.all(), instance["phases"], strict=True):
        assert part.get_attribute("title") == f"{phase['name']}: {phase['seconds']:.2f} s"
    longest = max(instance["phases"], key=lambda phase: phase["seconds"])
    expect(cell).to_contain_text(f"ready after {instance['ready_seconds']:.2f} s, most of it {longest['name']} ")
    drawn = sum(part.bounding_box()["width"] for part in parts.all())
    assert drawn > 0.8 * cell.locator(".start").bounding_box()["width"]


def test_an_instance_appears_and_another_pulls_from_it(serve: Callable[..., Service], show: Callable[..., Shown]):
    service = serve()
    shown = show(service)
    expect(shown.cell("instance-1", 1)).to_have_text("ready")
    expect(shown.cell("instance-1", 2)).to_have_text("1000 B from disk")
    shown.button("Scale out").click()
    expect(shown.cell("instance-2", 1)).to_have_text("ready")
    expect(shown.cell("instance-2", 2)).to_have_text("1000 B from a running instance, host")
    first, second = service.until_ready(2)
    assert (first["load_seconds"], second["load_seconds"]) == (8.0, 0.5)
    expect(shown.cell("instance-1", 3)).to_contain_text(f"8.00 sready after {first['ready_seconds']:.2f} s")
    expect(shown.cell("instance-2", 3)).to_contain_text(
        f"0.50 s, 16.0 times as fastready after {second['ready_seconds']:.2f} s"
    )
    expect(shown.cell("instance-2", 0)).to_have_text(f"instance-2pid {second['pid']}, port {second['port']}")
    for name, kind, share in (("instance-1", "disk", 1), ("instance-2", "instance", 0.5 / 8)):
        assert shown.bar(name, 2) == (kind, pytest.approx(1))
        assert shown.bar(name, 3) == (kind, pytest.approx(share, abs=0.01))
    expect(shown.page.locator("#summary")).to_have_text("2 ready")
    assert shown.wrong == []


def test_requests_are_counted(serve: Callable[..., Service], show: Callable[..., Shown]) -> None:
    service = serve()
    shown = show(service)
    expect(shown.cell("instance-1", 4)).to_have_text("0 now0 so far")
    service.until_ready(1)
    service.client.post("/v1/x", json={})
    expect(shown.cell("instance-1", 4)).to_have_text("0 now1 so far")


def test_instances_are_stopped(serve: Callable[..., Service], show: Callable[..., Shown]) -> None:
    service = serve()
    shown = show(service)
    shown.button("Scale out").click()
    service.until_ready(2)
    shown.button("Stop instance-1").click()
    shown.expect_rows(1)
    expect(shown.row("instance-2")).to_be_visible()
    shown.button("Scale in").click()
    shown.expect_rows(0)
    expect(shown.page.locator("#summary")).to_have_text("no instances")
    assert service.instances() == []
    assert shown.wrong == []


def test_a_refusal_is_shown_until_the_next_wish(serve: Callable[..., Service], show: Callable[..., Shown]) -> None:
    shown = show(serve(instances=1))
    shown.expect_rows(1)
    refused = shown.page.get_by_role("alert").filter(has_text="1 are allowed; see --max-instances")
    shown.button("Scale out").click()
    expect(refused).to_be_visible()
    shown.expect_rows(1)
    shown.button("Scale in").click()
    expect(refused).to_have_count(0)


def test_what_the_service_says_is_text(failed: Service, show: Callable[..., Shown]) -> None:
    shown = show(failed)
    expect(shown.cell("instance-1", 1)).to_contain_text(f"no weights here {MARKUP}")
    shown.page.evaluate("name => ask('scalein', { ids: [name] })", MARKUP)
    expect(shown.page.locator("#refused")).to_contain_text(f"no instance '{MARKUP}'")
    expect(shown.page.locator("img")).to_have_count(0)


def changed(**fields: Any) -> Callable[[Page], object]:
    """Has the first instance have these fields where the page asks."""

    def answer(route: Route) -> None:
        response = route.fetch()
        status = response.json()
        status["instances"][0] |= fields
        route.fulfill(response=response, json=status)

    return lambda page: page.route("**/status", answer)


@pytest.mark.parametrize(
    ("fields", "number", "text"),
    [
        ({"state": "loading", "load_source": None, "ready_seconds": None}, 1, "loading"),
        ({"state": "loading", "load_source": None, "ready_seconds": None}, 2, ""),
        ({"state": "failed", "restarts": 2, "error": "not <b>ready</b>"}, 1, "failedstarted again: 2not <b>ready</b>"),
        ({"lease_trouble": "lost: <b>gone</b>"}, 1, "readyits weights: lost: <b>gone</b>"),
        ({"load_source": "disk", "bytes": 0, "fallback": None}, 2, "from disk"),
        ({"load_source": "disk", "bytes": 3 << 29, "fallback": "UNAVAILABLE"}, 2, "1.50 GiB from diskUNAVAILABLE"),
        ({"load_source": "disk", "bytes": 1 << 20, "fallback": "NOT_PUBLISHED"}, 2, "1.00 MiB from disk"),
        ({"id": MARKUP, "pid": None, "host": None}, 0, MARKUP),
        ({"id": "a", "pid": None, "host": "node-1"}, 0, "anode-1"),
        (
            {"load_source": "instance", "transport": "host", "bytes": 1 << 20, "weights_from": "node-2"},
            2,
            "1.00 MiB from a running instance on node-2, host",
        ),
    ],
)
def test_a_row_says_what_the_status_has(
    well: Service, show: Callable[..., Shown], fields: dict[str, Any], number: int, text: str
) -> None:
    shown = show(well, changed(**fields))
    shown.expect_rows(1)
    expect(shown.page.locator("tbody td").nth(number)).to_have_text(text)
    expect(shown.page.locator("tbody :is(img, b)")).to_have_count(0)


def test_a_button_stays_while_rows_change(serve: Callable[..., Service], show: Callable[..., Shown]) -> None:
    service = serve()
    shown = show(service)
    shown.button("Stop instance-1").focus()
    service.until_ready(1)
    service.client.post("/v1/x", json={})
    expect(shown.cell("instance-1", 4)).to_have_text("0 now1 so far")
    expect(shown.button("Stop instance-1")).to_be_focused()


def test_a_service_that_freezes_and_goes_on(serve: Callable[..., Service], show: Callable[..., Shown]) -> None:
    service = serve()
    service.until_ready(1)
    shown = show(service)
    expect(shown.cell("instance-1", 1)).to_have_text("ready")
    away = shown.page.locator("#away")
    service.process.send_signal(signal.SIGSTOP)
    try:
        expect(away).to_contain_text("The service does not answer")
        expect(away).to_contain_text("Below is what it said at")
        shown.expect_rows(1)
    finally:
        service.process.send_signal(signal.SIGCONT)
    expect(away).to_have_text("")
    shown.button("Scale out").click()
    shown.expect_rows(2)


def test_a_service_that_is_gone(serve: Callable[..., Service], show: Callable[..., Shown]) -> None:
    service = serve()
    shown = show(service)
    shown.expect_rows(1)
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(WAIT_S)
    expect(shown.page.get_by_role("alert").filter(has_text="The service does not answer")).to_be_visible()
    shown.button("Scale out").click()
    expect(shown.page.locator("#refused")).to_contain_text("scaleout: ")
    shown.expect_rows(1)


def test_no_other_site_shows_it(well: Service, show: Callable[..., Shown]) -> None:
    shown = show(well)
    other = shown.page.context.new_page()
    complaints = []
    other.on("console", lambda said: complaints.append(said.text))
    other.set_content(f"<iframe src='{shown.url}'></iframe>")
    expect(other.frame_locator("iframe").get_by_role("button")).to_have_count(0)
    assert any("frame-ancestors" in text for text in complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_fits_and_can_be_read(failed: Service, show: Callable[..., Shown], scheme: str, width: int) -> None:
    def prepare(page: Page) -> None:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)

    shown = show(failed, prepare)
    expect(shown.cell("instance-1", 1)).to_contain_text("no weights here")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("h1", "#summary", ".failed", ".error", "#in", "#out", "td button"):
        assert shown.page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector


# What WCAG 2 calls the contrast of a text, of which it asks 4.5.
CONTRAST = """element => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3)
    .map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, number) => sum + value * [0.2126, 0.7152, 0.0722][number], 0);
  let behind = element;
  while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const [less, more] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
    .map(light).sort((one, other) => one - other);
  return (more + 0.05) / (less + 0.05);
}"""
