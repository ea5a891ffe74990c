// The image on the page: which frame, at which size, with what drawn over it; and the list of objects.

import { blob, call } from "./api.js";
import { brushRing, hover as drawHover, outline, prompts as drawPrompts, scene } from "./draw.js";
import { list } from "./objects.js";
import { color, keep, known, next, page, pictures } from "./state.js";
import { Timeline } from "./timeline.js";
import { seek } from "./tracking.js";
import { $ } from "./ui.js";

const FRAMES_KEPT = 48, ZOOM = 8;

const canvas = $("canvas");
const context = canvas.getContext("2d");
const zoom = { scale: 1, x: 0, y: 0 };
let timeline = null;

export const reach = () => Number($("brushsize").value) / 200 * Math.max(page.session.width, page.session.height) / 2;

export async function show(frame) {
  const s = page.session;
  s.frame = frame;
  s.hover = null;
  if (!s.images.has(frame)) {
    const { data } = await blob(`sessions/${s.id}/frames/${frame}`);
    s.images.set(frame, await createImageBitmap(data));
    if (s.images.size > FRAMES_KEPT) {
      const oldest = [...s.images.keys()].find((one) => one !== s.frame);
      if (s.images.get(oldest) !== s.image) s.images.get(oldest).close();
      s.images.delete(oldest);
    }
  }
  if (!s.masks.has(frame) && known(s, frame)) {
    const { masks } = await call("GET", `sessions/${s.id}/masks/${frame}`);
    if (page.session === s) keep(s, frame, masks);
  }
  if (page.session !== s || s.frame !== frame) return; // somewhere else by now
  s.image = s.images.get(frame);
  s.shown = frame;
  locate(s);
  render();
}

// The page's address says which frame is shown; browsers do not like it changed with every frame that is played.
let locating = 0;
export function locate(s) {
  clearTimeout(locating);
  const change = () => { if (page.session === s) history.replaceState(null, "", `#${s.id}${s.frame ? `/${s.frame}` : ""}`); };
  if (s.shown === undefined) change();
  else locating = setTimeout(change, 150);
}

export function fit() {
  const s = page.session;
  if (!s) return;
  const box = $("stage"), narrow = innerWidth <= 820;
  const highest = narrow ? innerHeight * 0.55 : box.clientHeight;
  const scale = Math.min(box.clientWidth / s.width, highest / s.height), ratio = devicePixelRatio || 1;
  canvas.style.width = `${Math.floor(s.width * scale)}px`;
  canvas.style.height = `${Math.floor(s.height * scale)}px`;
  canvas.width = Math.round(s.width * scale * ratio);
  canvas.height = Math.round(s.height * scale * ratio);
  magnify(1, 0, 0);
  paint(); // at once: setting the size has cleared the canvas
}

// The image `scale` times as large, with the point (x, y) of the window staying where it is.
export function magnify(scale, x, y) {
  const before = canvas.getBoundingClientRect(), to = Math.max(1, Math.min(ZOOM, scale)), by = to / zoom.scale;
  zoom.x += (x - before.left) * (1 - by);
  zoom.y += (y - before.top) * (1 - by);
  zoom.scale = to;
  moved();
}

export function pan(x, y) {
  zoom.x += x;
  zoom.y += y;
  moved();
}

export const zoomed = () => zoom.scale;

