"""What a run says can be read from the event file."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fairprune_plugin.engine.results.metrics import StepRow
from fairprune_plugin.writers.tensorboard import TensorBoardWriter

with TensorBoardWriter("runs/1") as writer:
    writer.on_step(StepRow(1, mask_step=False, progress=0.25, loss=torch.tensor(0.5), trackers=()))
events = EventAccumulator("runs/1").Reload()
assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5)]
