// COCO run lengths: base-32 differences down the columns, zeros first (as pycocotools writes them).

export function runs(counts) {
  const lengths = [];
  for (let at = 0; at < counts.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const digit = counts.charCodeAt(at++) - 48;
      value |= (digit & 31) << shift;
      more = (digit & 32) !== 0;
      shift += 5;
      if (!more && digit & 16 && shift < 32) value |= -1 << shift;
    }
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

function written(lengths) {
  let counts = "";
  lengths.forEach((length, index) => {
    let value = index > 2 ? length - lengths[index - 2] : length, more = true;
    while (more) {
      const digit = value & 31;
      value >>= 5;
      more = digit & 16 ? value !== -1 : value !== 0;
      counts += String.fromCharCode((more ? digit | 32 : digit) + 48);
    }
  });
  return counts;
}

// What is opaque on a canvas, as run lengths; null when nothing is.
export function encode(canvas) {
  const { width, height } = canvas, { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const lengths = [];
  let inside = false, length = 0;
  for (let column = 0; column < width; column++) {
    for (let row = 0, at = 4 * column + 3; row < height; row++, at += 4 * width) {
      if (data[at] > 127 !== inside) { lengths.push(length); length = 0; inside = !inside; }
      length++;
    }
  }
  lengths.push(length);
  return lengths.length > 1 ? { size: [height, width], counts: written(lengths) } : null;
}

// A mask as bytes, 255 inside, row by row.
export function bytes({ size: [height, width], counts }) {
  const out = new Uint8Array(height * width);
  let column = 0, row = 0, inside = false;
  for (let left of runs(counts)) {
    while (left > 0) {
      const part = Math.min(left, height - row);
      if (inside) for (let y = row, end = row + part; y < end; y++) out[y * width + column] = 255;
      left -= part;
      row += part;
      if (row === height) { row = 0; column++; }
    }
    inside = !inside;
  }
  return out;
}

// A mask as a canvas: opaque white inside, transparent outside.
export function picture(segmentation) {
  const [height, width] = segmentation.size;
  const data = new ImageData(width, height);
  const words = new Uint32Array(data.data.buffer);
  const inside = bytes(segmentation);
  for (let i = 0; i < inside.length; i++) if (inside[i]) words[i] = 0xffffffff;
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}
