// The viewer: one slice on a canvas, with window, zoom and an attention map.
//
// niivue and cornerstone3D are not used: the page must work without an internet connection, they add megabytes, and they need
// WebGL, which remote desktops in hospitals often lack. One gray plane with one map takes 200 lines.

import { INFERNO } from '/ui/inferno.js';
import { canvasOf } from '/ui/volume.js';

const OPACITY = 255;

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

export class Viewer extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.volume = null;
    this.heat = null;
    this.opacity = 0.7;
    this.slice = 0;
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
    const [columns, rows] = [this.volume.width, this.volume.height * this.volume.aspect];
    const scale = Math.min(width / columns, height / rows) * this.zoom;
    const left = (width - columns * scale) / 2 + this.shift[0] * ratio;
    const top = (height - rows * scale) / 2 + this.shift[1] * ratio;
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
  }

  addListeners() {
    let last = null;
    this.canvas.addEventListener('pointerdown', (event) => {
      last = [event.clientX, event.clientY];
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener('pointermove', (event) => {
      if (!last || !this.volume) return;
      const [x, y] = [event.clientX - last[0], event.clientY - last[1]];
      last = [event.clientX, event.clientY];
      if (event.shiftKey || event.buttons === 4) this.move(x, y);
      else this.drag(x, y);
    });
    for (const end of ['pointerup', 'pointercancel']) this.canvas.addEventListener(end, () => (last = null));
    this.canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener('keydown', (event) => this.key(event));
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
