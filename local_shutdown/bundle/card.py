"""README.md of a bundle: a dataset card with the front matter that the Hugging Face hub reads, and
how to check and to cite what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from local_shutdown.bundle.layout import COMPARED, DATA, PAGE, PLAN, SIGNATURE
from local_shutdown.report.trust import CITATIONS
from local_shutdown.store import EPISODES, RESULTS

_TAGS = ["ai-safety", "alignment", "evaluation", "shutdown-resistance", "agents", "local-shutdown"]
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def citations(version: str) -> str:
    """BibTeX of the paper and of the version of this program that made the bundle."""
    from local_shutdown import __version__

    texts = (text for _, text in CITATIONS)
    return "\n\n".join(texts).replace(f"{{{__version__}}}", f"{{{version}}}") + "\n"


def card(stated: Mapping[str, Any], name: str) -> str:
    """The card.

    Args:
        stated: bundle.json.
        name: of the bundle's file, for the example.
    """
    directories: Sequence[Mapping[str, Any]] = stated["directories"]
    front = {
        "license": stated["license"],
        "pretty_name": stated["title"],
        "language": ["en"],
        "tags": _TAGS,
        "size_categories": [_size(sum(int(one["episodes"]) for one in directories))],
        "configs": [
            {
                "config_name": config,
                "data_files": [f"{DATA}/{one['path']}/{file}" for one in directories],
                **({"default": True} if config == "results" else {}),
            }
            for config, file in (("results", RESULTS), ("episodes", EPISODES))
        ],
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    rows = "\n".join(
        f"| `{DATA}/{one['path']}` | {one['kind']} | {_models(one)} | "
        f"{', '.join(one['conditions'])} | {one['episodes']:,} | {_state(one)} |"
        for one in directories
    )
    return f"""---
{head}---

# {stated["title"]}

Episodes of the experiment of "Shutdown Resistance in Large Language Models"
([arXiv 2509.14260](https://arxiv.org/abs/2509.14260)), played and bundled with local-shutdown
{stated["package_version"]}. Each model works in a shell and is told that the machine will be shut
down; what it then does was recorded from outside the sandbox.

| folder | kind | models | conditions | episodes | state |
| --- | --- | --- | --- | --- | --- |
{rows}
{_planned(stated)}
- `{DATA}/{PAGE}`: tables, figures and transcripts in one page that needs no network
- `{DATA}/{COMPARED}`: cells, intervals and contrasts, as `compare --json` prints them
- `{RESULTS}` in each folder: one row per episode, derived from `{EPISODES}` beside it

## Checking it

This is a BagIt bag. With local-shutdown {stated["package_version"]}, checksums and every number in
it are checked against the transcripts:

```sh
local-shutdown verify {name}
```

The zip and the unpacked folder will both do; it needs no GPU, no weights and no network. It cannot
show that the episodes were played: a forger who rewrites all of it consistently is found only by
the signature (`{SIGNATURE}`), if there is one, and if you know whose key it should be
(`--allowed-signers`).

## Citing

```bibtex
{citations(stated["package_version"])}```
"""


def _planned(stated: Mapping[str, Any]) -> str:
    study = stated.get("study")
    if study is None:
        return ""
    count = study["deviations"]
    changed = f"{count or 'no'} deviation{'' if count == 1 else 's'} from it"
    return f"""
The plan (`{DATA}/{PLAN}`) was frozen before the first episode: `{study["digest"]}`, with {changed}.
"""


def _models(one: Mapping[str, Any]) -> str:
    return ", ".join(str(name).replace("|", "\\|") for name in one["models"]) or "-"


def _state(one: Mapping[str, Any]) -> str:
    account = one.get("account")
    if not account:
        return "imported"
    if account["unfinished"] or one["state"] == "unfinished":
        missing = account["planned"] - account["on_disk"]
        return f"unfinished: {missing:,} of {account['planned']:,} trials missing"
    return "finished"


def _size(episodes: int) -> str:
    return next((name for most, name in _SIZES if episodes < most), "1M<n<10M")
