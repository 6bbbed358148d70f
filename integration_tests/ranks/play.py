"""Plays the scenarios that are named, one after the other: each rank is a forked process, gloo carries the messages.

Every rank writes what it has to tell into a file. Forking after the imports makes a scenario cost little more than its
training.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # by the first optimizer of each process otherwise, which takes longer than all its training
import torch.distributed as dist

from .scenarios import data_parallel, sharded


def play(name: str, folder: Path, limit_s: float) -> None:
    """Forks the ranks of a scenario and waits for them; those that hang are ended."""
    world, function = {**data_parallel(folder), **sharded(folder)}[name]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            try:
                with rank_of(rank, world, folder / f"{name}.store"):
                    torch.save(function(rank, world), folder / f"{name}-{rank}.pt")
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(1)
        children.append(child)
    end = time.monotonic() + limit_s
    while children and time.monotonic() < end:
        children = [child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0]
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if children:
        print(f"{name}: {len(children)} of {world} ranks did not end", file=sys.stderr)


@contextlib.contextmanager
def rank_of(rank: int, world: int, store: Path) -> Iterator[None]:
    """This process as one of a process group."""
    if world == 1:
        yield
        return
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(store), world),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    yield
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for wanted in sys.argv[2:]:
        begun = time.monotonic()
        play(wanted, out, 150)
        print(f"{wanted}: {time.monotonic() - begun:.1f} s", flush=True)
