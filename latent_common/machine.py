"""The machine: its cores, memory and devices, and how many threads are fastest on it."""

from __future__ import annotations

import os
import re
from time import perf_counter

import torch
from torch import nn

from latent_common.errors import UserError

THREADS = (1, 2, 4, 8)
"""Numbers of threads that are measured; small networks gain nothing from more."""

TURNS, PASSES = 4, 3
"""Each number of threads is measured in so many turns of so many passes."""

WORTH = 1.1
"""More threads must be so many times as fast to be chosen, as they take cores from other processes."""


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: half of all memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def resolve_device(device: str) -> torch.device:
    """The device of this name, which must exist; ``"auto"`` is a GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"device={device} is unknown: choose cpu, cuda or auto")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"device={device}, but PyTorch finds {found} CUDA GPUs here: choose cpu or auto")
    return resolved


def measured_threads() -> tuple[int, float]:
    """The best number of threads for PyTorch, and how many times as fast as one they are.

    Networks as small as these are often slower with more threads, and on a busy machine threads that wait for
    each other can be many times slower than one.

    A convolution learns from a few batches with each number in turn, and the best turn of each counts. It
    takes a fifth of a second.
    """
    candidates = [count for count in THREADS if count <= cores()]
    if len(candidates) == 1:
        return 1, 1.0
    before = torch.get_num_threads()
    layer, batch = nn.Conv2d(32, 32, 3, padding=1), torch.ones(16, 32, 32, 32)
    best = dict.fromkeys(candidates, float("inf"))
    try:
        for _ in range(TURNS):
            for count in candidates:
                torch.set_num_threads(count)
                began = perf_counter()
                for _ in range(PASSES):
                    layer(batch).square().mean().backward()
                best[count] = min(best[count], perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    chosen = 1
    for count in candidates[1:]:
        if best[count] * WORTH < best[chosen]:
            chosen = count
    return chosen, best[1] / best[chosen]
