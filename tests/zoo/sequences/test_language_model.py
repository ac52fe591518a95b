"""Language models: causality, probabilities, samples beyond a window; and texts, cut into windows."""

import math
import sysconfig
import zlib
from itertools import product
from pathlib import Path

import pytest
import torch

from datamodules import Text
from datamodules.text import ASCII
from tests import runs
from zoo.errors import UserError
from zoo.sequences.language_model import NETWORKS, LanguageModel

CONTEXT = 6


def model(network: str, alphabet="abc", context=CONTEXT, scale=0.3) -> LanguageModel:
    torch.manual_seed(0)
    made = LanguageModel(alphabet, context, network, width=12, depth=3, heads=3, dropout=0.5).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += scale * torch.randn_like(parameter)
    return made


def every_text(letters: int, length: int) -> torch.Tensor:
    return torch.tensor([*product(range(letters), repeat=length)])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_character_is_given_all_before_it_and_no_other(network):
    made, x = model(network), torch.randint(3, (20, CONTEXT), generator=torch.Generator().manual_seed(1))
    found = torch.zeros(CONTEXT, CONTEXT, dtype=torch.bool)
    with torch.no_grad():
        before = made.network(x)
        for j in range(CONTEXT):
            moved = x.clone()
            moved[:, j] = (moved[:, j] + 1) % 3
            found[:, j] = (made.network(moved) != before).any(-1).any(0)
    torch.testing.assert_close(found, torch.ones_like(found).tril(-1))


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_of_all_texts_sum_to_one(network):
    made, every = model(network), every_text(3, CONTEXT)
    # log-probabilities are float32 or better
    assert made(every).double().sum(1).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_character_after_the_other_is_the_same_as_one_pass(network):
    made, x = model(network), every_text(3, CONTEXT)[::50]
    with torch.no_grad():
        whole, step = made.network(x), made.network.steps(len(x))
        for i in range(CONTEXT):
            torch.testing.assert_close(step(i, x), whole[:, i], rtol=0, atol=1e-9)


@pytest.mark.parametrize("network", NETWORKS)
def test_samples_are_as_frequent_as_they_are_probable_after_a_prefix(network):
    """Pearson's chi-square of 20,000 samples over all 8 ends of a text, its 0.9999 quantile of 7 degrees being 29.9."""
    made, count = model(network, "ab"), 20_000
    drawn = made.sample(count, generator=torch.Generator().manual_seed(0), prefix="ba", length=3)
    assert (drawn[:, :2] == torch.tensor([1, 0])).all()
    found = torch.bincount(drawn[:, 2:] @ torch.tensor([4, 2, 1]), minlength=8).double()
    ends = every_text(2, 3)
    whole = torch.cat([torch.tensor([[1, 0]]).expand(8, 2), ends, torch.zeros(8, 1, dtype=torch.long)], 1)
    expected = count * made(whole)[:, 2:5].double().sum(1).exp()
    assert ((found - expected).square() / expected).sum().item() < 29.9


@pytest.mark.parametrize("prefix", ["", "ab", "abcabcab"])
def test_a_text_longer_than_a_window_goes_on_from_half_of_one(prefix):
    """The most probable characters, one window after the other, each in whole passes."""
    made, length = model("transformer"), 11
    found = made.sample(1, prefix=prefix, length=length, temperature=1e-6)[0].tolist()
    text = ["abc".index(character) for character in prefix]
    first = 0 if len(text) < CONTEXT else len(text) - CONTEXT // 2
    while len(text) < len(prefix) + length:
        if len(text) - first == CONTEXT:
            first = len(text) - CONTEXT // 2
        window = torch.tensor([text[first:] + [0] * (CONTEXT - len(text) + first)])
        with torch.no_grad():
            text.append(int(made.network(window)[0, len(text) - first].argmax()))
    assert found == text


def test_samples_do_not_depend_on_how_many_follow():
    made = model("wavenet")
    few, many = (made.sample(n, generator=torch.Generator().manual_seed(5), length=20) for n in (2, 9))
    assert few.tolist() == many[:2].tolist()
    assert len({*made.text(many)}) > 5


