"""How a run of `train_ppo.py env=latent_denoise` ends: images, and figures beside two references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from agents.base import Agent
from agents.denoise_rollout import generate
from agents.learners.batch_ppo import minibatch
from conf.schema.agents import (
    ActorCriticConfig,
    DecisionTransformerConfig,
    MpoConfig,
    PPOConfig,
    ReinforceConfig,
)
from conf.schema.envs import LearnerDefaults
from conf.schema.runs import AgentRun
from latent_common.artifacts import load_artifact, save_artifact, write_atomically, write_json
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.sample_features import SampleClassifier
from latent_env.autoencoders.sampling import draw_latents
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.training.diffusion import Diffusion, train_diffusion
from latent_env.denoise.training.sample_evaluation import (
    evaluate_images,
    predicted,
    train_labelled_classifier,
)
from latent_env.rendering import class_grid, stack
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.context import Job
from stages.denoise.classes import Classes, SpaceAt
from stages.seeds import derived_seed

JUDGE_STEPS, JUDGE_BATCH, JUDGE_RATE = 800, 64, 3e-3
DIFFUSION_RATE = 2e-3
STRIPS = 6
CONCLUSION = 2
"""Sets the random numbers of the conclusion apart from others."""

ARTIST, UNTRAINED, DIFFUSION, PRIOR, REAL = "artist", "untrained", "diffusion", "prior", "real"
COLUMNS = {
    "accuracy": "class accuracy",
    "frechet": "Fréchet distance",
    "diversity": "diversity",
    "quality": "critic's quality",
    "return": "mean return",
}


def learned(
    run: Run,
    name: str,
    model: nn.Module,
    steps: int,
    rate: float,
    seed: int,
    train: Callable[..., Iterator[Progress]],
) -> None:
    """Train ``model`` in place with ``train(state)``, unless the folder of the run has it already."""
    part = run.part(name)
    if (part.path / f"{name}.json").is_file():
        tensors, _ = load_artifact(part.path, name, name)
        model.load_state_dict(tensors)
        model.requires_grad_(False).eval()
        return
    part.begin()
    state = TrainingState(model, rate, steps, seed)
    follow(part, name, train(state), state)
    save_artifact(part.path, name, name, model.state_dict(), {"steps": steps})


def budget(job: Job[AgentRun]) -> tuple[int, int, list[int]]:
    """The gradient steps of the learning agent, the batch size of each, and the layers of its network.

    For agents that don't learn, those of the PPO that would.
    """
    agent, env = job.config.agent, job.config.env
    worlds, hidden = env.num_envs, list(getattr(agent, "hidden", [128, 128]))
    match agent:
        case MpoConfig() | DecisionTransformerConfig():
            updates = agent.total_steps // (agent.n_steps * worlds)
            return max(updates * agent.gradient_steps, 1), agent.batch_size, hidden
        case ReinforceConfig() | ActorCriticConfig():  # one step of the policy from a whole rollout
            rollout = agent.n_steps * worlds
            return math.ceil(agent.total_steps / rollout), max(rollout, 2), hidden
    learner: PPOConfig | LearnerDefaults = agent if isinstance(agent, PPOConfig) else env.recommended
    rollout = learner.n_steps * worlds
    batch = minibatch(rollout, agent.batch_size if isinstance(agent, PPOConfig) else None)
    updates = math.ceil(learner.total_steps / rollout)
    return updates * learner.n_epochs * (rollout // batch), max(batch, 2), hidden


def train_references(
    job: Job[AgentRun], run: Run, classes: Classes, place: SpaceAt, dynamics: DenoiseDynamics
) -> tuple[SampleClassifier, Diffusion]:
    """The classifier that judges, and the diffusion model that is trained by regression."""
    seed, count = job.config.seed, len(classes.names)
    images, labels = classes.train
    member = job.build(lambda: SampleClassifier(job.dataset.channels, count)).to(job.device)
    steps, batch, hidden = budget(job)
    shape = tuple(place.space.latent_shape)
    model = job.build(lambda: Diffusion(shape, count, hidden)).to(job.device)
    states, _ = classes.training(place)
    wanted = dynamics.world.one_hot(labels) * float(dynamics.conditional)
    learned(
        run, "judge", member, JUDGE_STEPS, JUDGE_RATE, seed,
        lambda state: train_labelled_classifier(state, member, images, labels, JUDGE_BATCH),
    )  # fmt: skip
    learned(
        run, "diffusion", model, steps, DIFFUSION_RATE, seed,
        lambda state: train_diffusion(state, model, dynamics.process, states, wanted, batch),
    )  # fmt: skip
    return member, model


@torch.inference_mode()
def referred(
    job: Job[AgentRun], place: SpaceAt, dynamics: DenoiseDynamics, model: Diffusion, classes: Tensor
) -> dict[str, Tensor]:
    """States ``(N, *shape)`` of the diffusion model for ``classes (N,)``, and random draws of the prior."""
    generator = torch.Generator().manual_seed(derived_seed(job.config.seed, CONCLUSION, 1))
    world, space = dynamics.world, place.space
    noise = torch.randn(len(classes), *space.latent_shape, generator=generator).to(world.states)
    wanted = world.one_hot(classes) * float(dynamics.conditional)
    drawn = noise
    if isinstance(space, FrozenAutoencoder):
        drawn = draw_latents(space, len(classes), generator)
    sampled = model.sample(noise, wanted, dynamics.process, dynamics.horizon)
    return {DIFFUSION: sampled, PRIOR: drawn}


def conclude_denoising(
    job: Job[AgentRun],
    run: Run,
    classes: Classes,
    place: SpaceAt,
    agents: tuple[Agent, Agent],
    dynamics: DenoiseDynamics,
) -> None:
    """Judge what ``agents``, the run's own and an untrained one, make, and write it all down."""
    member, model = train_references(job, run, classes, place, dynamics)
    real, real_classes = classes.held_out(job.device)
    seed = derived_seed(job.config.seed, CONCLUSION)
    made: dict[str, tuple[Tensor, Tensor]] = {}
    figures: dict[str, dict[str, float]] = {}
    for name, agent in zip((UNTRAINED, ARTIST), agents[::-1], strict=True):
        painted = generate(dynamics, agent, job.config.samples, seed)
        made[name] = painted.states, painted.classes
        figures[name] = {
            "return": float(painted.returns.mean()),
            "steps": float(painted.steps.double().mean()),
        }
    show_strips(run, dynamics, agents[0], seed)
    asked = made[ARTIST][1]
    made |= {name: (states, asked) for name, states in referred(job, place, dynamics, model, asked).items()}
    made[REAL] = dynamics.world.states, dynamics.world.labels
    for name, (states, wanted) in made.items():
        images = dynamics.world.images.float() / 255 if name == REAL else place.space.decode_all(states)
        given = dynamics.world.one_hot(wanted) * float(dynamics.conditional)
        with torch.inference_mode():
            quality = {"quality": float(dynamics.reward.critic(states, given).mean())}
        # Without a class to ask for, an image is of the one that is seen in it.
        meant = wanted if dynamics.conditional or name == REAL else predicted(member, images)
        found = evaluate_images(member, images, meant, real, real_classes)
        figures[name] = {**found, **quality, **figures.get(name, {})}
        run.picture(f"images/{name}", class_grid(images, meant, classes.names))
    write_denoising(job, run, figures)


