"""The table of the models that ship."""

import json
import re

import checkpoints
from checkpoints.catalogue import CONFIG, RESULTS, WEIGHTS


def test_json_has_one_row_a_model(command):
    answer = command("list", "--json")
    assert answer.status == 0
    assert answer.err == ""
    rows = {row["name"]: row for row in json.loads(answer.out)}
    assert [*rows] == [*checkpoints.shipped()]
    for name, folder in checkpoints.shipped().items():
        config = json.loads((folder / CONFIG).read_text())
        assert rows[name].keys() == {"name", "algorithm", "paper", "data", "metrics", "bytes"}
        assert rows[name]["algorithm"] == config["algorithm"]
        assert rows[name]["data"] in [config["data"]["class"], *config["data"]["arguments"].values()]
        assert rows[name]["bytes"] == (folder / WEIGHTS).stat().st_size
        metrics = json.loads((folder / RESULTS).read_text())["metrics"]
        assert rows[name]["metrics"] == {metric: entry["value"] for metric, entry in metrics.items()}


def test_the_table_shows_the_headline_metric(command):
    answer = command("list")
    lines = answer.out.splitlines()
    assert answer.status == 0
    assert lines[0].split() == ["name", "algorithm", "data", "headline", "metric", "size"]
    assert [line.split()[0] for line in lines[1:]] == [*checkpoints.shipped()]
    row = next(line for line in lines if line.startswith("classifier-digits"))
    metrics = json.loads((checkpoints.shipped()["classifier-digits"] / RESULTS).read_text())["metrics"]
    assert f"test_accuracy {metrics['test_accuracy']['value']:.4g} ± 0.0032 " in row
    assert row.endswith("MB")
    starts = {re.match(r"\S+ +", line).end() for line in lines}
    assert len(starts) == 1, "columns stand below each other"


def test_a_model_without_results_is_listed_too(command, monkeypatch, copy, tiny):
    import commands.list

    folder = copy(tiny)
    monkeypatch.setattr(commands.list, "shipped", lambda: {folder.name: folder})
    assert command("list").out.splitlines()[1].split()[:4] == ["tiny-waves", "image-diffusion", "Digits", "-"]


def test_no_model_at_all_is_an_empty_list(command, monkeypatch):
    import commands.list

    monkeypatch.setattr(commands.list, "shipped", dict)
    assert json.loads(command("list", "--json").out) == []
    assert len(command("list").out.splitlines()) == 1


def test_a_damaged_folder_is_told(refused, monkeypatch, copy, tiny):
    import commands.list

    folder = copy(tiny)
    (folder / CONFIG).write_text("{")
    monkeypatch.setattr(commands.list, "shipped", lambda: {folder.name: folder})
    assert str(folder / CONFIG) in refused("list")


def test_patterns_choose_models(command, refused):
    rows = json.loads(command("list", "ppo-*", "nice-digits", "--json").out)
    assert [row["name"] for row in rows] == [
        name for name in checkpoints.shipped() if name.startswith("ppo-") or name == "nice-digits"
    ]
    assert "no shipped model is named like pp0-*" in refused("list", "pp0-*")
