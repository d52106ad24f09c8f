import { $, act, api, clock, h, live, notice, put, span, stateKind, stateName } from "./common.js";

function card(place, now) {
  const kind = place.free ? "good" : place.chargers ? "warn" : "";
  const wait = place.free ? "free now" : place.next_free_at_ms
    ? `next one free in about ${span((place.next_free_at_ms - now) / 1000)}` : "no forecast yet";
  const facts = [[place.address, place.city].filter(Boolean).join(", "), wait,
    place.headroom_w === null ? `${(place.power_w / 1000).toFixed(1)} kW in use`
      : `${(place.headroom_w / 1000).toFixed(1)} kW of ${(place.limit_w / 1000).toFixed(0)} kW left`];
  return h("article", { class: `card ${kind}` },
    h("div", {}, h("h3", {}, place.name || place.id, h("span", { class: `badge ${kind}` }, `${place.free} of ${place.chargers} free`)),
      h("p", { class: "dim" }, facts.filter(Boolean).join(" · ")),
      h("div", { class: "bars" }, place.evses.map((each) => h("i", { class: stateKind(each.state),
        title: `${each.label || each.device}: ${stateName(each.state)}` })))),
    h("span", { class: "rank", title: "Rank" }, `#${place.rank}`));
}

async function refresh() {
  const found = await api("/api/v1/availability");
  clock(found.now_ms);
  put("#sites", found.sites.length ? found.sites.map((place) => card(place, found.now_ms))
    : h("div", { class: "panel empty" }, "There is no site yet. Add one below, then put chargers there."));
}

const run = live(refresh, (change) => change.chargers);
$("#site")?.addEventListener("submit", act(async (event) => {
  const form = Object.fromEntries(new FormData(event.target));
  const { id, limit_kw, ...body } = form;
  await api(`/api/v1/sites/${encodeURIComponent(id)}`, "PUT", { ...body, limit_w: Math.round(Number(limit_kw) * 1000) });
  notice("Saved.");
  event.target.reset();
  run();
}));
