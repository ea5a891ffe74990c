// The page: what is open, what the pointer and the keys do, and what is shown of it.

import { blob, call, leave, stream, upload } from "./api.js";
import { hover as drawHover, outline, prompts as drawPrompts, scene } from "./draw.js";
import { bytes, picture } from "./rle.js";
import { Timeline } from "./timeline.js";
import { $, busy, keys, save, theme, toast } from "./ui.js";

const EFFECTS = ["mask", "contour", "dim", "blur", "remove", "cut"];
const FRAMES_KEPT = 48;

let s = null; // the open session, or null
let about = {};
const canvas = $("canvas"), context = canvas.getContext("2d");
const timeline = new Timeline($("lanes"), (frame) => s && !s.tracking && show(frame));

// opening

async function open(label, request) {
  busy(label);
  document.body.dataset.view = "work";
  try {
    const state = await request();
    if (s) leave(s.id);
    s = {
      id: state.id, kind: state.kind, name: state.name, width: state.width, height: state.height,
      frames: state.frames, fps: state.fps || 25, frame: 0, image: null, images: new Map(),
      things: new Map(), masks: new Map(), pictures: new Map(), active: null, mode: "add",
      hover: null, pointer: null, asking: false, drag: null, found: null, tracking: false, playing: 0, resumable: false,
      undoable: 0, queue: Promise.resolve(), pending: 0,
    };
    adopt(state);
    $("film").hidden = s.kind === "image";
    $("everything").hidden = s.kind !== "image";
    $("file").textContent = `${s.name} · ${s.width} × ${s.height}`;
    $("overlaykind").textContent = s.kind === "image" ? "PNG" : "MP4";
    closeFound();
    await show(0);
    mode("add");
    hint("Click on an object");
  } catch (error) {
    toast(error.message, true);
    if (!s) document.body.dataset.view = "home";
  } finally {
    busy(null);
    fit();
  }
}

const openFile = (file) => file && open(`Sending ${file.name}`, () => upload(file, (part) => {
  busy(part < 1 ? `Sending ${file.name} · ${Math.round(100 * part)} %` : "Looking at it");
}));

function home() {
  if (s) { halt(); leave(s.id); }
  s = null;
  document.body.dataset.view = "home";
}

function cards(where, items, of) {
  where.replaceChildren(...items.map((item) => {
    const card = document.createElement("button");
    card.className = "card";
    card.innerHTML = '<div class="pic"><img alt=""></div><footer><span></span><span class="tag"></span></footer>';
    const [name, tag] = card.querySelectorAll("span");
    name.textContent = item.name;
    tag.textContent = item.kind === "clip" ? "clip" : "picture";
    card.dataset.name = item.name;
    card.onclick = () => open(`Opening ${item.name}`, () => call("POST", "sessions", { [of === "samples" ? "sample" : "media"]: item.name }));
    const image = card.querySelector("img");
    blob(`thumbnail?of=${of}&name=${encodeURIComponent(item.name)}`)
      .then(({ data }) => { image.src = URL.createObjectURL(data); image.onload = () => image.classList.add("in"); }, () => {});
    return card;
  }));
}

// what the server says of a session

function adopt(state) {
  const things = new Map();
  for (const { id, name, color } of state.objects) {
    const presence = new Map(Object.entries(state.presence[id] || {}).map(([frame, seen]) => [Number(frame), seen]));
    const prompts = new Map(state.prompts.filter((one) => one.object === id).map((one) => [one.frame, one]));
    things.set(id, { id, name, color, presence, prompts });
  }
  s.things = things;
  s.undoable = state.undoable;
  s.resumable = state.resumable;
  if (s.active !== null && !things.has(s.active)) s.active = null;
}

function known(frame) {
  return [...s.things.values()].some((thing) => thing.presence.has(frame));
}

function keep(frame, masks) {
  s.masks.set(frame, masks);
  s.pictures.delete(frame);
  for (const [id, mask] of Object.entries(masks)) s.things.get(Number(id))?.presence.set(frame, mask.area > 0);
}

function pictures(frame) {
  if (!s.pictures.has(frame)) {
    s.pictures.clear(); // those of one frame at a time: they are large
    const made = new Map();
    for (const [id, mask] of Object.entries(s.masks.get(frame) || {})) if (mask.area) made.set(Number(id), picture(mask.segmentation));
    s.pictures.set(frame, made);
  }
  return s.pictures.get(frame);
}

