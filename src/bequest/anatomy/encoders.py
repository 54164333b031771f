"""The tables of the encoders: bert, roberta, distilbert, electra, modernbert.

The first four are post-LN: the stream is normalised after each residual sum, so width growth is exact for whole
multiples only, and the norm before a tied decoder carries the division that the decoder cannot.  modernbert is pre-LN,
but its stream begins as the output of a norm, which has the same consequence for its width.
"""

from __future__ import annotations

from bequest.anatomy.table import Family, Head, Rate, Row, layer_norm, linear

_LAYER = "encoder.layer.{layer}."


def _embeddings(axis: str) -> tuple[Row, ...]:
    return (
        Row("embeddings.word_embeddings.weight", f"vocab -> {axis}"),
        Row("embeddings.position_embeddings.weight", f"pos -> {axis}"),
        Row("embeddings.token_type_embeddings.weight", f"type -> {axis}"),
        *layer_norm("embeddings.LayerNorm", axis),
    )


_BERT_BLOCK = (
    *linear(_LAYER + "attention.self.query", "q <- hidden"),
    *linear(_LAYER + "attention.self.key", "kv <- hidden"),
    *linear(_LAYER + "attention.self.value", "kv <- hidden"),
    *linear(_LAYER + "attention.output.dense", "hidden <- attn"),
    *layer_norm(_LAYER + "attention.output.LayerNorm", "hidden"),
    *linear(_LAYER + "intermediate.dense", "ffn <- hidden"),
    *linear(_LAYER + "output.dense", "hidden <- ffn"),
    *layer_norm(_LAYER + "output.LayerNorm", "hidden"),
)
_POOLER = linear("pooler.dense", "hidden <- hidden", per="sequence")
_WORDS = "{base}embeddings.word_embeddings.weight"
_ROBERTA_CLASSIFIER = (
    *linear("classifier.dense", "hidden <- hidden", per="sequence"),
    *linear("classifier.out_proj", "label <- hidden", per="sequence"),
)
_NO_DECODER = {
    "is_decoder": "bequest's table covers the encoder only; set is_decoder to false",
    "add_cross_attention": "bequest's table has no lines for cross attention",
}
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")

_COMMON = {
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "use_cache": True,
    "classifier_dropout": None,
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}

