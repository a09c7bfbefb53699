"""What a frozen pretrained network makes of images, and every way in which one can be missing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import tiny_backbones
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_backbones import PATCH, REGISTERS, SIZE
from torch import Tensor
from torch.nn import functional

from latent_common.errors import UserError
from latent_env.autoencoders.backbone import HALVES, IMAGENET, Backbone, empty_backbone, load_backbone

KINDS = ["mobilenet", "resnet", "dino", "dino_with_registers"]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {kind: getattr(tiny_backbones, kind)(root / kind) for kind in [*KINDS, "bert"]}


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Callable[..., Backbone]:
    def loaded(
        kind: str, layers: list[int] | None = None, grid: int | None = None, size: int = SIZE
    ) -> Backbone:
        return load_backbone(str(folders[kind]), size, layers, grid)

    return loaded


Load = Callable[..., Backbone]


def pictures(count: int = 3, channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(7))


def states(backbone: Backbone, images: Tensor, colours: tuple[tuple[float, ...], ...]) -> tuple[Tensor, ...]:
    """The hidden states that transformers itself returns."""
    mean, deviation = (torch.tensor(part).view(1, 3, 1, 1) for part in colours)
    with torch.no_grad():
        answer = backbone.network(pixel_values=(images - mean) / deviation, output_hidden_states=True)
    found: tuple[Tensor, ...] = answer.hidden_states
    return found


@every_kind
@pytest.mark.parametrize("grid", [None, 3, 8, 11])
def test_features_lie_on_one_grid(kind: str, grid: int | None, load: Load) -> None:
    backbone = load(kind, grid=grid)
    features = backbone(pictures(2))
    assert features.shape == (2, backbone.features, backbone.grid, backbone.grid)
    assert backbone.grid == (grid or 8)
    assert features.isfinite().all()
    assert not features.requires_grad


@every_kind
@pytest.mark.parametrize("layer", [1, 3])
def test_a_state_on_its_own_grid_has_unit_length_everywhere(kind: str, layer: int, load: Load) -> None:
    lengths = load(kind, [layer])(pictures()).norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


@every_kind
def test_states_are_joined_in_the_order_asked_for(kind: str, load: Load) -> None:
    images = pictures()
    first, second = load(kind, [2], 6)(images), load(kind, [3], 6)(images)
    assert torch.equal(load(kind, [3, 2], 6)(images), torch.cat([second, first], dim=1))


@pytest.mark.parametrize(
    ("kind", "layers"), [("mobilenet", (9, 21)), ("resnet", (2, 3)), ("dino", (2, 3))], ids=str
)
def test_layers_that_are_chosen(kind: str, layers: tuple[int, ...], load: Load) -> None:
    assert load(kind).layers == layers


@settings(max_examples=12)
@given(side=st.integers(4, 28))
def test_convolutions_give_their_last_maps_of_strides_8_and_16_at_any_size(side: int, load: Load) -> None:
    """Sides that aren't multiples of 16 are rounded when they are halved."""
    assert load("mobilenet", size=8 * side).layers == (9, 21)


def test_one_map_of_a_convolutional_network_is_its_neighbourhoods_mean(load: Load) -> None:
    backbone, images = load("mobilenet", [9]), pictures()
    state = states(backbone, images, HALVES)[9]
    inside = torch.stack(
        [state[:, :, r : r + 3, c : c + 3].mean((2, 3)) for r in range(6) for c in range(6)], 2
    )
    expected = functional.normalize(inside, dim=1).unflatten(2, (6, 6))
    assert torch.allclose(backbone(images)[:, :, 1:-1, 1:-1], expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "extra"), [("dino", 1), ("dino_with_registers", 1 + REGISTERS)], ids=str)
def test_patch_tokens_lie_row_by_row_and_no_others_do(kind: str, extra: int, load: Load) -> None:
    backbone, images, side = load(kind, [2]), pictures(), SIZE // PATCH
    tokens = states(backbone, images, IMAGENET)[2]
    assert tokens.shape[1] == extra + side**2
    features = backbone(images)
    for row in range(side):
        for column in range(side):
            token = functional.normalize(tokens[:, extra + row * side + column], dim=1)
            assert torch.allclose(features[:, :, row, column], token, atol=1e-5)


@pytest.mark.parametrize("kind", ["dino", "dino_with_registers"])
def test_a_changed_patch_changes_the_embedding_of_its_place_alone(kind: str, load: Load) -> None:
    backbone, images = load(kind, [0]), pictures(1)
    other = images.clone()
    other[:, :, 2 * PATCH : 3 * PATCH, 5 * PATCH : 6 * PATCH] = 0
    changed = ((backbone(images) - backbone(other)).abs().amax(1)[0] > 1e-4).nonzero().tolist()
    assert changed == [[2, 5]]


