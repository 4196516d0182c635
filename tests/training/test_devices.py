"""Devices that this machine need not have: what is chosen, and that no tensor is left behind."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.objective.distillation import Distillation
from semantoks.training import batches, precision
from semantoks.training.config import ViewsConfig
from semantoks.training.distributed import ALONE, Ranks
from semantoks.training.precision import choose_precision, kept_memory
from semantoks.training.views import augment

ATLAS = Atlas.from_networks({"Vis": 5, "Cont": 3, "Default": 7})


@pytest.mark.parametrize("curriculum", [0.0, 0.5])
def test_a_step_mixes_no_devices(monkeypatch: pytest.MonkeyPatch, curriculum: float) -> None:
    """The device "meta" computes nothing, but refuses tensors of the CPU as a GPU does."""
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_more: contextlib.nullcontext())
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=2, head_dim=16, time_courses=2)
    model = Distillation(encoder, Head(32)).to("meta")
    drawn = torch.randn(8, 2, 15, 100, device="meta")
    views = augment(drawn, ViewsConfig(), torch.Generator())
    total = model(views, None, curriculum=curriculum).total
    total.backward()
    model.update_teacher(0.9)
    assert (views.device.type, total.device.type) == ("meta", "meta")
    with pytest.raises(RuntimeError, match="device"):  # it would have been seen
        drawn + torch.ones(100)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


def test_every_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = gpus(monkeypatch, 2)
    assert Ranks(3, 4, local=1).device("auto") == "cuda:1"
    assert Ranks(2, 4, local=0).device("cuda") == "cuda:0"
    assert taken == [1, 0]
    assert Ranks(1, 2, local=1).device("cuda:0") == "cuda:0"  # somebody's choice
    assert Ranks(1, 2, local=1).device("cpu") == "cpu"
    assert ALONE.device("auto") == "auto"
    assert taken == [1, 0]  # and nothing else was touched
    with pytest.raises(ConfigurationError, match=r"finds 2 GPU.*LOCAL_RANK=0"):
        Ranks(2, 3, local=2).device("cuda")
    gpus(monkeypatch, 0)
    assert Ranks(1, 2, local=1).device("auto") == "auto"


def test_precision_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda *, including_emulation, known=known: known
        )
        assert choose_precision("auto", torch.device("cuda:0"), dim=768) == expected
    assert choose_precision("auto", torch.device("mps"), dim=768) == "float32"


def test_free_memory_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000, 9_000))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 7_000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1_000)
    store = SimpleNamespace(samples=SimpleNamespace(nbytes=1_900))
    choices = [
        batches.choose_residence("auto", store, torch.device(name))  # type: ignore[arg-type]
        for name in ("cuda:0", "mps", "cpu")
    ]
    assert choices == ["stream", "device", "stream"]


def test_memory_is_left_alone_where_there_is_no_libc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "os", SimpleNamespace(name="nt"))

    def refuse(name: object) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")  # as on Windows

    monkeypatch.setattr("ctypes.CDLL", refuse)
    with kept_memory(torch.device("cpu")):
        pass