async function show(frame) {
  const mine = s;
  mine.frame = frame;
  mine.hover = null;
  if (!mine.images.has(frame)) {
    const { data } = await blob(`sessions/${mine.id}/frames/${frame}`);
    mine.images.set(frame, await createImageBitmap(data));
    if (mine.images.size > FRAMES_KEPT) {
      const oldest = mine.images.keys().next().value;
      mine.images.get(oldest).close();
      mine.images.delete(oldest);
    }
  }
  if (!mine.masks.has(frame) && known(frame)) {
    const { masks } = await call("GET", `sessions/${mine.id}/masks/${frame}`);
    if (s === mine) keep(frame, masks);
  }
  if (s !== mine || mine.frame !== frame) return; // somewhere else by now
  mine.image = mine.images.get(frame);
  render();
}

// drawing

function fit() {
  if (!s) return;
  const box = $("stage"), narrow = innerWidth <= 820;
  const widest = box.clientWidth, highest = narrow ? innerHeight * 0.6 : box.clientHeight;
  const scale = Math.min(widest / s.width, highest / s.height);
  const ratio = devicePixelRatio || 1;
  canvas.style.width = `${Math.floor(s.width * scale)}px`;
  canvas.style.height = `${Math.floor(s.height * scale)}px`;
  canvas.width = Math.round(s.width * scale * ratio);
  canvas.height = Math.round(s.height * scale * ratio);
  render();
}

let asked = false;
function render() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; if (s) paint(); });
}

function paint() {
  const { width, height } = canvas, unit = devicePixelRatio || 1, scale = width / s.width;
  if (s.image) {
    const drawn = [...pictures(s.frame)].filter(([id]) => s.things.has(id))
      .map(([id, mask]) => ({ mask, color: s.things.get(id).color, active: id === s.active }));
    scene(context, s.image, s.found ? [] : drawn, $("effect").value, width, height, unit);
    if (s.found) {
      s.found.forEach((one, index) => {
        context.globalAlpha = 1;
        drawHover(context, one.picture, color(index + 1), width, height, index === s.over ? 2.4 * unit : unit);
      });
      if (s.over !== null && s.found[s.over]) outline(context, s.found[s.over].picture, "#fff", 3 * unit, width, height);
    } else if (s.hover && !s.drag) drawHover(context, s.hover, s.active ? s.things.get(s.active).color : color(next()), width, height, unit);
    const said = !s.found && s.active !== null && s.things.get(s.active)?.prompts.get(s.frame);
    if (said) drawPrompts(context, said, scale, unit);
    if (s.drag) drawPrompts(context, { box: s.drag, points: [], labels: [] }, scale, unit);
  }
  panel();
}

function color(number) {
  const first = ["#1e90ff", "#ff6f00", "#00bf82", "#e91e8c", "#ffc800", "#825aff", "#00c8dc", "#dc2828"];
  return first[number - 1] || `hsl(${(number * 137.5) % 360} 80% 55%)`;
}

const next = () => Math.max(0, ...(s ? s.things.keys() : [])) + 1;

function panel() {
  const list = $("objects"), editing = list.contains(document.activeElement) && document.activeElement.tagName === "INPUT";
  if (!editing) list.replaceChildren(...[...s.things.values()].map(row));
  $("noobjects").hidden = s.things.size > 0;
  $("undo").disabled = !s.undoable;
  const any = s.things.size > 0;
  for (const button of document.querySelectorAll("#exports button")) button.disabled = !any || s.tracking;
  if (s.kind === "clip") {
    timeline.draw([...s.things.values()], s.frame, s.frames, s.active);
    $("clock").textContent = `${s.frame + 1} / ${s.frames}`;
    $("track").disabled = $("bothways").disabled = !any;
    $("back").disabled = !any || origin("backward") === 0;
    for (const id of ["track", "back", "bothways"]) $(id).hidden = s.tracking;
    $("stop").hidden = !s.tracking;
    $("resume").hidden = s.tracking || !s.resumable;
  }
}

