"""A teacher's answers on disk: bytes under a pair (image, view), written once and read at random.

A cache is a folder:

    cache.json                      what it holds and for what (`Manifest`)
    shards/r00-00000.safetensors    records, a new file every 64 MB, the first number is the writer's rank
    images.json                     digests of the images, to notice an edited one
    .lock, .lock-r00                held by whoever changes the description, and by the writer of each rank

A shard appears under its name only when it is complete and on disk. A build that is killed at any moment therefore
leaves whole shards and perhaps a hidden temporary file, and the next one goes on from there.
"""

from __future__ import annotations

from detkd.caching.manifest import Manifest, check_space, create_cache, read_manifest
from detkd.caching.reader import CacheReader, verify_checksums
from detkd.caching.writer import CacheWriter

__all__ = [
    "CacheReader",
    "CacheWriter",
    "Manifest",
    "check_space",
    "create_cache",
    "read_manifest",
    "verify_checksums",
]
