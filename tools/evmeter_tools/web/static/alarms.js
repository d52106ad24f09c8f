import { $, ago, alarmCard, api, h, live, put, when } from "./common.js";

let which = "open";

async function refresh() {
  const [alarms, gaps, aside] = await Promise.all([
    api(`/api/v1/alarms?which=${which}`), api(`/api/v1/gaps?which=${which}`), api("/api/v1/quarantine")]);
  put("#which", [["open", "Open"], ["all", "History"]].map(([name, label]) => h("button", {
    "aria-pressed": String(name === which), on: { click: () => { which = name; run(); } } }, label)));
  put("#alarms", alarms.length ? alarms.map((alarm) => alarmCard(alarm, run))
    : h("div", { class: "panel empty" }, which === "open" ? "No alarm is open." : "There was no alarm yet."));
  $("#gaps").hidden = !gaps.length;
  put("#gaps tbody", gaps.map((gap) => h("tr", {},
    h("td", {}, h("a", { href: `/chargers/${gap.device}` }, gap.device)),
    h("td", {}, gap.first === gap.last ? `${gap.first}` : `${gap.first} to ${gap.last}`),
    h("td", { class: "number" }, gap.closed_at ? "closed" : `${gap.missing} missing`), h("td", {}, ago(gap.seen_at)),
    h("td", {}, gap.asked ? `${gap.asked} times` : "not yet"))));
  $("#quarantine").hidden = !aside.length;
  put("#quarantine tbody", aside.map((each) => h("tr", {},
    h("td", {}, h("a", { href: `/chargers/${each.device}` }, each.device)), h("td", { class: "number" }, each.seq),
    h("td", {}, when(each.received_at)), h("td", {}, each.why))));
}

const run = live(refresh, (change) => change.alarms);
