"""Environment and shares of the place a process runs in."""

from __future__ import annotations

import socket

import pytest

from cluster.placement import engine_memory_share, free_port, rank_env, worker_env


def test_a_worker_computes_on_its_threads_and_stays_on_loopback() -> None:
    env = worker_env(num_threads=2, loopback=True)
    assert {env[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} == {"2"}
    assert (env["VLLM_HOST_IP"], env["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")


def test_a_cluster_of_many_nodes_is_not_tied_to_loopback() -> None:
    env = worker_env(num_threads=1, loopback=False)
    assert "lo" not in env.values() and "127.0.0.1" not in env.values()
    assert env["HF_HUB_OFFLINE"] == "1"


def test_a_rank_is_told_what_torch_reads() -> None:
    assert rank_env(1, 4, address="10.0.0.2", port=29500) == {
        "RANK": "1",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.2",
        "MASTER_PORT": "29500",
    }


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1"))):
        pass


def test_the_engine_takes_what_others_were_not_promised() -> None:
    assert engine_memory_share(fence_bytes=20 * 2**30, total_bytes=80 * 2**30) == pytest.approx(0.70)
    with pytest.raises(ValueError, match=r"keep 76\.0 GiB of a GPU of 80\.0 GiB"):
        engine_memory_share(fence_bytes=76 * 2**30, total_bytes=80 * 2**30)
