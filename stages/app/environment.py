"""The environment of a run, as its configuration describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.schema.agents import AgentConfig
from conf.schema.envs import AugmentEnvConfig, RewardConfig
from conf.schema.runs import SCHEMA
from latent_common.errors import UserError
from latent_common.files import read_bytes
from latent_env.dynamics import Dynamics
from latent_env.perturbations.base import perturbations
from latent_env.rewards.base import reward_terms
from latent_env.settings import Settings
from latent_env.worlds.world import World
from stages.augmentation.dynamics import make_dynamics

CONFIGURATION = "config.yaml"

MOST_BYTES = 2**20
"""A configuration is no larger."""


@dataclass(frozen=True)
class Environment:
    """How a run's environment is made.

    :param settings: the configuration of the run, if an agent acted in it; else the environment is the one
        that ``gym.make`` makes by default.
    :param left_out: terms of the reward that come from a user's own module. Nothing that a folder names is
        imported, so they are not computed.
    """

    settings: Mapping[str, Any] | None
    left_out: tuple[str, ...] = ()

    def dynamics(self, world: World) -> Dynamics:
        """One world in which steps are taken.

        :raises UserError: if the configuration is of another version, or names what there isn't.
        """
        if self.settings is None:
            return Settings().dynamics(world, 1)
        try:
            env = {**self.settings["env"], "num_envs": 1, "compiled": False, "recommended": None}
            terms = dict(self.settings["reward"]["terms"])
            chosen = self.settings["agent"]
            kind = SCHEMA.get(f"agent/{chosen['name']}", AgentConfig)
            config, agent = AugmentEnvConfig(**env), kind(**chosen)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{CONFIGURATION} doesn't describe the environment of an agent ({error}): another version "
                "made the run, make it again"
            ) from error
        kept = {name: weight for name, weight in terms.items() if name not in self.left_out}
        return make_dynamics(config, RewardConfig(kept), agent, world)


def read_environment(folder: Path) -> Environment:
    """How the environment of the run in ``folder`` is made."""
    settings = _configuration(folder / CONFIGURATION)
    env, reward = settings.get("env"), settings.get("reward")
    if not isinstance(env, Mapping) or "perturbation" not in env:  # no agent acted in LatentAug-v0
        return Environment(None)
    if env["perturbation"] not in perturbations.names():
        raise UserError(
            f"{folder}: its perturbation {env['perturbation']} comes from a module of the person who made "
            "the run, and nothing that a run names is imported here"
        )
    terms = reward.get("terms") if isinstance(reward, Mapping) else None
    own = [name for name in terms or () if name not in reward_terms.names()]
    return Environment(settings, tuple(own))


def _configuration(path: Path) -> Mapping[str, Any]:
    """What a run was made with; nothing for a world that was exported, or is built in."""
    try:
        text = read_bytes(path, MOST_BYTES).decode()
        content = OmegaConf.to_container(OmegaConf.create(text))
    except FileNotFoundError:
        return {}
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"{path} can't be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} is no configuration of a run")
    return {str(key): value for key, value in content.items()}
