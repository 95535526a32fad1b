// The viewer: one slice on a canvas, with window, zoom, ruler and an attention map.
//
// niivue and cornerstone3D are not used: the page must work without an internet connection, they add megabytes, and they need
// WebGL, which remote desktops in hospitals often lack. One gray plane with one map takes 300 lines.

import { INFERNO } from '/ui/inferno.js';
import { canvasOf } from '/ui/volume.js';

const OPACITY = 255;
const RULER = '#ffe14d';

function color(strength) {
  const position = (strength / 255) * (INFERNO.length - 1);
  const first = Math.min(Math.floor(position), INFERNO.length - 2);
  return [0, 1, 2].map((i) => INFERNO[first][i] + (position - first) * (INFERNO[first + 1][i] - INFERNO[first][i]));
}

const COLORS = Array.from({ length: 256 }, (_, i) => color(i));

// Decodes a map (gray PNG) into colors: 0 is transparent, the highest value is opaque.
export async function decodeMap(base64) {
  const picture = new Image();
  picture.src = `data:image/png;base64,${base64}`;
  await picture.decode();
  const canvas = document.createElement('canvas');
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i += 4) {
    const strength = image.data[i];
    const [red, green, blue] = COLORS[strength];
    image.data.set([red, green, blue, OPACITY * Math.sqrt(strength / 255)], i);
  }
  return canvasOf(image);
}

