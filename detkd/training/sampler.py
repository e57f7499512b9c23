"""Which images a training sees, in which order, and which random view of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from detkd.errors import ConfigError

__all__ = ["EpochSampler", "ViewPlan"]


@dataclass(frozen=True)
class ViewPlan:
    """Which of a limited number of views is shown when; the views come round in turn.

    Attributes:
        views: Views per image, numbered 0 to views - 1.
        closing: Last epochs, in which no images are mixed. They have views of their own, numbered from `views` on.
        epochs: Epochs of the run.

    Raises:
        ConfigError: If there is no view, or more closing epochs than epochs.
    """

    views: int
    closing: int
    epochs: int

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ConfigError(f"cache.views: must be at least 1, got {self.views}; as many as epochs is the most")
        if not 0 <= self.closing <= self.epochs:
            raise ConfigError(
                f"trainer.close_mosaic: must be between 0 and the {self.epochs} epochs, got {self.closing}; lower it"
            )

    def view(self, epoch: int, turn: int | None = None) -> int:
        """Return the number of the view that an epoch shows.

        Args:
            epoch: Epoch from 0; after the last one the closing views go on.
            turn: How often the image was shown before, where that is not once per epoch.
        """
        start = self.epochs - self.closing
        turn = epoch if turn is None else turn
        if self.closing and epoch >= start:
            return self.views + (turn - start) % min(self.views, self.closing)
        # A run shorter than its views never needs the later ones, however often an image is shown in an epoch.
        return turn % min(self.views, max(start, 1))


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (view, index); the order of an epoch follows from the seed and its number only.

    The view is the epoch, unless an image comes more than once in an epoch or at other times than once per epoch: then
    it counts how often the image came before, so that no augmentation is seen twice. `views` limits the numbers.

    Attributes:
        epoch: The epoch that the next iteration will yield; see `go_to`.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        views: ViewPlan | None = None,
        groups: np.ndarray | None = None,
        share: float | None = None,
        batch: int = 1,
        epoch_size: int | None = None,
    ) -> None:
        """Plan the epochs.

        Args:
            size: Images in the set.
            seed: Decides the order.
            shuffle: Whether the order is random.
            rank: Number of this process.
            world_size: Processes that share an epoch.
            views: Which view an epoch shows; None for a new one each time.
            groups: Which images have labels, bool (size,); needed for `share` only.
            share: Part of each batch, in (0, 1), taken from the images without labels. An epoch then passes over the
                labelled ones once and goes on through the others where the last epoch stopped.
            batch: Images per batch and process; needed for `share` only.
            epoch_size: Images per epoch of all processes together (with `share` the labelled ones of them), by
                repeating the set; None for each once.

        Raises:
            ConfigError: If `share` can't be kept: no images of one group, or a batch too small for one of each.
        """
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.views = views
        self.epoch = 0
        self._main = np.arange(size)
        self._others = np.arange(0)
        self._other_count = 0
        self._batch = min(batch, max(size, epoch_size or 0))
        if share is not None:
            labelled = np.ones(size, dtype=bool) if groups is None else np.asarray(groups, dtype=bool)
            self._main, self._others = np.flatnonzero(labelled), np.flatnonzero(~labelled)
            self._other_count = _checked_share(share, self._batch, len(self._main), len(self._others))
        if epoch_size is not None and epoch_size < 1:
            raise ConfigError(f"epoch_size: must be at least 1, got {epoch_size}; leave it out for every image once")
        self._count = len(self._main) if epoch_size is None else epoch_size
        self._per_rank = -(-self._count // world_size)
        self._steps = -(-self._per_rank // (self._batch - self._other_count)) if self._other_count else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        pairs = self._pass(epoch)
        if self._other_count:
            return iter(self._mixed(pairs, self._further(epoch)))
        return iter(pairs)

    def __len__(self) -> int:
        return self._per_rank + self._steps * self._other_count

    def go_to(self, epoch: int) -> None:
        """Choose the epoch that comes next."""
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: Ultralytics says here which epoch begins, when its loader may have drawn from it already."""

    def _view(self, epoch: int, turn: int) -> int:
        return turn if self.views is None else self.views.view(epoch, turn)

    def _pass(self, epoch: int) -> list[tuple[int, int]]:
        """Return this process's part of an epoch over the main images."""
        size = len(self._main)
        repeats = max(-(-self._count // size), 1)
        rng = np.random.default_rng((self.seed, epoch))
        order = np.concatenate([self._shuffled(self._main, rng) for _ in range(repeats)])[: self._count]
        places = np.resize(np.arange(self._count), self._per_rank * self.world_size)[self.rank :: self.world_size]
        return [(self._view(epoch, epoch * repeats + int(n) // size), int(order[n])) for n in places]

    def _further(self, epoch: int) -> list[tuple[int, int]]:
        """Return this process's part of an epoch's unlabelled images: the next ones of an endless shuffled row."""
        size, needed = len(self._others), self._steps * self._other_count * self.world_size
        places = np.arange(epoch * needed, (epoch + 1) * needed)
        rounds = {
            int(n): self._shuffled(self._others, np.random.default_rng((self.seed, int(n), 1)))
            for n in np.unique(places // size)
        }
        mine = places[self.rank :: self.world_size]
        return [(self._view(epoch, int(n) // size), int(rounds[int(n) // size][n % size])) for n in mine]

    def _shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        order = indices.copy()
        if self.shuffle:
            rng.shuffle(order)
        return order

    def _mixed(self, main: list[tuple[int, int]], others: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield batch by batch: first its labelled images, then its unlabelled ones."""
        few, many = self._other_count, self._batch - self._other_count
        for step in range(self._steps):
            yield from main[step * many : (step + 1) * many]
            yield from others[step * few : (step + 1) * few]


def _checked_share(share: float, batch: int, labelled: int, unlabelled: int) -> int:
    """Return the unlabelled images per batch.

    Raises:
        ConfigError: If that leaves none of one kind.
    """
    if not labelled or not unlabelled:
        kind = "unlabelled" if labelled else "labelled"
        raise ConfigError(f"unlabelled.share: needs both kinds of images, got none that are {kind}; set it to null")
    count = round(share * batch)
    if not 0 < count < batch:
        raise ConfigError(
            f"unlabelled.share: must leave at least one image of each kind in a batch of {batch}, got {share}; use a "
            f"value in [{1 / batch:.3g}, {1 - 1 / batch:.3g}] or a larger batch"
        )
    return int(count)
