"""What is written down: the pruner's state in training, and the model that is left."""
