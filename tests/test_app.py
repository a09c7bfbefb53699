"""What the app shows and does, without a browser: images judged, actions played, samples chosen."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from app_runs import SAMPLES, make_images, make_run
from omegaconf import OmegaConf
from PIL import Image
from test_predict_command import Run, latent  # noqa: F401 - a fixture

from agents.rollout import KINDS
from latent_common.errors import UserError
from latent_env.perturbations.base import Coordinate
from latent_env.prediction.detector import AnomalyDetector, load_detector
from latent_env.worlds.store import BUILTIN
from latent_env.worlds.thresholds import Decision
from stages.app import command, drawing
from stages.app.choosing import BEST, KEPT, MADE, PAGE, REJECTED, MadeSamples, Place, View
from stages.app.environment import read_environment
from stages.app.inspection import Consequences, Seen, judge, measure, picture
from stages.app.opened import find_run, open_run
from stages.app.playing import SEED, Playground, numbers, shown
from stages.app.server import POLICY, Message, Receive, Send, listen, within
from stages.cli.compose import compose
from stages.export.selection import SELECTION, read_rejected


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    return make_run(tmp_path_factory.mktemp("app") / "run")


@pytest.fixture(scope="module")
def detector() -> AnomalyDetector:
    return load_detector("phantom", "cpu")


@pytest.fixture(scope="module")
def playground(made: Path, detector: AnomalyDetector) -> Playground:
    return Playground.open(made, "cpu", detector)


@pytest.fixture
def samples(made: Path, tmp_path: Path) -> MadeSamples:
    return MadeSamples.open(Path(shutil.copytree(made, tmp_path / "run")), None)


def last(detector: AnomalyDetector, files: list[str], earlier: Seen) -> Seen:
    *_, seen = measure(detector, files, earlier)
    return seen


# -- Finding and opening a run --


def test_a_run_is_found_by_its_folder_its_name_or_below_others(made: Path, tmp_path: Path) -> None:
    assert find_run("phantom") == BUILTIN / "phantom"
    assert find_run(str(made)) == made
    for name in ("older", "newer"):
        folder = tmp_path / "runs" / "phantom" / "detector" / name
        shutil.copytree(BUILTIN / "phantom", folder)
        (folder / "metrics.json").write_text("{}")
    assert find_run(str(tmp_path / "runs")).name == "newer"


def test_what_is_no_run_is_one_line(tmp_path: Path, latent: Run) -> None:  # noqa: F811
    (tmp_path / "empty").mkdir()
    for name, expected in {"nowhere": "neither a folder nor a built-in", "empty": "no finished run"}.items():
        with pytest.raises(UserError, match=expected):
            find_run(str(tmp_path / name))
    (tmp_path / "empty" / "metrics.json").write_text("{}")  # an autoencoder's, say
    with pytest.raises(UserError, match="holds no detector"):
        open_run(find_run(str(tmp_path / "empty")), "cpu")


def test_a_run_without_detector_still_shows_its_samples(made: Path, tmp_path: Path) -> None:
    for name in ("augmented.npz", "images.json", "images.safetensors"):
        shutil.copy(made / name, tmp_path)
    run = open_run(tmp_path, "cpu")
    assert isinstance(run.samples, MadeSamples)
    assert isinstance(run.detector, str)
    assert isinstance(run.playground, str)
    assert isinstance(open_run(BUILTIN / "phantom", "cpu").samples, str)


# -- Inspect --


def test_images_are_judged_as_predict_judges_them(detector: AnomalyDetector, tmp_path: Path) -> None:
    files = [str(path) for path in make_images(tmp_path)]
    seen = last(detector, files, Seen.nothing())
    for rate in (0.01, 0.3):
        other = detector.with_false_alarms(rate)
        for said, expected in zip(judge(other, seen), other.predict(files), strict=True):
            assert said.score == pytest.approx(expected.score, abs=1e-6)
            assert (said.p_value, said.is_anomaly) == (expected.p_value, expected.is_anomaly)
            np.testing.assert_allclose(said.map, expected.map, atol=1e-5)


def test_broken_files_are_named_and_others_are_measured_once(
    detector: AnomalyDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(path) for path in make_images(tmp_path)]
    seen = last(detector, files[:1], Seen.nothing())
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"no picture")
    counts: list[int] = []
    whole = AnomalyDetector.measure
    monkeypatch.setattr(
        AnomalyDetector, "measure", lambda self, read: [counts.append(len(read)), whole(self, read)][1]
    )
    seen = last(detector, [*files, str(broken)], seen)
    assert counts == [1]
    page = drawing.cards(seen, judge(detector, seen), with_maps=True)
    assert page.count("<figure") == 2
    assert "&lt;b&gt;broken.png" in page
    assert "<b>broken" not in page
    assert str(tmp_path) not in page
    assert list(last(detector, files[1:], seen).measured) == files[1:]


def test_a_picture_keeps_its_shape_with_and_without_map(detector: AnomalyDetector, tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Image.new("L", (300, 100), 90).save(file)
    seen = last(detector, [str(file)], Seen.nothing())
    (measured,), (said,) = seen.measured.values(), judge(detector, seen)
    assert picture(measured, said, True).size == picture(measured, said, False).size == (480, 160)


@pytest.mark.parametrize(("rate", "flagged", "found"), [(0.05, 0, 2), (0.1, 0, 2), (0.3, 2, 3), (0.5, 4, 3)])
def test_what_a_rate_would_do_on_validation(rate: float, flagged: int, found: int) -> None:
    normal, anomalous = np.arange(9, dtype=np.float32), np.array([6.5, 8.5, 12], np.float32)
    decision = Decision(normal, normal, anomalous, "some")
    seen = Consequences.of(decision, decision.for_false_alarms(rate))
    assert (seen.flagged, seen.normals, seen.found, seen.anomalies) == (flagged, 9, found, 3)
    said = drawing.consequences(seen).replace("\N{NO-BREAK SPACE}", " ")
    assert f"{flagged} of 9 normal images would be flagged" in said
    assert f"{found} of 3 labelled anomalies found" in said


def test_every_score_is_a_dot_and_the_threshold_moves(detector: AnomalyDetector, tmp_path: Path) -> None:
    files = [str(path) for path in make_images(tmp_path)]
    predictions = judge(detector, last(detector, files, Seen.nothing()))
    strict, lax = (drawing.score_line(detector.with_false_alarms(rate), predictions) for rate in (0.01, 0.25))
    decision = detector.decision
    assert strict.count("<circle") == len(decision.normal) + len(decision.anomalous) + len(files)
    assert strict != lax


# -- Play --


def test_an_action_does_what_it_does_in_the_environment(made: Path, playground: Playground) -> None:
    env = gym.make("LatentAug-v0", artifacts=str(made), device="cpu")
    action = playground.random(1)
    env.reset(seed=SEED, options={"source": 5})
    _, reward, _, _, info = env.step(np.array(action, np.float32))
    found = playground.play(5, action)
    assert found.reward == pytest.approx(reward, abs=1e-4)
    for term in found.terms:
        assert term.value == pytest.approx(info[f"reward_terms/{term.name}"], abs=1e-4)
    assert found.distance == pytest.approx(info["distance"], abs=1e-4)
    again = playground.play(5, action)
    assert (again.reward, again.terms) == (found.reward, found.terms)


def test_nothing_changes_nothing(playground: Playground) -> None:
    found = playground.play(0, playground.nothing)
    pictures = {tile.caption: tile.picture for tile in found.tiles}
    assert found.before == found.after
    assert found.distance == 0
    np.testing.assert_array_equal(pictures["original"], pictures["augmented"])


def test_play_says_what_inspect_says(playground: Playground, detector: AnomalyDetector) -> None:
    start = playground.world.images[3].numpy()
    said = detector.predict(start)
    found = playground.play(3, playground.nothing).before
    assert found.score == pytest.approx(said.score, abs=1e-3)
    assert found.is_anomaly == said.is_anomaly


def test_an_image_of_ones_own_is_played_with(playground: Playground, tmp_path: Path) -> None:
    _, square = make_images(tmp_path)
    own = playground.with_image(square)
    assert own.images == playground.images + 1
    found = own.play(own.images - 1, own.nothing)
    shown_first = Image.fromarray(found.tiles[0].picture).convert("L").resize((64, 64), Image.Resampling.BOX)
    expected = np.asarray(Image.open(square), np.float32)
    assert np.abs(np.asarray(shown_first, np.float32) - expected).mean() < 3
    assert own.play(2, own.random(1)).reward == pytest.approx(
        playground.play(2, own.random(1)).reward, abs=1e-3
    )
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"broken\.png"):
        playground.with_image(tmp_path / "broken.png")


def test_controls_stand_for_numbers() -> None:
    coordinates = [Coordinate("row", "top", "bottom"), Coordinate("kind", "a", "c", ("a", "b", "c"))]
    assert numbers(coordinates, [0.25, "a"]) == pytest.approx([0.25, -2 / 3])
    assert numbers(coordinates, [0.25, "b"]) == pytest.approx([0.25, 0])
    for action in ([-1.0, -1.0], [0.5, 0.1], [1.0, 1.0]):
        given = shown(coordinates, action)
        assert shown(coordinates, numbers(coordinates, given)) == given
    assert shown(coordinates, [1, 1]) == [1, "c"]


def configured(folder: Path, **changes: object) -> Path:
    """The folder of a run that an agent acted in, with ``changes`` in its configuration."""
    composed = compose("train_ppo", ["dataset=phantom", "env.horizon=3"])
    groups = {name: OmegaConf.to_container(composed[name]) for name in ("env", "reward", "agent")}
    del groups["env"]["recommended"]
    for key, value in changes.items():
        group, _, name = key.partition("__")
        groups[group][name] = value
    folder.mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create(groups), folder / "config.yaml")
    return folder


def test_the_environment_is_the_one_that_the_agent_acted_in(tmp_path: Path, playground: Playground) -> None:
    folder = configured(tmp_path, reward__terms={"realism": 2.0, "boundary": 0.5}, env__perturbation="brush")
    dynamics = read_environment(folder).dynamics(playground.world)
    assert (dynamics.horizon, dynamics.num_worlds) == (3, 1)
    assert dynamics.reward.weights == {"realism": 2.0, "boundary": 0.5}


def test_modules_that_a_run_names_are_not_imported(
    tmp_path: Path, playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = configured(tmp_path / "run", reward__terms={"realism": 1.0, "hostile:term": 1.0, "own": 1.0})
    environment = read_environment(folder)
    assert environment.left_out == ("hostile:term", "own")
    assert set(environment.dynamics(playground.world).reward.weights) == {"realism"}
    with pytest.raises(UserError, match="hostile:shift comes from a module"):
        read_environment(configured(tmp_path / "run", env__perturbation="hostile:shift"))


@pytest.mark.parametrize("text", ["env: [", "- a list", "\x00", "env: {perturbation: brush}"])
def test_a_damaged_configuration_is_one_line(text: str, tmp_path: Path, playground: Playground) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml") as told:
        read_environment(tmp_path).dynamics(playground.world)
    assert "\n" not in str(told.value)


# -- Samples --


def test_samples_are_sorted_and_filtered(samples: MadeSamples) -> None:
    rewards = samples.made.reward.numpy()
    rows = samples.rows(View(order=BEST))
    assert len(rows) == len(samples.made) <= SAMPLES
    assert (np.diff(rewards[rows]) <= 0).all()
    assert samples.rows(View(order=MADE)) == list(range(len(rows)))
    for kind in samples.kinds:
        found = samples.rows(View(kind=kind))
        assert set(samples.made.kinds[found].tolist()) == {KINDS.index(kind)}


def test_a_choice_is_in_the_run_at_once(samples: MadeSamples) -> None:
    samples.choose([3, 1], keep=False)
    assert json.loads((samples.folder / SELECTION).read_text()) == {"rejected": [1, 3]}
    assert set(samples.rows(View(state=REJECTED))) == {1, 3}
    assert 1 not in samples.rows(View(state=KEPT))
    samples.choose([1], keep=True)
    assert read_rejected(samples.folder) == {3}
    again = MadeSamples.open(samples.folder, None)
    assert again.rejected == {3}
    dimmed, plain = samples.thumbnail(3, True), samples.thumbnail(3, False)
    assert dimmed.mean() < 0.6 * plain.mean()


def test_a_choice_that_cant_be_written_is_told(samples: MadeSamples) -> None:
    (samples.folder / SELECTION).mkdir()
    with pytest.raises(UserError, match=r"can't write .*kept\.json"):
        samples.choose([1], keep=False)


def test_those_kept_are_exported(samples: MadeSamples) -> None:
    rejected = next(iter(np.flatnonzero(samples.made.labels.numpy()))).item()
    samples.choose([rejected], keep=False)
    folders = [samples.export("npz"), samples.export("npz")]
    assert [folder.name for folder in folders] == ["samples_npz_1", "samples_npz_2"]
    table = (folders[0] / "samples.csv").read_text().splitlines()
    kept = {int(line.split(",")[0]): line.split(",")[1] for line in table[1:]}
    assert kept == {row: "no" if row == rejected else "yes" for row in range(len(samples.made))}
    samples.choose(range(len(samples.made)), keep=False)
    with pytest.raises(UserError, match="all are rejected"):
        samples.export("npz")


def test_one_goes_through_the_pages() -> None:
    place = Place(tuple(range(100, 100 + PAGE + 2)), 0, 100)
    assert place.turned(-1) == place
    on = place.turned(1)
    assert (on.page, on.selected, on.shown) == (1, 100 + PAGE, (100 + PAGE, 101 + PAGE))
    assert on.turned(1) == on
    assert on.at(1).after() == on.at(1)
    assert place.at(PAGE - 1).after() == on
    nothing = Place((), 0, None)
    assert (nothing.turned(1), nothing.index, nothing.shown) == (nothing, None, ())


def test_samples_of_other_images_are_refused(samples: MadeSamples) -> None:
    for name in ("images.json", "images.safetensors"):
        shutil.copy(BUILTIN / "digits" / name, samples.folder)
    with pytest.raises(UserError, match="is of another world"):
        MadeSamples.open(samples.folder, None)


# -- The command --


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere is neither a folder nor a built-in world"),
        (["phantom", "--port", "70000"], "--port 70000 must lie from 0 to 65535"),
        (["phantom", "--threads", "0"], "--threads 0 must be at least 1"),
        ([], "the following arguments are required: run"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    expected: str,
    latent: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    done = latent("app", *arguments)
    assert (done.code, done.said.count("\n")) == (2, 1)
    assert expected in done.said


def test_a_missing_gradio_is_one_line(latent: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    done = latent("app", "phantom")
    assert (done.code, done.said.count("\n")) == (2, 1)
    assert "pip install 'latent-aug[app]'" in done.said


def test_a_port_that_is_taken_is_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match=r"can't listen on --host 127\.0\.0\.1 --port"):
            listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="can't listen"):
        listen("no such host", 0)


def test_browsers_are_told_to_load_nothing_from_elsewhere() -> None:
    async def page(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"text"})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {}

    asyncio.run(within(page, POLICY)({"type": "http"}, receive, send))
    start, body = sent
    assert (b"a", b"b") in start["headers"]
    assert dict(start["headers"])[b"content-security-policy"].startswith(b"default-src 'self' data: blob:")
    assert body["body"] == b"text"
