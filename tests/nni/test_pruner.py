"""The pruner's training: the engine's own, seen through NNI's wrappers and evaluator."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import nni
import pytest
import torch
from nni.compression import pruning
from nni.compression.pruning.scheduled_pruner import ScheduledPruner
from torch import Tensor, nn

from fairprune_plugin import AccuracyParity, BiLevelConfig, DegradationParity, EqualOpportunity, FairPruneWarning
from fairprune_plugin.engine.bilevel import BiLevelEngine
from fairprune_plugin.engine.scores import MaskScores
from fairprune_plugin.engine.timetable import Timetable
from fairprune_plugin.errors import ConfigError, DataError, TrainingStateError
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.masks.element_budget import Member, hide_by_elements
from fairprune_plugin.masks.groups import BlockGroup, BlockSite
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.masks.saliency import group_magnitude
from fairprune_plugin.nni import BiFPPruner, TorchEvaluator, register, unregister
from fairprune_plugin.nni.capture import default_logits
from nni_toys import batches, config, evaluator, group_of, loop, mlp, training_step

X = batches(1)[0][0]
GRANULARITIES: dict[str, Any] = {
    "rows": "default",
    "unstructured": "unstructured",
    "2:4": "2:4",
    "columns": "in_channel",
    "tiles": [4, 4],
}


def run(
    model: nn.Module,
    settings: dict[str, Any] | None = None,
    *,
    steps: int = 24,
    dummy: Tensor | None = None,
    watch: Any = None,
    **options: Any,
) -> tuple[BiFPPruner, dict[str, Any]]:
    found = evaluator(model, watch=watch, dummy_input=dummy)
    defaults: dict[str, Any] = {"constraint": EqualOpportunity(tolerance=0.02), "sensitive": group_of}
    pruner = BiFPPruner(model, config(**settings or {}), found, 4, 16, **{**defaults, **options})
    wrapped, masks = pruner.compress(steps, None)
    assert wrapped is model
    return pruner, masks


def test_it_is_a_scheduled_pruner() -> None:
    assert issubclass(BiFPPruner, ScheduledPruner)


@pytest.mark.parametrize("granularity", GRANULARITIES.values(), ids=GRANULARITIES)
@pytest.mark.parametrize("dummy", [None, X], ids=["no graph", "graph"])
def test_the_masks_reach_the_goal_and_survive_unwrapping(granularity: Any, dummy: Tensor | None) -> None:
    model = mlp()
    pruner, masks = run(model, {"granularity": granularity}, dummy=dummy)
    model.eval()
    outputs = model(X)
    for name in ("0", "3"):
        mask = masks[name]["weight"].expand_as(pruner._module_wrappers[name].weight)
        assert mask.mean() == 0.5
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        wrapper = pruner._module_wrappers[name]
        assert torch.equal(wrapper.weight_mask, masks[name]["weight"])
        assert (wrapper.weight[mask == 0] == 0).all()
        assert wrapper.pruning_target_spaces["weight"].apply_method == "mul"
    pruner.unwrap_model()
    assert torch.equal(model(X), outputs)
    assert not any(hasattr(module, "_nni_wrapper") for module in model.modules())


@pytest.mark.parametrize(
    ("layer", "kept"),
    [
        (nn.Conv2d(1, 8, 3), 1),
        (nn.Conv2d(8, 8, 3, groups=8), 1),
        (nn.ConvTranspose2d(16, 8, 2), 0.5),
        (nn.ConvTranspose2d(4, 8, 2), 0.5),
    ],
    ids=["one input", "depthwise", "transposed", "transposed and wider"],
)
def test_input_channels_of_other_layers(layer: nn.Module, kept: float) -> None:
    """What NNI's own pruner keeps; the bias goes with no input channel."""
    asked = [{"op_names": ["0"], "sparse_ratio": 0.5, "granularity": "in_channel"}]
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(layer), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    _, expected = pruning.L1NormPruner(copy.deepcopy(model), asked).compress()
    data = [(torch.randn(8, layer.in_channels, 4, 4), torch.arange(8) % 2)]
    pruner = BiFPPruner(model, asked, evaluator(model, data), 2, 6)
    _, masks = pruner.compress(8, None)
    for found in (expected, masks):
        assert float(found["0"]["weight"].mean()) == kept
        assert torch.equal(found["0"]["bias"], torch.ones(8))
    pruner.unwrap_model()
    assert bool((model[0].weight * (1 - masks["0"]["weight"]) == 0).all())