@every_kind
def test_grey_is_the_same_in_three_channels(kind: str, load: Load) -> None:
    backbone, grey = load(kind), pictures(channels=1)
    assert torch.allclose(backbone(grey), backbone(grey.repeat(1, 3, 1, 1)), atol=1e-5)


@every_kind
@pytest.mark.parametrize("mode", [True, False])
def test_neighbours_in_the_batch_change_nothing(kind: str, mode: bool, load: Load) -> None:
    backbone, images = load(kind), pictures(5)
    before = backbone(images)
    backbone.train(mode)
    assert torch.allclose(torch.cat([backbone(image[None]) for image in images]), before, atol=1e-5)
    assert torch.equal(backbone(images), before)  # nor did looking leave anything behind
    assert not torch.allclose(before[0], before[1], atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "colours"), [("mobilenet", HALVES), ("dino", IMAGENET)], ids=["halves", "standard"]
)
def test_colours_are_those_the_network_expects(
    kind: str, colours: tuple[tuple[float, ...], ...], folders: dict[str, Path], tmp_path: Path, load: Load
) -> None:
    images = pictures()
    standard = load(kind, [0])
    assert torch.allclose(_first(standard, states(standard, images, colours)), standard(images), atol=1e-5)

    folder = tmp_path / kind
    shutil.copytree(folders[kind], folder)
    own = ((0.1, 0.2, 0.6), (0.3, 0.5, 0.9))
    message_of = {"image_mean": own[0], "image_std": own[1], "image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(message_of))
    described = load_backbone(str(folder), SIZE, [0], None)
    features = described(images)
    assert torch.allclose(_first(described, states(described, images, own)), features, atol=1e-5)
    assert not torch.allclose(features, standard(images), atol=1e-2)


def _first(backbone: Backbone, found: tuple[Tensor, ...]) -> Tensor:
    """Hidden state 0 as the backbone should give it, by another way."""
    state = found[0]
    if state.ndim == 3:
        state = state[:, 1:].transpose(1, 2).unflatten(2, (backbone.grid, backbone.grid))
    else:
        ones = torch.ones_like(state[:1, :1])
        kernel = torch.ones(state.shape[1], 1, 3, 3)
        total = functional.conv2d(state, kernel, padding=1, groups=state.shape[1])
        state = total / functional.conv2d(ones, kernel[:1], padding=1)
    return functional.normalize(state, dim=1)


@every_kind
def test_architecture_and_weights_make_the_same_features_again(kind: str, load: Load) -> None:
    backbone, images = load(kind, grid=5), pictures()
    description = json.loads(json.dumps(backbone.description))  # as it comes from a file
    state, before = backbone.state_dict(), torch.random.get_rng_state()
    again = empty_backbone(description, SIZE, backbone.layers, backbone.grid, backbone.colours)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.allclose(again(images), backbone(images), atol=1e-3)
    again.load_state_dict(state)
    assert torch.equal(again(images), backbone(images))


@every_kind
def test_the_digest_is_that_of_weights_and_colours(
    kind: str, load: Load, tmp_path: Path, folders: dict[str, Path]
) -> None:
    backbone = load(kind)
    shutil.copytree(folders[kind], tmp_path / "elsewhere")
    again = load_backbone(str(tmp_path / "elsewhere"), SIZE, [1], 4)
    assert again.digest() == backbone.digest()
    weight = next(iter(again.network.parameters()))
    weight[(0,) * weight.ndim] += 1e-3
    assert again.digest() != backbone.digest()
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "elsewhere/preprocessor_config.json").write_text(json.dumps(settings))
    recoloured = load_backbone(str(tmp_path / "elsewhere"), SIZE, [1], 4)
    assert recoloured.digest() != backbone.digest()


def test_weights_are_those_in_the_folder(folders: dict[str, Path], load: Load) -> None:
    stored = load_file(folders["mobilenet"] / "model.safetensors")
    held = load("mobilenet").network.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in stored.items())


