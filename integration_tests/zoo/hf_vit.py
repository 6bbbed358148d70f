"""A randomly initialised Hugging Face ViT: feed-forward width, or whole heads (Dosovitskiy et al., 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from .case import Case, gaussian


def build() -> nn.Module:
    """Two layers, width 32, four heads of eight dimensions."""
    return ViTForImageClassification(
        ViTConfig(  # type: ignore[call-arg]  # num_labels reaches the base class
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=12,
            patch_size=4,
            num_channels=3,
            num_labels=4,
            initializer_range=0.2,
        )
    )


def _attentions(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if type(m).__name__ == "ViTAttention"]


def _qkv(model: nn.Module) -> list[nn.Module]:
    return [layer for a in _attentions(model) for layer in (a.q_proj, a.k_proj, a.v_proj)]


def _embedding_and_output(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule("vit.embeddings"), model.get_submodule("classifier")]


def _ignored_for_heads(model: nn.Module) -> list[nn.Module]:
    return _embedding_and_output(model) + [m for m in model.modules() if type(m).__name__ == "ViTMLP"]


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
        attention.num_attention_heads = attention.q_proj.out_features // attention.head_dim


CASES = [
    Case(
        "hf-vit-ffn",
        build,
        gaussian(4, 3, 12, 12),
        lambda m: _embedding_and_output(m) + _qkv(m),
        lambda _: {"output_transform": _logits},
        _logits,
    ),
    Case(
        "hf-vit-heads",
        build,
        gaussian(4, 3, 12, 12),
        _ignored_for_heads,
        _head_kwargs,
        _logits,
        after_prune=update_heads,
    ),
]
