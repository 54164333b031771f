"""Laws of batches: the corruption of a block is a function of (mask seed, variant, block) and of nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bequest.data.blocks import Blocks, BlockWriter
from bequest.data.corpora import Corpus, open_corpus
from bequest.data.masking import EVALUATION_VARIANT, NO_TARGET, CausalCollator, MaskingCollator
from bequest.data.mixtures import EpochSampler, Mixture
from bequest.data.packing import pack_corpus
from bequest.data.specs import CorpusSpec
from bequest.data.tokenizer_training import train_tokenizer
from bequest.data.words import WordTable
from bequest.errors import InputError

TEXT = "The quick-footed researcher's 42 unbelievable foxes (quietly) jumped, unfortunately; über größere Zäune hinweg."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = TEXT.split() + [
        f"{a}{b}{c}" for a in "bdfgkl" for b in ("anti", "ero", "ul") for c in ("meter", "ski", "n")
    ]
    (root / "a.txt").write_text("\n\n".join(" ".join(rng.sample(words, 25)) + f" {number}." for number in range(3000)))
    return open_corpus("c", CorpusSpec(files="a.txt", held_out=0.1), root)


@pytest.fixture(scope="module", params=["wordpiece", "roberta"])
def tokenizer(request: pytest.FixtureRequest, corpus: Corpus) -> Any:
    if request.param == "wordpiece":
        return train_tokenizer("wordpiece", [corpus], 160)
    return train_tokenizer("byte-bpe", [corpus], 330, family="roberta")


@pytest.fixture(scope="module")
def blocks(tokenizer: Any, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    return pack_corpus(corpus, tokenizer, block=64, cache=tmp_path_factory.mktemp("packed")).train.first(300)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def rows(batches: Any) -> dict[int, torch.Tensor]:
    """digest -> (input_ids, targets) of all rows."""
    return {
        int(digest): torch.stack([ids, targets])
        for batch in batches
        for digest, ids, targets in zip(batch["digest"], batch["input_ids"], batch["targets"], strict=True)
    }


def test_masks_do_not_depend_on_workers_order_batch_or_place(tokenizer: Any, blocks: Blocks) -> None:
    collator = MaskingCollator(tokenizer, mask_seed=7)
    mixture = Mixture([(blocks, 1.0)], seed=3)
    wanted = rows([collator([{**sample, "epoch": 0} for sample in blocks])])
    for workers, batch, seed in ((0, 8, None), (2, 5, 1), (1, 64, 2)):
        sampler = EpochSampler(len(mixture), seed)
        loader = DataLoader(mixture, batch_size=batch, sampler=sampler, collate_fn=collator, num_workers=workers)
        found = rows(loader)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[digest], wanted[digest]) for digest in wanted)


def test_masks_are_the_same_in_another_process(tokenizer: Any, blocks: Blocks, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    code = (
        "import sys, transformers; from pathlib import Path\n"
        "from bequest.data.blocks import Blocks; from bequest.data.masking import MaskingCollator\n"
        "collator = MaskingCollator(transformers.AutoTokenizer.from_pretrained(sys.argv[1]), 7, whole_word=True)\n"
        "batch = collator([{**Blocks(Path(sys.argv[2]))[5], 'epoch': 13}])\n"
        "print(batch['input_ids'].tolist(), batch['targets'].tolist())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(blocks.path)], check=True, capture_output=True, text=True
    )
    batch = MaskingCollator(tokenizer, 7, whole_word=True)([{**blocks[5], "epoch": 13}])
    assert found.stdout.strip() == f"{batch['input_ids'].tolist()} {batch['targets'].tolist()}"


def test_variant_seed_and_block_each_change_the_mask(tokenizer: Any, blocks: Blocks) -> None:
    def masked(index: int = 0, seed: int = 0, epoch: int | None = 0, variants: int = 10) -> list[int]:
        sample = dict(blocks[index]) if epoch is None else {**blocks[index], "epoch": epoch}
        batch = MaskingCollator(tokenizer, seed, variants)([sample])
        return torch.nonzero(batch["targets"][0] != NO_TARGET).flatten().tolist()

    assert masked() == masked(epoch=10) == masked(epoch=20)
    assert len({tuple(masked(epoch=epoch)) for epoch in range(10)}) == 10
    assert masked() != masked(seed=1)
    assert masked() != masked(index=1)
    assert masked(epoch=None) == masked(epoch=None, variants=3)  # what is measured stays comparable
    assert masked(epoch=None) not in [masked(epoch=epoch) for epoch in range(10)]
    assert MaskingCollator(tokenizer, 0).variant(None) == EVALUATION_VARIANT


@pytest.mark.parametrize("whole_word", [False, True])
def test_shares_and_specials(tokenizer: Any, blocks: Blocks, whole_word: bool) -> None:
    collator = MaskingCollator(tokenizer, 0, whole_word=whole_word)
    batch = collator([{**sample, "epoch": epoch} for epoch in range(3) for sample in blocks])
    original = torch.from_numpy(np.stack([sample["input_ids"] for sample in blocks])).repeat(3, 1)
    special = torch.isin(original, torch.tensor(tokenizer.all_special_ids))
    selected = batch["targets"] != NO_TARGET
    assert special.any()
    assert not (selected & special).any()
    assert torch.equal(batch["targets"][selected], original[selected])
    assert torch.equal(batch["input_ids"][~selected], original[~selected])
    assert selected.any(dim=1).all()
    now = batch["input_ids"][selected]
    masked, kept = now == tokenizer.mask_token_id, now == original[selected]
    assert not torch.isin(now[~masked], torch.tensor(tokenizer.all_special_ids)).any()
    assert selected.sum() / (~special).sum() == pytest.approx(0.15, abs=0.01)
    assert masked.float().mean() == pytest.approx(0.8, abs=0.015)
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / len(tokenizer), abs=0.015)
    drawn = now[~masked & ~kept]
    assert len(drawn.unique()) > 0.5 * len(tokenizer)  # the whole vocabulary is drawn from


def test_whole_words_are_whole(tokenizer: Any, blocks: Blocks) -> None:
    table = WordTable(tokenizer)

    def broken(whole_word: bool) -> int:
        collator = MaskingCollator(tokenizer, 0, whole_word=whole_word)
        count = 0
        for sample in blocks:
            starts = table.starts(sample["input_ids"])
            words = np.cumsum(starts) - 1
            selected = (collator([sample])["targets"][0] != NO_TARGET).numpy()
            per_word = np.bincount(words, selected) / np.bincount(words)
            count += int(((per_word > 0) & (per_word < 1)).sum())
        return count

    assert broken(True) == 0
    assert broken(False) > 50  # control


def test_words_are_those_a_reader_sees(tokenizer: Any) -> None:
    ids = np.array(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    starts = WordTable(tokenizer).starts(ids)
    pieces = [tokenizer.decode(part).strip() for part in np.split(ids, np.flatnonzero(starts)[1:])]
    wanted = ["The", "quick", "-", "footed", "researcher", "'", "s", "42", "unbelievable", "foxes", "(", "quietly", ")"]
    wanted += ["jumped", ",", "unfortunately", ";", "über", "größere", "Zäune", "hinweg", "."]
    if tokenizer.cls_token == "[CLS]":  # BERT's normaliser folds case and takes accents off
        folded = str.maketrans("üöä", "uoa")
        assert pieces == [word.lower().translate(folded) for word in wanted]
    else:  # GPT-2's splitting keeps "'s" together; words themselves are whole
        assert [piece.lstrip("'") for piece in pieces if piece[-1:].isalnum()] == [w for w in wanted if w[-1].isalnum()]


def test_bad_settings_are_one_line(tokenizer: Any, corpus: Corpus) -> None:
    decoder = train_tokenizer("byte-bpe", [corpus], 300)
    with pytest.raises(InputError, match="no mask token; use objective: causal"):
        MaskingCollator(decoder, 0)
    with pytest.raises(InputError, match="probability"):
        MaskingCollator(tokenizer, 0, probability=1.5)
    with pytest.raises(InputError, match="mask_variants"):
        MaskingCollator(tokenizer, 0, variants=0)


def test_a_block_of_specials_has_no_targets_and_does_not_fail(tokenizer: Any) -> None:
    ids = np.full(8, tokenizer.sep_token_id)
    batch = MaskingCollator(tokenizer, 0, whole_word=True)([{"input_ids": ids, "digest": 1, "epoch": 0}])
    assert (batch["targets"] == NO_TARGET).all()
    assert (batch["input_ids"] == tokenizer.sep_token_id).all()


def test_causal_targets_are_the_next_tokens(blocks: Blocks) -> None:
    batch = CausalCollator()([{**blocks[index], "domain": index} for index in range(3)])
    assert batch["targets"].shape == batch["input_ids"].shape == batch["attention_mask"].shape == (3, 64)
    assert torch.equal(batch["targets"][:, :-1], batch["input_ids"][:, 1:])
    assert (batch["targets"][:, -1] == NO_TARGET).all()
    assert batch["domain"].tolist() == [0, 1, 2]
    assert batch["digest"].tolist() == [blocks[index]["digest"] for index in range(3)]
    assert {value.dtype for value in batch.values()} == {torch.int64}


# -- mixtures and samplers


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Blocks]:
    root = tmp_path_factory.mktemp("parts")
    found = []
    for part, count in enumerate((40, 7, 100)):
        with BlockWriter(root / f"{part}.arrow", 4, 10_000) as writer:
            writer.write(np.arange(count * 4).reshape(-1, 4) + 1000 * part)
        found.append(Blocks(root / f"{part}.arrow"))
    return found


@pytest.mark.parametrize(
    ("shares", "exact"),
    [((0.95, 0.05), (19, 1)), ((1, 1, 1), (1, 1, 1)), ((0.5, 0.3, 0.2), (5, 3, 2)), ((30, 10), (3, 1))],
)
def test_shares_are_exact_in_tokens_and_close_at_every_prefix(
    parts: list[Blocks], shares: tuple[float, ...], exact: tuple[int, ...]
) -> None:
    mixture = Mixture(list(zip(parts, shares, strict=False)), seed=1, length=10 * sum(exact))
    assert tuple(mixture.counts) == exact
    tokens = np.zeros(len(exact))
    for place in EpochSampler(len(mixture), None, epochs=3):
        sample = mixture[place]
        assert sample["input_ids"][0] // 1000 == sample["domain"]
        tokens[sample["domain"]] += len(sample["input_ids"])
        ideal = tokens.sum() * np.array(shares) / sum(shares)
        assert (abs(tokens - ideal) < 4 * len(exact)).all()  # a block has 4 tokens
    assert tokens.tolist() == [30 * 4 * count for count in exact]


def test_awkward_shares_are_as_close_as_the_longest_cycle_allows(parts: list[Blocks]) -> None:
    shares = (0.123456789, 0.3, 0.576543211)
    mixture = Mixture(list(zip(parts, shares, strict=True)), seed=1)
    assert mixture.shares == pytest.approx(shares, abs=2e-5)
    assert sum(mixture.counts) <= 2**16
    tiny = Mixture([(parts[0], 1.0), (parts[1], 1e-9)], seed=1)
    assert min(tiny.counts) == 1


def test_each_pass_sees_every_block_once_in_another_order(parts: list[Blocks]) -> None:
    mixture = Mixture([(parts[0], 0.5), (parts[1], 0.5)], seed=5)
    seen: dict[tuple[int, int], list[int]] = {}
    for place in EpochSampler(len(mixture), None, epochs=4):
        part, turn, block = mixture.locate(place)
        assert mixture[place]["epoch"] == turn
        seen.setdefault((part, turn), []).append(block)
    small = [blocks for (part, _), blocks in seen.items() if part == 1][:-1]
    assert len(small) >= 10
    assert all(sorted(blocks) == list(range(7)) for blocks in small)
    assert len({tuple(blocks) for blocks in small}) == len(small)
    assert sorted(seen[0, 0]) == list(range(40))
    assert seen[0, 0] != [Mixture([(parts[0], 1.0)], seed=6).locate(place)[2] for place in range(40)]


def test_order_is_shuffled_evenly(parts: list[Blocks]) -> None:
    """Mean place of each block over many passes, and neighbours: nothing of the files' order is left."""
    mixture = Mixture([(parts[2], 1.0)], seed=0)
    orders = np.array([[mixture.locate((epoch, place))[2] for place in range(100)] for epoch in range(400)])
    places = np.argsort(orders, axis=1).mean(axis=0)
    assert abs(places - 49.5).max() < 5 * 28.9 / 20
    adjacent = (np.diff(orders, axis=1) == 1).mean()
    assert adjacent == pytest.approx(0.01, abs=0.003)


