"""An NNI experiment over pruners, sparsity, tolerance and learning rates, with a feasible-first objective."""
