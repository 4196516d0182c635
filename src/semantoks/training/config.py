"""The configuration of a pretraining run: frozen, strict, the same in Python, YAML and shell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from semantoks.errors import ConfigurationError, nearest
from semantoks.training.sections import (
    Configuration,
    LoggingConfig,
    MasksConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizationConfig,
    ViewsConfig,
)

__all__ = [
    "RECIPES",
    "Configuration",
    "LoggingConfig",
    "MasksConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizationConfig",
    "ViewsConfig",
    "configure",
    "flatten",
    "load_recipe",
    "paper",
    "parse_changes",
    "same_run",
    "tiny",
    "to_yaml",
]


def paper() -> Configuration:
    """Return the recipe of the paper.

    Returns
    -------
    Configuration
        Width 768, depth 8, batch 512, 100 epochs.
    """
    return Configuration()


def tiny() -> Configuration:
    """Return a recipe that runs in a minute on two cores: the demo's.

    Returns
    -------
    Configuration
        Width 64, depth 2, batch 32, 30 epochs.
    """
    return Configuration(
        model=ModelConfig(
            dim=64, depth=2, head_dim=32, projection_hidden_dim=256, projection_dim=64
        ),
        optimization=OptimizationConfig(
            epochs=30,
            batch_size=32,
            learning_rate=4e-3,
            warmup_epochs=2,
            teacher_momentum=0.9,  # 150 steps are too few for the paper's teacher to follow
        ),
        logging=LoggingConfig(steps=2),
    )


RECIPES = {"paper": paper, "tiny": tiny}


def load_recipe(name_or_file: str) -> Configuration:
    """Load a recipe by name or from a YAML file.

    Parameters
    ----------
    name_or_file : str
        "paper", "tiny", or the path of a YAML file such as a run's ``config.yaml``. What a file
        leaves out is as in the paper.

    Returns
    -------
    Configuration
        The recipe.

    Raises
    ------
    ConfigurationError
        If there is no such recipe, or the file has unknown keys or impossible values.
    """
    if name_or_file in RECIPES:
        return RECIPES[name_or_file]()
    path = Path(name_or_file)
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigurationError(
            f"there is no recipe {name_or_file!r}. Built in are {', '.join(RECIPES)}; any other is "
            "a .yaml file." + nearest(name_or_file, RECIPES)
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"recipe {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"recipe {path} must hold sections such as 'model:'.")
    return _validated(content, origin=str(path))


def configure(recipe: Configuration, changes: Mapping[str, Any]) -> Configuration:
    """Change keys of a recipe.

    Parameters
    ----------
    recipe : Configuration
        Where to begin.
    changes : mapping of str to value
        Values by dotted key, such as ``{"optimization.epochs": 20, "seed": 1}``.

    Returns
    -------
    Configuration
        A new configuration.

    Raises
    ------
    ConfigurationError
        If a key is unknown (the nearest is named) or a value is impossible.

    Examples
    --------
    >>> configure(tiny(), {"model.depth": 3}).model.depth
    3
    """
    content: dict[str, Any] = recipe.model_dump()
    known = set(flatten(content))
    for key, value in changes.items():
        if key not in known:
            raise ConfigurationError(
                f"unknown configuration key {key!r}.{nearest(key, known)} "
                f"All keys: {', '.join(sorted(known))}."
            )
        section, _, name = key.rpartition(".")
        (content[section] if section else content)[name] = value
    return _validated(content, origin="the configuration")


def parse_changes(settings: Iterable[str]) -> dict[str, Any]:
    """Read ``section.key=value`` words; values are YAML.

    Examples
    --------
    >>> parse_changes(["optimization.epochs=20", "masks.kind=random"])
    {'optimization.epochs': 20, 'masks.kind': 'random'}
    """
    changes = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigurationError(
                f"cannot read the setting {word!r}: write section.key=value, such as "
                "optimization.epochs=20."
            )
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigurationError(
                f"the value of {word!r} is not valid YAML; write a number, a word or a list such "
                "as [0.9, 0.999]."
            ) from error
    return changes


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every value its dotted key.

    Examples
    --------
    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def same_run(written: str, configuration: Configuration) -> bool:
    """Say whether a run can be gone on with by a configuration, with the same results.

    Examples
    --------
    >>> same_run(to_yaml(paper()), configure(paper(), {"views.residence": "stream"}))
    True
    """
    try:
        before = Configuration.model_validate(yaml.safe_load(written))
    except (yaml.YAMLError, ValidationError):
        return False
    free = {"views.residence": "auto", "views.ahead": 0}
    return configure(before, free) == configure(configuration, free)


def to_yaml(configuration: Configuration) -> str:
    """Write a configuration as YAML that `load_recipe` reads back."""
    return yaml.safe_dump(configuration.model_dump(mode="json"), sort_keys=False)


def _validated(content: Mapping[str, Any], *, origin: str) -> Configuration:
    """Check keys and values; say in one paragraph what is wrong with the first."""
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = flatten(Configuration().model_dump())
            raise ConfigurationError(
                f"{origin} has the unknown key {key!r}.{nearest(key, known)}"
            ) from error
        raise ConfigurationError(
            f"{origin} has an impossible value for {key!r}: {first['msg']} (got "
            f"{first['input']!r})."
        ) from error
