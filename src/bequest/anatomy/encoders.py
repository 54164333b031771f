"""The tables of the encoders: bert, roberta, distilbert, electra.

All four are post-LN: the stream is normalised after each residual sum, so width growth is exact for whole multiples
only, and the norm before a tied decoder carries the division that the decoder cannot.
"""

from __future__ import annotations

from bequest.anatomy.table import Family, Head, Row

_LAYER = "encoder.layer.{layer}."


def _norm(name: str, axis: str, when: str = "") -> tuple[Row, Row]:
    return Row(f"{name}.weight", f"gain {axis}", when), Row(f"{name}.bias", f"shift {axis}", when)


def _dense(name: str, line: str, *, when: str = "", per: str = "token") -> tuple[Row, Row]:
    written = line.partition(" <- ")[0]
    return Row(f"{name}.weight", line, when, per), Row(f"{name}.bias", written, when, per)  # type: ignore[arg-type]


def _embeddings(axis: str) -> tuple[Row, ...]:
    return (
        Row("embeddings.word_embeddings.weight", f"vocab -> {axis}"),
        Row("embeddings.position_embeddings.weight", f"pos -> {axis}"),
        Row("embeddings.token_type_embeddings.weight", f"type -> {axis}"),
        *_norm("embeddings.LayerNorm", axis),
    )


_BERT_BLOCK = (
    *_dense(_LAYER + "attention.self.query", "q <- hidden"),
    *_dense(_LAYER + "attention.self.key", "kv <- hidden"),
    *_dense(_LAYER + "attention.self.value", "kv <- hidden"),
    *_dense(_LAYER + "attention.output.dense", "hidden <- attn"),
    *_norm(_LAYER + "attention.output.LayerNorm", "hidden"),
    *_dense(_LAYER + "intermediate.dense", "ffn <- hidden"),
    *_dense(_LAYER + "output.dense", "hidden <- ffn"),
    *_norm(_LAYER + "output.LayerNorm", "hidden"),
)
_POOLER = _dense("pooler.dense", "hidden <- hidden", per="sequence")
_WORDS = "{base}embeddings.word_embeddings.weight"
_ROBERTA_CLASSIFIER = (
    *_dense("classifier.dense", "hidden <- hidden", per="sequence"),
    *_dense("classifier.out_proj", "label <- hidden", per="sequence"),
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
                *_dense("cls.predictions.transform.dense", "hidden <- hidden", per="target"),
                *_norm("cls.predictions.transform.LayerNorm", "hidden"),
                *_dense("cls.predictions.decoder", "vocab <- hidden", per="target"),
            ),
            tied={"cls.predictions.decoder.weight": _WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"},
            lm_head="cls",
            output_embedding="cls.predictions.decoder",
            last_norm="cls.predictions.transform.LayerNorm",
            reads_last=("cls.predictions.decoder.weight",),
        ),
        "sequence-classification": Head(
            "BertForSequenceClassification",
            rows=_dense("classifier", "label <- hidden", per="sequence"),
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
                *_dense("lm_head.dense", "hidden <- hidden", per="target"),
                *_norm("lm_head.layer_norm", "hidden"),
                *_dense("lm_head.decoder", "vocab <- hidden", per="target"),
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
        *_norm("embeddings.LayerNorm", "hidden"),
        *_dense(_DISTIL + "attention.q_lin", "q <- hidden"),
        *_dense(_DISTIL + "attention.k_lin", "kv <- hidden"),
        *_dense(_DISTIL + "attention.v_lin", "kv <- hidden"),
        *_dense(_DISTIL + "attention.out_lin", "hidden <- attn"),
        *_norm(_DISTIL + "sa_layer_norm", "hidden"),
        *_dense(_DISTIL + "ffn.lin1", "ffn <- hidden"),
        *_dense(_DISTIL + "ffn.lin2", "hidden <- ffn"),
        *_norm(_DISTIL + "output_layer_norm", "hidden"),
    ),
    heads={
        "masked-lm": Head(
            "DistilBertForMaskedLM",
            rows=(
                *_dense("vocab_transform", "hidden <- hidden", per="target"),
                *_norm("vocab_layer_norm", "hidden"),
                *_dense("vocab_projector", "vocab <- hidden", per="target"),
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
                *_dense("pre_classifier", "hidden <- hidden", per="sequence"),
                *_dense("classifier", "label <- hidden", per="sequence"),
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
        *_dense("embeddings_project", "hidden <- embed", when=_PROJECTED),
        *_BERT_BLOCK,
    ),
    heads={
        "masked-lm": Head(
            "ElectraForMaskedLM",
            rows=(
                *_norm("generator_predictions.LayerNorm", "embed"),
                *_dense("generator_predictions.dense", "embed <- hidden", per="target"),
                *_dense("generator_lm_head", "vocab <- embed", per="target"),
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
                *_dense("discriminator_predictions.dense", "hidden <- hidden"),
                *_dense("discriminator_predictions.dense_prediction", "one <- hidden"),
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
