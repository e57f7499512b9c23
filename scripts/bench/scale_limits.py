"""Where each way to supply a teacher's answers breaks: limits of today's code and of the assumed machines."""

from __future__ import annotations

from dataclasses import dataclass

from scale_model import (
    DESIGNS,
    SHARD_BYTES,
    Assumptions,
    Costs,
    stored_views,
    train_stage,
    wall_seconds_per_image,
)

KEY_LIMIT = 1 << 31
OPEN_FILES = 1024
MAPS = 65_530
"""Files a process may open and map by default on Linux (`ulimit -n`, `vm.max_map_count`)."""


@dataclass(frozen=True)
class Break:
    """A limit of today's code or of the assumed machines: which design, from how many frames, and what to do."""

    design: str
    what: str
    frames: float
    remedy: str


def breaks(c: Costs, a: Assumptions) -> list[Break]:
    """Return from how many frames on each limit bites, smallest first within a design."""
    ram, views = a.memory_gib * 2**30, stored_views(a)
    day = 86_400.0
    shared = "all"
    found = [
        Break(shared, f"records and labels of all frames fill {a.memory_gib:g} GiB",
              ram / c.set_memory, "select frames; a run per camera and week"),
        Break(shared, "checking images and labels takes a day on one machine", day / (c.load + c.digest),
              "check while collecting; a run per part"),
        Break(shared, "storage requests per second: an epoch takes a day", a.requests_per_second * day
              / train_stage("control", c, a).requests, "pack frames; trainer.mosaic=0 reads one frame a sample"),
        Break(shared, "network: an epoch takes a day", a.network_gbit * 1e9 / 8 * day
              / train_stage("control", c, a).down, "frames on local disks; trainer.mosaic=0"),
    ]  # fmt: skip
    for design in DESIGNS:
        pace = 1 / wall_seconds_per_image(train_stage(design, c, a), a)
        # (e^x - 1) / x = 2 at x = 1.256: half of all work is done twice.
        found.append(
            Break(design, "an epoch, after which alone training is saved, is so long that failures double it",
                  1.256 * a.mtbf_hours * 3600 / a.machines * pace, "shorter epochs: fewer frames per run")
        )  # fmt: skip
    found += [
        Break("views", f"list of views to store fills {a.memory_gib:g} GiB", ram / (views * c.key_memory),
              "a cache per part; fewer views"),
        Break("views", f"index of the cache fills {a.memory_gib:g} GiB", ram / (views * c.index_memory),
              "a cache per part"),
        Break("views", f"more than {OPEN_FILES:,} shards: open files", OPEN_FILES * SHARD_BYTES
              / (views * c.record_bytes["views"]), "ulimit -n"),
        Break("views", f"more than {MAPS:,} shards: mapped files", MAPS * SHARD_BYTES
              / (views * c.record_bytes["views"]), "vm.max_map_count; a cache per part"),
        Break("views", "final checksums of all shards take a day in one process",
              day / (views * c.record_bytes["views"] * c.sha_byte), "a cache per part"),
        Break("instances", f"list of images to store fills {a.memory_gib:g} GiB", ram / c.key_memory,
              "a cache per part"),
        Break("instances", f"index of the cache fills {a.memory_gib:g} GiB", ram / c.index_memory,
              "a cache per part"),
        Break("instances", f"more than {OPEN_FILES:,} shards: open files", OPEN_FILES * SHARD_BYTES
              / c.record_bytes["instances"], "ulimit -n"),
        Break("instances", f"more than {MAPS:,} shards: mapped files", MAPS * SHARD_BYTES
              / c.record_bytes["instances"], "vm.max_map_count; a cache per part"),
        *(Break(design, "image numbers of a cache end (2^31)", float(KEY_LIMIT), "a cache per part")
          for design in ("views", "instances")),
    ]  # fmt: skip
    return sorted(found, key=lambda one: (("all", *DESIGNS).index(one.design), one.frames))
