"""Starts the experiment on this machine, waits for its trials, writes their results and leaves no process behind.

python nni_experiment/run.py --trials 12 --out ../out/nni
python nni_experiment/run.py --set sparsity=0.8 --search-space space.json   # {"pruner": {"_type": "choice", …}}
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # examples/

import psutil
import requests
from nni.experiment import Experiment

from fairprune_plugin import FairPruneError
from fairprune_plugin.errors import ConfigError
from nni_experiment import tuners
from nni_experiment.results import read_results, table
from nni_experiment.settings import SEARCH_SPACE, Settings, pair

TRIAL = Path(__file__).with_name("trial.py")
ATTEMPTS = 5
ENDED = ("DONE", "STOPPED", "ERROR")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--tuner", default="TPE", help=f"of NNI: {', '.join(tuners.TAKES)} (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=1, help="trials at a time (default: %(default)s)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", type=pair, help="fixed parameters; JSON values"
    )
    parser.add_argument("--search-space", type=Path, help="JSON file in NNI's format; default: all of settings.py")
    parser.add_argument("--port", type=int, default=0, help="of NNI's web portal; default: a free one")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds after which the experiment is stopped")
    parser.add_argument("--seed", type=int, default=0, help="of the tuners TPE and Random; others have none")
    parser.add_argument("--out", type=Path, default=Path("../out/nni"), help="results.json and NNI's own folders")
    args = parser.parse_args(argv)
    if args.trials < 1 or args.concurrency < 1:
        parser.error("--trials and --concurrency must be at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; 0 if every trial succeeded."""
    args = arguments(argv)
    try:
        args.tuner = tuners.named(args.tuner)
        space = search_space(args.search_space, dict(args.set))
        tuners.check(args.tuner, args.seed, space)
        args.out.mkdir(parents=True, exist_ok=True)
    except (FairPruneError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the experiment
    experiment = None
    try:
        experiment = started(args, space)
        print(f"experiment {experiment.id}: http://localhost:{experiment.port}", flush=True)
        complete = wait(experiment, args.timeout)
        results = read_results(experiment)
    except (RuntimeError, requests.RequestException) as error:
        print(f"error: NNI's manager does not run: {error}; its log is below {args.out}", file=sys.stderr)
        return 1
    finally:
        stop(experiment)
    file = args.out / "results.json"
    file.write_text(json.dumps(results, indent=2))
    print(f"{table(results)}\n\nwrote {file}")
    failed = [row["trial"] for row in results if row["status"] != "SUCCEEDED"]
    if failed or not complete or len(results) < args.trials:
        print(
            f"error: {len(results) - len(failed)} of {args.trials} trials succeeded; logs are in "
            f"{args.out / experiment.id / 'environments'} and {args.out / experiment.id / 'log'}",
            file=sys.stderr,
        )
        return 1
    return 0


def search_space(file: Path | None, fixed: dict[str, Any]) -> dict[str, Any]:
    """What is searched over: a file's space or ours, without what is fixed.

    Raises:
        ConfigError: For a key that no trial knows.
    """
    space = SEARCH_SPACE if file is None else json.loads(file.read_text())
    Settings.merge(fixed)
    known = Settings().to_dict()
    unknown = sorted(set(space) - set(known))
    if unknown:
        raise ConfigError(f"unknown parameter {unknown[0]!r} in the search space: choose from {', '.join(known)}")
    left = {key: values for key, values in space.items() if key not in fixed}
    if not left:
        raise ConfigError("everything in the search space is fixed by --set: run trial.py instead")
    return left


def started(args: argparse.Namespace, space: dict[str, Any]) -> Experiment:
    """A running experiment. NNI gives its manager three seconds to answer, too few on a busy machine: several attempts.

    Raises:
        RuntimeError: If the port is taken.
        requests.RequestException: If no attempt got an answer.
    """
    for attempt in range(1, ATTEMPTS + 1):
        experiment = configured(args, space)
        try:
            experiment.start(args.port or free_port())
            return experiment
        except requests.RequestException:
            stop(experiment)
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("the loop returns or raises")


def configured(args: argparse.Namespace, space: dict[str, Any]) -> Experiment:
    """An experiment on the local training service."""
    experiment = Experiment("local")
    config = experiment.config
    config.experiment_name = "fairprune"
    config.search_space = space
    fixed = [f"{key}={json.dumps(value)}" for key, value in args.set]
    config.trial_command = shlex.join([sys.executable, str(TRIAL), "--set", *fixed])
    config.trial_code_directory = TRIAL.parent
    config.experiment_working_directory = args.out.resolve()
    config.trial_concurrency = args.concurrency
    config.max_trial_number = args.trials
    config.tuner.name = args.tuner
    config.tuner.class_args = tuners.class_args(args.tuner, args.seed)
    config.log_level = "warning"
    return experiment


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def wait(experiment: Experiment, timeout: float) -> bool:
    """Until all trials have ended; whether they did in time. (``Experiment.run`` polls every 10 s and has no limit.)

    Raises:
        requests.RequestException: If the manager has not answered several times in a row.
    """
    deadline, silent = time.monotonic() + timeout, 0
    while time.monotonic() < deadline:
        try:
            status, silent = experiment.get_status(), 0
        except requests.RequestException:
            status, silent = "", silent + 1
            if silent == ATTEMPTS:
                raise
        if status in ENDED:
            return status != "ERROR"
        time.sleep(0.5)
    return False


def stop(experiment: Experiment | None) -> None:
    """Ends NNI's manager, its tuner and any trial; what does not end by itself is killed."""
    family = psutil.Process().children(recursive=True)
    try:
        if experiment is not None:
            experiment.stop()
    finally:
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)


if __name__ == "__main__":
    raise SystemExit(main())
