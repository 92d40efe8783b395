"""What a command line gives in place of a key of search.yaml."""

from __future__ import annotations

from evolve.config.names import known_address
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError


def addressed(config: SearchConfig, address: str | None) -> SearchConfig:
    """The same run with workers at `address` (None: at run.address). Raises ConfigError for what is no address."""
    if address is None:
        return config
    try:
        known_address(address)
    except ValueError as error:
        raise ConfigError(f"--address: {error}") from error
    return config.model_copy(update={"run": config.run.model_copy(update={"address": address})})
