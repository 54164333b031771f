"""The Collaborative International Dictionary of English: a corpus of definitions, and the task of naming their field.

The field stands as an abbreviation in parentheses, ``(Bot.)``, before the senses that it holds for.  These marks become
the classes and are taken out of every text, and so are pronunciation, part of speech, etymology, quotations, lists of
synonyms, usage labels such as ``[Obs.]`` and the source in brackets, ``[1913 Webster]``.

Try it: ``convert(root)`` with the members ``usr/share/dictd/gcide.*`` below ``root``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from bequest.data.splitting import group_digest
from lab.corpora import dictd
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.holding_out import CHOICE_SEED

#: Fields that may become classes, by the abbreviation that the dictionary prints.
FIELDS = {
    **{"Zool": "zoology", "Bot": "botany", "Chem": "chemistry", "Med": "medicine", "Anat": "anatomy"},
    **{"Naut": "nautical", "Min": "mineralogy", "Biol": "biology", "Mus": "music", "Arch": "architecture"},
    **{"Mil": "military", "Physiol": "physiology", "Math": "mathematics", "Astron": "astronomy", "Geol": "geology"},
}
#: How many fields become classes, the most frequent first.
CLASSES = 8
#: Examples of one class at most: more would take too many entries out of the corpus.
MOST = 900
#: A definition of fewer words than this is a cross reference.
FEWEST_WORDS = 6

#: Parentheses of capitalised words, the last of them an abbreviation; or one of the fields printed in full.
_FIELD = re.compile(
    r"\((?:(?:[A-Z][\w'-]*\.?|[A-Z]\.|&|and|of|or|in|the)[ ,;]*){0,6}(?:[A-Z][\w'-]*\.|Law|Music|Physics|Mining|Cookery"
    r"|Medicine|Football|Baseball|Games?|Golf|Billiards|Chess|Cricket|Photography|Botany|Chemistry|Zoology|Economics"
    rf"|Computers?|Biology|Anatomy|Linguistics|Grammar)\s*\)|\((?i:{'|'.join(FIELDS)})\.\)"
)
_SENSE = re.compile(r"^\d{1,3}\.\s*")
_PART = re.compile(r"(?:^|\s)\([a-z]\)\s")
_ATTRIBUTION = re.compile(r'\s*--\s?(?:[A-Z]|\()[^;{}"]{0,60}$|(?<=[.?!"\]])\s*--\s?[A-Z][\w.\' &]{0,40}?\.(?=\s|$)')
#: The next headword, which a slip of the conversion leaves behind a definition.
_STRAY = re.compile(r"(?<=[.)])(?:\s+[A-Z][\w'-]*){1,3}$")
_BEFORE = re.compile(r"^(?:(?:pl|sing|n|a|adv|v\. t|v\. i)\.\s+(?:&\s+)?)+")
_DERIVED = re.compile(r"\s*--\s*\{.*$")
_PART_OF_SPEECH = re.compile(
    r"(?:(?:n|a|v|t|i|p|pr|L|F|E|G|vb|adj|adv|prep|conj|interj|pron|imp|pl|sing|superl|compar|obs|collect|fem|masc|prop"
    r"|pref|suff|prefix|suffix|comb|form|archaic|usually|ppr|Obs|Pl|indef|def|art|Prov|Eng|Scot|auxiliary)\."
    r"|(?:or|and|also|rarely|adj|adv|prop|comb|form|plural|singular|prefix|suffix)\b|&)"
)
_PRONOUNCED = re.compile(r"\([^()]*[\[\"`*?;&][^()]*\)|\([^()A-Z]{1,25}\)")
_MARKS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ",": "\u0327"}
_LETTERS = {
    "ae": "æ",
    "AE": "Æ",
    "oe": "œ",
    "OE": "Œ",
    "deg": "°",
    "frac12": "½",
    "pound": "£",
    "eth": "ð",
    "thorn": "þ",
}
_SIGN = re.compile(
    rf"\[(?:(?P<mark>[{re.escape(''.join(_MARKS))}])(?P<letter>[A-Za-z])|(?P<name>{'|'.join(_LETTERS)}))\]"
)
_BRACKETED = re.compile(r"\[[^\[\]]*\]")


def convert(root: Path) -> Converted:
    """Entries as documents (group: the headword, whatever its case) and definitions of one frequent field as examples.

    Raises:
        InputError: the dictionary is missing or damaged.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    marked: list[tuple[str, str, str]] = []
    definitions = 0
    for entry in dictd.entries(root / "usr/share/dictd", "gcide"):
        headword, senses = _read(entry)
        kept = [(field, text) for field, text in senses if len(text.split()) >= FEWEST_WORDS]
        definitions += len(senses)
        if not headword or not kept:
            continue
        group = headword.casefold()
        texts[group].append(f"{headword}: " + "\n\n".join(text for _, text in kept))
        marked += [(FIELDS[field], f"{headword}: {text}", group) for field, text in kept if field in FIELDS]
    counts = Counter(label for label, _, _ in marked)
    classes = sorted(sorted(counts, key=lambda label: (-counts[label], label))[:CLASSES])
    examples = []
    for label in classes:
        members = [Labelled(text, label, group) for name, text, group in marked if name == label]
        examples += sorted(members, key=lambda example: (group_digest(example.group, CHOICE_SEED), example.text))[:MOST]
    return Converted(
        corpora={"dictionary": [Document("\n\n".join(parts), group) for group, parts in sorted(texts.items())]},
        tasks={"dictionary-field": examples},
        notes={
            "definitions": definitions,
            "definitions with a field": dict(sorted(counts.items())),
            "dictionary-field": f"{MOST} definitions of each class at most, by hash of the headword",
        },
    )


