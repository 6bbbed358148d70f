"""A trial of the experiment, and a script of its own.

Inside an experiment (``run.py``) the tuner's parameters win over the fixed ones. On its own it takes the defaults:

    python nni_experiment/trial.py
    python nni_experiment/trial.py --set pruner=taylor sparsity=0.8 required_tolerance=0.05
    python nni_experiment/trial.py --set 'pruner={"name": "bifp", "bilevel": {"joint": true}}'
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # examples/, from wherever NNI starts this file

import nni
import torch

from fairprune_plugin import FairPruneError
from nni_experiment.compression import run
from nni_experiment.settings import Settings, pair


def main(argv: list[str] | None = None) -> int:
    """Runs one trial; without an experiment NNI prints what is reported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", type=pair, help="parameters; JSON values")
    args = parser.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # small matrices; trials may run side by side
    inside = nni.get_experiment_id() != "STANDALONE"
    with warnings.catch_warnings():
        if not inside:
            warnings.filterwarnings("ignore", message=".*without runtime", category=RuntimeWarning)
        tuned = nni.get_next_parameter() or {}
    try:
        result = run(Settings.merge(dict(args.set), tuned), nni.report_intermediate_result)
    except (FairPruneError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    nni.report_final_result(result)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
