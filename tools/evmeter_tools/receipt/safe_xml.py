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


def values(session):
    """The text of the file, or None where a record holds what XML cannot."""
    first = principal(session)
    others = [record for record in session.records if record.kind == "tariff"]
    lines = ['<?xml version="1.0" encoding="UTF-8" standalone="yes"?>', "<values>"]
    for record in (first, *others):
        if _NO_XML.search(record.text):
            return None
        attributes = ""
        if record is first:
            context = "Transaction.End" if record.kind == "complete" else "Transaction.Begin"
            attributes = " transactionId=%s context=%s" % (
                quoteattr(str(record.page or 0)), quoteattr(context))
        lines += [
            "  <value%s>" % attributes,
            '    <publicKey encoding="plain">%s</publicKey>'
            % ("" if record.key is None else record.key.hex().upper()),
            '    <signedData format="OCMF" encoding="plain">%s</signedData>'
            % escape(record.text),
            "  </value>"]
    return "\n".join([*lines, "</values>", ""])
