// Predictions: the table of answers by model, the charts by slice, and the details behind the numbers.

import { el, percent } from '/ui/dom.js';

// The class whose probability is shown: the positive class of two, or the predicted class of more.
export const shownClass = (model, answer) => model.positive ?? answer.label;

// Whether a model answers once for all slices of a series, and not for single slices.
export const answersSeries = (model) => model.case === 'series';

// The label, or the abstention; `answer` is null if there is none. Of several labels at once, those present, and those without an answer.
export function verdict(answer) {
  if (!answer || answer.error || answer.abstain || !answer.label) return 'No answer';
  const labels = Object.entries(answer.by_label ?? {});
  const declined = labels.filter(([, one]) => one.abstain).map(([name]) => name);
  if (!declined.length) return answer.label;
  const present = labels.filter(([, one]) => !one.abstain && isPresent(one)).map(([name]) => name);
  return `${present.join(' + ') || 'no label'}, no answer for ${declined.join(', ')}`;
}

// The answer for one of several labels: `present` for a slice, the label 'present' or 'absent' for a series.
const isPresent = (one) => one.present ?? one.label === 'present';

// Of several labels at once, one view per label, as of a model of two classes; else the model itself.
export function labelViews(model) {
  const rules = model.decision.by_label;
  if (!rules) return [{ model, of: (answer) => answer }];
  const answerOf = (name, one) => one && { ...one, label: isPresent(one) ? name : `no ${name}`, score_class: name, probabilities: { [name]: one.score ?? one.probability } };
  return model.classes.map((name, k) => ({
    model: { ...model, name: `${model.name}: ${name}`, positive: name, decision: { ...model.decision, ...rules[k] } },
    of: (answer) => (answer?.by_label ? { ...answer, ...answerOf(name, answer.by_label[name]), by_label: null } : answer),
  }));
}

