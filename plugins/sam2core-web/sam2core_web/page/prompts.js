// Saying what an object is: clicks, boxes, the brush, and taking it back; the mask under the pointer.

import { call } from "./api.js";
import { over as overFound, take } from "./everything.js";
import { encode, picture } from "./rle.js";
import { adopt, forget, keep, next, page, pictures } from "./state.js";
import { $, toast } from "./ui.js";
import { hint, magnify, pan, place, reach, render, show, zoomed } from "./view.js";

const canvas = $("canvas");
const FAR = 6; // pixels of the screen between a click and a drag

// Calls one after the other; `pending` keeps the preview out of the way.
export function act(work) {
  const s = page.session;
  s.pending++;
  s.queue = s.queue.then(() => (page.session === s ? work() : null))
    .catch((error) => { if (page.session === s) toast(error.message, true); })
    .finally(() => {
      s.pending--;
      if (!s.pending && !down) s.paint = null;
      if (page.session === s) render();
    });
  return s.queue;
}

// `change` makes of what was said of the object on this frame what is to be said instead.
export function say(change, id = page.session.active ?? next(page.session)) {
  const s = page.session, frame = s.frame;
  if (s.tracking) { hint("Tracking is under way: stop it first"); return Promise.resolve(); }
  s.active = id;
  return act(async () => {
    const before = s.things.get(id)?.prompts.get(frame);
    const said = change({ points: [...(before?.points || [])], labels: [...(before?.labels || [])], box: before?.box || null });
    const body = { object: id, frame };
    if (said.mask) body.mask = said.mask;
    else {
      if (said.points.length) Object.assign(body, { points: said.points, labels: said.labels });
      if (said.box) body.box = said.box;
    }
    const answer = await call("POST", `sessions/${s.id}/prompts`, body);
    const state = await call("GET", `sessions/${s.id}`);
    s.hover = null;
    adopt(s, state);
    keep(s, frame, answer.masks);
  });
}

const point = (xy, label, id) => say((said) => { said.points.push(xy); said.labels.push(label); return said; }, id);
const box = (corners) => say((said) => ({ ...said, box: corners }));

async function restore(path) {
  const s = page.session;
  adopt(s, await call("POST", `sessions/${s.id}/${path}`));
  forget(s);
  await show(s.frame);
}

export const undo = () => page.session?.undoable && !page.session.tracking && act(() => restore("undo"));
export const redo = () => page.session?.redoable && !page.session.tracking && act(() => restore("redo"));

export function mode(name) {
  if (page.session) { page.session.mode = name; page.session.hover = null; }
  for (const button of $("mode").children) {
    button.classList.toggle("on", button.dataset.mode === name);
    button.setAttribute("aria-pressed", button.dataset.mode === name);
  }
  $("brush").hidden = name !== "brush";
  canvas.dataset.mode = name;
  render();
}

// the brush

function lift(s, erase) { // begin with the object's mask, as far as it has one here
  const id = s.active ?? next(s);
  if (s.paint?.id !== id || s.paint.frame !== s.frame) {
    const layer = new OffscreenCanvas(s.width, s.height), mask = pictures(s, s.frame).get(id);
    if (mask) layer.getContext("2d").drawImage(mask, 0, 0);
    s.paint = { id, layer, frame: s.frame };
  }
  s.paint.erase = erase;
  s.active = id;
}

function stroke(s, from, to) {
  const on = s.paint.layer.getContext("2d");
  on.globalCompositeOperation = s.paint.erase ? "destination-out" : "source-over";
  on.lineCap = "round";
  on.lineWidth = 2 * reach();
  on.strokeStyle = "#fff";
  on.beginPath();
  on.moveTo(...from);
  on.lineTo(to[0] + 0.01, to[1]);
  on.stroke();
}

function dry(s) {
  const mask = encode(s.paint.layer);
  if (mask === null) {
    s.paint = null;
    if (!s.things.has(s.active)) s.active = null;
    hint("Nothing would be left of the mask");
    return render();
  }
  return say(() => ({ mask }), s.paint.id);
}

// the pointer

let down = null;
const fingers = new Map(); // two of them move the image and make it larger

const between = () => {
  const [a, b] = fingers.values();
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) };
};

function letGo(s) { // what was begun with the first finger is not meant
  if (down?.brush && !s.pending) s.paint = null;
  if (!s.things.has(s.active) && !s.pending) s.active = null;
  down = s.drag = s.pointer = s.hover = null;
  render();
}

canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("pointerdown", (event) => {
  const s = page.session;
  if (!s) return;
  if (event.pointerType === "touch") fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (fingers.size === 2) { letGo(s); return; }
  if (down || fingers.size > 2) return;
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  event.preventDefault();
  const at = place(event), negative = event.button === 2 || event.shiftKey;
  down = { at, last: at, x: event.clientX, y: event.clientY, negative: negative || s.mode === "sub", other: event.altKey, id: event.pointerId };
  if (event.button === 1) { down.pan = true; return; }
  if (s.mode === "brush" && !s.found) {
    if (s.tracking) { down = null; hint("Tracking is under way: stop it first"); return; }
    down.brush = true;
    lift(s, negative || $("erase").checked);
    stroke(s, at, at);
    s.pointer = at;
    render();
  }
});
canvas.addEventListener("pointermove", (event) => {
  const s = page.session;
  if (fingers.has(event.pointerId)) {
    const before = fingers.size === 2 && between();
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) {
      const now = between();
      magnify(zoomed() * now.far / before.far, before.x, before.y);
      pan(now.x - before.x, now.y - before.y);
    }
  }
  if (!s || !down && fingers.size || down && down.id !== event.pointerId) return;
  const here = place(event);
  if (down?.pan) {
    pan(event.clientX - down.x, event.clientY - down.y);
    Object.assign(down, { x: event.clientX, y: event.clientY });
    return;
  }
  if (down?.brush) {
    stroke(s, down.last, here);
    down.last = s.pointer = here;
    return render();
  }
  if (down) {
    if (s.found || !s.drag && Math.hypot(event.clientX - down.x, event.clientY - down.y) < FAR) return;
    const [x0, y0] = down.at, [x1, y1] = here;
    s.drag = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
    return render();
  }
  s.pointer = here;
  if (s.found) return overFound(here);
  if (s.mode === "brush") return render();
  look(event.altKey);
});
canvas.addEventListener("pointerup", (event) => {
  const s = page.session;
  fingers.delete(event.pointerId);
  if (!s || !down || down.id !== event.pointerId) return;
  const { at, negative, brush, other } = down, dragged = s.drag, panned = down.pan;
  down = s.drag = null;
  if (event.pointerType === "touch") s.pointer = null;
  if (panned) return;
  if (brush) return dry(s);
  if (s.found) return take(at);
  if (dragged && dragged[2] - dragged[0] > 2 && dragged[3] - dragged[1] > 2) return box(dragged);
  if (s.mode === "box" && !negative) { render(); return hint("Drag a box around the object"); }
  const empty = s.active === null || !s.things.has(s.active) && !s.pending;
  if (negative && empty) return hint("Click on an object first");
  return point(at, negative ? 0 : 1, other ? next(s) : undefined);
});
for (const name of ["pointerleave", "pointercancel"]) canvas.addEventListener(name, (event) => {
  const s = page.session;
  if (name === "pointercancel") fingers.delete(event.pointerId);
  if (s && !(down && name === "pointerleave")) letGo(s);
});
canvas.addEventListener("wheel", (event) => {
  if (!page.session) return;
  event.preventDefault();
  magnify(zoomed() * Math.exp(-event.deltaY / 500), event.clientX, event.clientY);
}, { passive: false });

// The mask under the pointer: one question at a time, about where it is by then. Not while the object that clicks
// refine has prompts here, unless another one is meant.
async function look(other) {
  const s = page.session;
  const refining = s.active !== null && s.things.get(s.active)?.prompts.get(s.frame) && !other;
  if (refining && s.hover) { s.hover = null; render(); }
  if (s.asking || s.pending || s.tracking || s.playing || refining) return;
  s.asking = true;
  try {
    while (page.session === s && s.pointer && !s.pending && !s.tracking) {
      const where = s.pointer, frame = s.frame;
      const mask = await call("POST", `sessions/${s.id}/preview`, { frame, point: where });
      if (page.session !== s || s.pending || s.frame !== frame || !s.pointer || s.mode === "brush") break;
      s.hover = mask.area ? picture(mask.segmentation) : null;
      render();
      if (s.pointer === where) break;
      await new Promise((wake) => setTimeout(wake, 60));
    }
  } catch { /* a preview that fails is none */ } finally { s.asking = false; }
}
