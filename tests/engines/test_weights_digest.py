"""The digest that tells checkpoints apart without reading all of them."""

from __future__ import annotations

from pathlib import Path

from local_shutdown.engines.weights import digest


def checkpoint(folder: Path, content: bytes, config: str = "{}") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_the_same_files_have_the_same_digest(tmp_path: Path) -> None:
    one = digest(checkpoint(tmp_path / "one", b"w" * 9_000_000))
    assert one == digest(checkpoint(tmp_path / "two", b"w" * 9_000_000))
    assert one is not None
    assert one.startswith("sampled-sha256:")


def test_other_weights_of_the_same_size_have_another(tmp_path: Path) -> None:
    one = digest(checkpoint(tmp_path / "one", bytes(range(250)) * 40_000))
    two = digest(checkpoint(tmp_path / "two", bytes(range(250))[::-1] * 40_000))
    assert one != two


def test_the_end_of_a_file_and_the_config_count(tmp_path: Path) -> None:
    one = digest(checkpoint(tmp_path / "one", b"w" * 9_000_000))
    assert one != digest(checkpoint(tmp_path / "two", b"w" * 8_999_999 + b"v"))
    assert one != digest(checkpoint(tmp_path / "three", b"w" * 9_000_000, '{"a": 1}'))


def test_no_weights_no_digest(tmp_path: Path) -> None:
    assert digest(tmp_path) is None
    assert digest(None) is None
