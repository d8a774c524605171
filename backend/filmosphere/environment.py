"""Typed, checked reading of settings from the environment and `.env`."""

import io
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

_TRUE = frozenset({"true", "on", "yes", "1"})
_FALSE = frozenset({"false", "off", "no", "0"})
_RATE = re.compile(r"[1-9][0-9]*/(s|sec|second|m|min|minute|h|hour|d|day)", re.ASCII)
_LINE = re.compile(r"(export )?[A-Za-z_0-9]+=", re.ASCII)
_PLACEHOLDER_KEYS = frozenset({"your_key_here", "your_watchmode_key"})


class Environment:
    """Reads settings by name; whatever cannot be used raises `ImproperlyConfigured` naming it.

    No message repeats the value: it may be a secret.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    @classmethod
    def load(cls, env_file: Path) -> "Environment":
        """Read `env_file` where it exists; what the process environment holds wins over it."""

        class Merged(environ.Env):  # type: ignore[misc]  # has no types
            # A copy, so that reading settings leaves the process environment as it was.
            ENVIRON = dict(os.environ)

        if env_file.is_file():
            Merged.read_env(io.StringIO(_settings_in(env_file)), overwrite=False)
        return cls(Merged.ENVIRON)

    def given(self, name: str) -> bool:
        """Whether the setting is present at all, even if empty."""
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """Return the setting without surrounding blanks."""
        return self._values.get(name, default).strip()

    def key(self, name: str, default: str = "") -> str:
        """Return an API key; the placeholders of `.env.example` count as none (`""`)."""
        value = self.text(name, default)
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ImproperlyConfigured(f"{name} has characters that no key has")
        return "" if value in _PLACEHOLDER_KEYS else value

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return a flag written as true/false, on/off, yes/no or 1/0."""
        value = self.text(name, str(default)).lower()
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise ImproperlyConfigured(f"{name} must be True or False")

    def integer(
        self, name: str, default: int, *, minimum: int = 0, maximum: int = 1_000_000_000
    ) -> int:
        """Return a whole number within the two bounds, both included."""
        value = self.text(name, str(default))
        if not re.fullmatch(r"-?[0-9]{1,12}", value) or not minimum <= int(value) <= maximum:
            raise ImproperlyConfigured(f"{name} must be a whole number from {minimum} to {maximum}")
        return int(value)

    def seconds(self, name: str, default: float, *, maximum: float = 86_400) -> float:
        """Return a positive number of seconds (or of whatever unit the name says)."""
        value = self.text(name, str(default))
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value) or not 0 < float(value) <= maximum:
            raise ImproperlyConfigured(f"{name} must be a number over 0 and at most {maximum:g}")
        return float(value)

    def seconds_or_none(self, name: str, default: float, *, maximum: float) -> float:
        """Return a number of seconds as `seconds` does, or 0 for never."""
        if self.text(name, str(default)) == "0":
            return 0.0
        return self.seconds(name, default, maximum=maximum)

    def choice(self, name: str, default: str, options: tuple[str, ...]) -> str:
        """Return one of `options`, compared without regard to case."""
        value = self.text(name, default)
        for option in options:
            if option.lower() == value.lower():
                return option
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(options)}")

    def pattern(self, name: str, default: str, pattern: str, meaning: str) -> str:
        """Return a text that matches `pattern` as a whole; `meaning` completes "must be …"."""
        value = self.text(name, default)
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ImproperlyConfigured(f"{name} must be {meaning}")
        return value

    def rate(self, name: str, default: str) -> str | None:
        """Return a DRF rate such as `60/min`, or None where the setting is empty."""
        value = self.text(name, default)
        if not value:
            return None
        if not _RATE.fullmatch(value):
            raise ImproperlyConfigured(f"{name} must look like 60/min, or be empty for no limit")
        return value

    def calls_in_seconds(self, name: str, default: str) -> tuple[int, float] | None:
        """Return calls and seconds from a pace such as `8/5`, None where the setting is empty."""
        value = self.text(name, default)
        if not value:
            return None
        match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", value, re.ASCII)
        if not match:
            raise ImproperlyConfigured(
                f"{name} must be calls/seconds such as 8/5, or empty for no limit"
            )
        return int(match[1]), float(match[2])

    def items(self, name: str, default: str = "") -> list[str]:
        """Return the parts of a comma-separated list, without blanks and empty parts."""
        return [part.strip() for part in self.text(name, default).split(",") if part.strip()]

    def origins(self, name: str) -> list[str]:
        """Return web origins: scheme, host and port, without path."""
        origins = self.items(name)
        for origin in origins:
            if not _is_base_url(origin) or urlsplit(origin).path:
                raise ImproperlyConfigured(
                    f"{name} must list origins such as https://app.example, comma-separated"
                )
        return origins

    def base_url(self, name: str, default: str) -> str:
        """Return an http(s) URL without trailing slash, query, fragment or credentials."""
        value = self.text(name, default)
        if not _is_base_url(value):
            raise ImproperlyConfigured(
                f"{name} must be an http:// or https:// address without query or credentials"
            )
        return value.rstrip("/")

    def database(self, name: str, default: str) -> dict[str, object]:
        """Return Django's dictionary for a `postgres://` or `sqlite://` address."""
        try:
            with warnings.catch_warnings():
                # The library warns of what it cannot read by printing it, password included.
                warnings.simplefilter("error")
                config = environ.Env.db_url_config(self.text(name, default))
        except (ValueError, ImproperlyConfigured, AttributeError, UserWarning):
            config = {}
        engine = str(config.get("ENGINE", ""))
        if not engine.endswith((".postgresql", ".sqlite3")) or not config.get("NAME"):
            raise ImproperlyConfigured(
                f"{name} must be postgres://user:password@host:port/name or sqlite:///path"
            )
        return dict(config)

    def redis_url(self, name: str) -> str:
        """Return an address that redis-py understands, `""` where none is given."""
        value = self.text(name)
        if value and not _is_redis_url(value):
            raise ImproperlyConfigured(
                f"{name} must be redis://user:password@host:port/db, or rediss:// or unix:///path"
            )
        return value


def _is_redis_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        valid_port = parts.port != 0
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    database = parts.path.removeprefix("/")
    valid = valid_port and (not database or bool(re.fullmatch(r"[0-9]{1,9}", database, re.ASCII)))
    return parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and valid


def _settings_in(env_file: Path) -> str:
    # django-environ logs a line that it cannot read, secret and all, and goes on without it.
    try:
        lines = env_file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ImproperlyConfigured(f"{env_file.name} cannot be read as UTF-8 text") from None
    settings = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not _LINE.match(line):
            raise ImproperlyConfigured(f"{env_file.name}, line {number}, is not NAME=value")
        settings.append(line)
    return "\n".join(settings)


def _is_base_url(value: str) -> bool:
    if not value.isascii() or not value.isprintable() or " " in value:
        return False
    try:
        parts = urlsplit(value)
        valid_port = parts.port != 0
    except ValueError:
        return False
    clean = not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and clean and valid_port
