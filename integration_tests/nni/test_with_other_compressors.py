"""BiFP among NNI's own compressors: scheduled by them, after them, and trained together with them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import nni
import pytest
import torch
from nni.compression.distillation import DynamicLayerwiseDistiller
from nni.compression.pruning import AGPPruner, L1NormPruner, LinearPruner, TaylorPruner
from nni.compression.quantization import QATQuantizer
from torch import Tensor, nn

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import ConfigError, TrainingStateError
from fairprune_plugin.nni import BiFPPruner, TorchEvaluator, configure_structured

FAIR: dict[str, Any] = {"constraint": EqualOpportunity(tolerance=0.02), "sensitive": lambda batch: batch[2]}
GRANULARITIES = ["out_channel", "unstructured", "2:4"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("nni").setLevel(logging.ERROR)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def data() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    out = []
    for _ in range(4):
        s = torch.randint(0, 2, (32,), generator=generator)
        y = torch.randint(0, 2, (32,), generator=generator)
        x = torch.randn(32, 3, 6, 6, generator=generator) * 0.5 + (y + 0.5 * s).reshape(-1, 1, 1, 1)
        out.append((x, y, s))
    return out


def evaluator(model: nn.Module, watch: Callable[[int], None] | None = None) -> TorchEvaluator:
    batches = data()

    def training_func(
        model: nn.Module, optimizer: Any, step: Any, _: Any, max_steps: int | None, max_epochs: int | None
    ) -> None:
        for index in range(max_steps or (max_epochs or 1) * len(batches)):
            optimizer.zero_grad()
            step(batches[index % len(batches)], model).backward()
            optimizer.step()
            if watch is not None:
                watch(index + 1)

    def training_step(batch: Any, model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return TorchEvaluator(
        training_func, nni.trace(torch.optim.SGD)(model.parameters(), lr=0.05, momentum=0.9), training_step
    )


def config(granularity: str = "unstructured", names: tuple[str, ...] = ("3",)) -> list[dict[str, Any]]:
    return [{"op_names": list(names), "sparse_ratio": 0.5, "granularity": granularity}]


def same_when_unwrapped(pruner: Any, model: nn.Module) -> bool:
    model.eval()
    x = data()[0][0]
    wrapped = model(x)
    pruner.unwrap_model()
    return torch.allclose(model(x), wrapped, atol=1e-6)


@pytest.mark.parametrize("cls", [AGPPruner, LinearPruner])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scheduled_by_agp_or_linear(cls: Any, granularity: str) -> None:
    model = network()
    seen: list[float] = []
    inner = BiFPPruner(
        model,
        config(granularity),
        evaluator(model, lambda _: seen.append(float(inner.weights.keep.float().mean()))),
        **FAIR,
    )
    outer = cls(inner, interval_steps=3, total_times=4)
    _, masks = outer.compress(20, None)
    assert masks["3"]["weight"].mean() == 0.5
    assert len(inner.lagrangian.trackers) == 1
    times = range(1, 5)
    ratios = [0.5 * (1 - (1 - t / 4) ** 3) if cls is AGPPruner else 0.5 * t / 4 for t in times]
    if granularity == "unstructured":
        size = 8 * 8 * 9
        for time, ratio in zip(times, ratios, strict=True):
            assert seen[3 * time - 1] == pytest.approx(1 - int(size * ratio + 1e-6) / size)
            assert seen[3 * time - 2] < 1 or time == 1
    assert same_when_unwrapped(outer, model)


@pytest.mark.parametrize("cls", [AGPPruner, LinearPruner])
@pytest.mark.parametrize("after_another", [False, True])
def test_a_second_run_of_agp_or_linear(cls: Any, after_another: bool) -> None:
    """Masks and weights of the first run stay; a quantizer may go on with them, as often as it likes."""
    model = network()
    found = evaluator(model)
    if after_another:
        first = L1NormPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.25}], found)
        first.compress(None, None)
        inner = BiFPPruner.from_compressor(first, config(), **FAIR)
    else:
        inner = BiFPPruner(model, config(), found, **FAIR)
    outer = cls(inner, interval_steps=2, total_times=4)
    _, masks = outer.compress(10, None)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingStateError, match="this pruner has been trained already"):
        outer.compress(10, None)
    assert found.model is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(outer.get_masks()["3"]["weight"], masks["3"]["weight"])
    quantised = [{"op_names": ["3"], "target_names": ["weight"], "quant_dtype": "int8", "granularity": "default"}]
    quantizer = QATQuantizer.from_compressor(outer, quantised)
    for _ in range(2):
        quantizer.compress(10, None)
    assert torch.equal(outer.get_masks()["3"]["weight"], masks["3"]["weight"])


def test_agp_that_ends_with_its_last_goal() -> None:
    model = network()
    outer = AGPPruner(BiFPPruner(model, config(), evaluator(model)), interval_steps=3, total_times=4)
    _, masks = outer.compress(12, None)
    assert masks["3"]["weight"].mean() == 0.5


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_after_another_pruner(granularity: str) -> None:
    """Its masks stay and stay applied; ours come on top, on the layers of the new config."""
    model = network()
    first = L1NormPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.25}], evaluator(model))
    _, earlier = first.compress(None, None)
    pruner = BiFPPruner.from_compressor(first, config(granularity), 2, 8, **FAIR)
    _, masks = pruner.compress(10, None)
    assert torch.equal(masks["0"]["weight"], earlier["0"]["weight"])
    assert masks["3"]["weight"].mean() == 0.5
    assert torch.equal(pruner._module_wrappers["0"].weight_mask, earlier["0"]["weight"])


def test_before_another_pruner() -> None:
    """A trained pruner's masks are final when another compressor goes on with its model."""
    model = network()
    ours = BiFPPruner(model, config(), evaluator(model), 2, 8, **FAIR)
    _, earlier = ours.compress(10, None)
    after = TaylorPruner.from_compressor(ours, [{"op_names": ["0"], "sparse_ratio": 0.25}], training_steps=4)
    _, masks = after.compress(4, None)  # fused compressors need a length
    assert torch.equal(masks["3"]["weight"], earlier["3"]["weight"])
    assert masks["0"]["weight"].reshape(8, -1)[:, 0].sum() == 6
    assert ours.engine.step_index == 10
    assert (ours._module_wrappers["3"].weight[masks["3"]["weight"] == 0] == 0).all()


