// What is open: the session as the server tells it, and what has been fetched of it.

import { picture } from "./rle.js";

export const page = { session: null, about: {} };

export function session(state) {
  const made = {
    id: state.id, kind: state.kind, name: state.name, width: state.width, height: state.height,
    frames: state.frames, fps: state.fps || 25, frame: 0, image: null,
    images: new Map(), things: new Map(), masks: new Map(), pictures: new Map(), drawn: new Map(),
    active: null, mode: "add", queue: Promise.resolve(), pending: 0,
    pointer: null, hover: null, asking: false, drag: null, paint: null,
    found: null, over: null, tracking: false, watched: false, playing: 0, resumable: false, undoable: 0, redoable: 0, saved: false,
  };
  adopt(made, state);
  return made;
}

// What the server says of a session replaces what was known of its objects.
export function adopt(s, state) {
  const things = new Map();
  for (const { id, name, color } of state.objects) {
    const visible = new Map(Object.entries(state.visible[id] || {}).map(([frame, seen]) => [Number(frame), seen]));
    const prompts = new Map(state.prompts.filter((one) => one.object === id).map((one) => [one.frame, one]));
    things.set(id, { id, name, color, visible, prompts });
  }
  s.things = things;
  s.undoable = state.undoable;
  s.redoable = state.redoable;
  s.resumable = state.resumable;
  s.saved = state.saved;
  if (s.active !== null && !things.has(s.active)) s.active = null;
}

export function known(s, frame) {
  return [...s.things.values()].some((thing) => thing.visible.has(frame));
}

export function keep(s, frame, masks) {
  s.masks.set(frame, masks);
  s.pictures.delete(frame);
  for (const [id, mask] of Object.entries(masks)) s.things.get(Number(id))?.visible.set(frame, mask.area > 0);
}

export function forget(s) {
  s.masks.clear();
  s.pictures.clear();
  s.drawn.clear();
  s.paint = null;
}

// The masks of a frame as canvases, by object; those of one frame at a time, for they are large. Masks that did not
// change since they were drawn last are not drawn again.
export function pictures(s, frame) {
  if (!s.pictures.has(frame)) {
    const made = new Map(), drawn = new Map();
    for (const [id, mask] of Object.entries(s.masks.get(frame) || {})) {
      if (!mask.area) continue;
      const before = s.drawn.get(Number(id));
      const same = before && before.counts === mask.segmentation.counts;
      drawn.set(Number(id), same ? before : { counts: mask.segmentation.counts, picture: picture(mask.segmentation) });
      made.set(Number(id), drawn.get(Number(id)).picture);
    }
    s.pictures.clear();
    s.pictures.set(frame, made);
    s.drawn = drawn;
  }
  return s.pictures.get(frame);
}

export const next = (s) => Math.max(0, ...s.things.keys()) + 1;

// As the server's palette begins.
export function color(number) {
  const first = ["#1e90ff", "#ff6f00", "#00bf82", "#e91e8c", "#ffc800", "#825aff", "#00c8dc", "#dc2828"];
  return first[number - 1] || `hsl(${(number * 137.5) % 360} 80% 55%)`;
}
