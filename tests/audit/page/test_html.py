"""The page: well-formed, offline, escaped, and nothing of the data missing from it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from audit_data import LONG, large_audit, multi_class, result, small_audit

from fairprune_plugin import DemographicParity, EqualOpportunity, FairnessAudit, audit_predictions

VOID = {"meta", "br", "input", "img", "hr", "link"}


class Reader(HTMLParser):
    """Checks that every tag is closed in order, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def small() -> FairnessAudit:
    return small_audit(history={"BiFP": result(), "magnitude": result(gap=0.1)})


@pytest.fixture(scope="module")
def large() -> FairnessAudit:
    return large_audit(model_name="<img src=x onerror=alert(1)>", split="te&st")


@pytest.mark.parametrize("which", ["small", "large"])
def test_nothing_is_fetched_and_nothing_runs(which: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(which).to_html()
    reader = Reader(page)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert not re.search(r"url\(|@import|https?:", page)
    policy = next(a["content"] for tag, a in reader.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_names_are_text(large: FairnessAudit) -> None:
    reader = Reader(large.to_html())
    text = " ".join(reader.words)
    for name in (*LONG, "<img src=x onerror=alert(1)>", "te&st"):
        assert name in text
    assert "script" not in {tag for tag, _ in reader.tags}


def test_every_group_is_in_every_picture(large: FairnessAudit) -> None:
    reader = Reader(large.to_html())
    labels = [a["aria-label"] or "" for _, a in reader.tags if "aria-label" in a]
    pictures = [label for label in labels if "per group" in label or ", change in points against" in label]
    assert len(pictures) == 12
    for label in pictures:
        assert all(name in label for name in LONG)
    # Names stand beside each picture as text that wraps, once per row.
    who = sum(a.get("class") == "who" for _, a in reader.tags)
    assert who == 12 * (14 + 1 + 1)  # groups, everyone, and the empty one of the axis


def test_every_number_of_the_tables_is_there(small: FairnessAudit) -> None:
    text = " ".join(Reader(small.to_html()).words)
    for item in small.groupings[0].measures:
        assert (f"{item.value:.3f}" if item.name == "loss" else f"{100 * item.value:.1f} %") in text
    for verdict in small.verdicts:
        assert verdict.status in text


def test_runs_are_pictured(small: FairnessAudit) -> None:
    page = small.to_html()
    labels = [a["aria-label"] or "" for _, a in Reader(page).tags if "aria-label" in a]
    for start in ("Gap over steps", "Multipliers over steps", "Sparsity over steps"):
        assert sum(label.startswith(start) for label in labels) == 2
    assert any(label.startswith("Accuracy against gap. BiFP: accuracy 0.880, gap 0.030") for label in labels)
    assert "A · BiFP" in page
    one = small_audit(history=result()).to_html()
    assert "Gap over steps" in one
    assert "Accuracy against gap" not in one
    assert "Training" not in small_audit().to_html()


def test_both_schemes_and_narrow_windows_have_rules(small: FairnessAudit) -> None:
    page = small.to_html()
    assert "prefers-color-scheme:dark" in page
    assert page.count("@container (max-width") == 2
    assert 'name="viewport"' in page


def test_positions_are_within_the_drawing(large: FairnessAudit) -> None:
    for _, attributes in Reader(large.to_html()).tags:
        for name in ("x", "x1", "x2", "y1", "y2"):
            value = attributes.get(name) or ""
            if value.endswith("%"):
                assert 0 <= float(value[:-1]) <= 100


def test_notebooks_get_the_same_without_the_document(small: FairnessAudit) -> None:
    fragment = small._repr_html_()
    Reader(fragment)
    assert fragment in small.to_html()
    assert not re.search(r"<(html|head|body|!doctype)", fragment, re.IGNORECASE)
    # Every rule of the style sheet is about the report only.
    css = re.search(r"<style>(.*?)</style>", fragment, re.DOTALL)
    assert css is not None
    for selectors in re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", css[1]):
        for selector in selectors.split(","):
            assert selector.strip().startswith(".fpa"), selector


def test_multi_class_pictures_are_those_of_the_constraints() -> None:
    logits, y, s = multi_class(300, classes=4)
    report = audit_predictions(
        logits, y, s, [EqualOpportunity(0.2, groups=3), DemographicParity(0.2, groups=3, positive=2)], bootstrap=100
    )
    labels = [a["aria-label"] or "" for _, a in Reader(report.to_html()).tags if "aria-label" in a]
    titles = [label.split(" per group")[0] for label in labels if " per group" in label]
    assert titles == [
        "Accuracy",
        "True positive rate · class 0",
        "True positive rate · class 1",
        "Selection rate · class 2",
        "True positive rate · class 2",
        "True positive rate · class 3",
    ]
    assert report.to_html().count("<details><summary>Class") == 4


def test_many_classes_do_not_make_a_hundred_pictures() -> None:
    logits, y, s = multi_class(900, classes=15)
    page = audit_predictions(logits, y, s, EqualOpportunity(0.2, groups=3), bootstrap=100).to_html()
    assert page.count("per group.") == 12
    assert "4 more are in the tables below" in page


def test_floor_and_levelling_down_have_a_place() -> None:
    report = small_audit(model_name="m")
    assert ("Levelling down" in report.to_html()) == bool(report.levelling_down)
