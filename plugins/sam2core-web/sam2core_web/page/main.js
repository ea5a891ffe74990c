// The page: opening images and videos, and which button and key does what.

import { blob, call, upload } from "./api.js";
import { camera } from "./camera.js";
import { closeFound, everything, takeAll } from "./everything.js";
import { activate, remove } from "./objects.js";
import { mode, redo, undo } from "./prompts.js";
import { listKept, showKept } from "./kept.js";
import { exportAs, label } from "./saving.js";
import { page, session } from "./state.js";
import { halt, play, resume, seek, stop, track, watch } from "./tracking.js";
import { $, busy, fill, keys, theme, toast } from "./ui.js";
import { fit, hint, locate, magnify, render, show } from "./view.js";

const EFFECTS = [...$("effect").options].map((one) => one.value);

// opening; the page's own address says what is open, so that it is there when the page is loaded again: #ID or #ID/FRAME

let opening = 0;

async function open(text, request, frame = 0) {
  const turn = ++opening, before = document.body.dataset.view;
  busy(text);
  document.body.dataset.view = "work";
  try {
    const state = await request();
    if (turn !== opening) return; // something else was opened meanwhile
    close();
    page.session = session(state);
    const s = page.session, fresh = !s.things.size;
    s.frame = Math.min(frame, s.frames - 1);
    if (!fresh) s.active = [...s.things.keys()].at(-1);
    history[before === "home" && !location.search && !location.hash ? "pushState" : "replaceState"](null, "", location.pathname);
    locate(s);
    document.title = `${s.name} · sam2core`;
    $("film").hidden = s.kind === "image";
    $("file").textContent = `${s.name} · ${s.width} × ${s.height}`;
    closeFound();
    label();
    await show(s.frame);
    mode("add");
    if (state.tracking) watch(s);
    else if (fresh) hint(s.kind === "clip" ? "Click on an object, then track it" : "Click on an object");
  } catch (error) {
    if (turn !== opening) return;
    toast(error.message, true);
    if (!page.session) goHome();
  } finally {
    if (turn === opening) { busy(null); fit(); }
  }
}

const openFile = (file) => file && open(`Sending ${file.name}`, () => upload(file, (part) => {
  busy(part < 1 ? `Sending ${file.name} · ${Math.round(100 * part)} %` : "Looking at it");
}));
const openNamed = (of, name) => open(`Opening ${name}`, () => call("POST", "sessions", { [of]: name }));
const openKept = (id, frame, name = "it") => open(`Opening ${name}`, () => call("GET", `sessions/${id}`), frame);

function close() {
  const s = page.session;
  if (!s) return;
  halt();
  if (!s.watched) stop(); // what this window began ends with it; it can be gone on with
  page.session = null;
}

function home() {
  opening++;
  busy(null);
  close();
  document.body.dataset.view = "home";
  document.title = "sam2core";
  scrollTo(0, 0);
  listKept();
}

function goHome() {
  if (document.body.dataset.view === "home") return;
  history[page.session ? "pushState" : "replaceState"](null, "", location.pathname);
  home();
}

function openAddressed() {
  const [, id, frame] = /^#([\w-]{22})(?:\/(\d{1,9}))?$/.exec(location.hash) || [];
  const said = new URLSearchParams(location.search), of = ["sample", "media"].find((one) => said.has(one));
  if (id && id === page.session?.id) seek(Number(frame || 0));
  else if (id) openKept(id, Number(frame || 0));
  else if (of) openNamed(of, said.get(of));
  else home();
}

// An answer that is on its way, and what is not on disk, are not left without a question.
addEventListener("beforeunload", (event) => {
  const s = page.session;
  if (s && (s.pending || s.things.size && !s.saved)) event.preventDefault();
});

// the start

function cards(where, items, of) {
  where.replaceChildren(...items.map((item) => {
    const card = document.createElement("button");
    fill(card, item, item.kind === "clip" ? "video" : "image", `thumbnail?of=${of === "sample" ? "samples" : "media"}&name=${encodeURIComponent(item.name)}`);
    card.onclick = () => openNamed(of, item.name);
    return card;
  }));
}

showKept((item) => openKept(item.id, 0, item.name));

$("filter").oninput = () => {
  const wanted = $("filter").value.toLowerCase();
  for (const card of $("media").children) card.hidden = !card.dataset.name.toLowerCase().includes(wanted);
};
$("filter").onkeydown = (event) => {
  const [only] = [...$("media").children].filter((card) => !card.hidden);
  if (event.key === "Enter" && only) only.click();
};

// buttons

