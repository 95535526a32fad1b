// What the models say, in words: the probability with its meaning, side by side.

import { el, percent } from '/ui/dom.js';

// The class whose probability is drawn: the positive of two, the predicted of more.
export const about = (model, answer) => model.positive ?? answer.label;

function scale(value, threshold, text, ends = null) {
  const fill = el('div', { class: 'fill' });
  fill.style.width = `${100 * value}%`;
  const bar = el('div', { class: 'scale', role: 'img', 'aria-label': text }, fill);
  if (ends) {
    const span = el('div', { class: 'span' });
    span.style.left = `${100 * ends[0]}%`;
    span.style.width = `${100 * (ends[1] - ends[0])}%`;
    bar.append(span);
  }
  if (threshold !== null) {
    const mark = el('div', { class: 'mark' });
    mark.style.left = `${100 * threshold}%`;
    bar.append(mark);
  }
  return bar;
}

function facts(model, answer) {
  const { threshold, threshold_source: source, calibrated, coverage, ood_gate: gate } = model.decision;
  const rows = [
    [
      'Probability',
      calibrated ? 'calibrated on images that the model did not learn from' : 'not calibrated: read it as a score from 0 to 100',
    ],
    [
      'Operating point',
      threshold === null ? 'the most probable class is chosen' : `${model.positive} from ${percent(threshold)} on (${source})`,
    ],
    ['Possible classes', answer.set === null ? 'no sets were fitted' : `${answer.set.join(', ') || 'none'} (${percent(coverage)} coverage)`],
    [
      'Like the calibration images',
      !gate || answer.ood_score === null
        ? 'not checked: this model has no gate'
        : `${answer.ood_score > 1 ? 'no' : 'yes'} (score ${answer.ood_score.toFixed(2)}, refused above 1)`,
    ],
  ];
  return el('dl', {}, ...rows.flatMap(([term, text]) => [el('dt', {}, term), el('dd', {}, text)]));
}

function abstention(reasons) {
  const list = el('ul', {}, ...(reasons || []).map((reason) => el('li', {}, reason)));
  return el('div', { class: 'abstain' }, 'The model abstains: do not use this answer.', list);
}

const readFirst = (model) => model.read_first.map((text) => el('p', { class: 'first' }, text));

// One model's answer to one slice.
export function card(model, answer, where, inSeries = false) {
  const box = el('article', { class: answer.abstain ? 'answer abstains' : 'answer' }, el('h3', {}, model.name + where));
  if (answer.error) {
    box.append(el('p', { class: 'bad' }, answer.error));
    return box;
  }
  const shown = about(model, answer);
  const value = answer.probabilities[shown];
  box.append(el('p', { class: 'label' }, answer.label));
  if (answer.abstain) box.append(abstention(answer.reasons));
  const text = `Probability of ${shown}: ${percent(value)}`;
  box.append(el('p', {}, text), scale(value, model.decision.threshold, text), ...(inSeries ? [] : readFirst(model)), facts(model, answer));
  return box;
}

// The probability of a series with its interval, in words.
export function studyLine({ about: shown, score, ci_low: low, ci_high: high }) {
  return `Probability of ${shown}: ${percent(score)}${low === null ? '' : `, 95 % interval ${percent(low)} to ${percent(high)}`}`;
}

// A model's answer for a series as a whole; `choose` shows one of the slices that make it.
export function studyCard(model, answer, total, choose) {
  const { threshold } = model.decision;
  const ends = answer.ci_low === null ? null : [answer.ci_low, answer.ci_high];
  const box = el('article', { class: answer.abstain ? 'answer study abstains' : 'answer study' });
  box.append(el('h3', {}, `${answer.model}, whole series`), el('p', { class: 'label' }, answer.label));
  if (answer.abstain) box.append(abstention(answer.reasons));
  const text = studyLine(answer);
  const used = answer.used.slice(0, 8).map((i) => el('button', { type: 'button', onclick: () => choose(i) }, `Slice ${i + 1}`));
  const point = threshold === null ? 'the most probable class is chosen' : `${model.positive} from ${percent(threshold)} on, fitted on single slices`;
  const rows = [
    ['Rule', `${answer.rule}; ${answer.slices} of ${total} slices judged`],
    ['Operating point', point],
    ['Interval', answer.interval],
  ];
  box.append(
    el('p', {}, text),
    scale(answer.score, threshold, text, ends),
    el('p', { class: 'row', role: 'group', 'aria-label': 'Slices that make the answer' }, ...used),
    ...readFirst(model),
    el('dl', {}, ...rows.flatMap(([term, words]) => [el('dt', {}, term), el('dd', {}, words)])),
    el('details', { class: 'soft' }, el('summary', {}, 'What the interval covers'), el('p', {}, answer.covers)),
  );
  return box;
}

// A bar a slice: the probability of the drawn class, as tall as it is large.
export function strip(model, answers, here, choose) {
  const svg = el('svg', { class: 'strip', viewBox: `0 0 ${answers.length} 100`, preserveAspectRatio: 'none', role: 'img' });
  svg.setAttribute('aria-label', `${model.name}: probability of ${model.positive ?? 'the label'} by slice; the table holds the numbers`);
  answers.forEach((answer, i) => {
    const value = answer?.probabilities?.[about(model, answer)] ?? 0;
    const kind = [answer?.abstain ? 'abstains' : '', i === here ? 'here' : ''].join(' ').trim();
    const place = { x: i + 0.1, y: 100 - 100 * value, width: 0.8, height: Math.max(100 * value, 1), class: kind || null };
    const title = el('title', {}, `Slice ${i + 1}: ${percent(value)}`);
    svg.append(el('rect', { ...place, onclick: () => choose(i) }, title));
  });
  const { threshold } = model.decision;
  if (threshold !== null) svg.append(el('line', { x1: 0, x2: answers.length, y1: 100 - 100 * threshold, y2: 100 - 100 * threshold }));
  return svg;
}

// The numbers of all slices.
export function table(models, slices, choose) {
  const head = el('tr', {}, el('th', { scope: 'col' }, 'Slice'));
  for (const model of models) head.append(el('th', { scope: 'col' }, model.name));
  const rows = slices.map((slice, i) => {
    const row = el('tr', {}, el('td', {}, el('button', { type: 'button', onclick: () => choose(i) }, String(i + 1))));
    for (const model of models) {
      const answer = slice.answers[model.name];
      const text = !answer ? '–' : answer.error ? 'error' : `${answer.label} ${percent(answer.probability)}${answer.abstain ? ', abstains' : ''}`;
      row.append(el('td', {}, text));
    }
    return row;
  });
  return [el('thead', {}, head), el('tbody', {}, ...rows)];
}
