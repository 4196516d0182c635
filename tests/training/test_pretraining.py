"""The loop: what a run leaves behind, resuming, stopping, and failing well."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.model.checkpoint import load_encoder, load_model
from semantoks.training import batches
from semantoks.training.config import Configuration, configure, tiny
from semantoks.training.folder import Progress, load_checkpoint
from semantoks.training.pretraining import Pretraining, pretrain

ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})


def write_store(path: Path, subjects: int = 12, samples: int = 130, seed: int = 0) -> Store:
    rng = np.random.default_rng(seed)
    with StoreWriter(path, ATLAS, Preprocessing(), request={}) as writer:
        for i in range(subjects):
            series = rng.standard_normal((len(ATLAS), samples)).astype(np.float32)
            recording = Recording(series, 2.0, ATLAS, scan=f"scan-{i}", subject=f"{i}")
            writer.add(recording, np.ones(len(ATLAS), dtype=bool))
        return writer.finish()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


def recipe(**changes: object) -> Configuration:
    small = {
        "model.dim": 16,
        "model.head_dim": 8,
        "model.depth": 1,
        "optimization.epochs": 4,
        "optimization.warmup_epochs": 1,
        "optimization.batch_size": 4,
        "logging.steps": 1,
        "logging.checkpoint_epochs": 1,
    }
    return configure(tiny(), small | changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_encoder(run).state_dict()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def stop_at(step: int, kind: signal.Signals = signal.SIGINT) -> Callable[[Progress], None]:
    def progress(row: Progress) -> None:
        if row.step == step:
            os.kill(os.getpid(), kind)

    return progress


def test_what_a_run_leaves_behind(store: Store, tmp_path: Path) -> None:
    seen: list[Progress] = []
    run = pretrain(store, tmp_path / "run", recipe(), progress=seen.append)
    assert (run.status, run.step, run.steps) == ("finished", 12, 12)
    assert [row.step for row in seen] == list(range(1, 13))
    table = rows(run.folder / "metrics.csv")
    lines = [json.loads(x) for x in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == [int(row["step"]) for row in table]
    assert all((row["token"] is not None) == row["masked"] for row in lines)
    assert len({row["masked"] for row in lines}) == 2
    assert [int(row["step"]) for row in rows(run.folder / "health.csv")] == [0, 3, 6, 9, 12]
    described = json.loads((run.folder / "run.json").read_text())
    assert described["status"] == "finished"
    assert described["store"]["fingerprint"] == store.fingerprint
    assert len(list((run.folder / "checkpoints").glob("*.pt"))) == 2
    assert len(list((run.folder / "checkpoints").glob("*.sha256"))) == 2
    model = load_model(run.folder)
    assert model.encoder.atlas == ATLAS
    assert model.preprocessing == store.preprocessing.to_dict()


def test_the_model_is_the_teacher(store: Store, tmp_path: Path) -> None:
    run = pretrain(store, tmp_path / "run", recipe())
    saved = load_checkpoint(run.folder).content["model"]
    for name, value in weights(run.folder).items():
        torch.testing.assert_close(value, saved[f"teacher.encoder.{name}"], rtol=0, atol=0)
    student = saved["student.encoder.cls_token"]
    assert not torch.equal(student, weights(run.folder)["cls_token"])


def test_seeds_decide_everything(store: Store, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = pretrain(store, tmp_path / "a", recipe())
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = pretrain(store, tmp_path / "b", recipe())
    assert torch.equal(torch.random.get_rng_state(), state)  # no global state is touched
    other = pretrain(store, tmp_path / "c", recipe(seed=1))
    a, b, c = (weights(run.folder) for run in (first, again, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["cls_token"], c["cls_token"])


@pytest.mark.parametrize(
    ("step", "kind"), [(3, signal.SIGINT), (4, signal.SIGTERM), (5, signal.SIGUSR1)]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    store: Store, tmp_path: Path, step: int, kind: signal.Signals
) -> None:
    whole = pretrain(store, tmp_path / "whole", recipe())
    handler = signal.getsignal(kind)
    part = pretrain(store, tmp_path / "part", recipe(), progress=stop_at(step, kind))
    assert (part.status, part.step) == ("interrupted", step)
    assert signal.getsignal(kind) is handler
    assert not (part.folder / "model").exists()
    rest = pretrain(store, tmp_path / "part", recipe(), resume=True)
    assert rest.status == "finished"
    a, b = weights(whole.folder), weights(rest.folder)
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [rows(run / "metrics.csv") for run in (part.folder, whole.folder)]
    for row in (*logs[0], *logs[1]):
        del row["seconds"]
    assert logs[0] == logs[1]
    assert rows(part.folder / "health.csv") == rows(whole.folder / "health.csv")


def test_resume_refuses_another_recipe_or_cohort(store: Store, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(2))
    with pytest.raises(ConfigurationError, match="another configuration"):
        pretrain(store, tmp_path / "run", recipe(seed=5), resume=True)
    other = write_store(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="another store"):
        pretrain(other, tmp_path / "run", recipe(), resume=True)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "config.yaml").write_text("seed: 1")
    with pytest.raises(InputError, match="no checkpoint to resume"):
        pretrain(store, tmp_path / "nothing", recipe(), resume=True)
    assert [path.name for path in (tmp_path / "nothing").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes(store: Store, tmp_path: Path, precision: str) -> None:
    changes = recipe(precision=precision)
    whole = pretrain(store, tmp_path / "whole", changes)
    pretrain(store, tmp_path / "parts", changes, progress=stop_at(5))
    again = pretrain(store, tmp_path / "parts", changes, resume=True)
    for name, value in weights(whole.folder).items():
        assert torch.equal(value, weights(again.folder)[name]), name
    assert json.loads((whole.folder / "run.json").read_text())["precision"] == precision


def test_auto_keeps_what_it_meant(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = recipe(**{"model.dim": 128})
    monkeypatch.setattr("semantoks.training.precision._gain_of_bf16", lambda dim: 2.0)
    pretrain(store, tmp_path / "run", changes, progress=stop_at(2))
    monkeypatch.setattr("semantoks.training.precision._gain_of_bf16", lambda dim: 0.5)
    again = pretrain(store, tmp_path / "run", changes, resume=True)
    assert json.loads((again.folder / "run.json").read_text())["precision"] == "bf16"


def test_existing_run_is_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    with pytest.raises(InputError, match="exists"):
        pretrain(store, tmp_path / "run", recipe())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious"]


def test_untrained(store: Store, tmp_path: Path) -> None:
    run = pretrain(store, tmp_path / "run", recipe(**{"optimization.epochs": 0}))
    assert (run.status, run.steps) == ("finished", 0)
    assert load_encoder(run.folder).dim == 16
    assert rows(run.folder / "metrics.csv") == []


def test_loss_that_is_not_finite_stops(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batches.augment
    calls = []

    def poisoned(*args: object) -> torch.Tensor:
        calls.append(1)
        windows: torch.Tensor = real(*args)  # type: ignore[arg-type]
        return windows * torch.nan if len(calls) == 5 else windows

    monkeypatch.setattr(batches, "augment", poisoned)
    with pytest.raises(InputError, match="loss of step 5 is nan") as caught:
        pretrain(store, tmp_path / "run", recipe())
    assert "step-00000003.pt" in str(caught.value)
    assert load_checkpoint(tmp_path / "run").content["step"] == 3


def test_gradient_that_is_not_finite_is_not_saved(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.nn.utils.clip_grad_norm_, []

    def poisoned(parameters: list[torch.nn.Parameter], clip: float) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:  # the loss was finite, and a checkpoint would follow this step
            parameters[0].grad = torch.full_like(parameters[0], torch.inf)
        return real(parameters, clip)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poisoned)
    with pytest.raises(InputError, match="gradient of step 6 is inf") as caught:
        pretrain(store, tmp_path / "run", recipe())
    assert "step-00000003.pt" in str(caught.value)
    assert load_checkpoint(tmp_path / "run").content["step"] == 3


def test_gradient_that_overflows_in_fp16_is_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.amp.GradScaler.unscale_, []

    def overflowing(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        calls.append(1)
        if len(calls) == 2:
            optimizer.param_groups[0]["params"][0].grad.fill_(torch.inf)
        real(self, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    run = pretrain(store, tmp_path / "run", recipe(precision="fp16"))
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert "Infinity" not in lines[1]  # which is no JSON
    norms = [json.loads(line)["gradient_norm"] for line in lines]
    assert (run.status, norms[1]) == ("finished", None)
    assert norms[-1] > 0  # the first may overflow by themselves
    assert all(torch.isfinite(value).all() for value in weights(run.folder).values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
        RuntimeError("MPS backend out of memory. Tried to allocate 2 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GiB."),
    ],
    ids=["cuda", "mps", "cpu"],
)
def test_a_step_that_does_not_fit_says_what_to_try(
    error: RuntimeError, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(InputError, match=r"2 GiB\.\)\. .*optimization.batch_size"):
        pretrain(store, tmp_path / "run", recipe(device="cpu", precision="float32"))


def test_another_error_of_a_step_stays_what_it_is(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        pretrain(store, tmp_path / "run", recipe(device="cpu", precision="float32"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_in_the_middle_of_a_checkpoint(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    real, calls, limits = torch.save, [], resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(content: object, path: Path) -> None:
        calls.append(1)
        if len(calls) > 1:  # PyTorch's own writer gets no further than this
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            real(content, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(torch, "save", filling)
    with pytest.raises(InputError, match=r"cannot be written.*last good checkpoint is .*03\.pt"):
        pretrain(store, tmp_path / "run", recipe())
    left = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000003.pt", "step-00000003.sha256"]
    monkeypatch.undo()
    assert pretrain(store, tmp_path / "run", recipe(), resume=True).status == "finished"


def test_disk_full_keeps_the_last_checkpoint(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.save, []

    def full(content: object, path: Path) -> None:
        calls.append(1)
        if len(calls) > 1:
            path.write_bytes(b"torn")
            raise OSError(28, "No space left on device")
        real(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left") as caught:
        pretrain(store, tmp_path / "run", recipe())
    assert "step-00000003.pt" in str(caught.value)
    left = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000003.pt", "step-00000003.sha256"]


@pytest.mark.parametrize("harm", ["torn", "flipped", "unsigned", "gone"])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    store: Store, tmp_path: Path, harm: str
) -> None:
    whole = pretrain(store, tmp_path / "whole", recipe())
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(8))
    newest = tmp_path / "run" / "checkpoints" / "step-00000008.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "unsigned":
        newest.with_suffix(".sha256").unlink()
    elif harm == "gone":
        newest.unlink()
    else:
        newest.write_bytes(content if harm == "flipped" else content[:1000])
    said: list[str] = []
    resumed = pretrain(store, tmp_path / "run", recipe(), resume=True, notify=said.append)
    assert said == [f"Checkpoint {newest} is damaged or missing; going on from step 6."]
    left = {path.stem for path in newest.parent.iterdir()}
    assert left == {"step-00000009", "step-00000012"}  # what is damaged does not count
    a, b = weights(whole.folder), weights(resumed.folder)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_no_good_checkpoint_is_left(store: Store, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(2))
    for path in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="1 are damaged"):
        pretrain(store, tmp_path / "run", recipe(), resume=True)


def test_resuming_a_finished_run_changes_nothing(store: Store, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", recipe())
    before = (tmp_path / "run" / "run.json").read_text()
    again = pretrain(store, tmp_path / "run", recipe(), resume=True)
    assert again.status == "finished"
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_time_of_all_parts_is_counted(store: Store, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(5))
    path = tmp_path / "run" / "run.json"
    first = json.loads(path.read_text())
    path.write_text(json.dumps(first | {"seconds": 1000.0}))
    pretrain(store, tmp_path / "run", recipe(), resume=True)
    last = json.loads(path.read_text())
    assert last["started"] == first["started"]
    assert last["seconds"] >= 1000


def test_networks_that_scans_lack(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), request={}) as writer:
        for i in range(6):
            series = rng.standard_normal((len(ATLAS), 130)).astype(np.float32)
            valid = np.ones(len(ATLAS), dtype=bool)
            valid[3:5] = i % 2 == 0  # every other scan lacks the second network
            series[~valid] = 0
            writer.add(Recording(series, 2.0, ATLAS, scan=f"{i}", subject=f"{i}"), valid)
        lacking = writer.finish()
    run = pretrain(lacking, tmp_path / "run", recipe())
    assert run.status == "finished"


@pytest.mark.parametrize(
    "changes",
    [
        {"model.spatial": "minimal"},
        {"model.spatial": "maximal", "model.tokenization": "linear"},
        {"model.tokenization": "linear", "model.pooling": "mean"},
        {"model.pooling": "max"},
        {"model.pooling": "attention"},
    ],
)
def test_other_architectures_learn_too(
    store: Store, tmp_path: Path, changes: dict[str, object]
) -> None:
    run = pretrain(store, tmp_path / "run", recipe(**changes))
    before = Pretraining(store, tmp_path / "fresh", recipe(**changes), resume=False)
    start = before.model.teacher.encoder.state_dict()
    after = weights(run.folder)
    moved = [name for name in after if not torch.equal(start[name], after[name])]
    assert len(moved) > 0.8 * len(list(before.model.teacher.encoder.parameters()))


def test_missing_tensorboard_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"semantoks\[tensorboard\]"):
        pretrain(store, tmp_path / "run", recipe(**{"logging.tensorboard": True}))
    assert not (tmp_path / "run").exists()


def test_cohorts_that_cannot_be_used(store: Store, tmp_path: Path) -> None:
    lonely = write_store(tmp_path / "lonely", subjects=1)
    with pytest.raises(InputError, match="at least two"):
        pretrain(lonely, tmp_path / "run", recipe())
    with pytest.raises(InputError, match="shorter than a window of 200"):
        pretrain(store, tmp_path / "run", recipe(**{"model.window": 200}))
    with pytest.raises(ConfigurationError, match="device 'cuda:9' cannot be used"):
        pretrain(store, tmp_path / "run", recipe(device="cuda:9"))
    assert not (tmp_path / "run").exists()


def test_batch_is_at_most_the_cohort(store: Store, tmp_path: Path) -> None:
    run = pretrain(store, tmp_path / "run", recipe(**{"optimization.batch_size": 64}))
    assert run.steps == 4


def test_tensorboard(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pretrain(store, tmp_path / "run", recipe(**{"logging.tensorboard": True}))
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_teacher_that_cannot_move_is_noticed(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    still = recipe(**{"optimization.teacher_momentum": 1.0, "optimization.epochs": 6})
    run = pretrain(store, tmp_path / "run", still, notify=said.append)
    assert run.status == "finished"  # a warning stops nothing
    written = [json.loads(x) for x in (run.folder / "warnings.jsonl").read_text().splitlines()]
    assert [(row["step"], row["kind"]) for row in written] == [(6, "teacher")]  # and is said once
    assert said == [f"Warning, step 6: {written[0]['message']}"]


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    store: Store, tmp_path: Path
) -> None:
    whole = pretrain(store, tmp_path / "whole", recipe())
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(2))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    torn = tmp_path / "run" / "checkpoints" / ".step-00000003.pt.1.partial"
    torn.write_bytes(b"torn")
    # The checksum stands before its checkpoint does, and a kill may come between.
    (tmp_path / "run" / "checkpoints" / "step-00000003.sha256").write_text("0")
    with pytest.raises(InputError, match="no checkpoint to resume"):
        pretrain(store, tmp_path / "run", recipe(seed=5), resume=True)
    again = pretrain(store, tmp_path / "run", recipe(), resume=True)
    a, b = weights(whole.folder), weights(again.folder)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert rows(again.folder / "health.csv") == rows(whole.folder / "health.csv")
    assert not torn.exists()


def test_a_run_whose_checkpoints_are_all_lost_does_not_start_again_unasked(
    store: Store, tmp_path: Path
) -> None:
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(8))
    for path in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        path.unlink()
    before = rows(tmp_path / "run" / "metrics.csv")
    with pytest.raises(InputError, match="no checkpoint to resume from; 2 are damaged or missing"):
        pretrain(store, tmp_path / "run", recipe(), resume=True)
    assert rows(tmp_path / "run" / "metrics.csv") == before


def test_a_log_of_an_older_version_is_taken_up(store: Store, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", recipe(), progress=stop_at(5))
    path = tmp_path / "run" / "health.jsonl"
    older = [json.loads(line) for line in path.read_text().splitlines()]
    for row in older:
        del row["identification"]
    path.write_text("".join(json.dumps(row) + "\n" for row in older))
    pretrain(store, tmp_path / "run", recipe(), resume=True)
    table = rows(tmp_path / "run" / "health.csv")
    assert [row["identification"] == "" for row in table] == [True, True, False, False, False]
