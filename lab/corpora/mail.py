"""``mail`` and ``spam``: the messages of the SpamAssassin public corpus (2002), wanted and unwanted.

Of a message only what its sender wrote is kept: headers, attachments, HTML markup, transfer encodings, quoted lines,
signatures, PGP armour, the footers of mailing lists and their sponsors, addresses and links go, because they tell where
a message came from and not what it says.  Messages in other scripts and those of fewer than ``SHORTEST`` words are left
out.  A group is a thread: messages with one subject (without ``Re:`` and list tags), or with one opening (figures
aside), as the copies of a mass mailing have.

``spam``: text -> ``ham`` or ``spam``, the first ``LONGEST`` words as one line, because HTML mail is laid out otherwise
than plain mail.  A share ``LABELLED`` of the threads is labelled; those are not in the corpus.

Try it: ``body_of("Subject: Hello\\n\\nA short message.\\n-- \\nA signature\\n")``.
"""

from __future__ import annotations

import email
import re
from collections import Counter
from collections.abc import Sequence
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from bequest import storage
from bequest.errors import InputError
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.holding_out import is_chosen

FOLDERS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham", "spam-1": "spam", "spam-2": "spam"}
LABELLED = 0.5
SHORTEST, LONGEST = 20, 200  # words
OPENING = 12  # words that make two messages copies of one mailing
OTHER_SCRIPT = 0.05  # share of characters beyond ASCII

_SUBJECT_HEAD = re.compile(r"^\s*(?:(?:re|fwd?|aw)(?:\[\d+\])?\s*:|\[[^\]]{1,40}\]|\([^)]{1,20}\))\s*", re.I)
_ARMOUR = re.compile(
    r"-----BEGIN PGP SIGNED MESSAGE-----\s*(?:Hash:[^\n]*)?"
    r"|-----BEGIN PGP SIGNATURE-----.*?(?:-----END PGP SIGNATURE-----|\Z)",
    re.S,
)
_FOOTERS = re.compile(
    r"^-{3,}[ -]*Yahoo! Groups Sponsor.*?^-{20,}[^\n]*$|^-{20,}\n(?:This sf\.net|Sponsored by|In remembrance).*\Z"
    r"|^To unsubscribe from this group.*\Z|^Your use of Yahoo! Groups.*\Z"
    r"|^_{20,}[ \t]*\n(?:[^\n]*\n){0,8}?[^\n]*(?:mailing list|listinfo|unsubscribe|List-).*\Z"
    r"|^(?:MSN Photos|Join the world|Chat with friends|Get your FREE|Send and receive)[^\n]*\n?[^\n]*$",
    re.S | re.M | re.I,
)
_SIGNATURE = re.compile(r"^--\s?$.*\Z", re.S | re.M)
_QUOTED = re.compile(r"^\s{0,3}(?:[A-Za-z]{1,3})?[>|:]+.*$", re.M)
_ATTRIBUTION = re.compile(
    r"^(?:(?:On|In|At|From|Quoting|\d|>)[^\n]{0,120}\n)?[^\n]{0,120}\b(?:wrote|writes|said|schrieb)\s*:?[ \t]*$", re.M
)
_HEADER_LINE = re.compile(r"^\s*(?:URL|Date|From|To|Cc|Sent|Subject|Message|Reply-To)\s*:[^\n]*$", re.M | re.I)
_BOUNDARY = re.compile(r"^--[\w=.-]{8,}$", re.M)  # of parts, in messages that declare none
_ADDRESS = re.compile(
    r"<?\b[\w.+=-]+@[\w.-]+\w>?|<?\b(?:https?|ftp|mailto|url):\s?/{0,2}[^\s>\"]+>?|\bwww\.[^\s>\"]+", re.I
)
_PLACEHOLDER = re.compile(r"\b(?:zzzz+|yyyy+)\w*\b", re.I)  # put in the recipient's place by the corpus's makers
_BLOCKS = {
    "p",
    "br",
    "div",
    "tr",
    "td",
    "th",
    "li",
    "ul",
    "ol",
    "table",
    "h1",
    "h2",
    "h3",
    "h4",
    "center",
    "blockquote",
    "hr",
}
_UNSEEN = {"script", "style", "title", "head"}


