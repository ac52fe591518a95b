"""Cards: what they say, that the Hub takes them, and that nothing of a stranger's file acts in them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from checkpoints import shipped
from checkpoints.card import render
from checkpoints.catalogue import CARD, CONFIG, PICTURE, RESULTS, read_json
from tests.hub_server import judge_card
from zoo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
every_model = pytest.mark.parametrize("name", shipped())


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@every_model
def test_the_shipped_card_is_what_its_numbers_say(name):
    assert (shipped()[name] / CARD).read_text(encoding="utf-8") == render(shipped()[name])


@every_model
def test_the_hub_takes_the_card(name):
    assert judge_card(render(shipped()[name])) == ([], [])


def test_metadata_is_complete_and_numeric(finished):
    data = ModelCard(render(finished)).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        None,  # whose weights they are is not said
        "lightning-zoo",
        "unconditional-image-generation",
    )
    assert "image-diffusion" in data.tags
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("fid", 1.25, "test")
    assert type(result.metric_value) is float


def test_the_text_says_what_a_reader_needs(finished):
    text = render(finished)
    for needed in (
        "# tiny-waves",
        'model = load("tiny-waves")',
        "lightning-zoo sample tiny-waves --num-samples 64 --seed 0 --output samples.png",
        "| fid | 1.2500 ± 0.1000 | mean of 25 draws (25) |",
        "`lightning-zoo evaluate tiny-waves` measures them again",
        "`lightning-zoo fit --config train.yaml`",
        "seed 7, 3 steps",
        "CC BY 4.0",
        "Weights: unknown. Data: CC BY 4.0.",
        f"![samples]({PICTURE})",
    ):
        assert needed in text
    assert "\n\n\n" not in text


def test_loading_takes_four_lines(finished):
    code = re.search(r"```python\n(.*?)```", render(finished), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) == 4


def test_a_model_of_another_place_is_loaded_from_there(finished):
    assert 'load("hf://me/waves")' in render(finished, "hf://me/waves")


def test_licences_are_those_that_are_given(finished, copy):
    folder = copy(finished)
    edit(folder / CONFIG, license="mit", data_license="private")
    assert ModelCard(render(folder)).data.license == "mit"
    assert "Weights: mit. Data: private." in render(folder)
    edit(folder / CONFIG, license="\nevil: yes")
    assert ModelCard(render(folder)).data.license is None


def test_the_data_of_a_user_are_named(finished, copy):
    folder = copy(finished)
    edit(folder / CONFIG, data={"class": "ImageFolder", "arguments": {"root": "cats"}})
    text = render(folder)
    assert "ImageFolder, the author's own data." in text
    assert "Data: unknown." in text


EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a`<b>`",
    "a | b | c",
    "a\n\n<iframe src=//evil>\n",
    "\n---\nlicense: other\n---\n",
    "[click](javascript:alert(1))",
    "&lt;script&gt;",
    "\x1b]8;;http://evil\x07",
    "\ud800",
    "‮evil",
]


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_of_a_file_acts(finished, copy, evil):
    folder = copy(finished)
    config = json.loads((folder / CONFIG).read_text())
    metric = {"value": 1.25, "spread": 0.5, "size": 25, "protocol": evil}
    origin = config["origin"] | {"commit": evil, "versions": {evil: evil}}
    data = {"class": evil, "arguments": {evil: evil}}
    texts = {"algorithm": evil, "paper": evil, "license": evil, "data_license": evil}
    edit(folder / CONFIG, arguments={evil: evil}, origin=origin, data=data, **texts)
    edit(folder / RESULTS, command=evil, metrics={evil: metric}, judge={})
    text = render(folder)
    text.encode()
    head, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert "license" not in yaml.safe_load(head)
    assert judge_card(text) == ([], [])
    assert "<" not in body
    assert body.count("](") == 1  # the picture
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    # and what it might add to the page are no lines of its own
    assert len(body.splitlines()) == len(render(finished).split("\n---\n", 1)[1].splitlines())


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        (CONFIG, {"model": "gan"}, "unknown model class 'gan'"),
        (CONFIG, {"model": ["x"]}, 'must hold "model", a name'),
        (CONFIG, {"arguments": 3}, 'and "arguments", an object'),
        (CONFIG, {"origin": 3}, "'origin' must be an object, got 3"),
        (CONFIG, {"data": {"class": 3}}, '"data" must hold "class", a name'),
        (CONFIG, {"origin": {"data": "digits"}}, "has values that no card can show: KeyError: 'seed'"),
        (RESULTS, {"metrics": []}, "must hold 'metrics', an object"),
        (RESULTS, {"metrics": {"fid": 3}}, "has values that no card can show"),
        (RESULTS, {"metrics": {"fid": {"value": "12"}}}, "a metric must be a finite number, got '12'"),
        (RESULTS, {"metrics": {"fid": {"value": float("nan")}}}, "a metric must be a finite number, got 'nan'"),
        (RESULTS, {"metrics": {"fid": {"value": 10**400}}}, "has values that no card can show: OverflowError"),
        (RESULTS, {"metrics": {"fid": {"value": 1, "spread": 1, "size": 0, "protocol": ""}}}, "ZeroDivisionError"),
        (RESULTS, {"judge": 3}, "has values that no card can show"),
        (RESULTS, {"command": None}, "must hold 'command', a text"),
    ],
)
def test_what_no_card_can_say_is_told(finished, copy, file, changes, told):
    folder = copy(finished)
    edit(folder / file, **changes)
    with pytest.raises(UserError) as caught:
        render(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_results_there_is_no_card(tiny):
    with pytest.raises(UserError, match=r"has no results\.json to write a card from: measure it with `evaluate"):
        render(tiny)


@pytest.mark.parametrize("name", ["a b", 'a"', "a`b", "a\nb", "ä"])
def test_a_name_must_be_one(finished, tmp_path, name):
    folder = Path(shutil.copytree(finished, tmp_path / name))
    with pytest.raises(UserError, match="cannot be the name of a model"):
        render(folder)


def test_shipped_results_name_their_protocol(tmp_path):
    for folder in shipped().values():
        for entry in read_json(folder / RESULTS)["metrics"].values():
            assert {"value", "spread", "size", "protocol"} <= entry.keys()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_an_interquartile_mean_needs_five_training_seeds(finished, copy, count):
    folder = copy(finished)
    values = {str(seed): float(seed) for seed in range(count)}
    edit(folder / RESULTS, by_training_seed={"metric": "fid", "values": values})
    text = render(folder)
    assert (f"{count} training seeds, by the same protocol: fid" in text) == (count > 1)
    assert ("interquartile mean" in text) == (count >= 5)


def test_a_card_cites_the_paper_and_states_the_licences(finished, copy):
    folder = copy(finished)
    paper = "Ho et al. 2020, arXiv:2006.11239"
    edit(folder / CONFIG, algorithm="DDPM", paper=paper, license="cc-by-4.0", data_license="CC0-1.0")
    text = render(folder)
    assert f"Trained by DDPM ({paper})." in text
    assert "Weights: cc-by-4.0. Data: CC0-1.0." in text
    data = ModelCard(text).data
    assert "arxiv:2006.11239" in data.tags
    assert data.license == "cc-by-4.0"
