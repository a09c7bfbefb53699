"""`latent-aug app`: what it is called with, and what it needs before a page can be shown."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from latent_common.errors import UserError
from latent_common.progress import say
from stages.cli.options import Parser, add_machine, add_run, check_threads

INSTALL = "`pip install 'latent-aug[app]'` installs what it takes"

LOOPBACK, PORT = "127.0.0.1", 7860

MOST_PORTS = 65535

ABOUT = """\
examples:
  latent-aug app phantom
  latent-aug app runs
  latent-aug app runs/mine/agent/ppo-1a2b3c4d5e --port 8000

The page has three tabs:
  Inspect   drop images: score, p-value, verdict and heat map; a slider for false alarms shows what it would
            do on validation images
  Play      the numbers of an action as sliders, and at once what it makes of a normal image, what the
            detector says of that, and every term of the reward
  Samples   what the agent made: keep or reject each (kept.json in the run's folder), and export those kept

It listens on this machine alone, sends nothing anywhere, and removes what was dropped when it ends.
Whoever can reach --host can use it: there is no password.

exit code: 0, also after Ctrl-C; 2 if there is nothing to show.
"""


@dataclass(frozen=True)
class Options:
    """The arguments, checked."""

    run: str
    host: str
    port: int
    device: str
    threads: int


def make_parser() -> Parser:
    """The parser of the command line, for its help and for shells."""
    parser = Parser("app", "Look at a finished run in a browser.", ABOUT)
    add_run(parser)
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen on (default %(default)s)")
    parser.add_argument(
        "--port", type=int, default=PORT, help="0 takes one that is free (default %(default)s)"
    )
    add_machine(parser)
    return parser


def read_options(arguments: list[str]) -> Options:
    """The options that ``arguments`` give; what makes no sense is a ``UserError``."""
    given = make_parser().parse_args(arguments)
    if not 0 <= given.port <= MOST_PORTS:
        raise UserError(f"--port {given.port} must lie from 0 to {MOST_PORTS}")
    check_threads(given.threads)
    return Options(given.run, given.host, given.port, given.device, given.threads)


def app(arguments: list[str]) -> int:
    """Serve the page until Ctrl-C; the exit code.

    :raises UserError: for a user's mistake, and where Gradio isn't installed.
    """
    options = read_options(arguments)
    if find_spec("gradio") is None:
        raise UserError(f"latent-aug app needs Gradio, which isn't installed: {INSTALL}")
    import torch

    from stages.app.opened import find_run, open_run

    folder = find_run(options.run)
    say(f"opening {folder}")
    torch.set_num_threads(options.threads)
    run = open_run(folder, options.device)
    from stages.app.server import serve  # imports Gradio, which takes seconds

    serve(run, options.host, options.port)
    return 0
