"""detector=rdna against itself without discriminators, and against the transformer, over several seeds.

All of them learn from the same normal images and the same kinds of synthetic anomalies, take as many steps on
batches of the same size, and are scored once, on the test split, when they are done. Nothing is chosen by it.
The setting is small by default, for two CPU cores; --full is 256 pixels and the full width, for a GPU. What
is trained is kept: the same command goes on where it was stopped. For example

  python -m benchmarks.rdna --data /data --out results/rdna
  python -m benchmarks.rdna --data /data --out results/rdna_full --full --datasets bottle
  python -m benchmarks.rdna --datasets phantom --quick --out results/look
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from benchmarks.asking import asked, asking
from benchmarks.augmentation.records import commit
from benchmarks.augmentation.tables import DATASETS, Data
from benchmarks.rdna_report import Outcome, Setting, write_report
from conf.schema.detectors import TrainedConfig
from conf.schema.runs import DetectorRun
from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.training.evaluation import evaluate_test, log_evaluation
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector, save_detector
from latent_env.worlds.world import World
from stages.cli.choices import CONF
from stages.context import Job, start_job
from stages.detector.stage import autoencoder_and_features, detector_settings, rehearse_detector
from stages.detector.training import train_single_detector

ADVERSARIAL = "detector.adversarial_weight="

RDNA, PLAIN, TRANSFORMER = "rdna", "without discriminators", "transformer"

ARMS: dict[str, tuple[str, ...]] = {
    RDNA: ("detector=rdna",),
    PLAIN: ("detector=rdna", f"{ADVERSARIAL}0"),
    TRANSFORMER: ("detector=transformer",),
}

SETTINGS = {
    "reduced": Setting(
        "64 pixels, small width, for two CPU cores",
        ("dataset.size=64", "detector.steps=1500", "detector.batch_size=16"),
        ("detector.width=16",),
    ),
    "full": Setting(
        "256 pixels, full width, for a GPU",
        ("dataset.size=256", "detector.steps=20000", "detector.batch_size=16"),
        ("detector.width=64", "detector.learning_rate=3e-4"),
    ),
    "quick": Setting(
        "32 pixels and hardly trained: a look, its figures say nothing about the detectors",
        ("dataset.size=32", "detector.steps=6", "detector.batch_size=4", "autoencoder.steps=6"),
        ("detector.width=8",),
    ),
}
SCORES = "scores.npz"


@dataclass(frozen=True)
class Case:
    """One training."""

    dataset: str
    arm: str
    seed: int

    def overrides(self, options: argparse.Namespace) -> list[str]:
        """The keys of train_detector.py that make it."""
        data, setting = DATASETS[self.dataset], SETTINGS[options.setting]
        own = () if self.arm == TRANSFORMER else setting.of_rdna
        # The others stay without discriminators, whatever is said of all.
        given = [key for key in options.keys if self.arm == RDNA or not key.startswith(ADVERSARIAL)]
        return [
            *data.overrides,
            *ARMS[self.arm],
            f"seed={self.seed}",
            "track=one_class",  # what is published learns from no anomaly
            "detector.baselines=[]",
            *setting.of_all,
            *own,
            f"data_root={options.data / (data.root or '.')}",
            f"prepared={options.prepared or options.out / 'prepared'}",
            f"runs={options.out / 'runs'}",
            *given,
        ]


def cases(options: argparse.Namespace) -> list[Case]:
    """All trainings, in the order in which they are done: whole comparisons first."""
    seeds = range(1 if options.setting == "quick" else options.seeds)
    sets, arms = options.datasets, options.arms
    return [Case(dataset, arm, seed) for seed in seeds for dataset in sets for arm in arms]


def job_of(case: Case, options: argparse.Namespace) -> Job[DetectorRun]:
    """What train_detector.py would do for one case."""
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return start_job(compose("train_detector", case.overrides(options)), DetectorRun)


def run_of(job: Job[DetectorRun]) -> Run:
    """The folder of a training."""
    return job.run("rdna", job.config.detector.name, detector_settings(job))


def train_and_score(job: Job[DetectorRun], run: Run) -> None:
    """Train the detector, unless an earlier command got that far, and keep its scores of the test split."""
    config = job.config.detector
    assert isinstance(config, TrainedConfig)
    rehearse_detector(job)
    run.begin()
    autoencoder, features = autoencoder_and_features(job)
    if not (run.path / "detector.json").is_file():
        save_detector(run.path, train_single_detector(job, run, autoencoder, features, "detector"))
    detector = load_detector(run.path)
    world = World.build(autoencoder, detector, job.train_images[:1], job.device)
    evaluation = evaluate_test(world, features)
    log_evaluation(run, evaluation, world.show, job.device, config.steps)
    buffer = io.BytesIO()
    np.savez(buffer, scores=evaluation.scores, labels=evaluation.split.labels)
    write_atomically(run.path / SCORES, buffer.getvalue())
    run.finish(evaluation.metrics)


def outcome_of(case: Case, run: Run) -> Outcome:
    """What a finished training came to."""
    try:
        with np.load(run.path / SCORES, allow_pickle=False) as held:
            scores, labels = held["scores"], held["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{run.path / SCORES} is damaged ({error}): delete its folder") from error
    return Outcome(case.dataset, case.arm, case.seed, run.metrics, scores, labels)


def measure(options: argparse.Namespace) -> None:
    """The outcome of every case, trained now or before; written down after each."""
    wanted = cases(options)
    outcomes: list[Outcome] = []
    with progress_bar("trainings", len(wanted)) as bar:
        for case in wanted:
            job = job_of(case, options)
            run = run_of(job)
            if not run.complete:
                train_and_score(job, run)
            outcomes.append(outcome_of(case, run))
            facts = {"command": options.command, "commit": commit(), "keys": list(options.keys)}
            write_report(options.out, outcomes, len(wanted), SETTINGS[options.setting], facts)
            bar.update()


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = asking("benchmarks.rdna", __doc__, "train_detector", "for all cases", out="results/rdna")
    made.add_argument("--prepared", type=Path, help="where prepared images are kept (default: below --out)")
    made.add_argument("--datasets", nargs="+", choices=DATASETS, default=["bottle", "magnetic_tile"])
    made.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    made.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    size = made.add_mutually_exclusive_group()
    for name in ("full", "quick"):
        help_text = SETTINGS[name].about
        size.add_argument(f"--{name}", dest="setting", action="store_const", const=name, help=help_text)
    made.set_defaults(setting="reduced")
    return made


def check_found(data: Data, name: str, folder: Path) -> None:
    """Complain about a data set that isn't there, before another is trained on for hours."""
    if data.needs is not None and not (folder / data.needs).is_dir():
        raise UserError(f"{name}: {folder / data.needs} is missing: name the folder above it with --data")


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the report."""
    with asked(parser(), arguments) as options:
        if options.seeds < 1:
            raise UserError(f"--seeds {options.seeds} must be at least 1")
        for name in options.datasets:
            check_found(DATASETS[name], name, options.data)
        measure(options)
        print((options.out / "RESULTS.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
