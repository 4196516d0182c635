"""Recipes and settings: strict, frozen, and messages that name the key."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from pydantic import ValidationError

from semantoks.errors import ConfigurationError
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.config import (
    Configuration,
    ModelConfig,
    configure,
    load_recipe,
    paper,
    parse_changes,
    tiny,
    to_yaml,
)


def test_paper_is_the_paper() -> None:
    recipe = paper()
    assert (recipe.model.dim, recipe.model.depth) == (768, 8)
    optimization = recipe.optimization
    assert (optimization.epochs, optimization.batch_size) == (100, 512)
    assert (optimization.learning_rate, optimization.warmup_epochs) == (7e-4, 3)
    assert (optimization.weight_decay, optimization.weight_decay_end) == (0.05, 0.3)
    assert (optimization.teacher_momentum, optimization.clip) == (0.99, 1.0)
    assert (recipe.masks.low, recipe.masks.high, recipe.masks.probability) == (0.65, 0.85, 0.5)
    assert (recipe.objective.summary_share, recipe.objective.epsilon) == (0.05, 0.05)


def test_model_section_has_the_encoders_arguments_and_defaults() -> None:
    parameters = inspect.signature(SemantoksEncoder).parameters
    apart = {"atlas", "components"}  # components are learned when a run ends
    expected = {name: p.default for name, p in parameters.items() if name not in apart}
    assert ModelConfig().encoder_arguments() == expected


@pytest.mark.parametrize("recipe", [paper(), tiny()])
def test_yaml_round_trip(recipe: Configuration, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(recipe))
    assert load_recipe(str(path)) == recipe


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        paper().optimization.epochs = 3


def test_settings() -> None:
    changes = parse_changes(["optimization.epochs=7", "optimization.betas=[0.8, 0.9]", "seed=4"])
    recipe = configure(tiny(), changes)
    assert (recipe.optimization.epochs, recipe.optimization.betas) == (7, (0.8, 0.9))
    assert recipe.seed == 4
    assert recipe.model == tiny().model


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["optimization.epoch=20"], "Did you mean 'optimization.epochs'"),
        (["epochs=20"], "unknown configuration key 'epochs'"),
        (["optimization=20"], "unknown configuration key 'optimization'"),
        (["optimization.epochs"], "write section.key=value"),
        (["optimization.epochs=many"], "impossible value for 'optimization.epochs'"),
        (["optimization.epochs=-1"], "greater than or equal to 0"),
        (["model.dim=100"], "multiple of head_dim"),
        (
            ["optimization.epochs=3", "optimization.warmup_epochs=3"],
            "leaves nothing of epochs = 3",
        ),
        (["masks.low=0.9"], "must not exceed"),
        (["masks.kind=diagonal"], "masks.kind"),
        (["seed=[1"], "not valid YAML"),
    ],
)
def test_wrong_settings(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configure(paper(), parse_changes(settings))


def test_shorter_runs_warm_up_over_less_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    assert configure(paper(), {"optimization.epochs": 3}).optimization.warmup_epochs == 0
    assert "within the warm-up of 3 epochs; warming up over 0" in caplog.text
    assert configure(tiny(), {"optimization.epochs": 20}).optimization.warmup_epochs == 2


def test_wrong_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'paper'"):
        load_recipe("papr")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"))
    for text, words in (
        ("model: [", "not valid YAML"),
        ("- 1", "must hold sections"),
        ("optimization: {epoch: 3}", r"optimization.epoch'. Did you mean 'optimization.epochs'"),
    ):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=words):
            load_recipe(str(path))