def test_samplers_resume_anywhere_and_permute_each_epoch() -> None:
    whole = list(EpochSampler(13, seed=4, epochs=3))
    assert [epoch for epoch, _ in whole] == [0] * 13 + [1] * 13 + [2] * 13
    passes = [[index for e, index in whole if e == epoch] for epoch in range(3)]
    assert all(sorted(one) == list(range(13)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    for start in (1, 13, 20, 38):
        resumed = EpochSampler(13, seed=4, start=start, epochs=3)
        assert list(resumed) == whole[start:]
        assert len(resumed) == len(whole) - start
    assert passes[0] != [index for _, index in EpochSampler(13, seed=5)]


def test_mixtures_refuse_what_cannot_be_mixed(parts: list[Blocks], blocks: Blocks) -> None:
    for bad in ([], [(parts[0], 0.0)], [(parts[0], -1.0)], [(parts[0], float("nan"))], [(parts[0], 1), (blocks, 1)]):
        with pytest.raises(InputError):
            Mixture(bad, seed=0)
    with pytest.raises(InputError, match="1 domains for 2 corpora"):
        Mixture([(parts[0], 1), (parts[1], 1)], seed=0, domains=[3])
    with pytest.raises(IndexError):
        Mixture([(parts[0], 1)], seed=0)[40]
    assert Mixture([(parts[0], 1), (parts[1], 1)], seed=0, domains=[3, 9])[0]["domain"] in (3, 9)
