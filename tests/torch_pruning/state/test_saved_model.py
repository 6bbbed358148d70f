"""Pruned models in safetensors: rebuilt bit for bit from the original class, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch_pruning as tp
from host_networks import MLP, ResidualCNN, batches, images, prune_mlp, rows, sgd, train
from safetensors import safe_open
from torch import Tensor, nn

from driving import judged, pruner_of, train_case
from fairprune_plugin import AccuracyParity
from fairprune_plugin.errors import ConfigError, FairPruneWarning, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner, load_pruned, save_pruned
from fairprune_plugin.torch_pruning.state.seal import digest
from full_disk import full_disk, needs_a_limit
from zoo import CASES, Case, randomise


def pruned_mlp(**options: Any) -> tuple[MLP, BiFPPruner]:
    torch.manual_seed(0)
    model = MLP()
    pruner = prune_mlp(model, pruning_ratio=0.5, self_check=False, **options)
    train(pruner, model, sgd(model), batches(10))
    pruner.step()
    return model.eval(), pruner


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[MLP, BiFPPruner, Path]:
    model, pruner = pruned_mlp()
    path = tmp_path_factory.mktemp("saved") / "pruned.safetensors"
    save_pruned(model, pruner, path)
    return model, pruner, path


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


CHOSEN = [c for c in CASES if c.name in {"hf-bert-heads", "hf-vit-heads", "hf-bert-ffn"}]
CHOSEN += [c for c in CASES if c.name.startswith(("mobilenet", "resnext", "densenet", "groupnorm", "prelu"))]


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")  # the host's, about ViT's embeddings
@pytest.mark.parametrize("case", CHOSEN, ids=lambda c: c.name)
def test_architectures_come_back_bit_for_bit(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = case.build()
    randomise(model)
    pruner = pruner_of(case, model, self_check=False, total_steps=4)
    train_case(pruner, case, model, torch.optim.SGD(model.parameters(), lr=1e-3), 4)
    pruner.step()
    save_pruned(model, pruner, tmp_path / "a.safetensors")
    torch.manual_seed(2)
    dense = case.build().train()
    options = case.pruner_kwargs(dense)
    given = {key: options[key] for key in ("output_transform", "forward_fn") if key in options}
    back = load_pruned(dense, tmp_path / "a.safetensors", case.inputs(), **given)
    assert back is dense
    assert back.training
    assert all(p.requires_grad for p in back.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    assert torch.equal(judged(case, back), judged(case, model))
    attributes = (
        "num_attention_heads",
        "num_heads",
        "all_head_size",
        "head_dim",
        "attention_head_size",
        "out_channels",
    )
    for (name, own), (_, other) in zip(model.named_modules(), back.named_modules(), strict=True):
        for attribute in attributes:
            assert getattr(own, attribute, None) == getattr(other, attribute, None), (name, attribute)


def test_some_architectures_were_chosen() -> None:
    assert len(CHOSEN) >= 7


class Normed(nn.Module):
    """A wide layer norm, which the host alone would put into another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.fc = nn.Linear(6, 64), nn.LayerNorm(64), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.norm(self.a(x)).tanh())
        return y


def test_layer_norms_and_several_rounds_come_back(tmp_path: Path) -> None:
    model = Normed()
    pruner = BiFPPruner(model, rows(), pruning_ratio=0.6, ignored_layers=[model.fc], total_steps=10, iterative_steps=2)
    optimizer = sgd(model)
    for half in (batches(10)[:5], batches(10)[5:]):
        train(pruner, model, optimizer, half)
        pruner.step()
        optimizer = pruner.rebuild_optimizer(optimizer)
    assert len(pruner.pruning_history()) == 2
    with torch.no_grad():
        model.norm.bias.copy_(torch.arange(len(model.norm.bias)))  # trained on after pruning
    save_pruned(model, pruner, tmp_path / "a.safetensors")
    back = load_pruned(Normed(), tmp_path / "a.safetensors", rows())
    assert torch.equal(back.eval()(rows()), model.eval()(rows()))
    assert back.norm.normalized_shape == model.norm.normalized_shape


