"""The encoder-decoder Transformer: what sees what, padding, the cache, and beam search against enumeration.

In float64, with a distinct size for every axis.
"""

import math
from datetime import datetime
from itertools import product

import pytest
import torch

from datamodules import Sequences
from lightning_modules import Transformer as Module
from tests import runs
from zoo.errors import UserError
from zoo.nn.attention import CrossAttention
from zoo.sequences.encoder_decoder import EncoderDecoder
from zoo.sequences.search import beam_search
from zoo.sequences.tokens import END, counted, to_text, to_tokens
from zoo.synthetic.sequences import TASKS

ALPHABET, SOURCE, TARGET = "abc", 6, 5
CLOSE = {"rtol": 0, "atol": 1e-10}  # float64, sums in another order


def model(seed=0, scale=0.3, **options) -> EncoderDecoder:
    torch.manual_seed(seed)
    options = {"width": 12, "depth": 2, "heads": 3, "dropout": 0.5} | options
    made = EncoderDecoder(options.pop("alphabet", ALPHABET), SOURCE, TARGET, **options).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += scale * torch.randn_like(parameter)
    return made


def tokens(texts, length) -> torch.Tensor:
    return to_tokens(texts, ALPHABET, length, "text")


def test_texts_become_tokens_and_texts_again():
    found = tokens(["", "ab", "ccc"], 4)
    assert found.tolist() == [[0, 0, 0, 0], [1, 2, 0, 0], [3, 3, 3, 0]]
    assert to_text(found, ALPHABET) == ["", "ab", "ccc"]
    assert to_text(torch.tensor([[1, 0, 2], [1, 1, 1]]), ALPHABET) == ["a", "aaa"]
    assert counted(torch.tensor([[1, 0, 2, 0], [1, 1, 1, 1]])).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_an_output_sees_the_source_and_the_tokens_before_it():
    """Equal bit for bit up to token t when it changes, all later ones change; every character of the source counts."""
    made, source, target = model(), tokens(["abcab"], SOURCE), tokens(["cabb"], TARGET)
    with torch.no_grad():
        before = made(source, target)
        for t in range(TARGET):
            moved = target.clone()
            moved[:, t] = (moved[:, t] + 1) % 4
            changed = (made(source, moved) != before).any(-1)[0]
            assert changed.tolist() == [later > t for later in range(TARGET)]
        for s in range(SOURCE - 1):
            moved = source.clone()
            moved[:, s] = moved[:, s] % 3 + 1
            assert (made(moved, target) != before).any(-1).all()