function row(thing) {
  const item = document.createElement("li");
  item.classList.toggle("on", thing.id === s.active);
  item.innerHTML = '<input type="color" aria-label="Colour"><input class="name" aria-label="Name" maxlength="60"><small></small><button title="Remove" aria-label="Remove">✕</button>';
  const [swatch, name] = item.querySelectorAll("input"), mask = s.masks.get(s.frame)?.[thing.id];
  swatch.value = thing.color;
  name.value = thing.name;
  item.querySelector("small").textContent = !mask ? "" : mask.area ? `IoU ${Math.max(0, Math.min(1, mask.iou)).toFixed(2)}` : "not seen";
  const change = () => call("PUT", `sessions/${s.id}/objects/${thing.id}`, { name: name.value.trim() || thing.name, color: swatch.value })
    .then((state) => { adopt(state); render(); }, (error) => toast(error.message, true));
  swatch.onchange = change;
  name.onchange = change;
  name.onkeydown = (event) => event.key === "Enter" && name.blur();
  name.onblur = () => render();
  item.onclick = (event) => { if (event.target === item || event.target.tagName === "SMALL") { activate(thing.id); } };
  name.onfocus = () => { s.active = thing.id; };
  item.querySelector("button").onclick = () => act(() => call("DELETE", `sessions/${s.id}/objects/${thing.id}`)
    .then(async (state) => { adopt(state); forget(); await show(s.frame); }));
  return item;
}

function activate(id) {
  s.active = id;
  s.hover = null;
  render();
  hint(id === null ? "Click on another object" : `Clicks now refine ${s.things.get(id).name}`);
}

let fading = 0;
function hint(text) {
  $("hint").textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { $("hint").textContent = ""; }, 3500);
}

// saying what an object is

// Calls one after the other; `pending` keeps the preview out of the way.
function act(work) {
  const mine = s;
  mine.pending++;
  mine.queue = mine.queue.then(() => (s === mine ? work() : null))
    .catch((error) => { if (s === mine) toast(error.message, true); })
    .finally(() => { mine.pending--; if (s === mine) render(); });
  return mine.queue;
}

function say(change) {
  if (s.tracking) return hint("Tracking is under way: stop it first");
  return act(async () => {
    const id = s.active ?? next(), frame = s.frame;
    const before = s.things.get(id)?.prompts.get(frame);
    const said = change({ points: [...(before?.points || [])], labels: [...(before?.labels || [])], box: before?.box || null });
    const body = { object: id, frame };
    if (said.mask) body.mask = said.mask;
    else {
      if (said.points.length) Object.assign(body, { points: said.points, labels: said.labels });
      if (said.box) body.box = said.box;
    }
    const answer = await call("POST", `sessions/${s.id}/prompts`, body);
    s.active = id;
    s.hover = null;
    adopt(await call("GET", `sessions/${s.id}`));
    s.active = id;
    keep(frame, answer.masks);
  });
}

const point = (xy, label) => say((said) => { said.points.push(xy); said.labels.push(label); return said; });
const box = (corners) => say((said) => ({ ...said, box: corners }));

function forget() {
  s.masks.clear();
  s.pictures.clear();
}

const undo = () => s && s.undoable && !s.tracking && act(async () => {
  adopt(await call("POST", `sessions/${s.id}/undo`));
  forget();
  await show(s.frame);
});

function place(event) {
  const area = canvas.getBoundingClientRect();
  const x = ((event.clientX - area.left) / area.width) * s.width, y = ((event.clientY - area.top) / area.height) * s.height;
  const round = (value, most) => Math.round(Math.max(0, Math.min(most - 1, value)) * 10) / 10;
  return [round(x, s.width), round(y, s.height)];
}

let down = null;
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("pointerdown", (event) => {
  if (!s || event.button === 1) return;
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  down = { at: place(event), x: event.clientX, y: event.clientY, negative: event.button === 2 || event.shiftKey || s.mode === "sub" };
});
canvas.addEventListener("pointermove", (event) => {
  if (!s) return;
  const here = place(event);
  if (down) {
    if (s.found || Math.hypot(event.clientX - down.x, event.clientY - down.y) < 6 && !s.drag) return;
    const [x0, y0] = down.at, [x1, y1] = here;
    s.drag = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
    return render();
  }
  s.pointer = here;
  if (s.found) { s.over = hit(here); return render(); }
  look();
});
canvas.addEventListener("pointerup", () => {
  if (!s || !down) return;
  const { at, negative } = down, dragged = s.drag;
  down = s.drag = null;
  if (s.found) return take(hit(at));
  if (dragged && dragged[2] - dragged[0] > 2 && dragged[3] - dragged[1] > 2) return box(dragged);
  const empty = s.active === null || !s.things.has(s.active);
  if (negative && empty) return hint("Click on an object first");
  point(at, negative ? 0 : 1);
});
for (const name of ["pointerleave", "pointercancel"]) canvas.addEventListener(name, () => {
  if (!s || down && name === "pointerleave") return;
  down = s.drag = s.pointer = s.hover = null;
  render();
});