def test_a_bias_goes_with_a_block_of_rows() -> None:
    model = mlp()
    _, masks = run(model, {"granularity": [4, -1]})
    for name in ("0", "3"):
        kept = masks[name]["weight"][:, 0]
        assert kept.sum() == 8
        assert torch.equal(masks[name]["bias"], kept)


def test_it_is_the_engines_own_training() -> None:
    """The same run without NNI: a plain loop over the engine gives the same weights, mask and multipliers."""
    constraint = AccuracyParity(tolerance=0.01)
    settings = BiLevelConfig(weight_steps_per_mask_step=2)
    wrapped = mlp()
    only_weights = {"granularity": "unstructured", "target_names": ["weight"]}
    pruner, masks = run(wrapped, only_weights, constraint=constraint, bilevel=settings)
    pruner.unwrap_model()

    model = mlp()
    sites = [BlockSite(model[index].weight, str(index), (1, 1)) for index in (0, 3)]
    weights = MaskedWeights(tuple(BlockGroup(site.name, site.parameter.numel(), (site,)) for site in sites))

    def project(scores: Tensor, progress: float) -> Tensor:
        keep = torch.ones(len(scores), dtype=torch.bool)
        for units in (weights.of(0), weights.of(1)):
            size = units.stop - units.start
            hide_by_elements(keep, scores, [Member(units, 1, size - 1)], int(size * 0.5 * progress + 1e-6))
        return keep

    config_ = BiLevelConfig(weight_steps_per_mask_step=2, warmup=4 / 16, ramp_end=1.0)
    scores = MaskScores(group_magnitude(weights), config_, torch.ones(weights.num_units, dtype=torch.bool))
    engine = BiLevelEngine(model, weights, Lagrangian(constraint), project, config_, scores)
    engine.timetable = Timetable(config_, 16, ratio=0.5)
    engine.lagrangian.plan(24)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    data = batches()
    for step in range(24):
        x, y, s = data[step % len(data)]
        optimizer.zero_grad()
        engine.loss(model(x), y, s).backward()
        engine.after_backward()
        optimizer.step()
        engine.after_optimizer_step()

    assert torch.equal(weights.keep, pruner.weights.keep)
    for name in ("0", "3"):
        assert torch.equal(masks[name]["weight"].bool(), (model.get_parameter(f"{name}.weight") != 0))
    for name, parameter in model.named_parameters():
        assert torch.allclose(wrapped.get_parameter(name), parameter, atol=1e-6), name
    ours, theirs = engine.lagrangian.trackers[0], pruner.lagrangian.trackers[0]
    assert torch.equal(ours.counts.totals, theirs.counts.totals)


def test_with_a_graph_the_consumers_are_masked_and_hidden_channels_can_return() -> None:
    pruner, masks = run(mlp(), dummy=X)
    assert all(unit_set.inside for unit_set in pruner.units.sets)
    fc = pruner.bound_model.get_parameter("6.weight")
    assert torch.equal((fc == 0).all(0), masks["3"]["weight"].reshape(16, -1)[:, 0] == 0)
    assert (pruner.engine.scores.value() > 0).all()  # rows behind a ReLU of zero would score nothing


def test_single_weights_are_told_from_larger_units() -> None:
    for granularity, single in (({"granularity": "unstructured"}, True), ({"granularity": [4, 4]}, False)):
        pruner, _ = run(mlp(), {"target_names": ["weight"], **granularity})
        assert torch.equal(pruner.units.single, torch.full((pruner.weights.num_units,), single))
    pruner, _ = run(mlp(), dummy=X)
    assert not pruner.units.single.any()


