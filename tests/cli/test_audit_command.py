"""``fairprune audit`` as a user runs it: files in, files out, exit codes, and one line per mistake."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fairprune_plugin.cli import main

MODULE = """
import torch
from torch import nn


def build():
    return nn.Linear(3, 1)


def broken():
    raise RuntimeError("no such data set")


def loader():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(100, 3, generator=generator)
        yield x, (x[:, 0] > 0).long(), torch.arange(100) % 2


BATCHES = list(loader())
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in a folder with a module, weights and data; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "users_code", raising=False)
    Path("users_code.py").write_text(MODULE)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.3, 0.0]]))
        model.bias.zero_()
    torch.save(model.state_dict(), "weights.pt")
    save_file(model.state_dict(), "weights.safetensors")
    torch.save(model, "whole.pt")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 3, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(600, generator=generator) > 0).long()
    logits = model(x).detach().reshape(-1)
    np.savez("table.npz", features=x.numpy(), label=y.numpy(), sensitive=np.array(["f", "m"] * 300))
    with open("table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "y", "sex", "race", "logit", "p0", "p1", "dense"])
        for i in range(600):
            p = float(torch.sigmoid(logits[i]))
            sex = "" if i < 6 else "fm"[i % 2]
            dense = float(logits[i]) + 0.1
            writer.writerow([*x[i].tolist(), int(y[i]), sex, i % 3, float(logits[i]), 1 - p, p, dense])

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["audit", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


FAST = ("--bootstrap", "100")
MODEL = ("--model", "users_code:build", "--weights", "weights.pt", "--data", "users_code:loader", *FAST)
TABLE = ("--data", "table.csv", "--label", "y", "--sensitive", "sex", "--logits", "logit", *FAST)


def test_met_violated_and_not_decidable(run: Run) -> None:
    assert run(*TABLE, "--constraint", "accuracy_parity:0.5")[0] == 0
    assert run(*TABLE, "--constraint", "accuracy_parity:0.01")[0] == 3
    assert run(*TABLE[:5], "race", *TABLE[6:], "--constraint", "demographic_parity:0.9,reference=overall")[0] == 0
    table = Path("biased.csv")
    table.write_text("label,sensitive,score\n" + "1,f,2.0\n" * 100 + "1,m,-1.0\n" * 100)
    code, out, _ = run("--data", "biased.csv", "--logits", "score", *FAST, "--constraint", "accuracy_parity:0.1")
    assert code == 1
    assert "accuracy_parity: violated (gap 1.0000, tolerance 0.1)" in out
    both = ("--constraint", "accuracy_parity:0.1", "--constraint", "equal_opportunity:1")
    assert run("--data", "biased.csv", "--logits", "score", *FAST, *both)[0] == 1
    assert run(*TABLE)[0] == 0  # nothing was asked for: a report only


def test_every_form_of_output(run: Run) -> None:
    code, out, err = run(
        *MODEL,
        *("--constraint", "equal_opportunity:0.3,floor=0.2", "--reference-weights", "weights.safetensors"),
        *("--html", "a.html", "--json", "a.json", "--markdown", "a.md", "--model-card", "README.md"),
        *("--dataset-name", "Adult", "--task-type", "tabular-classification", "--model-name", "tiny", "--split", "val"),
    )
    assert (code, err) == (0, "")
    assert [line.split(" (")[0] for line in out.splitlines()] == ["equal_opportunity: met", "accuracy_floor: met"]
    plain = json.loads(Path("a.json").read_text())
    assert (plain["model_name"], plain["split"], plain["samples"]) == ("tiny", "val", 400)
    assert plain["reference_name"] == "dense model"
    assert Path("a.html").read_text().startswith("<!doctype html>")
    assert "# Fairness audit: tiny" in Path("a.md").read_text()
    assert 'name: "Adult"' in Path("README.md").read_text()


def test_a_floor_without_the_dense_model_is_not_decidable_and_says_so(run: Run) -> None:
    code, out, err = run(*MODEL, "--constraint", "equal_opportunity:1,floor=0.2", "--json", "a.json")
    assert code == 3
    assert "accuracy_floor: not decidable" in out
    assert err.startswith("warning: floor=0.2 of equal_opportunity compares with the dense model, and there is none")


def test_markdown_on_the_screen_without_outputs(run: Run) -> None:
    code, out, err = run(*TABLE, "--constraint", "accuracy_parity:0.5", "--groups", "f,m")
    assert code == 0
    assert out.startswith("# Fairness audit: table.csv")
    assert "| f |" in out
    assert err == "warning: 6 samples have no value (NaN): in no group\n"


@pytest.mark.parametrize(
    "model",
    [
        ("--model", "users_code:build", "--weights", "weights.pt"),
        ("--model", "users_code:build", "--weights", "weights.safetensors"),
        ("--model", "whole.pt", "--allow-pickle"),
        ("--model", "whole.pt", "--allow-pickle", "--reference-model", "users_code:build"),
    ],
    ids=["state-dict", "safetensors", "whole", "reference"],
)
@pytest.mark.parametrize(
    "data",
    [
        ("table.npz",),
        ("table.csv", "--label", "y", "--sensitive", "sex", "--features", "a,b,c", "--batch-size", "64"),
    ],
    ids=["npz", "csv"],
)
def test_models_on_tables(run: Run, model: tuple[str, ...], data: tuple[str, ...]) -> None:
    assert run(*model, "--data", *data, *FAST, "--json", "out.json")[0] == 0
    measures = json.loads(Path("out.json").read_text())["groupings"][0]["measures"]
    assert next(m for m in measures if (m["name"], m["group"]) == ("accuracy", "everyone"))["value"] > 0.85


def test_exported_programs(run: Run) -> None:
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(nn.Linear(3, 1), (torch.randn(8, 3),), dynamic_shapes=({0: batch},)), "m.pt2")
    assert run("--model", "m.pt2", "--allow-pickle", "--data", "users_code:loader", *FAST)[0] == 0


def test_predictions_of_both_models_and_probabilities(run: Run) -> None:
    assert (
        run(*TABLE, "--reference-logits", "dense", "--constraint", "degradation_parity:0.5", "--json", "o.json")[0] == 0
    )
    logits = json.loads(Path("o.json").read_text())["groupings"][0]["measures"]
    columns = ("--logits", "p0,p1", "--scores", "probabilities", "--class-names", "no,yes")
    assert run(*TABLE[:6], *columns, *FAST, "--json", "p.json")[0] == 0
    probabilities = json.loads(Path("p.json").read_text())["groupings"][0]["measures"]
    for one, other in zip(logits, probabilities, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-5)
    assert "as probabilities do" in run(*TABLE[:6], "--logits", "p1", *FAST)[2]


def test_several_attributes_and_history(run: Run) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audit"))
    from audit_data import result

    for name in ("bifp", "magnitude"):
        Path(f"{name}.json").write_text(json.dumps(result()))
    code, _, _ = run(
        *(*TABLE[:5], "sex,race", *TABLE[6:], "--groups", "sex=f,m", "--groups", "race=", "--html", "o.html"),
        *("--constraint", "accuracy_parity:0.5", "--history", "bifp.json", "--history", "magnitude.json"),
    )
    assert code == 0
    page = Path("o.html").read_text()
    assert "f × race=2" in page
    assert "B · magnitude" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --data"),
        (("--data", "table.csv"), "no column 'label' in table.csv, which has a, b, c, y"),
        (("--data", "table.csv", "--label", "y", "--sensitive", "sex"), "name their columns, --logits"),
        ((*TABLE[:4], "--sensitive", "gender", "--logits", "logit"), "no column 'gender'"),
        ((*TABLE[:6], "--logits", "sex"), "expected numbers in column 'sex'"),
        (("--data", "nothing.csv"), "No such file"),
        (("--data", "table"), "as package.module:callable, a .csv or a .npz file, got 'table'"),
        (("--data", "users_code:loader"), "a loader needs a --model"),
        ((*TABLE, "--constraint", "accuracy_parity"), "the tolerance is missing"),
        ((*TABLE, "--constraint", "accuracy_parity:x"), "could not convert"),
        ((*TABLE, "--constraint", "accuracy_parity:0.1,overall"), "'overall' is not KEY=VALUE"),
        ((*TABLE, "--constraint", "accuracy_parity:0.1,bins=3"), "unknown key 'bins'"),
        ((*TABLE, "--constraint", "fairness:0.1"), "unknown constraint 'fairness'"),
        ((*TABLE, "--constraint", "rate_parity:0.1"), "a rate of your own is code"),
        ((*TABLE, "--constraint", "degradation_parity:0.1"), "compares with the dense model"),
        ((*TABLE, "--constraint", "accuracy_parity:0.1", "--groups", "F,M"), "no sample belongs to a group"),
        ((*TABLE, "--groups", "f,m", "--groups", "race=0,1"), "--groups ATTRIBUTE=A,B"),
        ((*TABLE, "--batch-size", "0"), "--batch-size ≥ 1"),
        ((*TABLE, "--seed", "-1"), "expected seed as a whole number ≥ 0, got -1"),
        ((*TABLE, "--history", "table.csv"), "as the JSON of a FitResult"),
        ((*TABLE, "--html", "no/such/folder.html"), "No such file"),
        (("--model", "whole.pt", *MODEL[4:]), "--allow-pickle if you trust it"),
        (("--model", "none.pt", *MODEL[4:]), "or an existing file, got 'none.pt'"),
        (("--model", "users_code:nothing", *MODEL[4:]), "has no attribute 'nothing'"),
        (("--model", "no_module:build", *MODEL[4:]), "No module named"),
        (("--model", "users_code:loader", *MODEL[4:]), "to give a torch.nn.Module, got generator"),
        (("--model", "users_code:build", "--weights", "table.csv", *MODEL[4:]), "as a state dict"),
        (("--model", "users_code:build", "--weights", "w.pt", *MODEL[4:]), "there is no w.pt"),
        (("--model", "table.csv", "--allow-pickle", *MODEL[4:]), "cannot load the module"),
        ((*MODEL[:4], "--data", "users_code:broken"), "no such data set"),
        ((*MODEL[:4], "--device", "abacus", *MODEL[4:]), "--device abacus"),
        ((*MODEL, "--scores", "odds"), "invalid choice"),
        ((*TABLE, "--weights", "w.pt"), "--weights is for models"),
        ((*TABLE, "--reference-model", "users_code:build"), "pass --model, or for a reference --reference-logits"),
        ((*TABLE, "--reference-weights", "w.pt"), "--reference-weights is for models"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_mistakes_end_with_one_message_and_code_two(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_weights_that_do_not_fit(run: Run) -> None:
    torch.save(nn.Linear(4, 1).state_dict(), "other.pt")
    code, _, err = run("--model", "users_code:build", "--weights", "other.pt", "--data", "users_code:loader")
    assert code == 2
    assert "do not fit the model" in err
    torch.save([1, 2], "list.pt")
    assert "expected a state dict" in run("--model", "users_code:build", "--weights", "list.pt", *MODEL[4:])[2]


def test_whole_modules_are_not_read_as_weights(run: Run) -> None:
    code, _, err = run("--model", "users_code:build", "--weights", "whole.pt", "--data", "users_code:loader")
    assert code == 2
    assert "A whole module goes to --model" in err


def test_tables_with_holes(run: Run) -> None:
    Path("short.csv").write_text("label,sensitive,logit\n1,f\n")
    assert "expected 3 values in line 2" in run("--data", "short.csv", "--logits", "logit")[2]
    Path("empty.csv").write_text("label,sensitive,logit\n")
    assert "a header and at least one row" in run("--data", "empty.csv", "--logits", "logit")[2]
    Path("latin.csv").write_text("label,sensitive,logit\n1,Müller,2.0\n", encoding="latin-1")
    _, _, err = run("--data", "latin.csv", "--logits", "logit")
    assert "expected latin.csv as text in UTF-8, got bytes that are not (" in err
    assert "Traceback" not in err
    Path("twice.csv").write_text("label,sensitive,logit,logit\n1,f,2.0,-2.0\n")
    _, _, err = run("--data", "twice.csv", "--logits", "logit")
    assert "expected each name once in the header of twice.csv, got logit more than once: rename a column" in err
    np.savez("objects.npz", features=np.array([None, 1], dtype=object))
    assert "not as objects" in run("--data", "objects.npz", "--logits", "features")[2]


def test_a_crash_is_not_taken_for_a_violation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("fairprune_plugin.cli.audit_command.audit_predictions", crash)
    code, _, err = run(*TABLE)
    assert code == 2
    assert "ZeroDivisionError: a bug" in err


def test_a_list_of_batches_is_a_loader_too(run: Run) -> None:
    assert run(*MODEL[:4], "--data", "users_code:BATCHES", *FAST)[0] == 0


def test_help_states_the_exit_codes(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "0 every constraint is met; 1 at least one is violated; 2 wrong arguments" in out


def test_the_installed_command_and_a_light_import() -> None:
    script = (
        "import sys, fairprune_plugin as f; from fairprune_plugin.cli import main;"
        "heavy = {'matplotlib', 'fairlearn', 'sklearn', 'pandas', 'huggingface_hub', 'yaml'} & set(sys.modules);"
        "assert not heavy, heavy; assert callable(f.audit); sys.exit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "required: command" in done.stderr


@pytest.mark.parametrize("groups", [(), ("--groups", "EU,NA,AS")], ids=["discovered", "declared"])
def test_a_group_may_be_called_na(run: Run, groups: tuple[str, ...]) -> None:
    rows = "".join(f"1,{region},2.0\n" for region in ("EU", "NA", "AS")) * 50
    Path("regions.csv").write_text("label,sensitive,logit\n" + rows)
    *_, err = run("--data", "regions.csv", "--logits", "logit", *FAST, *groups, "--json", "a.json")
    assert err == ""
    (grouping,) = json.loads(Path("a.json").read_text())["groupings"]
    assert sorted(grouping["groups"]) == ["AS", "EU", "NA"]
    assert grouping["sizes"] == [50, 50, 50]


def test_a_terminal_that_lacks_a_sign_does_not_change_the_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert main(["audit", *TABLE, "--constraint", "accuracy_parity:0.5"]) == 0
    narrow.flush()
    assert b"accuracy_parity: met" in narrow.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("names", [("18_25", "26_40"), ("02139", "2139"), ("1e3", "1000")], ids=lambda names: names[0])
def test_names_that_look_like_numbers_are_names(run: Run, names: tuple[str, str]) -> None:
    rows = "".join(f"1,{name},2.0\n" for name in names) * 50
    Path("groups.csv").write_text("label,sensitive,logit\n" + rows)
    for groups in ((), ("--groups", ",".join(names))):
        *_, err = run("--data", "groups.csv", "--logits", "logit", *FAST, *groups, "--json", "a.json")
        assert err == ""
        (grouping,) = json.loads(Path("a.json").read_text())["groupings"]
        assert sorted(grouping["groups"]) == sorted(names)


@pytest.mark.parametrize(
    "ids",
    [
        (9007199254740992, 9007199254740993),
        (-5, 9007199254740993, 9007199254740992),
        (2**63, 2**63 + 1),
    ],
    ids=["two-to-the-53", "three", "two-to-the-63"],
)
@pytest.mark.parametrize("missing", [False, True], ids=["all", "one-missing"])
def test_long_ids_are_not_merged(run: Run, ids: tuple[int, ...], missing: bool) -> None:
    rows = "".join(f"1,{number},2.0\n" for number in ids) * 50 + "1,,2.0\n" * missing
    Path("ids.csv").write_text("label,sensitive,logit\n" + rows)
    *_, err = run("--data", "ids.csv", "--logits", "logit", *FAST, "--json", "a.json")
    assert ("1 samples have no value" in err) == missing
    (grouping,) = json.loads(Path("a.json").read_text())["groupings"]
    assert sorted(grouping["groups"]) == sorted(map(str, ids))
    assert grouping["sizes"] == [50] * len(ids)
    if not missing and max(ids) < 2**63:
        np.savez(
            "ids.npz", label=np.ones(50 * len(ids)), sensitive=np.array(ids * 50), logit=np.full(50 * len(ids), 2.0)
        )
        run("--data", "ids.npz", "--logits", "logit", *FAST, "--json", "b.json")
        assert json.loads(Path("b.json").read_text())["groupings"] == [grouping]


def test_whole_numbers_with_a_point_are_the_same_groups(run: Run) -> None:
    Path("groups.csv").write_text("label,sensitive,logit\n" + "1,0.0,2.0\n1,1,2.0\n1,0,2.0\n" * 50)
    run("--data", "groups.csv", "--logits", "logit", *FAST, "--json", "a.json")
    (grouping,) = json.loads(Path("a.json").read_text())["groupings"]
    assert (grouping["groups"], grouping["sizes"]) == (["0", "1"], [100, 50])


def test_histories_of_one_file_name_are_told_apart_by_their_folders(run: Run) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audit"))
    from audit_data import result

    paths = [Path(folder, "result.json") for folder in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps(result()))
    options = [part for path in paths for part in ("--history", str(path))]
    assert run(*TABLE, "--constraint", "accuracy_parity:0.5", *options, "--html", "o.html")[0] == 0
    page = Path("o.html").read_text()
    assert all(str(path.with_suffix("")) in page for path in paths)
