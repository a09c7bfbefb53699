"""`latent-aug export --onnx`: one file that says what the detector says, and that needs no PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbones
from conftest import ROOT
from PIL import Image
from test_predict_command import Run, latent, table  # noqa: F401 - a fixture
from test_prediction import BACKBONE, CASES, FITTED, TEST, finished, gaussian, place  # noqa: F401 - fixtures

import latent_env
from latent_common.errors import UserError
from latent_env.prediction.onnx_detector import OUTPUTS
from stages.export import onnx_file
from stages.export.graph import DetectorGraph
from stages.export.half import LEAST, store_in_half

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

DINO = ["dataset.size=64", "detector.input=features", "detector.backbone=dino", "detector.components=8"]
ALL = {
    **CASES,
    "positional_knn on features": [*FITTED, "detector=positional_knn", "detector.input=features", *BACKBONE],
    "gaussian on features": [*FITTED, "detector=gaussian", "detector.input=features", *BACKBONE],
    "gaussian in tiles": [*FITTED, "detector=gaussian", *BACKBONE, "detector.tile=16"],
    "knn on a transformer": [*FITTED, "detector=knn", *DINO, "detector.whitened=false"],
    "knn on flat latents": [*FITTED, "detector=knn", "autoencoder.latent=flat"],
    "a memory's reconstruction": [*FITTED, "detector=reconstruction", "autoencoder=memae"],
}
QUICK = ("gaussian",)
"""An export takes seconds: these alone are always tested."""

STRANGERS = ["torch", "gymnasium", "scipy", "sklearn", "matplotlib", "hydra", "omegaconf", "safetensors"]
WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {[*STRANGERS, "onnx", "onnxscript", "stable_baselines3"]}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Missing())
import latent_aug
latent_aug.main()
"""


@pytest.fixture(scope="module")
def exported(gaussian: Path) -> Path:  # noqa: F811
    """The ONNX file of a detector."""
    path = gaussian.parent / "model.onnx"
    path.write_bytes(onnx_file.onnx_bytes(latent_env.load_detector(gaussian, device="cpu", false_alarms=0.5)))
    return path