const changeTheme = () => { theme(); render(); };
const effect = (name) => { $("effect").value = name; label(); render(); };
const fresh = () => page.session && activate(null);
const help = () => $("keys").showModal();
const clicks = {
  home: goHome, undo, redo, everything, play, stop, resume, help, theme: changeTheme, add: fresh, foundclose: closeFound, foundall: takeAll,
  keysclose: () => $("keys").close(), track: () => track("forward"), back: () => track("backward"), bothways: () => track("both"),
  drop: () => $("picker").click(), opencamera: () => camera(openFile), fullsize: () => magnify(1, 0, 0),
};
for (const [id, work] of Object.entries(clicks)) $(id).onclick = () => { work(); };
for (const button of $("mode").children) button.onclick = () => mode(button.dataset.mode);
for (const button of $("exports").children) button.onclick = () => exportAs(button.dataset.kind);
$("effect").onchange = () => { effect($("effect").value); $("effect").blur(); };
$("brushsize").oninput = render;
$("picker").onchange = () => { openFile($("picker").files[0]); $("picker").value = ""; };
for (const dialog of document.querySelectorAll("dialog")) dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };

// keys

const brush = (by) => { $("brushsize").value = Number($("brushsize").value) + by; mode("brush"); };
const skip = (by) => page.session && seek(page.session.frame + by);
keys({
  "Mouse and touch": {
    "Click": ["On the object"], "Shift click, right click": ["Not on it"], "Alt click": ["Another object"], "Drag": ["A box around it"],
    "Wheel, two fingers": ["Closer"], "Middle drag, two fingers": ["Move it"],
  },
  "Objects": {
    "n": ["New object", fresh], "1 … 9": ["Choose an object"], "Delete": ["Remove it", () => page.session && remove(page.session.active)],
    "Ctrl z": ["Undo", undo], "Ctrl y": ["Redo", redo], "Ctrl Shift z": [null, redo],
  },
  "Page": { "d": ["Dark or light", changeTheme], "?": ["This help", help] },
  "Tools": {
    "a": ["Clicks say: on it", () => mode("add")], "s": ["Clicks say: not on it", () => mode("sub")], "b": ["Box", () => mode("box")],
    "p": ["Brush (Shift: erase)", () => mode("brush")], "[": ["Smaller brush", () => brush(-2)], "]": ["Larger brush", () => brush(2)],
    "g": ["Everything in the image", everything], "e": ["Next effect", () => effect(EFFECTS[(EFFECTS.indexOf($("effect").value) + 1) % EFFECTS.length])],
    "f": ["Whole image", () => page.session && magnify(1, 0, 0)],
  },
  "Videos": {
    "t": ["Track forward", () => track("forward")], "Shift t": ["Track backward", () => track("backward")], "y": ["Track both ways", () => track("both")],
    "r": ["Go on", resume], "Escape": ["Stop, close", () => { if (page.session?.found) closeFound(); else stop(); }], " ": ["Play, pause", play],
    "ArrowLeft": ["Frame before", () => skip(-1)], "ArrowRight": ["Next frame", () => skip(1)],
    "Home": ["First frame", () => seek(0)], "End": ["Last frame", () => seek(Infinity)],
  },
}, (digit) => {
  const id = page.session && [...page.session.things.keys()][digit - 1];
  if (id) activate(id);
});

// the window

addEventListener("resize", fit);
new ResizeObserver(fit).observe($("stage"));
addEventListener("popstate", openAddressed);
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // much may have changed meanwhile
let over = 0;
const files = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => { if (files(event)) { event.preventDefault(); over++; $("veil").hidden = false; } });
addEventListener("dragleave", (event) => { if (files(event) && --over <= 0) { over = 0; $("veil").hidden = true; } });
addEventListener("dragover", (event) => files(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!files(event)) return;
  event.preventDefault();
  over = 0;
  $("veil").hidden = true;
  openFile(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => openFile(event.clipboardData?.files[0]));

try {
  page.about = await call("GET", "about");
  $("model").textContent = `${page.about.model} · ${page.about.device}`;
  $("model").hidden = false;
  $("droplimit").textContent = `up to ${Math.round(page.about.upload_bytes / 2 ** 20)} MB, videos up to ${page.about.frames} frames`;
  cards($("samples"), await call("GET", "samples"), "sample");
  const media = page.about.media ? await call("GET", "media") : [];
  $("mediapart").hidden = !media.length;
  $("filter").hidden = media.length < 7;
  cards($("media"), media, "media");
  if (location.search || location.hash) openAddressed();
  else await listKept();
} catch (error) {
  toast(error.status === 401 ? "This server wants its token: open the address it printed when it started." : error.message, true);
}
globalThis.sam2core = page; // for those who look, and for tests
document.body.dataset.ready = "yes";