def test_nothing_left_to_configure() -> None:
    model = network()
    first = L1NormPruner(model, config("out_channel"), evaluator(model))
    with pytest.raises(ConfigError, match="configured by an earlier compressor"):
        BiFPPruner.from_compressor(first, config(), 2, 8, **FAIR)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_together_with_a_quantizer(granularity: str) -> None:
    model = network()
    pruner = BiFPPruner(model, config(granularity), evaluator(model), 2, 8, **FAIR)
    quantizer = QATQuantizer.from_compressor(
        pruner,
        [{"op_names": ["3"], "target_names": ["weight"], "quant_dtype": "int8", "granularity": "default"}],
        quant_start_step=4,
    )
    _, calibration = quantizer.compress(12, None)
    masks = pruner.get_masks()
    assert masks["3"]["weight"].mean() == 0.5
    assert calibration["3"]["weight"]["scale"] is not None
    assert pruner.engine.step_index == 12
    model.eval()
    model(data()[0][0])
    applied = model.get_submodule("3").weight  # quantised, then masked: what the layer computed with
    assert (applied[masks["3"]["weight"].expand_as(applied) == 0] == 0).all()


@pytest.mark.parametrize("quantised", [["8"], ["0", "3"], ["0", "3", "8"]], ids=["consumer", "own", "all"])
def test_together_with_a_quantizer_on_what_reads_the_channels(quantised: list[str]) -> None:
    """It wraps the consumer, whose parameter is a new one: that one is masked while training, not the old one."""
    model = network()
    x = data()[0][0]
    losses: list[float] = []

    def watch(step: int) -> None:
        hidden = (pruner.get_masks()["3"]["weight"].reshape(8, -1)[:, 0] == 0).nonzero().reshape(-1)
        if step >= 8:
            assert len(hidden) == 4
        assert (live("8")[:, hidden] == 0).all()
        losses.append(loss())

    def live(name: str) -> Tensor:
        module = model.get_submodule(name)
        return getattr(module, "_nni_wrapper", module).weight

    @torch.no_grad()
    def loss() -> float:
        model.eval()
        value = float(nn.functional.cross_entropy(model(x), data()[0][1]))
        model.train()
        return value

    settings = configure_structured(model, x, config("default", ("0", "3")))
    pruner = BiFPPruner(model, settings, evaluator(model, watch), 2, 8, **FAIR)
    quantizer = QATQuantizer.from_compressor(
        pruner,
        [{"op_names": quantised, "target_names": ["weight"], "quant_dtype": "int8", "granularity": "default"}],
        quant_start_step=1000,
    )
    quantizer.compress(12, None)
    assert loss() == pytest.approx(losses[-1], abs=1e-6)  # the baked masks are those of training