// Text and lines with a dark border, readable on bone and on air.
function write(context, text, x, y, size, color = '#fff') {
  context.font = `600 ${size}px system-ui, sans-serif`;
  [context.textAlign, context.textBaseline] = ['center', 'middle'];
  [context.lineWidth, context.lineJoin, context.strokeStyle, context.fillStyle] = [size / 4, 'round', '#000', color];
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function stroke(context, points, color, ratio) {
  for (const [style, width] of [['#000', 4], [color, 2]]) {
    [context.strokeStyle, context.lineWidth] = [style, width * ratio];
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }
}

export class Viewer extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.volume = null;
    this.heat = null;
    this.opacity = 0.7;
    this.slice = 0;
    this.measuring = false;
    this.line = null; // the ends of the ruler, [row, column] each
    this.addListeners();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Shows a slice of a volume; `keep` retains window, zoom and position.
  show(volume, slice, keep) {
    this.volume = volume;
    this.slice = slice;
    this.heat = null;
    if (!keep) {
      this.window = [...volume.window];
      this.line = null;
      this.reset();
    }
    this.gray = null;
    this.draw();
  }

  reset() {
    this.zoom = 1;
    this.shift = [0, 0];
  }

  setWindow(center, width) {
    this.window = [center, Math.max(width, 1e-6)];
    this.gray = null;
    this.draw();
    this.emit('window');
  }

  setHeat(heat) {
    this.heat = heat;
    this.draw();
  }

  // With the ruler, dragging measures a distance instead of changing the window.
  setMeasuring(measuring) {
    this.measuring = measuring;
    this.line = null;
    this.draw();
  }

  setZoom(zoom) {
    this.zoom = Math.min(16, Math.max(0.5, zoom));
    this.draw();
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (!this.volume || !width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) [this.canvas.width, this.canvas.height] = [width, height];
    this.paint(this.canvas.getContext('2d'), width, height, ratio);
  }

  paint(context, width, height, ratio) {
    this.gray ??= this.volume.picture(this.slice, this.window);
    const { columns, rows, scale, left, top } = this.layout(width, height, ratio);
    context.globalAlpha = 1;
    context.fillStyle = '#000';
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = scale < 3;
    context.drawImage(this.gray, left, top, columns * scale, rows * scale);
    if (this.heat) {
      context.globalAlpha = this.opacity;
      context.imageSmoothingEnabled = true;
      context.drawImage(this.heat, left, top, columns * scale, rows * scale);
      context.globalAlpha = 1;
    }
    this.paintMarks(context, width, height, ratio);
    if (this.line) this.paintRuler(context, { scale, left, top }, ratio);
  }

  // Size of the image, and where its first pixel is on the canvas.
  layout(width, height, ratio) {
    const [columns, rows] = [this.volume.width, this.volume.height * this.volume.aspect];
    const scale = Math.min(width / columns, height / rows) * this.zoom;
    const left = (width - columns * scale) / 2 + this.shift[0] * ratio;
    const top = (height - rows * scale) / 2 + this.shift[1] * ratio;
    return { columns, rows, scale, left, top };
  }

  // Row and column of the image, with fractions, at a position of the pointer.
  position({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const { scale, left, top } = this.layout(box.width, box.height, 1);
    return [(clientY - box.top - top) / scale / this.volume.aspect, (clientX - box.left - left) / scale];
  }

  // The sides of the patient, and a scale bar, if the file states them.
  paintMarks(context, width, height, ratio) {
    const { edges, spacing } = this.volume;
    const gap = 14 * ratio;
    if (edges) {
      const places = [[gap, height / 2], [width - gap, height / 2], [width / 2, gap], [width / 2, height - 3 * gap]];
      places.forEach(([x, y], i) => write(context, edges[i], x, y, 18 * ratio));
    }
    if (!spacing) return;
    const pixels = this.layout(width, height, ratio).scale / spacing[1]; // canvas pixels per millimeter
    const length = [100, 50, 20, 10, 5, 2, 1].find((millimeters) => millimeters * pixels < width / 4) ?? 1;
    const [start, end, y] = [(width - length * pixels) / 2, (width + length * pixels) / 2, height - gap / 2];
    stroke(context, [[start, y - gap / 3], [start, y], [end, y], [end, y - gap / 3]], '#fff', ratio);
    write(context, length >= 10 ? `${length / 10} cm` : `${length} mm`, width / 2, y - gap * 0.6, 12 * ratio);
  }

  paintRuler(context, { scale, left, top }, ratio) {
    const ends = this.line.map(([row, column]) => [left + column * scale, top + row * this.volume.aspect * scale]);
    stroke(context, ends, RULER, ratio);
    write(context, this.volume.distanceText(...this.line), (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2 - 12 * ratio, 14 * ratio, RULER);
  }

  addListeners() {
    let last = null;
    this.canvas.addEventListener('pointerdown', (event) => {
      last = [event.clientX, event.clientY];
      this.canvas.setPointerCapture(event.pointerId);
      if (this.measuring && this.volume) this.line = [this.position(event), this.position(event)];
    });
    this.canvas.addEventListener('pointermove', (event) => {
      if (!this.volume) return;
      this.emit('point', this.volume.valueText(this.slice, ...this.position(event).map(Math.floor)));
      if (!last) return;
      const [x, y] = [event.clientX - last[0], event.clientY - last[1]];
      last = [event.clientX, event.clientY];
      if (event.shiftKey || event.buttons === 4) this.move(x, y);
      else if (this.measuring && this.line) this.measure(event);
      else this.drag(x, y);
    });
    for (const end of ['pointerup', 'pointercancel']) this.canvas.addEventListener(end, () => (last = null));
    this.canvas.addEventListener('pointerleave', () => this.emit('point', ''));
    this.canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener('keydown', (event) => this.key(event));
  }

  measure(event) {
    this.line[1] = this.position(event);
    this.emit('point', this.volume.distanceText(...this.line));
    this.draw();
  }

  move(x, y) {
    this.shift = [this.shift[0] + x, this.shift[1] + y];
    this.draw();
  }

  // Dragging right widens the window, and dragging up or down moves its center, as on a workstation.
  drag(x, y) {
    const step = Math.max(this.volume.window[1], this.window[1]) / 400;
    this.setWindow(this.window[0] + y * step, Math.max(this.window[1] + x * step, step));
  }

  wheel(event) {
    if (!this.volume) return;
    event.preventDefault();
    if (event.ctrlKey) this.setZoom(this.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
    else this.emit('step', Math.sign(event.deltaY));
  }

  key(event) {
    if (!this.volume || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { ArrowUp: [0, 20], ArrowDown: [0, -20], ArrowLeft: [20, 0], ArrowRight: [-20, 0] }[event.key];
    const step = this.volume.window[1] / 40;
    const actions = {
      ArrowUp: () => this.emit('step', -1),
      ArrowDown: () => this.emit('step', 1),
      PageUp: () => this.emit('step', -5),
      PageDown: () => this.emit('step', 5),
      Home: () => this.emit('step', -Infinity),
      End: () => this.emit('step', Infinity),
      ArrowLeft: () => this.setWindow(this.window[0], Math.max(this.window[1] - step, step)),
      ArrowRight: () => this.setWindow(this.window[0], this.window[1] + step),
      '+': () => this.setZoom(this.zoom * 1.25),
      '=': () => this.setZoom(this.zoom * 1.25),
      '-': () => this.setZoom(this.zoom / 1.25),
      m: () => this.emit('next-map'),
      M: () => this.emit('next-map'),
      0: () => (this.reset(), this.setWindow(...this.volume.window)),
    };
    const action = event.shiftKey && move ? () => this.move(...move) : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}
