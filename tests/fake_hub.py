"""A small stand-in for the Hub's HTTP API: models and Spaces in memory on 127.0.0.1, for the real client."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"  # of the one account, "user", who alone may write and read private repositories


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.private = {}  # repository -> bool
        self.kinds = {}  # repository -> what it was made as: type and SDK
        self.commits = {}  # repository -> [(commit id, message, {path: content})], the first one without files
        self.uploads = {}  # SHA-256 -> content of an LFS file

    def add_commit(self, repo: str, message: str, files: dict[str, bytes]) -> str:
        history = self.commits.setdefault(repo, [])
        history.append((hashlib.sha1(f"{repo} {len(history)}".encode()).hexdigest(), message, files))
        return history[-1][0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and content in one packet

    def answer(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_user = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        path = unquote(urlsplit(self.path).path)
        for methods, pattern, action in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                repo = match.groupdict().get("repo")
                if self.command == "POST" and not is_user:
                    return self.reply({}, 401)
                if repo and (repo not in self.server.commits or (self.server.private[repo] and not is_user)):
                    return self.reply({}, 404, {"X-Error-Code": "RepoNotFound"})
                return action(self, **match.groupdict())
        return self.reply({"error": f"nothing here answers {self.command} {path}"}, 400)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def reply(self, content, status=200, headers=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_): ...

    def create(self):
        wanted = json.loads(self.body)
        repo = f"{wanted['organization'] or 'user'}/{wanted['name']}"
        exists = repo in self.server.commits
        if not exists:
            self.server.private[repo] = wanted.get("visibility") == "private"
            self.server.kinds[repo] = wanted.get("type"), wanted.get("sdk")
            self.server.add_commit(repo, "initial commit", {})
        self.reply({"url": f"{self.server.url}/{repo}"}, 409 if exists else 200)

    def check_card(self):
        self.reply({"errors": [], "warnings": []})

    def choose_modes(self, **_):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith((".safetensors", ".bin", ".pt")) else "regular" for path in paths}
        self.reply({"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]})

    def start_upload(self, **_):
        objects = json.loads(self.body)["objects"]
        for each in objects:
            each["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}
        self.reply({"objects": objects})

    def upload(self, oid):
        self.server.uploads[oid] = self.body
        self.reply({}, 200 if hashlib.sha256(self.body).hexdigest() == oid else 400)

    def commit(self, repo):
        header, *changes = map(json.loads, self.body.splitlines())
        files = dict(self.server.commits[repo][-1][2])
        for kind, file in ((change["key"], change["value"]) for change in changes):
            is_lfs = {"file": False, "lfsFile": True}[kind]
            files[file["path"]] = self.server.uploads[file["oid"]] if is_lfs else base64.b64decode(file["content"])
        commit_id = self.server.add_commit(repo, header["value"]["summary"], files)
        self.reply({"commitUrl": f"{self.server.url}/{repo}/commit/{commit_id}", "commitOid": commit_id})

    def info(self, repo):
        self.reply({"id": repo, "sha": self.server.commits[repo][-1][0], "private": self.server.private[repo]})

    def tree(self, repo, revision, folder):  # noqa: ARG002
        if folder:
            return self.reply({}, 404, {"X-Error-Code": "EntryNotFound"})
        files = self.server.commits[repo][-1][2].items()
        return self.reply([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files])

    def download(self, repo, revision, path):
        commit_id, _, files = next(
            commit for commit in reversed(self.server.commits[repo]) if revision in ("main", commit[0])
        )
        headers = {"X-Repo-Commit": commit_id}
        if path not in files:
            return self.reply({}, 404, headers | {"X-Error-Code": "EntryNotFound"})
        return self.reply(files[path], 200, headers | {"ETag": hashlib.sha256(files[path]).hexdigest()})


REPO = r"(?P<repo>[\w-]+/[\w-]+)"
API = rf"/api/(?:models|spaces)/{REPO}"
ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.check_card),
    ("POST", f"{API}/preupload/main", Handler.choose_modes),
    ("POST", rf"/(?:spaces/)?{REPO}\.git/info/lfs/objects/batch", Handler.start_upload),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.upload),
    ("POST", f"{API}/commit/main", Handler.commit),
    ("GET", API, Handler.info),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?P<folder>/.+)?", Handler.tree),
    ("GET, HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.download),
)


@contextmanager
def fake_hub():
    """A hub that runs while the context does; its address is `.url`."""
    with FakeHub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
