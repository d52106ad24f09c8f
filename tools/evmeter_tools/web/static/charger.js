import { $, act, ago, alarmCard, api, badge, clock, h, isOperator, kwh, live, notice, put, shortly, span, stateName } from "./common.js";
import { shortRow } from "./sessions.js";

const device = $("#charger").dataset.device;
const base = `/api/v1/chargers/${device}`;
let sid = "";
let filled = false;

const tile = (name, value, more = "") => h("div", { class: "tile" }, h("small", {}, name), h("b", {}, value), more ? h("span", {}, more) : null);
const list = (values, digits, unit) => (Array.isArray(values) && values.length
  ? `${values.map((each) => (each / 1000).toFixed(digits)).join(" / ")} ${unit}` : "–");
const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value || "–")];

function answered(command) {
  if (!command.answered_at) return command.sent_at ? "sent, no answer yet" : "waits";
  try {
    const answer = JSON.parse(command.answer);
    return answer.ok ? "done" : answer.err || "refused";
  } catch {
    return "answered";
  }
}

async function refresh() {
  const [found, alarms, sessions] = await Promise.all([
    api(base), api(`/api/v1/alarms?device=${device}&limit=20`), api(`/api/v1/sessions?device=${device}&limit=8`)]);
  clock(found.now_ms);
  sid = found.sid;
  const tel = found.state === "offline" ? {} : found.telemetry;
  $("#label").textContent = found.label || device;
  put("#state", badge(found.state));
  put("#now",
    tile("Power", found.power_mw === null ? "–" : (found.power_mw / 1e6).toFixed(2), "kW"),
    sid ? tile("Session", kwh(found.session_mwh), "kWh") : tile("Register", kwh(found.register_mwh, 1), "kWh"),
    tile("Voltage", list(tel.u_mv, 1, "").trim() || "–", "V"),
    tile("Current", list(tel.i_ma, 1, "").trim() || "–", "A"),
    h("div", { class: "tile" }, h("small", {}, "Last word"), h("b", {}, ago(found.heard_at))));
  put("#alarms", alarms.map((alarm) => alarmCard(alarm, run)));
  put("#sessions", sessions.length ? sessions.map(shortRow)
    : h("tr", {}, h("td", { class: "empty" }, "There was no session yet.")));
  put("#spans", found.spans.slice(0, 10).map((each) => h("tr", {}, h("td", {}, stateName(each.state)), h("td", {}, shortly(each.from_ms)),
    h("td", { class: "number" }, span(((each.to_ms ?? found.now_ms) - each.from_ms) / 1000)))));
  const info = found.info;
  put("#device", [
    ...fact("Id", device), ...fact("Firmware", info.fw), ...fact("Board", info.board),
    ...fact("Meter", [info.make, info.model, info.serial].filter(Boolean).join(" ")),
    ...fact("Control pilot", found.cp), ...fact("Register", `${kwh(found.register_mwh)} kWh`),
    ...fact("Unsent records", String(found.unsent)), ...fact("Boots", info.boot ? `${info.boot}, last by ${info.cause}` : ""),
    ...fact("Trusted keys", found.keys.map((key) => key.key_id).join(", "))]);
  if (!isOperator) return;
  $("#link-session").hidden = !sid;
  put("#commands", found.commands.slice(0, 6).map((each) => h("tr", {}, h("td", {}, each.op), h("td", {}, ago(each.created_at)), h("td", {}, answered(each)))));
  if (!filled) await fill(found);
}

async function fill(found) {
  filled = true;
  const form = $("#settings");
  for (const site of await api("/api/v1/sites")) form.site.append(h("option", { value: site.id }, site.name || site.id));
  for (const name of ["label", "site", "evse_id", "rated_w"]) form[name].value = found[name];
}

const run = live(refresh, (change) => ["chargers", "alarms", "sessions"].some((what) => change[what]?.includes(device)));

async function exclusions() {
  const found = await api(`${base}/exclusions`);
  put("#exclusions", found.map((each) => h("tr", {}, h("td", {}, shortly(each.from_s * 1000)), h("td", {}, shortly(each.to_s * 1000)),
    h("td", { title: each.note || null }, each.reason), h("td", { class: "number" }, h("button", { class: "plain", on: { click: act(async () => {
      await api(`${base}/exclusions/${each.id}`, "DELETE");
      await exclusions();
    }) } }, "Remove")))));
}

if (isOperator) {
  exclusions();
  $("#exclude").addEventListener("submit", act(async (event) => {
    const form = event.target;
    const seconds = (name) => Math.floor(new Date(form[name].value).getTime() / 1000);
    await api(`${base}/exclusions`, "POST", { from_s: seconds("from"), to_s: seconds("to"), reason: form.reason.value, note: form.note.value });
    form.reset();
    await exclusions();
  }));
  const link = (wanted) => act(async () => {
    const made = await api(`${base}/links`, "POST", { sid: wanted() });
    const figure = $("#link");
    $("img", figure).src = made.qr;
    $("a", figure).textContent = made.url;
    $("a", figure).href = made.url;
    figure.hidden = false;
  });
  $("#link-session").addEventListener("click", link(() => sid));
  $("#link-charger").addEventListener("click", link(() => ""));
  document.querySelectorAll("[data-op]").forEach((button) => button.addEventListener("click", act(async () => {
    if (button.dataset.op !== "identify" && !confirm(`${button.textContent}: ${device}?`)) return;
    await api(`${base}/commands`, "POST", { op: button.dataset.op });
    notice("Sent.");
    run();
  })));
  $("#settings").addEventListener("submit", act(async (event) => {
    const form = Object.fromEntries(new FormData(event.target));
    await api(base, "PUT", { ...form, rated_w: Number(form.rated_w) });
    notice("Saved.");
    run();
  }));
}
