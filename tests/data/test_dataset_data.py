"""Splits, standardisation, the order of the rows, augmentation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.peak import peak_of

from downpour.config import ConfigError
from downpour.data import DatasetData
from downpour.data.augmentation import Augmentation
from downpour.data.samples import Samples, as_images, fit, split
from downpour.data.sources import Arrays, Digits, Regression, Sequence, Source, TwoMoons
from downpour.run import Run


class Numbered(Source):
    """Row i has the inputs (i, 7) and the target i."""

    def __init__(self, rows: int = 50):
        self.rows = rows

    def load(self) -> Samples:
        number = np.arange(self.rows, dtype=np.float32)
        return Samples(np.stack([number, np.full_like(number, 7)], 1), number[:, None].copy())


def data(rows: int = 50, rank: int = 0, world_size: int = 1, seed: int = 0, **options: object) -> DatasetData:
    run = Run(Path("unused"), seed, 40, 10, 0, rank, world_size)
    options = {"batch_size": 4, "updates": 3, "standardize_targets": False, **options}
    return DatasetData(run, source=Numbered(rows), **options)  # type: ignore[arg-type]


def targets(stream: DatasetData) -> np.ndarray:
    """[gradient steps, batch] of all that a run is given."""
    rounds = []
    while not stream.finished:
        rounds += [batch["target"].squeeze(-1).numpy() for batch in stream]
    return np.concatenate(rounds)


def test_splits_are_disjoint_complete_and_seeded() -> None:
    parts = split(100, 0.1, 0.2, np.random.default_rng(3))
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(100))
    again, other = split(100, 0.1, 0.2, np.random.default_rng(3)), split(100, 0.1, 0.2, np.random.default_rng(4))
    assert np.array_equal(parts["test"], again["test"]) and not np.array_equal(parts["test"], other["test"])


def test_an_official_test_split_stays_what_it_is() -> None:
    parts = split(100, 0.25, 0.5, np.random.default_rng(0), test_from=80)
    assert np.array_equal(parts["test"], np.arange(80, 100))
    assert len(parts["validation"]) == 20 and len(parts["train"]) == 60
    assert max(parts["train"].max(), parts["validation"].max()) < 80


@pytest.mark.parametrize(
    ("validation", "test", "empty"), [(0.0, 0.2, "validation"), (0.1, 0.0, "test"), (0.5, 0.5, "train")]
)
def test_an_empty_split_is_refused(validation: float, test: float, empty: str) -> None:
    with pytest.raises(ConfigError, match=f"the {empty} split of 10 rows is empty"):
        split(10, validation, test, np.random.default_rng(0))


def test_standardisation_is_fitted_on_the_training_rows_alone() -> None:
    stream = data()
    train = stream.inputs[stream.rows["train"], 0].double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.std(correction=0)) == pytest.approx(1, rel=1e-6)
    assert float(stream.inputs[:, 0].mean()) != pytest.approx(0, abs=1e-6)
    assert torch.equal(stream.inputs[:, 1], torch.zeros(50))  # a column that does not vary is only moved


def test_targets_are_standardised_on_the_training_rows_and_only_if_they_are_numbers() -> None:
    stream = data(standardize_targets=True)
    train = stream.targets[stream.rows["train"]].double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-6) and float(train.std(correction=0)) == pytest.approx(1)
    mean, scale = stream.spaces["target_units"]
    assert torch.allclose(stream.targets * scale + mean, torch.arange(50.0)[:, None], atol=1e-5)
    assert "target_units" not in data().spaces and torch.equal(data().targets, torch.arange(50.0)[:, None])
    run = Run(Path("unused"), 0, 40, 10, 0)
    labels = DatasetData(run, source=TwoMoons(rows=50), standardize_targets=True)
    assert "target_units" not in labels.spaces and set(labels.targets.tolist()) == {0, 1}


def test_images_are_standardised_by_channel() -> None:
    run = Run(Path("unused"), 0, 40, 10, 0)
    stream = DatasetData(run, source=Digits())
    train = stream.inputs[stream.rows["train"]].double()
    assert train.shape[1:] == (1, 8, 8)
    assert float(train.mean()) == pytest.approx(0, abs=1e-5) and float(train.std()) == pytest.approx(1, rel=1e-3)


def test_every_pass_takes_every_training_row_once_without_a_gap() -> None:
    stream = data(rows=50)
    order, rows = targets(stream).reshape(-1), len(stream.rows["train"])
    assert order.shape == (160,) and rows == 35
    for begin in range(0, 160 - rows, rows):
        assert sorted(order[begin : begin + rows]) == sorted(stream.rows["train"])
    assert not np.array_equal(order[:rows], order[rows : 2 * rows])


def test_a_batch_may_be_larger_than_the_data() -> None:
    taken = targets(data(rows=10, batch_size=20))[0]
    assert sorted(np.unique(taken, return_counts=True)[1])[0] >= 2 and len(taken) == 20


def test_ranks_share_the_order_and_take_their_own_parts() -> None:
    alone = targets(data(batch_size=8))
    two = [targets(data(batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert np.array_equal(np.concatenate(two, 1), alone)


def test_rounds_end_at_evaluations_and_the_state_is_the_step() -> None:
    stream = data()
    assert [batch.batch_size[0] for batch in stream] == [3, 3, 3, 1] and len(stream) == math.ceil(10 / 3)
    whole = targets(data())
    other = data()
    other.restore(stream.capture())
    assert np.array_equal(targets(other), whole[10:])


def test_the_seed_of_the_split_can_be_kept_apart() -> None:
    assert np.array_equal(data(seed=1, split_seed=5).rows["test"], data(seed=2, split_seed=5).rows["test"])
    assert not np.array_equal(data(seed=1).rows["test"], data(seed=2).rows["test"])
    assert not np.array_equal(targets(data(seed=1, split_seed=5)), targets(data(seed=2, split_seed=5)))


def test_augmentation_changes_training_rows_only() -> None:
    plain, noisy = data(), data(augmentation=Augmentation(noise=0.5))
    for name in ("validation", "test"):
        pairs = zip(plain.split(name), noisy.split(name), strict=True)
        assert all(torch.equal(a["input"], b["input"]) for a, b in pairs)
    difference = next(iter(noisy))["input"] - next(iter(plain))["input"]
    assert float(difference.std()) == pytest.approx(0.5, rel=0.5)


def test_a_shift_moves_an_image_by_whole_pixels() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    seen = Augmentation(shift=2)(image.expand(200, 1, 6, 6), torch.Generator().manual_seed(0))
    padded = nn_pad(image, 2)
    windows = {tuple(padded[0, 0, y : y + 6, x : x + 6].reshape(-1).tolist()) for y in range(5) for x in range(5)}
    found = {tuple(each.reshape(-1).tolist()) for each in seen}
    assert found <= windows and len(found) == 25


def nn_pad(image: torch.Tensor, by: int) -> torch.Tensor:
    return torch.nn.functional.pad(image, (by, by, by, by), mode="replicate")


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    image = torch.arange(12.0).view(1, 2, 2, 3)
    seen = Augmentation(flip=0.5)(image.expand(400, 2, 2, 3), torch.Generator().manual_seed(0))
    mirrored = (seen == image.flip(3)).flatten(1).all(1)
    assert ((seen == image).flatten(1).all(1) | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_a_crop_keeps_the_size_and_the_range() -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = Augmentation(crop=2)(images, torch.Generator().manual_seed(1))
    assert seen.shape == images.shape and not torch.equal(seen, images)
    assert bool((seen.amin((1, 2, 3)) >= images.amin((1, 2, 3)) - 1e-6).all())


def test_image_operations_need_images() -> None:
    with pytest.raises(ConfigError, match=r"data\.augmentation\.flip=0\.5: needs images"):
        Augmentation(flip=0.5)(torch.zeros(3, 2), torch.Generator())


def test_what_cannot_be_learned_from_is_named() -> None:
    inputs, labels = np.zeros((5, 2), np.float32), np.array([0, 1, 2, 1, 0])
    with pytest.raises(ConfigError, match=r"the data set, row 2: the label 2 is out of range: labels are 0 to 1"):
        Samples(inputs, labels, ("a", "b")).check()
    with pytest.raises(ConfigError, match=r"t\.csv, line 4: the label 2 is out of range"):
        Samples(inputs, labels, ("a", "b"), origin="t.csv", line_of=lambda row: row + 2).check()
    inputs[3, 1] = np.nan
    with pytest.raises(ConfigError, match=r"the data set, row 3, input column 1: nan is not a finite number"):
        Samples(inputs, labels, ("a", "b", "c")).check()
    named = Samples(inputs, labels, ("a", "b", "c"), "t.csv", ("length", "width"), line_of=lambda row: row + 2)
    with pytest.raises(ConfigError, match=r"t\.csv, line 5, column width: nan"):
        named.check()
    with pytest.raises(ConfigError, match="a row has 60 values, an image of 1 x 8 x 8 has 64"):
        as_images(np.zeros((2, 60)), (1, 8, 8), "t.csv")


def test_generated_data_is_what_it_says() -> None:
    adding = Sequence(rows=100, length=10).load()
    marked = (adding.inputs[:, :, 0] * adding.inputs[:, :, 1]).sum(1)
    assert np.allclose(marked, adding.targets[:, 0]) and np.all(adding.inputs[:, :, 1].sum(1) == 2)
    copy = Sequence(task="copy", rows=100, length=7, symbols=3).load()
    seen = copy.inputs.argmax(2)
    assert np.array_equal(seen[:, :3], copy.targets[:, -3:]) and np.all(copy.targets[:, :-3] == 8)
    assert np.all(seen[:, 9] == 9) and copy.targets.shape == (100, 13)
    friedman = Regression(rows=4000, noise=0.0).load()
    x, y = friedman.inputs, friedman.targets[:, 0]
    mean = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    assert np.allclose(y, mean, atol=1e-4) and 4 < friedman.targets.std() < 6
    moons = TwoMoons(noise=0.0).load()
    radius = np.hypot(*(moons.inputs - np.where(moons.targets[:, None] == 0, [0, 0], [1, 0.5])).T)
    assert np.allclose(radius, 1, atol=1e-5)


def images(tmp_path: Path) -> Arrays:
    """Images of bytes and ten classes, in two files."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 255, (60, 1, 5, 4), np.uint8))
    np.save(tmp_path / "y.npy", rng.integers(0, 10, 60, np.uint8))
    return Arrays(inputs=str(tmp_path / "x.npy"), targets=str(tmp_path / "y.npy"))


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_read_by_workers_are_those_in_memory(tmp_path: Path, workers: int) -> None:
    run = Run(Path("unused"), 0, 40, 10, 0, rank=1, world_size=2)

    def stream(loader: str) -> DatasetData:
        options = {"batch_size": 4, "updates": 3, "augmentation": Augmentation(shift=1, noise=0.1)}
        return DatasetData(run, source=images(tmp_path), loader=loader, workers=workers, **options)  # type: ignore[arg-type]

    memory, files, half = stream("memory"), stream("workers"), stream("workers")
    assert isinstance(files.samples.inputs, np.memmap) and files.samples.inputs.dtype == np.uint8
    half.restore({"step": 10})
    while not memory.finished:
        for mine, theirs in zip(memory, files, strict=True):
            assert mine.batch_size == theirs.batch_size and (mine == theirs).all()
            if files.step == 13:
                assert (next(iter(half)) == mine).all()
    assert files.finished and half.step == 13
    for mine, theirs in zip(memory.split("test"), files.split("test"), strict=True):
        assert (mine == theirs).all() and len(mine) == 12


