"""What runs on the machines of a Ray cluster: a teacher in a process of its own."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from detkd import errors
from detkd.caching.engine import Asker
from detkd.errors import DetkdError

__all__ = ["COLUMNS", "RayWorker", "raised", "to_table"]

COLUMNS = ("number", "error", "content")
"""Number of a batch; class of the error it met, else empty; items there, records back, or the error's text."""


def to_table(columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return some of the columns as an Arrow table."""
    import pyarrow as pa

    kinds = {"number": pa.int64(), "error": pa.string(), "content": pa.large_binary()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


class RayWorker:
    """One teacher, in a process of its own.

    Args:
        asker: Pickled; opened at the first batch, so that a teacher that can't be loaded is an answer, too.
        env: Variables to set before anything is loaded.
    """

    def __init__(self, asker: bytes, env: Mapping[str, str]) -> None:
        os.environ.update(env)
        self._pickled = asker
        self._asker: Asker | None = None

    def __call__(self, table: Any) -> Iterator[Any]:
        """Answer batches: columns `number` and `content` to `number`, `error` (its class, else empty), `content`."""
        numbers, contents = table["number"].to_pylist(), table["content"].to_pylist()
        number = numbers[0]
        try:
            if self._asker is None:
                self._asker = pickle.loads(self._pickled)
            batches = [pickle.loads(content) for content in contents]
            records = self._asker(batches)
            for number, batch in zip(numbers, batches, strict=True):
                answer = pickle.dumps(list(islice(records, len(batch))))
                yield to_table({"number": [number], "error": [""], "content": [answer]})
        except DetkdError as err:
            text = f"{err} (on {socket.gethostname()})"
            yield to_table({"number": [number], "error": [type(err).__name__], "content": [text.encode()]})
        except Exception:
            text = f"on {socket.gethostname()}:\n{traceback.format_exc()}"
            yield to_table({"number": [number], "error": ["RuntimeError"], "content": [text.encode()]})


def raised(kind: str, content: bytes) -> Exception:
    """Return the error a worker has met."""
    text = content.decode()
    known: Callable[[str], Exception] = getattr(errors, kind, RuntimeError)
    return known(text)
