// The list of objects: colour, name, how sure the model is, and a button that removes.

import { call } from "./api.js";
import { act } from "./prompts.js";
import { adopt, forget, page } from "./state.js";
import { $, toast } from "./ui.js";
import { hint, render, show } from "./view.js";

const rows = new Map(); // object -> its row, which stays while it is typed into
let of = null;

export function list(s) {
  if (of !== s) { rows.clear(); of = s; }
  for (const id of rows.keys()) if (!s.things.has(id)) rows.delete(id);
  for (const thing of s.things.values()) {
    if (!rows.has(thing.id)) rows.set(thing.id, row(s, thing.id));
    refresh(s, thing, rows.get(thing.id));
  }
  const wanted = [...s.things.keys()].map((id) => rows.get(id)), there = $("objects").children;
  if (wanted.length !== there.length || wanted.some((one, index) => there[index] !== one)) $("objects").replaceChildren(...wanted);
  $("noobjects").hidden = s.things.size > 0;
  $("count").textContent = s.things.size || "";
}

function refresh(s, thing, item) {
  const [swatch, name] = item.querySelectorAll("input"), note = item.querySelector("small"), mask = s.masks.get(s.frame)?.[thing.id];
  item.classList.toggle("on", thing.id === s.active);
  if (document.activeElement !== swatch) swatch.value = thing.color;
  if (document.activeElement !== name) name.value = thing.name;
  const text = !mask ? "" : mask.area ? `IoU ${Math.max(0, Math.min(1, mask.iou)).toFixed(2)}` : "not seen";
  if (note.textContent !== text) note.textContent = text;
}

function row(s, id) {
  const item = document.createElement("li");
  item.dataset.object = id;
  item.innerHTML = '<input type="color" aria-label="Colour" title="Colour"><input class="name" aria-label="Name" maxlength="60" spellcheck="false">'
    + '<small title="The model’s own estimate of how good the mask is"></small>'
    + '<button title="Remove (Del)" aria-label="Remove"><svg viewBox="0 0 24 24"><path d="M6 6l12 12M18 6 6 18"/></svg></button>';
  const [swatch, name] = item.querySelectorAll("input");
  const change = (body) => act(async () => adopt(s, await call("PUT", `sessions/${s.id}/objects/${id}`, body)));
  swatch.onchange = () => change({ color: swatch.value });
  name.onchange = () => { if (name.value.trim()) change({ name: name.value.trim() }); };
  name.onkeydown = (event) => { if (["Enter", "Escape"].includes(event.key)) name.blur(); }; // a handler that returns false would stop the typing
  name.onblur = () => render();
  name.onfocus = () => { s.active = id; render(); };
  item.onclick = (event) => { if (event.target === item || event.target.tagName === "SMALL") activate(id); };
  item.querySelector("button").onclick = () => remove(id);
  return item;
}

export function activate(id) {
  const s = page.session;
  s.active = id;
  s.hover = null;
  render();
  hint(id === null ? "Click on another object" : `Clicks now refine ${s.things.get(id).name}`);
}

export function remove(id) {
  const s = page.session;
  if (!s || id === null) return;
  if (s.tracking) { toast("Tracking is under way: stop it first."); return; }
  const { name } = s.things.get(id);
  act(async () => {
    adopt(s, await call("DELETE", `sessions/${s.id}/objects/${id}`));
    forget(s);
    await show(s.frame);
    hint(`${name} was removed; Ctrl Z brings it back`);
  });
}
