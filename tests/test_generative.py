"""Published image autoencoders as the frozen autoencoder, and every way in which one can be wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_generators
import torch
from conftest import ROOT, RunHere, later_wins
from safetensors.torch import load_file, save_file
from tiny_generators import COMPRESSION
from torch import Tensor

import train_ae
from latent_common.artifacts import read_json
from latent_common.errors import UserError
from latent_env.autoencoders import FrozenAutoencoder, GenerativeAutoencoder
from latent_env.autoencoders.generative import (
    PublishedNetwork,
    fit_whitening,
    load_diffusers,
    load_taesd,
)
from latent_env.visibility import MOST_REACH, measure_visibility
from latent_env.worlds.artifacts import load_autoencoder, save_autoencoder

NEEDS_DIFFUSERS = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="needs diffusers: pip install '.[generative]'"
)
KINDS = [
    "taesd",
    "taef2",
    *(pytest.param(kind, marks=NEEDS_DIFFUSERS) for kind in COMPRESSION),
]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_class = pytest.mark.parametrize("kind", list(COMPRESSION))
SIZE = 64

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a tiny network, which is made when it is first asked for."""
    root = tmp_path_factory.mktemp("generators")

    def made(kind: str) -> Path:
        path = root / kind
        if not path.is_dir():
            if kind == "taesd":
                tiny_generators.taesd(path)
            elif kind == "taef2":
                tiny_generators.taesd(path, latent_channels=6, pools=True)
            else:
                tiny_generators.diffusers(path, kind)
        return path

    return made


def load(path: Path) -> PublishedNetwork:
    original = (path / "encoder.safetensors").is_file()
    return load_taesd(str(path)) if original else load_diffusers(str(path))


def pictures(count: int = 3, channels: int = 3, size: int = SIZE) -> Tensor:
    """Images with large parts of different brightness, uint8."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return (smooth * 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@every_kind
def test_images_become_tokens_and_images_again(kind: str, channels: int, folder: Folder) -> None:
    network = load(folder(kind))
    model = GenerativeAutoencoder(network, channels, SIZE)
    side = SIZE // COMPRESSION.get(kind, 8)
    assert model.latent_shape == (network.latent_channels, side, side)
    images = pictures(channels=channels).float() / 255
    latents = model.encode(images)
    assert latents.shape == (3, *model.latent_shape)
    decoded = model.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert torch.equal(model(images), decoded)
    assert not decoded.requires_grad
    # Images don't depend on those beside them.
    assert torch.allclose(model.encode(images[1:2]), latents[1:2], atol=1e-4)


@every_kind
def test_grey_is_encoded_as_colour_and_decoded_as_its_mean(kind: str, folder: Folder) -> None:
    network = load(folder(kind))
    grey, colour = (GenerativeAutoencoder(network, channels, SIZE) for channels in (1, 3))
    images = pictures(channels=1).float() / 255
    latents = grey.encode(images)
    assert torch.allclose(latents, colour.encode(images.repeat(1, 3, 1, 1)), atol=1e-5)
    mean = network.decode(latents).mean(1, keepdim=True).clamp(0, 1)
    assert torch.allclose(grey.decode(latents), mean, atol=1e-5)


@every_class
@NEEDS_DIFFUSERS
def test_colours_and_latents_are_as_the_library_takes_them(kind: str, folder: Folder) -> None:
    """Images in [-1, 1]; of a variational autoencoder the mode of its posterior."""
    import diffusers

    library = getattr(diffusers, kind).from_pretrained(folder(kind), low_cpu_mem_usage=False)
    network, images = load(folder(kind)), pictures().float() / 255
    with torch.no_grad():
        answer = library.encode(2 * images - 1)
        known = {
            "AutoencoderTiny": lambda: answer.latents,
            "AutoencoderKL": lambda: answer.latent_dist.mode(),
            "AutoencoderDC": lambda: answer.latent,
        }
        latents = known[kind]()
        decoded = library.decode(latents).sample / 2 + 0.5
        # Weights are rounded to half precision, so that artifacts store them exactly.
        assert torch.allclose(network.encode(images), latents, rtol=0.02, atol=0.02)
        assert torch.allclose(network.decode(latents), decoded, rtol=0.02, atol=0.02)


def test_original_weights_are_laid_out_as_diffusers_tiny_autoencoder(folder: Folder, tmp_path: Path) -> None:
    """The library's own network with the same weights, which it names by other numbers, answers alike."""
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install '.[generative]'")
    blocks = (8, 8, 8, 8)
    library = diffusers.AutoencoderTiny(
        encoder_block_out_channels=blocks, decoder_block_out_channels=blocks, latent_channels=4
    )
    parts = {part: load_file(folder("taesd") / f"{part}.safetensors") for part in ("encoder", "decoder")}
    renamed = {f"encoder.layers.{name}": tensor for name, tensor in parts["encoder"].items()}
    for name, tensor in parts["decoder"].items():  # there the first layer has no number
        number, _, rest = name.partition(".")
        renamed[f"decoder.layers.{int(number) - 1}.{rest}"] = tensor
    library.load_state_dict(renamed)
    network, images = load(folder("taesd")), pictures().float() / 255
    with torch.no_grad():
        latents = library.encode(2 * images - 1).latents
        assert torch.allclose(network.encode(images), latents, atol=1e-4)
        decoded = library.decode(latents).sample / 2 + 0.5
        assert torch.allclose(network.decode(latents), decoded, atol=1e-4)


