"""The page: one file without script or request, the same bytes for the same report, names as text, readable by all; in a real browser."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import leakycli
from leakycli import Report
from leakycli.report import RENDERERS, html, renderer
from tests.kit import reports
from tests.kit.browser import CHROMIUM, Server, browse, pixels
from tests.kit.golden import golden

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not looked at in a browser")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\x1b[31m{{ 7 * 7 }}"

ONE, MANY = reports.report(), reports.many(12)

_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """The tags of a page with their attributes, and its text. A tag that is not closed in order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def named(name: str) -> Report:
    """A report in which everything that can be a name is this one."""
    array = dataclasses.replace(reports.odd(name), codecs=name, dtype_before=name, codec_path=name)
    report = reports.report(array, reports.copied(name), warnings=(name,))
    end = dataclasses.replace(report.source, path=name, format=name, identity={name: name})
    cost = dataclasses.replace(report.cost, codec_path=name, kernel=name, engine=name, started=name)
    versions = dataclasses.replace(report.versions or reports.report().versions, system=name)  # type: ignore[type-var]
    parameters = report.parameters | {"only": [name], name: name}
    return dataclasses.replace(
        report, source=end, destination=end, cost=cost, versions=versions, command=(name, name), version=name, parameters=parameters
    )


def test_the_page_is_the_golden_file() -> None:
    golden("one.html", html.render(ONE))
    assert html.render(ONE) == html.render(ONE)


@pytest.mark.parametrize("report", [ONE, MANY, named(HOSTILE)])
def test_the_page_needs_nothing_but_itself(report: Report) -> None:
    page = Outline(html.render(report))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base"}
    assert {"svg", "table", "h1", "main"} <= names
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action", "xlink:href")]
        if "href" in attributes:
            assert str(attributes["href"]).startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
        assert "url(" not in (attributes.get("style") or "")
    assert "@import" not in html.render(report)


def test_names_are_shown_as_text() -> None:
    page = Outline(html.render(named(HOSTILE)))
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert page.text.count(shown) >= 12
    assert "\x1b" not in html.render(named(HOSTILE))
    card = named(HOSTILE)._repr_html_()
    assert "<img" not in card
    assert shown in Outline(card).text


def test_the_marker_tells_a_page_from_what_else_has_its_name() -> None:
    for suffix in RENDERERS:
        form = renderer(f"x{suffix}")
        assert form.MARKER in form.render(named(HOSTILE)).encode()[:200]
        assert form.MARKER in form.render(ONE).encode()[:200]


def test_what_is_drawn_is_said_in_words_too() -> None:
    page = Outline(html.render(MANY))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(figures) == len(MANY.transformed)
    for attributes in figures:
        assert attributes["role"] == "img"
        assert set(str(attributes["aria-labelledby"]).split()) <= set(ids)
    links = [str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == len(MANY.transformed)
    assert set(links) <= set(ids)
    assert "half of the elements from -0.67449 to 0.67449" in page.text
    assert ("html", {"lang": "en"}) in page.tags


def test_losses_missing_elements_and_warnings_are_shown() -> None:
    text = Outline(html.render(reports.report(reports.odd(), reports.array("b"), warnings=("mind the gap",)))).text
    for said in ("3 clipped", "10 missing", "mind the gap", "lost in the cast: 1 overflowed", "94.9 %", "verified"):
        assert said in text


def test_the_page_says_how_to_run_it_again() -> None:
    assert "leakycli apply 'in dir/in.npy' out.npy" in Outline(html.render(ONE)).text
    parameters = ONE.parameters | {"nan": 0, "only": ["a"], "alpha": 0.0}
    text = Outline(html.render(dataclasses.replace(ONE, command=None, parameters=parameters))).text
    assert "leakycli.apply('in dir/in.npy', 'out.npy', alpha=0.0, dtype='float16', nan=0, only=('a',))" in text


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_stands_out_from_what_is_behind_it_in_light_dark_and_print() -> None:
    """As WCAG 2 asks for: a contrast of 4.5."""
    themes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme)) for theme in re.findall(r"\{ (--ink[^}]*)", html.render(ONE))]
    assert len(themes) == 3
    for theme in themes:
        for text in ("ink", "soft", "before", "after", "bad", "good"):
            for behind in ("paper", "panel", *(["badpaper"] if text in ("ink", "bad") else [])):
                lighter, darker = sorted((luminance(theme[text]), luminance(theme[behind])), reverse=True)
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, behind, theme)


