"""What ``fairprune`` returns, so that a script or a CI job can act on it."""

MET = 0  # every constraint is met (or none was asked for)
VIOLATED = 1  # at least one is violated
USAGE = 2  # wrong arguments, files or data, or a crash: nothing was judged
UNDECIDABLE = 3  # none is violated, at least one cannot be decided at this sample size
