"""Which of NNI's tuners can search for the parameters of a trial, and what each is told."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import nni
from nni.tools.package_utils.tuner_factory import create_builtin_class_instance

from fairprune_plugin.errors import ConfigError

# Those that take words as choices and several parameters. Not among them: GP, Metis, DNGO and Batch take numbers or a single
# parameter; PPO, RegularizedEvolutionTuner and NetworkMorphism search architectures; PBT, Hyperband and BOHB hand a trial
# checkpoints or a budget, which it does not know; SMAC was not tried.
# The annealing of hyperopt 0.1.2, which NNI asks for, fails on NumPy 2.4 once it has a result: `check` says so.
TAKES = {
    "TPE": ("optimize_mode", "seed"),
    "Random": ("seed",),
    "GridSearch": (),
    "Evolution": ("optimize_mode",),
    "Anneal": ("optimize_mode",),
    "TPE_legacy": ("optimize_mode",),
}
NEED_HYPEROPT = ("Anneal", "TPE_legacy")


def named(name: str) -> str:
    """A tuner's name as NNI spells it, which does not look at capitals either.

    Raises:
        ConfigError: For a tuner that cannot search here; those that can are listed.
    """
    found = next((known for known in TAKES if known.lower() == name.lower()), None)
    if found is None:
        raise ConfigError(
            f"expected a tuner of NNI that can search for a trial's parameters, got {name!r}: {_choices()}"
        )
    return found


def class_args(name: str, seed: int) -> dict[str, Any]:
    """What the tuner of that name is told; the objective of a trial is to be maximised, which is not every default."""
    values = {"optimize_mode": "maximize", "seed": seed}
    return {key: values[key] for key in TAKES[name]}


def check(name: str, seed: int, space: dict[str, Any]) -> None:
    """Asks the tuner for parameters, here, and again after a result, as only then some look at what they were told: in an
    experiment a failure is a line in a log, and trials never come.

    Raises:
        ConfigError: If it lacks a package, or cannot search this space.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)  # the tuner of the experiment says all of it again
    try:
        tuner = create_builtin_class_instance(name, class_args(name, seed), "tuners")
        tuner.update_search_space(space)
        tuner.receive_trial_result(0, tuner.generate_parameters(0), 0.0)
        with contextlib.suppress(nni.NoMoreTrialError):  # of a space with one choice
            tuner.generate_parameters(1)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the tuner {name} needs {error.name}: pip install 'nni[anneal]', or {_choices()}") from error
    except Exception as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"the tuner {name} cannot search this space here ({type(error).__name__}: {said}): correct the space, or "
            f"{_choices()}"
        ) from error
    finally:
        logging.disable(disabled)


def _choices() -> str:
    usual = ", ".join(name for name in TAKES if name not in NEED_HYPEROPT)
    return f"choose one of {usual} (with hyperopt installed also {', '.join(NEED_HYPEROPT)})"
