"""Which process of a distributed run this is, from what torchrun, Slurm, Open MPI and MPICH set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Rank", "detect_rank"]

_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_WORLD_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class Rank(NamedTuple):
    """This process among ``world_size``; rank 0 speaks for the run."""

    rank: int
    world_size: int


def detect_rank(environ: Mapping[str, str]) -> Rank:
    """The global rank where it is known, else the local one, else 0 of 1."""
    return Rank(_first_number(environ, _RANK_VARIABLES, 0), _first_number(environ, _WORLD_SIZE_VARIABLES, 1))


def _first_number(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    return next((int(environ[name]) for name in names if environ.get(name, "").isdecimal()), default)
