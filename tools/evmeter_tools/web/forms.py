"""What may be sent to the API: bounds and patterns, so that nothing else reaches the database."""

from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from evmeter_tools.insight.uptime import REASONS

_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"

Device = Annotated[str, Path(pattern=r"^[A-Za-z0-9-][A-Za-z0-9_-]{0,19}$",
                             examples=["demo-0001"])]
Sid = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.:-]{1,36}$", examples=["demo-0001-000001"])]
Token = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{22}$")]
SiteId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,36}$", examples=["garage"])]
Number = Annotated[int, Path(ge=1, le=2**53)]
Limit = Annotated[int, Query(ge=1, le=500)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Instant = Annotated[int | None, Query(ge=0, le=2**53)]


def text(most, least=0):
    """Text of people: no control characters."""
    return Annotated[str, StringConstraints(min_length=least, max_length=most,
                                            pattern=_NO_CONTROL)]


Search = Annotated[str, Query(max_length=40, pattern=_NO_CONTROL)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LoginForm(_Form):
    """Name and password of an account."""

    name: text(64, 1)
    password: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NoteForm(_Form):
    """What somebody has to say to an alarm."""

    note: text(500) = ""


class ChargerForm(_Form):
    """What the operator calls a charger, where it stands, what it can do."""

    label: text(64) = ""
    site: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,36}$")] = ""
    evse_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*]{0,48}$")] = ""
    rated_w: int = Field(0, ge=0, le=1_000_000)


class SiteForm(_Form):
    """A place with chargers. `limit_w`: what its connection allows; 0 where that is not known."""

    name: text(100) = ""
    address: text(45) = ""
    city: text(45) = ""
    country: Annotated[str, StringConstraints(pattern=r"^([A-Z]{3})?$")] = ""
    # as OCPI has them: at most 10 and 11 characters
    latitude: Annotated[str, StringConstraints(
        max_length=10, pattern=r"^(-?([0-8]?[0-9]\.[0-9]{5,7}|90\.0{5,7}))?$")] = ""
    longitude: Annotated[str, StringConstraints(
        max_length=11, pattern=r"^(-?((1[0-7]|[0-9])?[0-9]\.[0-9]{5,7}|180\.0{5,7}))?$")] = ""
    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = "UTC"
    limit_w: int = Field(0, ge=0, le=100_000_000)


class OrderForm(_Form):
    """A command that needs no operator's signature."""

    op: Literal["identify", "reboot", "stop"]


class DecisionForm(_Form):
    """What is done with energy that flowed while a device was off."""

    decision: Literal["confirmed", "waived"]


class ExclusionForm(_Form):
    """Time, Unix s, in which an outage does not count against the up-time, and why."""

    from_s: Annotated[int, Field(ge=0, lt=2**32)]
    to_s: Annotated[int, Field(ge=1, le=2**32)]
    reason: Literal[tuple(REASONS)]
    note: text(500) = ""


class LinkForm(_Form):
    """`sid`: a session of the charger; "" for whatever session it has when the link is opened."""

    sid: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{0,36}$")] = ""


class AlertForm(_Form):
    """Whom to tell what happens in a session: an e-mail address or a topic of the ntfy server."""

    channel: Literal["email", "ntfy"]
    target: Annotated[str, StringConstraints(
        min_length=1, max_length=254,
        pattern=r"^([A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,180}\.[A-Za-z]{2,24}"
                r"|[A-Za-z0-9_-]{1,64})$")]
