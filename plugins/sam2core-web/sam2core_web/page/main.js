// The page: opening pictures and clips, and which button and key does what.

import { blob, call, leave, upload } from "./api.js";
import { camera } from "./camera.js";
import { closeFound, everything, takeAll } from "./everything.js";
import { activate, remove } from "./objects.js";
import { mode, redo, undo } from "./prompts.js";
import { exportAs, label } from "./saving.js";
import { page, session } from "./state.js";
import { halt, play, resume, seek, stop, track } from "./tracking.js";
import { $, busy, keys, theme, toast } from "./ui.js";
import { fit, hint, magnify, render, show } from "./view.js";

const EFFECTS = [...$("effect").options].map((one) => one.value);

// opening; `address` is what the page's own address says of it, so that it can be opened again

let opening = 0;

async function open(text, request, address = "") {
  const turn = ++opening, before = document.body.dataset.view;
  busy(text);
  document.body.dataset.view = "work";
  try {
    const state = await request();
    if (turn !== opening) { leave(state.id); return; } // something else was opened meanwhile
    close();
    page.session = session(state);
    const s = page.session, to = address ? `?${address}` : `${location.pathname}#open`;
    history[before === "home" && location.search !== to ? "pushState" : "replaceState"]({ open: true }, "", to);
    document.title = `${s.name} · sam2core`;
    $("film").hidden = s.kind === "image";
    $("file").textContent = `${s.name} · ${s.width} × ${s.height}`;
    closeFound();
    label();
    await show(0);
    mode("add");
    hint(s.kind === "clip" ? "Click on an object, then track it" : "Click on an object");
  } catch (error) {
    if (turn !== opening) return;
    toast(error.message, true);
    if (!page.session) document.body.dataset.view = "home";
  } finally {
    if (turn === opening) { busy(null); fit(); }
  }
}

const openFile = (file) => file && open(`Sending ${file.name}`, () => upload(file, (part) => {
  busy(part < 1 ? `Sending ${file.name} · ${Math.round(100 * part)} %` : "Looking at it");
}));
const openNamed = (of, name) => open(`Opening ${name}`, () => call("POST", "sessions", { [of]: name }), `${of}=${encodeURIComponent(name)}`);

function close() {
  if (!page.session) return;
  halt();
  leave(page.session.id);
  page.session = null;
}

function home() {
  opening++;
  busy(null);
  close();
  document.body.dataset.view = "home";
  document.title = "sam2core";
  scrollTo(0, 0);
}

const goHome = () => { if (document.body.dataset.view === "home") return; home(); history.pushState(null, "", location.pathname); };

function openAddressed() {
  const said = new URLSearchParams(location.search), of = ["sample", "media"].find((one) => said.has(one));
  if (of) openNamed(of, said.get(of));
  else home();
}

// the start

function cards(where, items, of) {
  where.replaceChildren(...items.map((item) => {
    const card = document.createElement("button");
    card.className = "card";
    card.innerHTML = '<div class="pic"><img alt="" draggable="false"></div><footer><span></span><span class="tag"></span></footer>';
    const [name, tag] = card.querySelectorAll("span");
    name.textContent = card.title = item.name;
    tag.textContent = item.kind === "clip" ? "clip" : "picture";
    card.dataset.name = item.name;
    card.onclick = () => openNamed(of, item.name);
    seen.observe(card);
    card.fetchPicture = () => blob(`thumbnail?of=${of === "sample" ? "samples" : "media"}&name=${encodeURIComponent(item.name)}`).then(({ data }) => {
      const image = card.querySelector("img");
      image.onload = () => image.classList.add("in");
      image.src = URL.createObjectURL(data);
    }, () => {});
    return card;
  }));
}

// pictures of what is on the screen only: a media folder may be large
const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
  if (!isIntersecting) return;
  seen.unobserve(target);
  target.fetchPicture();
}), { rootMargin: "300px" });

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
    "g": ["Everything in the picture", everything], "e": ["Next effect", () => effect(EFFECTS[(EFFECTS.indexOf($("effect").value) + 1) % EFFECTS.length])],
    "f": ["Whole picture", () => page.session && magnify(1, 0, 0)],
  },
  "Clips": {
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
addEventListener("pagehide", () => page.session && leave(page.session.id));
addEventListener("pageshow", (event) => { if (event.persisted) openAddressed(); }); // its session is gone
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
  $("droplimit").textContent = `up to ${Math.round(page.about.upload_bytes / 2 ** 20)} MB, clips up to ${page.about.frames} frames`;
  cards($("samples"), await call("GET", "samples"), "sample");
  const media = page.about.media ? await call("GET", "media") : [];
  $("mediapart").hidden = !media.length;
  $("filter").hidden = media.length < 7;
  cards($("media"), media, "media");
  if (location.search) openAddressed();
} catch (error) {
  toast(error.status === 401 ? "This server wants its token: open the address it printed when it started." : error.message, true);
}
globalThis.sam2core = page; // for those who look, and for tests
document.body.dataset.ready = "yes";