def test_together_with_a_pruner_on_what_reads_the_channels() -> None:
    model = network()
    x = data()[0][0]
    pruner = BiFPPruner(
        model, configure_structured(model, x, config("default", ("0", "3"))), evaluator(model), 2, 8, **FAIR
    )
    other = [{"op_names": ["8"], "sparse_ratio": 0.25, "granularity": "in_channel"}]
    outer = TaylorPruner.from_compressor(pruner, other, training_steps=4)
    _, masks = outer.compress(12, None)
    hidden = (masks["3"]["weight"].reshape(8, -1)[:, 0] == 0).nonzero().reshape(-1)
    assert len(hidden) == 4
    assert (outer._module_wrappers["8"].weight[:, hidden] == 0).all()


def test_the_length_of_a_quantizers_run_is_not_seen() -> None:
    """Errors say what to pass where, and leave the evaluator free for another run."""
    model = network()
    found = evaluator(model)
    quantised = [{"op_names": ["3"], "target_names": ["weight"], "quant_dtype": "int8", "granularity": "default"}]
    quantizer = QATQuantizer.from_compressor(BiFPPruner(model, config(), found), quantised)
    with pytest.raises(ConfigError, match=r"max_steps is not seen here.*pass cooldown_begin_step"):
        quantizer.compress(12, None)
    assert found.model is None
    quantizer.unwrap_model()
    pruner = BiFPPruner(model, config(), found, 2, 8)
    quantizer = QATQuantizer.from_compressor(pruner, quantised)
    with pytest.raises(TrainingStateError, match=r"after 5 optimizer steps.*step 8.*lower cooldown_begin_step"):
        quantizer.compress(5, None)
    assert found.model is None
    with pytest.raises(TrainingStateError, match="the last run of this pruner failed"):
        quantizer.compress(12, None)


def test_a_length_that_was_refused_is_forgotten() -> None:
    model = network()
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 8)
    with pytest.raises(ConfigError, match="shorter than the schedule"):
        pruner.compress(5, None)
    quantised = [{"op_names": ["3"], "target_names": ["weight"], "quant_dtype": "int8", "granularity": "default"}]
    QATQuantizer.from_compressor(pruner, quantised).compress(9, None)
    assert pruner.get_masks()["3"]["weight"].mean() == 0.5


def test_an_agp_run_of_too_few_epochs() -> None:
    model = network()
    found = evaluator(model)
    outer = AGPPruner(BiFPPruner(model, config(), found), interval_steps=2, total_times=4)
    with pytest.raises(TrainingStateError, match=r"after 4 optimizer steps.*step 8.*interval_steps or total_times"):
        outer.compress(None, 1)
    assert found.model is None


def test_two_untrained_pruners_of_ours() -> None:
    model = network()
    first = BiFPPruner(model, config(), evaluator(model), 2, 8)
    with pytest.raises(ConfigError, match="two BiFPPruners cannot be trained together"):
        BiFPPruner.from_compressor(first, config(names=("0",)), 2, 8)
    assert first._is_wrapped  # refused before anything is touched
    outer = AGPPruner(first, interval_steps=2, total_times=4)
    with pytest.raises(ConfigError, match="two BiFPPruners cannot be trained together"):
        BiFPPruner.from_compressor(outer, config(names=("0",)), 2, 8)
    assert outer._is_wrapped


def test_after_a_trained_pruner_of_ours() -> None:
    model = network()
    first = BiFPPruner(model, config(), evaluator(model), 2, 8)
    _, earlier = first.compress(8, None)
    second = BiFPPruner.from_compressor(first, config(names=("0",)), 2, 8)
    _, masks = second.compress(8, None)
    assert torch.equal(masks["3"]["weight"], earlier["3"]["weight"])
    assert masks["0"]["weight"].mean() == pytest.approx(0.5, abs=0.01)


def test_together_with_a_distiller() -> None:
    """The distillation loss is part of the task loss."""
    model, teacher = network(), network().eval()
    losses = []
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 8, **FAIR)
    distiller = DynamicLayerwiseDistiller.from_compressor(
        pruner,
        [{"op_names": ["3"], "lambda": 30.0, "apply_method": "mse", "link": "auto"}],
        teacher_model=teacher,
        teacher_predict=lambda batch, model: model(batch[0]),
    )
    lagrangian = pruner.lagrangian.loss

    def spy(*args: Any, task_loss: Tensor, **options: Any) -> Tensor:
        losses.append(float(task_loss.detach()))
        return lagrangian(*args, task_loss=task_loss, **options)

    pruner.lagrangian.loss = spy
    distiller.track_forward(data()[0][0])
    distiller.compress(12, None)
    assert pruner.get_masks()["3"]["weight"].mean() == 0.5
    assert pruner.engine.step_index == 12
    assert max(losses) > 1.0  # cross entropy alone stays near log 2
