"""Exact versions of objects in the object store: look at one, read it in ranges, store one.

A version is named by S3's id of it, by its ETag, or both; every request names it, so an object that is overwritten
while it is read is an error and never a mixture.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import tenacity
from botocore.exceptions import BotoCoreError, ClientError

from lakehouse.errors import LakehouseError, ServerUnavailableError, SettingsError, TerminalError, TransientError
from lakehouse.settings import S3Settings

RANGE_BYTES: Final = 8 << 20
_KEYS_AT_ONCE: Final = 1000  # S3's own limit
SHA256: Final = "sha256"
"""Name of the metadata that holds the SHA-256 of an object that `put` stored."""

_NO_KEY: Final = "is-anybody-there"

Trouble = Literal["missing", "changed", "denied"]

_MISSING: Final = frozenset(
    {
        *("404", "NoSuchKey", "NoSuchVersion", "NoSuchBucket"),
        *("405", "MethodNotAllowed"),  # the version says that the object was deleted
        *("InvalidArgument", "XMinioInvalidObjectName"),  # no object can have such a name or version
    }
)
_CHANGED: Final = frozenset({"412", "PreconditionFailed", "416", "InvalidRange"})
_DENIED: Final = frozenset({"403", "AccessDenied"})
_OURS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
        "refuses the key of the pipeline",
    ),
    "AuthorizationHeaderMalformed": "is of another region than LAKEHOUSE_S3__REGION says",
    "RequestTimeTooSkewed": "has another time than this machine, whose clock is to be set",
}
"""What a code says of our settings, and nothing of an object."""
_PASSING: Final = frozenset({"SlowDown", "RequestTimeout"})


class ObjectError(TerminalError):
    """The store answered, and this version of the object can't be read.

    Attributes:
        trouble: `missing`: there is no such version; `changed`: the ETag is another one; `denied`: it is not for us.
    """

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble: Trouble = trouble


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of one object; at least one of `version_id` and `etag` says which."""

    bucket: str
    key: str
    version_id: str | None
    etag: str | None

    @property
    def request(self) -> dict[str, Any]:
        """The arguments that name it in a request."""
        named: dict[str, Any] = {"Bucket": self.bucket, "Key": self.key}
        named |= {"VersionId": self.version_id} if self.version_id else {}
        return named | ({"IfMatch": f'"{self.etag}"'} if self.etag else {})


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What the store says of a version.

    Attributes:
        modified_at: when it was written, whole seconds.
        sha256: as `put` had it stored; None of what others stored.
    """

    version: ObjectVersion
    size_bytes: int
    modified_at: datetime
    sha256: str | None


class Total(NamedTuple):
    """How many objects there are, and how large they are together."""

    objects: int
    size_bytes: int


class Objects:
    """The object store with the pipeline's key.

    Every method raises:
        ServerUnavailableError: the store did not answer, or with a fault that passes.
        SettingsError: the store does not know the pipeline's key, or its region or the clock is wrong.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._endpoint = settings.endpoint
        self._client: Any = _client(
            settings.endpoint, settings.region, settings.access_key, settings.secret_key.get_secret_value()
        )

    def look(self, version: ObjectVersion) -> ObjectState:
        """Ask for a version without reading it.

        Raises:
            ObjectError: there is no such version, or it is not for us.
        """
        try:
            answer = self._client.head_object(**version.request)
        except (ClientError, BotoCoreError) as error:
            translated = self._translated(error, version)
            if isinstance(translated, ObjectError) and translated.trouble == "denied":
                self.read(version, 0, 1)  # the answer to a question for the head alone does not say why
            raise translated from error
        return _state(version.bucket, version.key, answer)

    def answers(self, bucket: str) -> bool:
        """Ask whether the store answers at all; what it says is no matter."""
        try:
            self.newest(bucket, _NO_KEY)
        except ServerUnavailableError:
            return False
        except TerminalError:
            pass
        return True

    def newest(self, bucket: str, key: str) -> ObjectState | None:
        """Ask for the newest version of an object; None when there is none."""
        try:
            return self.look(ObjectVersion(bucket, key, None, None))
        except ObjectError as error:
            if error.trouble == "missing":
                return None
            raise

    def under(self, bucket: str, prefix: str) -> list[ObjectState]:
        """List the newest versions of the objects whose key begins so, by key; without their SHA-256.

        Raises:
            ObjectError: there is no such bucket, or it is not for us.
        """
        found: list[ObjectState] = []
        for each in self._listed(bucket, prefix):
            version = ObjectVersion(bucket, each["Key"], None, each["ETag"].strip('"'))
            found.append(ObjectState(version, each["Size"], each["LastModified"], None))
        return found

    def total(self, bucket: str) -> Total:
        """Count the newest versions of all objects of a bucket, however many there are.

        Raises:
            ObjectError: there is no such bucket, or it is not for us.
        """
        objects = size_bytes = 0
        for each in self._listed(bucket, ""):
            objects += 1
            size_bytes += each["Size"]
        return Total(objects, size_bytes)

    def _listed(self, bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                yield from page.get("Contents", ())
        except (ClientError, BotoCoreError) as error:
            raise self._translated(error, ObjectVersion(bucket, prefix, None, None)) from error

    def open(self, version: ObjectVersion, size_bytes: int) -> "ObjectStream":
        """Open a version to read; raises what `look` raises when it is read."""
        return ObjectStream(self, version, size_bytes)

    def put(self, bucket: str, key: str, content: bytes | Path, sha256: str) -> ObjectState:
        """Store an object whole, at most 5 GiB of it.

        Raises:
            ObjectError: there is no such bucket, or it is not for us.
        """
        named: dict[str, Any] = {"Bucket": bucket, "Key": key, "Metadata": {SHA256: sha256}}
        try:
            if isinstance(content, Path):
                with content.open("rb") as body:
                    answer = self._client.put_object(Body=body, **named)
            else:
                answer = self._client.put_object(Body=content, **named)
        except (ClientError, BotoCoreError) as error:
            raise self._translated(error, ObjectVersion(bucket, key, None, None)) from error
        return self.look(ObjectVersion(bucket, key, answer.get("VersionId"), answer["ETag"].strip('"')))

    def delete(self, bucket: str, keys: Iterable[str]) -> list[str]:
        """Delete objects; one that is not there is no fault.

        Returns:
            What the store kept, each with why.

        Raises:
            ObjectError: there is no such bucket, or it is not for us.
        """
        return self._delete(bucket, ({"Key": key} for key in keys))

    def delete_all(self, bucket: str, prefix: str) -> None:
        """Delete every version of the objects whose keys start so; nothing when there is no such bucket.

        Raises:
            ObjectError: they are not for us.
            TransientError: the store kept some.
        """
        try:
            if kept := self._delete(bucket, self._versions(bucket, prefix)):
                raise TransientError(f"the object store kept {len(kept):,} objects, first {kept[0]}: run again")
        except ObjectError as error:
            if error.trouble != "missing":
                raise

    def _versions(self, bucket: str, prefix: str) -> Iterator[dict[str, str]]:
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield {"Key": one["Key"], "VersionId": one["VersionId"]}

    def _delete(self, bucket: str, named: Iterable[dict[str, str]]) -> list[str]:
        kept: list[str] = []
        left = iter(named)
        try:
            while some := list(islice(left, _KEYS_AT_ONCE)):
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True})
                kept += [f"{one['Key']}: {one['Message']}" for one in answer.get("Errors", ())]
        except (ClientError, BotoCoreError) as error:
            raise self._translated(error, ObjectVersion(bucket, "*", None, None)) from error
        return kept

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(ServerUnavailableError),
        wait=tenacity.wait_exponential(0.5, max=4),
        stop=tenacity.stop_after_attempt(4),
        reraise=True,
    )
    def read(self, version: ObjectVersion, start: int, end: int) -> bytes:
        """Read the bytes of a version from `start`, inclusive, to `end`, exclusive.

        Raises:
            ObjectError: there is no such version, it is not for us, or it is shorter.
        """
        try:
            answer = self._client.get_object(Range=f"bytes={start}-{end - 1}", **version.request)
            content = answer["Body"].read()
        # What breaks a body off comes from urllib3 in parts.
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._translated(error, version) from error
        if len(content) != end - start:
            raise ServerUnavailableError(f"{self._endpoint} broke off an answer of {version.bucket}/{version.key}")
        return content

    def _translated(self, error: Exception, version: ObjectVersion) -> LakehouseError:
        what = f"{version.bucket}/{version.key}"
        if not isinstance(error, ClientError):
            return ServerUnavailableError(f"the object store at {self._endpoint} did not answer for {what}: {error}")
        answer: Mapping[str, Any] = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        trouble: tuple[tuple[frozenset[str], Trouble, str], ...] = (
            (_MISSING, "missing", f"there is no {what}" + (" of this version" if version.version_id else "")),
            (_CHANGED, "changed", f"{what} is not what was announced or looked at: its ETag or its size is another"),
            (_DENIED, "denied", f"the object store does not let the pipeline read {what}"),
        )
        for codes, kind, told in trouble:
            if code in codes:
                return ObjectError(kind, told)
        if code in _OURS:
            return SettingsError(f"the object store at {self._endpoint} {_OURS[code]}: {code}")
        if status >= 500 or status in {0, 408, 429} or code in _PASSING:
            return ServerUnavailableError(f"the object store at {self._endpoint} failed on {what}: {code}")
        return ObjectError("denied", f"the object store at {self._endpoint} refused {what}: {code}")