def test_a_result_of_fit_is_a_source_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MLP()
    pruner = prune_mlp(model, pruning_ratio=0.5, constraint=AccuracyParity(0.1), self_check=False, total_steps=None)
    result = pruner.fit(batches(10), sgd(model), epochs=1, progress=False)
    save_pruned(result.model, result, tmp_path / "a.safetensors")
    back = load_pruned(MLP(), tmp_path / "a.safetensors", rows())
    assert torch.equal(back.eval()(rows()), model.eval()(rows()))
    assert "removal" not in result.to_dict()


def test_torch_prunings_own_pruners_are_sources_too(tmp_path: Path) -> None:
    model = ResidualCNN()
    pruner = tp.pruner.BasePruner(
        model,
        images(),
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[model.fc],
    )
    pruner.step()
    save_pruned(model, pruner, tmp_path / "a.safetensors")
    back = load_pruned(ResidualCNN(), tmp_path / "a.safetensors", images())
    assert torch.equal(back.eval()(images()), model.eval()(images()))


def test_frozen_layers_of_the_new_model_stay_frozen(saved: tuple[MLP, BiFPPruner, Path]) -> None:
    dense = MLP()
    dense.a.requires_grad_(False)
    back = load_pruned(dense, saved[2], rows())
    assert not back.a.weight.requires_grad
    assert back.b.weight.requires_grad
    assert torch.equal(back.eval()(rows()), saved[0](rows()))


def test_the_file_is_plain_safetensors_with_json(saved: tuple[MLP, BiFPPruner, Path]) -> None:
    model, pruner, path = saved
    for name, value in safetensors.torch.load_file(path).items():
        assert torch.equal(value, model.state_dict()[name])
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["fairprune_plugin"])
    assert record["history"] == json.loads(json.dumps(pruner.pruning_history()))
    assert record["class"].endswith("MLP")
    assert record["dense"]["a.weight"] == [12, 6]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    """A batch norm is often left in single precision."""
    model, pruner = pruned_mlp()
    model.to(dtype)
    model.bn.float()
    save_pruned(model, pruner, tmp_path / "a.safetensors")
    back = load_pruned(MLP(), tmp_path / "a.safetensors", rows())
    for name, value in model.state_dict().items():
        assert back.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(back.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in back.parameters())


def test_a_shared_parameter_is_still_shared_in_another_dtype(tmp_path: Path) -> None:
    class Tied(MLP):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Linear(8, 2)
            self.again.weight = self.fc.weight

    model = Tied()
    pruner = prune_mlp(model, ignored_layers=[model.fc, model.b, model.again], pruning_ratio=0.5, self_check=False)
    train(pruner, model, sgd(model), batches(10))
    pruner.step()
    save_pruned(model.double(), pruner, tmp_path / "a.safetensors")
    back: Any = load_pruned(Tied(), tmp_path / "a.safetensors", rows())
    assert back.again.weight is back.fc.weight
    assert torch.equal(back.eval()(rows().double()), model.eval()(rows().double()))


