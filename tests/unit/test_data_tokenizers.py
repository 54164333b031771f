"""Trained tokenizers: the same everywhere, loadable without bequest, with the special tokens their family wants."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bequest.data.corpora import Corpus, open_corpus
from bequest.data.specs import CorpusSpec
from bequest.data.tokenizer_training import tokenizer_digest, train_tokenizer
from bequest.errors import InputError

SENTENCE = "The Größe of  two arrays\n\tis x = 3.14, isn't it? <|endoftext|> 漢字"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus("networkx", CorpusSpec(demo="networkx"), Path.cwd())


KINDS = [("byte-bpe", "llama"), ("byte-bpe", "roberta"), ("wordpiece", "bert"), ("wordpiece", "distilbert")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def trained(request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind, family = request.param
    directory = tmp_path_factory.mktemp("trained") / "tokenizer"
    return kind, family, train_tokenizer(kind, [corpus], 1000, directory, family=family), directory


def test_training_is_deterministic_across_processes(trained: Any) -> None:
    kind, family, tokenizer, _ = trained
    code = (
        "import sys; from pathlib import Path\n"
        "from bequest.data.corpora import open_corpus; from bequest.data.specs import CorpusSpec\n"
        "from bequest.data.tokenizer_training import tokenizer_digest, train_tokenizer\n"
        "corpus = open_corpus('n', CorpusSpec(demo='networkx'), Path.cwd())\n"
        "print(tokenizer_digest(train_tokenizer(sys.argv[1], [corpus], 1000, family=sys.argv[2])))"
    )
    found = subprocess.run([sys.executable, "-c", code, kind, family], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == tokenizer_digest(tokenizer)


def test_a_saved_tokenizer_loads_as_what_it_was(trained: Any, tmp_path: Path) -> None:
    """As users load it: AutoTokenizer, beside a config of its family, in a process without bequest."""
    _, family, tokenizer, directory = trained
    for name in directory.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    code = (
        "import sys; sys.modules['bequest'] = None\n"
        "from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(t(sys.argv[2])['input_ids'], t(sys.argv[2], 'pair')['input_ids'], sorted(t.special_tokens_map.items()),"
        " list(t('a').keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), SENTENCE], check=True, capture_output=True, text=True
    )
    wanted = (
        f"{tokenizer(SENTENCE)['input_ids']} {tokenizer(SENTENCE, 'pair')['input_ids']} "
        f"{sorted(tokenizer.special_tokens_map.items())} {list(tokenizer('a').keys())}"
    )
    assert found.stdout.strip() == wanted


def test_the_digest_survives_saving_and_sees_every_change(trained: Any) -> None:
    from transformers import AutoTokenizer

    *_, tokenizer, directory = trained
    loaded = AutoTokenizer.from_pretrained(directory)
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    loaded("warm up", truncation=True, max_length=5, padding="max_length")  # leaves its mark in the backend
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    loaded.add_tokens(["bequest"])
    assert tokenizer_digest(loaded) != tokenizer_digest(tokenizer)


def test_special_tokens_suit_the_family(trained: Any) -> None:
    kind, family, tokenizer, _ = trained
    assert len(tokenizer) == 1000
    keys = list(tokenizer("a", "b").keys())
    assert ("token_type_ids" in keys) == (family == "bert")
    if family == "llama":
        assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
        assert tokenizer.eos_token_id == 0
        assert tokenizer.pad_token_id == 1
        assert tokenizer.mask_token is None
        assert tokenizer.eos_token_id not in tokenizer("a")["input_ids"]
    elif family == "roberta":  # RoBERTa's positions start after the padding id, which its configs say is 1
        assert [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id] == [0, 1, 2]
        assert tokenizer("a")["input_ids"][0] == 0
        assert tokenizer("a")["input_ids"][-1] == 2
    else:
        assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        assert tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])[::2] == ["[CLS]", "[SEP]"]
    if kind == "byte-bpe":
        ids = tokenizer(SENTENCE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == SENTENCE


def test_only_the_training_side_is_read(tmp_path: Path) -> None:
    from bequest.data.splitting import is_held_out

    spec = CorpusSpec(files="a.jsonl", group="who", held_out=0.5)
    held = next(name for name in "abcdefgh" if is_held_out(name, 0.5))
    kept = next(name for name in "abcdefgh" if not is_held_out(name, 0.5))
    lines = [{"text": "zyzzyva " * 50, "who": held}, {"text": "quagga " * 50, "who": kept}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    vocabulary = train_tokenizer("byte-bpe", [open_corpus("c", spec, tmp_path)], 300).get_vocab()
    assert "Ġquagga" in vocabulary
    assert not [token for token in vocabulary if "zyz" in token]


def test_bad_input_is_one_line(corpus: Corpus, tmp_path: Path) -> None:
    for kind, size, family, message in (
        ("bytebpe", 1000, None, "unknown kind 'bytebpe'; did you mean 'byte-bpe'?"),
        ("byte-bpe", 100, None, "100 leaves no room"),
        ("wordpiece", 1000, "gpt2", "wordpiece does not suit gpt2; use byte-bpe for decoders"),
    ):
        with pytest.raises(InputError) as caught:
            train_tokenizer(kind, [corpus], size, tmp_path / "out", family=family)
        assert message in caught.value.line()
    assert not list(tmp_path.iterdir())