def test_the_constraint_acts() -> None:
    """The same training with and without: multipliers move, and the gap of the training batches shrinks."""

    def gap(model: nn.Module) -> float:
        model.eval()
        rates = []
        for group in (0, 1):
            hits = [(model(x).argmax(1)[(s == group) & (y == 1)]).float() for x, y, s in batches()]
            rates.append(float(torch.cat(hits).mean()))
        return abs(rates[0] - rates[1])

    free, fair = mlp(4), mlp(4)
    run(free, {"granularity": "unstructured"}, steps=150, constraint=None)
    pruner, _ = run(
        fair,
        {"granularity": "unstructured"},
        steps=150,
        constraint=EqualOpportunity(tolerance=0.0),
        multipliers={"lr": 0.05},  # with a tolerance of 0, ten times as much swings to the other side
    )
    assert gap(fair) < gap(free)
    assert (
        float(pruner.lagrangian.trackers[0].strict_violation(pruner.lagrangian.trackers[0].counts, "train").max()) < 0.2
    )


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_a_step_may_return_more_than_the_loss(form: str) -> None:
    def step(batch: Any, model: nn.Module) -> Any:
        loss = training_step(batch, model)
        return {"loss": loss, "more": 1} if form == "dict" else (loss, 1)

    model = mlp()
    pruner = BiFPPruner(
        model, config(), evaluator(model, step=step), 2, 6, constraint=EqualOpportunity(0.02), sensitive=group_of
    )
    pruner.compress(8, None)
    assert pruner.engine.step_index == 8


def test_batches_may_be_dicts_and_outputs_objects() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Output:
            return Output(self.body(x))

    def step(batch: dict[str, Tensor], model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]).logits, batch["labels"])

    model = Model()
    data = [{"x": x, "labels": y, "group": s} for x, y, s in batches()]
    names = [{"op_names": ["body.0"], "sparse_ratio": 0.5}]
    pruner = BiFPPruner(
        model,
        names,
        evaluator(model, data, step=step),
        2,
        6,
        constraint=EqualOpportunity(0.02),
        sensitive=lambda batch: batch["group"],
    )
    pruner.compress(8, None)
    assert float(pruner.lagrangian.trackers[0].counts.totals.sum()) > 0


