import { $, act, api, h, isOperator, kwh, live, put, shortly, span } from "./common.js";

const PAGE = 50;
let rows = [];

const hrefOf = (session) => `/chargers/${session.device}/sessions/${session.sid}`;

function verdict(session) {
  const [kind, name] = !session.ok ? ["bad", "Not verified"] : session.state === "open" ? ["busy", "Open"]
    : session.billable ? ["good", "Verified"] : ["", "Verified, not billable"];
  return h("span", { class: `badge ${kind}` }, name);
}

const energy = (session) => (session.energy_mwh === null ? "–" : `${kwh(session.energy_mwh)} kWh`);
const go = (session) => ({ class: "go", on: { click: () => location.assign(hrefOf(session)) } });

/** A row for the page of one charger. */
export const shortRow = (session) => h("tr", go(session),
  h("td", {}, h("a", { href: hrefOf(session) }, shortly(session.true_begin_ms ?? session.begin_ms)), h("small", {}, session.sid)),
  h("td", { class: "number" }, energy(session), h("small", {}, verdict(session))));

const row = (session) => h("tr", go(session),
  h("td", {}, h("a", { href: hrefOf(session) }, session.sid)), h("td", {}, verdict(session)),
  h("td", {}, shortly(session.true_begin_ms ?? session.begin_ms)), h("td", { class: "number" }, energy(session)),
  h("td", { class: session.duration_s === null ? "blank" : null }, session.duration_s === null ? "–" : span(session.duration_s)));

function show() {
  put("#sessions tbody", rows.length ? rows.map(row)
    : h("tr", {}, h("td", { class: "empty", colspan: 5 }, "There was no session yet.")));
}

const DECISIONS = { pending: ["warn", "Waits for you"], confirmed: ["good", "Billed"], waived: ["", "Not billed"] };
const decide = (row, decision) => act(async () => {
  await api(`/api/v1/billing/gaps/${row.device}/${row.sid}`, "POST", { decision });
  await gapEnergy();
});

async function gapEnergy() {
  const found = await api("/api/v1/billing/gaps");
  $("#gap-energy").hidden = !found.length;
  put("#gap-energy tbody", found.map((row) => h("tr", {},
    h("td", {}, h("a", { href: hrefOf(row) }, row.sid)),
    h("td", {}, h("span", { class: `badge ${DECISIONS[row.decision][0]}` }, DECISIONS[row.decision][1])),
    h("td", { class: "number" }, `${kwh(row.gap_mwh)} kWh`), h("td", { class: "number" }, `${kwh(row.energy_mwh)} kWh`),
    h("td", {}, isOperator && row.decision === "pending" ? h("span", { class: "buttons" },
      h("button", { on: { click: decide(row, "confirmed") } }, "Bill it"),
      h("button", { class: "second", on: { click: decide(row, "waived") } }, "Waive it")) : null))));
}

async function refresh() {
  await gapEnergy();
  if (rows.length > PAGE) return;  // somebody reads on
  rows = await api(`/api/v1/sessions?limit=${PAGE}`);
  $("#older").hidden = rows.length < PAGE;
  show();
}

if ($("#older")) {
  $("#older").addEventListener("click", act(async () => {
    const more = await api(`/api/v1/sessions?limit=${PAGE}&before_ms=${rows.at(-1).begin_ms}`);
    rows = rows.concat(more);
    $("#older").hidden = more.length < PAGE;
    show();
  }));
  live(refresh, (change) => change.sessions);
}
