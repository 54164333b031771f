"""Facts of the families that are no tensors, against transformers itself: positions, token types, tokenizers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from bequest import checkpoints
from bequest.anatomy import FAMILIES, anatomy_of, complete_config, objective_of

LEARNT = [name for name, family in FAMILIES.items() if not family.rotary]


def tiny(name: str, **extra: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 12}
    return complete_config(name, {**sizes, **extra}, head=objective_of(FAMILIES[name]), vocab_size=30)


@pytest.mark.parametrize(("name", "padding"), [*((name, None) for name in LEARNT), ("roberta", 4), ("bert", 4)])
def test_the_longest_sequence_is_the_longest_that_works(name: str, padding: int | None) -> None:
    config = tiny(name, **({} if padding is None else {"pad_token_id": padding}))
    longest = anatomy_of(config).longest
    model = checkpoints.new_model(config, seed=0).eval()
    ids = torch.randint(5, 30, (1, longest + 1))
    assert model(input_ids=ids[:, :longest]).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_typed_families_take_token_types(name: str) -> None:
    import transformers

    family = FAMILIES[name]
    model = getattr(transformers, family.heads[objective_of(family)].class_name)
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    # RoBERTa's and GPT-2's signatures have them, but RoBERTa's published table has one row, and GPT-2 adds a token's
    # own embedding: their tokenizers make none.
    assert family.typed == (takes and name not in ("roberta", "gpt2"))


@pytest.mark.parametrize("name", FAMILIES)
def test_tokenizers_are_of_the_kind_of_the_published_ones(name: str) -> None:
    import transformers
    from tokenizers import models
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    found = getattr(transformers, TOKENIZER_MAPPING_NAMES.get(name) or "PreTrainedTokenizerFast")
    wordpiece = getattr(found, "model", None) is models.WordPiece
    assert (FAMILIES[name].tokenizer == "wordpiece") == wordpiece


#: Families whose table has every variant for which transformers has a class; the older encoders' causal ones are not.
WHOLE = [name for name in FAMILIES if name not in ("bert", "roberta", "distilbert", "electra", "gpt2")]


@pytest.mark.parametrize("name", WHOLE)
def test_the_table_has_the_variants_that_transformers_has(name: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    autos = {
        "causal-lm": transformers.AutoModelForCausalLM,
        "masked-lm": transformers.AutoModelForMaskedLM,
        "sequence-classification": transformers.AutoModelForSequenceClassification,
        "bare": transformers.AutoModel,
    }
    kind = CONFIG_MAPPING[name]
    classes = {head: auto._model_mapping[kind] for head, auto in autos.items() if kind in auto._model_mapping}
    assert {head: found.__name__ for head, found in classes.items()} == {
        head: variant.class_name for head, variant in FAMILIES[name].heads.items()
    }
    assert {found.base_model_prefix for found in classes.values()} == {FAMILIES[name].prefix}
