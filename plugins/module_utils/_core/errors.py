# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the core. Every message names the thing, the place, what was expected and found, and the remedy."""

from __future__ import annotations


class CoreError(Exception):
    """Base of everything the core raises on purpose."""


class MissingPackage(CoreError):
    """A Python library that the gateway lacks; names the Debian package that brings it."""


class ProfileError(CoreError):
    """A profile that contradicts itself, or a name or value it does not admit."""


class PortMissing(CoreError):
    """A serial port or programmer port that is not there (any more)."""


class PortBusy(CoreError):
    """A port that somebody else holds; the message says who."""


class BusError(CoreError):
    """A MODBUS request that did not succeed."""


class NoAnswer(BusError):
    """The unit stayed silent until the deadline."""


class BadFrame(BusError):
    """Bytes came back, but not a valid answer to the request (noise, wrong unit, wrong length)."""


class ExceptionAnswer(BusError):
    """The unit answered with a MODBUS exception.

    ``code`` is the exception code of the MODBUS application protocol, section 7.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
