from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import checkpoints
from datamodules.loader import InMemoryLoader
from lightning_modules import Classifier, RealNVP
from lightning_modules.trainer.callbacks import EMA, LearningCurves, Predictions, SamplePictures
from lightning_modules.trainer.record import RunRecord
from tests.runs import read
from zoo.errors import UserError
from zoo.pictures import image_grid


class Line(L.LightningModule):
    """A line that is fitted by large noisy steps, so that weights and averages are far apart; notes what hooks see."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 1)
        self.register_buffer("steps", torch.zeros(()))
        self.seen = []

    def note(self, hook):
        if not self.trainer.sanity_checking:
            self.seen.append((hook, weights(self)))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        self.steps += 1
        return (self.model(inputs)[:, 0] - targets).square().mean()

    def validation_step(self, batch, batch_idx):
        self.note("validation_step")

    def on_validation_epoch_end(self):
        self.note("module.on_validation_epoch_end")

    def on_train_batch_start(self, batch, batch_idx):
        self.note("train_batch_start")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


class Notes(Callback):
    """Notes the weights that another callback sees."""

    def __init__(self):
        self.raw = []  # after each optimizer step
        self.validation = []
        self.end = None

    def on_train_batch_end(self, trainer, pl_module, *_):
        if len(self.raw) < trainer.global_step:
            self.raw.append(weights(pl_module))

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validation.append(weights(pl_module))


def train(folder, callbacks, **options):
    """Three epochs of four batches with the callbacks in this order; the module."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(40, 3, generator=generator), torch.randn(40, generator=generator)
    module = Line()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=callbacks, default_root_dir=folder, enable_checkpointing=False, **options,
    )  # fmt: skip
    batches = InMemoryLoader(inputs, targets, 10, shuffle=True)
    trainer.fit(module, batches, InMemoryLoader(inputs, targets, 25, shuffle=False))
    return module


def averages(raw, decay):
    """After each step: the first weights, then d average + (1 - d) weights with the ramp of d, in float64."""
    average, answer = raw[0].double(), [raw[0].double()]
    for n, weight in enumerate(raw[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight.double()
        answer.append(average)
    return answer


def close(a, b):
    return torch.allclose(a.double(), b.double(), rtol=0, atol=3e-7)  # float32 sums of numbers near 1


# averaged weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.999, 0.3, 0.0])  # the ramp alone, the ramp up to a bound, no average at all
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_its_closed_form(decay, accumulate, tmp_path):
    notes = Notes()
    module = train(tmp_path, [EMA(decay), notes], accumulate_grad_batches=accumulate)
    assert len(notes.raw) == 12 // accumulate, "one update for each optimizer step"
    expected = averages(notes.raw, decay)
    assert close(weights(module), expected[-1]), "after fit the module holds the average"
    assert (weights(module) - notes.raw[-1]).abs().max() > 0.01 or decay == 0
    assert module.steps == 12, "buffers are not averaged"


@pytest.mark.parametrize("position", [0, 1])
def test_validation_sees_the_average_whatever_the_order_of_callbacks(position, tmp_path):
    notes = Notes()
    callbacks = [notes]
    callbacks.insert(position, EMA())
    module = train(tmp_path, callbacks)
    expected = averages(notes.raw, 0.999)[3::4]  # at the end of each epoch
    assert len(notes.validation) == 3
    for average, seen in zip(expected, notes.validation, strict=True):
        assert close(seen, average)
    for hook, each in (("validation_step", 2), ("module.on_validation_epoch_end", 1)):
        seen = [value for name, value in module.seen if name == hook]
        assert len(seen) == 3 * each
        for value, average in zip(seen, [a for a in expected for _ in range(each)], strict=True):
            assert close(value, average)


@pytest.mark.parametrize("position", [0, 1])
def test_training_goes_on_with_the_raw_weights(position, tmp_path):
    notes = Notes()
    callbacks = [notes]
    callbacks.insert(position, EMA())
    module = train(tmp_path, callbacks)
    starts = [value for hook, value in module.seen if hook == "train_batch_start"]
    for before, start in zip(notes.raw, starts[1:], strict=False):
        assert torch.equal(start, before)
    plain = Notes()
    train(tmp_path, [plain])
    for one, two in zip(notes.raw, plain.raw, strict=True):
        assert torch.equal(one, two), "averaging changes nothing in the training itself"


class SaveEachEpoch(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt", weights_only=False)


def test_a_checkpoint_holds_the_average_and_the_raw_weights(tmp_path):
    notes = Notes()
    train(tmp_path, [EMA(), notes, SaveEachEpoch(tmp_path)])
    for epoch, average in enumerate(averages(notes.raw, 0.999)[3::4]):
        content = read(tmp_path / f"{epoch}.ckpt")
        names = ("model.weight", "model.bias")
        saved, raw = (
            torch.cat([content[part][name].flatten() for name in names])
            for part in ("state_dict", "current_model_state")
        )
        assert close(saved, average)
        assert torch.equal(raw, notes.raw[4 * epoch + 3])
        assert content["averaging_state"] == {"n_averaged": torch.tensor(4 * (epoch + 1))}


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(UserError, match="EMA decay must be at least 0 and below 1, got"):
        EMA(decay)


# pictures and curves ------------------------------------------------------------------------------------------------


def test_pictures_are_drawn_with_the_average_from_the_same_latents(tiny_run):
    content = read(tiny_run / "last.ckpt")
    model = checkpoints.build(content["model"], content["arguments"])

    def drawn(state):
        model.load_state_dict({name.removeprefix("model."): weight for name, weight in state.items()})
        return image_grid(model.sample(5, steps=4, generator=torch.Generator().manual_seed(0)))

    with Image.open(tiny_run / "samples" / "step-0000014.png") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(pixels, drawn(content["state_dict"]))
    assert not np.array_equal(pixels, drawn(content["current_model_state"]))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: RealNVP(num_features=2), "that of RealNVP does not: leave it out"),
        (lambda: Classifier((1, 8, 8), 10), "that of Classifier does not: leave it out"),
    ],
)
def test_pictures_of_what_draws_no_images_are_refused(module, said):
    with pytest.raises(UserError, match=f"SamplePictures needs a model that samples images, but {said}"):
        SamplePictures().setup(SimpleNamespace(), module(), "fit")


