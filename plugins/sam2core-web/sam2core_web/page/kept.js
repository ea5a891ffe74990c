// The sessions that the server keeps, on the start: open one, delete one, find one by its name.

import { call } from "./api.js";
import { $, fill, toast } from "./ui.js";

const FIRST = 8; // shown before all are asked for
let items = [], all = false, opens = () => {};

export function showKept(open) { opens = open; }

export async function listKept() {
  try {
    items = await call("GET", "sessions");
    list();
  } catch (error) { toast(error.message, true); }
}

function list() {
  const wanted = $("keptfilter").value.toLowerCase(), found = items.filter((one) => one.name.toLowerCase().includes(wanted));
  const shown = all || wanted ? found : found.slice(0, FIRST);
  $("keptpart").hidden = !items.length;
  $("start").classList.toggle("returning", items.length > 0); // who comes back wants the list, not to be welcomed
  $("keptfilter").hidden = items.length <= FIRST;
  $("keptall").hidden = shown.length === found.length;
  $("keptall").textContent = `Show all ${found.length}`;
  $("kept").replaceChildren(...shown.map(card));
}

function card(item) {
  const made = document.createElement("div"), open = document.createElement("button"), remove = document.createElement("button");
  made.className = "keptcard";
  made.dataset.session = item.id;
  fill(open, item, item.kind === "clip" ? "video" : "image", `sessions/${item.id}/thumbnail`);
  const note = document.createElement("small");
  note.textContent = `${item.objects ? `${item.objects} object${item.objects > 1 ? "s" : ""}` : "nothing yet"} · ${ago(item.used)}`;
  note.title = `${new Date(1000 * item.used).toLocaleString()} · ${item.model}`;
  open.querySelector(".name").append(note);
  open.onclick = () => opens(item);
  remove.className = "icon remove";
  remove.title = `Delete ${item.name}`;
  remove.setAttribute("aria-label", remove.title);
  remove.innerHTML = '<svg viewBox="0 0 24 24"><path d="M6 6l12 12M18 6 6 18"/></svg>';
  remove.onclick = () => forget(item);
  made.append(open, remove);
  return made;
}

async function forget(item) {
  if (item.objects && !confirm(`Delete ${item.name} with all its masks? This cannot be undone.`)) return;
  try {
    await call("DELETE", `sessions/${item.id}`);
  } catch (error) { toast(error.message, true); }
  listKept();
}

const STEPS = [["minute", 60], ["hour", 3600], ["day", 86400], ["week", 7 * 86400], ["month", 30 * 86400]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function ago(when) {
  const seconds = Date.now() / 1000 - when, [unit, size] = STEPS.filter(([, least]) => seconds >= least).at(-1) || [];
  return unit ? words.format(-Math.floor(seconds / size), unit) : "just now";
}

$("keptfilter").oninput = list;
$("keptall").onclick = () => { all = true; list(); };
