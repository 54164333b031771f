"""Which tokens of a block belong to one word, for whole-word masking.

WordPiece marks continuations (``##``).  Byte-level BPE (``Ġ``) and SentencePiece-like (``▁``) vocabularies mark the
space before a word: there a token continues the word of the one before when it carries no such mark, begins with a
letter or digit, and the one before ends with one.  Punctuation and special tokens stand alone.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from bequest.errors import InputError


class WordTable:
    """Per id of a vocabulary: can it continue a word, and can it be continued?

    Raises:
        InputError: the tokenizer does not mark where words begin.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise InputError("whole-word masking needs a fast tokenizer", key="whole_word", remedy="set it to false")
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        tokens: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.continues = np.zeros(len(tokens), dtype=bool)
        self.continuable = np.ones(len(tokens), dtype=bool)
        if rules["model"]["type"] == "WordPiece":
            prefix = rules["model"]["continuing_subword_prefix"]
            self.continues[:] = [token.startswith(prefix) and token != prefix for token in tokens]
        else:
            texts = _plain_tokens(tokens, json.dumps(rules.get("pre_tokenizer")) + json.dumps(rules.get("decoder")))
            self.continues[:] = [bool(text) and text[0].isalnum() for text in texts]
            # A space that is a token by itself belongs to the word that follows.
            self.continuable[:] = [bool(text) and (text[-1].isalnum() or text == " ") for text in texts]
        special = list(tokenizer.all_special_ids)
        self.continues[special] = self.continuable[special] = False

    def starts(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each position of a block, shape ``[block]``, begins a word."""
        starts = np.ones(len(ids), dtype=bool)
        starts[1:] = ~(self.continues[ids[1:]] & self.continuable[ids[:-1]])
        return starts


def _plain_tokens(tokens: list[str], rules: str) -> list[str]:
    """Tokens as text, spaces kept; a byte of a multi-byte character counts as a letter."""
    if "ByteLevel" in rules:
        table = _byte_of_character()
        texts = []
        for token in tokens:
            data = bytes(table.get(character, 0) for character in token)
            texts.append("".join(chr(byte) if byte < 128 else "a" for byte in data))
        return texts
    if "Metaspace" in rules or "▁" in rules:
        return [token.replace("▁", " ") for token in tokens]
    raise InputError(
        "this tokenizer does not mark where words begin", key="whole_word", remedy="set whole_word to false"
    )


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
