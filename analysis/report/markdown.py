"""Markdown -> HTML as a page shows it: formulas are MathML, links lead where the page can follow.

MathML is drawn by the browser itself: it needs no script, no font and no host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

Link = Callable[[str], str | None]


class _Renderer(IPythonRenderer):
    """nbconvert's, with formulas, headings and links of our own. link: the address of a page for
    one in the source, None where there is nothing to follow."""

    def __init__(self, link: Link, **options: Any) -> None:
        super().__init__(escape=False, embed_images=True, **options)
        self.follow = link

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def heading(self, text: str, level: int, **_: Any) -> str:
        """Its id is its text in small letters, as the links within the project's pages have it."""
        said = re.sub(r"<[^>]+>|[^\w\s-]", "", text).strip().lower()
        name = re.sub(r"\s+", "-", said)
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def _html_embed_images(self, html: str) -> str:
        """Pictures alone are touched: the piece of HTML may begin an element that ends later."""

        def embedded(match: re.Match[str]) -> str:
            return match[1] + (self._src_to_base64(match[2]) or match[2])

        return re.sub(r'(<img\b[^>]*?\bsrc=")([^"]+)', embedded, html)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        to = self.follow(url)
        return text if to is None else super().link(text, to, title)


def to_html(source: str, link: Link, path: str = "", attachments: Any = None) -> str:
    """The HTML of a Markdown text, whose own pictures lie below `path`."""
    renderer = _Renderer(link, path=path, attachments=attachments or {})
    return MarkdownWithMath(renderer=renderer).render(source)


def mathml(latex: str, display: str) -> str:
    """A formula as MathML, `inline` or `block`; one that cannot be read stands as it was typed."""
    source = latex.strip()
    if display == "block":  # as TeX sets them there: what they run over stands below
        source = re.sub(r"\\(max|min|sum|prod)_", r"\\\1\\limits_", source)
    try:
        return convert(source, display=display)
    except Exception:  # of a dozen classes without a common one: the text is the sentence
        return f"<code>{escape(latex)}</code>"
