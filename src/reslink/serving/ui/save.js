// Downloads: predictions as JSON and CSV, and the view as PNG with the notice.

export const NOTICE = 'Research use only, not a medical device. Not for diagnosis.';

function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function saveJson(stacks) {
  const files = stacks.map(({ name, problem, notes, seriesAnswers, slices }) => ({
    name, problem: problem ?? null, notes, series: seriesAnswers,
    slices: slices.map(({ file, index, answers, weights }) => ({ file, slice: index, answers, ...(Object.keys(weights).length && { weights }) })),
  }));
  save(new Blob([JSON.stringify({ notice: NOTICE, images: files }, null, 2)], { type: 'application/json' }), 'reslink.json');
}

// A CSV cell. A text that a spreadsheet would run as a formula gets a leading ' (OWASP, CSV injection).
function cell(value) {
  const text = value === null || value === undefined ? '' : String(value);
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// Why a model abstains: from the whole image, or from one of several labels.
const whyText = (answer) => [...(answer.reasons ?? []), ...(answer.reasons?.length ? [] : Object.entries(answer.by_label ?? {}).flatMap(([name, one]) => (one.reasons ?? []).map((text) => `${name}: ${text}`)))].join('; ');

// Columns of whole series; empty in the rows of slices.
const SERIES_COLUMNS = ['score_class', 'score', 'ci_low', 'ci_high', 'rule'];
export function saveCsv(stacks) {
  const answersOf = (stack) => [...stack.seriesAnswers, ...stack.slices.flatMap((one) => Object.values(one.answers))];
  const classes = [...new Set(stacks.flatMap(answersOf).flatMap((answer) => Object.keys(answer.probabilities ?? {})))];
  const rows = [['file', 'slice', 'model', 'label', 'probability', ...classes.map((name) => `p_${name}`), 'prediction_set', 'abstain', 'reasons', 'ood_score', 'error', ...SERIES_COLUMNS, 'weight']]; // of a slice, for a series model
  for (const stack of stacks) {
    if (stack.problem) rows.push([stack.name, '', '', '', '', ...classes.map(() => ''), '', '', '', '', stack.problem.detail]);
    for (const answer of stack.seriesAnswers) {
      const values = classes.map((name) => answer.probabilities[name]);
      const whole = SERIES_COLUMNS.map((word) => answer[word]);
      const set = answer.prediction_set?.join('|');
      rows.push([stack.name, 'series', answer.model, answer.label, answer.probability, ...values, set, answer.abstain, whyText(answer), answer.ood_score, '', ...whole]);
    }
    for (const { file, index, answers, weights } of stack.slices) {
      for (const [model, answer] of Object.entries(answers)) {
        const values = classes.map((name) => answer.probabilities?.[name]);
        const verdict = [answer.prediction_set?.join('|'), answer.abstain, whyText(answer), answer.ood_score, answer.error];
        rows.push([file, index, model, answer.label, answer.probability, ...values, ...verdict]);
      }
      for (const [model, weight] of Object.entries(weights)) rows.push([file, index, model, ...Array(classes.length + 7 + SERIES_COLUMNS.length).fill(''), weight]);
    }
  }
  const text = [`# ${NOTICE}`, ...rows.map((row) => row.map(cell).join(','))].join('\r\n');
  save(new Blob([`${text}\r\n`], { type: 'text/csv' }), 'reslink.csv');
}

export function savePng(viewer, lines) {
  const canvas = document.createElement('canvas');
  const line = 20;
  [canvas.width, canvas.height] = [720, 720 + line * (lines.length + 1) + 12];
  const context = canvas.getContext('2d');
  context.save();
  context.beginPath();
  context.rect(0, 0, 720, 720);
  context.clip();
  viewer.paint(context, 720, 720, 720 / viewer.canvas.getBoundingClientRect().width);
  context.restore();
  [context.textAlign, context.textBaseline] = ['left', 'alphabetic'];
  context.fillStyle = '#000';
  context.fillRect(0, 720, canvas.width, canvas.height - 720);
  context.font = '15px sans-serif';
  [NOTICE, ...lines].forEach((text, i) => {
    context.fillStyle = i ? '#e8ebee' : '#ffb867';
    context.fillText(text, 12, 720 + line * (i + 1), 696);
  });
  canvas.toBlob((blob) => save(blob, 'reslink.png'), 'image/png');
}
