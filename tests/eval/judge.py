"""A stand-in for the judge of open answers: a local server that speaks as much of OpenAI's protocol as they need."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "stand-in"
_COMPARED = re.compile(r"\nCorrect Answer: (.*)\nPredicted Answer: (.*?)\n\nProvide your evaluation", re.DOTALL)


@dataclass
class Judge:
    """A running judge: its URL, what it was asked, and how it is told to fail.

    status: what it answers requests with; content: what it says instead of a judgement; both may change at any time.
    """

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    status: int = 200
    content: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What points lmms-eval's judged tasks at it."""
        return {"API_TYPE": "openai", "OPENAI_API_URL": self.url, "OPENAI_API_KEY": KEY, "MODEL_VERSION": KEY}

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.status != 200:
            return {"error": {"message": f"told to fail with {self.status}", "type": "stand_in"}}
        content = judgement(request) if self.content is None else self.content
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        return {"object": "chat.completion", "model": request["model"], "choices": [choice]}


def judgement(request: dict[str, Any]) -> str:
    """What it says to a request: the score of the answer, and yes or no where that is asked for."""
    text = request["messages"][-1]["content"]
    correct, predicted = _COMPARED.search(text).groups()
    points = score(correct, predicted)
    return str({"pred": "yes" if points > 3 else "no", "score": points} if "'pred'" in text else {"score": points})


def score(correct: str, predicted: str) -> int:
    """Points from 0 to 5: the share of the right answer's words that the given answer has, too."""
    wanted, given = (set(re.findall(r"\w+", text.lower())) for text in (correct, predicted))
    return 5 * len(wanted & given) // len(wanted)


@contextmanager
def running_judge() -> Iterator[Judge]:
    """A judge at a free local port, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(request)
            judge.keys.append(self.headers["Authorization"])
            body = json.dumps(judge.respond(request)).encode()
            self.send_response(judge.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            """Nothing: what was asked is recorded."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        judge = Judge(f"http://127.0.0.1:{server.server_port}/v1/chat/completions")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield judge
        finally:
            server.shutdown()
            thread.join()