BERT = Family(
    name="bert",
    prefix="bert",
    norm="layer-post",
    tokenizer="wordpiece",
    typed=True,
    rows=(*_embeddings("hidden"), *_BERT_BLOCK),
    heads={
        "masked-lm": Head(
            "BertForMaskedLM",
            rows=(
                Row("cls.predictions.bias", "vocab"),
                *linear("cls.predictions.transform.dense", "hidden <- hidden", per="target"),
                *layer_norm("cls.predictions.transform.LayerNorm", "hidden"),
                *linear("cls.predictions.decoder", "vocab <- hidden", per="target"),
            ),
            tied={"cls.predictions.decoder.weight": _WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"},
            lm_head="cls",
            output_embedding="cls.predictions.decoder",
            last_norm="cls.predictions.transform.LayerNorm",
            reads_last=("cls.predictions.decoder.weight",),
        ),
        "sequence-classification": Head(
            "BertForSequenceClassification",
            rows=linear("classifier", "label <- hidden", per="sequence"),
            base_rows=_POOLER,
        ),
        "bare": Head("BertModel", base_rows=_POOLER),
    },
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        **_COMMON,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    buffers=_BUFFERS,
    stale=("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    refuses=_NO_DECODER,
)

ROBERTA = Family(
    name="roberta",
    prefix="roberta",
    norm="layer-post",
    positions_after_padding=True,
    rows=(*_embeddings("hidden"), *_BERT_BLOCK),
    heads={
        "masked-lm": Head(
            "RobertaForMaskedLM",
            rows=(
                Row("lm_head.bias", "vocab"),
                *linear("lm_head.dense", "hidden <- hidden", per="target"),
                *layer_norm("lm_head.layer_norm", "hidden"),
                *linear("lm_head.decoder", "vocab <- hidden", per="target"),
            ),
            tied={"lm_head.decoder.weight": _WORDS, "lm_head.decoder.bias": "lm_head.bias"},
            lm_head="lm_head",
            output_embedding="lm_head.decoder",
            last_norm="lm_head.layer_norm",
            reads_last=("lm_head.decoder.weight",),
        ),
        "sequence-classification": Head("RobertaForSequenceClassification", rows=_ROBERTA_CLASSIFIER),
        "bare": Head("RobertaModel", base_rows=_POOLER),
    },
    defaults={
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        **_COMMON,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    buffers=_BUFFERS,
    refuses=_NO_DECODER,
)

_DISTIL = "transformer.layer.{layer}."

DISTILBERT = Family(
    name="distilbert",
    prefix="distilbert",
    norm="layer-post",
    tokenizer="wordpiece",
    rows=(
        Row("embeddings.word_embeddings.weight", "vocab -> hidden"),
        # With sinusoidal_pos_embds the table is still data: a grown one is copied, for sines of the larger width would
        # be another function.
        Row("embeddings.position_embeddings.weight", "pos -> hidden"),
        *layer_norm("embeddings.LayerNorm", "hidden"),
        *linear(_DISTIL + "attention.q_lin", "q <- hidden"),
        *linear(_DISTIL + "attention.k_lin", "kv <- hidden"),
        *linear(_DISTIL + "attention.v_lin", "kv <- hidden"),
        *linear(_DISTIL + "attention.out_lin", "hidden <- attn"),
        *layer_norm(_DISTIL + "sa_layer_norm", "hidden"),
        *linear(_DISTIL + "ffn.lin1", "ffn <- hidden"),
        *linear(_DISTIL + "ffn.lin2", "hidden <- ffn"),
        *layer_norm(_DISTIL + "output_layer_norm", "hidden"),
    ),
    heads={
        "masked-lm": Head(
            "DistilBertForMaskedLM",
            rows=(
                *linear("vocab_transform", "hidden <- hidden", per="target"),
                *layer_norm("vocab_layer_norm", "hidden"),
                *linear("vocab_projector", "vocab <- hidden", per="target"),
            ),
            tied={"vocab_projector.weight": _WORDS},
            lm_head="vocab_transform",
            output_embedding="vocab_projector",
            last_norm="vocab_layer_norm",
            reads_last=("vocab_projector.weight",),
        ),
        "sequence-classification": Head(
            "DistilBertForSequenceClassification",
            rows=(
                *linear("pre_classifier", "hidden <- hidden", per="sequence"),
                *linear("classifier", "label <- hidden", per="sequence"),
            ),
        ),
        "bare": Head("DistilBertModel"),
    },
    defaults={
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "sinusoidal_pos_embds": False,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation": "gelu",
        "initializer_range": 0.02,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "pad_token_id": 0,
        "eos_token_id": None,
        "bos_token_id": None,
        "tie_word_embeddings": True,
    },
    native={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    buffers=("embeddings.position_ids",),
)

_PROJECTED = "embedding_size != hidden_size"

ELECTRA = Family(
    name="electra",
    prefix="electra",
    norm="layer-post",
    tokenizer="wordpiece",
    typed=True,
    rows=(
        *_embeddings("embed"),
        *linear("embeddings_project", "hidden <- embed", _PROJECTED, when=_PROJECTED),
        *_BERT_BLOCK,
    ),
    heads={
        "masked-lm": Head(
            "ElectraForMaskedLM",
            rows=(
                *layer_norm("generator_predictions.LayerNorm", "embed"),
                *linear("generator_predictions.dense", "embed <- hidden", per="target"),
                *linear("generator_lm_head", "vocab <- embed", per="target"),
            ),
            tied={"generator_lm_head.weight": _WORDS},
            lm_head="generator_predictions",
            output_embedding="generator_lm_head",
            last_norm="generator_predictions.LayerNorm",
            reads_last=("generator_lm_head.weight",),
        ),
        "discriminator": Head(
            "ElectraForPreTraining",
            rows=(
                *linear("discriminator_predictions.dense", "hidden <- hidden"),
                *linear("discriminator_predictions.dense_prediction", "one <- hidden"),
            ),
        ),
        "sequence-classification": Head("ElectraForSequenceClassification", rows=_ROBERTA_CLASSIFIER),
        "bare": Head("ElectraModel"),
    },
    defaults={
        "vocab_size": 30522,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        **_COMMON,
        "intermediate_size": 1024,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    buffers=_BUFFERS,
    refuses=_NO_DECODER,
)

_MODERN = "layers.{layer}."


def _modern_norm(name: str, *, first: bool = True) -> tuple[Row, Row]:
    return layer_norm(name, shift="norm_bias", first=first)


def _modern_head(per: Rate) -> tuple[Row, ...]:
    return (*linear("head.dense", "hidden <- hidden", "classifier_bias", per=per), *_modern_norm("head.norm"))


MODERNBERT = Family(
    name="modernbert",
    prefix="model",
    norm="layer",
    normed_embeddings=True,
    rows=(
        Row("embeddings.tok_embeddings.weight", "vocab -> hidden"),
        *_modern_norm("embeddings.norm"),
        # The first block has no norm of its own: what it reads has just left the embeddings' norm.
        *_modern_norm(_MODERN + "attn_norm", first=False),
        *linear(_MODERN + "attn.Wqkv", "q|kv|kv <- hidden", "attention_bias"),
        *linear(_MODERN + "attn.Wo", "hidden <- attn", "attention_bias"),
        *_modern_norm(_MODERN + "mlp_norm"),
        *linear(_MODERN + "mlp.Wi", "ffn|ffn <- hidden", "mlp_bias"),
        *linear(_MODERN + "mlp.Wo", "hidden <- ffn", "mlp_bias"),
        *_modern_norm("final_norm"),
    ),
    heads={
        "masked-lm": Head(
            "ModernBertForMaskedLM",
            rows=(*_modern_head("target"), *linear("decoder", "vocab <- hidden", "decoder_bias", per="target")),
            tied={"decoder.weight": "{base}embeddings.tok_embeddings.weight"},
            lm_head="head",
            output_embedding="decoder",
            last_norm="head.norm",
            reads_last=("decoder.weight",),
        ),
        "sequence-classification": Head(
            "ModernBertForSequenceClassification",
            rows=(*_modern_head("sequence"), *linear("classifier", "label <- hidden", per="sequence")),
        ),
        "bare": Head("ModernBertModel"),
    },
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "initializer_range": 0.02,
        "initializer_cutoff_factor": 2.0,
        "norm_eps": 1e-05,
        "norm_bias": False,
        "pad_token_id": 50283,
        "eos_token_id": 50282,
        "bos_token_id": 50281,
        "cls_token_id": 50281,
        "sep_token_id": 50282,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "layer_types": None,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
        },
        "local_attention": 128,
        "embedding_dropout": 0.0,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "decoder_bias": True,
        "classifier_pooling": "cls",
        "classifier_dropout": 0.0,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "deterministic_flash_attn": False,
        "sparse_prediction": False,
        "sparse_pred_ignore_index": -100,
        "tie_word_embeddings": True,
    },
    # Published configs say the pattern as a number; newer ones list the layers.
    lists={
        "layer_types": lambda config, layer: (
            "sliding_attention" if layer % config.get("global_attn_every_n_layers", 3) else "full_attention"
        )
    },
    rotary=True,
)
