// One frame with its masks, prompts and effect, at any size.

let layer = new OffscreenCanvas(1, 1);

function scratch(width, height) {
  if (layer.width !== width || layer.height !== height) layer = new OffscreenCanvas(width, height);
  const context = layer.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, width, height);
  return context;
}

function tint(context, mask, color, opacity, width, height) {
  const on = scratch(width, height);
  on.drawImage(mask, 0, 0, width, height);
  on.globalCompositeOperation = "source-in";
  on.fillStyle = color;
  on.fillRect(0, 0, width, height);
  context.globalAlpha = opacity;
  context.drawImage(layer, 0, 0);
  context.globalAlpha = 1;
}

export function outline(context, mask, color, stroke, width, height) {
  const on = scratch(width, height);
  for (let step = 0; step < 12; step++) {
    const angle = (step * Math.PI) / 6;
    on.drawImage(mask, stroke * Math.cos(angle), stroke * Math.sin(angle), width, height);
  }
  on.globalCompositeOperation = "destination-out";
  on.drawImage(mask, 0, 0, width, height);
  on.globalCompositeOperation = "source-in";
  on.fillStyle = color;
  on.fillRect(0, 0, width, height);
  context.drawImage(layer, 0, 0);
}

// The image inside all masks, over whatever lies below.
function inside(context, image, masks, width, height) {
  const on = scratch(width, height);
  for (const { mask } of masks) on.drawImage(mask, 0, 0, width, height);
  on.globalCompositeOperation = "source-in";
  on.drawImage(image, 0, 0, width, height);
  context.drawImage(layer, 0, 0);
}

function blurred(context, image, width, height) {
  // by way of a small image: works where canvases have no filters
  const small = new OffscreenCanvas(Math.max(2, Math.round(width / 22)), Math.max(2, Math.round(height / 22)));
  const on = small.getContext("2d");
  on.imageSmoothingQuality = "high";
  on.drawImage(image, 0, 0, small.width, small.height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
}

export function checkers(context, width, height, side, light, dark) {
  context.fillStyle = light;
  context.fillRect(0, 0, width, height);
  context.fillStyle = dark;
  for (let y = 0; y < height; y += side) for (let x = ((y / side) % 2) * side; x < width; x += 2 * side) context.fillRect(x, y, side, side);
}

// masks: [{mask: canvas, color, active}]
export function scene(context, image, masks, effect, width, height, unit, transparent = false) {
  context.clearRect(0, 0, width, height);
  const effective = masks.length || effect === "remove" ? effect : "highlight";
  if (effective === "blur") blurred(context, image, width, height);
  else if (effective === "remove") { context.fillStyle = "#f2f2ef"; context.fillRect(0, 0, width, height); }
  else if (effective === "cut") { if (!transparent) checkers(context, width, height, 10 * unit, "#ffffff", "#dcdfe4"); }
  else context.drawImage(image, 0, 0, width, height);
  if (effective === "dim") { context.fillStyle = "#04070cbf"; context.fillRect(0, 0, width, height); }
  if (["blur", "remove", "cut", "dim"].includes(effective)) return inside(context, image, masks, width, height);
  for (const { mask, color, active } of masks) {
    if (effective === "highlight") tint(context, mask, color, 0.46, width, height);
    outline(context, mask, color, (effective === "contour" ? 3 : active ? 2.4 : 1.6) * unit, width, height);
  }
}

export function hover(context, mask, color, width, height, unit) {
  tint(context, mask, color, 0.3, width, height);
  outline(context, mask, "#ffffffd0", 1.2 * unit, width, height);
}

export function prompts(context, said, scale, unit) {
  if (said.box) {
    const [x0, y0, x1, y1] = said.box.map((value) => value * scale);
    context.setLineDash([6 * unit, 4 * unit]);
    context.lineWidth = 1.6 * unit;
    context.strokeStyle = "#fff";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }
  said.points.forEach(([x, y], index) => {
    const positive = said.labels[index] === 1, cx = x * scale, cy = y * scale, r = 7 * unit;
    context.beginPath();
    context.arc(cx, cy, r, 0, 7);
    context.fillStyle = positive ? "#12a150" : "#e0364c";
    context.fill();
    context.lineWidth = 2 * unit;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(cx - r / 2, cy);
    context.lineTo(cx + r / 2, cy);
    if (positive) { context.moveTo(cx, cy - r / 2); context.lineTo(cx, cy + r / 2); }
    context.stroke();
  });
}

export function brushRing(context, [x, y], reach, scale, unit) {
  for (const [color, width] of [["#0008", 3], ["#fff", 1.5]]) {
    context.beginPath();
    context.arc(x * scale, y * scale, reach * scale, 0, 7);
    context.lineWidth = width * unit;
    context.strokeStyle = color;
    context.stroke();
  }
}
