import { $, act, ago, api, clock, h, kw, kwh, money, price, put, span, when } from "./common.js";
import { plot } from "./plot.js";

const root = $("#session");
const base = root.dataset.source;
const fact = (name, value) => (value === null || value === undefined || value === "–" ? [] : [h("dt", {}, name), h("dd", {}, value)]);
let receiptShown = false;

const CLOCKS = { U: "the clock was not set then", I: "one time source", S: "synchronised", R: "only durations count" };
/** When it began or ended: what was signed, and beside it the true time where that was found out later. */
function times(view, name, words) {
  const found = view.times.find((each) => each.name === name);
  if (!found) return fact(words, when(name === "begin" ? view.begin_ms : view.end_ms));
  const signed = h("span", { title: CLOCKS[found.quality] ?? "" }, when(found.signed_ms));
  if (found.true_ms === null) {
    return fact(words, found.quality === "U" ? h("span", {}, signed, ` (${CLOCKS.U})`) : signed);
  }
  return [...fact(words, h("span", { "data-corrected": name }, when(found.true_ms), ` ± ${Math.ceil(found.uncertainty_ms / 1000)} s`)),
    ...fact(`${words}, as signed`, h("span", {}, signed, ` (${CLOCKS[found.quality] ?? found.quality}; corrected by entry ${found.told_by})`))];
}

function figures(view) {
  if (view.ended) {
    return [...times(view, "begin", "Began"), ...times(view, "end", "Ended"),
      ...fact("Duration", view.elapsed_s === null ? null : span(view.elapsed_s)),
      ...fact("Cost, for information", view.cost_minor === null ? null : money(view.cost_minor, view.tariff.currency)),
      ...(view.gap_mwh ? fact("Of this unseen", `${kwh(view.gap_mwh)} kWh`) : [])];
  }
  const charging = view.progress === "charging";
  return [...fact("Power", kw(view.power_mw)), ...fact("Duration", span(view.elapsed_s)),
    ...(view.begin_ms === null ? [] : times(view, "begin", "Began")),
    ...fact("Cost so far", view.cost_minor === null ? null : money(view.cost_minor, view.tariff.currency)),
    ...fact("Charged in about", charging && view.eta_s !== null ? span(view.eta_s) : null),
    ...fact("Offered", view.offered_ma ? `${(view.offered_ma / 1000).toFixed(1)} A` : null),
    ...fact("Full since", view.overstay_s === null ? null : span(view.overstay_s))];
}

function tariff(view) {
  const { now, next, currency, until_ms } = view.tariff;
  $("#tariff").hidden = !now || view.ended;
  if (!now) return;
  put("#tariff dl", [...fact("Now", `${now.name}, ${price(now.centiminor_per_kwh, currency)}`),
    ...(next ? fact("Then", `${next.name}, ${price(next.centiminor_per_kwh, currency)}, from ${when(until_ms)}`) : [])]);
}

function receipt(view) {
  if (!view.receipt || receiptShown) return;
  receiptShown = true;
  const { ok, verdict, rows, parts, findings, key, records, own, notices } = view.receipt;
  $("#receipt").hidden = false;
  put("#verdict", h("span", { class: `badge ${ok ? "good" : "bad"}` }, ok ? "Verified" : "Not verified"));
  $("#judged").textContent = verdict;
  $("#judged").className = `notice ${ok ? "good" : "bad"}`;
  put("#receipt tbody", [...rows, ...parts.map(([from, to, energy]) => [`${from} to ${to}`, energy])].map(
    ([name, value]) => h("tr", {}, h("th", {}, name), h("td", {}, value))));
  put("#files", [["pdf", "PDF"], ["xml", "S.A.F.E. XML"], ["ocmf", "OCMF text"],
    ...(own.length ? [["meter.xml", "Meter's own XML"]] : [])].map(
    ([kind, name]) => h("a", { class: "button", href: `${base}/receipt.${kind}`, download: true }, name)));
  put("#findings", findings.map((text) => h("li", {}, text)));
  $("#key").textContent = key;
  put("#records", [...records.map((text) => h("pre", {}, text)),
    ...(own.length ? [h("p", { class: "dim" }, "Signed by the meter itself, with its own key:")] : []),
    ...own.map((text) => h("pre", {}, text))]);
  put("#notices", notices.map((text) => h("p", {}, text)));
}

function show(view) {
  clock(view.now_ms);
  root.dataset.state = view.state;
  root.dataset.progress = view.progress;
  $("#words").textContent = view.words;
  $("#energy").textContent = kwh(view.energy_mwh);
  put("#where", `${view.charger} · ${view.sid}`, ...(view.ended ? [] : [" · ", ago(view.heard_at)]));
  const silent = $("#silent");
  silent.hidden = view.ended || view.online;
  silent.textContent = "The charger has no connection at the moment. It goes on measuring; this page follows once it is back.";
  put("#figures", figures(view));
  $("#plot-panel").hidden = view.samples.length < 2;
  if (view.samples.length > 1) put("#plot", plot(view.samples.map(([at, mw]) => [at, mw / 1e6]), "kW", $("#plot").clientWidth || 320));
  tariff(view);
  receipt(view);
  if (view.ended && $("#alerts")) $("#alerts").hidden = true;
}

const NAMES = { email: "E-mail", ntfy: "ntfy topic" };
async function alerts() {
  const found = await api(`${base}/alerts`);
  $("#alerts").hidden = !found.channels.length;
  put("#alerts ul", found.alerts.map((each) => h("li", {}, `${NAMES[each.channel]}: ${each.target} `,
    h("button", { class: "plain", on: { click: act(async () => {
      await api(`${base}/alerts/${each.id}`, "DELETE");
      await alerts();
    }) } }, "Remove"))));
  put("#alerts select", found.channels.map((name) => h("option", { value: name }, NAMES[name])));
}

if (root.dataset.driver) {
  const source = new EventSource(`${base}/feed`);
  source.onmessage = (event) => {
    const view = JSON.parse(event.data);
    show(view);
    if (view.ended) source.close();
  };
  alerts();
  $("#alerts form").addEventListener("submit", act(async (event) => {
    await api(`${base}/alerts`, "POST", Object.fromEntries(new FormData(event.target)));
    event.target.target.value = "";
    await alerts();
  }));
} else {
  const refresh = act(async () => {
    const view = await api(base);
    show(view);
    if (!view.ended) setTimeout(refresh, 1000);
  });
  refresh();
}
