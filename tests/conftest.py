"""What several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shapes are checked by machine in the tests only: the hook must come before the modules.
install_import_hook(
    ["semantoks.model", "semantoks.objective", "semantoks.training"], "beartype.beartype"
)

import torch  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of golden numbers and real recordings beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "METHOD.md").is_file():
        pytest.skip("the shared folder with golden numbers and real recordings is not here")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Leave the cores to the workers of pytest-xdist."""
    torch.set_num_threads(1)
