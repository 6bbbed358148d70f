"""What a run finds and tells: evaluations, the best moment, its history, the result and its message."""
