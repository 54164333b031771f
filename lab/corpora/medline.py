"""MEDLINE records: biomedical abstracts of 2021 and of the 1970s, and the task of naming a section's role.

Two files of the National Library of Medicine's XML.  A document is the title and the abstract of an article that has an
abstract; headings of structured abstracts are attributes in the XML and do not enter the text.  The role of a section
(``NlmCategory``) is the class; every article with such a section is labelled whole and so held out of the corpora.

Try it: ``convert(root)`` with the members ``data/pubmed*.xml.gz`` below ``root``.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from bequest.errors import InputError
from lab.kit.documents import Converted, Document, Labelled

FILES = {"biomedical": "data/pubmed21n1298.xml.gz", "biomedical-1970s": "data/pubmed20n0014.xml.gz"}
#: Abstracts of the 1970s have no sections: nine late exceptions are left alone.
LABELLED = "biomedical"
ROLES = ("BACKGROUND", "OBJECTIVE", "METHODS", "RESULTS", "CONCLUSIONS")
#: A section of fewer words than this is a list of names or a number.
FEWEST_WORDS = 5

_HEADING = re.compile(r"^\W*(?:[A-Z][A-Za-z]*(?:[ ,/&-]+[A-Za-z]+){0,5}:|[A-Z]{5,}(?:[ ,/&-]+[A-Z]{2,})*[.:])\s+(?=\S)")
_CUT = re.compile(r"\s*\(?ABSTRACT TRUNCATED[^)]*\)?\.?\s*$")


class _Section(NamedTuple):
    role: str | None
    text: str


class _Article(NamedTuple):
    number: str
    title: str
    sections: tuple[_Section, ...]


def convert(root: Path) -> Converted:
    """Articles as documents (group: the PMID) and the sections of structured abstracts as examples.

    Raises:
        InputError: a file is missing, damaged, not XML, or declares entities.
    """
    corpora: dict[str, list[Document]] = {}
    examples: list[Labelled] = []
    notes: dict[str, Counter[str]] = {}
    for name, member in FILES.items():
        counts = notes[name] = Counter[str]()
        corpora[name] = []
        for article in _articles(root / member):
            counts["articles"] += 1
            if not article.sections:
                counts["dropped, no abstract"] += 1
                continue
            text = "\n\n".join([article.title, *(section.text for section in article.sections)]).strip()
            corpora[name].append(Document(text, article.number))
            if name == LABELLED:
                examples += _examples(article, counts)
    return Converted(
        corpora=corpora, tasks={"section-role": examples}, notes={name: dict(counts) for name, counts in notes.items()}
    )


def _examples(article: _Article, counts: Counter[str]) -> list[Labelled]:
    """The sections with a role, as examples; counts what is left out."""
    with_role = [section for section in article.sections if section.role]
    counts["structured abstracts"] += bool(with_role)
    counts["sections with a role"] += len(with_role)
    kept = [section for section in with_role if len(section.text.split()) >= FEWEST_WORDS]
    counts[f"dropped, section of fewer than {FEWEST_WORDS} words"] += len(with_role) - len(kept)
    return [Labelled(_HEADING.sub("", section.text), section.role or "", article.number) for section in kept]


def _articles(path: Path) -> Iterator[_Article]:
    try:
        refuse_entities(path)
        with gzip.open(path) as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == "PubmedArticle":
                    yield _article(element, path)
                    element.clear()
    except (OSError, EOFError, zlib.error, ElementTree.ParseError, expat.ExpatError) as error:
        raise InputError(f"cannot read the records: {error}", where=path) from error


def _article(element: ElementTree.Element, path: Path) -> _Article:
    number = element.findtext("MedlineCitation/PMID")
    if not number:
        raise InputError("a record without its number", where=path, key="PMID")
    title = _text(element.find("MedlineCitation/Article/ArticleTitle"))
    if title.startswith("[") and title.rstrip(".").endswith("]"):  # translated by the library
        title = title.strip("[].") + "."
    sections = []
    for section in element.iterfind("MedlineCitation/Article/Abstract/AbstractText"):
        text = _CUT.sub("", _text(section))
        role = section.get("NlmCategory")
        if text:
            sections.append(_Section(role if role in ROLES else None, text))
    return _Article(number, title, tuple(sections))


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None else " ".join("".join(element.itertext()).split())


def refuse_entities(path: Path) -> None:
    """Reads compressed XML up to its root element, before which entities would have to be declared.

    A few lines of nested entities can stand for gigabytes of text, so none is accepted.

    Raises:
        InputError: the document type declares an entity.
        xml.parsers.expat.ExpatError: this is no XML.
    """
    reader = expat.ParserCreate()
    begun: list[str] = []

    def refuse(name: str, *_: object) -> None:
        raise InputError("the document type declares an entity", where=path, key=name, remedy="do not use this file")

    reader.EntityDeclHandler = refuse
    reader.StartElementHandler = lambda name, _: begun.append(name)
    with gzip.open(path) as file:
        while not begun:
            data = file.read(2**14)
            reader.Parse(data, not data)
            if not data:
                return
