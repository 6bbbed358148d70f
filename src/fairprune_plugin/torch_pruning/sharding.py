"""The pruner's part for models that ``fully_shard`` (FSDP2) spreads over the ranks.

Torch-Pruning removes channels from whole parameters, in the modules it has traced. So the model that the pruner was built
on stays whole, and a sharded copy of it is trained; its weights come back before channels go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checks import shown
from ..distributed import Ranks
from ..engine.data_parallel import share_buffers
from ..engine.trained_model import ShardedModel, TrainedModel, reshard
from ..errors import ConfigError, TrainingStateError, UnsupportedModelError
from ..masks.masked_weights import MaskedWeights
from ..masks.norms import forget_copied_hooks
from ..shards import is_sharded, whole_of

SHARDS_SINCE = "2.9"  # the oldest torch under which the tests of sharded training pass


class Sharding:
    """Mixed into :class:`~.pruner.BiFPPruner`."""

    def begin_whole(self: Any) -> None:
        """Nothing is attached."""
        self._sharded: nn.Module | None = None
        self._whole_weights: MaskedWeights | None = None
        self._trained_as: dict[Tensor, Tensor] = {}

    def attach(self: Any, sharded: nn.Module) -> None:
        """From now on a sharded copy of the model is what is trained, and what the mask lives in.

        Call it on every rank, with a copy of the model (``copy.deepcopy(model)``) to which ``fully_shard`` was applied as a
        whole, before the first training step; after :meth:`step` in several rounds again, with a copy of the smaller model.
        Then train it as any other: ``pruner.loss(sharded(x), y, s)``, ``pruner.regularize(sharded)``. The pruner's own model
        keeps the weights it has until :meth:`step` (or :meth:`gather`) brings those of the copy.

        Args:
            sharded: The copy; its parameters are one-dimensional shards over the ranks of the pruner's process group.

        Raises:
            ConfigError: For something that is no such copy.
            UnsupportedModelError: For parameters that lie in another way, naming one, and under a torch whose
                ``fully_shard`` trained otherwise than one process does.
            TrainingStateError: In the middle of a round, or when all rounds are done.
        """
        check_torch()
        if self._sharded is not None:
            raise TrainingStateError(
                "attach() came twice: a sharded copy of the model is attached already, train that one"
            )
        if self._optimizer_steps.watched or self.engine.awaits_backward:
            raise TrainingStateError(
                "attach() came after training steps had been taken: attach the sharded copy before the first loss of a "
                "round (to go on elsewhere, load pruner.state_dict() into a new pruner)"
            )
        if self.current_step >= self.iterative_steps:
            raise TrainingStateError(
                "all pruning rounds are done: fully_shard() the smaller model as it is, the pruner has no part in that"
            )
        parameters = _sharded_parameters(self.model, sharded, self.lagrangian.ranks)
        by_id = {id(own): parameters[name] for name, own in self.model.named_parameters()}
        modules = dict(sharded.named_modules())
        modules_by_id = {id(own): modules[name] for name, own in self.model.named_modules()}
        whole = self.engine.weights
        forget_copied_hooks(sharded)
        weights = MaskedWeights(tuple(group.channels.in_copy(by_id, modules_by_id) for group in self.host_groups))
        weights.restore(whole.keep, whole.held())
        self.engine.train(ShardedModel(sharded, self.lagrangian.ranks, list(by_id.values())), weights)
        self.budget.to(weights.keep.device)
        self._whole_weights = whole
        self._sharded = sharded

    def gather(self: Any) -> None:
        """Brings the weights of the sharded copy, under their mask, into the pruner's own model; training goes on in the
        copy. Call it on every rank. Buffers (running statistics) are the first rank's, as under data parallelism.

        Raises:
            TrainingStateError: Without a sharded copy.
        """
        if self._sharded is None:
            raise TrainingStateError(
                "gather() without a sharded copy of the model: pruner.attach(sharded) comes before it"
            )
        self.engine.trained.settle()
        trained = dict(self._sharded.named_parameters())
        with torch.no_grad():
            for name, own in self.model.named_parameters():
                own.copy_(whole_of(trained[name]))
            share_buffers(self._sharded, self.lagrangian.ranks)
            buffers = dict(self._sharded.named_buffers())
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])

    def _detach(self: Any) -> None:
        """The pruner's own model is the trained one again; the copy is let go."""
        self._trained_as = {}
        if self._sharded is None:
            return
        self.gather()
        weights, whole = self.engine.weights, self._whole_weights
        whole.restore(weights.keep, weights.held())
        trained = dict(self._sharded.named_parameters())
        self._trained_as = {own: trained[name] for name, own in self.model.named_parameters()}
        self._sharded = self._whole_weights = None
        self.engine.train(TrainedModel(self.model, self.lagrangian.ranks), whole)
        self.budget.to(whole.keep.device)

    def _renewed_of_trained(self: Any) -> dict[Tensor, tuple[Tensor, list[Tensor]]]:
        """What :func:`~..engine.optimizers.rebuild` needs, for an optimizer of what was trained and what will be."""
        now: Mapping[str, Tensor] = {} if self._sharded is None else dict(self._sharded.named_parameters())
        names = {id(own): name for name, own in self.model.named_parameters()}
        return {
            self._trained_as.get(old, old): (now.get(names.get(id(new), ""), new), kept)
            for old, (new, kept) in self._renewed.items()
        }


