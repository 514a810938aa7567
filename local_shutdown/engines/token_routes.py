"""The routes through which a server continues an answer from its tokens, and whether one has them.

vLLM serves them with `--enable-scale-out` (0.32), our transformers server always; somebody else's
endpoint may not. See `continuation` for what they are used for.
"""

from __future__ import annotations

from local_shutdown.engines.client import ChatClient
from local_shutdown.errors import (
    ContextOverflow,
    EngineDown,
    EngineFault,
    EngineUnavailable,
    UsageError,
)

RENDER = "/chat/completions/render"
GENERATE = "//inference/v1/generate"
DERENDER = "/chat/completions/derender"
DETOKENIZE = "//detokenize"


async def require_token_routes(client: ChatClient, model: str) -> None:
    """One token, through each of the routes.

    Args:
        model: as the server calls it.

    Raises:
        UsageError: the server lacks one of the routes, or answers something else there.
        EngineUnavailable: it does not answer.
    """
    chat = {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
    path = RENDER
    try:
        rendered = await client.ask(path, {**chat, "add_generation_prompt": True})
        prompt, sampling = list(rendered["token_ids"]), dict(rendered["sampling_params"])
        path = DETOKENIZE
        str((await client.ask(path, {"model": model, "tokens": prompt}))["prompt"])
        path = GENERATE
        body = {"model": model, "token_ids": prompt, "sampling_params": sampling}
        made = await client.ask(path, body)
        tokens = list(made["choices"][0]["token_ids"])
        path = DERENDER
        choice = {"index": 0, "token_ids": tokens, "finish_reason": "length"}
        read = await client.ask(
            path,
            {
                "model": model,
                "generate_response": {
                    "request_id": "tried",
                    "choices": [choice],
                    "prompt_token_ids": prompt,
                },
                "prompt_token_ids": prompt,
                "prompt_tokens": len(prompt),
                "chat_request": chat,
            },
        )
        dict(read["choices"][0]["message"])
    except EngineDown as gone:
        raise EngineUnavailable(f"{client.base_url} does not answer: {gone.message}") from None
    except (EngineFault, ContextOverflow) as fault:
        raise _cannot(client, path, fault.message) from None
    except (KeyError, IndexError, TypeError, ValueError):
        raise _cannot(client, path, "its answer is of another form") from None


def _cannot(client: ChatClient, path: str, why: str) -> UsageError:
    return UsageError(
        f"--at sentences: {client.base_url} does not continue tokens: {path.lstrip('/')}: {why}",
        "serve the model with vLLM and --enable-scale-out, or give --at warning, which samples the "
        "answer as a whole",
    )
