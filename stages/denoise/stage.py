"""`train_ppo.py env=latent_denoise`: a critic, an artist that it pays in rounds, and how good its images are.

Everything is kept as soon as it is made: a stopped command goes on where it was.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import set_random_seed

from agents.base import Agent
from agents.baselines.none_and_random import NoneAgent, RandomAgent
from agents.denoise_rollout import Generated, generate
from agents.learners.factory import MAKERS, make_learner
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import LearnerConfig, UntrainedConfig
from conf.schema.envs import DenoiseEnvConfig
from conf.schema.runs import AgentRun
from latent_common.artifacts import load_artifact, save_artifact, write_atomically
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.denoise.critic import Critic
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.denoise.spaces import PixelSpace
from latent_env.denoise.training.critic import evaluate_critic, train_critic
from latent_env.denoise.world import CRITIC, EXAMPLES, DenoiseWorld, read_critic, save_critic
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.augmentation.agent_factory import learn_policy, untrained_policy
from stages.context import Job, say
from stages.denoise.classes import AutoencoderStage, Classes, SpaceAt, find_classes, find_space
from stages.denoise.report import conclude_denoising
from stages.seeds import LARGEST_SEED, derived_seed

PAINTING = 1
"""Sets the random numbers of painting apart from those of learning."""

ARTISTS = (*MAKERS, "untrained", "random", "none")


def denoise_env(job: Job[AgentRun]) -> DenoiseEnvConfig:
    """The arguments of LatentDenoise-v0."""
    assert isinstance(job.config.env, DenoiseEnvConfig)
    return job.config.env


def make_denoising(job: Job[AgentRun], world: DenoiseWorld) -> DenoiseDynamics:
    """The batch of worlds that the configuration describes."""
    env = denoise_env(job)
    settings = DenoiseSettings(reward=job.config.reward.terms, **env.arguments())
    return settings.dynamics(world, env.num_envs)


def make_artist(job: Job[AgentRun], dynamics: DenoiseDynamics, number: int) -> Agent:
    """The agent of round ``number`` (from 1) as it begins, before it has learned anything."""
    seed = derived_seed(job.config.seed, number)
    match job.config.agent:
        case LearnerConfig() as config:
            return make_learner(LatentVecEnv(dynamics), asdict(config), seed)
        case UntrainedConfig(hidden=hidden):
            return untrained_policy(job, hidden, dynamics)
        case config if config.name == "random":
            return RandomAgent(dynamics, seed)
        case config if config.name == "none":
            return NoneAgent(dynamics)
        case config:
            raise UserError(f"agent={config.name} makes anomalies, no images: choose {', '.join(ARTISTS)}")


def new_critic(job: Job[AgentRun], classes: Classes, place: SpaceAt) -> Critic:
    """The critic before it has learned anything."""
    config, shape = denoise_env(job).critic, tuple(place.space.latent_shape)
    made = job.build(lambda: Critic(shape, len(classes.names), config.width, config.depth))
    return made.to(job.device)


def rehearse_denoising(job: Job[AgentRun], classes: Classes) -> None:
    """Put everything together untrained: what can't work shows before hours are spent on it."""
    if not 0 <= denoise_env(job).critic.refresh <= 1:
        raise UserError(f"env.critic.refresh={denoise_env(job).critic.refresh:g} must lie from 0 to 1")
    space = PixelSpace(job.dataset.channels, job.dataset.size, job.device)  # which costs nothing
    critic = new_critic(job, classes, SpaceAt(space, "", None))
    few = slice(0, 8)
    world = DenoiseWorld.build(space, critic, classes.images[few], classes.labels[few], classes.names)
    make_artist(job, make_denoising(job, world), 1)


def critic_stage(job: Job[AgentRun], classes: Classes, place: SpaceAt) -> tuple[DenoiseWorld, Run]:
    """The world before its first critic: loaded if an earlier command made it, else trained now."""
    env = denoise_env(job)
    config = {key: value for key, value in asdict(env.critic).items() if key != "refresh"}
    settings = {**job.shared_settings(), **place.settings(), "space": env.space, "critic": config}
    run = job.run("critic", env.space, settings)
    critic = new_critic(job, classes, place)
    world = classes.world(place, critic)
    if run.complete:
        say(f"critic: using {run.path}")
        return world.with_critic(load_critic(run.path, env.space).to(job.device)), run
    run.begin()
    states, labels = classes.training(place)
    teach(job, run, critic, (states, labels), env.critic.steps)
    measured = evaluate_critic(critic, *classes.validation(place))
    keep_world(run.path, world, env.space, place)
    run.finish(measured)
    return world, run


def teach(
    job: Job[AgentRun],
    run: Run,
    critic: Critic,
    known: tuple[Any, Any],
    steps: int,
    made: Generated | None = None,
) -> None:
    """Train ``critic``, in place, on images as ``known`` states and labels, and on what artists made."""
    config = denoise_env(job).critic
    rate = config.learning_rate if made is None else config.learning_rate / 2  # it knows much already
    state = TrainingState(critic.requires_grad_(True), rate, steps, job.config.seed)
    artists = None if made is None else (made.visited, made.asked)
    follow(run, "critic", train_critic(state, critic, *known, config.batch_size, artists), state)