// The mask under the pointer: one question at a time, about where it is by then.
async function look() {
  const mine = s;
  if (mine.asking || mine.pending || mine.tracking || mine.playing || mine.active !== null && mine.things.get(mine.active)?.prompts.get(mine.frame)) return;
  mine.asking = true;
  try {
    while (s === mine && mine.pointer && !mine.pending && !mine.tracking) {
      const where = mine.pointer, frame = mine.frame;
      const mask = await call("POST", `sessions/${mine.id}/preview`, { frame, point: where });
      if (s !== mine || mine.pending || mine.frame !== frame || !mine.pointer) break;
      mine.hover = mask.area ? picture(mask.segmentation) : null;
      render();
      if (mine.pointer === where) break;
      await new Promise((wake) => setTimeout(wake, 60));
    }
  } catch { /* a preview that fails is none */ } finally { mine.asking = false; }
}

// everything

async function everything() {
  if (!s || s.kind !== "image") return;
  busy("Looking for everything");
  try {
    await s.queue;
    const { masks } = await call("POST", `sessions/${s.id}/everything`, {});
    if (!masks.length) return toast("Nothing stood out in this picture.");
    s.found = masks.map((one) => ({ ...one, picture: picture(one.segmentation), inside: bytes(one.segmentation) }));
    s.over = null;
    $("found").hidden = false;
    foundNote();
    render();
  } catch (error) { toast(error.message, true); } finally { busy(null); }
}

const foundNote = () => { $("foundnote").textContent = `${s.found.length} masks. Click one to make it an object.`; };

function hit([x, y]) { // the smallest one there; they come by size, large ones first
  const at = Math.floor(y) * s.width + Math.floor(x);
  for (let index = s.found.length - 1; index >= 0; index--) if (s.found[index].inside[at]) return index;
  return null;
}

function take(index) {
  if (index === null) return;
  const [one] = s.found.splice(index, 1);
  s.over = null;
  s.active = null;
  say(() => ({ mask: one.segmentation })).then(() => hint(`${s.things.get(s.active)?.name} was added`));
  if (s.found.length) foundNote(); else closeFound();
}

function closeFound() {
  $("found").hidden = true;
  if (s) { s.found = null; s.over = null; render(); }
}

// tracking

function origin(direction) { // here, if there is anything here; else where something was said first
  const first = Math.min(...[...s.things.values()].flatMap((thing) => [...thing.prompts.keys()]));
  return known(s.frame) && !(direction === "forward" && s.frame === s.frames - 1) ? s.frame : first;
}

function track(direction) {
  if (!s || s.kind !== "clip" || s.tracking || !s.things.size) return;
  return run({ direction, start: origin(direction) });
}

async function run(body) {
  const mine = s;
  halt();
  await mine.queue;
  mine.tracking = true;
  mine.hover = null;
  $("progress").hidden = false;
  $("progress").firstElementChild.style.width = "0";
  render();
  let shown = Promise.resolve(), showing = false;
  try {
    await stream(`sessions/${mine.id}/propagate`, body, (name, data) => {
      if (s !== mine) return;
      if (name === "error") toast(data.detail, true);
      if (name !== "frame") return;
      keep(data.frame, data.masks);
      $("progress").firstElementChild.style.width = `${(100 * data.done) / data.total}%`;
      if (!showing) { showing = true; shown = show(data.frame).catch(() => {}).finally(() => { showing = false; }); }
      mine.last = data.frame;
    });
    await shown;
  } catch (error) { if (s === mine) toast(error.message, true); } finally {
    mine.tracking = false;
    if (s === mine) {
      $("progress").hidden = true;
      try {
        adopt(await call("GET", `sessions/${mine.id}`));
        if (mine.last !== undefined) await show(mine.last);
      } catch (error) { toast(error.message, true); }
      render();
    }
  }
}

const stop = () => s?.tracking && call("POST", `sessions/${s.id}/cancel`).catch((error) => toast(error.message, true));

function halt() {
  if (s) { cancelAnimationFrame(s.playing); s.playing = 0; }
}

function play() {
  if (!s || s.kind !== "clip" || s.tracking) return;
  if (s.playing) { halt(); return; }
  const mine = s;
  let last = performance.now(), ready = true;
  if (mine.frame === mine.frames - 1) mine.frame = -1;
  const tick = (now) => {
    if (s !== mine || !mine.playing) return;
    if (ready && now - last >= 1000 / mine.fps - 4) {
      if (mine.frame >= mine.frames - 1) return halt();
      last = now;
      ready = false;
      show(mine.frame + 1).then(() => { ready = true; }, (error) => { halt(); toast(error.message, true); });
    }
    mine.playing = requestAnimationFrame(tick);
  };
  mine.playing = requestAnimationFrame(tick);
}

