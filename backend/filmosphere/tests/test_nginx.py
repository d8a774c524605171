"""What deploy/nginx.conf makes of requests and of failures."""

import json
import re
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from tools.harness.databases import eventually
from tools.harness.proxy import NGINX, configure, nginx_in_front
from tools.harness.server import free_port, get

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


LIMITS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps(dict(self.headers.items())).encode()
        if self.headers.get("If-None-Match") == '"known"':
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(503 if self.path == "/failing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Correlation-ID", "of-the-service")
        if self.path == "/limited":
            self.send_header("Cache-Control", "public, max-age=60")
            for name in LIMITS:
                self.send_header(name, "9")
        if self.path == "/short":
            self.send_header("Cache-Control", "public, max-age=1")
            self.send_header("ETag", '"known"')
            self.send_header("X-RateLimit-Limit", "9")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def front(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        with nginx_in_front(tmp_path, [f"http://127.0.0.1:{service.server_port}"]) as url:
            yield url
        service.shutdown()


def test_the_service_learns_the_address_of_the_connection_and_not_what_the_client_claims(front):
    seen = get(f"{front}/", X_Forwarded_For="192.0.2.1", Host="films.example").json

    assert (seen["X-Forwarded-For"], seen["Host"]) == ("127.0.0.1", "films.example")


def test_a_request_keeps_its_id_and_gets_one_if_its_own_is_invalid(front):
    for given, expected in (("mine", "mine"), ("not an id", "[0-9a-f]{32}")):
        answer = get(f"{front}/", X_Correlation_ID=given)

        assert re.fullmatch(expected, answer.json["X-Correlation-ID"])
        assert answer.headers.get_all("X-Correlation-ID") == [answer.json["X-Correlation-ID"]]


def test_a_copy_says_nothing_of_the_limits_of_another_client(front):
    first, copy = (get(f"{front}/limited").headers for _ in range(2))

    assert (first["X-Cache"], copy["X-Cache"]) == ("MISS", "HIT")
    assert [first.get_all(name) for name in LIMITS] == [["9"]] * 3
    assert [copy.get_all(name) for name in LIMITS] == [None] * 3


def test_a_copy_that_has_expired_is_not_sent_before_the_service_says_that_it_is_current(front):
    assert get(f"{front}/short").headers["X-Cache"] == "MISS"
    seen = []

    def has_expired() -> bool:
        seen.append(get(f"{front}/short"))
        return seen[-1].headers["X-Cache"] != "HIT"

    eventually(has_expired)

    assert (seen[-1].status, seen[-1].headers["X-Cache"]) == (200, "REVALIDATED")
    assert seen[-1].headers.get_all("X-RateLimit-Limit") is None


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "/metrics%2F",
        "//metrics/",
        "/%6Detrics",
        "/metrics%0A",
        "/a/../metrics/",
    ],
)
def test_metrics_are_not_public(front, path):
    answer = get(f"{front}{path}")

    assert (answer.status, answer.json["reason"]) == (404, "unknown_route")


def test_an_error_of_the_service_passes_as_it_is(front):
    answer = get(f"{front}/failing")

    assert (answer.status, "Host" in answer.json) == (503, True)


def test_a_service_that_cannot_be_reached_is_answered_in_the_shape_of_errors(tmp_path):
    with nginx_in_front(tmp_path, [f"http://127.0.0.1:{free_port()}"] * 2) as front:
        answer = get(f"{front}/api/films/tt1375666")

    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/json")
    assert answer.json.keys() == {"error_code", "message", "reason"}
    assert (answer.headers["Retry-After"], answer.headers["Cache-Control"]) == ("5", "no-store")


def test_the_example_for_tls_works(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "fullchain.pem", append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = free_port()
    whole = configure(tmp_path, port, [f"http://127.0.0.1:{free_port()}"])
    adapted = tmp_path / "filmosphere.conf"
    text = adapted.read_text().replace(f"    listen 127.0.0.1:{port};\n", "")
    text = text.replace("#tls ", "").replace("/etc/ssl/films.example", str(tmp_path))
    adapted.write_text(text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"))
    log = tmp_path / "nginx.log"
    command = [str(NGINX), "-e", str(log), "-p", str(tmp_path), "-c", str(whole)]

    checked = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")

    process = subprocess.Popen(command)
    try:
        answer = tls_answer(f"https://127.0.0.1:{port}/metrics", context)
        assert answer == (404, "max-age=31536000")
    finally:
        process.terminate()
        process.wait(timeout=10)


def tls_answer(url, context):
    def ask():
        try:
            urllib.request.urlopen(url, context=context, timeout=5)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Strict-Transport-Security"]
        except urllib.error.URLError:
            return None

    return eventually(ask)
