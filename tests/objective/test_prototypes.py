"""DINO, iBOT, DINOv2 and SimDINO against the numbers of their released code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import ChosenTokens, Encoding, SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.objective.distillation import Distillation, LossTerms
from semantoks.objective.losses import compression, expansion
from semantoks.objective.prototypes import (
    Centring,
    Kind,
    PrototypeDistillation,
    PrototypeHead,
    cross_entropy,
    koleo,
    move_centre,
    sinkhorn,
    teacher_temperature,
    view_entropy,
)
from semantoks.training.config import OptimizationConfig, configure, tiny
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step
from semantoks.training.pretraining import pretrain

Golden = dict[str, Tensor]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    with np.load(shared / "peers" / "objectives" / "golden.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])).float() for name in arrays.files}


class Toy(SemantoksEncoder):
    """The encoder of the golden numbers: a linear layer, and the mean of its tanh."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.mask_token = nn.Parameter(torch.zeros(12))
        self.tok, self.cls = nn.Linear(12, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Encoding:
        if hidden is not None:
            x = torch.where(hidden.flatten(1)[..., None], self.mask_token, x)
        tokens = self.tok(x)
        return Encoding(self.cls(tokens.tanh().mean(1)), tokens.unflatten(1, (9, 5)))

    def choose(self, x: Tensor, hidden: Tensor | None, chosen: Tensor) -> ChosenTokens:
        encoded = self(x, hidden)
        tokens = encoded.tokens.flatten(0, 2).index_select(0, chosen)
        return ChosenTokens(encoded.summary, tokens)


def make(golden: Golden, kind: str, centring: Centring = "mean") -> Distillation:
    """Make student and teacher with the weights of the file."""
    encoder = Toy()
    sizes = {"hidden_dim": 32, "output_dim": 8, "hidden_layers": 2}
    model: Distillation
    if kind == "simdino":
        model = Distillation(encoder, Head(16, **sizes), token_weight=1.0, summary_weight=0.0)
    else:
        head = PrototypeHead(
            16, prototypes=24, gains="learned" if kind == "dinov2" else "one", **sizes
        )
        model = PrototypeDistillation(
            encoder, head, kind=cast(Kind, kind), centring=centring, summary_weight=0.0
        )
    for name in ("student", "teacher"):
        state = {k.removeprefix(f"in.{name}."): v for k, v in golden.items()}
        branch = model.get_submodule(name)
        wanted = {k: state[_released(k)] for k in branch.state_dict()}
        branch.load_state_dict(wanted)
    return model


def _released(name: str) -> str:
    """Translate the name of a parameter."""
    ours = {"head.gains": "head.last_layer.weight_g", "head.directions": "head.last_layer.weight_v"}
    return ours.get(name, name)


def step(golden: Golden, model: Distillation, temperature: float) -> LossTerms:
    """Compare student and teacher on the inputs of the file."""
    views, masks = golden["in.x"].transpose(0, 1), golden["in.mask"].transpose(0, 1).bool()
    terms: LossTerms = model(views, masks, temperature=temperature)
    return terms


def norm_of_gradients(model: Distillation) -> float:
    gradients = [p.grad for p in model.student.parameters() if p.grad is not None]
    return float(torch.stack([g.norm() for g in gradients]).norm())


def given(golden: Golden, model: Distillation) -> None:
    """Begin with the centres of the file."""
    model.get_buffer("cls_centre").copy_(golden["in.center"][0])
    model.get_buffer("token_centre").copy_(golden["in.center_patch"][0, 0])


def close(found: Tensor | None, wanted: Tensor, *, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("epoch", [0, 3, 6])
@pytest.mark.parametrize("centre", ["zero", "given"])
def test_dino(golden: Golden, centre: str, epoch: int) -> None:
    model = make(golden, "dino")
    if centre == "given":
        given(golden, model)
    temperature = teacher_temperature(epoch, length=4)
    terms = step(golden, model, temperature)
    key = f"dino.2views.center_{centre}.epoch{epoch}."
    close(terms.total, golden[key + "loss"])
    close(model.get_buffer("cls_centre"), golden[key + "center_after"][0])
    if epoch == 3:
        torch.autograd.backward(terms.total)
        assert norm_of_gradients(model) == pytest.approx(float(golden[key + "grad_norm"]), rel=1e-5)


def test_dino_with_short_views(golden: Golden) -> None:
    model = make(golden, "dino")
    temperature = teacher_temperature(3, length=4)
    local = [model.student.head(x) for x in golden["feat.student.cls_local"]]
    student = [*golden["dino.student_logits"].chunk(2), *local]
    teacher = golden["dino.teacher_logits"]
    targets = ((teacher - golden["in.center"]) / temperature).softmax(-1).chunk(2)
    loss = view_entropy(student, targets) / 8
    close(loss, golden["dino.2global_3local.loss"])


def test_ibot(golden: Golden) -> None:
    model = make(golden, "ibot")
    given(golden, model)
    terms = step(golden, model, teacher_temperature(3, length=4))
    key = "ibot.shared.2views."
    assert terms.token is not None
    close(-terms.compression, golden[key + "cls"])
    close(terms.token, golden[key + "patch"])
    close(terms.total, golden[key + "loss"])
    for ours, theirs in (("cls", "center"), ("token", "center_patch")):
        wanted = golden[f"{key}{theirs}_after"].flatten()
        close(model.get_buffer(f"{ours}_centre"), wanted)
    torch.autograd.backward(terms.total)
    assert norm_of_gradients(model) == pytest.approx(float(golden[key + "grad_norm"]), rel=1e-5)


@pytest.mark.parametrize("how", ["centering", "sinkhorn"])
def test_dinov2(golden: Golden, how: str) -> None:
    model = make(golden, "dinov2", "mean" if how == "centering" else "sinkhorn")
    given(golden, model)
    terms = step(golden, model, 0.055)
    key = f"dinov2.{how}.2views."
    assert terms.token is not None
    assert terms.expansion is not None
    close(-terms.compression, golden[key + "dino_global"])
    close(terms.token, golden[key + "ibot"])
    close(-0.1 * terms.expansion, golden[key + "koleo"])
    close(terms.total, golden[key + "loss"])
    torch.autograd.backward(terms.total)
    assert norm_of_gradients(model) == pytest.approx(float(golden[key + "grad_norm"]), rel=1e-5)
    if how == "centering":
        for ours, theirs in (("cls", "center"), ("token", "center_patch")):
            wanted = golden[f"{key}{theirs}_after"].flatten()
            close(model.get_buffer(f"{ours}_centre"), wanted)


def test_sinkhorn_gives_the_probabilities_of_the_release(golden: Golden) -> None:
    swapped = golden["dinov2.sinkhorn.2views.teacher_probs_cls_swapped"].flatten(0, 1)
    first, second = golden["dino.teacher_logits"].chunk(2)
    found = sinkhorn(torch.cat([second, first]), 0.055)
    close(found, swapped)


def test_sinkhorn_bears_logits_that_are_no_cosines() -> None:
    logits = 100 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    found = sinkhorn(logits, 0.04)
    assert found.isfinite().all()
    close(found.sum(1), torch.ones(64))
    assert sinkhorn(torch.empty(0, 8), 0.04).shape == (0, 8)


def test_koleo(golden: Golden) -> None:
    for view, vectors in enumerate(golden["feat.student.cls"]):
        close(koleo(vectors), golden[f"koleo.view{view}.loss"])
    twin = golden["koleo.duplicate.input"].clone().requires_grad_()
    loss = koleo(twin)
    close(loss, golden["koleo.duplicate.loss"])
    torch.autograd.backward(loss)
    close(twin.grad, golden["koleo.duplicate.grad"], rtol=1e-4, atol=1e-4)


def test_simdino_is_ours(golden: Golden) -> None:
    (s1, s2), (t1, t2) = (golden[f"simdino.{n}"].chunk(2) for n in ("student", "teacher"))
    loss = -compression((s1, s2), (t1, t2)) - expansion((s1, s2), (t1, t2), epsilon=0.05)
    wanted = golden["simdino.2views.expa1.eps0.05.loss"]
    close(loss, wanted, rtol=1e-5, atol=1e-5)


def test_temperatures(golden: Golden) -> None:
    found = [teacher_temperature(epoch, length=4) for epoch in range(10)]
    np.testing.assert_allclose(found, golden["schedule.dino.teacher_temp"], rtol=1e-6)
    assert teacher_temperature(0, start=0.04, end=0.07, length=0) == 0.07
    assert teacher_temperature(0, length=1) == 0.04


@pytest.mark.parametrize(
    ("name", "kind", "centring"),
    [
        ("dino", "dino", "mean"),
        ("ibot", "ibot", "mean"),
        ("dinov2_centering", "dinov2", "mean"),
        ("dinov2_sinkhorn", "dinov2", "sinkhorn"),
        ("simdino", "simdino", "mean"),
    ],
)
def test_trajectory(golden: Golden, name: str, kind: str, centring: Centring) -> None:
    model = make(golden, kind, centring)
    named = [(n, p) for n, p in model.student.named_parameters() if p.requires_grad]
    undecayed = [p for n, p in named if _undecayed(n, p, kind)]
    decayed = [p for n, p in named if not _undecayed(n, p, kind) and p not in model.frozen()]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    groups += [{"params": [p]} for p in model.frozen()]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.04)
    for number, temperature in enumerate((0.04, 0.07, 0.07)):
        key = f"trajectory.{name}.step{number}."
        terms = step(golden, model, temperature)
        close(terms.total, golden[key + "loss"], rtol=1e-4, atol=1e-5)
        optimizer.zero_grad()
        torch.autograd.backward(terms.total)
        norm = norm_of_gradients(model)
        assert norm == pytest.approx(float(golden[key + "grad_norm"]), rel=1e-4)
        _clip(model, kind)
        held = [p.detach().clone() for p in model.frozen()]
        if number == 0 and kind != "dinov2":
            for parameter in model.frozen():
                parameter.grad = None
        optimizer.step()
        if number == 0:
            with torch.no_grad():
                for parameter, before in zip(model.frozen(), held, strict=True):
                    parameter.copy_(before)
        model.update_teacher(0.9)
    for branch in ("student", "teacher"):
        for key, value in model.get_submodule(branch).state_dict().items():
            wanted = golden[f"trajectory.{name}.final.{branch}.{_released(key)}"]
            close(value, wanted, rtol=1e-3, atol=1e-4)


def _undecayed(name: str, parameter: nn.Parameter, kind: str) -> bool:
    if kind == "dinov2":
        return name.endswith(".bias") or "norm" in name
    return name.endswith(".bias") or parameter.ndim == 1


def _clip(model: Distillation, kind: str) -> None:
    """Clip as the releases do: every parameter by itself, or encoder and head."""
    if kind == "dinov2":
        for part in (model.student.encoder, model.student.head):
            nn.utils.clip_grad_norm_(part.parameters(), 0.3)
        return
    for parameter in model.student.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(min(1.0, 0.3 / (float(parameter.grad.norm()) + 1e-6)))


def test_centres_move_with_what_is_there() -> None:
    centre = torch.zeros(3)
    rows = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    close(move_centre(centre, rows, 0.9), torch.tensor([0.2, 0.3, 0.4]))
    assert move_centre(centre + 1, rows[:0], 0.9).tolist() == [1, 1, 1]


def test_cross_entropy_is_lowest_where_both_agree() -> None:
    logits = torch.tensor([[0.9, 0.1, 0.0]])
    right = (logits / 0.1).softmax(-1)
    assert cross_entropy(logits, right) < cross_entropy(logits, right.flip(-1))


@pytest.mark.parametrize("how", ["gradient", "rate"])
def test_frozen_weights_stay(how: Literal["gradient", "rate"]) -> None:
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(layer, OptimizationConfig())
    now = Schedule(0.1, 0.1, 0.9, 0.0)
    before = layer.weight.detach().clone()
    torch.autograd.backward(layer(torch.ones(1, 3)).sum())
    optimizer_step(optimizer, now, clip=1.0, frozen={cast(nn.Parameter, layer.weight): how})
    assert layer.weight.equal(before)
    assert (layer.weight in optimizer.state) == (how == "rate")
    assert layer.bias.abs().sum() > 0


RUNS: dict[str, dict[str, Any]] = {
    "dino": {},
    "ibot": {},
    "dinov2": {},
    "sinkhorn": {"objective.kind": "dinov2", "objective.centring": "sinkhorn"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in {"ibot", "sinkhorn"} else [pytest.mark.slow])
        for name in RUNS
    ],
)
def test_pretraining_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    write_cohort(simulate_cohort(12, seed=1), tmp_path / "in", atlas_file=tmp_path / "atlas.tsv")
    prepare(tmp_path / "in", tmp_path / "store", atlas=Atlas.load(str(tmp_path / "atlas.tsv")))
    store = Store.open(tmp_path / "store")
    changes: dict[str, Any] = {
        "objective.kind": name,
        "objective.prototypes": 16,
        "objective.frozen_epochs": 1,
        "objective.temperature_epochs": 3,
        "optimization.epochs": 4,
        "optimization.warmup_epochs": 1,
        "optimization.batch_size": 6,
        "logging.checkpoint_epochs": 2,
        "logging.steps": 1,
        "device": "cpu",
    } | RUNS[name]
    recipe = configure(tiny(), changes)
    pretrain(store, tmp_path / "whole", recipe)

    class EnoughError(Exception):
        pass

    def stop(row: Any) -> None:
        if row.step == 6:
            raise EnoughError

    with pytest.raises(EnoughError):
        pretrain(store, tmp_path / "parts", recipe, progress=stop)
    pretrain(store, tmp_path / "parts", recipe, resume=True)
    whole, parts = (load_encoder(tmp_path / x).state_dict() for x in ("whole", "parts"))
    assert all(whole[key].equal(parts[key]) for key in whole)
