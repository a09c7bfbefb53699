"""How good generated images are: figures beside references and real images, and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.base import Agent
from agents.denoise_rollout import generate
from conf.schema.envs import DenoiseEnvConfig
from conf.schema.runs import AgentRun
from latent_common.artifacts import write_atomically, write_json
from latent_common.tables import markdown_table
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.training.sample_evaluation import evaluate_images, predicted
from latent_env.rendering import class_grid, stack
from latent_env.training.run_folder import Run
from stages.context import Context
from stages.denoise.classes import Classes
from stages.denoise.page import write_generator_page
from stages.denoise.references import (
    Budget,
    budget,
    reference_states,
    train_classifier,
    train_diffusion_model,
)
from stages.denoise.spaces import StoredSpace
from stages.seeds import derived_seed

STRIPS = 6
EVALUATION = 2
"""Keeps the random numbers of the evaluation apart from others."""

AGENT, UNTRAINED, DIFFUSION, PRIOR, REAL = "agent", "untrained", "diffusion", "prior", "real"
COLUMNS = {
    "accuracy": "class accuracy",
    "frechet": "Fréchet distance",
    "diversity": "diversity",
    "quality": "critic's quality",
    "return": "mean return",
}
SOURCES = {
    AGENT: "agent",
    UNTRAINED: "its untrained policy",
    DIFFUSION: "plain diffusion",
    PRIOR: "random prior samples",
    REAL: "real training images",
}
"""What each source of images is for people."""

Figures = dict[str, dict[str, float]]
"""By the source of images and the metric."""


@dataclass(frozen=True)
class Images:
    """What some source of images made."""

    states: Tensor
    """``(N, *shape)``"""
    classes: Tensor
    """``(N,)``: the classes that were asked for."""


def write_evaluation(
    config: AgentRun,
    env: DenoiseEnvConfig,
    context: Context,
    run: Run,
    classes: Classes,
    space: StoredSpace,
    agents: tuple[Agent, Agent],
    dynamics: DenoiseDynamics,
) -> None:
    """Measure the images of ``agents``, the run's own and an untrained one, and write the report.

    Nothing of a run reads test images before.
    """
    spent = budget(config.agent, env)
    classifier = train_classifier(context, run, classes)
    diffusion = train_diffusion_model(context, run, classes, space, dynamics, spent)
    real, real_classes = classes.held_out(context.device)
    seed = derived_seed(context.seed, EVALUATION)
    made: dict[str, Images] = {}
    figures: Figures = {}
    for name, agent in zip((UNTRAINED, AGENT), agents[::-1], strict=True):
        generated = generate(dynamics, agent, config.samples, seed)
        made[name] = Images(generated.states, generated.classes)
        figures[name] = {
            "return": float(generated.returns.mean()),
            "steps": float(generated.steps.double().mean()),
        }
    show_strips(run, dynamics, agents[0], seed)
    asked = made[AGENT].classes
    reference_seed = derived_seed(context.seed, EVALUATION, 1)
    sampled, drawn = reference_states(space, dynamics, diffusion, asked, reference_seed)
    made |= {DIFFUSION: Images(sampled, asked), PRIOR: Images(drawn, asked)}
    made[REAL] = Images(dynamics.world.states, dynamics.world.labels)
    for name, each in made.items():
        pixels = dynamics.world.images.float() / 255 if name == REAL else space.space.decode_all(each.states)
        # Without a class to ask for, an image counts as one of the class that the classifier predicts.
        known = dynamics.conditional or name == REAL
        meant = each.classes if known else predicted(classifier, pixels)
        measured = evaluate_images(classifier, pixels, meant, real, real_classes)
        figures[name] = {**measured, "quality": quality(dynamics, each), **figures.get(name, {})}
        run.picture(f"images/{name}", class_grid(pixels, meant, classes.names))
    write_report(config, env, run, classes.dataset, figures, spent)


@torch.inference_mode()
def quality(dynamics: DenoiseDynamics, made: Images) -> float:
    """The mean quality of images in the critic's estimate."""
    wanted = dynamics.world.one_hot(made.classes) * float(dynamics.conditional)
    return float(dynamics.reward.critic(made.states, wanted).mean())


def show_strips(run: Run, dynamics: DenoiseDynamics, agent: Agent, seed: int) -> None:
    """A picture of some episodes, from noise to image."""
    generate(dynamics, agent, 1, seed)
    count = min(STRIPS, dynamics.num_worlds)
    run.picture("strips", stack([dynamics.picture(world) for world in range(count)]))


def write_report(
    config: AgentRun, env: DenoiseEnvConfig, run: Run, dataset: str, figures: Figures, spent: Budget
) -> None:
    """Write ``report.json``, ``report.md``, ``report.html`` and the metrics: these complete the run."""
    own, plain = figures[AGENT], figures[DIFFUSION]
    about = (
        f"agent {config.agent.name}, {config.rounds} rounds, seed {config.seed}; {own['steps']:.1f} of "
        f"{env.horizon} steps an image"
    )
    names = {**SOURCES, AGENT: f"agent {config.agent.name}"}
    text = (
        f"# Images of {dataset}\n\n{about}\n\n{table(names, figures)}\n\n"
        f"The agent's class accuracy is {own['accuracy'] / max(plain['accuracy'], 1e-9):.2f} of that of the\n"
        f"diffusion model, which was trained by regression in {spent.steps} steps with hidden layers of "
        f"{spent.hidden}.\n"
        "Accuracy, Fréchet distance to test images and diversity (1: images of a class differ as much as\n"
        "real ones) are measured by a classifier that was trained on the same training images.\n"
    )
    write_atomically(run.path / "report.md", text.encode())
    write_json(run.path / "report.json", {"figures": figures, "dataset": dataset, "seed": config.seed})
    lead = (
        f"The class accuracy of the agent's images is {own['accuracy']:.3f}; plain diffusion, trained by "
        f"regression, has {plain['accuracy']:.3f}, and real images have {figures[REAL]['accuracy']:.3f}."
    )
    write_generator_page(run, dataset, about, lead, names, COLUMNS, figures, env.space)
    run.finish({f"{name}_{key}": value for name, found in figures.items() for key, value in found.items()})


def table(names: Mapping[str, str], figures: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of all sources of images, by their ``names``."""
    rows = [
        [text, *(f"{figures[name][key]:.3f}" if key in figures[name] else "" for key in COLUMNS)]
        for name, text in names.items()
    ]
    return markdown_table(["images", *COLUMNS.values()], rows)