def test_saving_replaces_the_file(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    save_pruned(saved[0], saved[1], str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert torch.equal(load_pruned(MLP(), path, rows()).eval()(rows()), saved[0](rows()))


# ---- Torch-Pruning's customary way -------------------------------------------------------------------------


def test_the_whole_object_through_torch_save(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    """Pickle: quick, needs the class to be importable, and executes what is in the file."""
    model = saved[0]
    torch.save(model, tmp_path / "model.pth")
    back = torch.load(tmp_path / "model.pth", weights_only=False)
    assert torch.equal(back(rows()), model(rows()))
    assert back.a.out_features == 6
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "model.pth", weights_only=True)


def test_torch_prunings_own_state_dict_is_put_into_a_new_model(tmp_path: Path) -> None:
    """Its ``tp.state_dict`` holds tensors and attributes of every module: pickle as well."""
    model = Normed()
    pruner = BiFPPruner(model, rows(), pruning_ratio=0.6, ignored_layers=[model.fc], total_steps=10)
    train(pruner, model, sgd(model), batches(10))
    pruner.step()
    torch.save(tp.state_dict(model.eval()), tmp_path / "state.pth")
    back = tp.load_state_dict(Normed(), torch.load(tmp_path / "state.pth", weights_only=False))
    assert back.a.out_features == model.a.out_features < 64
    assert torch.equal(back.eval()(rows()), model(rows()))
    # Plain weights fit a model that was pruned alike, by Torch-Pruning's record.
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    alike = Normed()
    tp.DependencyGraph().build_dependency(alike, rows()).load_pruning_history(pruner.pruning_history())
    alike.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert torch.equal(alike.eval()(rows()), model(rows()))


def test_a_model_in_training_can_be_pickled_with_its_hooks_on(tmp_path: Path) -> None:
    """Norms carry a hook while channels under them are hidden; it travels and still computes the same."""
    model = Normed()
    pruner = BiFPPruner(model, rows(), pruning_ratio=0.6, ignored_layers=[model.fc], total_steps=10)
    train(pruner, model, sgd(model), batches(8))
    assert not bool(pruner.engine.weights.keep.all())
    torch.save(model, tmp_path / "model.pth")
    back = torch.load(tmp_path / "model.pth", weights_only=False)
    assert torch.equal(back.eval()(rows()), model.eval()(rows()))


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dense", "inputs", "message"),
    [
        (lambda: MLP(hidden=(14, 8)), rows, r"a\.weight is \(12, 6\) there and \(14, 6\) in this model"),
        (ResidualCNN, images, r"stem\.weight is absent there"),
        (lambda: MLP(classes=3), rows, r"fc\.weight is \(2, 8\) there and \(3, 8\)"),
    ],
)
def test_another_model_is_refused_and_left_alone(
    saved: tuple[MLP, BiFPPruner, Path], dense: Any, inputs: Any, message: str
) -> None:
    model = dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"holds a pruned .*MLP.*{message}"):
        load_pruned(model, saved[2], inputs())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_model_already_pruned_is_refused(saved: tuple[MLP, BiFPPruner, Path]) -> None:
    model = load_pruned(MLP(), saved[2], rows())
    with pytest.raises(ConfigError, match="Pass a new dense model"):
        load_pruned(model, saved[2], rows())


def test_truncated_files_are_refused(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    whole = saved[2].read_bytes()
    path = tmp_path / "a.safetensors"
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="not a whole one"):
            load_pruned(MLP(), path, rows())


def test_a_flipped_bit_is_found(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    """Wherever it is in the file: in the header, in the record, or in the weights."""
    whole = saved[2].read_bytes()
    path = tmp_path / "a.safetensors"
    for position in range(0, len(whole), 23):
        if abs(position - whole.index(b'"format":"pt"')) < 16:  # of safetensors, for other readers
            continue
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"is damaged|not a whole one|was not written by save_pruned"):
            load_pruned(MLP(), path, rows())
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x80]))  # the sign of a weight
    with pytest.raises(ConfigError, match=r"a\.safetensors is damaged: .* save the model again"):
        load_pruned(MLP(), path, rows())


class Renamed(MLP):
    """The same layers in a class of another name."""


def test_another_class_with_the_same_shapes_draws_a_warning(saved: tuple[MLP, BiFPPruner, Path]) -> None:
    with pytest.warns(
        FairPruneWarning, match=r"holds a pruned host_networks\.MLP, and this model is a .*Renamed"
    ) as seen:
        back = load_pruned(Renamed(), saved[2], rows())
    assert [Path(warning.filename).name for warning in seen] == [Path(__file__).name]
    assert torch.equal(back.eval()(rows()), saved[0](rows()))


