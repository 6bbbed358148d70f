"""Small architectures on which a mask is compared with physical pruning."""

from __future__ import annotations

from . import (
    conv1d,
    densenet,
    efficientnet,
    groupnorm,
    hf_bert,
    hf_vit,
    mlp,
    mobilenetv2,
    prelu,
    resnet_basic,
    resnet_bottleneck,
    resnext,
    softmax_mlp,
    torch_mha,
    unet,
    vgg,
)
from .case import Case
from .randomise import randomise

_FAMILIES = (
    resnet_basic,
    resnet_bottleneck,
    resnext,
    mobilenetv2,
    densenet,
    vgg,
    efficientnet,
    unet,
    groupnorm,
    mlp,
    conv1d,
    prelu,
    hf_vit,
    hf_bert,
    softmax_mlp,
    torch_mha,
)

CASES: list[Case] = [case for family in _FAMILIES for case in family.CASES]

__all__ = ["CASES", "Case", "randomise"]
