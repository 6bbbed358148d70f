"""The NNI example's parts: parameters, objective, and what is read back from an experiment."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nni.algorithms.hpo.random_tuner import RandomTuner
from nni.tools.package_utils.tuner_factory import create_builtin_class_instance

from fairprune_plugin import PrunerConfig
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.evaluation import Evaluation, RateOfGroup
from fairprune_plugin.fairness.verdict import Verdict
from nni_experiment import run, trial, tuners
from nni_experiment.objective import metric, objective
from nni_experiment.results import read_results, table
from nni_experiment.run import arguments, configured, search_space
from nni_experiment.settings import PRUNERS, SEARCH_SPACE, Settings, pair

TOLERANCE = 0.05
share = st.floats(0, 1)


def judged(accuracy: float, *gaps: float, selected: tuple[float, float] = (0.3, 0.4)) -> Evaluation:
    """An evaluation with one constraint per gap; ``selected`` are the selection rates of the two groups."""
    verdicts = [
        Verdict("parity", "rate", gap, 0.01, TOLERANCE, gap <= TOLERANCE, "not decidable", gap + 0.01) for gap in gaps
    ]
    rates = [RateOfGroup("selection_rate", name, value, 0, 1, 9) for name, value in zip("ab", selected, strict=True)]
    return Evaluation("validation", 18, accuracy, tuple(rates), tuple(verdicts), ())


@given(share, share, share, share)
def test_feasible_comes_first_then_accuracy_then_the_excess(a: float, gap: float, b: float, other: float) -> None:
    """The rules of Deb (2000), pair by pair."""
    first, second = judged(a, gap), judged(b, other)
    better = objective(first) > objective(second)
    if gap <= TOLERANCE < other:
        assert better
    elif gap <= TOLERANCE and other <= TOLERANCE:
        assert better == (a > b)
    elif gap > TOLERANCE and other > TOLERANCE:
        assume(abs(gap - other) > 1e-12)
        assert better == (gap < other)


@given(share, st.lists(share, min_size=2, max_size=3))
def test_the_worst_constraint_counts(accuracy: float, gaps: list[float]) -> None:
    assert objective(judged(accuracy, *gaps)) == objective(judged(accuracy, max(gaps)))
    assert metric(judged(accuracy, *gaps))["gap"] == max(gaps)


@pytest.mark.parametrize(
    "evaluation",
    [judged(0.9, 0.0, selected=(0.0, 0.0)), judged(0.9, 0.0, selected=(1.0, 1.0)), judged(0.9, math.nan)],
    ids=["nobody", "everybody", "empty group"],
)
def test_equal_for_the_wrong_reason_is_worth_least(evaluation: Evaluation) -> None:
    reported = metric(evaluation)
    assert reported["default"] == -1
    assert reported["feasible"] is False
    assert json.loads(json.dumps(reported, allow_nan=False)) == reported  # NNI's REST interface wants plain JSON
    assert objective(judged(0.0, 1.0)) >= -1


def test_without_constraint_violation_the_accuracy_is_the_metric() -> None:
    assert metric(judged(0.8, TOLERANCE)) == {"default": 0.8, "accuracy": 0.8, "gap": TOLERANCE, "feasible": True}


def test_later_layers_win_and_everything_is_told_back() -> None:
    settings = Settings.merge({"steps": 7, "sparsity": 0.6}, {"sparsity": 0.8})
    assert (settings.steps, settings.sparsity) == (7, 0.8)
    assert Settings.merge(settings.to_dict()) == settings
    assert json.loads(json.dumps(settings.to_dict())) == settings.to_dict()


def test_every_searched_parameter_is_one_of_a_trial() -> None:
    assert set(SEARCH_SPACE) <= set(Settings().to_dict())
    assert set(SEARCH_SPACE["pruner"]["_value"]) <= set(PRUNERS)
    for name in SEARCH_SPACE["pruner"]["_value"]:
        for end in (0, 1):
            Settings.merge(
                {key: value["_value"][end] for key, value in SEARCH_SPACE.items() if key != "pruner"}, {"pruner": name}
            )


def test_the_spec_is_one_that_build_pruner_reads() -> None:
    spec = Settings(sparsity=0.6, tolerance=0.01, multiplier_rate=0.1).spec(["f", "m"])
    config = PrunerConfig.parse(spec)
    assert (config.name, config.pruning_ratio, config.multipliers.lr) == ("bifp", 0.6, 0.1)
    assert config.constraint is not None
    assert not isinstance(config.constraint, tuple)
    assert (config.constraint.name, config.constraint.tolerance) == ("demographic_parity", 0.01)
    assert config.constraint.group_names == ("f", "m")
    assert Settings(pruner="l1").spec(["f", "m"]) == {"name": "l1", "pruning_ratio": 0.7}


@pytest.mark.parametrize("key", ["name", "_name"])
def test_a_nested_pruner_wins_over_the_flat_parameters(key: str) -> None:
    settings = Settings(pruner={key: "bifp", "pruning_ratio": 0.4, "bilevel": {"joint": True}})
    config = PrunerConfig.parse(settings.spec(["f", "m"]))
    assert (config.name, config.pruning_ratio, config.bilevel.joint) == ("bifp", 0.4, True)
    assert not config.options  # nothing that a pruner would not know


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sparsty": 0.5}, "unknown parameter 'sparsty': choose from pruner, sparsity"),
        ({"pruner": "nope"}, "unknown pruner 'nope': this trial knows bifp, l1"),
        ({"pruner": {"bilevel": {}}}, "a mapping with a 'name'"),
        ({"constraint": "nope"}, "choose from accuracy_floor, accuracy_parity"),
        ({"sparsity": 1.0}, r"sparsity in \(0, 1\)"),
        ({"sparsity": "0,5"}, "sparsity as a number, got '0,5'"),
        ({"tolerance": -0.1}, r"tolerance in \[0, 1\]"),
        ({"required_tolerance": 2}, r"required_tolerance in \[0, 1\]"),
        ({"learning_rate": 0}, "learning_rate > 0"),
        ({"multiplier_rate": True}, "multiplier_rate as a number"),
        ({"steps": 0}, "steps as a whole number"),
        ({"evaluate_every": 2.5}, "evaluate_every as a whole number"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.merge(values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=1", 1), ("a=0.5", 0.5), ("a=word", "word"), ('a={"b": 2}', {"b": 2}), ("a=x=y", "x=y"), ("a=", "")],
)
def test_values_of_the_command_line(text: str, expected: Any) -> None:
    assert pair(text) == ("a", expected)


def test_words_without_a_value_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--set", "pruner"])
    assert "expected KEY=VALUE, got 'pruner'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "options", "said"),
    [
        (trial.main, ["--set", "pruner=nope"], "unknown pruner 'nope'"),
        (trial.main, ["--set", "sensitive=age"], "unknown sensitive attribute 'age'"),
        (trial.main, ["--set", "data=celeba"], "need root=FOLDER"),
        (trial.main, ["--set", "data=celeba", "root=missing"], "missing"),
        (trial.main, ["--set", "batch_size=1000000"], "fewer samples than batch_size"),
        (run.main, ["--set", "sparsity=2"], "sparsity in (0, 1)"),
        (run.main, ["--search-space", "missing.json"], "missing.json"),
        (run.main, ["--tuner", "GP"], "got 'GP': choose one of TPE, Random, GridSearch, Evolution (with hyperopt"),
        (run.main, ["--tuner", "Nope"], "got 'Nope': choose one of TPE"),
    ],
)
@pytest.mark.skipif(importlib.util.find_spec("xai") is None, reason="the census table ships in the package xai")
def test_mistakes_end_in_one_line(main: Any, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["TPE", "Random", "GridSearch", "Evolution"])
def test_a_tuner_searches_our_space_for_the_largest_objective(name: str) -> None:
    """As NNI makes it, of what the experiment says of it."""
    args = arguments(["--tuner", name.upper(), "--seed", "3"])
    args.tuner = tuners.named(args.tuner)
    tuners.check(args.tuner, args.seed, SEARCH_SPACE)
    said = configured(args, SEARCH_SPACE).config.tuner
    assert said.name == name
    tuner = create_builtin_class_instance(said.name, said.class_args, "tuners")
    tuner.update_search_space(SEARCH_SPACE)
    for number in range(40):
        asked = tuner.generate_parameters(number)
        Settings.merge(asked)
        tuner.receive_trial_result(number, asked, metric(judged(asked["sparsity"], 0.0)))
        if name == "Evolution":
            tuner.num_running_trials += 1
            tuner.trial_end(number, True)
    if hasattr(tuner, "optimize_mode"):  # the others do not look at results
        assert tuner.optimize_mode.value == "maximize"
    assert said.class_args.get("seed", 3) == 3


@pytest.mark.parametrize("name", ["Anneal", "TPE_legacy"])
def test_tuners_with_a_package_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuners.class_args(name, 0) == {"optimize_mode": "maximize"}
    monkeypatch.setitem(sys.modules, "hyperopt", None)
    monkeypatch.delitem(sys.modules, "nni.algorithms.hpo.hyperopt_tuner", raising=False)
    with pytest.raises(ConfigError, match=rf"{name} needs hyperopt: pip install 'nni\[anneal\]', or choose one of TPE"):
        tuners.check(name, 0, SEARCH_SPACE)


def test_a_space_that_a_tuner_cannot_read() -> None:
    with pytest.raises(ConfigError, match=r"TPE cannot search this space here .*: correct the space, or choose one of"):
        tuners.check("TPE", 0, {"sparsity": {"_type": "uniform", "_value": [0.5]}})
    assert logging.root.manager.disable == 0


def test_a_tuner_that_fails_once_it_has_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """As hyperopt's annealing does on recent versions of NumPy."""

    class Failing(RandomTuner):  # type: ignore[misc]
        told = False

        def receive_trial_result(self, *_args: Any, **_more: Any) -> None:
            self.told = True

        def generate_parameters(self, *args: Any, **more: Any) -> Any:
            if self.told:
                raise TypeError("only 0-dimensional arrays")
            return super().generate_parameters(*args, **more)

    monkeypatch.setattr(tuners, "create_builtin_class_instance", lambda *_: Failing(seed=0))
    with pytest.raises(
        ConfigError, match=r"Anneal cannot search this space here \(TypeError: only 0-dimensional arrays\)"
    ):
        tuners.check("Anneal", 0, SEARCH_SPACE)


