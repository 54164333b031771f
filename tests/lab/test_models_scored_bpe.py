"""The fast tokenizer of a scored table encodes as greedy best-score merging does."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bequest.errors import InputError
from lab.models import scored_bpe
from lab.models.scored_bpe import SPACE, Piece, fast_tokenizer, merges_of, read_table

MERGED = (
    "▁▁",
    "▁▁▁",
    "▁▁▁▁",
    "▁a",
    "he",
    "▁t",
    "▁the",
    "aa",
    "aaa",
    "▁aa",
    "re",
    "ere",
    "▁there",
    "▁ü",
    "ab",
    "ba",
)
LETTERS = "▁abehrtü.é"
TEXTS = (
    "there",
    "the there",
    "  the   aaaa",
    "aaaaa ab ba aba",
    "",
    " ",
    "a\nb\tc",
    "naïve: 日本 𝄞 é",
    "früh ere",
    "x" * 5,
)


def table() -> list[tuple[float, bytes]]:
    """Entries as llama2.c stores them: specials, the 256 bytes as characters, merged pieces, single characters."""
    entries = [(0.0, b"<unk>"), (0.0, b"\n<s>\n"), (0.0, b"\n</s>\n")]
    entries += [(0.0, chr(byte).encode()) for byte in range(256)]
    ranks = {piece: -1e9 if set(piece) == {SPACE} else -float(rank) for rank, piece in enumerate(MERGED)}
    ranks.update({letter: -1000.0 - index for index, letter in enumerate(LETTERS)})
    return entries + [(score, piece.replace(SPACE, " ").encode()) for piece, score in ranks.items()]


def as_bytes(entries: list[tuple[float, bytes]]) -> bytes:
    longest = max(len(raw) for _, raw in entries)
    return struct.pack("<i", longest) + b"".join(struct.pack("<fi", score, len(raw)) + raw for score, raw in entries)


def pieces() -> list[Piece]:
    entries = table()
    return read_table(as_bytes(entries), len(entries))


def greedy(table: list[Piece], text: str) -> list[int]:
    """The slow reference: characters or bytes first, then always the best-scored pair of neighbours, leftmost first."""
    ids = {piece.text: number for number, piece in enumerate(table) if number >= scored_bpe.BYTES.stop}
    prepared = SPACE + text.replace(" ", SPACE) if text else ""
    tokens: list[int] = []
    for character in prepared:
        if character in ids:
            tokens.append(ids[character])
        else:
            tokens += [scored_bpe.BYTES.start + byte for byte in character.encode()]
    while True:
        best: tuple[float, int, int] | None = None
        for place in range(len(tokens) - 1):
            joint = ids.get(table[tokens[place]].text + table[tokens[place + 1]].text)
            if joint is not None and (best is None or table[joint].score > best[0]):
                best = (table[joint].score, place, joint)
        if best is None:
            return tokens
        tokens[best[1] : best[1] + 2] = [best[2]]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_encoding_is_greedy_merging_by_score(text: str) -> None:
    known = pieces()
    tokenizer = fast_tokenizer(known)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == greedy(known, text)
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_encoding_is_greedy_merging_on_random_text() -> None:
    known, dice = pieces(), random.Random(0)
    tokenizer = fast_tokenizer(known)
    alphabet = LETTERS.replace(SPACE, "  ") + "\n日"
    for _ in range(500):
        text = "".join(dice.choices(alphabet, k=dice.randint(1, 24)))
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == greedy(known, text), text


def test_merges_in_another_order_encode_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    known = pieces()
    monkeypatch.setattr(scored_bpe, "merges_of", lambda table: merges_of(table)[::-1])
    tokenizer = fast_tokenizer(known)
    different = [
        text for text in TEXTS if tokenizer(text, add_special_tokens=False)["input_ids"] != greedy(known, text)
    ]
    assert different


def test_unknown_characters_become_bytes_and_come_back() -> None:
    tokenizer = fast_tokenizer(pieces())
    ids = tokenizer("日", add_special_tokens=False)["input_ids"]
    assert ids[1:] == [3 + byte for byte in "日".encode()]
    assert tokenizer.decode(ids) == "日"


def test_the_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = fast_tokenizer(pieces())
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "ends inside piece"),
        (lambda data: data[: data.rindex(b"\xc3")], "ends inside piece"),
        (lambda data: data + b"\0", "1 bytes are left"),
        (lambda data: data.replace("ü".encode(), b"\xff\xff"), "not UTF-8"),
    ],
    ids=["short", "very-short", "long", "not-utf8"],
)
def test_a_damaged_table_is_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    entries = table()
    with pytest.raises(InputError, match=message):
        read_table(change(as_bytes(entries)), len(entries))


def test_a_piece_that_stands_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        fast_tokenizer([*pieces(), Piece("he", -5.0)])
