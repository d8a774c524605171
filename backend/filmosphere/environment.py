"""Settings from the process environment and `.env`, checked by their definitions.

No error message repeats a value: it may be a secret.
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from core.optional_redis import SENTINEL_SCHEME

Kind = Callable[[str], Any]

_LINE = re.compile(r"(?:export )?([A-Za-z_0-9]+)=", re.ASCII)
_PLACEHOLDER_KEYS = frozenset({"your_key_here", "your_watchmode_key"})
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::[1-9][0-9]{0,4})?"
_SENTINELS = re.compile(rf"(?:[^@/\s]*@)?{_HOST}(?:,{_HOST})*/[\w.-]+(?:/[0-9]{{1,9}})?", re.ASCII)
# Variables in `.env` that are for other programs, such as docker compose.
_OF_OTHERS = re.compile(r"(COMPOSE|DOCKER|POSTGRES|PG|PYTHON|OTEL)[A-Z_0-9]*|TZ", re.ASCII)


class InvalidValue(Exception):
    """The text is not a value of the kind; the message goes on after the name of the setting."""


@dataclass(frozen=True)
class Setting:
    """A setting: how its text is read, what it is without one, and what it means.

    `example` is its active line in `.env.example`. `default_in_words` describes a default that
    depends on other settings.
    """

    name: str
    kind: Kind
    default: str
    meaning: str
    example: str | None = None
    default_in_words: str = ""


class Environment:
    """The values of the settings that `definitions` lists."""

    def __init__(self, values: Mapping[str, str], definitions: Iterable[Setting]) -> None:
        self._values = values
        self._definitions = {setting.name: setting for setting in definitions}
        self.warnings: list[str] = []

    @classmethod
    def load(cls, env_file: Path, definitions: Iterable[Setting]) -> "Environment":
        """Read `env_file` if it exists; the process environment takes precedence over it."""

        class Merged(environ.Env):  # type: ignore[misc]  # has no types
            # A copy, so that reading settings does not change the process environment.
            ENVIRON = dict(os.environ)

        lines = _lines(env_file)
        Merged.read_env(io.StringIO("\n".join(lines)), overwrite=False)
        environment = cls(Merged.ENVIRON, definitions)
        if "ENV_FILE" in os.environ and not env_file.exists():
            environment.warnings.append("ENV_FILE names a file that does not exist")
        for name in (_LINE.match(line)[1] for line in lines):  # type: ignore[index]  # all match
            if name not in environment._definitions and not _OF_OTHERS.fullmatch(name):
                environment.warnings.append(f"{env_file.name}: there is no setting {name}")
        return environment

    def given(self, name: str) -> bool:
        """Whether the setting is present, even if it is empty."""
        return name in self._values

    def read(self, name: str, default: str | None = None) -> Any:
        """Return the value of the setting; `default` replaces that of its definition.

        Raises `ImproperlyConfigured` with a message that starts with the name.
        """
        setting = self._definitions[name]
        text = self._values.get(name, setting.default if default is None else default).strip()
        try:
            return setting.kind(text)
        except InvalidValue as exc:
            raise ImproperlyConfigured(f"{name} {exc}") from None


def _lines(env_file: Path) -> list[str]:
    """Return the lines with settings. django-environ would log those that it cannot read."""
    try:
        text = env_file.read_text("utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        raise ImproperlyConfigured(f"{env_file.name} cannot be read as UTF-8 text") from None
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not _LINE.match(line):
            raise ImproperlyConfigured(f"{env_file.name}, line {number}, is not NAME=value")
        lines.append(line)
    return lines


def is_installed(module: str) -> bool:
    """Whether the module of an optional package can be imported; imports its parents."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# Kinds of settings


def boolean(text: str) -> bool:
    """Read true/false, on/off, yes/no or 1/0."""
    value = text.lower()
    if value in {"true", "on", "yes", "1"}:
        return True
    if value in {"false", "off", "no", "0"}:
        return False
    raise InvalidValue("must be True or False")


def integer(minimum: int = 0, maximum: int = 1_000_000_000) -> Kind:
    """Read a whole number within the bounds, both included."""

    def read(text: str) -> int:
        is_number = re.fullmatch(r"-?[0-9]{1,12}", text, re.ASCII)
        if not is_number or not minimum <= int(text) <= maximum:
            raise InvalidValue(f"must be a whole number from {minimum} to {maximum}")
        return int(text)

    return read


def number(minimum: float, maximum: float) -> Kind:
    """Read a decimal number within the bounds, both included."""

    def read(text: str) -> float:
        is_number = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,30})?", text, re.ASCII)
        if not is_number or not minimum <= float(text) <= maximum:
            raise InvalidValue(f"must be a number from {minimum:g} to {maximum:g}")
        return float(text)

    return read


