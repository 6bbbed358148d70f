"""NNI's pruners train through ``LightningEvaluator`` on Lightning 2, exactly as through a plain loop."""

from __future__ import annotations

import importlib
import importlib.util
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if importlib.util.find_spec("nni") is None or importlib.util.find_spec("lightning") is None:
    pytest.skip("needs nni and lightning", allow_module_level=True)

import nni
from nni.compression import LightningEvaluator
from nni.compression.utils import evaluator as nni_evaluators
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from fairprune_plugin import FairPruneWarning
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.nni import BiFPPruner
from fairprune_plugin.nni.evaluators import (
    evaluators_are_patched,
    patch_evaluators,
    patched_evaluators,
    restore_evaluators,
)
from nni_compressions import (
    BATCH,
    LEARNING_RATE,
    PRUNERS,
    STEPS,
    Network,
    assert_same,
    batches,
    compress,
    example,
    network,
    own_attributes,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:Warning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]
NAMESPACES = [name for name in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(name)]


def module_class(library: Any) -> Any:
    """The small network as a ``LightningModule``."""

    class Module(library.LightningModule):
        def __init__(self, shape: str = "optimizer") -> None:
            super().__init__()
            source = network()
            self.fc1, self.fc2, self.head = source.fc1, source.fc2, source.head
            self.shape, self.stepped = shape, 0

        def forward(self, x: Tensor) -> Tensor:
            return Network.forward(self, x)

        def training_step(self, batch: Any) -> Tensor:
            self.stepped += 1
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def test_step(self, batch: Any) -> None:
            self.log("default", (self(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            optimizer = nni.trace(torch.optim.SGD)(self.parameters(), lr=LEARNING_RATE)
            scheduler = nni.trace(StepLR)(optimizer, 1)
            plateau = {"monitor": "loss", "frequency": 1}
            return {
                "optimizer": optimizer,
                "list": [optimizer],
                "two lists": ([optimizer], [scheduler]),
                "dictionary": {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}},
                "bare scheduler": {"optimizer": optimizer, "lr_scheduler": scheduler},
                "no scheduler": {"optimizer": optimizer},
                "monitored": {
                    "optimizer": optimizer,
                    "lr_scheduler": {"scheduler": nni.trace(ReduceLROnPlateau)(optimizer), **plateau},
                },
            }[self.shape]

    return Module


def data_class(library: Any) -> Any:
    """The batches as a ``LightningDataModule``."""

    class Data(library.LightningDataModule):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(batches(), batch_size=None)

        test_dataloader = train_dataloader

    return Data


def trainer(library: Any, **limits: Any) -> Any:
    """A traced trainer that writes nothing."""
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return nni.trace(library.Trainer)(accelerator="cpu", **options, **(limits or {"max_epochs": 1}))


def evaluator_for(library: Any, **limits: Any) -> LightningEvaluator:
    """An evaluator for the small network."""
    return LightningEvaluator(trainer(library, **limits), nni.trace(data_class(library))(), dummy_input=example())


@pytest.fixture(params=NAMESPACES)
def library(request: pytest.FixtureRequest) -> Any:
    """Lightning, under either of its names."""
    return importlib.import_module(request.param)


def lightning() -> Any:
    """Lightning under its present name."""
    return importlib.import_module("lightning.pytorch")


@pytest.mark.parametrize("name", PRUNERS)
def test_same_masks_and_weights_as_in_a_plain_loop(name: str, library: Any) -> None:
    model = module_class(library)()
    with patched_evaluators():
        masks = compress(PRUNERS[name](model, evaluator_for(library)))
    assert_same(masks, model.state_dict(), name)


@pytest.mark.parametrize(
    "shape", ["optimizer", "list", "two lists", "dictionary", "bare scheduler", "no scheduler", "monitored"]
)
def test_every_form_of_configure_optimizers(shape: str) -> None:
    model = module_class(lightning())(shape)
    with patched_evaluators():
        masks = compress(PRUNERS["taylor"](model, evaluator_for(lightning())))
    assert float(masks["fc1"]["weight"].mean()) == 0.5


def with_index(self: Any, batch: Any, batch_idx: int) -> Tensor:
    assert batch_idx == self.stepped
    return type(self).training_step(self, batch)


def as_dictionary(self: Any, batch: Any) -> dict[str, Any]:
    return {"loss": type(self).training_step(self, batch), "extra": 1}


def every_other(self: Any, batch: Any) -> Tensor | None:
    loss = type(self).training_step(self, batch)
    return loss if self.stepped % 2 else None


@pytest.mark.filterwarnings("ignore:.*returned `None`:UserWarning")
@pytest.mark.parametrize("step", [with_index, as_dictionary, every_other])
@pytest.mark.parametrize("patches", [1, 2])
def test_every_form_of_training_step_can_be_patched(step: Any, patches: int) -> None:
    model, seen = module_class(lightning())(), []
    model.training_step = types.MethodType(step, model)
    with patched_evaluators():
        evaluator = evaluator_for(lightning())
        evaluator._init_optimizer_helpers(model)
        evaluator.bind_model(model)
        for _ in range(patches):
            evaluator.patch_loss(lambda loss, batch: seen.append(len(batch[0])) or 2 * loss)
        evaluator.train(max_steps=4)
        evaluator.unbind_model()
    losses = model.stepped // 2 if step is every_other else model.stepped
    assert seen == [BATCH] * (patches * losses)
    assert model.training_step.__func__ is step


@pytest.mark.filterwarnings("ignore:.*returned `None`:UserWarning")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_our_pruner_passes_over_batches_that_are_left_out(momentum: float) -> None:
    """They teach nothing, but count as steps: for Lightning, and for the schedule of the mask."""
    model = module_class(lightning())()
    model.training_step = types.MethodType(every_other, model)
    model.configure_optimizers = lambda: nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1, momentum=momentum)
    with patched_evaluators():
        pruner = PRUNERS["bifp"](model, evaluator_for(lightning()))
        masks = compress(pruner)
    assert model.stepped == pruner.engine.step_index == STEPS
    assert pruner.engine.passes == STEPS // 2
    assert float(pruner.lagrangian.trackers[0].counts.totals.sum()) <= BATCH * STEPS // 2
    for name in ("fc1", "fc2"):
        weight, mask = model.get_parameter(f"{name}.weight"), masks[name]["weight"]
        assert float(mask.mean()) == 0.5
        assert bool((weight * (1 - mask) == 0).all())


@pytest.mark.filterwarnings("ignore:.*returned `None`:UserWarning")
def test_our_pruner_says_that_every_batch_was_left_out() -> None:
    model = module_class(lightning())()
    model.training_step = types.MethodType(lambda self, batch: None, model)
    with patched_evaluators():
        pruner = PRUNERS["bifp"](model, evaluator_for(lightning()))
        with pytest.warns(FairPruneWarning, match=r"no step taught the scores.*training_step returned None"):
            compress(pruner)


def test_our_pruner_refuses_manual_optimization() -> None:
    model = module_class(lightning())()
    model.automatic_optimization = False
    with patched_evaluators(), pytest.raises(ConfigError, match=r"automatic_optimization = False.*let Lightning step"):
        PRUNERS["bifp"](model, evaluator_for(lightning()))
    assert not hasattr(model.fc1, "_nni_wrapper")


@pytest.mark.parametrize("limits", [{"max_epochs": 1}, {"max_steps": 3}, {"max_epochs": 2, "max_steps": 5}])
@pytest.mark.parametrize(("asked", "steps"), [((30, None), 30), ((None, 3), 3 * STEPS), ((20, 3), 20), ((40, 2), 24)])
def test_trains_as_long_as_the_compressor_asks(limits: dict[str, int], asked: Any, steps: int) -> None:
    """Whatever the trainer was built for: only the compressor's limits count, the first one reached."""
    model = module_class(lightning())()
    with patched_evaluators():
        pruner = PRUNERS["agp-l1"](model, evaluator_for(lightning(), **limits))
        pruner.compress(*asked)
    assert model.stepped == steps


def test_finetune_and_evaluate_keep_the_trainers_own_limits() -> None:
    model = module_class(lightning())()
    with patched_evaluators():
        evaluator = evaluator_for(lightning(), max_epochs=2)
        evaluator._init_optimizer_helpers(model)
        evaluator.bind_model(model)
        evaluator.finetune()
        accuracy, _ = evaluator.evaluate()
        evaluator.unbind_model()
    assert model.stepped == 2 * STEPS
    assert accuracy is not None
    assert 0 <= accuracy <= 1


def test_two_evaluators_at_once_run_their_own_tasks() -> None:
    first, second = (module_class(lightning())() for _ in range(2))
    with patched_evaluators():
        pruners = [PRUNERS["movement"](model, evaluator_for(lightning())) for model in (first, second)]
        masks = [compress(pruner) for pruner in pruners]
    for model, mask in zip((first, second), masks, strict=True):
        assert_same(mask, model.state_dict(), "movement")


def test_everything_is_restored() -> None:
    owners = (nni_evaluators, nni_evaluators.LightningEvaluator, nni_evaluators.TransformersEvaluator)
    before = set(own_attributes(*owners))
    with patched_evaluators():
        assert set(own_attributes(*owners)) != before
        with patched_evaluators():
            pass
        assert evaluators_are_patched()
    assert set(own_attributes(*owners)) == before
    patch_evaluators()
    patch_evaluators()
    with patched_evaluators():
        restore_evaluators()
        assert evaluators_are_patched()  # the block still needs it
    assert not evaluators_are_patched()
    restore_evaluators()
    assert set(own_attributes(*owners)) == before


def test_is_needed() -> None:
    """As shipped NNI does not train here; once it does, this module can go."""
    library = importlib.import_module("pytorch_lightning")
    pruner = PRUNERS["taylor"](module_class(library)(), evaluator_for(library))
    with pytest.raises(AttributeError, match="max_steps"):
        pruner.compress()


def test_our_pruner_says_that_the_patch_is_needed() -> None:
    library = importlib.import_module("pytorch_lightning")
    config = [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "unstructured"}]
    with pytest.raises(ConfigError, match=r"LightningEvaluator does not train with \w+ 2.*patched_evaluators\("):
        BiFPPruner(module_class(library)(), config, evaluator_for(library), 2, 6)


def test_other_objects_are_still_refused() -> None:
    with patched_evaluators(), pytest.raises(AssertionError, match="Only support traced"):
        LightningEvaluator(nn.Identity(), nni.trace(data_class(lightning()))())