class Answering(nn.Module):
    """An MLP whose answer holds its logits in some form."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body = mlp()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.body(x))


@pytest.mark.parametrize(
    ("answer", "logits"),
    [
        (lambda scores: (scores, scores.sum()), None),
        (lambda scores: {"logits": scores}, None),
        (lambda scores: {"scores": scores}, lambda output: output["scores"]),
        (lambda scores: (scores.sum(), scores), lambda output: output[1]),
        (lambda scores: SimpleNamespace(logits=-scores, other=scores), lambda output: output.other),
    ],
    ids=["tuple", "mapping", "mapping by logits=", "tuple by logits=", "object by logits="],
)
def test_logits_are_read_everywhere_as_in_training(answer: Any, logits: Any) -> None:
    """Held-out batches, dense rates and evaluations: the same as with a model that returns its logits alone."""

    def trained(answer: Any, logits: Any) -> tuple[BiFPPruner, Any, Any]:
        read = logits or default_logits

        def step(batch: Any, model: nn.Module) -> Tensor:
            return nn.functional.cross_entropy(read(model(batch[0])), batch[1])

        model = Answering(answer)
        pruner = BiFPPruner(
            model,
            [{"op_names": ["body.0", "body.3"], "sparse_ratio": 0.5}],
            evaluator(model, step=step),
            2,
            6,
            constraint=DegradationParity(0.0),
            sensitive=group_of,
            logits=logits,
            validation=batches(seed=1),
        )
        pruner.measure_dense(batches())
        dense = pruner.measure_dense(batches(seed=1), split="validation")
        pruner.compress(16, None)
        return pruner, dense, pruner.evaluate(batches(seed=1), split="validation")

    plain, expected_dense, expected = trained(lambda scores: scores, None)
    pruner, dense, found = trained(answer, logits)
    assert (dense.accuracy, dense.verdicts) == (expected_dense.accuracy, expected_dense.verdicts)
    assert (found.accuracy, found.verdicts) == (expected.accuracy, expected.verdicts)
    moved = plain.lagrangian.trackers[0].multipliers.value
    assert torch.equal(pruner.lagrangian.trackers[0].multipliers.value, moved)
    assert bool(moved.any())
    assert not any(module._forward_hooks for module in pruner.bound_model.modules())


def test_an_answer_without_logits_when_the_model_is_judged() -> None:
    model = Answering(lambda scores: {"scores": scores})
    entry = [{"op_names": ["body.0"], "sparse_ratio": 0.5}]
    pruner = BiFPPruner(model, entry, evaluator(model), 2, 6, constraint=AccuracyParity(0.1), sensitive=group_of)
    with pytest.raises(DataError, match="expected the logits as a tensor, got dict: pass logits=lambda output"):
        pruner.evaluate(batches())
    own = pruner.evaluate(batches(), forward=lambda model, x: model(x)["scores"])
    assert len(own.verdicts) == 1


def test_an_optimizer_with_a_closure() -> None:
    """Loss and gradient inside ``optimizer.step``: the same training."""

    def training_func(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        data = batches()
        for index in range(24):

            def closure(index: int = index) -> Tensor:
                batch = data[index % len(data)]
                optimizer.zero_grad()
                loss: Tensor = step(batch, model)
                loss.backward()
                return loss

            optimizer.step(closure)

    usual, other = mlp(), mlp()
    expected, _ = run(usual)
    found = evaluator(other)
    found.training_func = training_func
    pruner = BiFPPruner(other, config(), found, 4, 16, constraint=EqualOpportunity(tolerance=0.02), sensitive=group_of)
    pruner.compress(24, None)
    assert torch.equal(pruner.weights.keep, expected.weights.keep)
    for a, b in zip(usual.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("calls", [1, 4])
def test_an_optimizer_that_calls_its_closure_again(calls: int) -> None:
    def training_func(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        for index in range(8):

            def closure(index: int = index) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = step(batches()[index % 4], model)
                loss.backward()
                return loss

            optimizer.step(closure)

    model = mlp()
    optimizer = nni.trace(torch.optim.LBFGS)(model.parameters(), lr=0.01, max_iter=calls)
    pruner = BiFPPruner(model, config(), TorchEvaluator(training_func, optimizer, training_step), 2, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FairPruneWarning)
        pruner.compress(8, None)
    said = [str(warning.message) for warning in caught if "each counts as a step" in str(warning.message)]
    assert len(said) == (calls > 1)
    assert (pruner.engine.step_index == 8) == (calls == 1)


def test_after_a_failed_run() -> None:
    def failing(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        loop(batches())(model, optimizer, step, max_steps=4)
        raise RuntimeError("out of data")

    model = mlp()
    found = evaluator(model)
    found.training_func = failing
    pruner = BiFPPruner(model, config(), found, 2, 6)
    with pytest.raises(RuntimeError, match="out of data"):
        pruner.compress(8, None)
    with pytest.raises(TrainingStateError, match="the last run of this pruner failed"):
        pruner.compress(8, None)


def test_evaluation_inside_the_training_function_counts_nothing() -> None:
    def step(batch: Any, model: nn.Module) -> Tensor:
        with torch.no_grad():
            model(batch[0])
        return training_step(batch, model)

    model = mlp()
    pruner = BiFPPruner(
        model,
        config(),
        evaluator(model, step=step, watch=lambda m, _: m(X).sum() if not torch.is_grad_enabled() else None),
        2,
        6,
        constraint=AccuracyParity(0.1),
        sensitive=group_of,
    )
    pruner.compress(8, None)
    assert float(pruner.lagrangian.trackers[0].counts.totals.sum()) <= 8 * 32


def test_held_out_data_move_the_multipliers() -> None:
    """Training batches without a gap, held-out ones with a wide one: λ rises only if the held-out ones drive it."""
    fair = [(x, (x[:, 0] > 0).long(), s) for x, _, s in batches()]
    wide = [(x * 0 + (s * y).reshape(-1, 1), y, s) for x, y, s in batches(seed=1)]
    reached = {}
    for name, loader in (("train", None), ("validation", wide)):
        model = mlp()
        pruner = BiFPPruner(
            model,
            config(),
            evaluator(model, fair),
            4,
            16,
            constraint=AccuracyParity(tolerance=0.2),
            sensitive=group_of,
            validation=loader,
        )
        pruner.compress(40, None)
        assert pruner.lagrangian.driver == name
        reached[name] = float(pruner.lagrangian.trackers[0].multipliers.value.max())
    assert reached["validation"] > 2 * reached["train"]


def test_degradation_parity_compares_with_the_dense_model() -> None:
    model = mlp()
    pruner = BiFPPruner(
        model, config(), evaluator(model), 4, 16, constraint=DegradationParity(0.05), sensitive=group_of
    )
    dense = pruner.measure_dense(batches())
    assert dense.accuracy == pytest.approx(pruner.evaluate(batches(), split="train").accuracy)
    pruner.compress(24, None)
    assert len(pruner.evaluate(batches(), split="train").verdicts) == 1
    with pytest.raises(TrainingStateError, match="not the dense one any more"):
        pruner.measure_dense(batches())


def test_degradation_parity_without_the_dense_rates() -> None:
    model = mlp()
    pruner = BiFPPruner(
        model, config(), evaluator(model), 4, 16, constraint=DegradationParity(0.05), sensitive=group_of
    )
    with pytest.raises(TrainingStateError, match="measure_dense"):
        pruner.compress(24, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"validation": iter([])}, "again and again"), ({"validation": [], "dual_every": 0}, "dual_every")],
)
def test_unusable_validation(options: Any, words: str) -> None:
    model = mlp()
    with pytest.raises(ConfigError, match=words):
        BiFPPruner(model, config(), evaluator(model), 4, 16, **options)


@pytest.mark.parametrize("as_dicts", [False, True])
def test_held_out_data_are_looked_at_before_training(as_dicts: bool) -> None:
    taken = []
    one_group: list[Any] = [(x, y, s * 0) for x, y, s in batches(2)]
    no_positives: list[Any] = [(x, y * (1 - s), s) for x, y, s in batches(2)]
    sensitive: Any = group_of
    if as_dicts:
        one_group, no_positives = (
            [{"x": x, "labels": y, "group": s} for x, y, s in data] for data in (one_group, no_positives)
        )
        sensitive = lambda batch: batch["group"] if isinstance(batch, dict) else batch[2]  # noqa: E731

    def pruner(held_out: Any) -> BiFPPruner:
        model = mlp()
        found = evaluator(model, watch=lambda _, step: taken.append(step))
        options: Any = {"constraint": EqualOpportunity(0.02), "sensitive": sensitive, "validation": held_out}
        return BiFPPruner(model, config(), found, 2, 6, **options)

    with pytest.raises(DataError, match=r"the validation data contain one group only \(0\) of 0, 1"):
        pruner(one_group).compress(8, None)
    assert not taken
    with pytest.warns(FairPruneWarning, match=r"on the validation data: .*is undefined for group 1 .*multipliers"):
        pruner(no_positives).compress(8, None)
    assert len(taken) == 8


def test_accumulated_gradients_are_one_step() -> None:
    """Two backward passes per optimizer step: as many alternations as optimizer steps, and the sum of the gradients."""

    def accumulating(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        for _index in range(12):
            optimizer.zero_grad()
            for x, y, s in batches(1):
                for half in (slice(0, 16), slice(16, 32)):
                    (step((x[half], y[half], s[half]), model) / 2).backward()
            optimizer.step()

    def whole(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        for _index in range(12):
            optimizer.zero_grad()
            step(batches(1)[0], model).backward()
            optimizer.step()

    found = {}
    for name, function in (("accumulating", accumulating), ("whole", whole)):
        model = mlp()
        for index in (1, 4):
            model[index] = nn.Identity()  # a batch norm would see other batches
        pruner = BiFPPruner(model, config(granularity="unstructured"), evaluator(model), 2, 8)
        pruner.evaluator.training_func = function
        pruner.compress(12, None)
        assert pruner.engine.step_index == 12
        found[name] = (pruner.weights.keep, model[6].weight.detach())
    assert torch.equal(found["accumulating"][0], found["whole"][0])
    assert torch.allclose(found["accumulating"][1], found["whole"][1], atol=1e-5)


def test_the_name_inside_nni() -> None:
    register()
    register()
    assert pruning.BiFPPruner is BiFPPruner
    unregister()
    unregister()
    assert not hasattr(pruning, "BiFPPruner")