def show_strips(run: Run, dynamics: DenoiseDynamics, agent: Agent, seed: int) -> None:
    """Some episodes, from noise to image."""
    generate(dynamics, agent, 1, seed)
    count = min(STRIPS, dynamics.num_worlds)
    run.picture("strips", stack([dynamics.picture(world) for world in range(count)]))


def write_denoising(job: Job[AgentRun], run: Run, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Write ``report.json``, ``report.md`` and the metrics, which declares the run whole."""
    config = job.config
    steps, _, hidden = budget(job)
    words = {
        ARTIST: f"agent {config.agent.name}",
        UNTRAINED: "its untrained policy",
        DIFFUSION: "plain diffusion",
        PRIOR: "random prior samples",
        REAL: "real training images",
    }
    lines = [f"| images | {' | '.join(COLUMNS.values())} |", f"|{' --- |' * (len(COLUMNS) + 1)}"]
    for name, word in words.items():
        row = [f"{figures[name][key]:.3f}" if key in figures[name] else "" for key in COLUMNS]
        lines.append(f"| {word} | {' | '.join(row)} |")
    own, plain = figures[ARTIST], figures[DIFFUSION]
    text = (
        f"# Images of {job.dataset.name}\n\n"
        f"agent {config.agent.name}, {config.rounds} rounds, seed {config.seed}; {own['steps']:.1f} of "
        f"{config.env.horizon} steps an image\n\n" + "\n".join(lines) + "\n\n"
        f"Its class accuracy is {own['accuracy'] / max(plain['accuracy'], 1e-9):.2f} of that of the\n"
        f"diffusion model, which was trained by regression in {steps} steps with hidden layers of {hidden}.\n"
        "Accuracy, Fréchet distance to test images and diversity (1: images of a class differ as much as\n"
        "real ones) are in the eyes of a classifier trained on the same training images.\n"
    )
    write_atomically(run.path / "report.md", text.encode())
    write_json(
        run.path / "report.json", {"figures": figures, "dataset": job.dataset.name, "seed": config.seed}
    )
    metrics = {f"{name}_{key}": value for name, found in figures.items() for key, value in found.items()}
    run.finish(metrics)
