"""Reads the pickles of CIFAR-10's Python version without Python's unpickler, which would run what they name.

Their structure is known: a dictionary of text, lists of whole numbers and one array of bytes, as Python 2
wrote it. Only that structure is read. Whatever else a pickle holds is refused, so nothing is ever called.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError

MOST_OPCODES = 200_000
"""A batch of 10,000 images takes about 30,000; each may take up some hundred bytes of memory."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = ("BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING")
NAMES = ("numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype")
"""The names in a batch. They stay names here: what they stand for is never looked up."""


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(eq=False)
class _Array:
    """What stands for an array until its values have been read."""

    values: NDArray[np.uint8] | None = None


class _Mark:
    """Where the items of a tuple, list or dictionary begin on the stack."""


BYTES = object()
"""Stands for the only type of numbers that an array may have."""

NEW_BYTES = ("u1", 0, 1)
BYTES_STATE = (3, "|", None, None, None, -1, -1, 0)
NEW_ARRAY = (_Name("numpy ndarray"), (0,), "b")
"""What a batch builds its type of numbers and its array from."""


def read_pickled_batch(content: bytes) -> dict[str, Any]:
    """The values of a batch by key: text, lists of numbers and text, and arrays ``(N, M)`` uint8.

    :raises UserError: for another structure.
    :raises ValueError, LookupError, TypeError, AttributeError: for a damaged pickle.
    """
    reader = _Reader()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count >= MOST_OPCODES:
            raise UserError(f"has more than {MOST_OPCODES:,} parts, which no batch of CIFAR-10 has")
        reader.take(opcode.name, argument)
    (held,) = reader.stack
    if not isinstance(held, dict):
        raise UserError(f"holds a {type(held).__name__}, and no dictionary as a batch of CIFAR-10 does")
    return {key: value.values if isinstance(value, _Array) else value for key, value in held.items()}


class _Reader:
    """The stack and the memory that a pickle's opcodes work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def take(self, opcode: str, argument: Any) -> None:
        """Do what one opcode asks for, if a batch of CIFAR-10 needs it."""
        stack = self.stack
        if opcode in LITERALS:
            stack.append(argument)
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode == "GLOBAL":
            if argument not in NAMES:
                named = ascii(argument.replace(" ", "."))[1:-1][:80]
                raise UserError(f"asks to run {named}, which no batch of CIFAR-10 needs: it was not opened.")
            stack.append(_Name(argument))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memory[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif opcode in ("PROTO", "STOP"):
            pass
        elif opcode in ("MARK", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"MARK": _Mark, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode]())
        elif opcode in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(int(opcode[5:])) if opcode[5:] else self._since_mark()))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._pop(1) if opcode == "APPEND" else self._since_mark()
            _as(list, stack[-1]).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if opcode == "SETITEM" else self._since_mark()
            _as(dict, stack[-1]).update(zip(map(_key, items[::2]), items[1::2], strict=True))
        elif opcode == "REDUCE":
            stack.append(_made(*self._pop(2)))
        elif opcode == "BUILD":
            (state,) = self._pop(1)
            _fill(stack[-1], state)
        else:
            raise UserError(f"holds {opcode}, which no batch of CIFAR-10 needs: it was not opened.")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("it takes more than there is")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        taken: list[Any] = []
        while not isinstance(last := self.stack.pop(), _Mark):
            taken.append(last)
        return taken[::-1]


def _as(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} is no {kind.__name__}")
    return value


def _key(value: Any) -> str:
    key: str = _as(str, value)  # deeply nested tuples would crash Python when they are hashed
    return key


def _made(name: Any, arguments: Any) -> Any:
    """The stand-in of a type of numbers, or of an array."""
    if name == _Name("numpy dtype") and arguments == NEW_BYTES:
        return BYTES
    if name == _Name("numpy.core.multiarray _reconstruct") and arguments == NEW_ARRAY:
        return _Array()
    raise UserError(
        "asks for an array other than of bytes, which no batch of CIFAR-10 has: it was not opened."
    )


def _fill(made: Any, state: Any) -> None:
    """Give an array its values; a type of numbers has none, and its state must be the known one."""
    if made is BYTES and state == BYTES_STATE:
        return
    if isinstance(made, _Array) and type(state) is tuple and len(state) == 5:
        version, shape, kind, by_columns, values = state
        sizes = type(shape) is tuple and len(shape) == 2 and all(type(size) is int for size in shape)
        if version == 1 and sizes and kind is BYTES and by_columns is False and type(values) is str:
            rows, columns = shape
            if rows >= 0 and columns >= 0 and rows * columns == len(values):
                made.values = np.frombuffer(values.encode("latin1"), np.uint8).reshape(rows, columns)
                return
    raise UserError("holds an array other than (N, M) of bytes, or cut short: it was not opened.")
