"""A run of `train_ppo.py` in LatentDenoise-v0: a critic, rounds of an agent that it rewards, an evaluation.

Every part is saved as soon as it is trained, so that a stopped command goes on where it was.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import set_random_seed

from agents.base import Agent
from agents.denoise_rollout import Generated, generate
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import LearnerConfig, UntrainedConfig
from conf.schema.envs import DenoiseEnvConfig
from conf.schema.runs import AgentRun
from latent_common.artifacts import copy_artifact
from latent_common.lock import LOCK, locked
from latent_common.progress import say
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.denoise.world import CRITIC, EXAMPLES, DenoiseWorld
from latent_env.training.run_folder import Run
from stages.agents.factory import make_agent
from stages.agents.learners import untrained_policy
from stages.agents.training import train_agent
from stages.context import Context
from stages.denoise.classes import Classes, find_classes
from stages.denoise.critic import CriticTrainer, new_critic, save_denoise_world
from stages.denoise.references import DEFAULT_HIDDEN
from stages.denoise.report import write_evaluation
from stages.denoise.spaces import StoredSpace, make_space, pixel_space
from stages.report.page import PAGE
from stages.seeds import LARGEST_SEED, derived_seed
from stages.training_data import TrainingData

SAMPLING = 1
"""Keeps the random numbers of sampling apart from those of learning."""


@dataclass(frozen=True)
class DenoisingExperiment:
    """An agent that generates images, and their evaluation; all was built once, untrained."""

    config: AgentRun
    env: DenoiseEnvConfig
    context: Context
    data: TrainingData
    classes: Classes

    @cached_property
    def space(self) -> StoredSpace:
        """The space that images are generated in; its autoencoder is trained now if none is stored."""
        return make_space(self.env, self.config.autoencoder, self.context, self.data)

    @cached_property
    def run(self) -> Run:
        """The folder of all results, complete or not."""
        name = self.config.agent.name
        return self.context.run_folder(self.data.dataset.name, "generator", name, self.settings())

    def perform(self) -> None:
        """Train what is missing, measure the agent's images, and write the report."""
        with self.run.claimed() as missing:
            if missing:
                self._make(self.run)
            else:
                say(f"generator: using {self.run.path}")
        self.export()

    def _make(self, run: Run) -> None:
        """Train critic and agent, and write the report, which completes the ``run``."""
        trainer = CriticTrainer(self.env, self.context, self.classes, self.space)
        world = trainer.first(self.data.dataset.name, self._shared_settings())
        run.begin()
        dynamics, agent = self.play_rounds(trainer, world)
        save_denoise_world(run.path, dynamics.world, self.env.space, self.space)
        dynamics.drawn = False  # however training episodes began: an evaluated image begins as pure noise
        agents = agent, self.untrained_agent(dynamics)
        write_evaluation(self.config, self.env, self.context, run, self.classes, self.space, agents, dynamics)

    def play_rounds(self, trainer: CriticTrainer, world: DenoiseWorld) -> tuple[DenoiseDynamics, Agent]:
        """Train the agent on the critic, and between rounds the critic on what the agent generated.

        What comes back are the worlds of the last round, and its agent.
        """
        steps = round(self.env.critic.steps * self.env.critic.refresh)
        for number in range(1, self.config.rounds + 1):
            dynamics = make_dynamics(self.config, self.env, world)
            agent, made = self.play_round(dynamics, number)
            if steps and number < self.config.rounds:
                part = self.run.part(f"round_{number}/critic")
                world = trainer.refreshed(part, world, steps, made)
        return dynamics, agent

    def play_round(self, dynamics: DenoiseDynamics, number: int) -> tuple[Agent, Generated]:
        """The trained agent of round ``number``, and some of the images that it generates."""
        config = self.config
        agent = make_agent(config.agent, dynamics, config.seed, number)
        train_agent(config.agent, agent, self.run, config.seed, number, config.rounds)
        seed = derived_seed(config.seed, number, SAMPLING)
        set_random_seed(seed % LARGEST_SEED)
        # Stochastic, as it learned: then the critic learns from the surroundings of its images as well.
        return agent, generate(dynamics, agent, config.samples, seed, deterministic=False)

    def untrained_agent(self, dynamics: DenoiseDynamics) -> Agent:
        """The agent as it began, or for agents that don't learn an untrained policy of PPO."""
        agent, seed = self.config.agent, self.config.seed
        if isinstance(agent, LearnerConfig):
            return make_agent(agent, dynamics, seed, number=1)
        hidden = agent.hidden if isinstance(agent, UntrainedConfig) else DEFAULT_HIDDEN
        return untrained_policy(hidden, LatentVecEnv(dynamics), derived_seed(seed, 1))

    def settings(self) -> dict[str, Any]:
        """All that decides what becomes of the run."""
        config, env = self.config, self.env
        return {
            **self._shared_settings(),
            **self.space.settings(),
            "env": env.settings(),
            "critic": asdict(env.critic),
            "reward": asdict(config.reward),
            "agent": asdict(config.agent),
            "loop": {"rounds": config.rounds, "samples": config.samples},
        }

    def _shared_settings(self) -> dict[str, Any]:
        return {"dataset": self.data.settings, **self.context.settings()}

    def export(self) -> None:
        """Copy the world to where the user wants it."""
        if not self.config.export:
            return
        folder, space = Path(self.config.export), self.env.space
        folder.mkdir(parents=True, exist_ok=True)
        names = [EXAMPLES, f"{CRITIC}_{space}", *(["autoencoder"] if space == "latent" else [])]
        with locked(folder / LOCK):
            for name in names:
                copy_artifact(self.run.path, folder, name)
        say(f"exported to {folder}")

    def summary(self) -> str:
        """The table of figures, and where everything is."""
        report = (self.run.path / "report.md").read_text(encoding="utf-8")
        place = f"artifacts='{self.run.path}', space='{self.env.space}'"
        return (
            f"{report.partition(chr(10) * 2)[2].rstrip()}\n\n"
            f"report:      {self.run.path / PAGE}\n"
            f"pictures:    {self.run.path / 'pictures'}\n"
            f"environment: gym.make('LatentDenoise-v0', {place})\n"
            f"look further: tensorboard --logdir {self.config.runs}"
        )


def make_dynamics(config: AgentRun, env: DenoiseEnvConfig, world: DenoiseWorld) -> DenoiseDynamics:
    """``env.num_envs`` copies of ``world``."""
    settings = DenoiseSettings(reward=config.reward.terms, **env.arguments())
    return settings.dynamics(world, env.num_envs)


def plan_denoising(
    config: AgentRun, env: DenoiseEnvConfig, context: Context, data: TrainingData
) -> DenoisingExperiment:
    """Build everything once, untrained: what can't work together is refused before hours are spent on it."""
    classes = find_classes(data, context.device)
    space = pixel_space(data.dataset, context)  # in place of a trained one
    critic = new_critic(env, context, classes, space)
    few = slice(0, 8)
    world = DenoiseWorld.build(space.space, critic, classes.images[few], classes.labels[few], classes.names)
    make_agent(config.agent, make_dynamics(config, env, world), config.seed, number=1)
    return DenoisingExperiment(config, env, context, data, classes)
