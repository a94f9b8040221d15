"""Names and paths in what is passed on: no markup, no folders, no word broken inside."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup

from medformer.reporting.wording import (
    absolute_paths,
    breakable,
    code_span,
    html_templates,
    interval,
    label_title,
    markdown_templates,
    without_folders,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ana/data/manifest.csv", ".../manifest.csv"),
        ("cannot read '/home/ana/a.csv' (gone)", "cannot read '.../a.csv' (gone)"),
        ("/runs/a/oof.csv and /runs/b/oof.csv differ", ".../oof.csv and .../oof.csv differ"),
        ("data.manifest=/home/ana/m.csv", "data.manifest=.../m.csv"),
        ("C:\\Users\\ana\\m.csv and ~/data/m.csv", ".../m.csv and .../m.csv"),
        ("file:///home/ana/m.csv", ".../m.csv"),
        ("fold 0/1, and/or p/q 3/4", "fold 0/1, and/or p/q 3/4"),
        ("images/case01.png and ../up/x.png", "images/case01.png and ../up/x.png"),
        ("https://example.org/a/b.html", "https://example.org/a/b.html"),
        ("recall / precision", "recall / precision"),
    ],
)
def test_folders_stay_at_home(text: str, expected: str) -> None:
    assert without_folders(text) == expected
    for templates in (html_templates(), markdown_templates()):
        shown = templates.from_string("{{ text }}").render(text=text).replace("\\", "").replace("&#39;", "'")
        assert "/home/ana" not in shown and "Users" not in shown


def test_paths_with_spaces_are_known_from_the_config() -> None:
    config = {"data": {"manifest": "/home/Ana Maria/my data/m.csv", "name": "a/b"}, "list": ["out=/home/Ana Maria/run"]}
    paths = absolute_paths(config)
    assert paths == ["/home/Ana Maria/my data/m.csv", "/home/Ana Maria/run"]
    text = without_folders("manifest: /home/Ana Maria/my data/m.csv\nout: /home/Ana Maria/run\n", paths)
    assert text == "manifest: .../m.csv\nout: .../run\n"


def test_a_picture_is_no_text() -> None:
    uri = "data:image/jpeg;base64,/9j/4AAQ+/ab/cd=="
    assert html_templates().from_string("{{ uri }}").render(uri=uri) == uri


@pytest.mark.parametrize(
    "name",
    [
        "[site](http://evil.example)",
        "![x](http://evil.example/x.png)",
        "<script>alert(1)</script>",
        "**bold** _it_ ~~gone~~ $x$",
        "a | b",
        "`code`",
        "&lt;b&gt;",
        "http://evil.example www.evil.example",
        "line\n# heading\n---",
    ],
)
def test_markdown_in_names_stays_text(name: str) -> None:
    from markdown_it import MarkdownIt

    card = markdown_templates().from_string("Site {{ name }}, and | {{ name }} |").render(name=name)
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card)
    assert "\n" not in card
    assert set(re.findall(r"<(\w+)", shown)) <= {"p"}, shown
    for address in ("http://", "www."):
        assert address not in card, "an address would become a link"


def test_words_of_names_stay_readable_in_markdown() -> None:
    def written(text: str) -> str:
        return markdown_templates().from_string("{{ text }}").render(text=text)

    assert written("prior_mask of 0.812 (95% interval +0.010 to +0.020); hd95_mm") == (
        "prior_mask of 0.812 (95% interval +0.010 to +0.020); hd95_mm"
    )


@pytest.mark.parametrize(("text", "span"), [("m.csv", "`m.csv`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("", "")])
def test_a_code_span_holds_any_name(text: str, span: str) -> None:
    assert code_span(text) == span


def test_names_are_broken_at_separators_alone() -> None:
    assert breakable("logistic_cc200") == "logistic_<wbr>cc200"
    assert breakable("synthetic-a") == "synthetic-a"
    assert breakable("interval of the mean") == "interval of the mean"
    assert breakable("sensorimotor (cerebellum)") == "sensorimotor (cerebellum)"
    assert breakable("f" * 64) == Markup("<wbr>").join(["f" * 32] * 2)
    assert breakable("<b>long/name</b>") == "&lt;b&gt;long/<wbr>name&lt;/<wbr>b&gt;"


def test_a_missing_interval_says_why() -> None:
    assert interval({"low": 0.1, "high": 0.2}) == "0.100 to 0.200"
    assert interval({"low": None, "high": None, "no_interval": "all resamples equal"}) == "none (all resamples equal)"
    assert interval({"low": None, "high": None}) == "–"


def test_a_label_without_a_name_is_called_one() -> None:
    assert (label_title("7102"), label_title("liver"), label_title("3rd")) == ("label 7102", "liver", "3rd")
