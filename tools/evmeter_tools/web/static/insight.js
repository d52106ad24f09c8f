import { $, api, h, kwh, put, shortly, span, when } from "./common.js";
import { plot } from "./plot.js";

const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const ORDER = ["starts", "utilisation", "demand", "profile", "concurrency", "sessions", "outcomes", "overstay", "tariffs",
  "off_peak", "stations", "voltage", "delivered", "uptime", "outages", "reliability", "records"];
const MAPS = { starts: "starts", concurrency: "cars" };
const FEW = 8;
const MOST = 1000;
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

// The unit stands at the end of a column's name.
const FORMS = [[/_mv$/, (value) => `${(value / 1000).toFixed(1)} V`], [/_ma$/, (value) => `${(value / 1000).toFixed(1)} A`],
  [/_mwh$/, (value) => `${kwh(value)} kWh`], [/_mw$/, (value) => `${(value / 1e6).toFixed(2)} kW`],
  [/permille$/, (value) => `${(value / 10).toFixed(1)} %`], [/_mpercent$/, (value) => `${(value / 1000).toFixed(3)} %`],
  [/(_at|start|stop|t0|from|to)_s$/, (value) => shortly(value * 1000)], [/_s$/, span],
  [/(_at|start|stop|begin|end)_ms$/, (value) => when(value)], [/_ms$/, (value) => span(value / 1000)]];

function shown(key, value) {
  if (value === null) return "–";
  if (typeof value !== "number") return wordOf(String(value));
  const form = FORMS.find(([pattern]) => pattern.test(key));
  return form ? form[1](value) : value.toLocaleString();
}

/** The name that says which unit a cell has: its column's, or where rows differ in that, its row's. */
function unitKey(report, key, row) {
  if (report.name === "sessions" && !["figure", "count"].includes(key)) return row.figure;
  if (report.name === "utilisation" && ["part", "whole"].includes(key)) return /energy/.test(row.definition) ? "x_mwh" : "x_s";
  return key;
}

const compare = (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : a < b ? -1 : 1);

const nameOf = (label) => (label === "permille" || label === "m%" ? "share" : label.replace(/,? (mWh|mW|mV|mA|s|Unix ms|o\/oo)$/, ""));
/** A word of the reports for people: its unit stands in the values. */
const wordOf = (value) => (/^[a-z_]+$/.test(value) ? value.replace(/_(mwh|mw|s)$/, "").replaceAll("_", " ") : value);

function tableOf(report) {
  const isNumber = (key) => report.rows.some((row) => typeof row[key] === "number");
  const body = h("tbody");
  const more = h("button", { class: "plain", hidden: report.rows.length <= FEW, on: { click: () => {
    few = false;
    more.hidden = true;
    fill(rows);
  } } }, `Show all ${report.rows.length}`);
  let few = true;
  let { rows } = report;
  const fill = (sorted) => {
    rows = sorted;
    put(body, rows.slice(0, few ? FEW : MOST).map((row) => h("tr", {}, report.columns.map(({ key }) =>
      h("td", { class: typeof row[key] === "number" ? "number" : null }, shown(unitKey(report, key, row), row[key]))))));
  };
  let by = "";
  let down = false;
  const head = h("tr", {}, report.columns.map(({ key, label, says }) => h("th", { title: says || null, class: isNumber(key) ? "number" : null }, h("button", {
    class: "plain", on: { click: () => {
      down = by === key && !down;
      by = key;
      fill([...report.rows].sort((a, b) => compare(a[key], b[key]) * (down ? -1 : 1)));
    } } }, nameOf(label)))));
  fill(report.rows);
  return h("div", { class: "scroll" }, h("table", { class: "list report" }, h("thead", {}, head), body), more);
}

function heatMap(report, key) {
  const cells = report.rows.filter((row) => row.hour !== null);
  const most = Math.max(...cells.map((row) => row[key]), 1);
  const count = new Map(cells.map((row) => [`${row.weekday}/${row.hour}`, row[key]]));
  const names = [...new Set(cells.map((row) => row.weekday))];
  const rows = names.map((day, at) => h("tr", {}, h("th", {}, WEEKDAYS[at] ?? day), Array.from({ length: 24 }, (_, hour) => {
    const number = count.get(`${day}/${hour}`) ?? 0;
    return h("td", { class: `heat h${Math.ceil(number / most * 8)}`, title: `${WEEKDAYS[at] ?? day} ${hour}:00: ${number} ${key}` }, number || "");
  })));
  return h("div", { class: "scroll" }, h("table", { class: "heatmap", "aria-label": report.title },
    h("thead", {}, h("tr", {}, h("th"), Array.from({ length: 24 }, (_, hour) => h("th", {}, hour)))), h("tbody", {}, rows)));
}

function profileOf(report) {
  const points = report.rows.map((row) => [row.start_s * 1000, row.power_mw / 1e6]);
  return points.length > 1 ? plot(points, "kW", Math.min(1100, $("#reports").clientWidth - 42)) : null;
}

function card(report, query) {
  const body = MAPS[report.name] && report.rows.length ? heatMap(report, MAPS[report.name])
    : report.name === "profile" ? profileOf(report) : null;
  return h("section", { class: "panel", id: `report-${report.name}` },
    h("div", { class: "head" }, h("h2", {}, report.title),
      h("a", { href: `/api/v1/insight/${report.name}.csv?${query}`, download: true }, "CSV")),
    body, !report.rows.length ? h("p", { class: "dim" }, "Nothing in this period.")
      : body ? h("details", {}, h("summary", {}, "As a table"), tableOf(report)) : tableOf(report),
    report.name === "utilisation" && report.notes.length
      ? h("p", { class: "dim" }, "The rated power is set in a charger's settings.") : null,
    report.chargers > report.limit ? h("p", { class: "dim" },
      `${report.limit} of ${report.chargers} chargers are shown: choose a site, or take the CSV with all of them.`) : null,
    report.notes.map((note) => h("p", { class: "dim" }, note)));
}

async function refresh() {
  const form = new FormData($("#period"));
  const to = Math.ceil(Date.now() / 3_600_000) * 3_600_000;
  const query = new URLSearchParams({ from_ms: to - form.get("days") * 86_400_000, to_ms: to, zone, site: form.get("site") });
  if (form.get("site")) query.set("limit", 200);
  const wrong = $("#wrong");
  wrong.hidden = true;
  try {
    const reports = [];
    for (const name of ORDER) reports.push(await api(`/api/v1/insight/${name}?${query}`));
    put("#reports", reports.map((report) => card(report, query)));
    const waiting = Math.max(...reports.map((report) => report.waiting));
    if (waiting) {
      wrong.textContent = `${waiting >= 10_000 ? "More than 10,000" : waiting} stored records are not in these figures yet.`;
      wrong.hidden = false;
    }
  } catch (error) {
    wrong.textContent = error.message;
    wrong.hidden = false;
  }
}

for (const site of await api("/api/v1/sites")) $("#period [name=site]").append(h("option", { value: site.id }, site.name || site.id));
$("#period").addEventListener("change", refresh);
refresh();