def test_mistakes_are_named(tmp_path):
    made = model("transformer")
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for call, text in (
        (lambda: made.sample(1, prefix="abd"), "prefix must consist of the characters 'abc', got 'd' in 'abd'"),
        (lambda: made.sample(1, length=0), "length must be at least 1, got 0"),
        (lambda: made.sample(1, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: made.sample(1, labels=torch.tensor([1])), "labels must not be given"),
        (lambda: LanguageModel("ab", 1), "context at least 2"),
        (lambda: LanguageModel("ab", 4, "made"), "network must be one of transformer, wavenet, got 'made'"),
        (lambda: LanguageModel("ab", 4, width=10), "width must be a multiple of heads, got width 10 and heads 4"),
        (lambda: Text(context=5), "data.context must be even and at least 2, got 5"),
        (lambda: Text(str(tmp_path / "none.txt")), "none.txt' cannot be read as a text in UTF-8"),
        (lambda: Text(str(tmp_path / "bytes.txt")), "bytes.txt' cannot be read as a text in UTF-8"),
        (lambda: Text(str(tmp_path / "short.txt")), "short.txt' is too short: a part has 0 characters, fewer than two"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_python_s_modules_are_split_by_file():
    data = Text()
    assert data.alphabet == ASCII
    for path in Path(sysconfig.get_paths()["stdlib"]).glob("[a-m]*.py"):
        line = next((line for line in path.read_text(errors="replace").splitlines() if len(line) > 60), "?")
        part = {0: "test", 1: "val"}.get(zlib.crc32(path.name.encode()) % 20, "train")
        assert not line.isascii() or "\t" in line or line in data.texts[part]
    assert len(data.texts["train"]) > 10 * len(data.texts["test"]) > 100_000


def test_every_character_is_scored_once(tmp_path):
    """Of the test text, but for the first half of the first window and less than half a window at the end."""
    (tmp_path / "a.txt").write_text("".join(chr(0x4E00 + i) for i in range(1000)))
    data = Text(str(tmp_path / "a.txt"), context=8)
    assert (len(data.texts["train"]), len(data.texts["val"]), len(data.texts["test"])) == (900, 50, 50)
    windows = data.split("test")[0]
    found = "".join(data.alphabet[i] for i in windows[:, 4:].flatten())
    assert found == data.texts["test"][4:48]
    assert len(data.split("train")[0]) == 893  # one begins at every character


def test_a_run_writes_and_is_measured(tmp_path, command):
    (tmp_path / "a.txt").write_text("It was the best of times,\nit was the worst of times.\n" * 100)
    options = ("--config", "transformer-text", "--data.path", tmp_path / "a.txt", "--data.context", 16)
    options += ("--model.width", 8, "--model.depth", 1, "--data.batches_per_epoch", 3, "--trainer.max_epochs", 1)
    folder, mine = runs.fit(tmp_path / "run", *options), tmp_path / "mine"
    assert command("export", folder / "last.ckpt", mine).status == 0
    found = command("sample", mine, "--prefix", "It was", "--length", 40, "--temperature", 0.5, "--num-samples", 2)
    assert found.status == 0, found.err
    assert found.out.startswith("It was")
    assert len(found.out) > 2 * 46
    wrong = command("sample", mine, "--prefix", "é")
    assert (wrong.status, wrong.out) == (2, "")
    assert wrong.err.startswith("error: --prefix must consist of the characters '\\n ,.I")
    assert command("sample", mine, "--labels", 1).err.startswith("error: --labels must not be given")
    assert command("evaluate", mine, "--update").status == 0
    card = (mine / "README.md").read_text()
    assert "lightning-zoo sample mine --prefix" in card
    assert "Text, the author's own data." in card


def test_a_model_that_knows_nothing_takes_the_bits_of_its_alphabet(tmp_path, monkeypatch):
    from checkpoints.catalogue import Description
    from commands.measures import text

    (tmp_path / "a.txt").write_text("abcd" * 200)
    made = model("transformer", "abcd", 8)
    made.network.output[1].weight.data.zero_()
    made.network.output[1].bias.data.zero_()
    data = {"class": "Text", "arguments": {"path": str(tmp_path / "a.txt"), "context": 8}}
    described = Description(tmp_path, "language-model", {}, "text", "", "", data, "text", {}, {})
    metrics = text.text(made, described, full=True, say=lambda _: None)
    assert metrics["bits_per_character"].value == pytest.approx(math.log2(4), abs=1e-6)
    assert 0 <= metrics["bits_per_character_xz"].value < 1  # it repeats itself
