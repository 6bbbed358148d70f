"""The two small networks and the dense loop that trains them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faces import FaceSplit, MobileNetV2, ResNet10, UnknownChoiceError, evaluate, train


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def split() -> FaceSplit:
    """Bright images are class 1: a task that a few steps learn."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(96) % 2
    noise = torch.randint(0, 128, (96, 3, 16, 16), generator=generator)
    return FaceSplit(
        name="toy/train",
        images=(noise + 127 * target.view(-1, 1, 1, 1)).to(torch.uint8),
        target=target,
        sensitive=torch.arange(96) % 3 % 2,
        class_names=("dark", "bright"),
        group_names=("a", "b", "absent"),
    )


def test_resnet10_has_the_parameters_of_its_plan() -> None:
    # By hand, w channels first: the stem, then per stage two 3x3 convolutions, batch norms, projection.
    w, classes = 4, 3
    expected = 27 * w + 2 * w + 2 * (9 * w * w) + 4 * w
    for inputs, outputs in ((w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)):
        expected += 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs + inputs * outputs + 2 * outputs
    expected += 8 * w * classes + classes
    assert parameters(ResNet10(num_classes=classes, width=w)) == expected


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    ("model", "final"),
    [
        (ResNet10(num_classes=5, width=4), "layer4"),
        (MobileNetV2(num_classes=5, width=0.25), "features"),
    ],
    ids=["resnet10", "mobilenetv2"],
)
def test_small_input_is_divided_by_eight(model: nn.Module, final: str, side: int) -> None:
    shapes: list[torch.Size] = []
    handle = model.get_submodule(final).register_forward_hook(lambda *call: shapes.append(call[2].shape))
    assert model(torch.zeros(2, 3, side, side)).shape == (2, 5)
    handle.remove()
    assert shapes[0][2:] == (side // 8, side // 8)


def test_output_layers_are_linear() -> None:
    assert isinstance(ResNet10(width=4).fc, nn.Linear)
    assert isinstance(MobileNetV2(width=0.25).classifier, nn.Linear)


def test_mobilenetv2_at_full_width_has_the_published_size() -> None:
    # 3.4 M parameters with 1000 classes in Table 4 of the paper; strides do not change it.
    assert parameters(MobileNetV2(num_classes=1000)) == pytest.approx(3.4e6, rel=0.04)


def test_mobilenetv2_paper_strides_divide_by_32() -> None:
    model = MobileNetV2(width=0.25, small_input=False)
    assert model.features(torch.zeros(1, 3, 64, 64)).shape[2:] == (2, 2)


@pytest.mark.parametrize("broken", [lambda: ResNet10(width=0), lambda: MobileNetV2(width=0.0)])
def test_sizes_below_one_are_refused(broken: object) -> None:
    with pytest.raises(ValueError, match="got"):
        broken()  # type: ignore[operator]


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adamw", 0.01)])
def test_training_learns_and_is_reproducible(split: FaceSplit, optimizer: str, lr: float) -> None:
    def run() -> tuple[list[float], ResNet10]:
        torch.manual_seed(0)
        model = ResNet10(width=4)
        return train(model, split, epochs=4, batch_size=16, optimizer=optimizer, lr=lr, seed=1), model

    losses, model = run()
    again, _ = run()
    assert losses == again
    assert losses[-1] < losses[0]
    assert evaluate(model, split).accuracy > 0.9


def test_evaluation_keeps_the_order_and_the_mode(split: FaceSplit) -> None:
    model = ResNet10(width=4).train()
    result = evaluate(model, split, batch_size=40)
    assert model.training
    assert result.logits.shape == (96, 2)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(result.logits, model(split.batch()[0]))
    by_group = result.group_accuracy(3)
    assert torch.isnan(by_group[2])
    share = torch.bincount(split.sensitive).double() / len(split)
    assert float((by_group[:2] * share).sum()) == pytest.approx(result.accuracy)


def test_unknown_optimizer_lists_the_choices(split: FaceSplit) -> None:
    with pytest.raises(UnknownChoiceError, match="'adam': expected one of 'sgd', 'adamw'"):
        train(ResNet10(width=4), split, optimizer="adam")
