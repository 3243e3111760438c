"""`key=value` on a command line."""

from __future__ import annotations

import yaml

from flashvid.errors import ConfigurationError


def assignment(text: str, option: str) -> tuple[str, object]:
    """Split ``key=value``; the value is YAML. Raises ConfigurationError, with the option's name."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"{option} {text!r} is not key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigurationError(f"{option} {text!r}: the value is not YAML") from None
