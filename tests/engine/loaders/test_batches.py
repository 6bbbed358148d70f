"""Reading a user's batch and calling a user's model."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fairprune_plugin.engine.loaders.batches import (
    INPUT_KEYS,
    SENSITIVE_KEYS,
    TARGET_KEYS,
    default_forward,
    missing_sensitive,
    read_batch,
)
from fairprune_plugin.errors import DataError

X, Y, S = torch.randn(4, 3), torch.zeros(4), torch.ones(4)


@pytest.mark.parametrize("kind", [tuple, list])
def test_two_or_three_parts(kind: type) -> None:
    batch = read_batch(kind([X, Y, S]), nn.Linear(1, 1))
    assert (batch.inputs is X, batch.targets is Y, batch.sensitive is S) == (True, True, True)
    assert read_batch(kind([X, Y]), nn.Linear(1, 1)).sensitive is None


@pytest.mark.parametrize("raw", [X, (X,), (X, Y, S, S), "xys"], ids=["tensor", "one", "four", "text"])
def test_anything_else_is_refused(raw: object) -> None:
    with pytest.raises(DataError, match=r"\(x, y, s\)"):
        read_batch(raw, nn.Linear(1, 1))


def test_nested_inputs_are_moved() -> None:
    model = nn.Linear(1, 1, device="meta")
    inputs = {"ids": X, "more": [X, (X, "text")]}
    moved = read_batch((inputs, Y, S), model)
    assert moved.inputs["ids"].device.type == moved.inputs["more"][1][0].device.type == "meta"
    assert moved.inputs["more"][1][1] == "text"
    assert moved.targets.device.type == "meta"
    assert moved.sensitive is not None
    assert moved.sensitive.device.type == "meta"


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


def test_forward_passes_inputs_as_they_are_meant() -> None:
    assert torch.equal(default_forward(nn.Identity(), X), X)
    assert torch.equal(default_forward(Sum(), (X, 2 * X)), -X)
    assert torch.equal(default_forward(Sum(), {"b": 2 * X, "a": X}), -X)
    assert torch.equal(default_forward(Sum(), UserDict(b=2 * X, a=X)), -X)


def test_logits_of_an_output_object() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=x + 1)

    assert torch.equal(default_forward(Wrapped(), X), X + 1)


class TestMappings:
    """Batches as dicts, by the customary keys."""

    @pytest.mark.parametrize("target", TARGET_KEYS)
    @pytest.mark.parametrize("sensitive", [*SENSITIVE_KEYS, None])
    @pytest.mark.parametrize("inputs", INPUT_KEYS)
    def test_customary_keys(self, inputs: str, target: str, sensitive: str | None) -> None:
        raw = {target: Y, inputs: X, **({sensitive: S} if sensitive else {})}
        batch = read_batch(raw, nn.Linear(1, 1))
        assert batch.inputs is X
        assert batch.targets is Y
        assert batch.sensitive is (S if sensitive else None)

    def test_other_fields_are_keywords_of_the_model(self) -> None:
        raw = UserDict(input_ids=X, attention_mask=S, labels=Y, s=S)
        batch = read_batch(raw, nn.Linear(1, 1))
        assert batch.inputs.keys() == {"input_ids", "attention_mask"}
        keywords = read_batch({"a": X, "b": 2 * X, "y": Y}, nn.Linear(1, 1)).inputs
        assert torch.equal(default_forward(Sum(), keywords), -X)

    def test_an_input_beside_others_that_the_model_takes(self) -> None:
        class Weighted(nn.Module):
            def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
                return x if scale is None else x * scale

        both = read_batch({"x": X, "scale": 2 * torch.ones_like(X), "y": Y, "s": S}, nn.Linear(1, 1)).inputs
        assert torch.equal(default_forward(Weighted(), both), 2 * X)
        assert torch.equal(default_forward(torch.compile(Weighted(), backend="eager"), both), 2 * X)

    @pytest.mark.parametrize("key", INPUT_KEYS)
    def test_what_the_model_does_not_take_is_left_to_a_forward_of_ones_own(self, key: str) -> None:
        fields = read_batch({key: X, "id": [7, 8], "y": Y, "s": S}, nn.Linear(1, 1)).inputs
        assert fields.keys() == {key, "id"}
        assert torch.equal(default_forward(nn.Identity(), fields), X)

    def test_fields_that_the_model_takes_in_part_only_are_refused(self) -> None:
        for names in (("image", "b"), ("a", "b", "id"), ("p", "q")):
            fields = {name: X for name in names}
            with pytest.raises(DataError, match=r"names that Sum.forward has for them \(a, b\), got "):
                default_forward(Sum(), fields)

    def test_several_attributes_as_a_dict_of_tensors_and_names(self) -> None:
        model = nn.Linear(1, 1, device="meta")
        raw = {"x": X, "y": Y, "s": {"gender": S, "race": ["White", "Black"]}}
        batch = read_batch(raw, model)
        assert batch.sensitive["gender"].device.type == "meta"
        assert batch.sensitive["race"] == ["White", "Black"]

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (
                {"image": X, "s": S},
                "a target in the batch, under one of y, labels, .* has 'image', 's': rename the field",
            ),
            ({"y": Y}, "expected inputs beside 'y' in the batch; .* has 'y' only"),
            ({"y": Y, "s": S}, "expected inputs beside 'y'"),
            ({}, "dict has nothing"),
        ],
        ids=["no-target", "target-only", "no-inputs", "empty"],
    )
    def test_a_missing_field_is_named(self, raw: dict[str, torch.Tensor], message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_batch(raw, nn.Linear(1, 1))

    def test_a_missing_attribute_is_named(self) -> None:
        message = str(missing_sensitive({"x": X, "y": Y}, "validation"))
        assert (
            "the validation loader's dicts have no sensitive attribute, expected under one of s, sensitive" in message
        )
        assert "there are 'x', 'y'" in message
        assert "yields (x, y) but the constraint needs (x, y, s)" in str(missing_sensitive((X, Y), "train"))