class ObjectStream(io.RawIOBase):
    """A version as a file: each read is a range request, one from front to back of 8 MiB at a time."""

    def __init__(self, objects: Objects, version: ObjectVersion, size_bytes: int) -> None:
        super().__init__()
        self._objects, self._version, self._size_bytes = objects, version, size_bytes
        self._place = 0
        self._held, self._held_from = b"", 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes, without a request."""
        return True

    def tell(self) -> int:
        """The next byte's place."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on elsewhere."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size_bytes}[whence]
        self._place = max(0, start + offset)
        return self._place

    def size(self) -> int:
        """Bytes of the whole version."""
        return self._size_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; fewer than asked for at the end only."""
        end = self._size_bytes if size is None or size < 0 else min(self._place + size, self._size_bytes)
        wanted = max(0, end - self._place)
        content = self._piece(wanted)
        while len(content) < wanted and (more := self._piece(wanted - len(content))):
            content += more
        return content

    def readinto(self, buffer: Any, /) -> int:
        """Some of the next bytes."""
        content = self._piece(min(len(buffer), max(0, self._size_bytes - self._place)))
        buffer[: len(content)] = content
        return len(content)

    def _piece(self, wanted: int) -> bytes:
        """Some of the next bytes, at most as many as wanted; none at the end."""
        if wanted <= 0:
            return b""
        inside = self._place - self._held_from
        if not 0 <= inside < len(self._held):
            # Who goes on from where the last range ended reads from front to back, and gets the next range whole.
            goes_on = self._place == self._held_from + len(self._held)
            end = self._place + (RANGE_BYTES if goes_on else max(wanted, 1 << 16))
            self._held = self._objects.read(self._version, self._place, min(end, self._size_bytes))
            self._held_from, inside = self._place, 0
        piece = self._held[inside : inside + wanted]
        self._place += len(piece)
        return piece


def _state(bucket: str, key: str, answer: Mapping[str, Any]) -> ObjectState:
    version = ObjectVersion(bucket, key, answer.get("VersionId"), answer["ETag"].strip('"'))
    return ObjectState(version, answer["ContentLength"], answer["LastModified"], answer["Metadata"].get(SHA256))


@lru_cache(maxsize=4)
def _client(endpoint: str, region: str, access_key: str, secret_key: str) -> Any:
    # Heavy, and each command of ours imports this module.
    from boto3.session import Session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    # Kept, because making one reads the descriptions of all requests.
    return Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 3},
        ),
    )
