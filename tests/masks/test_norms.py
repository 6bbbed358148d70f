"""Norms over kept channels are the norms of the sliced tensor; hooks come and go with the mask."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairprune_plugin.masks.groups import ChannelGroup, NormSite
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.masks.norms import KeptStatistics, MaskedNorms, group_norm_over, layer_norm_over
from toy_networks import site

KEEP = torch.tensor([True, False, True, True, False, False, True, True])


def randomise(norm: nn.Module) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}], ids=str)
@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)], ids=str)
def test_layer_norm_over_kept_channels(shape: tuple[int, ...], options: dict[str, bool]) -> None:
    norm, x = nn.LayerNorm(8, eps=0.1, **options), torch.randn(shape) * 3 + 1
    randomise(norm)
    weight = None if norm.weight is None else norm.weight[KEEP]
    bias = None if norm.bias is None else norm.bias[KEEP]
    sliced = nn.functional.layer_norm(x[..., KEEP], (5,), weight, bias, eps=0.1)
    torch.testing.assert_close(layer_norm_over(x, KEEP, norm)[..., KEEP], sliced)


def test_with_every_channel_it_is_the_norm_itself() -> None:
    everyone = torch.ones(8, dtype=torch.bool)
    layer, group, x = nn.LayerNorm(8), nn.GroupNorm(4, 8), torch.randn(3, 8)
    randomise(layer)
    randomise(group)
    torch.testing.assert_close(layer_norm_over(x, everyone, layer), layer(x))
    torch.testing.assert_close(group_norm_over(x, everyone, group), group(x))


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("shape", [(3, 8), (2, 8, 5), (2, 8, 4, 4)], ids=str)
def test_group_norm_over_kept_channels(shape: tuple[int, ...], affine: bool) -> None:
    keep = torch.tensor([True, False, True, True, True, True, False, True])  # three of each group of four
    norm, x = nn.GroupNorm(2, 8, eps=0.1, affine=affine), torch.randn(shape) * 3 + 1
    randomise(norm)
    weight, bias = (norm.weight[keep], norm.bias[keep]) if affine else (None, None)
    sliced = nn.functional.group_norm(x[:, keep], 2, weight, bias, eps=0.1)
    torch.testing.assert_close(group_norm_over(x, keep, norm)[:, keep], sliced)


def test_groups_of_different_size_and_an_empty_one() -> None:
    keep = torch.tensor([True, False, True, True, False, False, False, False])
    norm, x = nn.GroupNorm(2, 8), torch.randn(2, 8, 5)
    out = group_norm_over(x, keep, norm)
    torch.testing.assert_close(out[:, keep], nn.functional.group_norm(x[:, keep], 1))
    assert torch.isfinite(out).all(), "0 · NaN would reach the consumers of hidden channels"


def test_gradients_of_hidden_channels_do_not_pass_the_statistics() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    layer_norm_over(x, KEEP, nn.LayerNorm(8))[:, KEEP].square().sum().backward()
    assert (x.grad[:, ~KEEP] == 0).all()


def build(norm: nn.Module, unit: torch.Tensor) -> tuple[MaskedWeights, MaskedNorms]:
    consumer = nn.Linear(8, 2)
    units = int(unit.max()) + 1
    index = (unit >= 0).nonzero().reshape(-1)
    group = ChannelGroup(
        "g", units, 1, (site(consumer.weight, 1, unit[unit >= 0], index),), (), norms=(NormSite(norm, unit),)
    )
    weights = MaskedWeights((group,))
    return weights, MaskedNorms(weights)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(1, 8)], ids=["layer", "group"])
def test_hooks_appear_and_disappear(norm: nn.Module) -> None:
    weights, norms = build(norm, torch.arange(8))
    x = torch.randn(3, 8)
    dense = norm(x)
    for _ in range(2):
        weights.set(KEEP)
        norms.refresh()
        norms.refresh()
        assert len(norm._forward_hooks) == 1
        over = layer_norm_over if isinstance(norm, nn.LayerNorm) else group_norm_over
        torch.testing.assert_close(norm(x), over(x, KEEP, norm))
        weights.set(torch.ones(8, dtype=torch.bool))
        norms.refresh()
        assert len(norm._forward_hooks) == 0
        assert torch.equal(norm(x), dense)
    weights.set(KEEP)
    norms.refresh()
    norms.release()
    assert len(norm._forward_hooks) == 0


def test_channels_of_nobody_stay() -> None:
    norm = nn.LayerNorm(8)
    unit = torch.tensor([-1, 0, -1, 1, -1, 2, -1, 3])
    weights, norms = build(norm, unit)
    weights.set(torch.tensor([True, False, False, True]))
    norms.refresh()
    keep = torch.tensor([True, True, True, False, True, False, True, True])
    x = torch.randn(3, 8)
    torch.testing.assert_close(norm(x), layer_norm_over(x, keep, norm))


class ChannelsFirst(nn.LayerNorm):
    """Normalises dimension 1 of feature maps, and says so like Hugging Face's ConvNeXt."""

    data_format = "channels_first"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Silent(ChannelsFirst):
    """The same without saying so; the shape does."""

    data_format = None


@pytest.mark.parametrize("kind", [ChannelsFirst, Silent], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [5, 8], ids=["other", "as many pixels as channels"])
def test_layer_norms_of_feature_maps(kind: type[nn.LayerNorm], size: int) -> None:
    norm, x = kind(8, eps=0.1), torch.randn(2, 8, size, size) * 3 + 1
    randomise(norm)
    hook = norm.register_forward_hook(KeptStatistics(KEEP))
    got = norm(x)
    hook.remove()
    sliced = nn.functional.layer_norm(x[:, KEEP].movedim(1, -1), (5,), norm.weight[KEEP], norm.bias[KEEP], eps=0.1)
    torch.testing.assert_close(got[:, KEEP], sliced.movedim(-1, 1))


def test_a_subclass_that_says_channels_last_is_believed() -> None:
    class Last(nn.LayerNorm):
        data_format = "channels_last"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    norm, x = Last(8), torch.randn(2, 8, 8, 8)
    hook = norm.register_forward_hook(KeptStatistics(KEEP))
    got = norm(x)
    hook.remove()
    torch.testing.assert_close(got[..., KEEP], nn.functional.layer_norm(x[..., KEEP], (5,)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1, 300])
def test_reduced_precision_loses_no_more_than_the_norm_itself(dtype: torch.dtype, scale: float) -> None:
    """Under autocast the layers compute in float32 inside; sums of squares would leave the range of float16."""
    keep = torch.arange(64) % 4 != 0
    layer, sliced_layer = nn.LayerNorm(64), nn.LayerNorm(48)
    group, sliced_group = nn.GroupNorm(2, 64), nn.GroupNorm(2, 48)
    rows, maps = (torch.randn(4, 64) + 5) * scale, torch.randn(2, 64, 24, 24) * scale
    for norm, sliced, x, kept in (
        (layer, sliced_layer, rows, rows[:, keep]),
        (group, sliced_group, maps, maps[:, keep]),
    ):
        handle = norm.register_forward_hook(KeptStatistics(keep))
        with torch.autocast("cpu", dtype=dtype):
            found, native = norm(x.to(dtype))[:, keep], sliced(kept.to(dtype))
        handle.remove()
        assert found.dtype == native.dtype
        torch.testing.assert_close(found.float(), native.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
