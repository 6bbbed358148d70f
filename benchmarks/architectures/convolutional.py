"""Convolutional networks of pytorchcv and Hugging Face; the smallest variant of each family."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from .architecture import CLASSES, Architecture, image, output_layer


def _pytorchcv(family: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = importlib.import_module(f"pytorchcv.models.{family}")
        classes = 10 if name.endswith("cifar10") else CLASSES
        model: nn.Module = getattr(module, name)(num_classes=classes)
        for parent in list(model.modules()):
            if isinstance(getattr(parent, "final_pool", None), nn.AvgPool2d):
                parent.final_pool = nn.AdaptiveAvgPool2d(1)  # it is made for 224 pixels
        return model

    return build


def _cv(family: str, name: str, size: int = 64, **settings: Any) -> Architecture:
    size = 32 if name.endswith("cifar10") else size
    return Architecture(name, "pytorchcv", "channels", _pytorchcv(family, name), image(size), output_layer, **settings)


def _hf(
    name: str, kind: str, size: int, small: bool = False, refused: str | None = None, **config: Any
) -> Architecture:
    def build() -> nn.Module:
        import transformers

        settings = getattr(transformers, f"{kind}Config")(**config, num_labels=CLASSES)
        model: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(settings)
        return model

    return Architecture(
        name, "transformers", "channels", build, image(size), output_layer, small=small, refused=refused
    )


_STAGES: dict[str, Any] = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}

ARCHITECTURES = (
    _cv("resnet", "resnet10"),
    _cv("resnet_cifar", "resnet20_cifar10", small=True),
    _cv("preresnet_cifar", "preresnet20_cifar10"),
    _cv("seresnet_cifar", "seresnet20_cifar10"),
    _cv("resnetd", "resnetd50b"),
    _cv("resnext", "resnext14_16x4d"),
    _cv("cbamresnet", "cbam_resnet18", refused="it cannot follow how the channels"),
    _cv("bamresnet", "bam_resnet18"),
    _cv("ibnresnet", "ibn_resnet50", refused="masked channel is not the same as a pruned one"),
    _cv("mobilenet", "mobilenet_wd4"),
    _cv("mobilenetv2", "mobilenetv2_wd4", small=True),
    _cv("mobilenetv3", "mobilenetv3_small_w7d20"),
    _cv("mnasnet", "mnasnet_small"),
    _cv("proxylessnas", "proxylessnas_cpu"),
    _cv("fbnet", "fbnet_cb"),
    _cv("efficientnet", "efficientnet_b0"),
    _cv("ghostnet", "ghostnet"),
    _cv("regnet", "regnetx002"),
    _cv("regnet", "regnety002"),
    _cv("squeezenet", "squeezenet_v1_1", small=True),
    _cv("densenet_cifar", "densenet40_k12_cifar10"),
    _cv("peleenet", "peleenet"),
    _cv("vovnet", "vovnet27s"),
    _cv("hardnet", "hardnet39ds"),
    _cv("dla", "dla34"),
    _cv("darknet", "darknet_tiny"),
    _cv("drn", "drnc26"),
    _cv("selecsls", "selecsls42"),
    _cv("nin_cifar", "nin_cifar10"),
    _cv("hrnet", "hrnet_w18_small_v1"),
    _cv("shufflenet", "shufflenet_g1_wd4"),
    _cv("shufflenet", "shufflenet_g3_wd4", refused="masked channel is not the same as a pruned one"),
    _cv("shufflenetv2", "shufflenetv2_wd2", refused="cannot build a dependency graph"),
    _hf(
        "HF ResNet",
        "ResNet",
        32,
        small=True,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
    ),
    _hf("HF RegNet", "RegNet", 32, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], groups_width=8),
    _hf("HF MobileNetV1", "MobileNetV1", 64, depth_multiplier=0.25),
    _hf("HF MobileNetV2", "MobileNetV2", 64, depth_multiplier=0.35),
    _hf("HF ConvNeXt", "ConvNext", 64, small=True, **_STAGES),
    _hf("HF ConvNeXt V2", "ConvNextV2", 64, **_STAGES),
    _hf("HF PoolFormer", "PoolFormer", 64, **_STAGES),
)
