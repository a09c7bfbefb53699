"""Registries of things that users may add from their own code, by name."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from latent_common.errors import UserError


def import_users_module(name: str, key: str) -> None:
    """Import a user's module, which the setting ``key`` names; whatever fails in it is a ``UserError``."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{key}: {name!r} is no name of a module: name one as in `import my_module`")
    try:
        importlib.import_module(name)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    except SyntaxError as error:
        raise UserError(f"{key}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except ImportError as error:
        raise UserError(
            f"{key}: can't import {name!r} ({error}): name a module of the working directory, or an "
            "installed one"
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: importing {name} failed with {told(error)}") from error


def told(error: BaseException) -> str:
    """An exception of a user's code in a few words: its kind, what it says, and the line that raised it."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if said else ''}{said}{where}"


def _title(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"


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
            known = self._factories.get(name)
            # The same class again is what a reloaded module or a cell of a notebook registers.
            if known is not None and _title(known) != _title(factory):
                raise UserError(
                    f"the {self.what} {name} is there already ({_title(known)}): choose another name"
                )
            self._factories[name] = factory
            return factory

        return keep

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._factories)

    def __getitem__(self, name: str) -> T:
        module, _, plain = name.rpartition(":")
        if module:
            import_users_module(module, f"{self.what}={name}")
        if plain not in self._factories:
            raise UserError(
                f"{self.what}={name} is unknown: choose one of {', '.join(self.names())}, "
                f"or register your own"
            )
        return self._factories[plain]