def keep_world(folder: Path, world: DenoiseWorld, space: str, place: SpaceAt) -> None:
    """Write all that ``gym.make("LatentDenoise-v0", artifacts=folder)`` needs."""
    if place.folder is not None:
        for suffix in (".safetensors", ".json"):  # the JSON last: it declares the tensors whole
            content = (place.folder / f"autoencoder{suffix}").read_bytes()
            write_atomically(folder / f"autoencoder{suffix}", content)
    save_critic(folder, world, space)


def load_critic(folder: Path, space: str) -> Critic:
    """Read the critic in ``folder``, on the CPU."""
    weights, facts = load_artifact(folder, f"{CRITIC}_{space}", CRITIC)
    facts.pop("autoencoder", None)
    return read_critic(weights, facts, folder / f"{CRITIC}_{space}.safetensors")


def round_of(job: Job[AgentRun], run: Run, dynamics: DenoiseDynamics, number: int) -> tuple[Agent, Generated]:
    """The artist of round ``number``, trained if it is one that learns, and some of what it makes."""
    agent = make_artist(job, dynamics, number)
    match job.config.agent:
        case LearnerConfig() as config:
            learn_policy(job, config, run, agent, number)  # type: ignore[arg-type]
    seed = derived_seed(job.config.seed, number, PAINTING)
    set_random_seed(seed % LARGEST_SEED)
    # As it learned, so that the critic sees what is around its images too.
    return agent, generate(dynamics, agent, job.config.samples, seed, deterministic=False)


def play_rounds(
    job: Job[AgentRun], run: Run, classes: Classes, place: SpaceAt, world: DenoiseWorld
) -> tuple[DenoiseDynamics, Agent]:
    """Rounds of *artist against critic* and *critic against what artists made*; the last one's artist."""
    env, rounds = denoise_env(job), job.config.rounds
    for number in range(1, rounds + 1):
        dynamics = make_denoising(job, world)
        agent, painted = round_of(job, run, dynamics, number)
        steps = round(env.critic.steps * env.critic.refresh)
        if number == rounds or not steps:
            continue
        part = run.part(f"round_{number}/critic")
        if not (part.path / f"{CRITIC}.json").is_file():
            critic = new_critic(job, classes, place)
            critic.load_state_dict(world.critic.state_dict())
            part.begin()
            teach(job, part, critic, classes.training(place), steps, painted)
            save_artifact(part.path, CRITIC, CRITIC, critic.state_dict(), critic.hyperparameters())
        weights, facts = load_artifact(part.path, CRITIC, CRITIC)
        refreshed = read_critic(weights, facts, part.path / f"{CRITIC}.safetensors")
        world = world.with_critic(refreshed.to(job.device))
    return dynamics, agent


def denoise_stage(job: Job[AgentRun], first_stage: AutoencoderStage) -> Run:
    """Everything: critic, rounds, and what came of them."""
    config, env = job.config, denoise_env(job)
    classes = find_classes(job)
    rehearse_denoising(job, classes)
    place = find_space(job, first_stage)
    first = {**job.shared_settings(), **place.settings(), "env": env.settings(), "critic": asdict(env.critic)}
    loop = {"rounds": config.rounds, "samples": config.samples}
    settings = {**first, "reward": asdict(config.reward), "agent": asdict(config.agent), "loop": loop}
    run = job.run("artist", config.agent.name, settings)
    if run.complete:
        say(f"artist: using {run.path}")
        return run
    world, _ = critic_stage(job, classes, place)
    run.begin()
    dynamics, agent = play_rounds(job, run, classes, place, world)
    keep_world(run.path, dynamics.world, env.space, place)
    dynamics.drawn = False  # whatever it learned from: what is judged begins in pure noise
    if isinstance(config.agent, LearnerConfig):
        untrained = make_artist(job, dynamics, 1)
    else:
        untrained = untrained_policy(job, getattr(config.agent, "hidden", [128, 128]), dynamics)
    conclude_denoising(job, run, classes, place, (agent, untrained), dynamics)
    return run


def export_denoising(job: Job[AgentRun], run: Run) -> None:
    """Copy the world of a finished run to where the user wants it."""
    folder, space = Path(str(job.config.export)), denoise_env(job).space
    names = [EXAMPLES, f"{CRITIC}_{space}", *(["autoencoder"] if space == "latent" else [])]
    for name in names:
        for suffix in (".safetensors", ".json"):
            write_atomically(folder / (name + suffix), (run.path / (name + suffix)).read_bytes())
    say(f"exported to {folder}")


def denoise_main(job: Job[AgentRun], first_stage: AutoencoderStage) -> None:
    """Make what is missing and print how good the images are."""
    run = denoise_stage(job, first_stage)
    if job.config.export:
        export_denoising(job, run)
    print((run.path / "report.md").read_text(encoding="utf-8").partition("\n\n")[2].rstrip())
    space = denoise_env(job).space
    print(
        f"\npictures:    {run.path / 'pictures'}\n"
        f"environment: gym.make('LatentDenoise-v0', artifacts='{run.path}', space='{space}')\n"
        f"look further: tensorboard --logdir {job.config.runs}"
    )
