"""The XML container that the S.A.F.E. Transparenzsoftware loads.

The complete record stands alone under its transactionId: the software judges it as a whole
transaction. Beside a begin record under the same id it would take both for a pair, and refuse an
end that holds a begin reading. Tariff records have no id, so that each is judged by its signature.
A session without a complete record gives its begin record. The key is hex with the encoding
"plain": that is how the software reads a key; it knows "hex" too, but not for keys. The elements
stand in the order of its values.xsd.
"""

import re
from xml.sax.saxutils import escape, quoteattr

from evmeter_tools.receipt.content import principal

# what XML 1.0 cannot hold, even escaped
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _value(text, key, attributes=""):
    """The lines of one signed record; `key` is DER or None."""
    digits = "" if key is None else key.hex().upper()
    return [
        "  <value%s>" % attributes,
        '    <publicKey encoding="plain">%s</publicKey>' % digits,
        '    <signedData format="OCMF" encoding="plain">%s</signedData>' % escape(text),
        "  </value>"]


def _file(texts, lines):
    if any(_NO_XML.search(text) for text in texts):
        return None
    return "\n".join(['<?xml version="1.0" encoding="UTF-8" standalone="yes"?>', "<values>",
                      *lines, "</values>", ""])


def _context(number, edge):
    return " transactionId=%s context=%s" % (
        quoteattr(str(number)), quoteattr("Transaction." + edge))


def values(session):
    """The text of the file, or None where a record holds what XML cannot."""
    first = principal(session)
    tariffs = [record for record in session.records if record.kind == "tariff"]
    edge = "End" if first.kind == "complete" else "Begin"
    lines = _value(first.text, first.key, _context(first.page or 0, edge))
    for record in tariffs:
        lines += _value(record.text, record.key)
    return _file([first.text, *(record.text for record in tariffs)], lines)


def own_values(session):
    """The same of what the meter signed itself, a begin and an end record as a pair under the
    meter's own key; None where there is nothing. Where a BSM-WS36A bills from its register
    1-0:1.8.0*198, newer versions of the software judge the signatures alone."""
    if not session.own:
        return None
    number = principal(session).page or 0
    lines = []
    for own in session.own:
        lines += _value(own.text, own.key,
                        _context(number, "Begin" if own.tx == "B" else "End"))
    return _file([own.text for own in session.own], lines)
