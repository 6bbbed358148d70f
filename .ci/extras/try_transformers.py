"""A small BERT loses units of its feed-forward network inside of ``Trainer.train``."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.trainers.transformers import BiFPCallback

torch.manual_seed(0)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
)
given = {"input_ids": torch.ones(2, 5, dtype=torch.long)}
feed_forward = model.bert.encoder.layer[0].intermediate.dense
pruner = BiFPPruner(
    model,
    given,
    pruning_ratio=0.5,
    ignored_layers=[m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not feed_forward],
    constraint=EqualOpportunity(tolerance=0.02),
    output_transform=lambda output: output.logits,
)
rows = [{"input_ids": [i % 32] * 5, "labels": i % 2, "sensitive": i // 2 % 2} for i in range(32)]
arguments = TrainingArguments("out", max_steps=4, remove_unused_columns=False, report_to="none", use_cpu=True)
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
BiFPCallback(pruner).attach(trainer)
trainer.train()
assert model.bert.encoder.layer[0].intermediate.dense.out_features == 16
