"""Which process of a distributed run this is: as torch.distributed or Ray Train say, else torchrun, MPI or Slurm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Rank", "detect_rank"]

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("LOCAL_RANK", "WORLD_SIZE"),
)
"""Rank and world size as torchrun, Open MPI, other MPIs and Slurm tell them.

Slurm comes after MPI: all that mpirun starts inherits the batch step's SLURM_PROCID, which is 0.
"""


class Rank(NamedTuple):
    """This process among ``world_size``; rank 0 speaks for the run."""

    rank: int
    world_size: int


def detect_rank(environ: Mapping[str, str], modules: Mapping[str, Any]) -> Rank:
    """What an imported library knows; else the first launcher that told a rank, else 0 of 1.

    ``modules`` are those that the training has imported; nothing is imported to find out.
    """
    for name, ask in (("torch.distributed", _of_torch), ("ray.train", _of_ray)):
        with contextlib.suppress(Exception):  # another version of the library, or no worker of it
            if name in modules and (rank := ask(modules[name])):
                return rank
    for rank_variable, world_size_variable in _LAUNCHERS:
        number = _number(environ, rank_variable)
        if number is not None:
            return Rank(number, _number(environ, world_size_variable) or 1)
    return Rank(0, 1)


def _of_torch(distributed: Any) -> Rank | None:
    if distributed.is_available() and distributed.is_initialized():
        return _numbers(distributed.get_rank, distributed.get_world_size)
    return None


def _of_ray(train: Any) -> Rank | None:
    context = train.get_context()
    return _numbers(context.get_world_rank, context.get_world_size)


def _numbers(rank: Callable[[], Any], world_size: Callable[[], Any]) -> Rank | None:
    numbers = (rank(), world_size())
    return Rank(*numbers) if all(type(number) is int and number >= 0 for number in numbers) else None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None
