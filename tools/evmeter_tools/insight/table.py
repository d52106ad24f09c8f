"""A table of a report: named columns of whole numbers and texts, with its CSV, JSON and text."""

import csv
import io
from dataclasses import dataclass, field

from evmeter_tools.words import WIDTH, clean, wrap

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would calculate


@dataclass(frozen=True)
class Column:
    """`key` carries the unit (energy_mwh, share_permille); `says` defines the value."""

    key: str
    label: str
    says: str = ""


@dataclass
class Table:
    """`rows` are tuples in the order of `columns`; a value that is not known is None."""

    name: str
    title: str
    columns: tuple
    rows: list = field(default_factory=list)
    notes: tuple = ()

    def dicts(self):
        """The rows as dicts by the columns' keys."""
        keys = [column.key for column in self.columns]
        return [dict(zip(keys, row, strict=True)) for row in self.rows]

    def json(self):
        """One object: name, title, columns and rows, ready for json.dumps."""
        return {"name": self.name, "title": self.title, "notes": list(self.notes),
                "columns": [{"key": column.key, "label": column.label, "says": column.says}
                            for column in self.columns],
                "rows": self.dicts()}

    def csv(self, head=True):
        """CSV as in RFC 4180, the keys in the first line (`head`); texts are safe for a
        spreadsheet."""
        out = io.StringIO()
        writer = csv.writer(out)
        if head:
            writer.writerow([column.key for column in self.columns])
        writer.writerows([cell(value) for value in row] for row in self.rows)
        return out.getvalue()

    def lines(self):
        """The table for a terminal, 80 columns: what does not fit is named in the last line."""
        shown = [[column.label for column in self.columns]]
        shown += [["-" if value is None else clean(value) for value in row] for row in self.rows]
        widths = [max(len(row[at]) for row in shown) for at in range(len(self.columns))]
        fit = 1
        while fit < len(widths) and sum(widths[:fit + 1]) + 2 * fit <= WIDTH:
            fit += 1
        if fit == len(widths) - 1:
            fit += 1  # the last one is cut instead
        numeric = [all(value is None or isinstance(value, int) for value in column)
                   for column in zip(*self.rows, strict=True)] or [False] * len(widths)
        for row in shown:
            cells = [text.rjust(width) if number else text.ljust(width)
                     for text, width, number in zip(row, widths, numeric, strict=True)]
            yield "  ".join(cells[:fit]).rstrip()[:WIDTH]
        if fit < len(widths):
            yield from wrap("more in --csv: "
                            + ", ".join(column.key for column in self.columns[fit:]), "- ")


def cell(value):
    """A value as a CSV cell: empty where unknown; a text that a spreadsheet would take for a
    formula is quoted by an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


def share(part, whole, scale=1000):
    """`part` of `whole` in parts of `scale`, rounded half up; None where the whole is nothing."""
    return None if not whole else (2 * part * scale + whole) // (2 * whole)


def quantile(values, permille):
    """The smallest value that at least so many thousandths of `values` do not exceed (nearest
    rank); None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -(-permille * len(ordered) // 1000) - 1)] if ordered else None


def median(values):
    """The middle value, or the mean of the two middle ones, rounded half up; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2] + 1) // 2
