"""A tokenizer out of a table of scored pieces: SentencePiece's BPE as a fast tokenizer of Hugging Face.

llama2.c writes its tokenizer as a table: the longest piece's length (int32), then for every piece its score (float32),
its length in bytes (int32) and its bytes, with spaces where SentencePiece has ``▁``.  Encoding starts from characters
and always merges the neighbours whose joint piece has the best score, the leftmost first; a character that is no piece
becomes its UTF-8 bytes, which are the pieces 3 to 258.

A fast tokenizer wants that as a list of merges in the order of preference: for every piece, each way to split it into
two pieces.  The splits of one piece (and pieces of one score) are tried with the longer left part first: so a run of
equal characters is eaten from the left, as the leftmost-first rule does it.

Try it: ``fast_tokenizer(read_table(data, 32000)).encode("Once upon a time")``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bequest.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIALS = (UNKNOWN, BEGIN, END)
BYTES = range(len(SPECIALS), len(SPECIALS) + 256)
SPACE = "▁"
ENTRY = struct.Struct("<fi")
LONGEST = struct.Struct("<i")


class Piece(NamedTuple):
    """One entry: its text (spaces as ``▁``; a byte as ``<0x41>``) and its score, higher is merged earlier."""

    text: str
    score: float


def read_table(data: bytes, vocabulary: int) -> list[Piece]:
    """The pieces of a tokenizer table that takes all of ``data``, by id.

    Raises:
        InputError: the table is cut short, too long, or a piece is not UTF-8.
    """
    where = "tokenizer table"
    pieces: list[Piece] = []
    at = LONGEST.size
    for number in range(vocabulary):
        if len(data) < at + ENTRY.size:
            raise InputError(f"it ends before piece {number} of {vocabulary}", where=where)
        score, length = ENTRY.unpack_from(data, at)
        raw = data[at + ENTRY.size : at + ENTRY.size + length]
        at += ENTRY.size + length
        if length < 0 or len(data) < at:
            raise InputError(f"it ends inside piece {number} of {vocabulary}", where=where)
        try:
            pieces.append(Piece(_text(number, raw), score))
        except UnicodeDecodeError:
            raise InputError(f"piece {number} is not UTF-8", where=where) from None
    if at != len(data):
        raise InputError(f"{len(data) - at} bytes are left after {vocabulary} pieces", where=where)
    return pieces


def _text(number: int, raw: bytes) -> str:
    """The first ids are what they are by their place, whatever the table writes for them."""
    if number < len(SPECIALS):
        return SPECIALS[number]
    if number in BYTES:
        return f"<0x{number - BYTES.start:02X}>"
    return raw.decode("utf-8").replace(" ", SPACE)


def merges_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every split of every piece into two pieces, the best score first, the longer left part first."""
    scores = {piece.text: piece.score for piece in pieces[BYTES.stop :]}
    splits = [
        (-score, cut, text)
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    return [(text[:cut], text[cut:]) for _, cut, text in sorted(splits, key=lambda split: (split[0], -split[1]))]


def fast_tokenizer(pieces: Sequence[Piece]) -> PreTrainedTokenizerFast:
    """The tokenizer: ``<s>`` before every text, a space before its first word, unknown characters as bytes.

    Raises:
        InputError: a piece stands twice in the table.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise InputError("a piece stands there twice", where="tokenizer table")
    merges = merges_of(pieces)
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    inner.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
