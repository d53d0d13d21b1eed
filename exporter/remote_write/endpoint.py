"""A server's HTTP API: where it is, who asks, and what it answers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

import requests

from exporter._version import __version__
from exporter.errors import ConfigError, ServerError

__all__ = ["Endpoint", "Reply", "UnreachableError"]

_TIMEOUT_SECONDS = (10.0, 60.0)
"""For connecting, and for an answer to come."""

_WRITE_PATH = "/api/v1/write"
_QUERY_PREFIXES = {
    _WRITE_PATH: "",
    "/api/v1/push": "/prometheus",  # Mimir
    "/api/v1/receive": "",  # Thanos
}
"""Where remote write is accepted, and what stands there before ``/api/v1/query``."""

_HINTS = {
    401: "; check --user and --password-file, or --token-file, and --tenant",
    403: "; these credentials may not do that",
}


class UnreachableError(ServerError):
    """No answer came: nothing is known about what became of the request."""


class Reply(NamedTuple):
    """An HTTP answer."""

    url: str
    status: int
    headers: Mapping[str, str]
    """By name in any case."""
    body: bytes

    @property
    def is_ok(self) -> bool:
        """Whether the request was accepted."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """What the server says, on one line of at most 500 characters."""
        return " ".join(self.body.decode("utf-8", "replace").split())[:500] or "no message"

    @property
    def complaint(self) -> str:
        """Who says it, and what may be done."""
        return f"{self.url} answers {self.status}: {self.message}{_HINTS.get(self.status, '')}"


class Endpoint:
    """One server, with the credentials and the tenant of every request to it."""

    def __init__(self, url: str, *, tenant: str = "", user: str = "", password: str = "", token: str = "") -> None:
        """``url`` is a server's address or its remote write URL; ``token`` is a bearer token.

        Raises:
            ConfigError: the URL is none, or credentials stand in it; tenant or token cannot stand in a header.
        """
        parts = _split(url)
        path = parts.path.rstrip("/")
        write_path = next((known for known in _QUERY_PREFIXES if path.endswith(known)), "")
        base = path.removesuffix(write_path)
        self._base = urlunsplit((parts.scheme, parts.netloc, base, "", ""))
        self.write_url = self._base + (write_path or _WRITE_PATH)
        self._query_url = self._base + _QUERY_PREFIXES[write_path or _WRITE_PATH]
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"telemetry-exporter/{__version__}"
        if tenant:
            self._session.headers["X-Scope-OrgID"] = _header("tenant", tenant)
        if user:
            self._session.auth = _Authorization("Basic " + b64encode(f"{user}:{password}".encode()).decode())
        elif token:
            self._session.auth = _Authorization(f"Bearer {_header('token', token)}")

    def write(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Post a remote write request.

        Raises:
            UnreachableError: no answer came.
        """
        return self._request("POST", self.write_url, data=body, headers=headers)

    def api(self, path: str, parameters: Mapping[str, str | int] | None = None) -> Reply:
        """Ask the query API; ``path`` is what follows ``/api/v1/``.

        Raises:
            UnreachableError: no answer came.
        """
        return self._request("GET", f"{self._query_url}/api/v1/{path}", params=parameters)

    def page(self, path: str) -> Reply:
        """Ask for a page of the server itself.

        Raises:
            UnreachableError: no answer came.
        """
        return self._request("GET", self._base + path)

    def _request(self, method: str, url: str, **content: Any) -> Reply:
        try:
            # A redirect would turn POST into GET, and take the tenant to another server.
            answer = self._session.request(method, url, timeout=_TIMEOUT_SECONDS, allow_redirects=False, **content)
        except requests.RequestException as error:
            raise UnreachableError(f"{url} does not answer: {_reason(error)}") from error
        return Reply(url, answer.status_code, answer.headers, answer.content)


class _Authorization(requests.auth.AuthBase):
    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def _header(what: str, text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"the {what} must be printable ASCII on one line, because it is sent in a header")
    return text


def _split(url: str) -> SplitResult:
    if "@" in url:
        raise ConfigError("credentials do not belong in a URL, which is shown and logged; give them as options")
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # brackets without an address, a port that is no number
        pass
    raise ConfigError(f"{url!r} is no URL of a server; give one such as http://127.0.0.1:9090")


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: the libraries around it repeat the address."""
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    return str(cause) or type(cause).__name__