def test_pooling_tells_every_token_of_the_whole_image(folder: Folder) -> None:
    images = pictures(2).float() / 255
    changed = images.clone()
    changed[:, :, -8:, -8:] = 1 - changed[:, :, -8:, -8:]
    differs = {}
    for kind in ("taesd", "taef2"):
        network = load(folder(kind))
        # A wide image: the first token sees the last one only through statistics of the whole.
        first, second = (network.encode(part.repeat(1, 1, 1, 4))[:, :, 0, 0] for part in (images, changed))
        differs[kind] = (first - second).detach().abs().max().item()
    assert differs["taesd"] < 1e-5 < differs["taef2"]


@every_kind
def test_latents_are_whitened_by_channel(kind: str, folder: Folder) -> None:
    model, images = GenerativeAutoencoder(load(folder(kind)), 3, SIZE), pictures(6)
    raw = model.raw_latents(images.float() / 255)
    kept = fit_whitening(model, images)
    assert kept is not None
    latents = model.encode(images.float() / 255)
    assert torch.allclose(kept.float(), latents, atol=0.02)
    tokens = latents.transpose(0, 1).flatten(1)
    assert torch.allclose(tokens.mean(1), torch.zeros(len(tokens)), atol=1e-3)
    assert (tokens.std(1, correction=0) < 1.01).all()
    assert torch.allclose(model.means, raw.mean((0, 2, 3)), atol=1e-4)
    # A channel that hardly varies is not blown up.
    free = raw.var((0, 2, 3), correction=0) > 0.01 * raw.var((0, 2, 3), correction=0).mean()
    assert torch.allclose(tokens.std(1, correction=0)[free], torch.ones(int(free.sum())), atol=0.01)
    assert torch.allclose(model.decode(latents), model.network.decode(raw).clamp(0, 1), atol=1e-3)
    assert torch.equal(model.natural_scales, model.scales)


def frozen_generator(path: Path, channels: int = 3) -> FrozenAutoencoder:
    model, images = GenerativeAutoencoder(load(path), channels, SIZE), pictures(6, channels)
    latents = fit_whitening(model, images)
    return measure_visibility(FrozenAutoencoder(model).calibrate(images, latents), images)


