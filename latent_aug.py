"""All commands in one: ``latent-aug train``, ``predict``, ``export``, ``app`` and others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple


class Verb(NamedTuple):
    """One command of ``latent-aug``."""

    about: str
    """What ``--help`` says of it."""
    run: Callable[[list[str]], int]
    """Does it with the arguments that follow; returns the exit code."""


def main() -> None:
    """Do what the command line asks for."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help", "help", "--version"):
        from stages.cli.mistakes import quiet_when_unread

        with quiet_when_unread():
            print(version() if verb == "--version" else help_text())
        return
    if verb not in VERBS:
        print(f"latent-aug: {verb} is unknown: choose {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(VERBS[verb].run(arguments))


def version() -> str:
    """What ``--version`` prints."""
    from latent_env import __version__

    return __version__


def help_text() -> str:
    """What ``--help`` prints."""
    width = max(map(len, VERBS))
    verbs = [f"  {name:{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "Teach an agent to make the images that an anomaly detector is missing, and use the detector.",
            "",
            "usage: latent-aug <command> …",
            "",
            *verbs,
            "",
            "latent-aug <command> --help explains each. Examples:",
            "  latent-aug data folder dataset.root=mine            what is found, without training",
            "  latent-aug train dataset=folder dataset.root=mine   everything, with a comparison at the end",
            "  latent-aug runs                                     what was trained",
            "  latent-aug predict runs photos/ --out checked       verdicts of the newest detector",
            "  latent-aug export runs --onnx model.onnx            that detector as one file",
            "  latent-aug export runs --samples samples            what its agent made, with masks",
            "  latent-aug app runs                                 the newest run in a browser",
        ]
    )


DEMO = ["labelled.count=5", "labelled.folds=0", "mixture.compare_random=true"]
"""The keys of the demo: five labelled anomalies of the built-in data set, in three minutes."""


def train(arguments: list[str]) -> int:
    """What ``train_ppo.py`` does."""
    return _train("latent-aug train", arguments)


def demo(arguments: list[str]) -> int:
    """What ``make demo`` does: a built-in data set with five labelled anomalies, unless keys are given."""
    return _train("latent-aug demo", arguments or DEMO)


def _train(called: str, arguments: list[str]) -> int:
    import train_ppo
    from stages.cli.choices import call_as
    from stages.cli.launch import run_script

    call_as("train_ppo", called)
    sys.argv = [called, *arguments]
    run_script(train_ppo.main, "train_ppo", train_ppo.__doc__)
    return 0


def predict(arguments: list[str]) -> int:
    """Verdicts on images."""
    from stages.cli.mistakes import mistakes_told
    from stages.predict.command import predict

    with mistakes_told("predict"):
        return predict(arguments)


def export(arguments: list[str]) -> int:
    """What other programs use."""
    from stages.cli.mistakes import mistakes_told
    from stages.export.command import export

    with mistakes_told("export"):
        return export(arguments)


def data(arguments: list[str]) -> int:
    """What ``python -m stages.prepare`` does."""
    from stages import prepare
    from stages.cli.choices import call_as
    from stages.cli.launch import run_script

    call_as("prepare", "latent-aug data")
    sys.argv = ["latent-aug data", *prepare.with_dataset(arguments)]
    run_script(prepare.main, "prepare", prepare.__doc__)
    return 0


def runs(arguments: list[str]) -> int:
    """A table of runs."""
    from stages.cli.mistakes import mistakes_told
    from stages.cli.run_table import show_runs

    with mistakes_told("runs"):
        return show_runs(arguments)


def app(arguments: list[str]) -> int:
    """A page in a browser."""
    from stages.app.command import app
    from stages.cli.mistakes import mistakes_told

    with mistakes_told("app"):
        return app(arguments)


def completion(_: list[str]) -> int:
    """A script for shells."""
    from stages.cli.completion import script
    from stages.cli.mistakes import mistakes_told

    with mistakes_told("completion"):
        print(script(list(VERBS)), end="")
    return 0


VERBS = {
    "data": Verb("find and prepare a data set, and say what is in it", data),
    "train": Verb("train an autoencoder, a detector and an agent, and compare before with after", train),
    "runs": Verb("a table of what was trained", runs),
    "predict": Verb("say of images whether they are anomalies, and where", predict),
    "export": Verb("write a detector as one ONNX file, or samples with masks, for other programs", export),
    "app": Verb("look at a run in a browser: inspect images, play with actions, choose samples", app),
    "demo": Verb("all of it on a built-in data set, without images of your own", demo),
    "completion": Verb('for your shell: eval "$(latent-aug completion)" in .bashrc or .zshrc', completion),
}
"""All commands; each imports what it needs when it is called, so that ``--help`` is quick."""


if __name__ == "__main__":
    main()
