"""Every model folder that ships is whole, small, reproducible, and as its card says."""

import inspect
import json
import math
import re

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

import checkpoints
import datamodules
import lightning_modules
from checkpoints.card import render
from checkpoints.catalogue import CONFIG, REFERENCE, RESULTS, WEIGHTS, describe
from commands.measures import protocol_of

MODELS = checkpoints.shipped()
FILES = {CONFIG, WEIGHTS, RESULTS, REFERENCE, "README.md", "train.yaml"}
MB = 1_000_000

every_model = pytest.mark.parametrize("name", MODELS)


def read(name, file):
    return json.loads((MODELS[name] / file).read_text(encoding="utf-8"))


@every_model
def test_a_folder_is_complete(name):
    files = {path.name for path in MODELS[name].iterdir()}
    results = read(name, RESULTS)
    assert files == FILES | {results[key] for key in ("picture", "animation") if key in results}
    if picture := results.get("picture"):
        with Image.open(MODELS[name] / picture) as image:
            image.load()
            assert min(image.size) > 100


def test_folders_are_small():
    sizes = {name: sum(path.stat().st_size for path in folder.iterdir()) for name, folder in MODELS.items()}
    weights = {name: (folder / WEIGHTS).stat().st_size for name, folder in MODELS.items()}
    assert max(sizes.values()) <= 4 * MB, sizes
    assert sum(weights.values()) <= 60 * MB, weights


@every_model
def test_the_reference_is_reproduced(name):
    """To 1e-4 and 1e-3 of the value: the float32 kernels of other machines sum in another order."""
    stored = load_file(MODELS[name] / REFERENCE)
    model = checkpoints.load(name)
    first = next(iter(inspect.signature(model.forward).parameters))  # an older reference calls it "x"
    inputs = {first if key == "x" else key: value for key, value in stored.items() if key != "output"}
    with torch.inference_mode():
        output = model(**inputs)
        output = torch.stack(output) if isinstance(output, tuple) else output
    torch.testing.assert_close(output, stored["output"], atol=1e-4, rtol=1e-3)
    assert stored["output"].std() > 0.01, "a constant would prove nothing"
    assert checkpoints.verify(name) <= 1e-4 + 1e-3 * stored["output"].abs().max()


@every_model
def test_weights_are_finite_floats(name):
    for key, weight in load_file(MODELS[name] / WEIGHTS).items():
        # running moments are sums over millions of observations
        expected = torch.float64 if key.startswith("normalizer.") else torch.float32
        kinds = {"initialised": torch.bool, "order": torch.int64}
        assert weight.dtype == kinds.get(key.rpartition(".")[2], expected), key
        assert weight.isfinite().all(), key


@every_model
def test_the_name_says_algorithm_and_data(name):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)
    data = read(name, CONFIG)["data"]
    known = data["arguments"].get("environment") or data["arguments"].get("name") or data["class"]
    known = known.removeprefix("Binary")  # the levels are on the card
    known = re.sub(r"^matrix/.*", "payoff", re.sub(r"^mpe2/simple_(\w+)_v\d+$", r"\1", known))
    known = re.sub(r"-v\d+$", "", known.lower()).replace("_", "").replace("/", "-")
    assert name.endswith("-" + known), "Gymnasium's CartPole-v1 is cartpole"


@every_model
def test_a_model_says_what_it_is(name):
    """Algorithm, paper, data and protocol are written, and known here."""
    described = describe(MODELS[name])
    config = read(name, CONFIG)
    assert getattr(lightning_modules, config["algorithm"]).__name__ == config["algorithm"]
    algorithm = getattr(lightning_modules, config["algorithm"])
    # a module of several methods has a paper for each
    assert config["paper"] in getattr(algorithm, "papers", {"": getattr(algorithm, "paper", "")}).values()
    assert config["data"]["class"] in datamodules.__all__
    assert callable(protocol_of(described))
    assert config["license"] == "apache-2.0"


@every_model
def test_the_origin_is_a_commit_without_changes(name):
    origin = read(name, CONFIG)["origin"]
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"]), "trained from files that no commit holds"
    assert origin["steps"] > 0
    assert isinstance(origin["seed"], int)
    assert {"torch", "python", "lightning-zoo"} <= origin["versions"].keys()


@every_model
def test_results_are_numbers_with_their_protocol(name):
    results = read(name, RESULTS)
    command = rf"lightning-zoo evaluate {name} --full( --precision bf16)?( --compile)?"
    assert re.fullmatch(command, results["command"])
    seed = read(name, CONFIG)["origin"]["seed"]
    values = results.get("by_training_seed", {"values": {str(seed): 0}})["values"]
    assert results["training_seeds"] == [int(key) for key in values]
    assert values[str(seed)] == sorted(values.values())[len(values) // 2], "the median ships"
    assert results["metrics"]
    for metric, entry in results["metrics"].items():
        assert entry.keys() == {"value", "spread", "size", "protocol"}, metric
        assert all(math.isfinite(entry[key]) for key in ("value", "spread", "size")), metric
        assert entry["spread"] >= 0
        assert entry["size"] >= 1
        assert len(entry["protocol"]) > 10, "a number means nothing without its protocol"


@every_model
def test_the_card_is_written_from_the_folder(name):
    assert (MODELS[name] / "README.md").read_text(encoding="utf-8") == render(MODELS[name])


@every_model
def test_the_card_has_a_numeric_index(name):
    card = ModelCard.load(MODELS[name] / "README.md")
    assert card.data.model_name == name
    assert card.data.license == "apache-2.0"
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    metrics = read(name, RESULTS)["metrics"]
    assert values.keys() == metrics.keys()
    for metric, value in values.items():
        assert isinstance(value, int | float)
        assert value == pytest.approx(metrics[metric]["value"], abs=1e-6)