def answers(content: bytes, images: Any) -> list[Any]:
    """Score, p-value, map and raw score of images ``(N, C, H, W)``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found: list[Any] = onnxruntime.InferenceSession(content, options).run(list(OUTPUTS), {"images": images})
    return found


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in ALL]
)
def test_a_file_says_what_the_detector_says(case: str, place: Path) -> None:  # noqa: F811
    if "transformer" in case and not (place / "dino").is_dir():
        tiny_backbones.dino(place / "dino")
    detector = latent_env.load_detector(finished(*ALL[case]).run.path, device="cpu", false_alarms=0.5)
    content = onnx_file.onnx_bytes(detector)
    images = np.stack([detector.read(image).pixels for image in TEST])
    for batch in (images[:1], images):
        scores, p_values, maps, raw = answers(content, batch)
        for at, expected in enumerate(detector.predict(batch)):
            assert scores[at] == pytest.approx(expected.score, abs=1e-3)
            assert p_values[at] == pytest.approx(expected.p_value, abs=1e-6)
            assert (scores[at] > 0.5) == expected.is_anomaly
            assert raw[at] == pytest.approx(expected.raw_score, rel=1e-3, abs=1e-3)
            assert np.allclose(maps[at], expected.map, atol=2e-3)


def test_the_command_writes_a_file_that_explains_itself(latent: Run, gaussian: Path, tmp_path: Path) -> None:  # noqa: F811
    done = latent("export", str(gaussian), "--onnx", "models/model.onnx", "--best-f1")
    assert done.code == 0, done.said
    assert "models/model.onnx: 0.1 MB" in done.said
    session = onnxruntime.InferenceSession(str(tmp_path / "models/model.onnx"))
    facts = session.get_modelmeta().custom_metadata_map
    detector = latent_env.load_detector(gaussian, device="cpu").with_best_f1()
    assert json.loads(facts["threshold"]) == detector.threshold.score
    assert json.loads(facts["f1"]) == detector.threshold.f1
    assert json.loads(facts["classes"]) == ["normal", "anomaly"]
    expected = ("gaussian", "32", "1", "phantom", latent_env.__version__)
    assert tuple(facts[key] for key in ("detector", "size", "channels", "dataset", "latent_aug")) == expected


def test_predicting_needs_no_pytorch(latent: Run, gaussian: Path, exported: Path, tmp_path: Path) -> None:  # noqa: F811
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(TEST):
        Image.fromarray(image[0]).resize((90 + 8 * number, 64)).save(photos / f"{number}.png")
    (photos / "broken.png").write_bytes(b"nothing")
    env = {"PYTHONPATH": str(ROOT)}
    command = ["predict", "--onnx", str(exported), "photos", "--out", "exported", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *command],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "photos/broken.png can't be read as an image" in done.stderr
    without = [sys.executable, "-c", WITHOUT, "predict", "phantom", "photos"]
    done = subprocess.run(without, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("predict: predicting with a run needs PyTorch, which is not installed")
    assert done.returncode == 2
    options = ["--out", "run", "--false-alarms", "0.5", "--device", "cpu", "--threads", "1"]
    assert latent("predict", str(gaussian), "photos", *options).code == 0
    rows, expected = table(tmp_path / "exported"), table(tmp_path / "run")
    assert {row["verdict"] for row in rows} == {"normal", "anomaly", "broken"}
    for row, truth in zip(rows, expected, strict=True):
        for name in ("path", "verdict", "left", "top", "width", "height", "picture", "error"):
            assert row[name] == truth[name]
        if row["verdict"] != "broken":
            assert float(row["score"]) == pytest.approx(float(truth["score"]), abs=1e-3)
            for folder in ("overlays", "masks"):
                one, other = (
                    np.asarray(Image.open(tmp_path / out / folder / row["picture"]), np.int16)
                    for out in ("exported", "run")
                )
                assert np.abs(one - other).max() <= 2


def test_mistakes_of_an_export_are_one_line(latent: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/decision.json").write_text("{")
    for arguments, message in [
        ("", "the following arguments are required: run"),
        ("phantom", "nothing to export: name a file with --onnx FILE"),
        ("phantom --onnx file", "--onnx file: it is there already; name another file, or delete it"),
        ("phantom --onnx file/model.onnx", "--onnx file/model.onnx: can't write there"),
        ("empty --onnx model.onnx", "empty holds no detector"),
        ("broken --onnx model.onnx", "decision.json is damaged"),
        ("nowhere --onnx model.onnx", "nowhere is neither a folder nor a built-in detector"),
        ("phantom --onnx model.onnx --false-alarms 2", "false_alarms=2 must lie above 0 and below 1"),
    ]:
        done = latent("export", *arguments.split())
        assert done.code == 2, arguments
        assert message in done.said, done.said
        assert len(done.said.strip().splitlines()) == 1, done.said
    assert not (tmp_path / "model.onnx").exists()


def test_mistakes_of_a_prediction_are_one_line(
    latent: Run,  # noqa: F811
    exported: Path,
    tmp_path: Path,
) -> None:
    Image.fromarray(TEST[0, 0]).save(tmp_path / "image.png")
    model = onnx.load_from_string(exported.read_bytes())
    for name in ("stranger", "older", "silent", "larger"):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        facts = {each.key: each.value for each in model.metadata_props}
        del changed.metadata_props[:]
        others = {"older": {"format": "0"}, "silent": {"size": "many"}, "larger": {"size": "64"}}
        facts |= others.get(name, {})
        for key, value in ({} if name == "stranger" else facts).items():
            changed.metadata_props.add(key=key, value=value)
        (tmp_path / f"{name}.onnx").write_bytes(changed.SerializeToString())
    (tmp_path / "nonsense.onnx").write_bytes(b"nothing")
    for arguments, message in [
        (
            "image.png --onnx nowhere.onnx",
            "nowhere.onnx can't be read (No such file or directory)",
        ),
        ("image.png --onnx nonsense.onnx", "nonsense.onnx can't be read as an ONNX model"),
        ("image.png --onnx stranger.onnx", "stranger.onnx is an ONNX model of another program"),
        ("image.png --onnx older.onnx", "older.onnx has format 0, but this version reads format 1"),
        ("image.png --onnx silent.onnx", "silent.onnx doesn't say what it takes: export it again"),
        ("image.png --onnx larger.onnx", "larger.onnx doesn't take and answer what it says: export it again"),
        ("--onnx older.onnx", "no images: name files, folders or globs"),
        ("image.png --onnx older.onnx --best-f1", "the threshold is inside older.onnx: choose it when you"),
        (f"image.png --onnx {exported} --device tpu", "device=tpu is unknown: choose cpu, cuda or auto"),
    ]:
        done = latent("predict", *arguments.split())
        assert done.code == 2, arguments
        assert message in done.said, done.said
        assert len(done.said.strip().splitlines()) == 1, done.said


def test_without_the_extra_it_says_what_to_install(
    latent: Run,  # noqa: F811
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.fromarray(TEST[0, 0]).save(tmp_path / "image.png")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "find_spec", lambda name: None if name.startswith("onnx") else name)
        done = latent("export", "phantom", "--onnx", "model.onnx")
        assert "an ONNX file needs onnx, onnxruntime, onnxscript: `pip install" in done.said
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = latent("predict", "--onnx", str(exported), "image.png")
    assert "an ONNX file needs onnxruntime: `pip install 'latent-aug[onnx]'` installs" in done.said


def test_a_file_that_answers_otherwise_is_refused(gaussian: Path, exported: Path) -> None:  # noqa: F811
    content = exported.read_bytes()
    same = latent_env.load_detector(gaussian, device="cpu", false_alarms=0.5)
    onnx_file.check_answers(content, DetectorGraph(same), same)
    other = DetectorGraph(same)
    other.units *= 0.5
    with pytest.raises(UserError, match="doesn't answer as the detector in"):
        onnx_file.check_answers(content, other, same)


def test_numbers_that_half_precision_holds_take_half_the_space() -> None:
    rounded = np.random.default_rng(0).standard_normal(2 * LEAST).astype(np.float16).astype(np.float32)
    constants = {"rounded": rounded, "exact": rounded + np.float32(1e-6), "huge": rounded * np.float32(1e6)}
    nodes, name = [], "images"
    for key in constants:
        nodes.append(onnx.helper.make_node("Add", [name, key], [f"{key}_added"]))
        name = f"{key}_added"
    places = [onnx.helper.make_tensor_value_info(each, 1, [2 * LEAST]) for each in ("images", name)]
    tensors = [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "sums", places[:1], places[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    before, images = model.ByteSize(), np.zeros(2 * LEAST, np.float32)
    results = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        results.append(session.run(None, {"images": images})[0])
        store_in_half(model)
    assert np.array_equal(*results)
    assert before - model.ByteSize() == pytest.approx(4 * LEAST, abs=200)
