"""The critic: trained on the data set's images, and again after each round on what the agent generated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from agents.denoise_rollout import Generated
from conf.schema.envs import DenoiseEnvConfig
from latent_common.artifacts import copy_artifact, load_artifact, save_artifact
from latent_common.progress import say
from latent_common.training_state import TrainingState
from latent_env.denoise.critic import Critic
from latent_env.denoise.training.critic import evaluate_critic, train_critic
from latent_env.denoise.world import CRITIC, DenoiseWorld, read_critic, save_critic
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.context import Context
from stages.denoise.classes import Classes
from stages.denoise.spaces import StoredSpace


def new_critic(env: DenoiseEnvConfig, context: Context, classes: Classes, space: StoredSpace) -> Critic:
    """The critic before it has learned anything."""
    shape = tuple(space.space.latent_shape)
    made = context.build(lambda: Critic(shape, len(classes.names), env.critic.width, env.critic.depth))
    return made.to(context.device)


@dataclass(frozen=True)
class CriticTrainer:
    """Trains the critics of a command."""

    env: DenoiseEnvConfig
    context: Context
    classes: Classes
    space: StoredSpace

    def first(self, dataset: str, settings: dict[str, Any]) -> DenoiseWorld:
        """The world with its first critic: loaded if an earlier command trained it, else trained now.

        ``settings`` are those of the data set ``dataset`` and the machine.
        """
        env, space, device = self.env, self.space, self.context.device
        own = {key: value for key, value in asdict(env.critic).items() if key != "refresh"}
        settings = {**settings, **space.settings(), "space": env.space, "critic": own}
        run = self.context.run_folder(dataset, "critic", env.space, settings)
        critic = new_critic(env, self.context, self.classes, space)
        world = self.classes.world(space, critic)
        with run.claimed() as missing:
            if missing:
                run.begin()
                self._train(run, critic, env.critic.steps)
                measured = evaluate_critic(critic, *self.classes.validation(space))
                save_denoise_world(run.path, world, env.space, space)
                run.finish(measured)
                return world
        say(f"critic: using {run.path}")
        return world.with_critic(load_critic(run.path, env.space).to(device))

    def refreshed(self, run: Run, world: DenoiseWorld, steps: int, made: Generated) -> DenoiseWorld:
        """``world`` with a critic that was trained for ``steps`` more, on what an agent ``made`` as well."""
        if not (run.path / f"{CRITIC}.json").is_file():
            critic = new_critic(self.env, self.context, self.classes, self.space)
            critic.load_state_dict(world.critic.state_dict())
            run.begin()
            self._train(run, critic, steps, made)
            save_artifact(run.path, CRITIC, CRITIC, critic.state_dict(), critic.hyperparameters())
            run.forget_checkpoint()
        weights, facts = load_artifact(run.path, CRITIC, CRITIC)
        critic = read_critic(weights, facts, run.path / f"{CRITIC}.safetensors")
        return world.with_critic(critic.to(self.context.device))

    @cached_property
    def _images(self) -> tuple[Tensor, Tensor]:
        return self.classes.training(self.space)

    def _train(self, run: Run, critic: Critic, steps: int, made: Generated | None = None) -> None:
        """Train ``critic`` in place, on the training images and on what an agent ``made``."""
        config = self.env.critic
        rate = config.learning_rate if made is None else config.learning_rate / 2  # a trained one is refined
        state = TrainingState(critic.requires_grad_(True), rate, steps, self.context.seed)
        generated = None if made is None else (made.visited, made.asked)
        training = train_critic(state, critic, *self._images, config.batch_size, generated)
        follow(run, "critic", training, state)


def save_denoise_world(folder: Path, world: DenoiseWorld, space_name: str, space: StoredSpace) -> None:
    """Write all that ``gym.make("LatentDenoise-v0", artifacts=folder)`` needs."""
    if space.folder is not None:
        copy_artifact(space.folder, folder, "autoencoder")
    save_critic(folder, world, space_name)


def load_critic(folder: Path, space_name: str) -> Critic:
    """Read the critic in ``folder``, on the CPU."""
    weights, facts = load_artifact(folder, f"{CRITIC}_{space_name}", CRITIC)
    facts.pop("autoencoder", None)
    return read_critic(weights, facts, folder / f"{CRITIC}_{space_name}.safetensors")
