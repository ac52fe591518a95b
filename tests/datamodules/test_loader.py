import itertools

import pytest
import torch

from datamodules.loader import InMemoryLoader

ROWS = 13


def loader(batch_size=5, *, rows=ROWS, shuffle=True, **options):
    """A loader whose row i has the inputs (i, i + 1/2) and the label 100 + i."""
    number = torch.arange(rows)
    inputs = torch.stack([number, number + 0.5], dim=1)
    return InMemoryLoader(inputs, 100 + number, batch_size, shuffle=shuffle, **options)


def rows_of(batch):
    inputs, labels = batch
    assert torch.equal(inputs[:, 0] + 100, labels)
    assert torch.equal(inputs[:, 1] - 0.5, inputs[:, 0])
    return (labels - 100).tolist()


def stream(source, batches):
    """The rows of the next batches, over as many epochs as it takes."""
    epochs = itertools.chain.from_iterable(iter(lambda: iter(source), None))
    return [rows_of(batch) for batch in itertools.islice(epochs, batches)]


@pytest.mark.parametrize("batch_size", [1, 5, ROWS, 4 * ROWS + 3])
def test_each_pass_visits_each_row_once_and_batches_cross_its_border(batch_size):
    # the stream is passes laid end to end, wherever batches and epochs begin
    batches = stream(loader(batch_size), 3 * ROWS)
    assert {len(batch) for batch in batches} == {batch_size}
    flat = list(itertools.chain.from_iterable(batches))
    passes = [flat[i : i + ROWS] for i in range(0, len(flat), ROWS)]
    assert all(sorted(one) == list(range(ROWS)) for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes), "every pass has its own order"


def test_a_batch_depends_on_the_seed_and_its_number_alone():
    expected = stream(loader(seed=3), 20)
    assert stream(loader(seed=3, batches_per_epoch=7), 20) == expected
    alone = loader(seed=3)
    for number in (17, 0, 4):  # in any order, from a loader that has read others before
        alone.load_state_dict({"drawn": number})
        assert rows_of(next(iter(alone))) == expected[number]


def test_reading_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    stream(loader(), 4)
    assert torch.equal(torch.rand(3), expected)


def test_seeds_differ():
    streams = {str(stream(loader(seed=seed), 8)) for seed in range(6)}
    assert len(streams) == 6


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 2),  # 13 // 5
        ({"batches_per_epoch": 9}, 9),
        ({"batch_size": 4, "world_size": 3}, 1),
        ({"batch_size": 2, "world_size": 3}, 2),
        ({"batch_size": 20}, 1),
        ({"shuffle": False}, 3),
        ({"shuffle": False, "rank": 1, "world_size": 3}, 1),  # 4 rows
        ({"shuffle": False, "rank": 0, "world_size": 2}, 2),  # 7 rows
    ],
)
def test_length_is_what_an_epoch_yields(options, length):
    source = loader(**options)
    assert len(source) == length
    assert [len([*source]) for _ in range(3)] == [length] * 3


@pytest.mark.parametrize("drawn", [0, 3, 7, 9, 14])
def test_a_resumed_loader_goes_on_with_the_stream_and_the_epoch(drawn):
    whole = loader(batches_per_epoch=7, seed=2)
    expected = stream(whole, 25)

    begun = loader(batches_per_epoch=7, seed=2)
    stream(begun, drawn)
    resumed = loader(batches_per_epoch=7, seed=2)
    resumed.load_state_dict(begun.state_dict())
    rest = [rows_of(batch) for batch in resumed]
    assert len(rest) == 7 - drawn % 7, "the rest of the epoch only"
    rest += stream(resumed, 25 - drawn - len(rest))
    assert rest == expected[drawn:]


def test_state_counts_what_was_handed_out():
    source = loader(batches_per_epoch=4)
    batches = iter(source)
    assert source.state_dict() == {"drawn": 0, "in_epoch": 0, "rows": 5}
    next(batches)
    next(batches)
    assert source.state_dict() == {"drawn": 2, "in_epoch": 2, "rows": 5}


@pytest.mark.parametrize(("size", "length"), [(2, 7), (10, 7), (5, 4)])
def test_another_batch_size_neither_cuts_an_epoch_nor_repeats_rows(size, length):
    begun = loader(batches_per_epoch=4)
    stream(begun, 8)
    resumed = loader(size, batches_per_epoch=length)
    resumed.load_state_dict(begun.state_dict())
    assert len([*resumed]) == length, "a whole epoch"
    resumed.load_state_dict(begun.state_dict())
    rows = itertools.chain.from_iterable(stream(resumed, 10))
    everything = itertools.chain.from_iterable(stream(loader(1), 200))
    assert [*itertools.islice(everything, 40, 40 + 10 * size)] == [*rows]


def test_a_state_of_before_counts_batches_alone():
    resumed = loader(batches_per_epoch=7)
    resumed.load_state_dict({"drawn": 9})
    assert [rows_of(batch) for batch in resumed] == stream(loader(), 14)[9:]


def test_an_epoch_that_was_cut_short_does_not_shorten_the_next():
    source = loader(batches_per_epoch=5)
    for _ in range(4):
        assert len([*itertools.islice(source, 3)]) == 3
    assert len([*source]) == 5


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch_of_the_stream(world_size):
    # together they read what one process with a larger batch reads, so no row comes twice in a pass
    shares = [stream(loader(4, rank=rank, world_size=world_size), 11) for rank in range(world_size)]
    together = [list(itertools.chain.from_iterable(parts)) for parts in zip(*shares, strict=True)]
    assert together == stream(loader(4 * world_size), 11)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_unshuffled_rows_come_once_over_all_ranks_in_order(world_size):
    sources = [loader(shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2):  # every epoch alike
        shares = [[rows_of(batch) for batch in source] for source in sources]
        flat = [list(itertools.chain.from_iterable(share)) for share in shares]
        assert flat == [list(range(rank, ROWS, world_size)) for rank in range(world_size)]
    assert [len(rows_of(batch)) for batch in loader(shuffle=False)] == [5, 5, 3], "the last batch is shorter"


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_transform_sees_the_inputs_of_a_batch(shuffle):
    plain = loader(shuffle=shuffle)
    seen = []

    def double(inputs):
        seen.append(tuple(inputs.shape))
        return 2 * inputs

    changed = loader(shuffle=shuffle, transform=double)
    for (inputs, labels), (doubled, same) in zip(plain, changed, strict=True):
        assert torch.equal(2 * inputs, doubled)
        assert torch.equal(labels, same)
    assert seen == [(5, 2), (5, 2)] if shuffle else [(5, 2), (5, 2), (3, 2)]
