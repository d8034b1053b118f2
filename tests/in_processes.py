"""Runs a function in several processes that work together, as a launcher would start them."""

import os
import pickle
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path

from unlearner import processes

# A process that waits for ever is killed.
SECONDS = 100


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def in_processes(count, function):
    """What `function` returns in each of them, in order of rank; fails where one of them fails."""
    port, folder = free_port(), Path(tempfile.mkdtemp())
    children = []
    sys.stdout.flush()
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os._exit(_run(function, rank, count, port, folder / str(rank)))
        children.append(child)
    codes = dict.fromkeys(children)
    while None in codes.values():  # the others wait for one that died, as a launcher knows
        child, status = os.waitpid(-1, 0)
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] != 0:
            for other in (one for one, code in codes.items() if code is None):
                os.kill(other, signal.SIGKILL)
    files = [folder / str(rank) for rank in range(count)]
    found = [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]
    assert set(codes.values()) == {0}, "\n".join(map(str, found))
    return found


def _run(function, rank, count, port, file):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    signal.alarm(SECONDS)
    try:
        processes.begin()
        value = function()
        processes.wait()
    except BaseException:  # noqa: BLE001 - told where the others are gathered
        file.write_bytes(pickle.dumps(traceback.format_exc()))
        return 1
    file.write_bytes(pickle.dumps(value))
    return 0
