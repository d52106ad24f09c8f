"""The label that goes onto a charger: who it is, and the key by which its records are checked."""

import io

import segno
from fpdf import FPDF
from fpdf.enums import XPos, YPos

from evmeter_tools.errors import UserError

_NOTICE = ("The key lies in flash that is", "not encrypted. No conformity",
           "with metering law is claimed.")
_WIDTH_MM = 100
_HEIGHT_MM = 62
_CODE_MM = 40
_TEXT_MM = 92
_ID_SIZE = 16  # points
_BORDER = 4  # modules of white around a code, as ISO/IEC 18004 asks


def _text(page, x, y, width, lines, size, style=""):
    page.set_xy(x, y)
    page.set_font("Helvetica", style, size)
    for line in lines:
        page.set_x(x)
        page.cell(width, size * 0.45, line, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _code(page, text, x, y):
    picture = io.BytesIO()
    segno.make(text, error="m", micro=False).save(picture, kind="png", scale=8, border=_BORDER)
    picture.seek(0)
    page.image(picture, x=x, y=y, w=_CODE_MM, h=_CODE_MM)


def label(device, key_id, spki, page_url=None):
    """The bytes of a PDF of 100 x 62 mm: id, key id, and QR codes of the public key
    (SubjectPublicKeyInfo, hex in capitals, which takes the smallest code) and of the page where
    records are verified. Raises UserError for an address that is no http(s) one."""
    if page_url is not None and not page_url.startswith(("https://", "http://")):
        raise UserError("%s: the verification page must begin with https:// or http://"
                        % page_url)
    page = FPDF(format=(_WIDTH_MM, _HEIGHT_MM), unit="mm")
    page.set_title("evmeter %s" % device)
    page.set_auto_page_break(False)
    page.set_margins(4, 3)
    page.add_page()
    page.set_font("Helvetica", "B", _ID_SIZE)
    size = _ID_SIZE * min(1, _TEXT_MM / page.get_string_width(device))  # 20 W would not fit
    _text(page, 4, 3, _TEXT_MM, [device], size, "B")
    _text(page, 4, 11, _TEXT_MM, ["key %s - charging records are signed with it" % key_id], 8)
    _code(page, spki.upper(), 4, 15)
    _text(page, 4, 55, 44, ["public key"], 7)
    if page_url:
        _code(page, page_url, 54, 15)
        _text(page, 54, 55, 44, ["verify a record"], 7)
    else:
        _text(page, 50, 20, 46, _NOTICE, 7)
    if page_url:
        _text(page, 4, 58, _TEXT_MM, [" ".join(_NOTICE)], 5)
    return bytes(page.output())