def test_an_array_takes_some_kilobytes() -> None:
    report = reports.many(60)
    assert len(html.render(report)) < 60 * 8000
    assert len(report.to_json()) < 60 * 8000


def test_two_histograms_of_different_edges_have_an_axis_each() -> None:
    array = reports.array("x")
    array = dataclasses.replace(array, after=reports.normal(50.0))
    assert html.render(reports.report(array)).count('role="img"') == 2
    assert html.render(ONE).count('role="img"') == 1


def test_the_card_of_a_notebook_is_a_part_of_a_page() -> None:
    card = ONE._repr_html_()
    Outline(card)
    assert "<html" not in card
    assert "<body" not in card
    many = reports.many(60)._repr_html_()
    assert "and 40 more arrays" in many
    assert len(many) < 40_000


# In a browser.


@in_browser
@pytest.mark.parametrize("report", [ONE, MANY, named(HOSTILE)], ids=["one", "many", "hostile"])
def test_a_browser_asks_for_nothing_and_says_nothing(report: Report) -> None:
    with Server({"/": html.render(report)}) as server:
        page, console = browse(server.url("/"), "--dump-dom")
        assert server.asked == ["/"]
    assert console == []
    assert "</main>" in page
    assert "<img" not in page


@in_browser
def test_a_browser_that_has_something_to_say_is_heard() -> None:
    """That the test above can fail."""
    with Server({"/": "<script>console.error('heard'); fetch('/other')</script>"}) as server:
        _, console = browse(server.url("/"), "--dump-dom", "--virtual-time-budget=2000")
        assert "/other" in server.asked
    assert any("heard" in message for message in console)


@in_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_screenshot_is_not_blank_and_follows_the_theme(tmp_path: Path, dark: bool) -> None:
    with Server({"/": html.render(ONE)}) as server:
        browse(server.url("/"), f"--screenshot={tmp_path / 'shot.png'}", *(["--force-dark-mode"] if dark else []), size=(640, 700))
    shot = pixels(tmp_path / "shot.png")[..., :3].astype(int)
    assert shot.shape == (700, 640, 3)
    background = shot[2, 2]
    assert (background.max() < 60) if dark else (background.min() > 240)
    drawn = (abs(shot - background).sum(axis=2) > 60).mean()
    assert 0.02 < drawn < 0.5
    # Blue and orange, which only the figure and its names have.
    blue, orange = shot[..., 2] - shot[..., 0] > 40, shot[..., 0] - shot[..., 2] > 60
    assert blue.sum() > 500
    assert orange.sum() > 500


@in_browser
@pytest.mark.parametrize("width", [320, 375, 1400])
def test_the_page_fits_its_window(width: int) -> None:
    """Only what scrolls on its own is wider than a telephone; measured by a page around it, as the report has no script."""
    around = (
        f"<iframe id=f src=/report width={width} height=800></iframe><script>f.onload = () => {{"
        " const e = f.contentDocument.documentElement; document.title = e.scrollWidth + ' ' + e.clientWidth }</script>"
    )
    with Server({"/": around, "/report": html.render(MANY)}) as server:
        page, _ = browse(server.url("/"), "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r"<title>(\d+) (\d+)</title>", page)
    assert found is not None
    assert int(found[1]) <= int(found[2])
    assert int(found[2]) in range(width - 4, width + 1)


@in_browser
def test_the_page_prints(tmp_path: Path) -> None:
    with Server({"/": html.render(MANY)}) as server:
        browse(server.url("/"), f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12


def test_a_run_writes_the_page_where_it_is_asked_to(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.linspace(-1, 1, 1000))
    report = leakycli.apply(tmp_path / "in.npy", tmp_path / "out.npy", reports=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == html.render(report)
    assert (tmp_path / "out.npy.report.json").exists()
