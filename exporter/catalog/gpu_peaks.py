"""How fast GPUs can be at best, by the name that NVML gives them: what a model FLOPs utilisation is relative to."""

from __future__ import annotations

import re

__all__ = ["peak_flops"]

_PEAKS = (
    # Dense BF16 on tensor cores with FP32 sums, from NVIDIA's data sheets; figures with sparsity are halved.
    (r"NVIDIA GB200.*", 2.5e15),  # GB200 NVL72
    (r"NVIDIA B200.*", 2.25e15),  # HGX B200
    (r"NVIDIA (H100|H200) NVL", 835.5e12),
    (r"NVIDIA (H100|H800) PCIe", 756e12),
    (r"NVIDIA (GH200|H200|H100|H800)( .*|)", 989.5e12),  # H100 SXM, H200 SXM, GH200
    (r"NVIDIA H20", 148e12),
    (r"NVIDIA (A100|A800)([ -].*|)", 312e12),
    (r"NVIDIA L40S", 362e12),
    (r"NVIDIA L40", 181e12),
    (r"NVIDIA L4", 121e12),
    (r"NVIDIA A30", 165e12),
    (r"NVIDIA A40", 149.7e12),
    (r"NVIDIA A10", 125e12),
    (r"NVIDIA RTX A6000", 154.8e12),
    (r"NVIDIA GeForce RTX 4090", 165.2e12),  # Ada architecture white paper, appendix A
    (r"NVIDIA GeForce RTX 3090", 71e12),  # GA102 architecture white paper, appendix A
)


def peak_flops(name: str) -> float | None:
    """Dense BF16 operations per second of a GPU; None where it is not in the table."""
    return next((flops for pattern, flops in _PEAKS if re.fullmatch(pattern, name)), None)
