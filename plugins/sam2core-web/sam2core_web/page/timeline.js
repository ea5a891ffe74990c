// A lane per object: where it was tracked and seen, where it was prompted, and the frame that is shown.

const LANE = 12, TOP = 16;

export class Timeline {
  constructor(canvas, seek) {
    this.canvas = canvas;
    this.frames = 1;
    let down = false;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      seek(Math.max(0, Math.min(this.frames - 1, Math.floor(((event.clientX - box.left) / box.width) * this.frames))));
    };
    canvas.addEventListener("pointerdown", (event) => { down = true; canvas.setPointerCapture(event.pointerId); at(event); });
    canvas.addEventListener("pointermove", (event) => down && at(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { down = false; });
  }

  // things: [{color, presence: Map(frame -> bool), prompts: Map}]
  draw(things, frame, frames, active) {
    this.frames = frames;
    const { canvas } = this, ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = TOP + Math.max(1, things.length) * LANE + 4;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const c = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const line = style.getPropertyValue("--line"), soft = style.getPropertyValue("--soft"), ink = style.getPropertyValue("--ink");
    c.scale(ratio, ratio);
    const x = (number) => (number / frames) * width;
    c.fillStyle = soft;
    c.font = "10px system-ui, sans-serif";
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => x(step) > 44) || 1000;
    for (let tick = 0; tick < frames; tick += every) c.fillText(String(tick), x(tick + 0.5) + (tick ? -6 : 0), 9);
    const rows = things.length ? things : [null];
    rows.forEach((thing, row) => {
      const y = TOP + row * LANE;
      c.fillStyle = line;
      c.beginPath();
      c.roundRect(0, y, width, LANE - 4, 4);
      c.fill();
      if (!thing) return;
      c.fillStyle = thing.color;
      for (const [number, seen] of thing.presence) {
        c.globalAlpha = seen ? (thing.id === active ? 1 : 0.8) : 0.22;
        c.fillRect(x(number), y, Math.max(1, x(1)) + 0.4, LANE - 4);
      }
      c.globalAlpha = 1;
      for (const number of thing.prompts.keys()) {
        c.beginPath();
        c.arc(Math.max(4, x(number + 0.5)), y + (LANE - 4) / 2, 3.6, 0, 7);
        c.fillStyle = "#fff";
        c.fill();
        c.lineWidth = 1.6;
        c.strokeStyle = thing.color;
        c.stroke();
      }
    });
    c.fillStyle = ink;
    const head = x(frame + 0.5);
    c.fillRect(head - 1, 12, 2, height - 12);
    c.beginPath();
    c.arc(head, 13, 4, 0, 7);
    c.fill();
  }
}
