"""What a run says can be read from the store."""

import os
from pathlib import Path

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # the only store that needs no data base package

import mlflow
import torch

from fairprune_plugin.engine.results.metrics import StepRow
from fairprune_plugin.writers.mlflow import MLflowWriter

mlflow.set_tracking_uri(Path("mlruns").absolute().as_uri())
with mlflow.start_run() as run:
    MLflowWriter().on_step(StepRow(1, mask_step=False, progress=0.25, loss=torch.tensor(0.5), trackers=()))
assert mlflow.get_run(run.info.run_id).data.metrics["train/loss"] == 0.5