@pytest.mark.parametrize(
    ("labels", "expected"), [((), None), ((3,), [0, 1, 2, 0]), ((3, 2), [[0, 0], [1, 0], [2, 0], [0, 1]])]
)
def test_pictures_of_any_model_show_its_classes_in_turn(labels, expected, tmp_path):
    """A model without steps, of several label columns."""
    asked = []

    def sample(n, *, labels=None, generator=None):
        asked.append(labels)
        return torch.zeros(n, 1, 4, 4)

    module = SimpleNamespace(model=SimpleNamespace(shape=(1, 4, 4), labels=labels, example=dict, sample=sample))
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), sanity_checking=False, is_global_zero=True, default_root_dir=str(tmp_path),
        fast_dev_run=False, global_step=7, loggers=[],
    )  # fmt: skip
    callback = SamplePictures(num_samples=4)
    callback.setup(trainer, module, "fit")
    callback.on_validation_epoch_end(trainer, module)
    (given,) = asked
    assert (None if given is None else given.squeeze(1).tolist()) == expected
    assert (tmp_path / "samples" / "step-0000007.png").exists()


@pytest.mark.parametrize(
    "wrong", [{"sanity_checking": True}, {"fast_dev_run": True}, {"is_global_zero": False}, {"fn": "validate"}]
)
def test_nothing_is_drawn_outside_the_validations_of_a_fit(wrong, tmp_path):
    state = SimpleNamespace(fn=wrong.get("fn", "fit"))
    usual = {"fast_dev_run": False, "sanity_checking": False, "is_global_zero": True, "default_root_dir": str(tmp_path)}
    # a module without a model: drawing would fail
    SamplePictures().on_validation_epoch_end(SimpleNamespace(**{**usual, **wrong}, state=state), SimpleNamespace())
    assert not [*tmp_path.iterdir()]


def curves(folder, metrics, **changes):
    logger = CSVLogger(folder, name="", version="")
    for step, row in enumerate(metrics):
        logger.log_metrics(row, step)
    usual = {"loggers": [logger], "default_root_dir": str(folder), "is_global_zero": True, "global_step": 3}
    return SimpleNamespace(**{**usual, **changes})


