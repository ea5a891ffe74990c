// Files out of the page: what the server writes, and the frame as it is shown.

import { blob } from "./api.js";
import { scene } from "./draw.js";
import { page } from "./state.js";
import { $, busy, save, toast } from "./ui.js";
import { masks } from "./view.js";

const AS = { highlight: "highlighted", contour: "contours", dim: "dimmed", blur: "blurred", remove: "plain", cut: "transparent" };

// What the button of the current effect says.
export function label() {
  const effect = $("effect").value, video = page.session?.kind === "clip";
  $("shownkind").textContent = `${effect === "cut" ? (video ? "WebM" : "PNG") : video ? "MP4" : "PNG"}, ${AS[effect]}`;
  $("cutkind").textContent = video ? "WebM video" : "PNG";
  $("shownname").textContent = video ? "Video" : "Image";
}

export async function exportAs(kind) {
  const s = page.session;
  if (!s || !s.things.size || s.tracking) return;
  busy("Writing the file");
  try {
    await s.queue;
    if (kind === "frame") await frame(s);
    else {
      const effect = $("effect").value, shown = kind === "overlay" && effect !== "cut";
      const path = kind === "overlay" && effect === "cut" ? "kind=transparent" : shown ? `kind=overlay&effect=${effect}` : `kind=${kind}`;
      const { data, name } = await blob(`sessions/${s.id}/export?${path}`);
      save(data, name);
      toast(`Saved ${name}`);
    }
  } catch (error) { toast(error.message, true); } finally { busy(null); }
}

async function frame(s) {
  const out = new OffscreenCanvas(s.width, s.height), effect = $("effect").value;
  scene(out.getContext("2d"), s.image, masks(s), effect, s.width, s.height, Math.max(1, s.width / 900), true);
  const number = s.kind === "clip" ? `.${String(s.frame).padStart(5, "0")}` : "";
  const name = `${s.name.replace(/\.\w+$/, "")}${number}.${effect}.png`;
  save(await out.convertToBlob({ type: "image/png" }), name);
  toast(`Saved ${name}`);
}
