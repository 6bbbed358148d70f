"""A model as a checked ONNX file, and as an exported program; neither needs a host."""

import os

import torch

from fairprune_plugin.export import export_onnx, export_program
from toy import GIVEN, network

model = network()
assert export_onnx(model, GIVEN, "model.onnx") < 1e-4
assert os.path.getsize("model.onnx") > 0
torch.testing.assert_close(export_program(model, GIVEN).module()(GIVEN), model(GIVEN))
