"""TLS: a server's settings from a certificate and its key, read again when their files have changed.

Wrong files fail before anything of the service has started, as one `ConfigurationError`.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from os import PathLike, fspath
from typing import TypeAlias

from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError

log: logging.Logger = logger_named("definable.http")

ALPN = ("h2", "http/1.1")
"""Protocols that the server speaks over TLS, the preferred one first (RFC 7301)."""

CHECK_INTERVAL = 1.0
"""Seconds between two looks at the files, at most; without new connections there is none."""

SETTLED_AFTER = 1.0
"""Seconds without a change after which new files are read: certificate and key are written one after the other."""

FileState: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Device, inode, size and modification time (ns) of each file."""


class CertificateFiles:
    """The TLS settings of a server whose certificate may be renewed while it serves.

    The files are looked at when clients connect, so that no task, thread or signal is needed, and whichever way they
    are replaced: written anew, renamed, or by a symbolic link that leads elsewhere (certbot, Kubernetes). Each
    handshake keeps the settings that it began with.

    Args:
        certfile: See `ssl_context`.
        keyfile: See `ssl_context`.
        clock: Tells Unix seconds.

    Raises:
        ConfigurationError: See `ssl_context`.
    """

    def __init__(
        self,
        certfile: str | PathLike[str],
        keyfile: str | PathLike[str] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._certfile = certfile
        self._keyfile = keyfile
        self._clock = clock
        self._loaded = self._state()
        """What was read last, or refused last."""
        self._context = ssl_context(certfile, keyfile)
        self._next_look = 0.0

    def __call__(self) -> ssl.SSLContext:
        """The settings for a handshake that begins now."""
        now = self._clock()
        if not self._next_look - CHECK_INTERVAL <= now < self._next_look:  # also of a clock that was set back
            self._next_look = now + CHECK_INTERVAL
            self._look(now)
        return self._context

    def _look(self, now: float) -> None:
        state = self._state()
        if state == self._loaded or self._changed_at(now) > now - SETTLED_AFTER:
            return
        self._loaded = state
        try:
            self._context = ssl_context(self._certfile, self._keyfile)
        except ConfigurationError as error:
            log.error("the new TLS certificate cannot be used, and the one before stays in use: %s", error)
        else:
            log.info("the TLS certificate was read again from %s", fspath(self._certfile))

    @property
    def _paths(self) -> list[str]:
        return [fspath(path) for path in (self._certfile, self._keyfile) if path is not None]

    def _state(self) -> FileState:
        """How the files are; of one that is not there, nothing."""
        found: list[tuple[int, int, int, int]] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                found.append((0, 0, 0, 0))
            else:
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def _changed_at(self, now: float) -> float:
        """When a file was last written or renamed, Unix seconds; what lies in the future does not count."""
        latest = 0.0
        for path in self._paths:
            try:
                changed = os.stat(path).st_ctime
            except OSError:
                continue
            latest = max(latest, changed if changed <= now else 0.0)
        return latest


def ssl_context(certfile: str | PathLike[str], keyfile: str | PathLike[str] | None = None) -> ssl.SSLContext:
    """The TLS settings of a server: TLS 1.2 and later, HTTP/2 or HTTP/1.1 by ALPN.

    Args:
        certfile: PEM file with the certificate, followed by its chain.
        keyfile: PEM file with the unencrypted private key; None when it is in `certfile` too.

    Raises:
        ConfigurationError: A file is missing, unreadable, not what it should be, or the key does not belong to the
            certificate; the message names the file.
    """
    key = certfile if keyfile is None else keyfile
    for parameter, path in (("certfile", certfile), ("keyfile", key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigurationError(f"{parameter} {fspath(path)!r} cannot be read: {error.strerror}") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN))
    _load(context, fspath(certfile), fspath(key))
    return context


def _load(context: ssl.SSLContext, certfile: str, keyfile: str) -> None:
    def refuse_password() -> str:
        raise ConfigurationError(f"keyfile {keyfile!r} is encrypted: give an unencrypted key")

    try:
        context.load_cert_chain(certfile, keyfile, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"keyfile {keyfile!r} is not the key of certfile {certfile!r}") from error
        if not _has_certificate(certfile):
            raise ConfigurationError(f"certfile {certfile!r} holds no valid PEM certificate") from error
        raise ConfigurationError(f"keyfile {keyfile!r} holds no valid PEM private key") from error


def _has_certificate(certfile: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certfile)
    except ssl.SSLError:
        return False
    return True
