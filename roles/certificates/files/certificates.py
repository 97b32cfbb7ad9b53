# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificates of one gateway: keys made here, certificates asked for, put in place, renewed and watched.

certificates.json says which there should be. What the gateway cannot issue is requested from the control node: every
certificate, or with an issuer of its own only the issuer's. Answers are JSON, complaints go to the journal.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import grp
import hashlib
import ipaddress
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CONFIGURATION = Path("/etc/multi_sonicator/certificates.json")

ISSUER = "issuer"
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
# What a certificate is for: its extended key usage, and the purposes openssl knows that by.
USAGES = {
    "server": ({SERVER}, ("sslserver",)),
    "client": ({CLIENT}, ("sslclient",)),
    "both": ({SERVER, CLIENT}, ("sslserver", "sslclient")),
    ISSUER: (set(), ("any",)),
}
# Peers whose clock is a little behind take a fresh certificate too.
BACKDATED = datetime.timedelta(minutes=10)
# Below this share of a life somebody has to come.
LAST_TENTH = 0.1
ALERT, WARNING = 1, 4


class CertificateError(Exception):
    """What is wrong with which certificate, and what to do about it."""


# ---- certificates and keys


def now() -> datetime.datetime:
    """In UTC but without a zone, as the cryptography of Debian 12 tells times."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)


def utc(thing: Any, name: str) -> datetime.datetime:
    """A time of a certificate or revocation list, which newer libraries tell with a zone and under another name."""
    found: datetime.datetime = getattr(thing, f"{name}_utc", None) or getattr(thing, name)
    return found.replace(tzinfo=None)


def left(begin: datetime.datetime, end: datetime.datetime) -> float:
    """How much of a life is left now: 1 until it begins, 0 when it is over."""
    return max(0.0, min(1.0, (end - now()) / (end - begin)))


def life_left(certificate: x509.Certificate) -> float:
    return left(utc(certificate, "not_valid_before"), utc(certificate, "not_valid_after"))


def serial(certificate: x509.Certificate) -> str:
    """As inventories write it, in hexadecimal."""
    return f"{certificate.serial_number:x}"


def general_name(name: str) -> x509.GeneralName:
    """A host's name or address."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def only(names: Sequence[str]) -> x509.NameConstraints:
    """These and nothing else. A kind of name that none of them is of would be free, and is excluded as a whole."""
    permitted: list[x509.GeneralName] = []
    for name in map(general_name, names):
        address = isinstance(name, x509.IPAddress)
        permitted.append(x509.IPAddress(ipaddress.ip_network(name.value)) if address else name)
    excluded: list[x509.GeneralName] = []
    if not any(isinstance(name, x509.DNSName) for name in permitted):
        excluded.append(x509.DNSName(""))
    if not any(isinstance(name, x509.IPAddress) for name in permitted):
        excluded += [x509.IPAddress(ipaddress.ip_network(every)) for every in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints(permitted, excluded or None)


def public(thing: Any) -> bytes:
    """The public key of a certificate or a private key, to compare."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = thing.public_key().public_bytes(serialization.Encoding.DER, form)
    return encoded


def pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in certificates)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """None of them if there is no file or it was damaged: both are mended by another certificate."""
    try:
        return certificates(path.read_text())
    except (OSError, ValueError):
        return []


def certificates(text: str) -> list[x509.Certificate]:
    found = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    return [x509.load_pem_x509_certificate(one.encode()) for one in found]


def read_key(path: Path) -> Any:
    """None if there is no file or it was damaged."""
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError):
        return None


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> Any:
    """The value of an extension; empty without it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return ()


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether an issuer of ours has signed it; ours all have keys of P-256."""
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or certificate.issuer != issuer.subject:
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def put(path: Path, content: str, mode: int = 0o644, owner: str = "root", group: str = "root") -> bool:
    """Writes a file at once or not at all, and at no time for others to read. Says whether that changed anything."""
    user, team = pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        as_wanted = (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, user, team)
        if as_wanted and path.read_text() == content:
            return False
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), user, team)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return True


# ---- what there should be


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """One that there should be: a service's, or that of the gateway's own issuer."""

    directory: Path
    name: str
    common_name: str
    names: Sequence[str]
    usage: str
    owner: str = "root"
    group: str = "root"
    reload: str = ""
    given: bool = False  # the inventory brings it, with its key

    @property
    def is_issuer(self) -> bool:
        return self.usage == ISSUER

    @property
    def key_path(self) -> Path:
        return self.directory / f"{self.name}.key"

    @property
    def pending_path(self) -> Path:
        """Where a key waits for its certificate."""
        return self.directory / "pending" / f"{self.name}.key"

    @property
    def path(self) -> Path:
        return self.directory / f"{self.name}.crt"

    @property
    def chain_path(self) -> Path:
        """The certificate, and those between it and the authority."""
        return self.directory / f"{self.name}.chain"

    @property
    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])

    @property
    def constraints(self) -> x509.NameConstraints:
        return only(self.names)

    @property
    def request_path(self) -> Path:
        return self.directory / "pending" / f"{self.name}.csr"

    @property
    def present(self) -> x509.Certificate | None:
        return next(iter(read_certificates(self.path)), None)

    def keys(self) -> list[Any]:
        """Those there are, the one that waits first."""
        return [key for key in map(read_key, (self.pending_path, self.key_path)) if key is not None]

    def extensions(self, key: Any) -> list[tuple[x509.ExtensionType, bool]]:
        """What it has to say beside its subject, and whether that is critical."""
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        ) | dict.fromkeys(("encipher_only", "decipher_only"), False)
        usage |= {"digital_signature": not self.is_issuer, "key_cert_sign": self.is_issuer, "crl_sign": self.is_issuer}
        return [
            (x509.BasicConstraints(self.is_issuer, 0 if self.is_issuer else None), True),
            (x509.KeyUsage(**usage), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            *(
                [(self.constraints, True)]
                if self.is_issuer
                else [
                    (x509.SubjectAlternativeName([general_name(name) for name in self.names]), False),
                    (x509.ExtendedKeyUsage(sorted(USAGES[self.usage][0], key=lambda one: one.dotted_string)), False),
                ]
            ),
        ]

    def differs(self, certificate: x509.Certificate, more_allowed: bool) -> str | None:
        """What a certificate says otherwise than it should; None if nothing. Others' authorities may add to it."""
        if self.is_issuer:
            same = extension(certificate, x509.NameConstraints) == self.constraints
            return None if same else f"not restricted to {', '.join(self.names)}"
        names, wanted = set(extension(certificate, x509.SubjectAlternativeName)), set(map(general_name, self.names))
        uses = set(extension(certificate, x509.ExtendedKeyUsage))
        if more_allowed:
            names, uses = names & wanted, uses & USAGES[self.usage][0]
        if names != wanted:
            return f"not for {', '.join(self.names)}"
        return None if uses == USAGES[self.usage][0] else f"not for use as {self.usage}"

    def finish(self) -> bool:
        """Takes the key that waits into use when its certificate is in place, also after a power cut in between."""
        pending, present = read_key(self.pending_path), self.present
        if pending is None or present is None or public(pending) != public(present):
            return False
        os.replace(self.pending_path, self.key_path)
        return True

    def guard(self) -> bool:
        """Nobody reads the key but root and the service: its account, or the group it has for that."""
        if not self.key_path.exists():
            return False
        mode = 0o600 if self.group == "root" else 0o640
        try:
            return put(self.key_path, self.key_path.read_text(), mode, self.owner, self.group)
        except KeyError as error:
            raise CertificateError(
                f"{self.name}: {error.args[0]}: expected the owner and group of the key; install the service first"
            ) from None


class Gateway:
    """All certificates of this gateway."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.directory = Path(given["directory"])
        self.state = Path(given["state_directory"])
        self.metrics = Path(given["metrics_directory"]) if given["metrics_directory"] else None
        self.external: bool = given["external"]
        self.days: float = given["days"]
        self.crl_days: float = given["crl_days"]
        self.renew_left: float = given["renew_left"]
        self.revoked = set(given["revoked"])
        issuer, services = given["issuer"], given["services"]
        self.issuer = Certificate(self.directory, ISSUER, usage=ISSUER, **issuer) if issuer else None
        self.services = [Certificate(self.directory, **service) for service in services]
        self.all = [self.issuer, *self.services] if self.issuer else self.services
        self.authorities = read_certificates(self.directory / "ca.crt")

    def make_directories(self) -> None:
        (self.directory / "pending").mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.state, self.metrics):
            if directory:
                directory.mkdir(parents=True, exist_ok=True)

    def authority_of(self, certificate: Certificate) -> x509.Certificate | None:
        """Who of us signs it; None if others do."""
        if self.issuer and not certificate.is_issuer and not certificate.given:
            return self.issuer.present
        return None if self.external else next(iter(self.authorities), None)

    def due(self, certificate: Certificate) -> str | None:
        """Why it is to be replaced; None if it is good for now."""
        present, key, authority = certificate.present, read_key(certificate.key_path), self.authority_of(certificate)
        if present is None or key is None:
            return "missing"
        if public(present) != public(key):
            return "not that of its key"
        if serial(present) in self.revoked:
            return "revoked"
        if authority and not signed_by(present, authority):
            return "of another authority"
        if reason := certificate.differs(present, self.external):
            return reason
        share = life_left(present)
        return f"at {share:.0%} of its life" if share <= self.renew_left else None

    def key(self, certificate: Certificate) -> Any:
        """The one to be certified: that which is there, or a new one if there is none or that was revoked."""
        keys, present = certificate.keys(), certificate.present
        distrusted = public(present) if present and serial(present) in self.revoked else None
        for key in keys:
            if public(key) != distrusted:
                return key
        key = ec.generate_private_key(ec.SECP256R1())
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        put(certificate.pending_path, key.private_bytes(serialization.Encoding.PEM, form, plain).decode(), 0o600)
        return key

    def request(self, certificate: Certificate) -> tuple[str, bool]:
        """A request for it, as PEM, and whether it is another than the last one."""
        key = self.key(certificate)
        builder = x509.CertificateSigningRequestBuilder().subject_name(certificate.subject)
        for value, critical in certificate.extensions(key):
            builder = builder.add_extension(value, critical)
        request = builder.sign(key, hashes.SHA256())
        with contextlib.suppress(OSError, ValueError):
            last = x509.load_pem_x509_csr(certificate.request_path.read_bytes())
            if last.tbs_certrequest_bytes == request.tbs_certrequest_bytes:  # signatures are never the same
                return certificate.request_path.read_text(), False
        text = request.public_bytes(serialization.Encoding.PEM).decode()
        return text, put(certificate.request_path, text, 0o600)

    def wanted(self) -> dict[Certificate, str]:
        """What others have to issue now, and why."""
        others = [self.issuer] if self.issuer else [one for one in self.services if not one.given]
        return {one: reason for one in others if (reason := self.due(one))}

    def verify(self, certificate: Certificate, chain: Sequence[x509.Certificate]) -> None:
        """That it is what was asked for, fits a key of this gateway, and holds before the authority, here and now."""
        first = chain[0]
        where = f"{certificate.name}: the certificate {serial(first)}"
        if public(first) not in map(public, certificate.keys()):
            raise CertificateError(f"{where} fits no key of this gateway; have the newest request signed")
        if reason := certificate.differs(first, self.external):
            raise CertificateError(f"{where} is {reason}; have the newest request signed")
        if (begin := utc(first, "not_valid_before")) > now():
            raise CertificateError(f"{where} is valid from {begin}, this gateway has {now()} (UTC); set its clock")
        with tempfile.TemporaryDirectory() as place:
            files = {"ca": self.authorities, "between": chain[1:], "first": chain[:1]}
            for name, content in files.items():
                Path(place, name).write_text(pem(*content))
            command = ["openssl", "verify", "-no-CApath", "-CAfile", f"{place}/ca"]
            if chain[1:]:
                command += ["-untrusted", f"{place}/between"]
            for purpose in USAGES[certificate.usage][1]:
                done = subprocess.run(
                    [*command, "-purpose", purpose, f"{place}/first"], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    said = "; ".join(line for line in done.stderr.splitlines() if line.startswith("error"))
                    raise CertificateError(
                        f"{where} does not hold before the authority ({said or done.stderr.strip()}); give the"
                        " certificates between the two after it, and the authority's own as ca.crt"
                    )

    def install(self, certificate: Certificate, chain: Sequence[x509.Certificate]) -> None:
        """Puts in place what was verified."""
        put(certificate.path, pem(chain[0]))
        certificate.finish()
        certificate.request_path.unlink(missing_ok=True)
        put(certificate.chain_path, pem(*chain))
        certificate.guard()

    def renew(self) -> list[str]:
        """Issues what is due and what this gateway may issue by itself. Says which."""
        issuer = self.issuer.present if self.issuer else None
        if not self.issuer or not issuer or not life_left(issuer):
            return []
        between, key = read_certificates(self.issuer.chain_path), read_key(self.issuer.key_path)
        renewed = []
        for one in self.services:
            if one.given:
                continue
            reason, present = self.due(one), one.present
            life, last = datetime.timedelta(days=self.days), utc(issuer, "not_valid_after")
            end = min(now() + life, last)
            if present and reason and reason.startswith("at ") and end == last:
                # Not again and again when the issuer itself is about to end.
                reason = reason if end - utc(present, "not_valid_after") > life * LAST_TENTH else None
            if reason:
                chain = [self.issue(one, issuer, key, end), *between]
                self.verify(one, chain)
                self.install(one, chain)
                renewed.append(one.name)
            elif present and put(one.chain_path, pem(present, *between)):
                renewed.append(one.name)
        return renewed

    def issue(
        self, certificate: Certificate, issuer: x509.Certificate, issuer_key: Any, end: datetime.datetime
    ) -> x509.Certificate:
        """One of this gateway's own issuer."""
        key = self.key(certificate)
        builder = (
            x509.CertificateBuilder()
            .subject_name(certificate.subject)
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now() - BACKDATED, utc(issuer, "not_valid_before")))
            .not_valid_after(end)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
        )
        for value, critical in certificate.extensions(key):
            builder = builder.add_extension(value, critical)
        return builder.sign(issuer_key, hashes.SHA256())

    def revocation_list(self) -> tuple[str, bool]:
        """What this gateway's own issuer has revoked, as PEM, and whether it was made just now; empty without one."""
        key = next(iter(self.issuer.keys()), None) if self.issuer else None
        if not self.issuer or key is None:
            return "", False
        path = self.directory / "issuer.crl"
        with contextlib.suppress(OSError, ValueError):
            present = x509.load_pem_x509_crl(path.read_bytes())
            if (
                present.is_signature_valid(key.public_key())
                and {f"{one.serial_number:x}" for one in present} == self.revoked
                and left(utc(present, "last_update"), utc(present, "next_update")) > self.renew_left
            ):
                return path.read_text(), False
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.issuer.subject)
            .last_update(now() - BACKDATED)
            .next_update(now() + datetime.timedelta(days=self.crl_days))
            .add_extension(x509.CRLNumber(int(now().timestamp())), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        )
        for number in sorted(self.revoked):
            entry = x509.RevokedCertificateBuilder().serial_number(int(number, 16)).revocation_date(now()).build()
            builder = builder.add_revoked_certificate(entry)
        put(path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())
        return path.read_text(), True

    def take(self, given: Mapping[str, Any]) -> list[str]:
        """Puts in place what the control node brings, once all of it is verified. Says what changed."""
        changed = []
        self.authorities = certificates(given["ca"])
        if not self.authorities:
            raise CertificateError("ca.crt: expected the certificate of an authority as PEM, found none")
        for authority in self.authorities:
            if not life_left(authority):
                name, end = authority.subject.rfc4514_string(), utc(authority, "not_valid_after")
                raise CertificateError(f"ca.crt: {name} has expired at {end} (UTC); bring its successor")
        chains: dict[Certificate, list[x509.Certificate]] = {}
        for one in self.all:
            key, text = given["private_keys"].get(one.name), given["certificates"].get(one.name)
            if key and not (one.key_path.exists() and one.key_path.read_text() == key):
                put(one.pending_path, key, 0o600)
            if text:
                chain = certificates(text)
                if not chain:
                    raise CertificateError(f"{one.name}: expected a certificate as PEM, found none")
                chain = [chain[0], *(other for other in chain[1:] if other.issuer != other.subject)]
                pending = read_key(one.pending_path)
                if read_certificates(one.chain_path) != chain or (pending and public(pending) == public(chain[0])):
                    self.verify(one, chain)
                    chains[one] = chain
        for file in ("ca.crt", "crl.pem"):
            text = given[file.partition(".")[0]]
            if text and put(self.directory / file, text):
                changed.append(file)
        for one, chain in chains.items():
            self.install(one, chain)
            changed.append(one.name)
        return changed

    def prune(self) -> list[str]:
        """Removes certificates and keys that nobody asks for any longer."""
        kept = {path for one in self.all for path in (one.key_path, one.path, one.chain_path)}
        kept |= {path for one in self.all for path in (one.pending_path, one.request_path)}
        kept |= {self.directory / name for name in ("ca.crt", "crl.pem", "pending")}
        if self.issuer:
            kept.add(self.directory / "issuer.crl")
        there = {*self.directory.iterdir(), *(self.directory / "pending").iterdir()}
        for path in there - kept:
            path.unlink()
        return sorted(path.name for path in there - kept)

    def reload(self) -> list[str]:
        """Has services read what is new to them, also what they failed to read last time. Says which."""
        record = self.state / "reloaded.json"
        read: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
        files: dict[str, list[Path]] = {}
        for one in self.services:
            if one.reload:
                common = (self.directory / "ca.crt", self.directory / "crl.pem")
                files.setdefault(one.reload, []).extend((one.chain_path, one.key_path, *common))
        digests, reloaded = {}, []
        for unit, paths in files.items():
            content = [path.read_bytes() if path.exists() else b"" for path in paths]
            digests[unit] = hashlib.sha256(b"".join(content)).hexdigest()
            if read.get(unit) == digests[unit]:
                continue
            # One that does not run reads them when it starts.
            if subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0:
                if subprocess.run(["systemctl", "reload-or-restart", unit], check=False).returncode:
                    del digests[unit]
                else:
                    reloaded.append(unit)
        put(record, json.dumps(digests, sort_keys=True))
        if failed := files.keys() - digests.keys():
            raise CertificateError(
                f"{', '.join(sorted(failed))} did not take the new certificate and goes on with the one before; see"
                " journalctl -u for why. The next run tries again"
            )
        return reloaded

    def watched(self) -> dict[str, x509.Certificate]:
        """Everything whose end matters here."""
        there = {one.name: one.present for one in self.all} | {"ca": next(iter(self.authorities), None)}
        return {name: certificate for name, certificate in there.items() if certificate is not None}

    def complaints(self) -> list[tuple[int, str]]:
        """What should have been renewed, with how much that matters."""
        found = []
        for one in self.all:
            if reason := self.due(one):
                bad = one.present is None or serial(one.present) in self.revoked or life_left(one.present) < LAST_TENTH
                found.append((ALERT if bad else WARNING, f"{one.name}: the certificate is {reason}"))
        for authority in self.authorities:
            if (share := life_left(authority)) <= self.renew_left:
                found.append((ALERT if share < LAST_TENTH else WARNING, f"ca.crt: at {share:.0%} of its life"))
        return [(level, f"{text}; run certificates.yml from the control node") for level, text in found]

    def export(self) -> None:
        """Leaves for Prometheus when what ends."""
        if not self.metrics:
            return
        prefix = "multi_sonicator_certificate"
        lines: list[str] = []

        def gauge(name: str, meaning: str, values: Mapping[str, float]) -> None:
            lines.extend((f"# HELP {prefix}_{name} {meaning}", f"# TYPE {prefix}_{name} gauge"))
            lines.extend(f"{prefix}_{name}{label} {value:.0f}" for label, value in values.items())

        ends, due = {}, {}
        for name, certificate in self.watched().items():
            ends[f'{{name="{name}"}}'] = utc(certificate, "not_valid_after").replace(tzinfo=datetime.UTC).timestamp()
        for one in self.all:
            due[f'{{name="{one.name}"}}'] = float(self.due(one) is not None)
        gauge("not_after_seconds", "When it ends.", ends)
        gauge("due", "Whether it should have been renewed.", due)
        gauge("check_seconds", "When they were last looked at.", {"": datetime.datetime.now().timestamp()})
        put(self.metrics / "multi_sonicator_certificates.prom", "\n".join([*lines, ""]))

    def status(self) -> list[dict[str, Any]]:
        """What there is, for people and for validation."""
        found = []
        for one in self.all:
            entry: dict[str, Any] = {"name": one.name, "due": self.due(one)}
            if one.present:
                entry["serial_number"] = serial(one.present)
                entry["not_after"] = f"{utc(one.present, 'not_valid_after'):%Y-%m-%dT%H:%M:%SZ}"
            found.append(entry)
        return found


