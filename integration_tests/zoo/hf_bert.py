"""A randomly initialised Hugging Face BERT: feed-forward width, or whole heads (Devlin et al., 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from .case import Case


def build() -> nn.Module:
    """Two layers, width 32, four heads of eight dimensions."""
    return BertForSequenceClassification(
        BertConfig(  # type: ignore[call-arg]  # num_labels reaches the base class
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=16,
            num_labels=3,
            initializer_range=0.2,
        )
    )


def inputs() -> dict[str, Tensor]:
    """Four sequences of nine tokens, two of them padded."""
    ids = torch.randint(1, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = mask[3, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _attentions(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if type(m).__name__ == "BertSelfAttention"]


def _qkv(model: nn.Module) -> list[nn.Module]:
    return [layer for a in _attentions(model) for layer in (a.query, a.key, a.value)]


def _embedding_and_output(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(name) for name in ("bert.embeddings", "bert.pooler", "classifier")]


def _ignored_for_heads(model: nn.Module) -> list[nn.Module]:
    return _embedding_and_output(model) + [m for m in model.modules() if type(m).__name__ == "BertIntermediate"]


def _logits(output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


def _head_kwargs(model: nn.Module) -> dict[str, Any]:
    return {
        "num_heads": dict.fromkeys(_qkv(model), 4),
        "prune_num_heads": True,
        "prune_head_dims": False,
        "head_pruning_ratio": 0.5,
        "output_transform": _logits,
    }


def update_heads(model: nn.Module, _pruner: object = None) -> None:
    """Bring the head counts up to date: ``forward`` infers them in transformers 5, others may read them."""
    for attention in _attentions(model):
        attention.all_head_size = attention.query.out_features
        attention.num_attention_heads = attention.all_head_size // attention.attention_head_size


CASES = [
    Case(
        "hf-bert-ffn",
        build,
        inputs,
        lambda m: _embedding_and_output(m) + _qkv(m),
        lambda _: {"output_transform": _logits},
        _logits,
    ),
    Case(
        "hf-bert-heads",
        build,
        inputs,
        _ignored_for_heads,
        _head_kwargs,
        _logits,
        after_prune=update_heads,
    ),
]
