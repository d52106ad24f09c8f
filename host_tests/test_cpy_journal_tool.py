"""`evmeter journal`: what it shows of images that the firmware wrote, whole and damaged."""

import asyncio
import hashlib
import json
import random
from functools import lru_cache

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from typer.testing import CliRunner

import host_flash
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal
from evmeter.ledger.ledger import Ledger
from evmeter.ledger.segments import SegmentStore
from evmeter.session.session import Session, pack_end
from evmeter_tools.cli import app
from evmeter_tools.errors import UserError
from evmeter_tools.faults.power_cut import _NoCrc
from evmeter_tools.faults.ram_flash import BLOCK_BYTES, RamFlash
from evmeter_tools.journal import image as images
from evmeter_tools.journal import words
from evmeter_tools.journal.scan import scan
from evmeter_tools.journal.signatures import signature_faults
from evmeter_tools.verify.parse import key_id
from fakes.memory_store import MemoryNvs
from forge import Forge

_BLOCKS = 40
_OCMF = ('OCMF|{"FV":"1.0","PG":"T%d","RD":[{"TX":"B","RV":12.340,"RU":"kWh"}],"ZB":0}'
         '|{"SD":"00"}')
_NOTHING = "\x1b[2J"  # what clears a terminal must not reach one


def _message(seq):
    kind = 1 + seq % 4
    message = {"v": 1, "ts": 1800000000 + seq, "tq": "I", "k": "0badcafe", "seq": seq,
               "sid": "demo-0001-%06d" % (seq // 8)}
    if kind == frames.REC:
        message.update(kind="begin", ocmf=_OCMF % seq)
    elif kind == frames.IVL:
        message.update(t0=1800000000, len=900, e_mwh=12340000, d_mwh=250000, p_max_mw=7400000,
                       q="G")
    else:
        message.update(ev="boot%s" % _NOTHING, now_mwh=-5, pad="x" * (seq * 37 % 700))
    return kind, message


class _Device:
    """A journal on a flash in memory, by the firmware."""

    def __init__(self, frames_=60):
        self.flash = RamFlash(_BLOCKS)
        self.nvs = MemoryNvs()
        host_flash.mkfs(self.flash)
        SegmentStore.format(host_flash.mount(self.flash))
        self.store = SegmentStore(lambda: host_flash.mount(self.flash), 6)
        self.journal = Journal(self.store, self.nvs, lambda kind, payload: {})
        self.journal.open()
        for _ in range(frames_):
            self.append()
        self.journal.confirm(self.journal.next_seq - 3)
        self.journal.save_cursor()
        self.journal.save_small("session", (1_790_000_000_000).to_bytes(8, "little"))

    def append(self):
        kind, message = _message(self.journal.next_seq)
        self.journal.append(kind, json.dumps(message).encode())

    def payload_at(self, seq):
        """Byte of the image at which the payload of frame `seq` begins, in every copy."""
        text = json.dumps(_message(seq)[1]).encode()
        at = self.flash.image.find(text)
        while at >= 0:
            yield at
            at = self.flash.image.find(text, at + 1)


@lru_cache(1)
def _sound():
    return bytes(_Device().flash.image)


def _scan(tmp_path, data, nvs=None):
    path = tmp_path / "flash.img"
    path.write_bytes(data)
    report = scan(images.open_image(path), nvs)
    assert path.read_bytes() == data
    return report


def _texts(report):
    return " / ".join(words.fault_text(fault) for fault in report.faults)


def _run(*arguments):
    """(exit code, output, standard error) of `evmeter journal ...`."""
    done = CliRunner().invoke(app, ["journal", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, (SystemExit, UserError)):
        raise done.exception
    if isinstance(done.exception, UserError):
        return 2, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def flash(tmp_path):
    path = tmp_path / "sound.img"
    path.write_bytes(_sound())
    return path


def test_a_sound_image_is_shown_whole_and_not_changed(tmp_path):
    device = _Device()
    report = _scan(tmp_path, device.flash.image, device.nvs)
    assert report.ok and not report.notes, (_texts(report), report.notes)
    assert [entry.seq for entry in report.entries] == list(range(1, 61))
    assert [entry.message for entry in report.entries] == [_message(n)[1] for n in range(1, 61)]
    assert [entry.kind for entry in report.entries[:4]] == ["evt", "ivl", "log", "rec"]
    assert report.cursor == 58
    assert len({entry.file for entry in report.entries}) > 3


def test_the_table_keeps_to_eighty_columns_and_says_what_stands_there(flash):
    code, out, _ = _run("read", flash)
    assert code == 0
    assert all(len(line) <= 80 and line.isprintable() for line in out.splitlines())
    assert "begin record T4, B 12.340 kWh, not" in out.replace("\n" + " " * 42, " ")
    assert "900 s: 0.250 kWh from 12.340" in out
    assert "2027-01-15 08:00:04 I 000000" in out
    assert out.splitlines()[-1].startswith("SOUND: 60 entries, frames 1 to 60")


def test_entries_are_chosen_by_type_and_session(flash):
    code, out, _ = _run("read", flash, "--type", "rec", "--session", "demo-0001-000002", "--json")
    found = json.loads(out)
    assert code == 0 and found["ok"] is True
    assert [entry["seq"] for entry in found["entries"]] == [16, 20]
    assert found["entries"][0]["message"] == _message(16)[1]
    code, _, error = _run("read", flash, "--type", "rec,nothing")
    assert code == 2 and "rec, evt, ivl, log" in error


def test_the_export_is_what_lies_in_the_journal(flash, tmp_path):
    code, out, _ = _run("export", flash)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["seq"] for line in lines if "ocmf" in line] == list(range(4, 61, 4))
    assert [line["seq"] for line in lines if "log" in line] == list(range(3, 60, 4))
    assert lines[1] == {"device": "demo-0001", "seq": 4, "type": "rec", "ocmf": _OCMF % 4}
    assert json.loads(lines[0]["log"]) == _message(3)[1]
    code, out, _ = _run("export", flash, "--type", "rec")
    assert [json.loads(line)["seq"] for line in out.splitlines()] == list(range(4, 61, 4))
    code, out, _ = _run("export", flash, "--format", "ocmf", "--out", tmp_path / "x")
    assert code == 0 and "15 lines" in out
    assert (tmp_path / "x").read_text().splitlines() == [_OCMF % n for n in range(4, 61, 4)]
    code, out, _ = _run("export", flash, "--type", "evt,ivl")
    assert [json.loads(line)["seq"] for line in out.splitlines()][:4] == [1, 2, 5, 6]
    for arguments in (("--format", "xml"), ("--format", "ocmf", "--type", "evt"),
                      ("--out", tmp_path / "no" / "folder"), ("--key", "nothing")):
        assert _run("export", flash, *arguments)[0] == 2, arguments


def test_a_flipped_bit_in_a_payload_is_a_wrong_checksum_at_its_place(tmp_path):
    device = _Device()
    for at in device.payload_at(21):
        device.flash.image[at + 10] ^= 4
    report = _scan(tmp_path, device.flash.image)
    assert [entry.seq for entry in report.entries] == [*range(1, 21), *range(22, 61)]
    crc, gap = report.faults
    assert (crc.what.split(";")[0], crc.seq) == ("CRC wrong", 21)
    before = report.entries[19]
    assert crc.file == before.file
    assert crc.offset == before.offset + len(before.payload) + 29
    assert len(crc.expected) == len(crc.found) == 8 and crc.expected != crc.found
    assert (gap.expected, gap.found, gap.seq) == ("21", "22", 22)
    assert "frame 21 is missing" in gap.what
    code, out, error = _run("export", tmp_path / "flash.img", "--type", "evt")
    assert code == 1 and "CRC wrong" in error
    assert len(out.splitlines()) == 14  # frame 21 was the fifteenth event


def _forge(device, seq, change):
    """Rewrite frame `seq` everywhere, with a right checksum."""
    kind, message = _message(seq)
    payload = json.dumps(message).encode()
    for at in list(device.payload_at(seq)):
        frame = bytearray(device.flash.image[at - 25 : at + len(payload)])
        change(frame)
        frame += frames.binascii.crc32(frame).to_bytes(4, "little")
        device.flash.image[at - 25 : at - 25 + len(frame)] = frame


def test_a_forged_frame_with_a_right_checksum_breaks_the_chain(tmp_path):
    device = _Device()

    def richer(frame):
        frame[-1:] = b" " if frame[-1:] != b" " else b"}"
        frame[-2:] = b" }"
        at = frame.index(b'"tq": "I"')
        frame[at : at + 9] = b'"tq": "S"'

    _forge(device, 21, richer)
    report = _scan(tmp_path, device.flash.image)
    fault = next(fault for fault in report.faults if "chain breaks" in fault.what)
    assert fault.seq == 22
    forged = report.entries[20]
    assert forged.seq == 21 and fault.expected == forged.digest
    assert fault.found == report.entries[21].previous != forged.digest


@pytest.mark.parametrize(("seq", "change", "said"), [
    (1, lambda frame: frame.__setitem__(9, 1), "the first frame names a predecessor"),
    (21, lambda frame: frame.__setitem__(8, 9), "unknown type 9"),
    (21, lambda frame: frame.__setitem__(slice(4, 8), b"\x07\0\0\0"), "numbers do not run on"),
    (21, lambda frame: frame.__setitem__(slice(4, 8), b"\x07\0\0\0"), "another number"),
    (21, lambda frame: frame.__setitem__(25, 0x5B), "no JSON object"),
    (21, lambda frame: frame.__setitem__(8, 0), "the frame has no type"),
    (21, lambda frame: frame.__setitem__(0, 0), "wrong magic"),
    (21, lambda frame: frame.__setitem__(3, 0xFF), "the length of the frame is impossible"),
])
def test_what_is_wrong_with_a_frame_is_named(tmp_path, seq, change, said):
    device = _Device()
    _forge(device, seq, change)
    report = _scan(tmp_path, device.flash.image)
    assert said in _texts(report)
    fault = next(fault for fault in report.faults if said in fault.what)
    assert fault.file.startswith("/s/") and fault.offset is not None


def test_a_missing_segment_a_foreign_file_and_one_set_aside_are_named(tmp_path):
    device = _Device()
    fs = host_flash.mount(device.flash)
    second = "/s/%08d" % device.store.segments[1]
    third = "/s/%08d" % device.store.segments[2]
    fs.rename(second, second + ".bad")
    with fs.open("/s/readme", "wb") as file:
        file.write(b"x")
    fs.rename(third, "/s/%08d" % (device.store.segments[2] + 1))
    text = _texts(_scan(tmp_path, device.flash.image))
    assert "frames %d to %d are missing" % (device.store.segments[1],
                                            device.store.segments[2] - 1) in text
    assert "set aside by the device" in text
    assert "/s/readme: no segment's name" in text
    assert "the file's name is not its first frame's number" in text


def test_the_newest_frames_do_not_vanish_unseen(tmp_path):
    device = _Device()
    fs = host_flash.mount(device.flash)
    fs.remove("/s/%08d" % device.store.segments[-1])
    last = device.store.segments[-1] - 1
    text = _texts(_scan(tmp_path, device.flash.image, device.nvs))
    assert "frames up to 60 lie in the flash, but in no file" in text
    assert "/cursor: more frames are confirmed than are there" in text
    assert "second store: the newest frame is another" in text
    assert "(expected 60, found %d)" % last in text


def test_the_second_store_is_compared_with_the_newest_frame(tmp_path):
    device = _Device()
    told = MemoryNvs()
    told._values = dict(device.nvs._values)
    device.append()
    report = _scan(tmp_path, device.flash.image, told)
    assert report.ok and "takes it over at its next boot" in " ".join(report.notes)
    device.append()
    assert "(expected 60, found 62)" in _texts(_scan(tmp_path, device.flash.image, told))
    told._values = {}
    assert "no head that can be read" in _texts(_scan(tmp_path, device.flash.image, told))
    other = _Device()
    other.journal.hash = bytes(16)
    other.journal._save_head()
    text = _texts(_scan(tmp_path, other.flash.image, other.nvs))
    assert "the newest frame is another than the second store says" in text


def test_small_files_that_are_damaged_or_missing_are_named(tmp_path):
    device = _Device()
    fs = host_flash.mount(device.flash)
    with fs.open("/cursor", "wb") as file:
        file.write(b"12345678")
    fs.remove("/session")
    text = _texts(_scan(tmp_path, device.flash.image))
    assert "/cursor at byte 4: CRC wrong (expected " in text
    assert "/session: missing" in text
    with fs.open("/cursor", "wb") as file:
        file.write(b"")
    with fs.open("/session", "wb") as file:
        body = b"no checkpoint"
        file.write(body + frames.binascii.crc32(body).to_bytes(4, "little"))
    report = _scan(tmp_path, device.flash.image)
    assert [fault.file for fault in report.faults] == ["/session"]
    assert report.cursor is None


@pytest.mark.parametrize(("body", "page", "ended_unix_ms"), [
    (b"", None, None), (Session().pack(), 0, None), (pack_end(1764000000123), None, 1764000000123),
])
def test_what_the_firmware_leaves_as_a_checkpoint_is_sound(tmp_path, body, page, ended_unix_ms):
    device = _Device()
    device.journal.save_small("session", body)
    report = _scan(tmp_path, device.flash.image)
    assert report.ok, _texts(report)
    assert (report.session and report.session.page) == page
    assert report.ended_unix_ms == ended_unix_ms


def _blank(data):
    return b"\xff" * len(data)


def _shifted(data):
    return b"\xff" * BLOCK_BYTES * 4 + data


def _raw_ring(data):
    """Frames alone, without a file system: what another layout of the journal may leave."""
    out = b""
    previous = bytes(16)
    for seq in range(1, 9):
        kind, message = _message(seq)
        payload = json.dumps(message).encode()
        frame = frames.struct.pack("<HHIB16s", 0x5AA5, len(payload), seq, kind, previous) + payload
        frame += frames.binascii.crc32(frame).to_bytes(4, "little")
        previous = hashlib.sha256(frame).digest()[:16]
        out += frame
    return out.ljust(-(-len(out) // BLOCK_BYTES) * BLOCK_BYTES, b"\xff")


def _without_superblock(data):
    return bytes(2 * BLOCK_BYTES) + data[2 * BLOCK_BYTES :]


def _other_littlefs(data):
    flash = RamFlash(_BLOCKS)
    host_flash.mkfs(flash)
    with host_flash.mount(flash).open("/main.py", "wb") as file:
        file.write(b"print(1)")
    return bytes(flash.image)


@pytest.mark.parametrize(("change", "said", "entries"), [
    (_blank, "blank flash", 0),
    (lambda data: bytes(len(data)), "all zeros", 0),
    (lambda data: b"OCMF|" * 5000, "no littlefs superblock", 0),
    (lambda data: data[: 5 * BLOCK_BYTES], "truncated", None),
    (lambda data: data[: 30 * BLOCK_BYTES - 77], "truncated", None),
    (_shifted, "give --offset 16384", 60),
    (_raw_ring, "no littlefs superblock", 8),
    (_without_superblock, "no littlefs superblock", 60),
    (_other_littlefs, "no journal: it has neither /s nor /cursor, but /main.py", 0),
])
def test_an_image_that_is_no_whole_journal_is_told_and_what_is_whole_is_shown(
        tmp_path, change, said, entries):
    report = _scan(tmp_path, bytes(change(_sound())))
    assert said in _texts(report)
    if entries is not None:
        assert report.salvaged
        assert [entry.seq for entry in report.entries] == list(range(1, entries + 1))
    code, out, _ = _run("read", tmp_path / "flash.img")
    assert code == 1 and "BROKEN" in out


def test_a_partition_inside_a_dump_of_the_chip_is_read_at_its_offset(tmp_path):
    path = tmp_path / "chip.img"
    path.write_bytes(_shifted(_sound()))
    assert _run("check", path, "--offset", 4 * BLOCK_BYTES)[0] == 0
    for offset in (7, -BLOCK_BYTES, 1 << 30):
        assert _run("check", path, "--offset", offset)[0] == 2


@pytest.mark.parametrize("arguments", [
    ("check", "no-such-file"), ("read", "."), ("check", "image", "--nvs", "no-such-file"),
    ("check", "image", "--nvs", "image"), ("check", "image", "--keep", "copy"),
])
def test_bad_use_is_one_line_and_code_two(flash, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image").write_bytes(flash.read_bytes())
    code, _, error = _run(*arguments)
    assert code == 2 and error and "\n" not in error
    (tmp_path / "empty").write_bytes(b"")
    assert _run("check", "empty")[0] == 2


def _flips(tmp_path, trials):
    """(violations, images told broken) of images with flipped bits: an entry that was not written
    is accepted, or one is lost without a word."""
    rng = random.Random(11)
    sound = _sound()
    right = {hashlib.sha256(json.dumps(_message(seq)[1]).encode()).digest()
             for seq in range(1, 61)}
    used = [at for at in range(0, len(sound), 32) if sound[at : at + 32].strip(b"\xff")]
    told, wrong = 0, []
    for trial in range(trials):
        data = bytearray(sound)
        for _ in range(rng.choice((1, 1, 8, 200))):
            data[rng.choice(used) + rng.randrange(32)] ^= 1 << rng.randrange(8)
        report = _scan(tmp_path, bytes(data))
        found = {hashlib.sha256(entry.payload).digest() for entry in report.entries}
        if not found <= right:
            wrong.append("%d: accepted what was not written" % trial)
        if found != right and not report.faults:
            wrong.append("%d: lost without a word" % trial)
        told += not report.ok
    return wrong, told


def test_flipped_bits_anywhere_are_told_or_harm_no_entry(tmp_path, monkeypatch):
    wrong, told = _flips(tmp_path, 40)
    assert not wrong
    assert told > 10
    # the control: a reader that believes a frame by its length
    monkeypatch.setattr(frames.Journal, "_load", _NoCrc._load)
    assert _flips(tmp_path, 10)[0]


def _signing(tmp_path):
    """(journal, key, append(kind, message)) of a device that signs by the firmware's ledger."""
    forge = Forge()
    device = _Device(0)

    class Signer:
        key_id = key_id(forge.spki)

        async def sign(self, digest):
            return forge.key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))

    class Clock:
        quality = "I"

        def unix_ms_at(self, mono_ms):
            return 1800000000000

    class Quiet:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            return None

    ledger = Ledger(device.journal, Signer(), Clock(), Quiet(), lambda: (
        {"GS": "demo-0001", "MS": "12345678"}, 1000, "meter"))
    reading = (1800000000000, "I", "B", 12_340_000, "", "G")
    end = (1800000001000, "I", "E", 12_340_000, "", "G")

    async def live():
        _, _, sid = await ledger.begin(reading, "demo-0001", 0)
        await ledger.log("jump", sid, 0, {"from_mwh": 1, "to_mwh": 2}, 2)
        await ledger.event("open", sid, 0, {})
        await ledger.complete(sid, (reading, end), Session(), False, None)

    asyncio.run(live())
    path = tmp_path / "signed.img"
    path.write_bytes(device.flash.image)
    return device, forge, path


def test_signatures_of_records_and_audit_entries_are_checked_with_a_key(tmp_path):
    device, forge, path = _signing(tmp_path)
    key = forge.spki.hex()
    assert _run("check", path, "--key", key)[0] == 0
    assert _run("check", path)[0] == 0
    other = Forge(secret=8).spki.hex()
    code, out, _ = _run("check", path, "--key", other)
    assert code == 1 and out.count("which was not given") == 3
    assert _run("check", path, "--key", other, "--key", key)[0] == 0
    assert _run("read", path, "--key", "nothing")[0] == 2
    code, out, _ = _run("export", path, "--key", key)
    assert code == 0
    assert CliRunner().invoke(app, ["verify", "-", "--whole"], input=out).exit_code == 0
    for old, new, said in ((b'"to_mwh":2', b'"to_mwh":3', "audit entry: signature"),
                           (b',"sg":"', b',"sx":"', "audit entry is not signed"),
                           (b'"RV\\":12.340', b'"RV\\":12.350', "changed, or another key")):
        assert old in device.flash.image, old
        entries = scan(images.open_image(path)).entries
        for entry in entries:
            entry.payload = entry.payload.replace(old, new)
            entry.message = json.loads(entry.payload)
        faults = [fault.what for fault in signature_faults(entries, [forge.spki])]
        assert faults and all(said in text for text in faults), (faults, said)


def _times_out(*_, **__):
    raise images.subprocess.TimeoutExpired("extract", 1)


def test_littlefs_that_aborts_or_never_ends_costs_the_file_system_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(images.sys, "executable", "false")
        report = _scan(tmp_path, _sound())
    assert report.salvaged and len(report.entries) == 60
    assert "littlefs gave up on it" in _texts(report)
    monkeypatch.setattr(images.subprocess, "run", _times_out)
    report = _scan(tmp_path, _sound())
    assert len(report.entries) == 60 and "does not end" in _texts(report)
