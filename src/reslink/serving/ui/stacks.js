// Stacks of slices: the slices of a series, or of one file, that the viewer scrolls through.

import { Volume } from '/ui/volume.js';

// Returns one stack per series and one per other file, in the order of the files.
export async function stacksOf(files, viewed, predicted) {
  const volumes = await Promise.all(viewed.files.map((sent) => (sent.problem ? null : Volume.from(sent))));
  const seriesOf = new Map();
  viewed.series.forEach((series) => series.files.forEach((position) => seriesOf.set(position, series)));
  const stacks = [];
  const done = new Set();
  viewed.files.forEach((sent, position) => {
    const series = seriesOf.get(position) ?? { files: [position] };
    if (done.has(series)) return;
    done.add(series);
    stacks.push(stackOf(series.files, files, viewed, volumes, predicted));
  });
  return stacks;
}

function stackOf(positions, files, viewed, volumes, predicted) {
  const sent = positions.map((position) => viewed.files[position]);
  const slices = positions.flatMap((position) => {
    const { file, part, member } = viewed.files[position];
    const source = files[part ?? position];
    const depth = volumes[position]?.depth ?? 0;
    return Array.from({ length: depth }, (_, index) => ({ position, file, source, member, index, volume: volumes[position], answers: {}, weights: {} }));
  });
  const stack = {
    name: positions.length > 1 ? sent[0].description || `Series of ${positions.length} files` : sent[0].file,
    about: [sent[0].modality, slices.length > 1 && `${slices.length} slices`].filter(Boolean).join(' · '),
    unreadable: sent[0].problem,
    problem: null,
    notes: [],
    seriesAnswers: [],
    seriesNote: null,
    positions,
    files,
    slices,
    now: Math.floor(slices.length / 2),
  };
  addAnswers(stack, predicted);
  return stack;
}

// Adds the predictions of the models to the slices of a stack.
export function addAnswers(stack, predicted) {
  const notes = new Set();
  stack.problem = stack.unreadable;
  for (const position of stack.positions) {
    const file = predicted.files[position];
    if (file.problem) stack.problem ??= file.problem;
    for (const text of file.notes ?? []) notes.add(text);
    for (const { model, slices } of file.answers ?? []) {
      for (const answer of slices) {
        const slice = stack.slices.find((one) => one.position === position && one.index === answer.slice);
        if (slice) slice.answers[model] = answer;
      }
    }
  }
  const series = predicted.series.find((one) => one.files.includes(stack.positions[0]));
  stack.seriesNote = series?.notes?.join('; ') || null;
  if (series?.answers?.length) for (const text of series.notes) notes.add(text);
  stack.notes = [...notes];
  stack.seriesAnswers = stack.slices.length > 1 ? (series?.answers ?? []) : [];
  for (const { model, attention } of stack.seriesAnswers) {
    for (const { slice, weight } of attention ?? []) stack.slices[slice].weights[model] = weight;
  }
}