def test_holes_are_filled_as_they_are_read() -> None:
    class Holed(Numbered):
        def load(self) -> Samples:
            found = super().load()
            found.inputs[::7, 0], found.holes = np.nan, True
            return found

    run = Run(Path("unused"), 0, 40, 10, 0)
    for standardize in (True, False):
        memory, files = (
            DatasetData(run, source=Holed(), loader=loader, standardize=standardize)  # type: ignore[arg-type]
            for loader in ("memory", "workers")
        )
        every = torch.arange(50)
        assert torch.equal(memory.inputs[every], files.inputs[every]) and torch.isfinite(memory.inputs).all()


def test_files_that_hold_no_arrays_are_named(tmp_path: Path) -> None:
    source = images(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.source\.inputs=.*nowhere\.npy: cannot be read \(No such file"):
        Arrays(inputs=str(tmp_path / "nowhere.npy"), targets=str(source.targets)).load()
    source.inputs.write_text("words")
    with pytest.raises(ConfigError, match=r"x\.npy: cannot be read \(not a \.npy file"):
        source.load()
    np.save(source.inputs, np.zeros(60))
    with pytest.raises(ConfigError, match=r"x\.npy: holds no rows of numbers"):
        source.load()
    np.save(source.targets, np.zeros((60, 2)))
    np.save(source.inputs, np.zeros((60, 3)))
    assert source.load().classes is None and source.load().targets.shape == (60, 2)


def test_reading_a_mapped_file_needs_less_than_twice_its_array(tmp_path: Path) -> None:
    """Rows as wide as CIFAR-10's, in float32, so that the file is as large as the array."""
    inputs = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (16_000, 3, 32, 32))
    inputs[::2] = 1
    size = inputs.nbytes
    del inputs
    np.save(tmp_path / "y.npy", np.arange(16_000) % 10)

    def read(loader: str) -> None:
        source = Arrays(inputs=str(tmp_path / "x.npy"), targets=str(tmp_path / "y.npy"))
        run = Run(Path("unused"), 0, 10, 10, 0)
        next(iter(DatasetData(run, source=source, updates=1, loader=loader, workers=0)))  # type: ignore[arg-type]

    assert peak_of(lambda: read("workers")) < size
    assert size < peak_of(lambda: read("memory")) < 2 * size
    (tmp_path / "x.npy").unlink()


def test_mean_and_deviation_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images, rows = rng.standard_normal((40, 3, 4, 5), np.float32), np.sort(rng.permutation(40)[:30])
    images[rng.random(images.shape) < 0.1] = np.nan
    seen = images[rows].astype(np.float64)
    for size in (1, 7 * 60, 2**20):
        monkeypatch.setattr("downpour.data.samples.VALUES_AT_ONCE", size)
        mean, deviation = fit(images, rows)
        assert np.allclose(mean, np.nanmean(seen, (0, 2, 3), keepdims=True)[0], rtol=1e-6)
        assert np.allclose(deviation, np.nanstd(seen, (0, 2, 3), keepdims=True)[0], rtol=1e-6)
