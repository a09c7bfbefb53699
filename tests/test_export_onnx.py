"""`latent-aug export --onnx`: one file that says what the detector says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_predict_command import Run, latent  # noqa: F401 - a fixture
from test_prediction import TEST, gaussian, place  # noqa: F401 - fixtures

import latent_env

pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def test_a_file_says_what_the_detector_says(latent: Run, gaussian: Path, tmp_path: Path) -> None:  # noqa: F811
    done = latent("export", str(gaussian), "--onnx", "models/model.onnx", "--false-alarms", "0.2")
    assert done.code == 0, done.said
    assert "models/model.onnx: 0." in done.said
    session = onnxruntime.InferenceSession(str(tmp_path / "models/model.onnx"))
    detector = latent_env.load_detector(gaussian, device="cpu", false_alarms=0.2)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["threshold"]) == detector.threshold.score
    assert (facts["detector"], facts["size"], facts["dataset"]) == ("gaussian", "32", "phantom")
    for images in (TEST[:1], TEST):
        score, p_value, maps = session.run(None, {"images": images})
        for at, expected in enumerate(detector.predict(images)):
            assert score[at] == pytest.approx(expected.score, abs=1e-3)
            assert p_value[at] == pytest.approx(expected.p_value, abs=1e-6)
            assert (score[at] > 0.5) == expected.is_anomaly
            assert np.allclose(maps[at], expected.map, atol=1e-3)


def test_mistakes_are_one_line(latent: Run, gaussian: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, message in [
        ("phantom", "nothing to export: name a file with --onnx FILE"),
        ("phantom --onnx file", "--onnx file: it is there already; name another file, or delete it"),
        ("phantom --onnx file/model.onnx", "--onnx file/model.onnx: can't write there"),
        ("empty --onnx model.onnx", "empty holds no detector"),
        ("nowhere --onnx model.onnx", "nowhere is neither a folder nor a built-in detector"),
        ("phantom --onnx model.onnx --false-alarms 2", "false_alarms=2 must lie above 0 and below 1"),
    ]:
        done = latent("export", *arguments.split())
        assert done.code == 2, arguments
        assert message in done.said
        assert len(done.said.strip().splitlines()) == 1, done.said
    assert not (tmp_path / "model.onnx").exists()