# ---- the command line


def carry_out(command: str, gateway: Gateway) -> dict[str, Any]:
    if command == "status":
        return {"certificates": gateway.status()}
    gateway.make_directories()
    with open(gateway.state / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = [one.name for one in gateway.all if one.finish()]
        if command == "request":
            requests = []
            for one, reason in gateway.wanted().items():
                csr, new = gateway.request(one)
                requests.append({"name": one.name, "reason": reason, "csr": csr})
                changed += [one.name] if new else []
            crl, new = gateway.revocation_list()
            return {"changed": bool(changed or new), "requests": requests, "crl": crl}
        try:
            if command == "take":
                changed += gateway.take(json.load(sys.stdin))
                changed += gateway.prune()
            changed += gateway.renew()
            changed += [one.name for one in gateway.all if one.guard()]
            changed += gateway.reload()
        finally:
            complaints = gateway.complaints()
            for level, text in complaints:
                print(f"<{level}>{text}", file=sys.stderr)
            gateway.export()
        if command == "renew" and any(level == ALERT for level, _text in complaints):
            sys.exit(1)
        return {"changed": bool(changed), "what": sorted(set(changed)), "certificates": gateway.status()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="multi-sonicator-certificates", description=__doc__)
    commands = {
        "status": "say what there is",
        "request": "make keys, and requests for what others have to issue",
        "take": "put in place what standard input brings",
        "renew": "issue what is due, export when what ends",
    }
    parser.add_argument("command", choices=commands, help="; ".join(f"{key}: {text}" for key, text in commands.items()))
    parser.add_argument("--configuration", type=Path, default=CONFIGURATION)
    given = parser.parse_args()
    try:
        answer = carry_out(given.command, Gateway(json.loads(given.configuration.read_text())))
    except CertificateError as problem:
        print(f"<{ALERT}>{problem}", file=sys.stderr)
        print(json.dumps({"problem": str(problem)}))
        sys.exit(1)
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
