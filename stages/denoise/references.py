"""What generated images are compared by and with: a classifier, and a diffusion model of equal budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.learners.batch_ppo import minibatch
from conf.schema.agents import (
    ActorCriticConfig,
    AgentConfig,
    DecisionTransformerConfig,
    MpoConfig,
    PPOConfig,
    ReinforceConfig,
    UntrainedConfig,
)
from conf.schema.envs import DenoiseEnvConfig, LearnerDefaults
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.sample_features import SampleClassifier
from latent_env.autoencoders.sampling import draw_latents
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.training.diffusion import Diffusion, train_diffusion
from latent_env.denoise.training.sample_evaluation import train_labelled_classifier
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.context import Context
from stages.denoise.classes import Classes
from stages.denoise.spaces import StoredSpace

CLASSIFIER_STEPS, CLASSIFIER_BATCH, CLASSIFIER_RATE = 800, 64, 3e-3
DIFFUSION_RATE = 2e-3
DEFAULT_HIDDEN = [128, 128]


class Budget(NamedTuple):
    """What a learner spends on its policy."""

    steps: int
    """Gradient steps."""
    batch: int
    """Environment steps that each gradient step learns from."""
    hidden: list[int]
    """Layers of the network."""


@singledispatch
def budget(agent: AgentConfig, env: DenoiseEnvConfig) -> Budget:
    """The budget of ``agent``; for agents that don't learn, that of PPO with the environment's defaults."""
    hidden = agent.hidden if isinstance(agent, UntrainedConfig) else DEFAULT_HIDDEN
    return _ppo_budget(env.recommended, env.num_envs, None, list(hidden))


@budget.register
def _(agent: PPOConfig, env: DenoiseEnvConfig) -> Budget:
    return _ppo_budget(agent, env.num_envs, agent.batch_size, list(agent.hidden))


@budget.register
def _(agent: MpoConfig | DecisionTransformerConfig, env: DenoiseEnvConfig) -> Budget:
    updates = agent.total_steps // (agent.n_steps * env.num_envs)
    return Budget(max(updates * agent.gradient_steps, 1), agent.batch_size, list(agent.hidden))


@budget.register
def _(agent: ReinforceConfig | ActorCriticConfig, env: DenoiseEnvConfig) -> Budget:
    rollout = agent.n_steps * env.num_envs  # one gradient step of the policy learns from all of it
    return Budget(math.ceil(agent.total_steps / rollout), max(rollout, 2), list(agent.hidden))


def _ppo_budget(
    learner: PPOConfig | LearnerDefaults, worlds: int, batch_size: int | None, hidden: list[int]
) -> Budget:
    rollout = learner.n_steps * worlds
    batch = minibatch(rollout, batch_size)
    updates = math.ceil(learner.total_steps / rollout)
    return Budget(updates * learner.n_epochs * (rollout // batch), max(batch, 2), hidden)


def train_classifier(context: Context, run: Run, classes: Classes) -> SampleClassifier:
    """A classifier of the training images: what generated images are measured with."""
    images, labels = classes.train
    channels = classes.images.shape[1]
    model = context.build(lambda: SampleClassifier(channels, len(classes.names))).to(context.device)
    train = lambda state: train_labelled_classifier(state, model, images, labels, CLASSIFIER_BATCH)  # noqa: E731
    _trained(run, "classifier", model, CLASSIFIER_STEPS, CLASSIFIER_RATE, context.seed, train)
    return model


def train_diffusion_model(
    context: Context,
    run: Run,
    classes: Classes,
    space: StoredSpace,
    dynamics: DenoiseDynamics,
    spent: Budget,
) -> Diffusion:
    """A diffusion model trained by regression, with the budget of the agent."""
    shape = tuple(space.space.latent_shape)
    model = context.build(lambda: Diffusion(shape, len(classes.names), spent.hidden)).to(context.device)
    states, labels = classes.training(space)
    wanted = dynamics.world.one_hot(labels) * float(dynamics.conditional)
    train = lambda state: train_diffusion(state, model, dynamics.process, states, wanted, spent.batch)  # noqa: E731
    _trained(run, "diffusion", model, spent.steps, DIFFUSION_RATE, context.seed, train)
    return model


def _trained(
    run: Run,
    name: str,
    model: nn.Module,
    steps: int,
    rate: float,
    seed: int,
    train: Callable[[TrainingState], Iterator[Progress]],
) -> None:
    """Train ``model`` in place, unless the folder of the run has it already."""
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
    part.forget_checkpoint()


@torch.inference_mode()
def reference_states(
    space: StoredSpace, dynamics: DenoiseDynamics, model: Diffusion, classes: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """States ``(N, *shape)`` of the diffusion model for ``classes (N,)``, and random draws of the prior."""
    generator = torch.Generator().manual_seed(seed)
    world, shape = dynamics.world, space.space.latent_shape
    noise = torch.randn(len(classes), *shape, generator=generator).to(world.states)
    wanted = world.one_hot(classes) * float(dynamics.conditional)
    drawn = noise
    if isinstance(space.space, FrozenAutoencoder):
        drawn = draw_latents(space.space, len(classes), generator)
    return model.sample(noise, wanted, dynamics.process, dynamics.horizon), drawn
