"""The receipt as one HTML file: no script, nothing loaded from elsewhere, fit for printing."""

from html import escape

_STYLE = """
body { font: 11pt/1.4 sans-serif; max-width: 44em; margin: 2em auto; padding: 0 1em;
       color: #111; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 1.4em 0 .4em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .2em .6em .2em 0;
         border-bottom: 1px solid #ccc }
th { font-weight: 600; white-space: nowrap }
.verdict { border: 2px solid; padding: .5em .8em; font-weight: 600 }
.good { color: #064 } .bad { color: #a00 }
.code svg { width: 12cm; max-width: 100%; height: auto }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 8pt }
.small { font-size: 9pt }
@page { size: A4; margin: 1.5cm }
@media print { body { margin: 0; max-width: none; padding: 0 }
               .code { break-before: page } tr, .verdict { break-inside: avoid } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def _table(rows, head=None):
    yield "<table>"
    if head:
        yield "<tr>%s</tr>" % "".join("<th>%s</th>" % escape(cell) for cell in head)
    for row in rows:
        first, rest = ("<td>%s</td>", row[1:]) if head else ("<th>%s</th>", row[1:])
        yield "<tr>%s%s</tr>" % (first % escape(row[0]),
                                 "".join("<td>%s</td>" % escape(cell) for cell in rest))
    yield "</table>"


def html(sheet):
    """Return the text of the file."""
    lines = [
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="%s">' % _POLICY,
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>%s</title>" % escape(sheet.title), "<style>%s</style>" % _STYLE, "</head>",
        "<body>", "<h1>%s</h1>" % escape(sheet.title),
        '<p class="verdict %s">%s</p>' % ("good" if sheet.ok else "bad", escape(sheet.verdict)),
        *_table(sheet.rows)]
    if sheet.parts:
        lines += ["<h2>Energy by tariff</h2>", *_table(sheet.parts, ("From", "To", "Energy"))]
    lines += ["<h2>Verification</h2>", "<ul>",
              *("<li>%s</li>" % escape(text) for text in sheet.findings), "</ul>",
              "<h2>What this receipt does not prove</h2>",
              *('<p class="small">%s</p>' % escape(text) for text in sheet.notices),
              '<div class="code">', "<h2>Signed record and public key</h2>"]
    if sheet.qr:
        lines.append(sheet.qr.svg_inline(border=4, omitsize=True, title="record and key"))
    else:
        lines.append("<p>The record is too long for a QR code; it stands below.</p>")
    lines += ["<p>Public key (SubjectPublicKeyInfo, hex)</p>",
              "<pre>%s</pre>" % escape(sheet.key or "-"),
              *("<pre>%s</pre>" % escape(text) for text in sheet.records)]
    if sheet.own:
        lines.append("<h2>Signed by the meter itself, with its own key</h2>")
        lines += ["<pre>%s\n%s</pre>" % (escape(text), escape(key)) for text, key in sheet.own]
    lines += ["</div>", "</body>", "</html>", ""]
    return "\n".join(lines)