@pytest.mark.parametrize("name", ["TPE", "Random", "GridSearch", "Evolution"])
def test_a_space_with_one_choice_is_searched(name: str) -> None:
    tuners.check(name, 0, {"pruner": {"_type": "choice", "_value": ["bifp"]}})


def test_what_is_fixed_is_not_searched(tmp_path: Path) -> None:
    assert set(search_space(None, {"pruner": "bifp", "steps": 5})) == set(SEARCH_SPACE) - {"pruner"}
    file = tmp_path / "space.json"
    file.write_text(json.dumps({"sparsity": {"_type": "choice", "_value": [0.5, 0.7]}}))
    assert search_space(file, {}) == {"sparsity": {"_type": "choice", "_value": [0.5, 0.7]}}
    with pytest.raises(ConfigError, match=r"run trial\.py instead"):
        search_space(file, {"sparsity": 0.6})
    file.write_text(json.dumps({"sparsty": {"_type": "choice", "_value": [0.5]}}))
    with pytest.raises(ConfigError, match="'sparsty' in the search space"):
        search_space(file, {})


def job(name: str, asked: dict[str, Any], status: str = "SUCCEEDED") -> Any:
    """A trial as NNI lists it."""
    return SimpleNamespace(trialJobId=name, status=status, hyperParameters=[SimpleNamespace(parameters=asked)])


