"""Tables are made once, outside inference mode, and never kept from a trace."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sam2core.ops.tables import remembered


def counted(count=4):
    calls = []

    @remembered(count)
    def ramp(length: int, device: str) -> Tensor:
        calls.append(length)
        return torch.arange(length, dtype=torch.float32, device=device)

    return ramp, calls


def test_a_table_is_made_once_per_key_and_the_oldest_goes_first():
    ramp, calls = counted(2)
    assert ramp(3, "cpu") is ramp(3, "cpu") and calls == [3]
    ramp(4, "cpu"), ramp(5, "cpu"), ramp(4, "cpu")
    assert calls == [3, 4, 5]
    ramp(3, "cpu")
    assert calls == [3, 4, 5, 3]


def test_a_table_of_a_prediction_serves_a_training_step():
    ramp, _ = counted()
    with torch.inference_mode():
        assert not ramp(3, "cpu").is_inference()
    weight = torch.ones(3, requires_grad=True)
    (weight * ramp(3, "cpu")).sum().backward()
    assert weight.grad.tolist() == [0, 1, 2]


def test_nothing_fake_is_kept():
    ramp, calls = counted()
    with FakeTensorMode():
        ramp(3, "cpu")
    assert type(ramp(3, "cpu")) is Tensor and ramp(3, "cpu").tolist() == [0, 1, 2] and calls == [3, 3]


def test_an_export_neither_poisons_the_tables_nor_needs_them():
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + ramp(x.shape[0], "cpu")

    ramp, _ = counted()
    for _ in range(2):  # without a table, then with one
        exported = torch.export.export(Model(), (torch.zeros(3),)).module()
        assert exported(torch.ones(3)).tolist() == [1, 2, 3]
        assert type(ramp(3, "cpu")) is Tensor


def test_threads_may_ask_at_once():
    ramp, _ = counted(3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: ramp(i % 7, "cpu").shape[0] == i % 7, range(400)))
    assert all(found)