function moved() {
  const edge = (at, size) => Math.max(size * (1 - zoom.scale), Math.min(0, at));
  zoom.x = edge(zoom.x, canvas.offsetWidth);
  zoom.y = edge(zoom.y, canvas.offsetHeight);
  $("fullsize").hidden = zoom.scale === 1;
  $("fullsize").textContent = `${zoom.scale.toFixed(1)} ×`;
  canvas.style.transform = zoom.scale === 1 ? "" : `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
}

// Where an event is, in the image's pixels.
export function place(event) {
  const area = canvas.getBoundingClientRect(), { width, height } = page.session;
  const at = (value, most) => Math.round(Math.max(0, Math.min(most - 1, value)) * 10) / 10;
  return [at(((event.clientX - area.left) / area.width) * width, width), at(((event.clientY - area.top) / area.height) * height, height)];
}

let asked = false;
export function render() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; paint(); });
}

function paint() {
  const s = page.session;
  if (!s) return;
  if (s.image && s.shown === s.frame) picture(s);
  panel(s);
}

// What is drawn of the frame: [{mask, color, active}]. Where a mask is being painted, that one.
export function masks(s) {
  const paint = s.paint?.frame === s.frame ? s.paint : null;
  const drawn = [...pictures(s, s.frame)].filter(([id]) => s.things.has(id) && id !== paint?.id)
    .map(([id, mask]) => ({ id, mask, color: s.things.get(id).color, active: id === s.active }));
  if (paint) drawn.push({ id: paint.id, mask: paint.layer, color: s.things.get(paint.id)?.color || color(paint.id), active: true });
  return drawn;
}

function picture(s) {
  const { width, height } = canvas, unit = devicePixelRatio || 1, scale = width / s.width;
  scene(context, s.image, s.found ? [] : masks(s), $("effect").value, width, height, unit);
  if (s.found) {
    s.found.forEach((one, index) => drawHover(context, one.picture, color(index + 1), width, height, unit));
    if (s.over !== null && s.found[s.over]) outline(context, s.found[s.over].picture, "#fff", 3 * unit, width, height);
    return;
  }
  if (s.hover && !s.drag) drawHover(context, s.hover, color(next(s)), width, height, unit);
  const said = s.active !== null && s.things.get(s.active)?.prompts.get(s.frame);
  if (said && !s.playing) drawPrompts(context, said, scale, unit);
  if (s.drag) drawPrompts(context, { box: s.drag, points: [], labels: [] }, scale, unit);
  if (s.mode === "brush" && s.pointer) brushRing(context, s.pointer, reach(), scale, unit);
}

export function panel(s) {
  list(s);
  const any = s.things.size > 0;
  $("undo").disabled = !s.undoable || s.tracking;
  $("redo").disabled = !s.redoable || s.tracking;
  for (const button of document.querySelectorAll("#exports button")) button.disabled = !any || s.tracking;
  $("everything").disabled = s.tracking;
  const [word, why] = s.saved ? ["Saved", "All of it is on disk"] : page.about.keeps
    ? ["Not saved", "The server could not write it to disk; its log says why"]
    : ["Not kept", "This server keeps no sessions (--no-save): export what you need"];
  $("saved").hidden = s.tracking && page.about.keeps;
  $("saved").textContent = word;
  $("saved").title = why;
  $("saved").classList.toggle("bad", !s.saved && any);
  if (s.kind !== "clip") return;
  timeline ||= new Timeline($("lanes"), seek);
  timeline.draw([...s.things.values()], s.frame, s.frames, s.active);
  $("clock").textContent = `${s.frame} / ${s.frames - 1}`;
  $("play").classList.toggle("on", Boolean(s.playing));
  $("play").disabled = s.tracking;
  $("track").disabled = $("bothways").disabled = !any;
  $("back").disabled = !any || origin(s, "backward") === 0;
  for (const id of ["track", "back", "bothways"]) $(id).hidden = s.tracking;
  $("stop").hidden = !s.tracking;
  $("resume").hidden = s.tracking || !s.resumable;
}

// Where tracking begins: here, if there is anything here; else where something was said first.
export function origin(s, direction) {
  const first = Math.min(...[...s.things.values()].flatMap((thing) => [...thing.prompts.keys()]));
  return known(s, s.frame) && !(direction === "forward" && s.frame === s.frames - 1) ? s.frame : first;
}

let fading = 0;
export function hint(text) {
  $("hint").textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { $("hint").textContent = ""; }, 3500);
}
