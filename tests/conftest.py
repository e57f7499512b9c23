"""What every test gets: a fixed seed, a working folder of its own, and no network."""

from __future__ import annotations

import atexit
import logging
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]

# Read by matplotlib and Ultralytics when they are imported, so before any test module is.
os.environ["MPLBACKEND"] = "Agg"
os.environ["YOLO_OFFLINE"] = "true"
_SETTINGS = tempfile.mkdtemp(prefix="detkd-test-ultralytics-")
os.environ["YOLO_CONFIG_DIR"] = _SETTINGS
atexit.register(shutil.rmtree, _SETTINGS, ignore_errors=True)
# Child processes don't have the socket guard below: a proxy that isn't there stops their downloads instead.
for _name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[_name] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run slow tests last, mark those that use the assets, and skip what this machine can't run."""
    for item in items:
        if "assets" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.assets)
        elif item.get_closest_marker("assets") and (reason := missing_assets()):
            item.add_marker(pytest.mark.skip(reason=reason))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not has_cuda():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give every test consoles that speak, and loggers that write to no stream of an earlier test."""
    from detkd.progress import console, out

    for logger in (logging.getLogger(), *logging.Logger.manager.loggerDict.values()):
        for handler in list(getattr(logger, "handlers", ())):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)  # type: ignore[union-attr]
    before = console.quiet, out.quiet
    yield
    console.quiet, out.quiet = before


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def missing_assets() -> str:
    """Return why the real weights and images can't be used, or an empty string."""
    value = os.environ.get("DETKD_ASSETS", "")
    if not value:
        return "needs real weights and images: set DETKD_ASSETS to their folder"
    return "" if Path(value).is_dir() else f"DETKD_ASSETS is no folder: {value}"


def is_local(address: Any) -> bool:
    """Return whether a socket address stays on this machine (loopback or a Unix socket)."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    return host in {"localhost", "::1", ""} or host.startswith("127.")


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture
def assets() -> Path:
    """Folder with real weights and images; the test is skipped where there is none."""
    if reason := missing_assets():
        pytest.skip(reason)
    return Path(os.environ["DETKD_ASSETS"]).resolve()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, so that nothing a test writes lands in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections and name look-ups that leave this machine."""

    def guard(name: str) -> Callable[..., Any]:
        real = getattr(socket.socket, name)

        def call(self: socket.socket, address: Any, *rest: Any) -> Any:
            if not is_local(address):
                raise OSError(f"tests have no network: {name} to {address}")
            return real(self, address, *rest)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guard(name))
    real_lookup = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not is_local((name,)):
            raise socket.gaierror(f"tests have no network: look-up of {name}")
        return real_lookup(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
