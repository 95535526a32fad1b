// The pixel values of a file as the service sends them, and their conversion to gray values.

export class Volume {
  static async from(sent) {
    const packed = Uint8Array.from(atob(sent.data), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
    const bytes = new DataView(await new Response(stream).arrayBuffer());
    const values = new Int16Array(bytes.byteLength / 2);
    for (let i = 0; i < values.length; i++) values[i] = bytes.getInt16(2 * i, true);
    return new Volume(sent, values);
  }

  constructor(sent, values) {
    [this.depth, this.height, this.width] = sent.shape;
    this.scale = sent.scale;
    this.offset = sent.offset;
    this.inverted = sent.inverted;
    this.unit = sent.unit;
    this.step = sent.step;
    this.window = sent.window;
    this.windows = sent.windows || {};
    this.spacing = sent.spacing ?? null; // millimeters between rows and between columns
    this.edges = sent.edges ?? null; // sides of the patient at the left, right, top and bottom
    this.thickness = sent.thickness ?? null;
    this.location = sent.location ?? null;
    this.about = [sent.modality, sent.description].filter(Boolean).join(' · ');
    this.aspect = sent.spacing ? sent.spacing[0] / sent.spacing[1] : 1;
    this.values = values;
  }

  // Returns the value at a row and column as text, or '' outside the image.
  valueText(slice, row, column) {
    if (row < 0 || column < 0 || row >= this.height || column >= this.width) return '';
    const value = this.scale * this.values[(slice * this.height + row) * this.width + column] + this.offset;
    const number = Math.abs(value) >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(3);
    return { HU: `${number} HU`, gray: `gray ${number}` }[this.unit] ?? `value ${number}`;
  }

  // Returns the distance of two points, [row, column] each, as text: in millimeters if the file states the spacing.
  distanceText([row, column], [otherRow, otherColumn]) {
    const [rows, columns] = this.spacing ?? [this.step, this.step];
    const length = Math.hypot((row - otherRow) * rows, (column - otherColumn) * columns);
    return this.spacing ? `${length.toFixed(1)} mm` : `${length.toFixed(0)} pixels`;
  }

  // Returns a canvas with one slice; the window becomes black to white (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT).
  picture(slice, [center, width]) {
    const size = this.width * this.height;
    const low = (center - width / 2 - this.offset) / this.scale;
    const factor = (255 * this.scale) / width;
    const image = new ImageData(this.width, this.height);
    const start = slice * size;
    for (let i = 0; i < size; i++) {
      let gray = (this.values[start + i] - low) * factor;
      gray = gray < 0 ? 0 : gray > 255 ? 255 : gray;
      if (this.inverted) gray = 255 - gray;
      image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = gray;
      image.data[4 * i + 3] = 255;
    }
    return canvasOf(image);
  }
}

export function canvasOf(image) {
  const canvas = document.createElement('canvas');
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}
