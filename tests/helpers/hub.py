"""A stand-in for the hub of Hugging Face on this machine, as far as an upload of a few small files needs it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What the stand-in has and was asked.

    - address: of it
    - private: by the name of a repository, whether it is private
    - files: by their names, of all uploads
    - asked: method and path of each request
    - tokens: with which requests came
    - refuses: the status with which uploads are answered, if not with success
    """

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    refuses: int = 0


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve a stand-in while the block runs."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, status: int, said: dict, **headers: str) -> None:
            content = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _asked(self) -> tuple[str, bytes]:
            state.asked.append(f"{self.command} {self.path}")
            state.tokens.add(self.headers.get("Authorization"))
            return self.path.partition("?")[0], self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_GET(self) -> None:
            path, _ = self._asked()
            name = "/".join(path.split("/")[3:5])
            if name not in state.private:
                self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return
            about = {
                "_id": "1",
                "id": name,
                "modelId": name,
                "private": state.private[name],
                "siblings": [],
                "tags": [],
            }
            self._answer(200, {**about, "sha": "0" * 40})

        def do_POST(self) -> None:
            path, content = self._asked()
            if path == "/api/repos/create":
                said = json.loads(content)
                name = f"{said['organization']}/{said['name']}"
                state.private[name] = said.get("private", said.get("visibility") == "private")
                self._answer(200, {"url": f"{state.address}/{name}", "name": name, "id": "1"})
            elif path.endswith("/preupload/main"):
                files = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for each in json.loads(content)["files"]
                ]
                self._answer(state.refuses or 200, {"files": files, "error": "the hub says no"})
            elif path.endswith("/commit/main"):
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        state.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                name = "/".join(path.split("/")[3:5])
                commit = f"{state.address}/{name}/commit/{'0' * 40}"
                self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": commit})
            else:
                self._answer(200, {})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
