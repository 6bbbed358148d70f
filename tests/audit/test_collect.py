"""The pass over the loader: one for both models, which stay as they were, and messages that name what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from audit_data import First, binary
from torch import nn

from fairprune_plugin import AccuracyParity, DegradationParity, EqualOpportunity, audit, audit_predictions
from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning


def batches(n: int = 60, size: int = 20) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    logits, y, s, reference = binary(n)
    x = torch.stack([logits, reference], dim=1)
    return [(x[i : i + size], y[i : i + size], s[i : i + size]) for i in range(0, n, size)]


def run(loader: Any, model: nn.Module | None = None, **options: Any) -> Any:
    return audit(model or First(), loader, AccuracyParity(0.1), bootstrap=100, **options)


def test_generator_and_two_models_in_one_pass() -> None:
    drawn = []

    def loader() -> Iterator[Any]:
        for batch in batches():
            drawn.append(1)
            yield batch

    class Second(First):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 1]

    report = run(loader(), reference_model=Second())
    assert len(drawn) == 3
    logits, y, s, reference = binary(60)
    expected = audit_predictions(logits, y, s, AccuracyParity(0.1), reference, bootstrap=100)
    assert report.to_dict() == expected.to_dict()


def test_a_loader_may_reuse_its_memory() -> None:
    def loader() -> Iterator[Any]:
        x, y, s = (part.clone() for part in batches()[0])
        memory = (x, y, {"group": s})
        for new_x, new_y, new_s in batches():
            x.copy_(new_x)
            y.copy_(new_y)
            s.copy_(new_s)
            yield memory

    named = AccuracyParity(0.1, groups={"group": 2})
    expected = [(x, y, {"group": s}) for x, y, s in batches()]
    reused, fresh = (audit(First(), each, named, bootstrap=100) for each in (loader(), expected))
    assert reused.to_dict() == fresh.to_dict()


def test_models_are_judged_in_eval_mode_and_given_back_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.Linear(8, 1))
    model[1].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    loader = [(x.float(), y, s) for x, y, s in batches()]
    assert run(loader, model).to_json() == run(loader, model).to_json()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dicts_and_two_logits_say_the_same_as_tuples() -> None:
    plain = run(batches()).to_dict()
    dicts = [{"x": x, "labels": y, "sensitive": s.numpy()} for x, y, s in batches()]
    assert run(dicts).to_dict() == plain
    two = [(torch.stack([-x[:, 0] / 2, x[:, 0] / 2], 1), y[:, None], s) for x, y, s in batches()]
    assert run(two, First(2)).to_dict() == plain


def test_half_precision_is_judged_in_double() -> None:
    report = run([(x.bfloat16(), y, s) for x, y, s in batches()])
    assert report.samples == 60
    assert report.measure("loss").value > 0


X, Y, S = batches()[0]
NAN = X.clone()
NAN[3, 0] = float("nan")


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "test loader is empty"),
        ([(X, Y)], r"yields \(x, y\) but the constraint needs \(x, y, s\)"),
        ([(X, Y, S, S)], "the loader yields 4 items"),
        ([X], "the loader yields Tensor"),
        ([{"x": X, "s": S}], "expected a target in the batch, under one of y, labels"),
        ([{"x": X, "labels": Y}], "no sensitive attribute, expected under one of s, sensitive"),
        ([{"labels": Y, "s": S}], "expected inputs beside 'labels'"),
        ([(X, Y.tolist(), S)], "expected targets as a tensor, got list"),
        ([(X, Y, "men")], "expected the sensitive attribute as a tensor of group ids or a list of 20 names, got str"),
        ([(X, Y, S[:5])], "of shape"),
        ([(NAN, Y, S)], "NaN for 1 of 20 samples .the first is number 3."),
        ([(X, Y + 5, S)], "expected targets in"),
        (5, "expected the test loader to be iterable"),
    ],
)
def test_unusable_loaders(loader: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(loader)


def test_reference_with_other_outputs() -> None:
    three = torch.randn(20, 3)
    with pytest.raises(DataError, match="outputs of the audited one, 2 classes, got 3 classes"):
        run([(three, Y, S)], reference_model=First(3))
    with pytest.raises(DataError, match="for the same 20 samples, got 19"):
        audit_predictions(X[:, 0], Y, S, AccuracyParity(0.1), X[:19, 0])
    with pytest.raises(DataError, match="the reference model gave NaN"):
        audit_predictions(X[:, 0], Y, S, AccuracyParity(0.1), NAN[:, 0])


def test_batches_of_different_tasks() -> None:
    class Growing(First):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.columns += 2
            return x.repeat(1, 5)[:, : self.columns]

    with pytest.raises(DataError, match="3 classes and 5 classes"):
        run([(X, Y, S), (X, Y, S)], Growing())


def test_wrong_arguments() -> None:
    with pytest.raises(DataError, match=r"expected model as a torch\.nn\.Module, got function"):
        run(batches(), lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="to return a tensor"):
        run(batches(), forward=lambda model, x: [1.0])
    with pytest.raises(ConfigError, match="compares with the dense model: pass it as reference_model"):
        audit(First(), batches(), DegradationParity(0.1))
    with pytest.raises(ConfigError, match="expected bootstrap as a whole number ≥ 100, got 10"):
        audit(First(), batches(), AccuracyParity(0.1), bootstrap=10)
    with pytest.raises(ConfigError, match="expected bins"):
        run(batches(), bins=True)
    for seed in (-1, 1.5, "a"):
        with pytest.raises(ConfigError, match=f"expected seed as a whole number ≥ 0, got {seed!r}"):
            run(batches(), seed=seed)
        with pytest.raises(ConfigError, match="expected seed"):
            audit_predictions(X[:, 0], Y, S, AccuracyParity(0.1), seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a constraint such as"):
        audit(First(), batches(), "accuracy_parity")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected 2 class names for 2 classes, got 1"):
        run(batches(), class_names=["cat"])
    for wrong in ([1, 2], np.zeros(3)):
        with pytest.raises(DataError, match="expected logits as a tensor"):
            audit_predictions(wrong, Y, S, AccuracyParity(0.1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one prediction"):
        audit_predictions(X[:0, 0], Y[:0], S[:0], AccuracyParity(0.1))
    with pytest.raises(DataError, match="expected the sensitive attribute of each sample, got None"):
        audit_predictions(X[:, 0], Y, None, AccuracyParity(0.1))


@pytest.mark.parametrize("constraint", [AccuracyParity(0.1), None])
@pytest.mark.parametrize(
    "form",
    [
        lambda ids: np.ascontiguousarray(ids[::-1])[::-1],
        lambda ids: ids.astype(ids.dtype.newbyteorder()),
        lambda ids: ids.astype(np.longdouble),
    ],
    ids=["reversed", "another machine's", "longdouble"],
)
def test_arrays_that_torch_does_not_take(form: Any, constraint: Any) -> None:
    logits, y, s, _ = binary(50)
    given = form(s.numpy())
    expected = audit_predictions(logits, y, s, constraint, bootstrap=100)
    assert audit_predictions(logits, y, given, constraint, bootstrap=100).to_dict() == expected.to_dict()
    found = audit(nn.Identity(), [(logits, y, given)], constraint, bootstrap=100)
    assert [measure.value for measure in found.groupings[0].measures] == [
        measure.value for measure in expected.groupings[0].measures
    ]


def test_labels_all_one_class() -> None:
    logits, _, s, _ = binary(50)
    report = audit_predictions(logits, torch.zeros(50).long(), s, EqualOpportunity(0.1), bootstrap=100)
    assert any("every label is class 0" in note for note in report.warnings)
    verdict = report.verdicts[0]
    assert verdict.status == "not decidable"
    assert verdict.notes == ("true_positive_rate[1] is undefined for every group: no sample meets its condition",)
    assert "undefined" in report.to_markdown()
    assert "undefined" in report.to_html()


def test_everyone_gets_the_same_prediction() -> None:
    _, y, s, _ = binary(50)
    report = audit_predictions(-torch.ones(50), y, s, AccuracyParity(0.1), bootstrap=100)
    assert any("every prediction is class 0" in note for note in report.warnings)


def test_loader_walked_without_warning_is_the_rule() -> None:
    with pytest.warns(FairPruneWarning, match="1 samples have no value"):
        run([(X, Y, torch.cat([torch.tensor([float("nan")]), S[1:].float()]))])
    run(batches())  # filterwarnings = error: an ordinary loader warns of nothing


LABELS = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1]])


def test_labels_of_a_multi_label_task_that_are_always_the_same() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [1.0, -1.0, -1.0], [2.0, 1.0, -3.0], [0.5, 1.0, -1.0]])
    report = audit_predictions(logits, LABELS, torch.tensor([0, 0, 1, 1]), None, bootstrap=100)
    assert [note.split(":")[0] for note in report.warnings] == [
        "every label of label 0 is class 0",
        "every prediction of label 2 is class 0",
        "every prediction of label 0 is class 1",
    ]


def test_one_hot_targets_are_pointed_out() -> None:
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    one_hot = torch.nn.functional.one_hot(y)
    s = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.warns(FairPruneWarning, match=r"exactly one of 3 labels.*one-hot classes, pass class ids"):
        report = audit_predictions(torch.randn(6, 3), one_hot, s, None, bootstrap=100)
    assert any("one-hot" in note for note in report.warnings)


@pytest.mark.parametrize(("value", "gave"), [("inf", "infinity"), ("-inf", "infinity"), ("nan", "NaN")])
def test_logits_that_are_not_finite(value: str, gave: str) -> None:
    logits = X[:, 0].clone()
    logits[4] = float(value)
    with pytest.raises(DataError, match=rf"the model gave {gave} for 1 of 20 samples \(the first is number 4\)"):
        audit_predictions(logits, Y, S, AccuracyParity(0.1))


def test_a_failing_model_is_named() -> None:
    class Broken(First):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2")

    with pytest.raises(DataError, match=r"the reference model failed .* RuntimeError: mat1 and mat2") as caught:
        run(batches(), reference_model=Broken())
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        run(batches(), Broken(), reference_model=First())
    with pytest.raises(DataError, match="expected the reference model to return a tensor"):
        reference = First()
        run(batches(), reference_model=reference, forward=lambda m, x: 1.0 if m is reference else m(x))


def test_a_batch_without_samples_is_skipped_and_counted() -> None:
    empty = (X[:0], Y[:0], S[:0])
    report = run([empty, *batches(), empty], reference_model=First())
    assert report.warnings == ("2 batches of the test loader without a sample: skipped",)
    expected = run(batches(), reference_model=First())
    assert (report.samples, report.groupings, report.verdicts) == (60, expected.groupings, expected.verdicts)
    with pytest.raises(DataError, match="the test loader is empty: no sample"):
        run([empty])
