import { $, ago, api, badge, clock, h, kw, kwh, live, put, stateName } from "./common.js";

const STATES = ["", "available", "charging", "connected", "suspended_ev", "suspended_evse", "fault", "offline"];
let state = "";

function tile(name, value, more = "", kind = "", href = null) {
  return h(href ? "a" : "div", { class: `tile ${kind}`, href }, h("small", {}, name), h("b", {}, value),
    more ? h("span", {}, more) : null);
}

function row(charger) {
  const open = () => location.assign(`/chargers/${charger.device}`);
  return h("tr", { class: "go", on: { click: open }, "data-device": charger.device },
    h("td", {}, h("a", { href: `/chargers/${charger.device}` }, charger.label || charger.device),
      h("small", {}, [charger.label ? charger.device : "", charger.site].filter(Boolean).join(" · "))),
    h("td", {}, badge(charger.state)),
    h("td", { class: `number${charger.power_mw ? "" : " blank"}` }, charger.power_mw ? kw(charger.power_mw) : "–"),
    h("td", { class: `number${charger.sid ? "" : " blank"}` }, charger.sid ? `${kwh(charger.session_mwh)} kWh` : "–"),
    h("td", {}, ago(charger.heard_at)),
    h("td", { class: charger.alarms ? null : "blank" }, charger.alarms ? h("span", { class: "badge bad" }, charger.alarms) : h("span", { class: "dim" }, "none")));
}

async function refresh() {
  const query = new URLSearchParams({ state, q: $("#search").value, limit: 200 });
  const fleet = await api(`/api/v1/fleet?${query}`);
  clock(fleet.now_ms);
  const all = Object.values(fleet.counts).reduce((sum, each) => sum + each, 0);
  put("#tiles",
    tile("Free", fleet.counts.available, `of ${all}`),
    tile("In use", fleet.in_use),
    tile("Power", (fleet.power_mw / 1e6).toFixed(1), "kW"),
    tile("Faults", fleet.counts.fault, "", fleet.counts.fault ? "bad" : ""),
    tile("Offline", fleet.counts.offline, "", fleet.counts.offline ? "warn" : ""),
    tile("Alarms", fleet.alarms_open, fleet.alarms_unseen ? `${fleet.alarms_unseen} unseen` : "all seen",
      fleet.alarms_unseen ? "bad" : "", "/alarms"),
    tile("Records missing", fleet.missing, "", fleet.missing ? "warn" : "", "/alarms"));
  put("#states", STATES.map((name) => h("button", { "aria-pressed": String(name === state), on: { click: () => {
    state = name;
    run();
  } } }, name ? `${stateName(name)} ${fleet.counts[name]}` : `All ${all}`)));
  put("#chargers tbody", fleet.chargers.length ? fleet.chargers.map(row)
    : h("tr", {}, h("td", { class: "empty", colspan: 6 }, all ? "No charger matches." : "No charger is enrolled yet.")));
  $("#more").textContent = fleet.total > fleet.chargers.length ? `${fleet.chargers.length} of ${fleet.total} are shown; search for the others.` : "";
}

const run = live(refresh, (change) => change.chargers || change.alarms);
$("#search").addEventListener("input", run);
