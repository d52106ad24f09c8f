"""What the API answers, as models: instants are Unix ms, power mW, energy mWh."""

from typing import Any

from pydantic import BaseModel


class Account(BaseModel):
    """Who is logged in; `csrf` goes into the header X-CSRF-Token of what changes something."""

    name: str
    role: str
    csrf: str


class Charger(BaseModel):
    """A charger in the list of all."""

    device: str
    label: str
    site: str
    evse_id: str
    rated_w: int
    state: str
    since_at: int | None
    cp: str
    sid: str
    progress: str
    power_mw: int | None
    session_mwh: int | None
    register_mwh: int | None
    unsent: int
    heard_at: int | None
    changed_at: int | None
    alarms: int


class Fleet(BaseModel):
    """A page of chargers, and sums over all."""

    now_ms: int
    chargers: list[Charger]
    total: int
    counts: dict[str, int]
    in_use: int
    alarms_open: int
    alarms_unseen: int
    power_mw: int
    unsent: int
    missing: int


class Key(BaseModel):
    """A public key that is trusted; `follows` names the one that it took over from."""

    key_id: str
    spki: str
    enrolled_at: int
    follows: str | None


class ChargerDetail(Charger):
    """Everything of one charger; the messages are as it sent them."""

    now_ms: int
    info: dict[str, Any]
    status: dict[str, Any]
    telemetry: dict[str, Any]
    diagnostics: dict[str, Any]
    configuration: dict[str, Any]
    spans: list[dict[str, Any]]
    commands: list[dict[str, Any]]
    keys: list[Key]


class Alarm(BaseModel):
    """An alarm with its life: raised, over, cleared, acknowledged, escalated."""

    id: int
    device: str
    label: str
    site: str
    code: str
    severity: str
    text: str
    count: int
    onset_ms: int
    raised_at: int
    changed_at: int
    over_at: int | None
    cleared_at: int | None
    acked_at: int | None
    acked_by: str | None
    note: str
    escalated_at: int | None


class SessionRow(BaseModel):
    """A session as its signed records have it. `duration_s` is of the monotonic clock where the
    charger told it; `true_begin_ms` is there where its clock was set only after it began."""

    device: str
    sid: str
    key_id: str
    state: str
    begin_ms: int
    begin_mwh: int
    end_ms: int | None
    energy_mwh: int | None
    gap_mwh: int
    billable: bool | None
    ok: bool
    tx: str
    changed_at: int
    duration_s: int | None = None
    true_begin_ms: int | None = None


class Gap(BaseModel):
    """Numbers that a device has passed over."""

    device: str
    key_id: str
    first: int
    last: int
    missing: int
    seen_at: int
    asked_at: int | None
    asked: int
    closed_at: int | None


class Link(BaseModel):
    """A link for a driver; it is shown this once. `qr` is an image as a data URI."""

    url: str
    qr: str


class Site(BaseModel):
    """A place with chargers."""

    id: str
    name: str
    address: str
    city: str
    country: str
    latitude: str
    longitude: str
    time_zone: str
    limit_w: int


class Evse(BaseModel):
    """A charger at a site; `status` is OCPI's."""

    device: str
    evse_id: str
    label: str
    state: str
    status: str
    free_at_ms: int | None
    rated_w: int
    changed_at: int


class Place(Site):
    """A site with what is free; rank 1 is where to send the next driver."""

    rank: int
    free: int
    chargers: int
    free_permille: int
    power_w: int
    headroom_w: int | None
    next_free_at_ms: int | None
    evses: list[Evse]


class Availability(BaseModel):
    """All sites, best first."""

    now_ms: int
    sites: list[Place]


class EdgeTime(BaseModel):
    """When a session began or ended (`name`): the signed time with the clock's quality (U: not
    known, I, S, R), and the true one with its uncertainty where the charger's entry number
    `told_by` shows it afterwards."""

    name: str
    signed_ms: int
    quality: str
    true_ms: int | None
    uncertainty_ms: int | None
    told_by: int | None


class DriverView(BaseModel):
    """A session as its driver sees it. `samples` are [Unix ms, mW, mWh]."""

    now_ms: int
    sid: str
    charger: str
    ended: bool
    state: str
    words: str
    progress: str
    online: bool
    heard_at: int | None
    begin_ms: int | None
    end_ms: int | None = None
    energy_mwh: int | None
    power_mw: int | None = None
    elapsed_s: int | None = None
    overstay_s: int | None = None
    eta_s: int | None = None
    offered_ma: int | None = None
    cost_minor: int | None = None
    tariff: dict[str, Any] = {}
    times: list[EdgeTime]
    samples: list[list[int | None]]
    gap_mwh: int | None = None
    billable: bool | None = None
    receipt: dict[str, Any] | None = None
