"""YAML as values and as nodes: beside PyYAML's own loader; making values changes no node."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from local_shutdown.yamlfile import line_of, read_yaml, refuse_duplicates

MERGING = {
    "<<": "base: &b {x: 1, y: 1}\nuse:\n  <<: *b\n  x: 2\n",
    "'<<'": "base: &b {x: 1, y: 1}\nuse:\n  '<<': *b\n  x: 2\n",
    "a tag": "base: &b {x: 1, y: 1}\nuse:\n  !!merge m: *b\n  x: 2\n",
    "a tag by a handle": "%TAG !m! tag:yaml.org,2002:\n---\n"
    "base: &b {x: 1, y: 1}\nuse:\n  !m!merge m: *b\n  x: 2\n",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        *MERGING.values(),
        *("", "# nothing\n", "- 1\n- [a, 2024-01-02, 1.5, ~, yes]\n", "a: '<< no merge'\n"),
        "a: &a [1, {b: c}]\nd: *a\n",
    ],
)
def test_values_are_those_of_the_loader(tmp_path: Path, text: str) -> None:
    assert read_yaml(written(tmp_path, text))[1] == yaml.safe_load(text)


@pytest.mark.parametrize("text", MERGING.values(), ids=MERGING)
def test_a_mapping_that_takes_in_another_keeps_its_own_keys(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    root, _ = read_yaml(path)
    assert root is not None
    refuse_duplicates(root, path)  # x of both would be two
    own = next(n for n, line in enumerate(text.splitlines(), 1) if line == "  x: 2")
    assert line_of(root, ("use", "x")) == own
