"""Language models of Hugging Face as sequence classifiers, with random weights: FFN widths, or heads as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .architecture import CLASSES, SAMPLES, Architecture
from .vision_transformers import attention_and_embeddings, embeddings_only, whole_heads

_WORDS: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 16}
_BERT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    **_WORDS,
}
# Without a cache of keys and values, which torch.export cannot return.
_DECODER: dict[str, Any] = {**_BERT, "pad_token_id": 0, "use_cache": False}


def tokens() -> dict[str, Tensor]:
    """Four sentences of nine tokens."""
    ids = torch.randint(3, 50, (SAMPLES, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _language(
    name: str, kind: str, *, heads: bool = False, small: bool = False, refused: str | None = None, **config: Any
) -> Architecture:
    def build() -> nn.Module:
        import transformers

        settings = getattr(transformers, f"{kind}Config")(**config, num_labels=CLASSES)
        model: nn.Module = getattr(transformers, f"{kind}ForSequenceClassification")(settings)
        return model

    if heads:
        return Architecture(
            f"{name}, heads", "transformers", "heads and FFN", build, tokens, embeddings_only, whole_heads, small=small
        )
    return Architecture(
        name, "transformers", "FFN", build, tokens, attention_and_embeddings, small=small, refused=refused
    )


ARCHITECTURES = (
    _language("HF BERT", "Bert", **_BERT),
    _language("HF BERT", "Bert", heads=True, small=True, **_BERT),
    _language("HF RoBERTa", "Roberta", heads=True, **_BERT),
    _language("HF DistilBERT", "DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=48, **_WORDS),
    _language("HF ELECTRA", "Electra", embedding_size=32, **_BERT),
    _language("HF ALBERT", "Albert", embedding_size=32, **_BERT),
    _language("HF MPNet", "MPNet", **_BERT),
    _language("HF DeBERTa V2", "DebertaV2", **_BERT),
    _language("HF Llama (GQA)", "Llama", small=True, num_key_value_heads=2, **_DECODER),
    _language("HF Mistral (GQA)", "Mistral", num_key_value_heads=2, **_DECODER),
    _language("HF Qwen2 (GQA)", "Qwen2", num_key_value_heads=2, **_DECODER),
    _language("HF Gemma (one KV head)", "Gemma", num_key_value_heads=1, head_dim=8, **_DECODER),
    _language("HF Phi", "Phi", **_DECODER),
    _language("HF GPT-NeoX", "GPTNeoX", **_DECODER),
    _language(
        "HF OPT",
        "OPT",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
        pad_token_id=0,
        use_cache=False,
        **_WORDS,
    ),
    _language(
        "HF GPT-2",
        "GPT2",
        small=True,
        refused="cannot build a dependency graph",
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=50,
        n_positions=16,
        pad_token_id=0,
    ),
)
