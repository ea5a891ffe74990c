// Following objects through the video, and playing it.

import { call, stream } from "./api.js";
import { closeFound } from "./everything.js";
import { adopt, forget, keep, page } from "./state.js";
import { $, toast } from "./ui.js";
import { origin, render, show } from "./view.js";

export function track(direction) {
  const s = page.session;
  if (!s || s.kind !== "clip" || s.tracking || !s.things.size) return null;
  return run({ direction, start: origin(s, direction) });
}

export const resume = () => page.session?.resumable && !page.session.tracking && run({ resume: true });

async function run(body) {
  const s = page.session, bar = $("progress").firstElementChild;
  halt();
  closeFound();
  s.tracking = true;
  s.hover = null;
  await s.queue;
  if (page.session !== s) return;
  bar.style.width = "0";
  $("progress").hidden = false;
  render();
  let shown = Promise.resolve(), showing = false, last = null;
  try {
    await stream(`sessions/${s.id}/propagate`, body, (name, data) => {
      if (page.session !== s) return;
      if (name === "error") toast(data.detail, true);
      if (name !== "frame") return;
      keep(s, data.frame, data.masks);
      last = data.frame;
      bar.style.width = `${(100 * data.done) / data.total}%`;
      $("progress").setAttribute("aria-valuenow", Math.round((100 * data.done) / data.total));
      // images come as fast as they can be fetched; the timeline shows every frame
      if (!showing) { showing = true; shown = show(data.frame).catch(() => {}).finally(() => { showing = false; }); }
    });
    await shown;
  } catch (error) { if (page.session === s) toast(error.message, true); } finally {
    if (page.session === s) {
      $("progress").hidden = true;
      try {
        adopt(s, await call("GET", `sessions/${s.id}`));
        if (last !== null) await show(last);
      } catch (error) { toast(error.message, true); }
    }
    s.tracking = false; // only now: until the server has said how it ended, nothing can be gone on with
    if (page.session === s) render();
  }
}

// A run that another window began, or this one before it was loaded again.
export async function watch(s) {
  s.tracking = s.watched = true;
  try {
    for (;;) {
      const state = await call("GET", `sessions/${s.id}`);
      if (page.session !== s) return;
      adopt(s, state);
      render();
      if (!state.tracking) break;
      await new Promise((wake) => setTimeout(wake, 300));
    }
    forget(s);
    await show(s.frame);
  } catch (error) { if (page.session === s) toast(error.message, true); } finally {
    s.tracking = s.watched = false;
    if (page.session === s) render();
  }
}

export function stop() {
  const s = page.session;
  return s?.tracking ? call("POST", `sessions/${s.id}/cancel`).catch((error) => toast(error.message, true)) : null;
}

export function halt() {
  const s = page.session;
  if (!s) return;
  cancelAnimationFrame(s.playing);
  s.playing = 0;
}

export function play() {
  const s = page.session;
  if (!s || s.kind !== "clip" || s.tracking) return;
  if (s.playing) { halt(); render(); return; }
  closeFound();
  let last = -Infinity, ready = true, frame = s.frame === s.frames - 1 ? -1 : s.frame;
  const tick = (now) => {
    if (page.session !== s || !s.playing) return;
    if (ready && now - last >= 1000 / s.fps - 4) {
      if (frame >= s.frames - 1) { halt(); render(); return; }
      last = now;
      ready = false;
      show(++frame).then(() => { ready = true; }, (error) => { halt(); toast(error.message, true); });
    }
    s.playing = requestAnimationFrame(tick);
  };
  s.playing = requestAnimationFrame(tick);
}

export function seek(frame) {
  const s = page.session;
  if (s?.kind !== "clip" || s.tracking) return;
  halt();
  closeFound();
  show(Math.max(0, Math.min(s.frames - 1, frame))).catch((error) => toast(error.message, true));
}
