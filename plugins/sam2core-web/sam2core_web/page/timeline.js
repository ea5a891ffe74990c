// A lane per object: where it was tracked and seen, where it was prompted, and the frame that is shown.

const LANE = 16, BAR = 11, TOP = 18, NAMES = 92;

export class Timeline {
  constructor(canvas, seek) {
    this.canvas = canvas;
    this.frames = 1;
    this.left = 0;
    let down = false, latest = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect(), part = (event.clientX - box.left - this.left) / (box.width - this.left);
      const frame = Math.max(0, Math.min(this.frames - 1, Math.floor(part * this.frames)));
      if (frame !== latest) seek(frame);
      latest = frame;
    };
    canvas.addEventListener("pointerdown", (event) => { down = true; latest = null; canvas.setPointerCapture(event.pointerId); at(event); });
    canvas.addEventListener("pointermove", (event) => down && at(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { down = false; });
  }

  // things: [{id, name, color, visible: Map(frame -> bool), prompts: Map}]
  draw(things, frame, frames, active) {
    const { canvas } = this, ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = TOP + Math.max(1, things.length) * LANE + 2;
    this.frames = frames;
    this.left = width > 560 && things.length ? NAMES : 0;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const c = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const ink = (name) => style.getPropertyValue(name);
    c.scale(ratio, ratio);
    const x = (number) => this.left + (number / frames) * (width - this.left);
    c.font = "10.5px Inter, system-ui, sans-serif";
    this.ticks(c, x, frames, ink("--soft"));
    (things.length ? things : [null]).forEach((thing, row) => {
      const y = TOP + row * LANE;
      if (thing && this.left) this.name(c, thing, y, thing.id === active ? ink("--ink") : ink("--soft"));
      c.save();
      c.beginPath();
      c.roundRect(this.left, y, width - this.left, BAR, 4);
      c.clip();
      c.fillStyle = ink("--line");
      c.fillRect(this.left, y, width - this.left, BAR);
      if (thing) this.visible(c, thing, x, y, thing.id === active);
      c.restore();
      if (thing) this.prompts(c, thing, x, y);
    });
    this.head(c, Math.round(x(frame + 0.5)), height, ink("--ink"), ink("--card"));
  }

  ticks(c, x, frames, color) {
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => x(step) - x(0) > 44) || 1000;
    c.fillStyle = color;
    c.textAlign = "center";
    for (let tick = 0; tick < frames; tick += every) c.fillText(String(tick), Math.max(this.left + 4, x(tick + 0.5)), 10);
    c.textAlign = "start";
  }

  name(c, thing, y, color) {
    c.fillStyle = color;
    let text = thing.name;
    while (text.length > 1 && c.measureText(text).width > NAMES - 12) text = `${text.slice(0, text.endsWith("…") ? -2 : -1)}…`;
    c.fillText(text, 0, y + BAR - 2);
  }

  visible(c, thing, x, y, active) {
    // frames next to each other in one rectangle: seams would show between them
    const frames = [...thing.visible.keys()].sort((a, b) => a - b);
    c.fillStyle = thing.color;
    for (let from = 0; from < frames.length;) {
      const seen = thing.visible.get(frames[from]);
      let to = from;
      while (frames[to + 1] === frames[to] + 1 && thing.visible.get(frames[to + 1]) === seen) to++;
      c.globalAlpha = seen ? (active ? 1 : 0.72) : 0.22;
      c.fillRect(x(frames[from]), y, Math.max(2, x(frames[to] + 1) - x(frames[from])), BAR);
      from = to + 1;
    }
    c.globalAlpha = 1;
  }

  prompts(c, thing, x, y) {
    for (const number of thing.prompts.keys()) {
      c.beginPath();
      c.arc(Math.max(this.left + 5, x(number + 0.5)), y + BAR / 2, 4, 0, 7);
      c.fillStyle = "#fff";
      c.fill();
      c.lineWidth = 2;
      c.strokeStyle = thing.color;
      c.stroke();
    }
  }

  head(c, at, height, ink, card) {
    c.fillStyle = card;
    c.fillRect(at - 2, 14, 4, height - 14);
    c.fillStyle = ink;
    c.fillRect(at - 1, 13, 2, height - 13);
    c.beginPath();
    c.roundRect(at - 4, 11, 8, 6, 3);
    c.fill();
  }
}
