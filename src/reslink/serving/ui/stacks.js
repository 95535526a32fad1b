// From the answers of the service to stacks: what is scrolled through together.

import { Volume } from '/ui/volume.js';

// Returns a stack a series, and one for each file that is in none, in the order of the files.
export async function stacksOf(files, viewed, predicted) {
  const volumes = await Promise.all(viewed.files.map((sent) => (sent.problem ? null : Volume.from(sent))));
  const taken = new Map();
  viewed.series.forEach((series) => series.files.forEach((place) => taken.set(place, series)));
  const stacks = [];
  const done = new Set();
  viewed.files.forEach((sent, place) => {
    const series = taken.get(place) ?? { files: [place] };
    if (done.has(series)) return;
    done.add(series);
    stacks.push(stackOf(series.files, files, viewed, volumes, predicted));
  });
  return stacks;
}

function stackOf(places, files, viewed, volumes, predicted) {
  const sent = places.map((place) => viewed.files[place]);
  const slices = places.flatMap((place) => {
    const { file, part, member } = viewed.files[place];
    const source = files[part ?? place];
    const depth = volumes[place]?.depth ?? 0;
    return Array.from({ length: depth }, (_, index) => ({ place, file, source, member, index, volume: volumes[place], answers: {} }));
  });
  const stack = {
    name: places.length > 1 ? `Series of ${places.length} files` : sent[0].file,
    problem: sent[0].problem,
    notes: [],
    study: [],
    places,
    files,
    slices,
    now: Math.floor(slices.length / 2),
  };
  addAnswers(stack, predicted);
  return stack;
}

// Puts the answers of the models to the slices of a stack.
export function addAnswers(stack, predicted) {
  const notes = new Set();
  for (const place of stack.places) {
    const found = predicted.files[place];
    if (found.problem) stack.problem ??= found.problem;
    for (const text of found.notes ?? []) notes.add(text);
    for (const { model, slices } of found.answers ?? []) {
      for (const answer of slices) {
        const slice = stack.slices.find((one) => one.place === place && one.index === answer.slice);
        if (slice) slice.answers[model] = answer;
      }
    }
  }
  const series = predicted.series.find((one) => one.files.includes(stack.places[0]));
  for (const text of series?.notes ?? []) notes.add(`No answer for the whole series: ${text}.`);
  stack.notes = [...notes];
  stack.study = stack.slices.length > 1 ? (series?.study ?? []) : [];
}
