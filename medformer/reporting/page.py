"""One offline page: its headings, its contents, and the style and script inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeVar

from markupsafe import Markup

from medformer.reporting.wording import html_templates, source


class Titled(Protocol):
    """A part of a page."""

    @property
    def key(self) -> str:
        """Its id in the page."""

    @property
    def title(self) -> str:
        """Its heading."""


class Heading(NamedTuple):
    """A part of a page by its id and heading."""

    key: str
    title: str


Part = TypeVar("Part", bound=Titled)


def render_page(title: str, sections: Mapping[Part, Markup], *, version: str, when: str, shared: bool = False) -> str:
    """Return a page as HTML.

    Args:
        title: Its heading.
        sections: In reading order.
        version: Of medformer.
        when: When it was made, or of what it is.
        shared: Whether it is a copy without names and pictures.
    """
    templates = html_templates()
    script = source(templates, "report.js")
    return templates.get_template("report.html.j2").render(
        title=title,
        shared=shared,
        version=version,
        when=when,
        style=source(templates, "report.css"),
        script=script,
        # Not text: its slashes are none of a path.
        script_sha256=Markup(b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")),
        sections=sections,
    )
