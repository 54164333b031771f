"""Manuals of the Linux kernel: the prose paragraphs of the documentation's pages.

The pages are Sphinx's HTML.  What is kept are paragraphs and list items of the article: no navigation, no code, tables,
figures or signatures, no translation and no page that a program listed.

Try it: ``convert(root)`` with the members ``usr/share/doc/linux-doc-6.1/html/*.html`` below ``root``.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from bequest.errors import InputError
from lab.kit.documents import Converted, Document

#: A paragraph of fewer words than this is a remark or a field of a form.
FEWEST_WORDS = 8
#: A page with fewer words of prose than this is a table of contents.
FEWEST_WORDS_OF_A_PAGE = 40

#: Pages (below ``html/``) that are lists made by a program, or not English.
_NOT_PROSE = re.compile(
    r"translations/|_static/|_sources/|genindex|search\.html|admin-guide/(?:abi|kernel-parameters|devices)"
    r"|process/maintainers"
)
_ARTICLE, _END = '<div itemprop="articleBody">', "<footer>"
_VOID = {"br", "hr", "img", "input", "link", "meta", "wbr", "col", "area", "source"}
_LEFT_OUT_TAGS = {
    "pre",
    "table",
    "nav",
    "script",
    "style",
    "footer",
    "figure",
    "svg",
    "math",
    "dt",
    "h1",
    "h2",
    "h3",
    "h4",
}
_LEFT_OUT_CLASSES = re.compile(
    r"(?<![\w-])(?:headerlink|toctree-wrapper|admonition-title|contents|sidebar|field-list|footnote|line-block|math|caption"
    r"|c (?:function|struct|macro|enum|type|union|member|var))(?![\w-])"
)


def convert(root: Path) -> Converted:
    """Pages as documents; a group is a page.

    Raises:
        InputError: there are no pages, or one cannot be read.
    """
    # The package's name holds the kernel's version, which another release of the registry may raise.
    directories = sorted((root / "usr/share/doc").glob("linux-doc-*/html"))
    if len(directories) != 1:
        raise InputError("holds no directory of pages", where=root, key="usr/share/doc/linux-doc-*/html")
    documents, listed, short = [], 0, 0
    for path in sorted(directories[0].rglob("*.html")):
        page = path.relative_to(directories[0]).as_posix()
        if _NOT_PROSE.match(page):
            listed += 1
            continue
        text = "\n\n".join(_paragraphs(path))
        if len(text.split()) < FEWEST_WORDS_OF_A_PAGE:
            short += 1
            continue
        documents.append(Document(text, page))
    return Converted(
        corpora={"manuals": documents},
        tasks={},
        notes={"dropped, lists and translations": listed, "dropped, hardly any prose": short},
    )


def _paragraphs(path: Path) -> list[str]:
    try:
        page = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot read a page: {error.strerror}", where=path) from error
    reader = _Reader()
    reader.feed(page.partition(_ARTICLE)[2].partition(_END)[0])
    reader.close()
    return [text for text in reader.paragraphs if _is_prose(text)]


def _is_prose(text: str) -> bool:
    """A sentence: some words, mostly of letters, that end as sentences do."""
    words = text.split()
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(words) >= FEWEST_WORDS and letters >= 0.8 * len(text) and text[-1] in ".!?:;)\"'"


class _Reader(HTMLParser):
    """Collects the text of ``<p>`` elements that stand in nothing that is left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._open: list[tuple[str, bool]] = []  # each open tag and whether it is left out
        self._left_out = 0
        self._parts: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens an element; nothing inside an element that is left out is kept."""
        if tag == "br":
            self.handle_data(" ")
        if tag in _VOID:
            return
        classes = " ".join(value or "" for name, value in attrs if name == "class")
        is_out = tag in _LEFT_OUT_TAGS or bool(_LEFT_OUT_CLASSES.search(classes))
        self._open.append((tag, is_out))
        self._left_out += is_out
        if tag == "p" and not self._left_out:
            self._parts = []

    def handle_endtag(self, tag: str) -> None:
        """Closes the element and those left open inside it; the end of a paragraph keeps its text."""
        if tag not in [name for name, _ in self._open]:
            return
        while self._open:
            name, is_out = self._open.pop()
            self._left_out -= is_out
            if name == tag:
                break
        if tag == "p" and self._parts is not None:
            self.paragraphs.append(" ".join("".join(self._parts).split()))
            self._parts = None

    def handle_data(self, data: str) -> None:
        """Text of the page."""
        if self._parts is not None and not self._left_out:
            self._parts.append(data)
