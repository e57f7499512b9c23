"""The guarantees that tests/conftest.py gives to every other test."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize("name", ["connect", "connect_ex"])
@pytest.mark.parametrize("address", ["192.0.2.1", "example.invalid"])
def test_connections_that_leave_the_machine_are_refused(name: str, address: str) -> None:
    with socket.socket() as client, pytest.raises(OSError, match="tests have no network"):
        getattr(client, name)((address, 80))


def test_look_ups_are_refused() -> None:
    with pytest.raises(socket.gaierror, match=r"tests have no network: look-up of example\.invalid"):
        socket.create_connection(("example.invalid", 80), timeout=1)


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_working_folder_is_empty_and_outside_the_checkout(repo: Path) -> None:
    assert list(Path.cwd().iterdir()) == []
    assert not Path.cwd().is_relative_to(repo)


def test_random_numbers_start_from_seed_0() -> None:
    assert random.random() == random.Random(0).random()
    assert np.random.random() == np.random.RandomState(0).random_sample()
