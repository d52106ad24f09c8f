"""A session's receipt as a file."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import HTTPException
from fastapi.responses import Response

from evmeter_tools.receipt.content import sheet
from evmeter_tools.receipt.pdf import pdf
from evmeter_tools.receipt.safe_xml import own_values, values
from evmeter_tools.web import driver, fleet

Kind = Literal["xml", "meter.xml", "ocmf", "pdf"]
_TYPES = {"xml": "application/xml", "meter.xml": "application/xml",
          "ocmf": "text/plain; charset=utf-8", "pdf": "application/pdf"}


def answer(store, device, sid, kind):
    """The file of a session that has ended; meter.xml has what the meter signed itself. Raises
    HTTPException."""
    row = fleet.session_row(store, device, sid)
    if row is None or row["state"] != "complete":
        raise HTTPException(404, "there is no receipt yet: the session has not ended")
    judged = driver.verdict(store, device, sid)
    if judged is None:
        raise HTTPException(404, "its records cannot be read")
    if kind.endswith("xml"):
        body = values(judged) if kind == "xml" else own_values(judged)
        if body is None:
            raise HTTPException(404, "there is no such file: no record for it, or none that XML "
                                "can hold")
    elif kind == "ocmf":
        body = "".join(record.text + "\n" for record in judged.records)
    else:
        body = pdf(sheet(judged, True), datetime.now(UTC))
    return Response(body, media_type=_TYPES[kind], headers={
        "content-disposition": 'attachment; filename="%s.%s"' % (sid, kind)})