def reported(kind: str, data: Any) -> Any:
    """A metric as NNI's REST interface gives it: JSON text of JSON text."""
    return SimpleNamespace(type=kind, data=json.dumps(json.dumps(data)))


def finished(score: float, **parameters: Any) -> Any:
    return reported("FINAL", {"default": score, "parameters": Settings.merge(parameters).to_dict()})


def test_results_tell_what_was_used_not_what_was_asked() -> None:
    """Two trials at a time that got each other's parameters, one that got its own, and one that failed."""
    jobs = [job("A", {"sparsity": 0.5}), job("B", {"sparsity": 0.6}), job("C", {"sparsity": 0.7})]
    jobs.append(job("D", {"sparsity": 0.8}, "FAILED"))
    metrics = {
        "A": [reported("PERIODICAL", {"default": 0.1}), finished(-0.2, sparsity=0.6)],
        "B": [finished(0.8, sparsity=0.5)],
        "C": [finished(0.9, sparsity=0.7)],
    }
    experiment = SimpleNamespace(list_trial_jobs=lambda: jobs, get_job_metrics=lambda: metrics)
    rows = read_results(experiment)
    assert [row["trial"] for row in rows] == ["C", "B", "A", "D"]
    assert [row["mixed_up"] for row in rows] == [False, True, True, False]
    assert [row["parameters"]["sparsity"] for row in rows[:3]] == [0.7, 0.5, 0.6]
    assert rows[2]["intermediate"] == [{"default": 0.1}]
    lines = table(rows).splitlines()
    assert len(lines) == 6
    assert "FAILED" in lines[-1]
    assert len({len(line) for line in lines}) == 1
