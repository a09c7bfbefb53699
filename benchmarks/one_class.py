"""One class as normal, all others as anomalies: four forms of autoencoder against the published figures.

Every form is trained on the normal images of one class at a time, for several seeds, and finds anomalies by
its reconstruction error. Two mixes of the official test split are reported: all of it (one against the rest),
and all of its normal images with so many anomalies that they make 30 %, as the published figures have it.
Nothing is chosen by the test split. What is trained is kept: the same command goes on where it was stopped.
For example

  python -m benchmarks.one_class --data /data --out results/one_class
  python -m benchmarks.one_class --datasets digits --quick --out results/look
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from benchmarks.asking import asked, asking
from benchmarks.augmentation.records import commit
from benchmarks.one_class_report import SHARE, Row, known_rows, write_report
from conf.schema.detectors import ReconstructionConfig
from conf.schema.runs import DetectorRun
from detectors.metrics import image_AUROC
from detectors.reconstruction import ReconstructionDetector
from detectors.training.loop import score
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.data.placement import StreamedImages
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.autoencoder.memory import MemoryPlan
from stages.cli.choices import CONF
from stages.context import Job, start_job
from stages.detector.stage import detector_settings
from stages.job_of import autoencoder_plan

FORMS = ("ae", "vae", "memae", "memvae")
DATASETS = ("mnist", "cifar10", "digits")

SHORT = ("autoencoder.width=16", "autoencoder.steps=1200")
"""About half a minute of a CPU core."""

RECIPES = {
    "mnist": (*SHORT, "autoencoder.latent_size=32"),
    "cifar10": (
        *SHORT,
        "autoencoder.latent=flat",
        "autoencoder.latent_size=64",
        "dataset.recommended.prototypes=8192",  # all images, as on the other data sets with flat latents
    ),
}
"""What all forms have in common. A memory makes good use of a latent large enough to copy anything.
On CIFAR-10 the data set's own choice, a fine spatial latent, copies every image, with a memory or without."""

QUICK = ("autoencoder.steps=60", "autoencoder.width=8")
QUICK_CLASSES, QUICK_LIMIT = 2, 300

DRAWS = 20
"""So many draws of the anomalies for the 30 % mix are averaged: one alone is luck."""


@dataclass(frozen=True)
class Case:
    """One training."""

    dataset: str
    normal: int
    form: str
    seed: int

    def overrides(self, options: argparse.Namespace) -> list[str]:
        """The keys of train_detector.py that make it."""
        listed = f"[{self.normal}]" if self.dataset == "digits" else str(self.normal)
        return [
            f"dataset={self.dataset}",
            f"dataset.normal={listed}",
            f"autoencoder={self.form}",
            "detector=reconstruction",
            f"seed={self.seed}",
            f"data_root={options.data}",
            f"prepared={options.prepared or options.out / 'prepared'}",
            f"runs={options.out / 'runs'}",
            *(key for key in options.keys if of_machine(key)),
            *self.keys(options),
        ]

    def keys(self, options: argparse.Namespace) -> list[str]:
        """Those of them that say how it is trained."""
        keys = list(RECIPES.get(self.dataset, ()))
        if options.quick:
            keys += QUICK
            if self.dataset != "digits":  # which is small, and has no such key
                keys.append(f"dataset.limit={QUICK_LIMIT}")
        # A form without a memory stays without one, whatever is said of all of them.
        own = [key for key in options.keys if "mem" in self.form or not key.startswith("autoencoder.items=")]
        return [*keys, *(key for key in own if not of_machine(key))]


def of_machine(key: str) -> bool:
    """Whether a key says where something is trained, not how."""
    return key.startswith(("threads=", "device="))


def cases(options: argparse.Namespace) -> list[Case]:
    """All trainings, in the order in which they are done."""
    classes = options.classes[:QUICK_CLASSES] if options.quick else options.classes
    seeds = 1 if options.quick else options.seeds
    return [
        Case(dataset, normal, form, seed)
        for seed in range(seeds)
        for dataset in options.datasets
        for normal in classes
        for form in options.forms
    ]


def job_of(case: Case, options: argparse.Namespace) -> Job[DetectorRun]:
    """What train_detector.py would do for one case."""
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return start_job(compose("train_detector", case.overrides(options)), DetectorRun)


def run_of(job: Job[DetectorRun]) -> Run:
    """The folder of a training."""
    return job.run("one_class", job.config.autoencoder.name, detector_settings(job))


def train_and_score(job: Job[DetectorRun], run: Run) -> None:
    """Train the autoencoder and keep its scores of the test split; pictures are train_ae.py's affair."""
    plan, detector = autoencoder_plan(job), job.config.detector
    assert isinstance(plan, MemoryPlan)
    assert isinstance(detector, ReconstructionConfig)
    run.begin()
    model = plan.untrained()
    state, training = plan.start_training(model)
    follow(run, "autoencoder", training, state)
    test = job.dataset.test
    error = ReconstructionDetector(model.channels, model.size, detector.position_wise, detector.pooled)
    if detector.position_wise:
        error.fit(job.train_images, model)
    source = StreamedImages(test.images, job.device)
    found = score(error.to(job.device), lambda x: (x, model(x)), source, model.size, keep_maps=False)
    run.finish(both_mixes(found.score.numpy(), test.labels))


def both_mixes(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """AUROC on all test images, and the mean of it over mixes with 30 % anomalies."""
    normal, abnormal = scores[labels == 0], scores[labels == 1]
    count = min(round(SHARE / (1 - SHARE) * len(normal)), len(abnormal))
    mixed = np.repeat([0, 1], [len(normal), count])
    rng = np.random.default_rng(0)
    draws = [
        image_AUROC(np.concatenate([normal, rng.choice(abnormal, count, replace=False)]), mixed)
        for _ in range(DRAWS)
    ]
    return {"one_against_rest": image_AUROC(scores, labels), "mix": float(np.mean(draws))}


def measure(options: argparse.Namespace) -> None:
    """The figures of every case, trained now or before; written down after each.

    What ``one_class.json`` knows stays in the report, and isn't trained again with the same keys.
    """
    wanted = cases(options)
    rows = {case_of(row): row for row in known_rows(options.out, options.quick)}
    with progress_bar("trainings", len(wanted)) as bar:
        for number, case in enumerate(wanted, start=1):
            if rows.get(case, {}).get("keys") != case.keys(options):
                job = job_of(case, options)
                run = run_of(job)
                if not run.complete:
                    train_and_score(job, run)
                made = {"keys": case.keys(options), "commit": commit()}
                rows[case] = {**asdict(case), **run.metrics, **made}
            facts = {"command": options.command, "quick": options.quick, "missing": len(wanted) - number}
            write_report(options.out, list(rows.values()), facts)
            bar.update()


def case_of(row: Row) -> Case:
    """The training that a row of the report tells of."""
    return Case(str(row["dataset"]), int(row["normal"]), str(row["form"]), int(row["seed"]))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = asking("benchmarks.one_class", __doc__, "train_detector", "for all cases", out="results/one_class")
    made.add_argument("--prepared", type=Path, help="where prepared images are kept (default: below --out)")
    made.add_argument("--datasets", nargs="+", choices=DATASETS, default=["mnist", "cifar10"])
    made.add_argument("--classes", nargs="+", type=int, choices=range(10), default=list(range(10)))
    made.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    made.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    made.add_argument("--quick", action="store_true", help="two classes, one seed, hardly trained: a look")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    with asked(parser(), arguments) as options:
        if options.seeds < 1:
            raise UserError(f"--seeds {options.seeds} must be at least 1")
        measure(options)
        print((options.out / "one_class.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
