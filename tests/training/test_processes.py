"""Killed and resumed, shared between processes, cut into pieces, read by more workers: the weights are the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed.fsdp

from tests.training.job import run

COMMAND = [sys.executable, "-m", "tests.training.job"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_close(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> None:
    """The same update up to the order of additions, which Adam turns into whole steps where a gradient is nearly 0."""
    for name in first:
        if name.endswith(("k_proj.bias", "qkv.bias")):
            continue  # the gradient of a key's bias is nothing but rounding
        moved = float((first[name] - start[name]).norm())
        assert float((first[name] - second[name]).norm()) <= 0.05 * moved + 1e-6, name


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    steps = 20
    child = subprocess.Popen([*COMMAND, str(tmp_path / "killed"), str(steps), "slow"])
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    limit = time.monotonic() + 300
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and checkpoint.exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the child: sums are split by threads
    try:
        at = torch.load(checkpoint, weights_only=True)["step"]
        assert 0 < at < steps
        resumed = run(tmp_path / "killed", steps)
        assert same(resumed, run(tmp_path / "whole", steps))
    finally:
        torch.set_num_threads(threads)
    counted = [line.split(",")[0] for line in (tmp_path / "killed" / "metrics.csv").read_text().splitlines()]
    assert counted == ["step", *map(str, range(1, steps + 1))]


SHARDS = pytest.mark.skipif(not hasattr(torch.distributed.fsdp, "fully_shard"), reason="shards need torch 2.6 or newer")


@pytest.mark.parametrize("how", ["replicas", pytest.param("shards", marks=SHARDS)])
def test_one_process_and_two_give_the_same_update(tmp_path, how):
    """With plain gradient steps in mind: Adam's first steps are signs, which rounding could turn near zero."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    children = []
    for rank in range(2):
        world = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [*COMMAND, str(tmp_path / "two"), "3", *(["shard"] if how == "shards" else [])]
        children.append(subprocess.Popen(command, env={**os.environ, **world}))
    one = run(tmp_path / "one", 3, dropout=0.0)
    assert [child.wait(timeout=300) for child in children] == [0, 0]
    zero, other = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert same(zero, other)
    start = run(tmp_path / "none", 3, dropout=0.0, stop_after=0)
    assert_close(one, zero, start)
    if how == "shards":  # what two processes with shards left behind, one goes on with
        assert torch.load(tmp_path / "two_piece" / "checkpoint.pt", weights_only=True)["step"] == 2
        assert_close(one, run(tmp_path / "two_piece", 3, dropout=0.0), start)


def test_two_pieces_are_one_batch(tmp_path):
    one = run(tmp_path / "one", 2, dropout=0.0)
    two = run(tmp_path / "two", 2, dropout=0.0, optim={"accumulate": 2})
    assert_close(one, two, run(tmp_path / "none", 2, dropout=0.0, stop_after=0))


@pytest.mark.parametrize("workers", [2])
def test_more_workers_change_nothing(tmp_path, workers):
    assert same(run(tmp_path / "none", 3), run(tmp_path / "some", 3, workers=workers))
