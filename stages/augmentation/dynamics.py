"""The batch of worlds that an agent acts in, as the configuration describes it."""

from __future__ import annotations

from functools import singledispatch

from agents.baselines.mixup import largest_difference
from conf.schema.agents import AgentConfig, FeatureNoiseConfig, MixupConfig
from conf.schema.envs import AugmentEnvConfig, RewardConfig
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.observation import IMAGE
from latent_env.settings import Settings
from latent_env.shell import Shell
from latent_env.worlds.world import World

MIN_DELTA = 1e-3
"""Where all images are equal, ``max_delta`` must still be above 0."""


def make_dynamics(env: AugmentEnvConfig, reward: RewardConfig, agent: AgentConfig, world: World) -> Dynamics:
    """``env.num_envs`` copies of ``world``, in which ``agent`` acts."""
    if env.observation == IMAGE:
        raise UserError(
            "env.observation=image is for policies with convolutions that gym.make's environments train, and "
            "the learners here read vectors: choose env.observation=latent, pooled or auto"
        )
    arguments = env.arguments()
    if arguments["max_delta"] is None:
        arguments["max_delta"] = max_delta(agent, env, world)
    return Settings(reward=reward.terms, **arguments).dynamics(world, env.num_envs)


def make_shell(env: AugmentEnvConfig, world: World) -> Shell:
    """The shell around normal latents."""
    return Shell.around_normals(world.autoencoder, env.shell_quantile, env.shell_ratio, env.shell_band)


@singledispatch
def max_delta(agent: AgentConfig, env: AugmentEnvConfig, world: World) -> float | None:  # noqa: ARG001
    """The largest change of a number that ``agent`` may need; None leaves it to the perturbation."""
    return None


@max_delta.register
def _(agent: FeatureNoiseConfig, env: AugmentEnvConfig, world: World) -> float | None:
    return 2 * agent.strength * make_shell(env, world).inner


@max_delta.register
def _(agent: MixupConfig, env: AugmentEnvConfig, world: World) -> float | None:  # noqa: ARG001
    return max(largest_difference(world.latents), MIN_DELTA)