def test_curves_have_a_panel_for_each_quantity(tmp_path):
    metrics = [{"train/loss": 2.0}, {"train/loss": 1.0, "val/loss": 1.5}, {"val/loss": 1.2, "val/accuracy": 0.0}]
    for count, width in ((2, 600), (3, 1200)):  # 5 inches at 120 dots each
        folder = tmp_path / str(count)
        LearningCurves().on_train_end(curves(folder, metrics[:count]), None)
        with Image.open(folder / "curves.png") as picture:
            assert picture.width == width
        assert {path.name for path in folder.iterdir()} == {"curves.png", "metrics.csv"}


def test_many_curves_stand_in_rows_of_four(tmp_path):
    LearningCurves().on_train_end(curves(tmp_path, [{f"train/{name}": 1.0 for name in "abcde"}]), None)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (4 * 600, 2 * 432)


def test_lines_that_never_move_are_left_out(tmp_path):
    metrics = [{"train/loss": 1.0 / step, "train/learning_rate": 0.5, "val/clips": 0.0} for step in range(1, 5)]
    LearningCurves().on_train_end(curves(tmp_path, metrics), None)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 600, "a single panel"


@pytest.mark.parametrize("changes", [{"loggers": []}, {"is_global_zero": False}])
def test_curves_need_a_log_and_one_process(changes, tmp_path):
    LearningCurves().on_train_end(curves(tmp_path, [{"train/loss": 2.0}], **changes), None)
    assert not (tmp_path / "curves.png").exists()


def test_curves_are_drawn_after_an_exception_but_not_of_a_run_that_never_began(tmp_path):
    for step in (0, 1):
        trainer = curves(tmp_path / str(step), [{"train/loss": 2.0}], global_step=step)
        LearningCurves().on_exception(trainer, None, KeyboardInterrupt())
        assert (tmp_path / str(step) / "curves.png").exists() == bool(step)


# predictions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world_size", "suffix"), [(1, ""), (3, "-2")])
@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 2, 4), (6,), (4, 5, 2)])
def test_predictions_are_written_in_order_and_images_drawn(world_size, suffix, shape, tmp_path, capsys):
    batches = [torch.rand(5, *shape), torch.rand(2, *shape)]
    trainer = SimpleNamespace(default_root_dir=str(tmp_path / "new"), world_size=world_size, global_rank=2)
    Predictions().write_on_epoch_end(trainer, None, batches, None)
    stem = f"predictions{suffix}"
    assert torch.equal(load_file(tmp_path / "new" / f"{stem}.safetensors")["predictions"], torch.cat(batches))
    drawn = len(shape) == 3 and shape[0] in (1, 3)
    names = {f"{stem}.safetensors", *([f"{stem}.png"] if drawn else [])}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    assert capsys.readouterr().out.count("wrote ") == len(names)


# records ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_says_where_it_came_from(tiny_run):
    content = read(tiny_run / "last.ckpt")
    assert content["origin"].keys() == {"seed", "commit", "versions", "steps"}
    assert (content["origin"]["seed"], content["origin"]["steps"]) == (5, 14)
    assert content["origin"]["versions"]["torch"] == str(torch.__version__)
    assert content["random_states"]["cpu"].shape == (1, len(torch.get_rng_state()))


def record(rank, world_size, restored=None):
    """The random numbers of a process after its `on_train_start`."""
    callback = RunRecord()
    state = SimpleNamespace(fn="fit")
    trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, state=state, optimizers=[], lr_scheduler_configs=[]
    )
    module = L.LightningModule()
    if restored is not None:
        callback.on_load_checkpoint(trainer, module, {"random_states": {"cpu": restored}})
    torch.manual_seed(3)
    torch.rand(4)
    callback.on_train_start(trainer, module)
    return torch.rand(6)


def test_each_rank_starts_from_its_own_random_numbers():
    torch.manual_seed(3)
    torch.rand(4)
    expected = torch.rand(6)
    draws = [record(rank, 4) for rank in range(4)]
    assert torch.equal(draws[0], expected), "a single process is left alone"
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_each_rank_finds_its_random_numbers_again_unless_their_number_changed():
    states, expected = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        torch.rand(7)
        states.append(torch.get_rng_state())
        expected.append(torch.rand(6))
    restored = torch.stack(states)
    for rank in range(3):
        assert torch.equal(record(rank, 3, restored), expected[rank])
    fresh = [record(rank, 2) for rank in range(2)]
    for rank in range(2):
        assert torch.equal(record(rank, 2, restored), fresh[rank])