@pytest.mark.parametrize("channels", [1, 3])
@every_kind
def test_an_artifact_is_the_same_world_again(
    kind: str, channels: int, folder: Folder, tmp_path: Path
) -> None:
    frozen = frozen_generator(folder(kind), channels)
    save_autoencoder(tmp_path, frozen)
    before = torch.random.get_rng_state()
    again = load_autoencoder(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    held, known = again.state_dict(), frozen.state_dict()
    assert held.keys() == known.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in known.items())
    images = pictures(channels=channels).float() / 255
    assert torch.equal(again(images), frozen(images))
    stored = load_file(tmp_path / "autoencoder.safetensors")
    assert all(stored[name].dtype == torch.float16 for name in stored if ".network." in name)
    assert torch.equal(again.natural_scales, frozen.natural_scales)


class Mosaic(PublishedNetwork):
    """Every token is the mean colour of 8 × 8 pixels, and is drawn as such, more or less strongly."""

    def __init__(self, strength: float) -> None:
        super().__init__(latent_channels=3, compression=8)
        self.strength = strength

    def encode(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 8)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(0.5 + self.strength * (latents - 0.5), scale_factor=8)

    def decoding_part(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def description(self) -> dict[str, object]:
        return {"strength": self.strength}


def test_reach_is_measured() -> None:
    """A decoder that draws what is asked of it shows a change that a nearly blind one doesn't."""
    images, reach = pictures(20), []
    for strength in (1.0, 0.001):
        model = GenerativeAutoencoder(Mosaic(strength), 3, SIZE)
        latents = fit_whitening(model, images)
        frozen = FrozenAutoencoder(model).calibrate(images, latents)
        reach.append(float(measure_visibility(frozen, images).reach))
    assert reach[0] < reach[1] == pytest.approx(MOST_REACH, rel=1e-3)


def test_a_generator_is_measured_on_fewer_images_where_they_are_large(folder: Folder) -> None:
    network = load(folder("taef2"))
    small, large = (FrozenAutoencoder(GenerativeAutoencoder(network, 3, size)) for size in (64, 512))
    assert [small.count_to_measure(256), large.count_to_measure(256), large.count_to_measure(8)] == [
        256,
        16,
        8,
    ]


@NEEDS_DIFFUSERS
def test_what_names_code_is_not_kept(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder("AutoencoderTiny"), tmp_path / "model")
    config = read_json(tmp_path / "model/config.json")
    named = {"auto_map": {"AutoModel": "evil.Evil"}, "_name_or_path": "/somewhere", "trust_remote_code": True}
    (tmp_path / "model/config.json").write_text(json.dumps({**config, **named}))
    (tmp_path / "model/evil.py").write_text("raise SystemExit('code was run')")
    frozen = frozen_generator(tmp_path / "model")
    save_autoencoder(tmp_path, frozen)
    stored = (tmp_path / "autoencoder.json").read_text()
    assert "evil" not in stored
    assert "somewhere" not in stored
    assert load_autoencoder(tmp_path).latent_shape == frozen.latent_shape


def test_a_digest_is_that_of_all_weights(folder: Folder, tmp_path: Path) -> None:
    digest = load(folder("taef2")).digest()
    shutil.copytree(folder("taef2"), tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").digest() == digest
    _change(tmp_path / "elsewhere/decoder.safetensors", "19.bias", lambda tensor: tensor + 1)
    assert load(tmp_path / "elsewhere").digest() != digest


def _change(path: Path, name: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """Rewrite one tensor of a file; None leaves it out."""
    tensors = load_file(path)
    changed = change(tensors.pop(name, torch.zeros(1)))
    save_file(tensors if changed is None else {**tensors, name: changed.contiguous()}, path)


def message_of(error: pytest.ExceptionInfo[UserError]) -> str:
    """The message, which is to be one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


@every_kind
@pytest.mark.parametrize("size", [32, 56, 72, 80, 516, 1024])
def test_sizes_that_fit_are_named(kind: str, size: int, folder: Folder) -> None:
    network = load(folder(kind))
    if size % network.compression == 0 and 64 <= size <= 512:
        assert GenerativeAutoencoder(network, 3, size).latent_shape[1] == size // network.compression
        return
    with pytest.raises(UserError) as error:
        GenerativeAutoencoder(network, 3, size)
    message = message_of(error)
    assert message.startswith(f"dataset.size={size}: ")
    named = [int(word.removeprefix("dataset.size=")) for word in message.split("choose ")[1].split(" or ")]
    assert named
    for fitting in named:
        GenerativeAutoencoder(network, 3, fitting)


@pytest.mark.parametrize("key", ["weights", "model"])
@pytest.mark.parametrize("name", ["", "./nowhere", "/no/where", "~/no/where", "no/such/folder"])
def test_no_such_folder(key: str, name: str) -> None:
    with pytest.raises(UserError) as error:
        {"weights": load_taesd, "model": load_diffusers}[key](name)
    expected = f"={name}: there is no such folder" if name else " is missing"
    assert message_of(error).startswith(f"autoencoder.{key}{expected}")


WRONG: list[tuple[str, str, Callable[[Tensor], Tensor | None], str]] = [
    (
        "encoder",
        "3.conv.0.weight",
        lambda _: None,
        "no such tensor called 3.conv.0.weight, where this family",
    ),
    ("encoder", "0.weight", lambda _: None, "encoder.safetensors has no convolutions 0.weight and 14.weight"),
    ("encoder", "0.weight", lambda t: t[None], "encoder.safetensors has no convolutions 0.weight"),
    ("encoder", "0.weight", lambda t: t.repeat(100, 1, 1, 1), "800 channels are no TAESD"),
    ("encoder", "14.weight", lambda t: t[:3], "one of (4,) called 14.bias"),
    ("decoder", "1.weight", lambda t: t[:, :3], "one of (8, 3, 3, 3) called 1.weight, where this family has"),
    ("decoder", "3.pool.0.weight", lambda t: t, "one of (1,) called 3.pool.0.weight"),
    ("decoder", "layers.0.weight", lambda t: t, "called layers.0.weight, where this family has no such"),
    (
        "decoder",
        "19.bias",
        lambda t: t * float("nan"),
        "19.bias in decoder.safetensors holds no finite numbers",
    ),
    (
        "decoder",
        "19.bias",
        lambda t: t.to(torch.int8),
        "19.bias in decoder.safetensors holds no finite numbers",
    ),
]


@pytest.mark.parametrize(("part", "name", "change", "message"), WRONG, ids=[each[3][:30] for each in WRONG])
def test_weights_of_something_else(
    part: str,
    name: str,
    change: Callable[[Tensor], Tensor | None],
    message: str,
    folder: Folder,
    tmp_path: Path,
) -> None:
    path = tmp_path / "wrong"
    shutil.copytree(folder("taesd"), path)
    _change(path / f"{part}.safetensors", name, change)
    with pytest.raises(UserError) as error:
        load_taesd(str(path))
    assert message_of(error).startswith(f"autoencoder.weights={path}: ")
    assert message in message_of(error)


def test_a_damaged_file_of_original_weights(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder("taesd"), tmp_path / "damaged")
    path = tmp_path / "damaged/decoder.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError) as error:
        load_taesd(str(tmp_path / "damaged"))
    assert "decoder.safetensors is damaged (" in message_of(error)


def test_pickles_are_not_read(folder: Folder, tmp_path: Path) -> None:
    """Neither the original ones nor the library's, which would run what is in them."""
    (tmp_path / "original").mkdir()
    for part in ("encoder", "decoder"):
        tensors = load_file(folder("taesd") / f"{part}.safetensors")
        torch.save(tensors, tmp_path / f"original/{part}.pth")
    with pytest.raises(UserError) as error:
        load_taesd(str(tmp_path / "original"))
    assert "safetensors only, since a pickle can run any code" in message_of(error)

    (tmp_path / "library").mkdir()
    (tmp_path / "library/config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    torch.save({}, tmp_path / "library/diffusion_pytorch_model.bin")
    with pytest.raises(UserError) as error:
        load_diffusers(str(tmp_path / "library"))
    assert "the folder holds no diffusion_pytorch_model.safetensors" in message_of(error)


@NEEDS_DIFFUSERS
def test_each_source_knows_folders_of_the_other(folder: Folder) -> None:
    original, library = folder("taesd"), folder("AutoencoderTiny")
    with pytest.raises(UserError, match=f"autoencoder=taesd autoencoder.weights={original} reads"):
        load_diffusers(str(original))
    with pytest.raises(UserError, match=f"autoencoder=diffusers autoencoder.model={library} reads"):
        load_taesd(str(library))


FOREIGN = [
    ("config.json", "{", "diffusers can't load this folder ("),
    ("config.json", "{}", "config.json names the class None, but only AutoencoderTiny, AutoencoderKL"),
    ("config.json", '{"_class_name": "UNet2DModel"}', "config.json names the class UNet2DModel, but only"),
    ("config.json", '{"_class_name": "AutoencoderTiny"}', "diffusers can't load this folder ("),
    ("diffusion_pytorch_model.safetensors", "no tensors", "diffusers can't load this folder ("),
]


@pytest.mark.parametrize(("file", "content", "message"), FOREIGN)
@NEEDS_DIFFUSERS
def test_a_folder_of_something_else(
    file: str, content: str, message: str, folder: Folder, tmp_path: Path
) -> None:
    shutil.copytree(folder("AutoencoderTiny"), tmp_path / "broken")
    (tmp_path / "broken" / file).write_text(content)
    with pytest.raises(UserError) as error:
        load_diffusers(str(tmp_path / "broken"))
    assert message_of(error).startswith(f"autoencoder.model={tmp_path / 'broken'}: {message}")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
@NEEDS_DIFFUSERS
def test_weights_of_another_network(change: str, folder: Folder, tmp_path: Path) -> None:
    """Which the library would fill with random numbers, or leave out."""
    shutil.copytree(folder("AutoencoderTiny"), tmp_path / "mixed")
    path = tmp_path / "mixed/diffusion_pytorch_model.safetensors"
    name = "decoder.layers.0.weight" if change == "missing" else "decoder.layers.99.weight"
    _change(path, name, (lambda _: None) if change == "missing" else (lambda tensor: tensor))
    with pytest.raises(UserError) as error:
        load_diffusers(str(tmp_path / "mixed"))
    message = f"weights and config.json don't belong together ({change} keys, such as {name})"
    assert message in message_of(error)


@NEEDS_DIFFUSERS
def test_a_name_on_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        load_diffusers("nobody/no-such-model")
    assert "autoencoder.model=nobody/no-such-model is no folder here" in message_of(error)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError) as error:
        load_diffusers(str(tmp_path))
    assert "autoencoder=diffusers needs diffusers: `pip install '.[generative]'`" in message_of(error)


@pytest.mark.parametrize(
    "network",
    [
        {"source": "taesd", "latent_channels": 10**6, "width": 64, "pools": True},
        {"source": "taesd", "latent_channels": 4},
        {"source": "diffusers", "class": "os.system", "config": {}},
        {"source": "diffusers"},
    ],
    ids=str,
)
def test_a_stored_description_of_nothing(network: dict[str, object], folder: Folder, tmp_path: Path) -> None:
    save_autoencoder(tmp_path, frozen_generator(folder("taesd")))
    path = tmp_path / "autoencoder.json"
    described = read_json(path)
    described["facts"]["network"] = network
    path.write_text(json.dumps(described))
    with pytest.raises(UserError) as error:
        load_autoencoder(tmp_path)
    message_of(error)


DATA = ["dataset=phantom", "dataset.train=12", "dataset.valid=6", "dataset.test=4", "device=cpu", "threads=1"]


def test_the_first_stage(folder: Folder, tmp_path: Path, run_here: RunHere) -> None:
    arguments = [*DATA, "autoencoder=taesd", f"autoencoder.weights={folder('taef2')}"]
    code, out, log = run_here(train_ae.main, "train_ae", *arguments, cwd=tmp_path)
    assert code == 0, log
    assert "dB, SSIM" in out
    assert "latent 6x8x8" in out
    (run,) = (tmp_path / "runs/phantom/autoencoder").glob("taesd-*")
    assert set(read_json(run / "metrics.json")) == {"valid_psnr", "valid_ssim"}
    assert (run / "pictures/reconstructions.png").is_file()
    assert str(tmp_path) not in (run / "config.yaml").read_text()  # its weights count, not where they lay
    frozen = load_autoencoder(run)
    assert isinstance(frozen.model, GenerativeAutoencoder)

    # Nothing was trained, so another seed, another place and other keys of training change nothing.
    shutil.copytree(folder("taef2"), tmp_path / "moved")
    moved = [*DATA, "autoencoder=taesd", "autoencoder.weights=moved", "seed=1", "autoencoder.batch_size=7"]
    code, again, log = run_here(train_ae.main, "train_ae", *moved, cwd=tmp_path)
    assert (code, again) == (0, out), log
    assert "autoencoder: using" in log

    # Its decoder can be fine-tuned; the fit and the latents are there already.
    tuned = [*arguments, "autoencoder.steps=3"]
    code, _, log = run_here(train_ae.main, "train_ae", *tuned, cwd=tmp_path)
    assert code == 0, log
    assert "generator: using" in log
    (other,) = (path for path in run.parent.glob("taesd-*") if path != run)
    after = load_autoencoder(other).state_dict()
    changed = {name for name, tensor in frozen.state_dict().items() if not torch.equal(after[name], tensor)}
    assert any(".network.decoder." in name for name in changed)
    assert not any(".network.encoder." in name for name in changed)


@NEEDS_DIFFUSERS
def test_the_first_stage_with_the_library(folder: Folder, tmp_path: Path, run_here: RunHere) -> None:
    arguments = [*DATA, "autoencoder=diffusers", f"autoencoder.model={folder('AutoencoderKL')}"]
    code, out, log = run_here(train_ae.main, "train_ae", *arguments, "autoencoder.steps=2", cwd=tmp_path)
    assert code == 0, log
    assert "latent 4x16x16" in out


MISTAKES = [
    (["autoencoder.weights="], "autoencoder.weights is missing"),
    (["autoencoder.weights=./nowhere"], "autoencoder.weights=./nowhere: there is no such folder"),
    (["autoencoder.steps=-1"], "autoencoder.steps=-1 must be at least 0"),
    (["dataset.size=32"], "dataset.size=32: this generator takes multiples of 8 from 64 to 512"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=str)
def test_a_mistake_is_one_clear_line(
    mistake: list[str], message: str, folder: Folder, tmp_path: Path, run_here: RunHere
) -> None:
    weights = f"autoencoder.weights={folder('taesd')}"
    arguments = later_wins(*DATA, "autoencoder=taesd", weights, *mistake)
    code, _, error = run_here(train_ae.main, "train_ae", *arguments, cwd=tmp_path)
    assert code == 2
    (line,) = [line for line in error.splitlines() if line.startswith("train_ae.py: ")]
    assert message in line
    assert not list(tmp_path.glob("runs/**/metrics.json"))


SHARED = ROOT.parent / "shared"
TAEF2, BOTTLE = SHARED / "weights/taef2", SHARED / "data/mvtec/bottle"


@pytest.mark.slow
@pytest.mark.skipif(not (TAEF2.is_dir() and BOTTLE.is_dir()), reason="needs ../shared: weights and images")
def test_bottles_are_sharp_without_any_training(tmp_path: Path, run_here: RunHere) -> None:
    arguments = [
        *("dataset=mvtec", "dataset.category=bottle", f"data_root={BOTTLE.parent}", "dataset.size=256"),
        *("autoencoder=taesd", f"autoencoder.weights={TAEF2}", "max_train_images=4"),
        *("device=cpu", "threads=1"),
    ]
    code, out, error = run_here(train_ae.main, "train_ae", *arguments, cwd=tmp_path)
    assert code == 0, error
    assert float(out.split("autoencoder: ")[1].split(" dB")[0]) >= 34
