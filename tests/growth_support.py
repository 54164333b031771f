"""What the growth tests share: tiny jittered models of every family, their outputs, the error between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bequest.anatomy import FAMILIES, check_model, complete_config, objective_of
from bequest.anatomy.fills import scaled_embeddings
from bequest.checkpoints import new_model

VOCAB = 48
GQA = {"num_key_value_heads": 2}
#: What each family's tiny config must say besides its sizes, so that everything its table knows is there.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "bert": [{}],
    "roberta": [{}],
    "distilbert": [{"sinusoidal_pos_embds": True}, {}],
    "electra": [{"embedding_size": 16}, {"embedding_size": 32}],
    "modernbert": [{"num_hidden_layers": 3}],
    "gpt2": [{}],
    "gpt_neox": [{}, {"use_parallel_residual": False}],
    "opt": [{}],
    "llama": [{}, {**GQA, "attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 1}],
    "mistral": [GQA],
    "qwen2": [GQA, {}],
    "qwen3": [{**GQA, "attention_bias": True}, {**GQA, "head_dim": 16}],
    "phi3": [GQA],
    "granite": [{**GQA, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}],
    "smollm3": [{**GQA, "num_hidden_layers": 4}],
    "gemma": [GQA],
    "gemma2": [{**GQA, "num_hidden_layers": 2}],
    "gemma3_text": [{**GQA, "num_hidden_layers": 2}],
    "olmo2": [GQA, {}],
    "mixtral": [{**GQA, "num_local_experts": 3, "num_experts_per_tok": 2}],
    "qwen2_moe": [{**GQA, "num_experts": 3, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 24}],
}


def build(family: str, head: str, *, seed: int = 0, sizes: dict[str, Any] | None = None, **extra: Any) -> Any:
    """A tiny model of which every parameter is jittered: default zeros and ones would hide what is not carried."""
    base = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    merged = {**base, "max_position_embeddings": 40, **(sizes or {}), **extra}
    config = complete_config(family, merged, head=head, vocab_size=VOCAB)
    if head == "sequence-classification":
        config |= {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    model = new_model(config, seed=seed).eval()
    if "num_experts_per_tok" in config:
        model.set_experts_implementation("eager")
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def language_head(family: str) -> str:
    """The language-model head of a family."""
    return objective_of(FAMILIES[family])


def batches(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Two lengths; the longer one with padding."""
    generator = torch.Generator().manual_seed(5)
    for length in (5, 13):
        ids = torch.randint(2, VOCAB, (2, length), generator=generator)
        mask = torch.ones_like(ids)
        if length > 5:
            mask[1, 9:] = 0
        yield {"input_ids": ids, "attention_mask": mask}


def outputs(model: Any) -> list[torch.Tensor]:
    """Logits (or states) at the positions that are not padding."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    found = []
    with torch.no_grad():
        for batch in batches(model):
            made = model(**batch)
            out = made.last_hidden_state if "last_hidden_state" in made else made.logits
            # Positions of padding mean nothing; a classifier has one output per sequence.
            sequence = out.shape[:2] == batch["input_ids"].shape
            found.append(out[batch["attention_mask"].bool()] if sequence else out)
    return found


def error(model: Any, bigger: Any) -> float:
    """max|difference| / max|output|; a bare model's grown output is copies of the source's, over k on a tied base."""
    anatomy = check_model(model)
    worst = 0.0
    for expected, found in zip(outputs(model), outputs(bigger), strict=True):
        if anatomy.head == "bare":
            times = found.shape[-1] // expected.shape[-1]
            share = times ** (0.5 if scaled_embeddings(anatomy) else 1) if anatomy.tie and anatomy.last_norm else 1
            expected = expected.repeat(*[1] * (expected.ndim - 1), times) / share
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst


def native_norms(model: Any) -> Any:
    """RMSNorms that stay in the model's dtype: as shipped they cast to float32 inside and hide errors below 1e-7.

    Gemma's sqrt(hidden) is rounded to float32 when a model is made, whatever its dtype: here it is not.
    """
    for module in model.modules():
        name = type(module).__name__
        if name.endswith("ScaledWordEmbedding"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale, dtype=torch.float64)
        if name.endswith("RMSNorm"):
            module.forward = _native_norm(module, one_plus=name.startswith("Gemma"))
    return model


def _native_norm(module: Any, *, one_plus: bool) -> Any:
    eps = module.eps if one_plus else module.variance_epsilon

    def forward(x: torch.Tensor) -> torch.Tensor:
        gain = 1.0 + module.weight if one_plus else module.weight
        return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    return forward