def message_of(error: pytest.ExceptionInfo[UserError]) -> str:
    """The message, which is to be one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


def test_no_backbone() -> None:
    with pytest.raises(UserError) as error:
        load_backbone("", SIZE, None, None)
    assert "autoencoder.backbone is missing" in message_of(error)
    assert "model.safetensors" in message_of(error)
    assert "autoencoder.backbone=facebook/dinov2-small" in message_of(error)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/no/where", "no/such/folder"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(UserError) as error:
        load_backbone(name, SIZE, None, None)
    assert message_of(error) == f"autoencoder.backbone={name}: there is no such folder"


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "holds no config.json"), ("model.safetensors", "holds no model.safetensors")],
)
def test_half_a_folder(missing: str, message: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(folders["dino"], folder)
    weights = load_file(folder / "model.safetensors")
    (folder / missing).unlink()
    torch.save(weights, folder / "pytorch_model.bin")  # which would run what is in it
    with pytest.raises(UserError) as error:
        load_backbone(str(folder), SIZE, None, None)
    assert f"autoencoder.backbone={folder}: the folder {message}" in message_of(error)
    assert "as transformers saves it" in message_of(error)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "sandwich"}'),
        ("config.json", "{}"),
        ("model.safetensors", "no tensors"),
    ],
)
def test_a_folder_of_something_else(
    file: str, content: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(folders["dino"], folder)
    (folder / file).write_text(content)
    with pytest.raises(UserError) as error:
        load_backbone(str(folder), SIZE, None, None)
    assert f"autoencoder.backbone={folder}: transformers can't load this folder (" in message_of(error)


@pytest.mark.parametrize("layers", [[99], [-1], [], [1, 26]], ids=str)
def test_layers_without_a_map(layers: list[int], load: Load) -> None:
    with pytest.raises(UserError) as error:
        load("mobilenet", layers)
    assert f"autoencoder.layers={layers}: this backbone has no usable map there" in message_of(error)
    assert "9 (64×8×8)" in message_of(error)


def test_images_too_small_for_a_map(load: Load) -> None:
    """What is one number a channel knows no place."""
    with pytest.raises(UserError) as error:
        load("mobilenet", [23], size=32)
    assert "autoencoder.layers=[23]" in message_of(error)
    assert "at 32 pixels it has" in message_of(error)
    assert "23 (" not in message_of(error)


def test_a_network_of_text(load: Load) -> None:
    with pytest.raises(UserError) as error:
        load("bert")
    assert "autoencoder.backbone: a bert network doesn't turn images of 64 pixels" in message_of(error)
    assert "choose a vision backbone" in message_of(error)


def test_a_name_on_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        load_backbone("nobody/no-such-model", SIZE, None, None)
    assert "autoencoder.backbone=nobody/no-such-model is no folder here" in message_of(error)
    assert "name a local folder, or check the name and the network" in message_of(error)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError) as error:
        load_backbone(str(folders["dino"]), SIZE, None, None)
    assert "a pretrained backbone needs transformers" in message_of(error)
    assert "pip install '.[pretrained]'" in message_of(error)


def test_a_description_that_describes_nothing() -> None:
    for description in ({}, {"model_type": "sandwich"}, {"model_type": "dinov2", "hidden_size": "wide"}):
        with pytest.raises(UserError, match="can't be built from its description"):
            empty_backbone(description, SIZE, [1], 4, IMAGENET)


OFFERS = {
    "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
    "attn_implementation": "somebody/kernels",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}


@pytest.mark.parametrize("key", [*OFFERS, "_attn_implementation", "experts_implementation"])
def test_a_stored_description_that_offers_code_is_built_without_it(key: str, load: Load) -> None:
    backbone = load("dino")
    offering = {**backbone.description, key: OFFERS.get(key, "somebody/kernels")}
    again = empty_backbone(offering, SIZE, backbone.layers, backbone.grid, backbone.colours)
    assert again.description == backbone.description
    assert not hasattr(again.network.config, "quantization_config")
    assert again.network.config._attn_implementation in ("sdpa", "eager")
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again(pictures()), backbone(pictures()))


def test_a_folder_that_offers_code_is_read_without_it(
    folders: dict[str, Path], tmp_path: Path, load: Load
) -> None:
    folder, ran = shutil.copytree(folders["dino"], tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, **OFFERS}))
    backbone = load_backbone(str(folder), SIZE, None, None)
    assert not ran.exists()
    assert backbone.description.keys() == load("dino").description.keys()
    assert backbone.digest() == load("dino").digest()


def test_a_kind_of_network_that_only_its_own_code_knows_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder, ran = shutil.copytree(folders["dino"], tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, **OFFERS, "model_type": "evil"}))
    with pytest.raises(UserError, match=r"model: transformers can't load this folder \(.*evil"):
        load_backbone(str(folder), SIZE, None, None)
    assert not ran.exists()
