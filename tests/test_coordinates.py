"""What the numbers of an action are said to stand for, and that they do."""

from __future__ import annotations

import pytest
import torch
from conftest import make_world
from torch import Tensor

from latent_env.perturbations.base import Coordinate, CopiesAnomalies, Perturbation, coordinates_of
from latent_env.perturbations.factory import make_perturbation
from latent_env.random_streams import Streams
from latent_env.worlds.labelled_anomalies import LabelledAnomalies
from latent_env.worlds.world import World

SIZE, KNOWN = 64, 3


def world_with_anomalies(channels: int = 1) -> World:
    """A world with three labelled anomalies, as pictures too: a bright square in the corner of each."""
    world = make_world("spatial", SIZE, channels)
    images, masks = world.images[:KNOWN].clone(), torch.zeros(KNOWN, 1, SIZE, SIZE, dtype=torch.bool)
    images[:, :, :8, :8], masks[:, :, :8, :8] = 255, True
    latents = world.autoencoder.encode_all(images)[None]
    marks = torch.zeros(1, KNOWN, 1, *latents.shape[3:], dtype=torch.bool)
    marks[..., 0, 0] = True
    return world.with_labelled_anomalies(LabelledAnomalies.of(latents, marks, world.latents, images, masks))


def action_with(perturbation: Perturbation, **numbers: float) -> Tensor:
    """The action that changes nothing, but for the numbers named, with ``_`` for a space."""
    names = [coordinate.name for coordinate in coordinates_of(perturbation)]
    action = perturbation.null_action.clone()[None]
    for name, number in numbers.items():
        action[0, names.index(name.replace("_", " "))] = number
    return action


def parts_of(perturbation: Perturbation, name: str) -> dict[str, float]:
    """The choices of a number, each with the middle of its part of the range."""
    found = next(each for each in coordinates_of(perturbation) if each.name == name)
    return {said: (2 * at + 1) / len(found.choices) - 1 for at, said in enumerate(found.choices)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brush", "dense", "principal", "copy_paste", "local_edit"])
def test_every_number_has_a_name_of_its_own(name: str, channels: int) -> None:
    perturbation = make_perturbation(name, world_with_anomalies(channels), None)
    coordinates = coordinates_of(perturbation)
    assert len(coordinates) == len({each.name for each in coordinates}) == perturbation.action_size


def test_without_labelled_anomalies_there_are_strokes_alone() -> None:
    perturbation = make_perturbation("local_edit", make_world("spatial", SIZE), None)
    names = [each.name for each in coordinates_of(perturbation)]
    assert len(names) == perturbation.action_size
    assert names[-2:] == ["brightness", "texture"]


def test_a_perturbation_that_says_nothing_has_plain_numbers() -> None:
    class Plain:
        action_size, null_action = 2, torch.zeros(2)

        def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
            return torch.zeros_like(latents)

    assert coordinates_of(Plain()) == (Coordinate("number 1", "-1", "1"), Coordinate("number 2", "-1", "1"))


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_rows_run_from_top_to_bottom(end: float) -> None:
    world = make_world("spatial", SIZE)
    brush, streams = make_perturbation("brush", world, None), Streams(1, world.device)
    action = action_with(brush, row=end, strength=1.0, radius=-1.0, direction_1=1.0)
    by_row = brush(action, streams, world.latents[:1]).abs().sum((0, 1, 3))
    assert by_row.argmax() == (0 if end < 0 else len(by_row) - 1)


@pytest.mark.parametrize(("name", "copies"), [("copy_paste", "share_of_the_copy"), ("local_edit", "kind")])
def test_choices_are_equal_parts_of_the_range(name: str, copies: str) -> None:
    perturbation = make_perturbation(name, world_with_anomalies(), None)
    assert isinstance(perturbation, CopiesAnomalies)
    for number, place in enumerate(parts_of(perturbation, "anomaly").values()):
        action = action_with(perturbation, anomaly=place, strength=1.0, **{copies: 0.5})
        assert perturbation.copied(action).tolist() == [number]
        action = action_with(perturbation, anomaly=place, strength=1.0, **{copies: -0.5})
        assert perturbation.copied(action).tolist() == [-1]


def test_where_all_is_pasted_there_is_one_kind() -> None:
    perturbation = make_perturbation("local_edit", world_with_anomalies(), None, edits="pastes")
    assert list(parts_of(perturbation, "kind")) == ["pasted anomaly"]
