"""nginx as an operator runs it: with `deploy/nginx.conf`."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tools.harness.server import PROJECT, free_port, wait_until_it_answers

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")

# What is not part of a file in conf.d.
_AROUND = """
daemon off;
# One process, with the permissions of the user who runs the test.
master_process off;
pid {folder}/nginx.pid;
worker_rlimit_nofile 8192;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/filmosphere.conf;
}}
"""


@contextmanager
def nginx_in_front(folder: Path, urls: Sequence[str]) -> Iterator[str]:
    """Run nginx in front of the servers at `urls`; yield its URL."""
    port = free_port()
    configuration = configure(folder, port, urls)
    log = folder / "nginx.log"
    process = subprocess.Popen([str(NGINX), "-e", str(log), "-p", str(folder), "-c", configuration])
    front = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_answers(front, process, log)
        yield front
    finally:
        process.terminate()
        process.wait(timeout=10)


def configure(folder: Path, port: int, urls: Sequence[str]) -> Path:
    """Write what an operator would adapt; return the path of the whole configuration."""
    text = (PROJECT / "deploy/nginx.conf").read_text()
    line = "    server 127.0.0.1:8000 max_fails=0;\n"
    servers = "".join(line.replace("127.0.0.1:8000", urlsplit(url).netloc) for url in urls)
    for old, new in {
        line: servers,
        "listen 80;": f"listen 127.0.0.1:{port};",
        "/var/cache/nginx/filmosphere": f"{folder}/cache",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "filmosphere.conf").write_text(text)
    whole = folder / "nginx.conf"
    whole.write_text(_AROUND.format(folder=folder))
    return whole
