"""The receipt as a PDF of A4 pages: what a driver reads first, then the code and the records."""

import io

from fpdf import FPDF
from fpdf.enums import XPos, YPos

_LABEL_MM = 38
_CODE_MM = 120
_BORDER = 4  # modules of white around the code, as ISO/IEC 18004 asks


def _latin(text):
    """The text in the characters of the built-in fonts; others are shown escaped."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1")


class _Page(FPDF):
    def footer(self):
        """The page's number."""
        self.set_y(-12)
        self.set_font("Helvetica", size=8)
        self.cell(0, 5, "page %d of {nb}" % self.page_no(), align="C")


def _block(pdf, text, size, style="", height=5, wrap="WORD", font="Helvetica"):
    pdf.set_font(font, style, size)
    pdf.multi_cell(0, height, _latin(text), align="L", wrapmode=wrap,
                   new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _head(pdf, text):
    pdf.ln(3)
    _block(pdf, text, 11, "B", 6)


def _rows(pdf, rows):
    for label, value in rows:
        pdf.set_font("Helvetica", "B", 10)
        pdf.cell(_LABEL_MM, 5.5, _latin(label))
        pdf.set_font("Helvetica", "", 10)
        pdf.multi_cell(0, 5.5, _latin(value), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _code(pdf, qr):
    picture = io.BytesIO()
    qr.save(picture, kind="png", scale=4, border=_BORDER)
    picture.seek(0)
    pdf.image(picture, w=_CODE_MM, h=_CODE_MM)
    pdf.ln(2)


def pdf(sheet, made):
    """Return the bytes of the file; `made`, an aware datetime, goes into its properties."""
    page = _Page(format="A4")
    page.set_creation_date(made)
    page.set_title(_latin(sheet.title))
    page.set_creator("evmeter")
    page.set_margins(18, 15)
    page.set_auto_page_break(True, 18)
    page.add_page()
    _block(page, sheet.title, 15, "B", 8)
    page.ln(1)
    page.set_text_color(*((0, 100, 60) if sheet.ok else (170, 0, 0)))
    _block(page, sheet.verdict, 12, "B", 7)
    page.set_text_color(0, 0, 0)
    page.ln(2)
    _rows(page, sheet.rows)
    if sheet.parts:
        _head(page, "Energy by tariff")
        for begin, end, energy in sheet.parts:
            _block(page, "%s\nto %s: %s" % (begin, end, energy), 9, height=4.5)
    _head(page, "Verification")
    for text in sheet.findings:
        _block(page, "- " + text, 9, height=4.5)
    _head(page, "What this receipt does not prove")
    for text in sheet.notices:
        _block(page, text, 9, height=4.5)
        page.ln(1)
    page.add_page()
    _head(page, "Signed record and public key")
    if sheet.qr:
        _code(page, sheet.qr)
    else:
        _block(page, "The record is too long for a QR code; it stands below.", 9)
    _block(page, "Public key (SubjectPublicKeyInfo, hex)", 9)
    _block(page, sheet.key or "-", 7, height=3.5, wrap="CHAR", font="Courier")
    for text in sheet.records:
        page.ln(2)
        _block(page, text, 7, height=3.5, wrap="CHAR", font="Courier")
    if sheet.own:
        _head(page, "Signed by the meter itself, with its own key")
    for text, key in sheet.own:
        page.ln(2)
        _block(page, text, 7, height=3.5, wrap="CHAR", font="Courier")
        _block(page, key, 7, height=3.5, wrap="CHAR", font="Courier")
    return bytes(page.output())