def _read(entry: str) -> tuple[str, list[tuple[str | None, str]]]:
    """The headword, and of each sense its only field (abbreviation without the stop) and its text."""
    blocks = dictd.paragraphs(_SIGN.sub(_sign, entry))
    if not blocks:
        return "", []
    first = blocks[0][1]
    headword, _, rest = first.partition("\\")
    rest = rest.rpartition("\\")[2]
    marks, body = _after_header(rest)
    senses: list[tuple[str | None, str]] = []
    for indentation, block in [(3, body), *blocks[1:]]:
        if indentation >= 9 or block.startswith("Syn:"):  # quotations and synonyms
            continue
        numbered = _SENSE.sub("", block)
        held = list(marks)
        for part in _PART.split(numbered):
            own = [match.group() for match in _FIELD.finditer(part)]
            if own and part is not None and part.lstrip().startswith(own[0]):
                held = own[:1]
            field = _field(own or held)
            text = _plain(part)
            if re.search(r"[A-Za-z]{2}", text):
                senses.append((field, text))
    return " ".join(headword.split()), senses


def _after_header(text: str) -> tuple[list[str], str]:
    """Field marks of the header and what follows it: pronunciation, part of speech and etymology are passed over."""
    marks = []
    while True:
        text = text.lstrip(" ,;:.")
        if match := _FIELD.match(text):
            marks.append(match.group())
        elif text.startswith("["):
            text = _skip_brackets(text)
            continue
        else:
            match = _PRONOUNCED.match(text) or _PART_OF_SPEECH.match(text) or re.match(r"\{[^{}]*\}", text)
        if not match:
            return marks, text
        text = text[match.end() :]


def _skip_brackets(text: str) -> str:
    depth = 0
    for place, sign in enumerate(text):
        depth += {"[": 1, "]": -1}.get(sign, 0)
        if depth == 0:
            return text[place + 1 :]
    return ""


def _field(marks: list[str]) -> str | None:
    """The one field that the marks name, or none where they name several."""
    named = {mark.strip("()").rstrip(".") for mark in marks}
    return named.pop() if len(named) == 1 else None


def _sign(match: re.Match[str]) -> str:
    if match["name"]:
        return _LETTERS[match["name"]]
    return unicodedata.normalize("NFC", match["letter"] + _MARKS[match["mark"]])


def _plain(text: str) -> str:
    plain, before = text, ""
    while plain != before:  # brackets within brackets
        plain, before = _BRACKETED.sub(" ", plain), plain
    plain = _FIELD.sub(" ", plain.replace("[", " ").replace("]", " "))
    plain = _ATTRIBUTION.sub("", " ".join(plain.split()))
    plain = _DERIVED.sub("", plain).replace("{", "").replace("}", "")
    plain = _BEFORE.sub("", _STRAY.sub("", re.sub(r"\(\s*\)", "", plain).strip(" ,;:-")))
    return re.sub(r"\s+([.,;:])", r"\1", " ".join(plain.split()))
