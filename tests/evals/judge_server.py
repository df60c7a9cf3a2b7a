"""A judge on this machine: the openai client's protocol, verdicts by a rule."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from tests.json_server import JsonHandler


@contextmanager
def serving(verdict: Callable[[str], str | None]) -> Iterator[dict[str, str]]:
    """A server while the context lasts; the environment variables by which lmms-eval finds it.

    `verdict` makes of a prompt the letter to answer, or None: then the server is overloaded (503).
    """

    class Judge(JsonHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][-1]["content"]
            letter = verdict(asked)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": letter}}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            answered = {**reply, "usage": usage}
            if letter is None:
                self.answer({"error": {"message": "overloaded"}}, 503)
            else:
                self.answer(answered)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    local = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    try:
        yield {"OPENAI_API_KEY": "none", "OPENAI_API_URL": f"http://127.0.0.1:{server.server_port}/v1", **local}
    finally:
        server.shutdown()
        server.server_close()


def compare(prompt: str) -> str:
    """A where the predicted answer's first word is the gold target, else B."""
    said = prompt.rsplit("Predictedanswer:", 1)[1].split("\n")[0].split()
    right = prompt.rsplit("Goldtarget:", 1)[1].split("\n")[0].strip()
    return "A" if said and said[0] == right else "B"