def test_padding_changes_nothing():
    made = model()
    source, target = tokens(["ab", "c"], 4), tokens(["ba", ""], TARGET)
    short = made.log_prob(source[:, :3], target[:, :3])
    torch.testing.assert_close(made.log_prob(tokens(["ab", "c"], SOURCE), target), short, **CLOSE)
    target[:, 3:] = 2  # what comes after the end of a target is no part of it
    torch.testing.assert_close(made.log_prob(source, target), short, **CLOSE)
    alone = torch.cat([made.log_prob(source[i : i + 1], target[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(made.log_prob(source, target), alone, **CLOSE)


def every_target(length: int) -> torch.Tensor:
    """All that end within the length, filled up with END, and all that do not."""
    rows = [[*row] for row in product(range(len(ALPHABET) + 1), repeat=length)]
    return torch.tensor([row for row in rows if END not in row or not any(row[row.index(END) :])])


def test_probabilities_of_all_targets_sum_to_one():
    made, every = model(), every_target(3)
    source = tokens(["acb"], SOURCE).expand(len(every), -1)
    assert made.log_prob(source, every).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_label_smoothing_is_a_cross_entropy_with_a_mixture():
    made, source, target = model(), tokens(["ab", "cab"], SOURCE), tokens(["ba", "a"], TARGET)
    wanted = 0.75 * torch.nn.functional.one_hot(target, 4).double() + 0.25 / 4
    found = (wanted * made(source, target).log_softmax(-1)).sum(-1)
    expected = torch.stack([found[0, :3].sum(), found[1, :2].sum()])
    torch.testing.assert_close(made.log_prob(source, target, smoothing=0.25), expected, **CLOSE)


def test_greedy_decoding_with_a_cache_is_what_whole_passes_find():
    made, source = model(scale=0.6, seed=7), tokens(["abcab", "c", ""], SOURCE)
    expected = torch.full((3, TARGET), END)
    for t in range(TARGET):
        found = made(source, expected)[:, t].argmax(-1)
        ended = (expected[:, :t] == END).any(1)
        expected[:, t] = torch.where(ended, END, found)
    found, total = made.search(source)
    torch.testing.assert_close(found[:, 0], expected)
    torch.testing.assert_close(total[:, 0], made.log_prob(source, expected), **CLOSE)
    assert len({*map(tuple, expected.tolist())}) > 1, "one answer to all would prove little"


def test_a_wide_beam_finds_the_most_probable_targets():
    """As enumeration ranks them: a beam as wide as there are targets leaves none out."""
    made, source = model(scale=0.6), tokens(["ab", "cabca"], SOURCE)
    made.shape = (3,)
    every = every_target(3)
    for i in range(2):
        found, total = made.search(source[i : i + 1], beams=len(every))
        log_probs = made.log_prob(source[i : i + 1].expand(len(every), -1), every)
        best = log_probs.sort(descending=True)
        torch.testing.assert_close(total[0], best.values, **CLOSE)
        torch.testing.assert_close(found[0], every[best.indices])


def test_two_beams_find_what_greedy_decoding_misses():
    """P(a) = .6, then .4 at most; P(b) = .4, then 1: greedy decoding ends at .24, two beams at .4."""
    nothing = torch.tensor([1e-9, 1e-9, 1e-9])
    after = {9: torch.tensor([1e-9, 0.6, 0.4]), 1: torch.tensor([0.4, 0.3, 0.3]), 2: torch.tensor([1.0, 1e-9, 1e-9])}

    def step(latest, state):
        return torch.stack([after.get(i, nothing).log() for i in latest.tolist()]), state

    first = torch.tensor([9])
    found, total = beam_search(step, first, 1, 3)
    assert found[0].tolist() == [[1, 0, 0]]
    assert total.exp().item() == pytest.approx(0.24)
    found, total = beam_search(step, first, 2, 3)
    assert found[0].tolist() == [[2, 0, 0], [1, 0, 0]]
    assert total.exp()[0].tolist() == pytest.approx([0.4, 0.24])


def test_cross_attention_is_pytorchs():
    """Same weights in `nn.MultiheadAttention`, with a mask."""
    own, peer = CrossAttention(12, 3).double(), torch.nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([own.query.weight, own.key_value.weight]))
        peer.in_proj_bias.copy_(torch.cat([own.query.bias, own.key_value.bias]))
        peer.out_proj.load_state_dict(own.out.state_dict())
        h, memory = torch.randn(2, 4, 12).double(), torch.randn(2, 5, 12).double()
        mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
        found = own(h, own.read(memory), mask[:, None, None])
        expected, _ = peer(own.norm(h), memory, memory, key_padding_mask=~mask)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_places_are_sinusoids_of_all_wave_lengths():
    made = model(width=6, scale=0)
    with torch.no_grad():
        made.embedding.weight.zero_()
        found = made._embed(torch.zeros(1, 3, dtype=torch.long), start=7)[0]
    for row, place in zip(found, (7, 8, 9), strict=True):
        angles = [place / 10_000 ** (2 * i / 6) for i in range(3)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)  # the angles are float32


def test_every_weight_has_a_finite_gradient():
    made = model().train()
    made.log_prob(tokens(["ab", "cab"], SOURCE), tokens(["ba", "a"], TARGET)).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("name", TASKS)
def test_targets_follow_from_sources(name):
    task = TASKS[name]
    drawn = task.draw(3000, torch.Generator().manual_seed(0))
    assert drawn != task.draw(3000, torch.Generator().manual_seed(1))
    for i, length in enumerate((task.source_length, task.target_length)):
        texts = [pair[i] for pair in drawn]
        to_tokens(texts, task.alphabet, length, "text")  # they fit
        assert max(map(len, texts)) == length - 1
    for source, target in drawn:
        assert target == ("".join(sorted(source)) if name == "sort" else read_date(source))


def read_date(text: str) -> str:
    """As the standard library reads it."""
    for form in ("%d %B %Y", "%B %d, %Y", "%d %b %Y", "%b %d %Y", "%A, %d %B %Y"):
        try:
            found = datetime.strptime(text, form)
        except ValueError:
            continue
        assert "%A" not in form or text.startswith(found.strftime("%A"))
        return found.date().isoformat()
    raise AssertionError(text)


def test_held_out_pairs_are_not_trained_on():
    data = Sequences("sort", num_train=20_000)
    train, val, test = ({source for source, _ in data.pairs(split)} for split in ("train", "val", "test"))
    assert len(val) == len(test) == 2000
    assert not val & test
    assert not train & (val | test)
    assert [min(map(len, part)) for part in (train, val, test)] == [1, 5, 5]
    inputs, targets = data.split("test")
    assert to_text(targets[:3], data.alphabet) == ["".join(sorted(text)) for text in to_text(inputs[:3], data.alphabet)]


def test_mistakes_are_named():
    made = model()
    for call, text in (
        (lambda: made.sample(1), "source must be given: a text of the characters 'abc'"),
        (lambda: made.sample(1, source=["abx"]), "source must consist of the characters 'abc', got 'x' in 'abx'"),
        (lambda: made.sample(1, source=["abcabc"]), "source must have at most 5 characters, got 6"),
        (lambda: made.sample(1, source=["a"], beams=0), "beams must be at least 1, got 0"),
        (lambda: made.sample(1, source=["a"], labels=torch.tensor([1])), "labels must not be given"),
        (lambda: model(alphabet="aa"), "alphabet must hold different characters that can be printed, got 'aa'"),
        (lambda: model(alphabet="a\x1b"), "alphabet must hold different characters"),
        (lambda: model(heads=5), "must be even and a multiple of heads, got width 12 and heads 5"),
        (lambda: model(depth=0), "must be positive"),
        (lambda: Module(ALPHABET, 3, 3, label_smoothing=1.0), "model.label_smoothing must be .* below 1, got 1.0"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_a_run_is_exported_answers_and_is_measured(tmp_path, command):
    options = ("--config", "transformer-sort", "--model.width", 8, "--model.depth", 1, "--data.num_train", 200)
    folder = runs.fit(tmp_path / "run", *options, "--data.batches_per_epoch", 2, "--trainer.max_epochs", 1)
    mine = tmp_path / "mine"
    assert command("export", folder / "last.ckpt", mine).status == 0
    found = command("sample", mine, "--source", "31", "2", "--beams", 2)
    assert found.status == 0, found.err
    assert len(found.out.splitlines()) == 2
    assert command("sample", mine, "--source", "31", "--output", tmp_path / "a.txt").out.startswith("wrote ")
    assert (tmp_path / "a.txt").read_text() == command("sample", mine, "--source", "31").out
    wrong = command("sample", mine, "--source", "3 1")
    assert (wrong.status, wrong.err) == (
        2,
        "error: --source must consist of the characters '0123456789', got ' ' in '3 1'\n",
    )
    assert command("sample", mine, "--source", "3", "--output", tmp_path / "a.png").status == 2
    assert command("evaluate", mine, "--update").status == 0
    card = (mine / "README.md").read_text()
    assert 'lightning-zoo sample mine --source "31415926"' in card
    assert "| exact_match |" in card