function probabilityBar(value, threshold, text, interval) {
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

// Probability of a class, with the interval of a series, as text.
export function probabilityText(model, answer) {
  if (answer.by_label) return labelViews(model).map((view) => probabilityText(view.model, view.of(answer))).join('; ');
  const shown = answer.score_class ?? shownClass(model, answer);
  const interval = (answer.ci_low ?? null) === null ? '' : `, 95 % interval ${percent(answer.ci_low)} to ${percent(answer.ci_high)}`;
  return `Probability of ${shown}: ${percent(answer.score ?? answer.probabilities[shown])}${interval}`;
}

function probabilityCell(model, answer) {
  if (!answer?.probabilities) return el('td', {}, '–');
  const shown = answer.score_class ?? shownClass(model, answer);
  const value = answer.score ?? answer.probabilities[shown];
  const { threshold } = model.decision;
  const interval = (answer.ci_low ?? null) === null ? null : [answer.ci_low, answer.ci_high];
  const words = [interval && `95 % interval ${(100 * interval[0]).toFixed(1)}–${percent(interval[1])}`, threshold !== null && `threshold ${percent(threshold)}`];
  return el(
    'td', {}, `${shown} ${percent(value)}`,
    probabilityBar(value, threshold, probabilityText(model, answer), interval),
    ...words.filter(Boolean).map((text) => el('small', {}, text)),
  );
}

// One row per model: [model, answer, why there is no answer]. An abstention is shown in large letters and its label in small ones.
export function answerTable(caption, rows) {
  const expanded = rows.flatMap(([model, answer, why]) => (answer?.by_label ? labelViews(model).map((view) => [view.model, view.of(answer), why]) : [[model, answer, why]]));
  const bodies = expanded.map(([model, answer, why]) => {
    const declined = verdict(answer) === 'No answer';
    const reasons = answer?.error ? [answer.error] : answer ? (answer.abstain ? answer.reasons : []) : [why];
    const small = declined && answer?.label ? el('small', {}, `The model abstains. Its label would be ${answer.label}.`) : null;
    const first = el('tr', {}, el('th', { scope: 'row', title: model.name }, model.name), el('td', {}, el('span', { class: 'label' }, verdict(answer)), small), probabilityCell(model, answer));
    const second = reasons?.length ? el('tr', { class: 'why' }, el('td', { colspan: 3 }, el('ul', {}, ...reasons.map((reason) => el('li', {}, reason))))) : null;
    return el('tbody', { class: declined ? 'answer abstains' : 'answer' }, first, second);
  });
  const head = el('tr', {}, ...['Model', 'Answer', 'Probability'].map((word) => el('th', { scope: 'col' }, word)));
  return el('table', { class: 'answers' }, el('caption', {}, caption), el('thead', {}, head), ...bodies);
}

// The limitations of each model, once.
export function limitations(models) {
  const known = models.filter(({ usage_notes: notes }) => notes.length);
  if (!known.length) return [];
  return [el('h3', {}, 'Limitations'), ...known.flatMap(({ name, usage_notes: notes }) => notes.map((text) => el('p', { class: 'first' }, el('b', {}, `${name}: `), text)))];
}

// How the numbers of each model were obtained; `series` and `slice` are its answers, or null.
export function details(rows, total, choose) {
  const scope = rows.filter(([model]) => !answersSeries(model)).map(([, series]) => series?.interval_scope).find(Boolean);
  const expanded = rows.flatMap(([model, series, slice]) => labelViews(model).map((view) => [view.model, view.of(series), view.of(slice)]));
  return [...expanded.flatMap(([model, series, slice]) => modelDetails(model, series, slice, total, choose)), scope ? el('p', { class: 'soft' }, `What the interval covers: ${scope}`) : null].filter(Boolean);
}

function modelDetails(model, series, slice, total, choose) {
  const { threshold, threshold_source: source, calibrated, coverage, ood_detector: detector } = model.decision;
  const whole = answersSeries(model); // the numbers of such a model are those of the series
  const of = whole ? series : slice;
  const where = series && !whole ? ', this slice' : '';
  const set = of?.prediction_set;
  const rows = [
    ['Probability', calibrated ? `calibrated on ${whole ? 'series' : 'images'} outside the training set` : 'not calibrated: a score, not a frequency'],
    ['Operating point', threshold === null ? 'the most probable class' : `threshold for ${model.positive}: ${percent(threshold)} (${source})${series && !whole ? ', fitted on single slices' : ''}`],
    ['Prediction set', set ? `${set.join(', ') || 'none'} (${percent(coverage)} coverage)${where}` : 'not fitted'],
    [
      'Out of distribution',
      !detector || (of?.ood_score ?? null) === null
        ? 'not checked: this model has no out-of-distribution detector'
        : `${of.ood_score > 1 ? 'yes' : 'no'} (score ${of.ood_score.toFixed(2)}; the model abstains above 1)${where}`,
    ],
  ];
  if (slice?.error) rows.splice(2, 2);
  if (series) {
    const used = series.used.slice(0, 8).map((i) => el('button', { type: 'button', onclick: () => choose(i) }, `Slice ${i + 1}`));
    rows.push(['Rule', `${series.rule}; ${series.slices} of ${total} slices classified`], [whole ? 'Largest weights' : 'Averaged slices', el('span', { class: 'row' }, ...used)], ['Interval', series.interval]);
  }
  return [el('h3', {}, model.name), el('dl', {}, ...rows.flatMap(([term, text]) => [el('dt', {}, term), el('dd', {}, text)]))];
}

// One bar per slice: the probability of the shown class, with title and axes.
export function chart(model, answers, current, choose) {
  const title = `${model.name}: probability of ${model.positive ?? 'the most probable class'} by slice`;
  const bars = answers.map((answer) => ({ value: answer?.probabilities?.[shownClass(model, answer)] ?? 0, abstains: verdict(answer) === 'No answer' }));
  return barChart(title, bars, 1, model.decision.threshold, current, choose);
}

// One bar per slice: its weight in the answer of a series model. A slice without a weight shows too little of the head.
export function weightChart(model, weights, current, choose) {
  const bars = weights.map((weight) => ({ value: weight ?? 0, abstains: false }));
  return barChart(`${model.name}: weight of each slice in the answer`, bars, Math.max(...bars.map(({ value }) => value)), null, current, choose);
}

function barChart(title, bars, top, threshold, current, choose) {
  const svg = el('svg', { class: 'strip', viewBox: `0 0 ${bars.length} 100`, preserveAspectRatio: 'none', role: 'img' });
  svg.setAttribute('aria-label', `${title}; the table of all slices contains the numbers`);
  bars.forEach(({ value, abstains }, i) => {
    const classes = [abstains ? 'abstains' : '', i === current ? 'here' : ''].join(' ').trim();
    const height = (100 * value) / top;
    const bar = { x: i + 0.1, y: 100 - height, width: 0.8, height: Math.max(height, 1), class: classes || null };
    svg.append(el('rect', { ...bar, onclick: () => choose(i) }, el('title', {}, `Slice ${i + 1}: ${percent(value)}`)));
  });
  if (threshold !== null) svg.append(el('line', { x1: 0, x2: bars.length, y1: 100 - 100 * threshold, y2: 100 - 100 * threshold }));
  const here = el('div', { class: 'here-mark' });
  here.style.left = `${(100 * (current + 0.5)) / bars.length}%`;
  const axis = (name, ...words) => el('div', { class: name, 'aria-hidden': 'true' }, ...words.map((word) => el('span', {}, word)));
  const ticks = [top, top / 2, 0].map((value) => `${Number((100 * value).toPrecision(2))} %`);
  return el('figure', { class: 'chart' }, el('figcaption', {}, title), axis('y', ...ticks), el('div', { class: 'plot' }, svg, here), axis('x', 'slice 1', String(bars.length)));
}

export function legend(models) {
  const answering = models.filter((model) => !answersSeries(model));
  const weights = answering.length < models.length ? [['answer', 'weight']] : [];
  const answers = answering.length ? [['answer', 'answer'], ['abstains', 'no answer']] : weights;
  const entries = [...answers, ...(answering.some(({ decision }) => decision.threshold !== null || decision.by_label) ? [['threshold', 'threshold']] : []), ['here-key', 'shown slice']];
  return el('ul', { class: 'legend', 'aria-label': 'Legend' }, ...entries.map(([name, text]) => el('li', {}, el('i', { class: name }), text)));
}

// Table of the predictions for all slices.
export function table(models, slices, choose) {
  const head = el('tr', {}, el('th', { scope: 'col' }, 'Slice'));
  for (const model of models) head.append(el('th', { scope: 'col' }, model.name));
  const rows = slices.map((slice, i) => {
    const row = el('tr', {}, el('td', {}, el('button', { type: 'button', onclick: () => choose(i) }, String(i + 1))));
    for (const { name } of models) row.append(el('td', {}, slice.weights[name] === undefined ? shortText(slice.answers[name]) : `weight ${percent(slice.weights[name])}`));
    return row;
  });
  return [el('thead', {}, head), el('tbody', {}, ...rows)];
}

// An answer in a few words.
export function shortText(answer) {
  if (!answer) return '–';
  if (answer.by_label) return `${verdict(answer)} (${Object.entries(answer.probabilities).map(([name, value]) => `${name} ${percent(value)}`).join(', ')})`;
  if (verdict(answer) === 'No answer') return answer.label ? `No answer (${answer.label} ${percent(answer.probability)})` : 'No answer';
  return `${answer.label} ${percent(answer.probability)}`;
}