def check_torch() -> None:
    """Refuses, with an ``UnsupportedModelError``, a torch whose ``fully_shard`` trains otherwise than one process does."""
    if torch.__version__ < SHARDS_SINCE:
        raise UnsupportedModelError(
            f"expected torch {SHARDS_SINCE} or newer for weights under fully_shard, got {torch.__version__}: with 2.8 "
            "(CPUs) masks came out otherwise than in one process, with 2.6 not at all; train under DistributedDataParallel"
        )


def _sharded_parameters(model: nn.Module, sharded: Any, ranks: Ranks) -> dict[str, nn.Parameter]:
    """The parameters of a sharded copy, by name, once it is known to be one."""
    if not isinstance(sharded, nn.Module) or sharded is model:
        raise ConfigError(
            f"expected a sharded copy of the model, got {'the model itself' if sharded is model else shown(sharded)}: "
            "sharded = copy.deepcopy(model); fully_shard(sharded); pruner.attach(sharded)"
        )
    if not (dist.is_available() and dist.is_initialized()) or not hasattr(sharded, "reshard"):
        raise ConfigError(
            f"expected a model that fully_shard(sharded) was applied to as a whole, after its blocks if those were, got "
            f"{type(sharded).__name__}; models under DistributedDataParallel need no attach()"
        )
    reshard(sharded)
    parameters = dict(sharded.named_parameters())
    own = dict(model.named_parameters())
    for name in [*own, *(name for name in parameters if name not in own)]:
        there = tuple(parameters[name].shape) if name in parameters else "absent"
        here = tuple(own[name].shape) if name in own else "absent"
        if there != here:
            raise ConfigError(
                f"expected a copy of the pruner's model, but {name} is {here} in the model and {there} in the sharded one: "
                "copy the model as it is now, copy.deepcopy(model), and shard the copy"
            )
        if parameters[name].requires_grad != own[name].requires_grad:
            raise ConfigError(
                f"{name} is frozen in one of model and sharded copy: freeze parameters before the pruner is built"
            )
        _check_lies_in_rows(name, parameters[name], ranks)
    return parameters


def _check_lies_in_rows(name: str, parameter: Any, ranks: Ranks) -> None:
    if not is_sharded(parameter):
        raise UnsupportedModelError(
            f"{name} is not sharded: apply fully_shard() to the whole copy, without ignored_params, so that the "
            "gradients of all parameters are reduced over the ranks"
        )
    mesh = parameter.device_mesh
    group = dist.group.WORLD if ranks.group is None else ranks.group
    if mesh.ndim != 1 or not parameter.placements[0].is_shard():
        raise UnsupportedModelError(
            f"{name} lies on a mesh of {mesh.ndim} dimensions as {parameter.placements}: sharding over one dimension is "
            "understood (FSDP2), and not replicas of shards (HSDP) or tensor parallelism beside it"
        )
    if dist.get_process_group_ranks(mesh.get_group()) != dist.get_process_group_ranks(group):
        raise ConfigError(
            f"{name} is sharded over ranks {dist.get_process_group_ranks(mesh.get_group())}, and the pruner counts over "
            f"{dist.get_process_group_ranks(group)}: pass process_group=mesh.get_group() to the pruner"
        )
    if parameter.device.type != mesh.device_type:
        raise UnsupportedModelError(
            f"{name} is kept on the {parameter.device.type} and computed with on {mesh.device_type}: shard without "
            "CPUOffloadPolicy"
        )
