"""The converters of general text, speeches, scripture and mail, on miniatures in the packages' own formats."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest

from bequest.errors import InputError
from lab.corpora import kjv, mail, sotu, wikitext2
from lab.kit.holding_out import is_chosen

RAW = "\n".join(
    (
        " ",
        " = Robert Doe = ",
        " ",
        ' Robert Doe is a " well @-@ known " actor , born 3 May 1950 – 4 June 1990 ( pages 15 – 18 ) . '
        "He 's paid $ 1 @,@ 500 . ",
        " ",
        " = = Later life = = ",
        " ",
        " W = Wins",
        " = Losses , T = ",
        " Ties ; he didn 't say \" no \" at 7 : 30 — the players ' choice : 2 @.@ 5 ° C . ",
        " ",
        " = Zeno = ",
        " ",
        " A second article . ",
        "",
    )
)


def test_wikitext_is_written_as_people_write() -> None:
    (title, text), (second, other) = list(wikitext2.articles(RAW))
    assert (title, second) == ("Robert Doe", "Zeno")
    assert text.split("\n\n") == [
        "Robert Doe",
        'Robert Doe is a "well-known" actor, born 3 May 1950 – 4 June 1990 (pages 15–18). He\'s paid $1,500.',
        "Later life",
        "W = Wins",
        "Losses, T",
        "Ties; he didn't say \"no\" at 7:30—the players' choice: 2.5°C.",
    ]
    assert other == "Zeno\n\nA second article."
    assert wikitext2.detokenised('" One " , he said ; " two . "') == '"One", he said; "two."'


def test_wikitext_has_one_document_per_article_of_all_parts(tmp_path: Path) -> None:
    folder = tmp_path / wikitext2.FOLDER
    folder.mkdir(parents=True)
    for part in wikitext2.PARTS:
        (folder / f"{part}.raw.gz").write_bytes(gzip.compress(RAW.replace("Zeno", part).encode()))
    documents = wikitext2.convert(tmp_path).corpora["general"]
    assert [document.group for document in documents][1::2] == ["train", "valid", "test"]
    assert documents[1].extra == {"part": "train"} and documents[1].text.startswith("train\n\n")


def test_scripture_is_paragraphs_of_a_chapter_in_order(tmp_path: Path) -> None:
    verses = {
        "Genesis 1:10": "# Tenth [was] good.",
        "Genesis 1:2": "Second.",
        "Genesis 1:1": "First.",
        "1 John 2:1": "# Other.",
    }
    path = tmp_path / kjv.VERSES
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(verses))
    first, other = kjv.convert(tmp_path).corpora["scripture"]
    assert (first.group, first.text) == ("Genesis 1", "First. Second.\n\nTenth was good.")
    assert (other.group, other.text) == ("1 John 2", "Other.")
    path.write_text(json.dumps({"Genesis": "no place"}))
    with pytest.raises(InputError, match="not a book, chapter and verse"):
        kjv.convert(tmp_path)


def test_speeches_lose_what_the_transcript_adds() -> None:
    text = (
        "[Delivered in person before a joint session at 9:05 p.m.]\n\nThe President. Thank you. [Applause] We "
        "[the States] met.\n\nAudience members. U.S.A.!\n\nIt is [trending; White House correction] up [see APP Note], "
        "on 4 March [1817-03-04].\n\n[At this point, someone left.]"
    )
    assert sotu.cleaned(text) == "Thank you. We the States met.\n\nIt is trending up, on 4 March."


def test_passages_are_whole_sentences_of_bounded_length() -> None:
    sentence = "Mr. Smith of the U.S. Navy has said these ten words."
    found = list(sotu.passages(" ".join([sentence] * 30 + ["word " * 130 + "end."] + [sentence] * 5)))
    assert all(sotu.SHORTEST <= len(passage.split()) <= sotu.LONGEST for passage in found)
    assert all(passage.startswith("Mr. Smith") and passage.endswith("words.") for passage in found)
    assert len(found) == 6


@pytest.mark.parametrize(
    "dated",
    ["in 1861", "by 2031", "on March 4", "the 3d of June", "4 July", "the 250th year", "this century", "the '60s",
     "the Thirty-fifth Congress", "the sixties", "our bicentennial"],
)  # fmt: skip
def test_passages_with_a_date_are_no_examples(tmp_path: Path, dated: str) -> None:
    folder = tmp_path / sotu.FOLDER
    folder.mkdir(parents=True)
    years = [year for year in range(1800, 1830) if is_chosen(f"{year}-Doe", sotu.LABELLED)]
    undated = "We have gathered here to speak of trade and peace and of the common good " * 5
    for year in years:
        (folder / f"{year}-Doe-1.txt").write_text(f"{undated} today.\n\n{undated} {dated}.\n\n{undated} tomorrow.")
    converted = sotu.convert(tmp_path)
    texts = [example.text for example in converted.tasks["speech-era"]]
    assert years and len(texts) == 2 * len(years)
    assert not any(dated in text for text in texts)


def test_speeches_know_their_year_and_their_period(tmp_path: Path) -> None:
    folder = tmp_path / sotu.FOLDER
    folder.mkdir(parents=True)
    for name in ("1790-Washington-2", "1790-Washington-10", "1973-Nixon-1", "1945-Roosevelt-2"):
        (folder / f"{name}.txt").write_text(name)
    documents = sotu.convert(tmp_path).corpora["speeches"]
    assert [document.text for document in documents] == ["1790-Washington-2", "1790-Washington-10", "1973-Nixon-1"]
    assert [document.group for document in documents] == ["1790-Washington", "1790-Washington", "1973-Nixon"]
    assert documents[2].extra == {"year": 1973}
    assert [sotu.period(year) for year in (1790, 1849, 1850, 2026)] == ["1790-1849", "1790-1849", "1850-1891", "1970-"]
    (folder / "unnamed.txt").write_text("x")
    with pytest.raises(InputError, match=r"unnamed\.txt"):
        sotu.convert(tmp_path)


HEAD = "From someone@example.org  Thu Aug 22 2002\nReceived: from nowhere\nSubject: {subject}\n{more}\n"


def message(body: str, subject: str = "Hello", more: str = "") -> str:
    return HEAD.format(subject=subject, more=f"{more}\n" if more else "") + body


def test_a_message_keeps_what_its_sender_wrote() -> None:
    body = (
        "On Thursday, someone\n<a@b.org> wrote:\n> a quoted line\n> another\n\nMy answer to zzzz,\nin two lines: see "
        "http://example.org/x?y=1 or write to me@example.org.\n\n=======\n\nAn end.\n-- \nName\nPlace\n"
    )
    assert mail.body_of(message(body)) == "My answer to , in two lines: see or write to .\n\nAn end."
    footer = f"Text.\n\n{'_' * 47}\nSome mailing list\nhttp://lists.example.org/listinfo/some\n"
    assert mail.body_of(message(footer)) == "Text."
    armour = ("-----BEGIN PGP SIGNED MESSAGE-----", "-----BEGIN PGP SIGNATURE-----", "-----END PGP SIGNATURE-----")
    signed = f"{armour[0]}\nHash: SHA1\n\nText.\n{armour[1]}\nabc\n{armour[2]}"
    assert mail.body_of(message(signed)) == "Text."


def test_markup_and_transfer_encodings_are_undone() -> None:
    head = "<html><head><title>t</title><style>s</style></head>"
    page = f"{head}<body><p>Caf&eacute; <b>now</b><p>Next<br>line</body></html>"
    wanted = "Café now\n\nNext line"
    assert mail.body_of(message(page, more="Content-Type: text/html")) == wanted
    assert mail.body_of(message(page)) == wanted  # however it calls itself
    hidden = base64.b64encode(page.encode()).decode()
    more = "Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: base64"
    assert mail.body_of(message(hidden, more=more)) == wanted
    quoted = "Caf=E9 now=\n, here"
    more = "Content-Type: text/plain; charset=no-such-set\nContent-Transfer-Encoding: quoted-printable"
    assert mail.body_of(message(quoted, more=more)) == "Café now, here"
    parts = (
        "--zz\nContent-Type: text/plain\n\nPlain.\n--zz\nContent-Type: text/html\n\n<p>Rich.</p>\n"
        "--zz\nContent-Type: text/plain; name=a.txt\nContent-Disposition: attachment; filename=a.txt\n\nFile.\n--zz--\n"
    )
    assert mail.body_of(message(parts, more="Content-Type: multipart/alternative; boundary=zz")) == "Plain."


def test_threads_join_subjects_and_copies() -> None:
    assert mail.subject_of(message("x", subject="[ILUG] Re: Fwd: A  Question")) == "a question"
    opening = "Dear friend this is the opening of a letter that many have got "
    messages = [
        ("m1", "a question", "one body that nobody else has written in these very words at all"),
        ("m2", "a question", opening + "17"),
        ("m3", "win now 8812", opening + "4"),
        ("m4", "another matter", "nothing to do with any of the others here in this list of messages"),
        ("m5", "", "no subject and a body of its own that stands apart from all the rest"),
        ("m6", "", "no subject either and another body of its own that stands apart from them"),
    ]
    assert mail.threads(messages) == ["m1", "m1", "m1", "m4", "m5", "m6"]


def test_mail_is_labelled_by_thread_as_one_line_of_bounded_length(tmp_path: Path) -> None:
    words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(260)]
    for folder in mail.FOLDERS:
        (tmp_path / "package/data" / folder).mkdir(parents=True)
        for number in range(12):
            text = message(f"{folder}{number * 'x'} " + "\n\n".join(words), subject=f"{folder} {number}")
            (tmp_path / "package/data" / folder / f"{number:05}.abc.json").write_text(json.dumps({"text": text}))
    (tmp_path / "package/data/spam-1/00099.abc.json").write_text(json.dumps({"text": message("Too short.")}))
    converted = mail.convert(tmp_path)
    assert len(converted.corpora["mail"]) == 60
    assert converted.notes["left_out"] == {f"spam: fewer than {mail.SHORTEST} words": 1}
    examples = converted.tasks["spam"]
    assert {example.label for example in examples} == {"ham", "spam"}
    assert all(len(example.text.split()) == mail.LONGEST and "\n" not in example.text for example in examples)
    assert all(example.group.startswith("spam") == (example.label == "spam") for example in examples)
    assert 0 < len(examples) < 60
