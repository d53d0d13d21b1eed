"""Which process of a distributed run this is: as torch.distributed or Ray Train say, else torchrun, Slurm or MPI."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Rank", "detect_rank"]

_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_WORLD_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class Rank(NamedTuple):
    """This process among ``world_size``; rank 0 speaks for the run."""

    rank: int
    world_size: int


def detect_rank(environ: Mapping[str, str], modules: Mapping[str, Any]) -> Rank:
    """What an imported library knows; else the global rank of the variables, else the local one, else 0 of 1.

    ``modules`` are those that the training has imported; nothing is imported to find out.
    """
    for name, ask in (("torch.distributed", _of_torch), ("ray.train", _of_ray)):
        with contextlib.suppress(Exception):  # another version of the library, or no worker of it
            if name in modules and (rank := ask(modules[name])):
                return rank
    return Rank(_first_number(environ, _RANK_VARIABLES, 0), _first_number(environ, _WORLD_SIZE_VARIABLES, 1))


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


def _first_number(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    return next((int(environ[name]) for name in names if environ.get(name, "").isdecimal()), default)
