"""A small stand-in for the Hub's HTTP API: model repositories in memory on 127.0.0.1, for the real client."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"  # the one account, "user"; reading public repositories needs none


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.private = {}  # repository -> bool
        self.commits = {}  # repository -> [(commit id, message, {path: content})], the first one empty
        self.blobs = {}  # SHA-256 -> content of an uploaded LFS file

    def files(self, repo: str) -> dict[str, bytes]:
        return self.commits[repo][-1][2]

    def commit(self, repo: str, message: str, files: dict[str, bytes]) -> str:
        history = self.commits.setdefault(repo, [])
        commit_id = hashlib.sha1(f"{repo}{len(history)}".encode()).hexdigest()
        history.append((commit_id, message, files))
        return commit_id


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        path = unquote(urlsplit(self.path).path)
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                if "POST" in method and not self.known:
                    return self.reply({"error": "Invalid username or password."}, 401)
                repo = match.groupdict().get("repo")
                if repo and (repo not in self.server.commits or self.server.private[repo] and not self.known):
                    return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return answer(self, **match.groupdict())
        return self.reply({"error": f"the fake has no {self.command} {path}"}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def reply(self, content, status=200, headers=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
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
            self.server.commit(repo, "initial commit", {})
        self.reply({"url": f"{self.server.url}/{repo}"}, 409 if exists else 200)

    def validate_card(self):
        self.reply({"errors": [], "warnings": []})

    def preupload(self, repo):  # noqa: ARG002
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith((".safetensors", ".bin", ".pt")) else "regular" for path in paths}
        self.reply({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def lfs_batch(self, repo):  # noqa: ARG002
        wanted = json.loads(self.body)["objects"]
        self.reply(
            {"objects": [o | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}} for o in wanted]}
        )

    def lfs_upload(self, oid):
        whole = hashlib.sha256(self.body).hexdigest() == oid
        if whole:
            self.server.blobs[oid] = self.body
        self.reply({}, 200 if whole else 400)

    def commit(self, repo):
        files, message = dict(self.server.files(repo)), ""
        for key, value in ((line["key"], line["value"]) for line in map(json.loads, self.body.splitlines())):
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        commit_id = self.server.commit(repo, message, files)
        self.reply({"commitUrl": f"{self.server.url}/{repo}/commit/{commit_id}", "commitOid": commit_id})

    def info(self, repo):
        self.reply({"id": repo, "sha": self.server.commits[repo][-1][0], "private": self.server.private[repo]})

    def resolve(self, repo, revision, path):
        commits = self.server.commits[repo]
        commit_id, _, files = next((commit for commit in commits if commit[0] == revision), commits[-1])
        if path not in files:
            return self.reply(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_id}
            )
        etag = hashlib.sha256(files[path]).hexdigest()
        return self.reply(files[path], headers={"X-Repo-Commit": commit_id, "ETag": f'"{etag}"'})


REPO = r"(?P<repo>[\w-]+/[\w-]+)"
ROUTES = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_card),
    ("POST", f"/api/models/{REPO}/preupload/main", Handler.preupload),
    ("POST", f"/{REPO}.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_upload),
    ("POST", f"/api/models/{REPO}/commit/main", Handler.commit),
    ("GET", f"/api/models/{REPO}(/revision/main)?", Handler.info),
    ("GET, HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def fake_hub():
    """A running hub; its address is `.url`."""
    with FakeHub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