def convert(root: Path) -> Converted:
    """Read the messages below ``root``.

    Raises:
        InputError: a folder or a message's text is missing.
    """
    kept: list[tuple[str, str, str, str]] = []  # label, name, subject, body
    left_out: Counter[str] = Counter()
    for folder, label in FOLDERS.items():
        files = sorted((root / "package/data" / folder).glob("*.json"))
        if not files:
            raise InputError("has no messages", where=folder)
        for path in files:
            record = storage.read_json(path)
            if not isinstance(record.get("text"), str):
                raise InputError("has no text", where=f"{folder}/{path.name}", key="text")
            subject, body = subject_of(record["text"]), body_of(record["text"])
            if reason := _unfit(body):
                left_out[f"{label}: {reason}"] += 1
            else:
                kept.append((label, f"{folder}/{path.stem.split('.')[0]}", subject, body))
    groups = threads([(name, subject, body) for _, name, subject, body in kept])
    documents, examples = [], []
    for (label, name, _, body), group in zip(kept, groups, strict=True):
        documents.append(Document(body, group, {"message": name}))
        if is_chosen(group, LABELLED):
            examples.append(Labelled(" ".join(body.split()[:LONGEST]), label, group))
    return Converted(
        corpora={"mail": documents},
        tasks={"spam": examples},
        notes={"left_out": dict(sorted(left_out.items())), "threads": len(set(groups)), "labelled_share": LABELLED},
        marks={"spam": (r"(\S+@\S+|https?:|www\.)", r"([<>|]{1,3})", r"(wrote:|unsubscribe|mailing list)")},
    )


def subject_of(source: str) -> str:
    """A message's subject without ``Re:``, ``Fwd:`` and list tags, in lower case."""
    subject = " ".join(str(_parsed(source).get("Subject", "")).split())
    while (shorter := _SUBJECT_HEAD.sub("", subject, count=1)) != subject:
        subject = shorter
    return subject.casefold().strip()


def body_of(source: str) -> str:
    """What the sender wrote, in paragraphs."""
    text = (
        _readable(_parsed(source)).replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ").replace("\ufffd", "")
    )
    for pattern in (_ARMOUR, _FOOTERS, _SIGNATURE, _ATTRIBUTION, _QUOTED, _HEADER_LINE, _BOUNDARY):
        text = pattern.sub("", text)
    text = _PLACEHOLDER.sub("", _ADDRESS.sub("", text))
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        # A line without a letter or figure is a rule or an ornament.
        lines = [line for line in block.split("\n") if any(character.isalnum() for character in line)]
        if paragraph := " ".join(" ".join(lines).split()):
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def threads(messages: Sequence[tuple[str, str, str]]) -> list[str]:
    """The group of each message, given as name, subject and body: the name of the first message of its thread.

    A subject and an opening join the messages that share them, and whatever those are joined to.
    """
    leader = {name: name for name, _, _ in messages}
    position = {name: number for number, (name, _, _) in enumerate(messages)}
    first_with: dict[tuple[str, str], str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    for name, subject, body in messages:
        opening = " ".join(re.sub(r"[^a-z ]", "", body.casefold()).split()[:OPENING])
        for key in (("subject", subject), ("opening", opening)):
            if key[1]:
                pair = find(name), find(first_with.setdefault(key, name))
                leader[max(pair, key=position.__getitem__)] = min(pair, key=position.__getitem__)
    return [find(name) for name, _, _ in messages]


def _unfit(body: str) -> str | None:
    if len(body.split()) < SHORTEST:
        return f"fewer than {SHORTEST} words"
    if sum(ord(character) > 127 for character in body) > OTHER_SCRIPT * len(body):
        return "another script"
    return None


def _parsed(source: str) -> Message:
    """A message with its headers; the line that mail folders put before each message is not one."""
    return email.message_from_string(re.sub(r"\A>?From [^\n]*\n", "", source))


def _readable(message: Message) -> str:
    """The plain text of a message, else its HTML as text; attachments do not count."""
    plain: list[str] = []
    marked: list[str] = []
    for part in message.walk():
        if part.is_multipart() or part.get_filename() or part.get_content_maintype() != "text":
            continue
        (marked if part.get_content_subtype() == "html" else plain).append(_decoded(part))
    text = "\n\n".join(plain)
    if not text.strip():
        text = "\n\n".join(marked)
    # Mass mailers send HTML under any name.
    return _without_markup(text) if re.search(r"<(?:html|body|table|font|p|br|a|div)\b[^>]*>", text, re.I) else text


def _decoded(part: Message) -> str:
    """A part's text; what the transfer encoding hides is decoded, what the character set cannot say is dropped."""
    payload = part.get_payload()
    if str(part.get("Content-Transfer-Encoding", "")).strip().lower() not in ("base64", "quoted-printable"):
        return payload if isinstance(payload, str) else ""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        return data.decode(part.get_content_charset() or "latin-1", errors="ignore")
    except LookupError:
        return data.decode("latin-1")


class _Text(HTMLParser):
    """Gathers what a reader of an HTML page would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block begins a new paragraph."""
        if tag in _UNSEEN:
            self.unseen += 1
        elif tag == "body":
            self.unseen = 0
        elif tag in _BLOCKS:
            self.pieces.append("\n\n" if tag in ("p", "tr", "table", "div") else "\n")

    def handle_endtag(self, tag: str) -> None:
        """What cannot be seen ends; pages forget to say so, hence no count below nothing."""
        if tag in _UNSEEN:
            self.unseen = max(0, self.unseen - 1)

    def handle_data(self, data: str) -> None:
        """Text, when it can be seen."""
        if not self.unseen:
            self.pieces.append(data)


def _without_markup(text: str) -> str:
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.pieces)
