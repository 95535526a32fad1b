// Prediction cards: label, probability, operating point and abstention of each model.

import { el, percent } from '/ui/dom.js';

// The class whose probability is shown: the positive class of two, or the predicted class of more.
export const shownClass = (model, answer) => model.positive ?? answer.label;

function probabilityBar(value, threshold, text, interval = null) {
  const fill = el('div', { class: 'fill' });
  fill.style.width = `${100 * value}%`;
  const bar = el('div', { class: 'scale', role: 'img', 'aria-label': text }, fill);
  if (interval) {
    const span = el('div', { class: 'span' });
    span.style.left = `${100 * interval[0]}%`;
    span.style.width = `${100 * (interval[1] - interval[0])}%`;
    bar.append(span);
  }
  if (threshold !== null) {
    const mark = el('div', { class: 'mark' });
    mark.style.left = `${100 * threshold}%`;
    bar.append(mark);
  }
  return bar;
}

function details(model, answer) {
  const { threshold, threshold_source: source, calibrated, coverage, ood_detector: detector } = model.decision;
  const rows = [
    [
      'Probability',
      calibrated ? 'calibrated on images outside the training set' : 'not calibrated: a score, not a frequency',
    ],
    [
      'Operating point',
      threshold === null ? 'the most probable class' : `threshold for ${model.positive}: ${percent(threshold)} (${source})`,
    ],
    ['Prediction set', answer.prediction_set === null ? 'not fitted' : `${answer.prediction_set.join(', ') || 'none'} (${percent(coverage)} coverage)`],
    [
      'Out of distribution',
      !detector || answer.ood_score === null
        ? 'not checked: this model has no out-of-distribution detector'
        : `${answer.ood_score > 1 ? 'yes' : 'no'} (score ${answer.ood_score.toFixed(2)}; the model abstains above 1)`,
    ],
  ];
  return el('dl', {}, ...rows.flatMap(([term, text]) => [el('dt', {}, term), el('dd', {}, text)]));
}

function abstention(reasons) {
  const list = el('ul', {}, ...(reasons || []).map((reason) => el('li', {}, reason)));
  return el('div', { class: 'abstain' }, 'The model abstains: do not use this prediction.', list);
}

const usageNotes = (model) => model.usage_notes.map((text) => el('p', { class: 'first' }, text));

// The prediction of one model for one slice.
export function sliceCard(model, answer, suffix, inSeries = false) {
  const box = el('article', { class: answer.abstain ? 'answer abstains' : 'answer' }, el('h3', {}, model.name + suffix));
  if (answer.error) {
    box.append(el('p', { class: 'bad' }, answer.error));
    return box;
  }
  const shown = shownClass(model, answer);
  const value = answer.probabilities[shown];
  box.append(el('p', { class: 'label' }, answer.label));
  if (answer.abstain) box.append(abstention(answer.reasons));
  const text = `Probability of ${shown}: ${percent(value)}`;
  box.append(el('p', {}, text), probabilityBar(value, model.decision.threshold, text), ...(inSeries ? [] : usageNotes(model)), details(model, answer));
  return box;
}

// The probability of a series with its interval, as text.
export function seriesText({ score_class: shown, score, ci_low: low, ci_high: high }) {
  return `Probability of ${shown}: ${percent(score)}${low === null ? '' : `, 95 % interval ${percent(low)} to ${percent(high)}`}`;
}

// The prediction of one model for a whole series; `choose` shows one of the averaged slices.
export function seriesCard(model, answer, total, choose) {
  const { threshold } = model.decision;
  const interval = answer.ci_low === null ? null : [answer.ci_low, answer.ci_high];
  const box = el('article', { class: answer.abstain ? 'answer series abstains' : 'answer series' });
  box.append(el('h3', {}, `${answer.model}, whole series`), el('p', { class: 'label' }, answer.label));
  if (answer.abstain) box.append(abstention(answer.reasons));
  const text = seriesText(answer);
  const used = answer.used.slice(0, 8).map((i) => el('button', { type: 'button', onclick: () => choose(i) }, `Slice ${i + 1}`));
  const point = threshold === null ? 'the most probable class' : `threshold for ${model.positive}: ${percent(threshold)}, fitted on single slices`;
  const rows = [
    ['Rule', `${answer.rule}; ${answer.slices} of ${total} slices classified`],
    ['Operating point', point],
    ['Interval', answer.interval],
  ];
  box.append(
    el('p', {}, text),
    probabilityBar(answer.score, threshold, text, interval),
    el('p', { class: 'row', role: 'group', 'aria-label': 'Averaged slices' }, ...used),
    ...usageNotes(model),
    el('dl', {}, ...rows.flatMap(([term, words]) => [el('dt', {}, term), el('dd', {}, words)])),
    el('details', { class: 'soft' }, el('summary', {}, 'What the interval covers'), el('p', {}, answer.interval_scope)),
  );
  return box;
}

// One bar per slice: the probability of the shown class.
export function strip(model, answers, current, choose) {
  const svg = el('svg', { class: 'strip', viewBox: `0 0 ${answers.length} 100`, preserveAspectRatio: 'none', role: 'img' });
  svg.setAttribute('aria-label', `${model.name}: probability of ${model.positive ?? 'the label'} by slice; the table contains the numbers`);
  answers.forEach((answer, i) => {
    const value = answer?.probabilities?.[shownClass(model, answer)] ?? 0;
    const classes = [answer?.abstain ? 'abstains' : '', i === current ? 'here' : ''].join(' ').trim();
    const bar = { x: i + 0.1, y: 100 - 100 * value, width: 0.8, height: Math.max(100 * value, 1), class: classes || null };
    const title = el('title', {}, `Slice ${i + 1}: ${percent(value)}`);
    svg.append(el('rect', { ...bar, onclick: () => choose(i) }, title));
  });
  const { threshold } = model.decision;
  if (threshold !== null) svg.append(el('line', { x1: 0, x2: answers.length, y1: 100 - 100 * threshold, y2: 100 - 100 * threshold }));
  return svg;
}

// Table of the predictions for all slices.
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
