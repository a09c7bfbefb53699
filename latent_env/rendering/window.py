"""A window that shows one picture after another."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from PIL import Image

from latent_common.errors import UserError
from latent_env.rendering.tiles import Picture


def has_screen() -> bool:
    """Whether there seems to be a screen for a window, and Python has what opens one."""
    shown = sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY"))
    return shown and find_spec("_tkinter") is not None


class Window:
    """A window that shows one picture after another (render mode "human")."""

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError as error:
            raise UserError(
                "render_mode='human' needs Python's tkinter, which this Python was built without: "
                "install it (for example python3-tk) or use render_mode='rgb_array'"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(
                f"render_mode='human' needs a screen and found none ({error}): use render_mode='rgb_array'"
            ) from error
        self._root.title(title)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._photo: Any = None
        self._closed = False
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def show(self, picture: Picture) -> None:
        """Show ``picture (H, W, 3)`` uint8; does nothing once the user has closed the window."""
        if self._closed:
            return
        from PIL import ImageTk

        # Tk keeps no reference to a picture: without ours it would vanish at once.
        self._photo = ImageTk.PhotoImage(Image.fromarray(picture), master=self._root)
        self._label.configure(image=self._photo)
        self._root.update()

    def close(self) -> None:
        """Close the window."""
        if not self._closed:
            self._closed = True
            self._root.destroy()
