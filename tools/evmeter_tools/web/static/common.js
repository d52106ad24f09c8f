// What all pages use: elements, figures as text, the API, live updates.

export const $ = (selector, root = document) => root.querySelector(selector);
const meta = (name) => $(`meta[name=${name}]`)?.content ?? "";
export const isOperator = meta("role") === "operator";

/** An element; text is always text, never markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const put = (target, ...children) =>
  (typeof target === "string" ? $(target) : target).replaceChildren(...children.flat());

export const kwh = (mwh, digits = 3) => (mwh === null || mwh === undefined ? "–" : (mwh / 1e6).toFixed(digits));
export const kw = (mw) => (mw === null || mw === undefined ? "–" : `${(mw / 1e6).toFixed(mw < 1e7 ? 2 : 1)} kW`);
export const shortly = (ms) => (ms === null || ms === undefined ? "–" : new Date(ms).toLocaleString(undefined,
  { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" }));
export const when = (ms) => (ms === null || ms === undefined ? "–" : new Date(ms).toLocaleString(undefined,
  { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" }));

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

export function money(minor, currency) {
  if (minor === null || minor === undefined) return "–";
  try {
    const form = new Intl.NumberFormat(undefined, { style: "currency", currency });
    return form.format(minor / 10 ** form.resolvedOptions().maximumFractionDigits);
  } catch {
    return `${minor} ${currency ?? ""}`;
  }
}

export function price(centiminor, currency) {
  try {
    const digits = new Intl.NumberFormat("en", { style: "currency", currency }).resolvedOptions().maximumFractionDigits;
    return `${new Intl.NumberFormat(undefined, { style: "currency", currency, minimumFractionDigits: digits,
      maximumFractionDigits: digits + 2 }).format(centiminor / 100 / 10 ** digits)} / kWh`;
  } catch {
    return `${centiminor / 100} ${currency ?? ""} / kWh`;
  }
}

// An age that goes on by itself: the server's clock counts, not the browser's.
let skew = 0;
export const clock = (now) => { skew = now - Date.now(); };
function age(ms) {
  if (!ms) return "never";
  const s = Math.max(0, Math.round((Date.now() + skew - ms) / 1000));
  if (s < 100) return `${s} s ago`;
  if (s < 6000) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} d ago`;
}
export const ago = (ms) => h("time", { "data-at": ms ?? "", title: ms ? when(ms) : null }, age(ms));
setInterval(() => document.querySelectorAll("time[data-at]").forEach((element) => {
  element.textContent = age(Number(element.dataset.at));
}), 1000);

const STATES = {
  available: ["Free", "good"], connected: ["Connected", "busy"], charging: ["Charging", "busy"],
  suspended_ev: ["Paused by vehicle", "busy"], suspended_evse: ["Paused by charger", "busy"],
  fault: ["Fault", "bad"], offline: ["Offline", "warn"], unknown: ["Unknown", ""],
};
export const stateName = (state) => (STATES[state] ?? [state])[0];
export const stateKind = (state) => (STATES[state] ?? ["", ""])[1];
export const badge = (state) => h("span", { class: `badge ${stateKind(state)}` }, stateName(state));

export function notice(text) {
  const element = $("#notice");
  element.textContent = text;
  element.hidden = false;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => { element.hidden = true; }, 5000);
}

/** Call the API; throws an Error with the server's words. */
export async function api(path, method = "GET", body = undefined) {
  const answer = await fetch(path, {
    method, headers: { "X-CSRF-Token": meta("csrf"), ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401 && !path.endsWith("/login")) location.assign("/login");
  if (!answer.ok) throw new Error(found.detail ?? `The server answers ${answer.status}.`);
  return found;
}

/** Do it, and say what went wrong. */
export const act = (work) => async (event) => {
  event?.preventDefault();
  try {
    await work(event);
  } catch (error) {
    notice(error.message);
  }
};

/** `refresh()` now and whenever `concerns(change)` holds, at most once a second. */
export function live(refresh, concerns = () => true) {
  let due = false;
  let running = false;
  const run = async () => {
    if (running) { due = true; return; }
    running = true;
    due = false;
    try { await refresh(); } catch (error) { notice(error.message); }
    setTimeout(() => { running = false; if (due) run(); }, 1000);
  };
  const source = new EventSource("/api/v1/feed");
  source.onmessage = (event) => {
    const change = JSON.parse(event.data);
    if (change.end) location.assign("/login");
    if (change.alarms || change.all) unseen();
    if (change.all || concerns(change)) run();
  };
  run();
  return run;
}

async function unseen() {
  const alarms = await api("/api/v1/alarms?limit=500");
  const number = alarms.filter((alarm) => alarm.acked_at === null).length;
  const element = $("#unseen");
  element.textContent = number;
  element.hidden = !number;
}

$("#logout")?.addEventListener("click", act(async () => {
  await api("/api/v1/logout", "POST");
  location.assign("/login");
}));

export function alarmCard(alarm, done) {
  const kind = alarm.cleared_at || alarm.acked_at ? "" : alarm.severity === "crit" ? "bad" : "warn";
  const label = alarm.severity === "crit" ? "Critical" : alarm.severity === "warn" ? "Warning" : "Note";
  const life = [`since ${when(alarm.onset_ms)}`];
  if (alarm.count > 1) life.push(`${alarm.count} times`);
  if (alarm.cleared_at) life.push(`cleared ${when(alarm.cleared_at)}`);
  else if (alarm.over_at) life.push("over, waits to be seen");
  if (alarm.acked_at) life.push(`seen by ${alarm.acked_by} ${when(alarm.acked_at)}`);
  if (alarm.escalated_at) life.push("escalated");
  return h("article", { class: `card ${kind} ${alarm.cleared_at ? "over" : ""}`, "data-code": alarm.code },
    h("div", {},
      h("h3", {}, alarm.code.replaceAll("_", " ").toLowerCase().replace(/^./, (first) => first.toUpperCase()),
        h("span", { class: `badge ${alarm.cleared_at ? "" : alarm.severity === "crit" ? "bad" : "warn"}` },
          alarm.cleared_at ? "Cleared" : label)),
      h("p", {}, h("a", { href: `/chargers/${alarm.device}` }, alarm.label || alarm.device),
        alarm.text ? `: ${alarm.text}` : ""),
      h("p", { class: "dim" }, life.join(" · ")),
      alarm.note ? h("p", { class: "dim" }, `“${alarm.note}”`) : null),
    isOperator && !alarm.acked_at && !alarm.cleared_at
      ? h("button", { on: { click: act(async () => {
        await api(`/api/v1/alarms/${alarm.id}/acknowledge`, "POST", { note: "" });
        await done();
      }) } }, "Acknowledge") : null);
}
