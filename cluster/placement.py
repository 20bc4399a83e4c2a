"""What a process needs to know about the place it runs in: its threads, its neighbours and its share of a GPU."""

from __future__ import annotations

import socket

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Nobody is called home, nothing is downloaded, and libraries speak only when something is wrong."""


def worker_env(*, num_threads: int, loopback: bool) -> dict[str, str]:
    """Environment of a process that computes on `num_threads` threads.

    More than one thread a process loses on busy cores: an engine on two shared cores made 98 tokens/s with the default
    and 1,100 with one. loopback: everything that listens does so on 127.0.0.1 (a cluster of one node).
    """
    env = dict(QUIET)
    for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
        env[f"{library}_NUM_THREADS"] = str(num_threads)
    if loopback:
        env |= {
            "VLLM_HOST_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "TP_SOCKET_IFNAME": "lo",
        }
    return env


def rank_env(rank: int, world_size: int, *, address: str, port: int) -> dict[str, str]:
    """What torch.distributed reads. Ranks see one device each, so the local rank is 0."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def free_port(address: str) -> int:
    """A port that nobody listens on at `address` now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port


def engine_memory_share(*, fence_bytes: int, total_bytes: int, reserve: float = 0.05) -> float:
    """vLLM's gpu_memory_utilization on a GPU shared with tools and a learner that were promised `fence_bytes`.

    share = 1 − reserve − fence / total. Raises ValueError when less than a tenth of the GPU is left.
    """
    share = 1.0 - reserve - fence_bytes / total_bytes
    if share < 0.1:
        raise ValueError(
            f"tools and learner keep {fence_bytes / 2**30:.1f} GiB of a GPU of {total_bytes / 2**30:.1f} GiB: "
            "too little is left for generation; lower the fence or give them another GPU"
        )
    return share