@needs_a_limit
def test_a_full_disk_leaves_the_old_file(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    for after in (0, 600, saved[2].stat().st_size - 1):
        with full_disk(after), pytest.raises(ConfigError, match=r"cannot save to .*a\.safetensors: .*make room for"):
            save_pruned(saved[0], saved[1], path)
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    save_pruned(saved[0], saved[1], path)
    load_pruned(MLP(), path, rows())


class Lazy(MLP):
    """One layer learns its size from its first inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.LazyLinear(8)


def test_lazy_layers_must_have_their_sizes(tmp_path: Path) -> None:
    model = Lazy()
    model(rows())
    pruner = prune_mlp(model, pruning_ratio=0.5)
    train(pruner, model, sgd(model), batches(10))
    pruner.step()
    save_pruned(model, pruner, tmp_path / "a.safetensors")
    dense = Lazy()
    with pytest.raises(
        ConfigError, match=r"b\.weight \(and 1 more\) is of a lazy layer: run the model on the example inputs"
    ):
        load_pruned(dense, tmp_path / "a.safetensors", rows())
    dense(rows())
    assert torch.equal(load_pruned(dense, tmp_path / "a.safetensors", rows()).eval()(rows()), model.eval()(rows()))


def test_a_dtype_that_the_format_does_not_know_is_named(tmp_path: Path) -> None:
    model, pruner = pruned_mlp()
    model.register_buffer("spectrum", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(ConfigError, match=r"cannot hold values of torch\.complex128.*view_as_real"):
        save_pruned(model, pruner, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(MLP().state_dict(), path)
    with pytest.raises(ConfigError, match=r"^\S+ was not written by save_pruned") as raised:
        load_pruned(MLP(), path, rows())
    assert "not a safetensors file" not in str(raised.value)
    torch.save(MLP().state_dict(), path)
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        load_pruned(MLP(), path, rows())
    with pytest.raises(FileNotFoundError):
        load_pruned(MLP(), tmp_path / "none", rows())


def test_a_record_that_does_not_lead_to_the_weights_is_refused(
    saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path
) -> None:
    """Somebody edited the metadata: one channel fewer goes, or a layer that is not there."""
    tensors = safetensors.torch.load_file(saved[2])
    with safe_open(saved[2], framework="pt") as file:
        text = file.metadata()["fairprune_plugin"]
    path = tmp_path / "a.safetensors"
    for edit in ([["a", True, [0]]], [["nowhere", True, [0]]], [["a", True, [99]]]):
        record = {**json.loads(text), "history": edit}
        metadata = {"fairprune_plugin": json.dumps(record), "sha256": digest(record, tensors)}
        safetensors.torch.save_file(tensors, path, metadata=metadata)
        with pytest.raises(ConfigError, match="cannot become one"):
            load_pruned(MLP(), path, rows())


def test_hidden_channels_are_not_pruned_ones(tmp_path: Path) -> None:
    model = MLP()
    pruner = prune_mlp(model, pruning_ratio=0.5)
    train(pruner, model, sgd(model), batches(8))
    with pytest.raises(TrainingStateError, match=r"hidden and not removed yet: call pruner\.step\(\)"):
        save_pruned(model, pruner, tmp_path / "a.safetensors")


def test_a_model_of_another_pruner_is_refused(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another model than its source pruned"):
        save_pruned(MLP(), saved[1], tmp_path / "a.safetensors")


def test_a_history_with_doubled_entries_is_refused(tmp_path: Path) -> None:
    """Torch-Pruning 1.6.1 records ``group.prune(idxs=…)`` twice; replayed, that would remove other channels."""
    model = MLP()
    pruner = tp.pruner.BasePruner(model, rows(), importance=tp.importance.GroupMagnitudeImportance())
    group = pruner.DG.get_pruning_group(model.a, tp.prune_linear_out_channels, list(range(4)))
    group.prune(idxs=[0, 1])
    with pytest.raises(TrainingStateError, match="a lost 6 channels, but it lost 2"):
        save_pruned(model, pruner, tmp_path / "a.safetensors")


def test_a_state_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    class Counting(MLP):
        def get_extra_state(self) -> Any:
            return {"seen": 3}

        def set_extra_state(self, state: Any) -> None: ...

    model = Counting()
    pruner = prune_mlp(model, pruning_ratio=0.5, self_check=False)
    train(pruner, model, sgd(model), batches(10))
    pruner.step()
    with pytest.raises(
        ConfigError, match="dense tensors only, but _extra_state of the model's state is something else"
    ):
        save_pruned(model, pruner, tmp_path / "a.safetensors")


@pytest.mark.parametrize("source", [None, "pruner"])
def test_a_source_that_pruned_nothing_is_refused(source: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the pruner that removed the channels"):
        save_pruned(MLP(), source, tmp_path / "pruned.safetensors")


def test_a_folder_is_no_file(saved: tuple[MLP, BiFPPruner, Path], tmp_path: Path) -> None:
    model, pruner, _ = saved
    with pytest.raises(ConfigError, match="it is a folder"):
        save_pruned(model, pruner, tmp_path)


def test_inputs_of_another_kind_are_refused_in_words(saved: tuple[MLP, BiFPPruner, Path]) -> None:
    with pytest.raises(ConfigError, match="cannot become one"):
        load_pruned(MLP(), saved[2], {"wrong": rows()})
