// Every mask on the frame, to choose from.

import { call } from "./api.js";
import { say } from "./prompts.js";
import { bytes, picture } from "./rle.js";
import { next, page } from "./state.js";
import { $, busy, toast } from "./ui.js";
import { hint, render } from "./view.js";

const COARSE = 16; // clicks along a side where there is no GPU: the default takes four times as long

export async function everything() {
  const s = page.session;
  if (!s || s.tracking || s.found) return;
  busy("Looking for everything");
  try {
    await s.queue;
    const body = page.about.device === "cpu" ? { frame: s.frame, points_per_side: COARSE } : { frame: s.frame };
    const { masks } = await call("POST", `sessions/${s.id}/everything`, body);
    if (page.session !== s) return;
    if (!masks.length) { toast("Nothing stood out in this image."); return; }
    s.found = masks.map((one) => ({ ...one, picture: picture(one.segmentation), inside: bytes(one.segmentation) }));
    s.over = null;
    s.hover = null;
    $("found").hidden = false;
    note(s);
    render();
  } catch (error) { toast(error.message, true); } finally { busy(null); }
}

const note = (s) => { $("foundnote").textContent = `${s.found.length} masks. Click one to make it an object.`; };

function hit(s, [x, y]) { // the smallest one there; they come by size, large ones first
  const at = Math.floor(y) * s.width + Math.floor(x);
  for (let index = s.found.length - 1; index >= 0; index--) if (s.found[index].inside[at]) return index;
  return null;
}

export function over(xy) {
  const s = page.session, index = hit(s, xy);
  if (index !== s.over) { s.over = index; render(); }
}

export function take(xy) {
  const s = page.session, index = hit(s, xy);
  if (index === null) return;
  const [one] = s.found.splice(index, 1), id = next(s);
  s.over = null;
  say(() => ({ mask: one.segmentation }), id).then(() => { if (s.things.has(id)) hint(`${s.things.get(id).name} was added`); });
  if (s.found.length) note(s); else closeFound();
}

export async function takeAll() {
  const s = page.session, room = page.about.objects - s.things.size, all = s.found.slice(0, Math.max(0, room));
  const left = s.found.length - all.length;
  closeFound();
  busy(`Keeping ${all.length} masks`);
  for (const one of all) await say(() => ({ mask: one.segmentation }), next(s));
  busy(null);
  if (left) toast(`${left} masks were left out: a session has at most ${page.about.objects} objects.`);
}

export function closeFound() {
  $("found").hidden = true;
  if (page.session) { page.session.found = page.session.over = null; render(); }
}