def matching(pattern: str, meaning: str) -> Kind:
    """Read a text that matches `pattern` as a whole; `meaning` completes "must be …"."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise InvalidValue(f"must be {meaning}")
        return text

    return read


def optional(kind: Kind) -> Kind:
    """Read None from an empty text, else what `kind` reads."""
    return lambda text: kind(text) if text else None


def choice(*options: str) -> Kind:
    """Read one of `options`, compared without regard to case."""

    def read(text: str) -> str:
        for option in options:
            if option.lower() == text.lower():
                return option
        raise InvalidValue(f"must be one of {', '.join(options)}")

    return read


def choices(*options: str) -> Kind:
    """Read a comma-separated list of `options` without repetitions, at least one."""

    def read(text: str) -> tuple[str, ...]:
        values = tuple(dict.fromkeys(item.lower() for item in items(text)))
        if not values or not set(values) <= set(options):
            raise InvalidValue(f"must list some of {', '.join(options)}")
        return values

    return read


def items(text: str) -> list[str]:
    """Read the parts of a comma-separated list, without white space and empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def regions(text: str) -> list[str]:
    """Read a comma-separated list of ISO 3166-1 alpha-2 codes."""
    if not all(re.fullmatch("[A-Z]{2}", code, re.ASCII) for code in items(text)):
        raise InvalidValue("must list regions of two capital letters")
    return items(text)


def key(text: str) -> str:
    """Read an API key; the placeholders of `.env.example` count as none (`""`)."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidValue("has characters that no key has")
    return "" if text in _PLACEHOLDER_KEYS else text


def calls_in_seconds(text: str) -> tuple[int, float]:
    """Read calls and seconds from a rate limit such as `8/5`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text, re.ASCII)
    if not match:
        raise InvalidValue("must be calls/seconds such as 8/5, or empty for no limit")
    return int(match[1]), float(match[2])


def hours(text: str) -> timedelta:
    """Read a duration in hours, with decimals."""
    # A microsecond is the shortest duration that there is.
    return timedelta(hours=number(0.000001, 24 * 365)(text))


def section_hours(sections: Collection[str]) -> Kind:
    """Read durations by section from a list such as `streaming=168,images=720`."""

    def read(text: str) -> dict[str, timedelta]:
        durations: dict[str, timedelta] = {}
        for item in items(text):
            section, _, count = item.partition("=")
            if section not in sections or not re.fullmatch(r"[1-9][0-9]{0,4}", count, re.ASCII):
                raise InvalidValue(
                    "must list section=hours with whole hours, such as streaming=168, "
                    f"for the sections {', '.join(sections)}"
                )
            durations[section] = timedelta(hours=int(count))
        return durations

    return read


def base_url(text: str) -> str:
    """Read an http(s) URL without trailing slash, query, fragment or credentials."""
    if not _is_base_url(text):
        raise InvalidValue("must be an http:// or https:// address without query or credentials")
    return text.rstrip("/")


def origins(text: str) -> list[str]:
    """Read a comma-separated list of web origins: scheme, host and port, without path."""
    for origin in items(text):
        if not _is_base_url(origin) or urlsplit(origin).path:
            raise InvalidValue("must list origins such as https://app.example, comma-separated")
    return items(text)


def database(text: str) -> dict[str, Any]:
    """Read Django's dictionary from a `postgres://` or `sqlite://` address."""
    try:
        with warnings.catch_warnings():
            # The library prints an address that it cannot read, with its password.
            warnings.simplefilter("error")
            config = dict(environ.Env.db_url_config(text))
        host = re.search(r"(?://|@)(%2F[^/?@]*?)(?::[0-9]+)?(?=[/?]|$)", text, re.IGNORECASE)
    except (ValueError, ImproperlyConfigured, AttributeError, UserWarning):
        config, host = {}, None
    engine = str(config.get("ENGINE", ""))
    if not engine.endswith((".postgresql", ".sqlite3")) or not config.get("NAME"):
        raise InvalidValue("must be postgres://user:password@host:port/name or sqlite:///path")
    if str(config.get("PORT", "")).count(",") not in {0, str(config.get("HOST", "")).count(",")}:
        raise InvalidValue("must give each host its port, or one port to all hosts")
    if host:
        # The folder of a socket: the library leaves its escapes and makes it lower-case.
        config["HOST"] = unquote(host[1])
    return config


def postgres(text: str) -> dict[str, Any]:
    """Read Django's dictionary from a `postgres://` address."""
    config = database(text) if re.match("postgres(ql)?://", text) else {}
    if not config:
        raise InvalidValue("must be postgres://user:password@host:port/name")
    return config


def redis_url(text: str) -> str:
    """Read an address that redis-py understands; `""` if there is none."""
    if text and not _is_redis_url(text):
        raise InvalidValue(
            "must be redis://user:password@host:port/db, or rediss:// or unix:///path, "
            "or redis+sentinel://user:password@host:port,host:port/name/db"
        )
    return text


def _is_redis_url(value: str) -> bool:
    if value.startswith(SENTINEL_SCHEME):
        return bool(_SENTINELS.fullmatch(value.removeprefix(SENTINEL_SCHEME)))
    try:
        parts = urlsplit(value)
        valid_port = parts.port != 0
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    name = parts.path.removeprefix("/")
    valid = valid_port and (not name or bool(re.fullmatch(r"[0-9]{1,9}", name, re.ASCII)))
    return parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and valid


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
