"""Registries of things that users may add from their own code, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from latent_common.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Factories by name.

    A name of the form ``"my_module:name"`` imports ``my_module`` first, as Gymnasium does for environment
    ids, so that a name in a JSON spec is enough in a new process.

    :param what: what is registered, for error messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._factories: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a class or function as ``name``."""
        if not name or ":" in name:
            raise UserError(f"a {self.what} can't be named {name!r}: use a plain word")

        def keep(factory: T) -> T:
            self._factories[name] = factory
            return factory

        return keep

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._factories)

    def __getitem__(self, name: str) -> T:
        module, _, plain = name.rpartition(":")
        if module:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise UserError(f"{self.what}={name}: can't import {module!r} ({error})") from error
        if plain not in self._factories:
            raise UserError(
                f"{self.what}={name} is unknown: choose one of {', '.join(self.names())}, "
                f"or register your own"
            )
        return self._factories[plain]
