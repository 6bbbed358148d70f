"""Group ids leave a batch under the names that the user has given them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from fairprune_plugin.engine.loaders.randomness import generators_of
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.trainers.sensitive_fields import SensitiveFields


def test_one_field_several_or_none() -> None:
    batch = {"x": 0, "gender": 1, "age": 2}
    assert SensitiveFields("gender").pop(dict(batch)) == 1
    assert SensitiveFields(("gender", "age")).pop(batch) == {"gender": 1, "age": 2}
    assert batch == {"x": 0}
    assert SensitiveFields("gender").pop(batch) is None
    assert SensitiveFields(("gender", "age")).pop(batch) is None
    assert SensitiveFields(("gender", "age")).among(["labels", "age"])
    assert not SensitiveFields("gender").among(["labels"])


def test_a_loader_keeps_what_it_is() -> None:
    generator = torch.Generator()
    loader = DataLoader([{"x": i, "gender": i % 2} for i in range(4)], batch_size=2, shuffle=True, generator=generator)
    renamed = SensitiveFields("gender").taken_from(loader)
    assert len(renamed) == 2  # type: ignore[arg-type]
    assert generators_of(renamed) == [generator]
    for batch in renamed:
        assert batch.keys() == {"x", "sensitive"}
        assert torch.equal(batch["sensitive"], batch["x"] % 2)


def test_what_needs_no_change_is_not_wrapped() -> None:
    loader: list[Any] = [{"x": 1, "sensitive": 2}]
    assert SensitiveFields("sensitive").taken_from(loader) is loader
    assert list(SensitiveFields("gender").taken_from([(1, 2, 3)])) == [(1, 2, 3)]


@pytest.mark.parametrize("names", [(), (1, 2), 3])
def test_names_that_are_none(names: Any) -> None:
    with pytest.raises(ConfigError, match="expected sensitive as the name of a field"):
        SensitiveFields(names)
