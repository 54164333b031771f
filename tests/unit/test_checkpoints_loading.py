"""Loading is whole or not at all; saving is plain; headers and names on disk are read without loading."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from bequest.anatomy import anatomy_of, complete_config
from bequest.checkpoints import (
    fetch,
    header_shapes,
    is_adapter,
    live_config,
    load_adapter,
    load_config,
    load_model,
    load_tokenizer,
    meta_model,
    new_model,
    save_adapter,
    save_model,
    save_tokenizer,
    stored_bytes,
    to_disk_names,
    to_memory_names,
)
from bequest.errors import AnatomyError, InputError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def config(family: str, head: str, **extra: Any) -> dict[str, Any]:
    return complete_config(family, SIZES, head=head, vocab_size=40, max_position_embeddings=24, **extra)


def saved(place: Path, family: str = "llama", head: str = "causal-lm", **extra: Any) -> Any:
    model = new_model(config(family, head, **extra), seed=3).eval()
    save_model(model, place)
    return model


def edit_weights(place: Path, change: Any) -> None:
    weights = load_file(place / "model.safetensors")
    change(weights)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "head"),
    [("bert", "masked-lm"), ("electra", "discriminator"), ("gpt2", "causal-lm"), ("qwen3", "sequence-classification")],
)
def test_saved_and_loaded_is_the_same(tmp_path: Path, family: str, head: str) -> None:
    model = saved(tmp_path, family, head)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_dtype_on_disk_is_a_choice_and_in_memory_is_float32(tmp_path: Path) -> None:
    model = new_model(config("llama", "causal-lm"), seed=0)
    before = copy.deepcopy(model.state_dict())
    save_model(model, tmp_path, dtype="bfloat16")
    assert {dtype for _, dtype in header_shapes(tmp_path).values()} == {"BF16"}
    assert load_config(tmp_path)["dtype"] == "bfloat16"
    assert stored_bytes(tmp_path) == 2 * model.num_parameters()
    assert model.dtype == torch.float32
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    again = load_model(tmp_path)
    assert {value.dtype for value in again.parameters()} == {torch.float32}


def test_a_seed_makes_a_model_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two, other = (new_model(config("bert", "masked-lm"), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    first = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(one.state_dict()[first], two.state_dict()[first])
    assert not torch.equal(one.state_dict()[first], other.state_dict()[first])
    assert one.training


@pytest.mark.parametrize(("family", "head"), [("bert", "masked-lm"), ("roberta", "masked-lm"), ("llama", "causal-lm")])
def test_a_fresh_classification_head_is_the_only_thing_drawn(tmp_path: Path, family: str, head: str) -> None:
    base = saved(tmp_path, family, head)
    labels = ["no", "perhaps", "yes"]
    one = load_model(tmp_path, head="sequence-classification", labels=labels, seed=1)
    two = load_model(tmp_path, head="sequence-classification", labels=labels, seed=1)
    assert one.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert one.config.num_labels == 3
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
        if name in base.state_dict():
            assert torch.equal(value, base.state_dict()[name])
        else:
            assert name.startswith(("classifier", "score", "bert.pooler")), name


def test_a_language_model_as_bare_has_no_untrained_pooler(tmp_path: Path) -> None:
    saved(tmp_path, "bert", "masked-lm")
    model = load_model(tmp_path, head="bare")
    assert model.pooler is None


def test_a_missing_tensor_of_the_backbone_is_never_drawn(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    for head in (None, "bare", "sequence-classification"):
        with pytest.raises(AnatomyError, match=r"layers\.1\.mlp\.up_proj\.weight: the file lacks this tensor"):
            load_model(tmp_path, head=head)


def test_a_missing_language_model_head_is_never_drawn(tmp_path: Path) -> None:
    saved(tmp_path, "bert", "bare")
    with pytest.raises(AnatomyError, match=r"cls\.predictions.*the file lacks this tensor"):
        load_model(tmp_path, head="masked-lm")
    saved(tmp_path / "tied", "llama", "bare", tie_word_embeddings=True)
    tied = load_model(tmp_path / "tied", head="causal-lm")  # legitimately absent: it is the embedding
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_a_tensor_that_no_module_takes_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(24, 16)}))
    for head in (None, "bare"):
        with pytest.raises(AnatomyError, match=r"layers\.7\.mlp\.up_proj\.weight: no module"):
            load_model(tmp_path, head=head)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"model.norm.weight": torch.zeros(17)}))
    with pytest.raises(AnatomyError, match=r"model\.norm\.weight: the file has \(17,\) where the config gives \(16,\)"):
        load_model(tmp_path)


def test_other_labels_are_refused(tmp_path: Path) -> None:
    model = new_model(config("bert", "sequence-classification"), seed=0)
    save_model(model, tmp_path)
    with pytest.raises(AnatomyError, match="classifier"):
        load_model(tmp_path, head="sequence-classification", labels=["a", "b", "c"])


def test_what_is_no_model_is_answered(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="no such model directory"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no such model directory"):
        load_config("/no/where/at/all")
    with pytest.raises(InputError, match="no such model directory"):
        fetch("runs/x/y")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config("llama", "causal-lm")))
    with pytest.raises(InputError):
        load_model(tmp_path)
    with pytest.raises(InputError, match="no safetensors weights"):
        header_shapes(tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no such head"):
        load_model(tmp_path, head="lm")
    assert fetch(tmp_path) == tmp_path


def test_torn_files_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    assert len(header_shapes(tmp_path)) == len(anatomy_of(tmp_path).tensors)
    for torn in (whole[:-4], whole[:30], whole[:5], b""):
        file.write_bytes(torn)
        with pytest.raises(InputError, match="torn"):
            header_shapes(tmp_path)
        with pytest.raises(InputError):
            load_model(tmp_path)


def test_a_config_that_transformers_refuses_is_one_line() -> None:
    bad = {**config("llama", "causal-lm"), "hidden_size": 15}
    with pytest.raises(InputError, match="transformers refuses this config") as caught:
        live_config(bad)
    assert "\n" not in caught.value.line()


# --- names


def tiny(model_class: Any, config_class: Any, **extra: Any) -> Any:
    sizes = {**SIZES, "vocab_size": 30, **extra}
    return model_class(config_class(**sizes))


MIXTRAL = {"num_key_value_heads": 1, "num_local_experts": 3}


@pytest.mark.parametrize(
    ("model", "renamed"),
    [
        (lambda: tiny(GPTNeoXForCausalLM, GPTNeoXConfig), {"lm_head.weight": ("embed_out.weight",)}),
        (
            lambda: tiny(MixtralForCausalLM, MixtralConfig, **MIXTRAL),
            {
                "model.layers.0.mlp.experts.down_proj": tuple(
                    f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight" for expert in range(3)
                )
            },
        ),
        (lambda: new_model(config("bert", "masked-lm"), seed=0), {}),
        (lambda: new_model(config("llama", "causal-lm", tie_word_embeddings=True), seed=0), {}),
    ],
)
def test_names_go_to_disk_and_back(tmp_path: Path, model: Any, renamed: dict[str, tuple[str, ...]]) -> None:
    made = model()
    save_model(made, tmp_path)
    on_disk = header_shapes(tmp_path).keys()
    parameters = [name for name, _ in made.named_parameters()]
    disk = to_disk_names(parameters, made)
    assert {name for names in disk.values() for name in names} == on_disk
    for name, names in renamed.items():
        assert disk[name] == names
    back = to_memory_names(on_disk, meta_model(load_config(tmp_path)))
    assert set(back.values()) == set(parameters)
    assert all(name in disk[memory] for name, memory in back.items())  # type: ignore[index]


def test_prefixes_old_names_and_stale_buffers_are_translated() -> None:
    whole = meta_model(config("bert", "masked-lm"))
    names = [
        "embeddings.LayerNorm.gamma",
        "bert.encoder.layer.0.output.LayerNorm.beta",
        "bert.embeddings.position_ids",
        "embeddings.position_ids",
        "cls.predictions.bias",
    ]
    assert list(to_memory_names(names, whole).values()) == [
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.output.LayerNorm.bias",
        None,
        None,
        "cls.predictions.bias",
    ]
    bare = meta_model(config("bert", "bare"))
    assert to_memory_names(["bert.embeddings.word_embeddings.weight"], bare) == {
        "bert.embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight"
    }
    with pytest.raises(AnatomyError, match="no tensor of this name"):
        to_disk_names(["nonsense"], bare)


def test_meta_models_have_no_storage() -> None:
    assert {value.device.type for value in meta_model(config("gpt2", "causal-lm")).parameters()} == {"meta"}


# --- what lies beside a model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab={**letters, "ab": 256}, merges=[("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"})
    return tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_a_tokenizer_comes_back_the_same_beside_a_model(tmp_path: Path, family: str) -> None:
    """The config beside it must not turn it into the family's stock tokenizer."""
    saved(tmp_path, family)
    tokenizer = byte_tokenizer()
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    for text in ("abc  ab\n", " The  cab — über", "x = 1\t2<|endoftext|>"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
    assert again.pad_token_id == tokenizer.pad_token_id


def adapted(place: Path, out: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(load_model(place), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(0))
    save_adapter(wrapped, out)
    return wrapped.eval()


def test_adapters_come_back_the_same_or_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    wrapped = adapted(tmp_path / "base", tmp_path / "adapter")
    assert is_adapter(tmp_path / "adapter")
    assert not is_adapter(tmp_path / "base")
    ids = torch.arange(2, 12)[None]
    again = load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter").eval()
    assert torch.equal(again(ids).logits, wrapped(ids).logits)
    assert not any(value.requires_grad for value in again.parameters())
    trainable = load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter", trainable=True)
    assert any(value.requires_grad for value in trainable.parameters())
    with pytest.raises(InputError, match="this is an adapter, not a model"):
        load_config(tmp_path / "adapter")
    with pytest.raises(InputError, match="no adapter"):
        load_adapter(load_model(tmp_path / "base"), tmp_path / "base")
    wide = new_model({**config("llama", "causal-lm"), "intermediate_size": 30}, seed=0)
    with pytest.raises(InputError, match="does not fit this model"):
        load_adapter(wide, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file)
    with pytest.raises(InputError, match="the adapter lacks this tensor"):
        load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")


def test_grown_models_load_where_bequest_is_not_installed(tmp_path: Path) -> None:
    from bequest.growth import grow

    ids = torch.arange(2, 12)[None]
    for family, head in (("llama", "causal-lm"), ("bert", "masked-lm")):
        small = new_model(config(family, head, tie_word_embeddings=True), seed=0).eval()
        bigger = grow(small, {"hidden_size": 32})
        save_model(bigger, tmp_path / family)
        save_tokenizer(byte_tokenizer(), tmp_path / family)
        with torch.no_grad():
            save_file({"logits": bigger(ids).logits}, tmp_path / f"{family}.safetensors")
    program = (
        "import sys; sys.modules['bequest'] = None\n"
        "import torch\n"
        "from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer\n"
        "from safetensors.torch import load_file\n"
        "for family, auto in (('llama', AutoModelForCausalLM), ('bert', AutoModelForMaskedLM)):\n"
        "    model = auto.from_pretrained(family)\n"
        "    out, inner = model.get_output_embeddings().weight, model.get_input_embeddings().weight\n"
        "    assert out.data_ptr() == inner.data_ptr()\n"
        "    expected = load_file(family + '.safetensors')['logits']\n"
        "    assert torch.equal(model(torch.arange(2, 12)[None]).logits, expected)\n"
        "    assert AutoTokenizer.from_pretrained(family)('ab')['input_ids'] == [256]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_generation_is_greedy_equal_after_growth() -> None:
    from bequest.growth import grow

    model = new_model(config("llama", "causal-lm", num_key_value_heads=1), seed=0).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    bigger = grow(model, {"hidden_size": 48})
    prompt = torch.tensor([[5, 9, 7]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(prompt, **options), bigger.generate(prompt, **options))
    assert isinstance(bigger, type(AutoModelForCausalLM.from_config(model.config)))
