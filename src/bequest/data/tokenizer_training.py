"""Training a tokenizer when a base starts from nothing, and the digest by which tokenizers are compared.

Byte-level BPE (GPT-2's alphabet and splitting) for decoders and RoBERTa; WordPiece (BERT's normalisation and splitting)
for BERT, DistilBERT and ELECTRA.  Both by the ``tokenizers`` library, on the training side of the corpora only.

Try it: ``train_tokenizer("byte-bpe", [open_corpus("python", CorpusSpec(demo="python"), Path.cwd())], 4096)``.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import storage
from bequest.anatomy.families import family_named, objective_of
from bequest.anatomy.table import Family
from bequest.data.corpora import Corpus
from bequest.data.splitting import is_held_out
from bequest.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KINDS = ("byte-bpe", "wordpiece")
#: A tokenizer is trained on at most this many bytes of text: word counts hardly change after that.
TRAINING_BYTES = 2**30

#: The characters that WordPiece keeps: an eighth of the vocabulary within these bounds; rarer ones become [UNK].
LEAST_CHARACTERS, MOST_CHARACTERS = 64, 1000

#: Special tokens by role, in the order of their ids.
CAUSAL = {"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"}
ROBERTA = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(
    kind: str,
    corpora: Sequence[Corpus],
    vocab_size: int,
    directory: Path | None = None,
    *,
    family: str | None = None,
    seed: int = 0,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer; the same text gives the same tokenizer.

    Args:
        kind: ``byte-bpe`` or ``wordpiece``.
        corpora: read one after the other, training side only.
        vocab_size: the number of ids, special tokens included.
        directory: where to save it, whole or not at all; not saved by default.
        family: the family of the model it is for; decides the special tokens (decoders: ``<|endoftext|>`` and
            ``<|padding|>``; RoBERTa's or BERT's for the encoders) and whether there are token types.
            By default: a decoder for ``byte-bpe``, BERT for ``wordpiece``.
        seed: of the held-out split.

    Raises:
        InputError: unknown kind, a vocabulary too small for the alphabet, or WordPiece for a decoder.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}", key="tokenizer.kind", remedy=did_you_mean(kind, KINDS))
    record = family_named(family or ("llama" if kind == "byte-bpe" else "bert"))
    if kind == "wordpiece" and objective_of(record) != "masked-lm":
        what = f"wordpiece does not suit {record.name}"
        raise InputError(what, key="tokenizer.kind", remedy="use byte-bpe for decoders")
    tokenizer = (
        _byte_bpe(corpora, vocab_size, record, seed)
        if kind == "byte-bpe"
        else _wordpiece(corpora, vocab_size, record, seed)
    )
    if directory is not None:
        with storage.atomic_directory(directory) as temporary:
            tokenizer.save_pretrained(temporary)
    return tokenizer


def _texts(corpora: Sequence[Corpus], seed: int) -> Iterator[str]:
    left = TRAINING_BYTES
    for corpus in corpora:
        for document in corpus.documents():
            if not is_held_out(document.group, corpus.spec.held_out, seed):
                yield document.text
                left -= len(document.text)
                if left <= 0:
                    return


def _byte_bpe(corpora: Sequence[Corpus], vocab_size: int, family: Family, seed: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    masked = objective_of(family) == "masked-lm"
    specials = dict(ROBERTA if masked else CAUSAL)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size(vocab_size, len(specials) + len(alphabet))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials.values()),
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(corpora, seed), trainer)
    if masked:
        specials |= {"cls_token": "<s>", "sep_token": "</s>"}
        ids = {token: number for number, token in enumerate(ROBERTA.values())}  # special tokens come first
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    else:
        specials |= {"bos_token": CAUSAL["eos_token"], "unk_token": CAUSAL["eos_token"]}
    return _wrapped(tokenizer, specials, typed=False)


def _wordpiece(corpora: Sequence[Corpus], vocab_size: int, family: Family, seed: int) -> PreTrainedTokenizerFast:
    """WordPiece.  The trainer of ``tokenizers`` numbers ``##x`` (and breaks ties among rare characters) in the order of
    a randomly seeded hash map, so two runs differ; given the alphabet and every ``##x`` beforehand it cannot.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    characters = max(LEAST_CHARACTERS, min(MOST_CHARACTERS, vocab_size // 8))
    _check_size(vocab_size, len(BERT) + 2 * LEAST_CHARACTERS)
    tokenizer = Tokenizer(models.WordPiece(unk_token=BERT["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    counts: Counter[str] = Counter()
    for text in _texts(corpora, seed):
        counts.update(tokenizer.normalizer.normalize_str(text))
    common = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))[:characters]
    alphabet = sorted(common)
    seeds = [*BERT.values(), *(f"##{character}" for character in alphabet if not _stands_alone(character))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=seeds,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(corpora, seed), trainer)
    # The seeds were "special" only to be numbered first: of the finished tokenizer only BERT's own are.
    finished = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=BERT["unk_token"]))
    finished.normalizer, finished.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    finished.decoder = tokenizer.decoder
    finished.add_special_tokens(list(BERT.values()))
    finished.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, finished.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return _wrapped(finished, dict(BERT), typed=family.typed)


def _stands_alone(character: str) -> bool:
    """Whether BERT's splitting makes the character a word of its own, so that it never continues one."""
    if character.isascii():
        return not character.isalnum()
    return unicodedata.category(character).startswith("P") or 0x4E00 <= ord(character) <= 0x9FFF


def _check_size(vocab_size: int, least: int) -> None:
    if vocab_size <= least:
        raise InputError(
            f"{vocab_size} leaves no room beside the alphabet and special tokens",
            key="tokenizer.vocab_size",
            remedy=f"take more than {least}",
        )


def _wrapped(tokenizer: Any, specials: dict[str, str], *, typed: bool) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    names = ["input_ids", "token_type_ids", "attention_mask"] if typed else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, clean_up_tokenization_spaces=False, **specials
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what turns text into ids: vocabulary, merges, normaliser, pre-tokeniser, added and special tokens.

    Two tokenizers with equal digests give equal ids; padding, truncation and templates are no part of it.
    """
    roles = tokenizer.special_tokens_map
    specials = {role: str(token) for role, token in sorted(roles.items()) if role != "pad_token"}
    if not tokenizer.is_fast:
        return storage.value_digest(
            {"vocabulary": tokenizer.get_vocab(), "specials": specials, "class": type(tokenizer).__name__}
        )
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {key: rules.get(key) for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
    return storage.value_digest({**parts, "specials": specials})
