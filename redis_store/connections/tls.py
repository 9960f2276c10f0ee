"""What is wrong with TLS: files of certificates that cannot be used, and connections that fail because of it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redis_store.connections.address import Address
from redis_store.errors import ConnectionLost, DataStoreError, InvalidSettings

_SERVERS_CERTIFICATE = {
    9: "is not valid yet. Check the clocks of the server and of this machine",
    10: "has expired. Renew it on the server, or correct the clock of this machine",
    18: "is self-signed and not trusted here. If it is the right one, add it to the url as ?ssl_ca_certs=/path/cert.pem",
    62: "is for another host. Write a host of the certificate into the url, or give the server a certificate with this one",
}
"""What is wrong with the server's certificate, and what to do, by OpenSSL's number."""

_SERVERS_CERTIFICATE[64] = _SERVERS_CERTIFICATE[62]  # the url has an IP address
for _code in (19, 20, 21):
    _SERVERS_CERTIFICATE[_code] = (
        "is of an authority that is not trusted here. Add the authority's certificate to the url as ?ssl_ca_certs=/path/ca.pem"
    )

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
_NO_COMMON_VERSION = ("ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "NO_SHARED_CIPHER")
_REQUIRED = "CERTIFICATE_REQUIRED"

_OTHER_SCHEMES = {"redis": "rediss", "rediss": "redis", "valkey": "valkeys", "valkeys": "valkey"}


def check_files(address: Address) -> None:
    """Raise `InvalidSettings` if a file of certificates in the url cannot be used."""
    options = address.options
    given = [name for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data") if name in options]
    if given:
        _try(address, given, lambda: _load_authorities(options))
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise InvalidSettings(
            f"The url {address.shown} has ssl_keyfile and no ssl_certfile: add the key's certificate."
        )
    if "ssl_certfile" in options:
        given = [name for name in ("ssl_certfile", "ssl_keyfile", "ssl_password") if name in options]
        _try(address, given, lambda: _load_own(options))


def _load_authorities(options: Mapping[str, Any]) -> None:
    folder = options.get("ssl_ca_path")
    if folder is not None and not Path(folder).is_dir():
        raise OSError("it is no folder")
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
        options.get("ssl_ca_certs"), folder, options.get("ssl_ca_data")
    )


def _load_own(options: Mapping[str, Any]) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
        options["ssl_certfile"],
        options.get("ssl_keyfile"),
        options.get("ssl_password", ""),  # without one, OpenSSL would ask for it on the terminal
    )


def _try(address: Address, names: list[str], load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        raise InvalidSettings(
            f"The url {address.shown} cannot be used: {' with '.join(names)} cannot be loaded ({_reason(error)})."
            " Give PEM files that this process may read."
        ) from None


def tls_failed(error: Exception, address: Address) -> DataStoreError | None:
    """Return what an error while connecting says about TLS, or None if it says nothing."""
    if "port" not in address.options:
        return None
    advice = _advice_with_tls(error, address) if address.has_tls else _advice_without_tls(error, address)
    return (
        None if advice is None else ConnectionLost(f"Cannot connect to {address.shown} ({_reason(error)}): {advice}.")
    )


def _advice_without_tls(error: Exception, address: Address) -> str | None:
    if _ended(error) or "\\x15" in str(error) or "\x15" in str(error):  # the first byte of an alert of TLS
        return (
            "the server closed the connection at the first command. If its port speaks TLS, write"
            f" {other_scheme(address.url)}; else look into its log"
        )
    return None


def _advice_with_tls(error: Exception, address: Address) -> str | None:
    cause = _cause(error, ssl.SSLError)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "the server's certificate " + _SERVERS_CERTIFICATE.get(cause.verify_code, "is not accepted. Renew it")
    reason = getattr(cause, "reason", None) or ""
    if any(word in reason for word in _NO_TLS):
        return f"the server does not speak TLS there. Write {other_scheme(address.url)}, or its port for TLS"
    if any(word in reason for word in _NO_COMMON_VERSION):
        return (
            "the server has no version of TLS or cipher in common with this process. Compare ssl_min_version and ssl_ciphers"
            " with its settings"
        )
    if "ALERT" not in reason and not _ended(error):
        return None
    if "ssl_certfile" in address.options:
        return (
            "the server ended TLS, most likely because of the client certificate. Check the dates of the one in ssl_certfile,"
            " and that the server trusts its authority"
        )
    asks = (
        "the server requires a client certificate. Add"
        if _REQUIRED in reason
        else "the server ended TLS. If it requires a client certificate, add"
    )
    return f"{asks} ?ssl_certfile=/path/cert.pem&ssl_keyfile=/path/key.pem to the url"


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Return the error of this kind among an error and its causes."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause


def _ended(error: Exception) -> bool:
    """Whether the other side ended a connection that it had accepted."""
    if _cause(error, ConnectionRefusedError) is not None:
        return False
    closed = (ConnectionResetError, BrokenPipeError, EOFError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return any(_cause(error, kind) is not None for kind in closed) or "closed by server" in str(error)


def _reason(error: BaseException) -> str:
    cause = _cause(error, OSError)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {cause.verify_message}".rstrip(".")
    text = getattr(cause, "reason", None) or getattr(cause, "strerror", None) or str(error)
    return re.sub(r" \(_ssl\.c:\d+\)", "", str(text)).replace("_", " ").rstrip(".")


def other_scheme(url: str) -> str:
    """Return the beginning of a url for the same server with TLS instead of without, or the other way round."""
    scheme, plus, kind = url.partition("://")[0].partition("+")
    return f"{_OTHER_SCHEMES[scheme]}{plus}{kind}://"