// out of the page

async function exportAs(kind, button) {
  button.disabled = true;
  busy("Writing the file");
  try {
    if (kind === "view") {
      const out = new OffscreenCanvas(s.width, s.height), masks = [...pictures(s.frame)].map(([id, mask]) => ({ mask, color: s.things.get(id).color }));
      scene(out.getContext("2d"), s.image, masks, $("effect").value, s.width, s.height, Math.max(1, s.width / 900), true);
      save(await out.convertToBlob({ type: "image/png" }), `${s.name.replace(/\.\w+$/, "")}.${$("effect").value}.png`);
    } else {
      const { data, name } = await blob(`sessions/${s.id}/export?kind=${kind}`);
      save(data, name);
      toast(`Saved ${name}`);
    }
  } catch (error) { toast(error.message, true); } finally { busy(null); button.disabled = false; }
}

// buttons and keys

function mode(name) {
  if (s) s.mode = name;
  for (const button of $("mode").children) button.classList.toggle("on", button.dataset.mode === name);
}

for (const button of $("mode").children) button.onclick = () => mode(button.dataset.mode);
for (const button of document.querySelectorAll("#exports button")) button.onclick = () => exportAs(button.dataset.kind, button);
const fresh = () => s && activate(null);
const seek = (by) => s?.kind === "clip" && !s.tracking && (halt(), show(Math.max(0, Math.min(s.frames - 1, s.frame + by))));
const clicks = {
  home, undo, everything, play, stop, theme: () => { theme(); render(); }, help: () => $("keys").showModal(), keysclose: () => $("keys").close(),
  add: fresh, foundclose: closeFound, track: () => track("forward"), back: () => track("backward"), bothways: () => track("both"),
  resume: () => run({ resume: true }), drop: () => $("picker").click(),
};
for (const [id, work] of Object.entries(clicks)) $(id).onclick = work;
$("effect").onchange = render;
$("picker").onchange = () => { openFile($("picker").files[0]); $("picker").value = ""; };

keys({
  "Click": ["On the object", null], "Shift click, right click": ["Not on it", null], "Drag": ["A box around it", null],
  "n": ["New object", fresh], "a": ["Clicks say: on it", () => mode("add")], "s": ["Clicks say: not on it", () => mode("sub")],
  "b": ["Box", () => mode("box")], "Ctrl z": ["Undo", undo], "g": ["Everything in the picture", everything],
  "e": ["Next effect", () => { $("effect").value = EFFECTS[(EFFECTS.indexOf($("effect").value) + 1) % EFFECTS.length]; render(); }],
  "t": ["Track forward", () => track("forward")], "Shift t": ["Track backward", () => track("backward")], "y": ["Track both ways", () => track("both")],
  "r": ["Go on", () => s?.resumable && !s.tracking && run({ resume: true })],
  "Escape": ["Stop, close", () => { if (s?.found) closeFound(); else stop(); }],
  " ": ["Play, pause", play], "ArrowLeft": ["Frame before", () => seek(-1)], "ArrowRight": ["Next frame", () => seek(1)],
  "Home": ["First frame", () => seek(-1e9)], "End": ["Last frame", () => seek(1e9)],
  "1 … 9": ["Choose an object", null], "d": ["Dark or light", () => { theme(); render(); }], "?": ["This help", () => $("keys").showModal()],
}, (digit) => s && [...s.things.keys()][digit - 1] !== undefined && activate([...s.things.keys()][digit - 1]));

addEventListener("resize", fit);
new ResizeObserver(fit).observe($("stage"));
addEventListener("pagehide", () => s && leave(s.id));
let over = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); over++; $("veil").hidden = false; });
addEventListener("dragleave", () => { if (--over <= 0) { over = 0; $("veil").hidden = true; } });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); over = 0; $("veil").hidden = true; openFile(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => openFile(event.clipboardData?.files[0]));

try {
  about = await call("GET", "about");
  $("model").textContent = `${about.model} · ${about.device}`;
  $("model").hidden = false;
  $("droplimit").textContent = `or choose a file, up to ${Math.round(about.upload_bytes / 2 ** 20)} MB and ${about.frames} frames`;
  cards($("samples"), await call("GET", "samples"), "samples");
  const media = about.media ? await call("GET", "media") : [];
  $("mediapart").hidden = !media.length;
  cards($("media"), media, "media");
} catch (error) {
  toast(error.status === 401 ? "This server wants its token: open the address it printed when it started." : error.message, true);
}
document.body.dataset.ready = "yes";
