"""Tables of plug-ins: those that ship with this package, and those that other packages add through entry points.

A built-in entry is an object, or the string ``module:object``, which is imported on first use. Another package declares
an entry point in the table's group, for an object with a `name` and a positive integer `version`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from flashvid.errors import ConfigurationError

Plugin = TypeVar("Plugin")


def load_object(target: str) -> Any:  # noqa: ANN401 - any object
    """Import the object that ``module:object`` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


class PluginTable(Mapping[str, Plugin], Generic[Plugin]):
    """Plug-ins by name, each loaded on first use: the built-in ones, then those of other packages in sorted order.

    Args:
        group: Entry-point group, for instance ``flashvid.methods``.
        built_in: Objects, or ``module:object``, by name.
        make: Function from an object to the plug-in, for instance from a class to an instance.
    """

    def __init__(
        self, group: str, built_in: Mapping[str, Plugin | str], make: Callable[[Any], Plugin] = lambda found: found
    ) -> None:
        self._group = group
        self._built_in = built_in
        self._make = make
        self._loaded: dict[str, Plugin] = {}

    def __iter__(self) -> Iterator[str]:
        yield from (*self._built_in, *sorted(self._added))

    def __len__(self) -> int:
        return len(self._built_in) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._added

    def __getitem__(self, name: str) -> Plugin:
        """Return the plug-in of that name.

        Raises:
            KeyError: There is no plug-in of that name.
            ConfigurationError: Two plug-ins have the same name, or one of another package lacks a matching `name` or a
                `version`.
        """
        if name not in self._loaded:
            added = self._added
            entry = added[name] if name in added else self._built_in[name]
            plugin = self._make(load_object(entry) if isinstance(entry, str) else entry)
            if name in added:
                self._check(name, added[name], plugin)
            self._loaded[name] = plugin
        return self._loaded[name]

    def version(self, name: str) -> int | None:
        """Return the positive version of a plug-in; None for a built-in one that is at 0 or not loaded yet."""
        plugin = self[name] if name in self._added else self._built_in[name]
        version: int | None = getattr(plugin, "version", None) or None
        return version

    @cached_property
    def _added(self) -> dict[str, str]:
        """The entry points of other packages, ``module:object`` by name."""
        added: dict[str, str] = {}
        for entry in entry_points(group=self._group):
            if entry.name in self._built_in or entry.name in added:
                other = added.get(entry.name, "a built-in one")
                raise ConfigurationError(
                    f"two plug-ins of {self._group} have the name {entry.name!r}: {other} and {entry.value}; "
                    "uninstall one of the packages"
                )
            added[entry.name] = entry.value
        return added

    def _check(self, name: str, target: str, plugin: Plugin) -> None:
        declared, version = getattr(plugin, "name", None), getattr(plugin, "version", None)
        if declared != name or not isinstance(version, int) or version < 1:
            raise ConfigurationError(
                f"the plug-in {name!r} of {self._group} ({target}) declares name {declared!r} and version {version!r}: "
                f"it must declare the name {name!r} and a positive integer version"
            )
