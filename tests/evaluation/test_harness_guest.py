"""A saved model inside the Brainmarks harness: a stand-in for it where it is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import semantoks
from semantoks.data.atlas import Atlas
from semantoks.data.signal import Preprocessing
from semantoks.errors import InputError
from semantoks.evaluation.harness_guest import GuestTransform, make_guest
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder

PLUGIN = Path(semantoks.__file__).parents[1] / "brainmarks" / "models" / "semantoks.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guest") / "model"
    torch.manual_seed(0)
    encoder = SemantoksEncoder(Atlas.load("schaefer400-tian3-buckner7"), dim=64, depth=1)
    save_encoder(encoder, folder, preprocessing=Preprocessing().to_dict())
    return folder


def sample(n_frames: int, t_r: float = 1.0, seed: int = 0) -> dict[str, object]:
    bold = torch.randn(n_frames, 457, generator=torch.Generator().manual_seed(seed))
    return {"bold": bold, "mean": torch.zeros(1, 457), "std": torch.ones(1, 457), "tr": t_r}


@pytest.mark.parametrize("n_frames", [16, 160, 900])
def test_the_contract_of_the_harness(model: Path, n_frames: int) -> None:
    transform, wrapper = make_guest(str(model))
    batch = default_collate([transform(sample(n_frames, seed=seed)) for seed in range(2)])
    summary, registers, tokens = wrapper(batch)
    assert wrapper.__space__ == "schaefer400_tians3_buckner7"
    assert summary.shape == (2, 1, 64)
    assert registers is None
    assert tokens.shape == (2, 8 * 9 * 5, 64)
    assert torch.isfinite(summary).all()
    assert torch.isfinite(tokens).all()
    assert not any(parameter.requires_grad for parameter in wrapper.parameters())


def test_all_windows_are_read_and_not_only_the_first(model: Path) -> None:
    transform, wrapper = make_guest(str(model))
    one = sample(900)
    other = {**one, "bold": one["bold"].clone()}
    other["bold"][700:] = torch.randn(200, 457, generator=torch.Generator().manual_seed(9))
    first, second = transform(one), transform(other)
    assert not torch.allclose(first["series"][-1], second["series"][-1], atol=0.1)
    summaries = [wrapper(default_collate([x])).cls_embeds for x in (first, second)]
    assert not torch.allclose(*summaries, atol=1e-4)


def test_equal_to_the_features_of_the_package(model: Path) -> None:
    transform, wrapper = make_guest(str(model), windows=3)
    found = wrapper(default_collate([transform(sample(700, 1.0))]))
    features = semantoks.SemantoksFeatures(
        model=str(model), windows=3, t_r=1.0, features="cls"
    ).fit_transform([sample(700, 1.0)["bold"].numpy().T])
    assert np.allclose(found.cls_embeds[0, 0].numpy(), np.asarray(features)[0], atol=1e-5)


def test_patches_beyond_the_end_of_a_short_scan_are_hidden(model: Path) -> None:
    transform, _ = make_guest(str(model))
    hidden = transform(sample(100, 1.0))["hidden"]  # 50 samples at 2 s: two patches and a half
    assert hidden[0, 0].tolist() == [False, False, False, True, True]


def test_missing_networks_are_hidden(model: Path) -> None:
    transform, _ = make_guest(str(model))
    scan = sample(400)
    scan["bold"][:, 450:] = 0
    assert transform(scan)["hidden"][0, :, 0].tolist() == [False] * 8 + [True]


def test_other_rois_and_atlases_are_refused(model: Path, tmp_path: Path) -> None:
    transform, _ = make_guest(str(model))
    with pytest.raises(InputError, match=r"\(400, 400\).*457 ROIs"):
        transform({"bold": torch.randn(400, 400), "tr": 1.0})
    with pytest.raises(InputError, match="repetition time"):
        transform({"bold": torch.randn(400, 457)})
    save_encoder(SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=1), tmp_path / "cc200")
    with pytest.raises(InputError, match="'cc200', which the harness does not have"):
        make_guest(str(tmp_path / "cc200"))


def test_the_plugin_is_found_by_the_harness(model: Path, tmp_path: Path) -> None:
    """The harness imports every module of the namespace package brainmarks.models."""
    if importlib.util.find_spec("brainmarks") and importlib.util.find_spec(
        "brainmarks.models.registry"
    ):
        path: list[str] = []
    else:
        package = tmp_path / "brainmarks" / "models"
        package.mkdir(parents=True)
        (package / "registry.py").write_text(
            "FOUND = {}\n\n\ndef register_model(made):\n"
            "    FOUND[made.__name__] = made\n    return made\n\n\n"
            "def create_model(name, **given):\n    return FOUND[name](**given)\n"
        )
        path = [str(tmp_path)]
    code = (
        "import sys; sys.path[:0] = " + repr([*path, str(PLUGIN.parents[2])]) + "\n"
        "import importlib, pkgutil, brainmarks.models\n"
        "names = {m.name for m in pkgutil.iter_modules(brainmarks.models.__path__)}\n"
        "assert 'semantoks' in names, names\n"
        "importlib.import_module('brainmarks.models.semantoks')\n"
        "from brainmarks.models.registry import create_model\n"
        f"transform, model = create_model('semantoks', model={str(model)!r})\n"
        "print(model.__space__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "schaefer400_tians3_buckner7", done.stderr


def test_a_model_of_series_that_were_filtered_before_gets_that_band() -> None:
    encoder = SemantoksEncoder(Atlas.load("schaefer400-tian3-buckner7"), dim=64, depth=1)
    here = Preprocessing(high_pass=0.01, low_pass=0.08)
    before = Preprocessing(high_pass=None, low_pass=None, filtered_before=(0.01, 0.08))
    one, other = (GuestTransform(encoder, how)(sample(400))["series"] for how in (here, before))
    torch.testing.assert_close(one, other)
