// The page: uploads files, shows predictions, and displays one stack in the viewer at a time.

import * as api from '/ui/api.js';
import { $, el, percent } from '/ui/dom.js';
import { droppedFiles, visibleFiles } from '/ui/files.js';
import { answerTable, answersSeries, chart, details, labelViews, legend, limitations, probabilityText, shortText, table, verdict, weightChart } from '/ui/predictions.js';
import { saveCsv, saveJson, savePng } from '/ui/save.js';
import { addAnswers, stacksOf } from '/ui/stacks.js';
import { decodeMap, Viewer } from '/ui/viewer.js';

const MAX_CACHED_MAPS = 48; // the maps of a long series would fill the memory of the browser

const viewer = new Viewer($('viewer'));
const state = { models: [], stacks: [], current: null, map: '', mapModel: '', maps: new Map() };

const selectedModels = () => state.models.filter((model) => $('models').querySelector(`input[value="${CSS.escape(model.name)}"]`)?.checked ?? true);
const currentSlice = () => state.current?.slices[state.current.now];
const seriesAnswer = ({ name }) => state.current.seriesAnswers.find((answer) => answer.model === name) ?? null;

function showStatus(text, bad = false) {
  $('status').textContent = text;
  $('status').classList.toggle('bad', bad);
}

async function start() {
  try {
    state.models = (await api.models()).models;
  } catch (error) {
    $('token-form').hidden = error.status !== 401;
    showStatus(error.message, true);
    return;
  }
  $('token-form').hidden = true;
  showStatus('');
  $('models-line').textContent = state.models.map((model) => `${model.name}: ${model.classes.join(', ')}${answersSeries(model) ? ' (one answer per series)' : ''}`).join(' · ');
  if (state.models.every(answersSeries)) $('drop-what').textContent = 'Drop a series here: a volume, or its DICOM files';
  $('models').replaceChildren(el('legend', {}, 'Models'), ...state.models.map((model) => modelCheckbox(model)));
  $('models').hidden = state.models.length < 2;
  $('map-model').replaceChildren(...state.models.map(({ name }) => el('option', { value: name }, name)));
  $('map-model').parentElement.hidden = state.models.length < 2;
  state.mapModel = state.models[0].name;
  fillMaps();
}

function modelCheckbox(model) {
  return el('label', {}, el('input', { type: 'checkbox', value: model.name, checked: true, onchange: repredict }), ` ${model.name}`);
}

async function addFiles(files) {
  if (!files.length) return;
  showStatus(`Reading ${files.length} ${files.length === 1 ? 'file' : 'files'} …`);
  try {
    const names = selectedModels().map(({ name }) => name);
    const [viewed, predicted] = await Promise.all([api.view(files), api.predict(files, names)]);
    const stacks = await stacksOf(files, viewed, predicted);
    state.stacks.push(...stacks);
    const refused = stacks.filter((stack) => stack.problem).length;
    showStatus(`${stacks.length - refused} ${stacks.length - refused === 1 ? 'image or series' : 'images or series'} ready${refused ? `, ${refused} refused` : ''}.`);
    showStacks();
    openStack(stacks.find((stack) => stack.slices.length) ?? stacks[0]);
  } catch (error) {
    showStatus(error.message, true);
  }
}

async function repredict() {
  try {
    await predictStacks(selectedModels().map(({ name }) => name));
  } catch (error) {
    showStatus(error.message, true);
  }
}

async function predictStacks(names) {
  for (const group of new Set(state.stacks.map(({ files }) => files))) {
    const predicted = names.length ? await api.predict(group, names) : null;
    for (const stack of state.stacks.filter(({ files }) => files === group)) {
      for (const one of stack.slices) [one.answers, one.weights] = [{}, {}];
      if (predicted) addAnswers(stack, predicted);
    }
  }
  showStacks();
  showPredictions();
}

function showStacks() {
  document.querySelector('main').classList.toggle('has-images', state.stacks.length > 0);
  for (const part of document.querySelectorAll('.image, .result')) part.hidden = !state.stacks.length;
  $('clear').hidden = !state.stacks.length;
  $('stacks').replaceChildren(...state.stacks.map((stack) => el('li', {}, stackButton(stack))));
}

function stackButton(stack) {
  const words = el('span', {}, stack.name, ...[stack.about, ...summary(stack)].filter(Boolean).map((line) => el('small', {}, line)));
  if (stack.problem) for (const line of words.querySelectorAll('small')) line.classList.add('bad');
  const middle = stack.slices[stack.now];
  return el('button', { type: 'button', 'aria-pressed': String(stack === state.current), onclick: () => openStack(stack) }, middle && thumbnail(middle), words);
}

function thumbnail({ volume, index }) {
  const picture = el('canvas', { width: 56, height: 56, 'aria-hidden': 'true' });
  const image = volume.picture(index, volume.window);
  const scale = Math.min(56 / image.width, 56 / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  picture.getContext('2d').drawImage(image, (56 - w) / 2, (56 - h) / 2, w, h);
  return picture;
}

// The answer of each model, one line each.
function summary(stack) {
  if (stack.problem) return ['refused'];
  const many = stack.slices.length > 1;
  const answers = many ? stack.seriesAnswers.map((answer) => [answer.model, answer]) : Object.entries(stack.slices[0]?.answers ?? {});
  return answers.map(([name, answer]) => `${name}: ${shortText(answer)}`);
}

function openStack(stack) {
  state.current = stack;
  for (const [i, button] of [...$('stacks').querySelectorAll('button')].entries()) button.setAttribute('aria-pressed', String(state.stacks[i] === stack));
  $('slice').max = Math.max(0, stack.slices.length - 1);
  $('slice-row').hidden = stack.slices.length < 2;
  $('save-png').hidden = !stack.slices.length; // a refused file has no image
  if (!stack.slices.length) {
    document.querySelector('.image').hidden = true;
    showPredictions();
    return;
  }
  document.querySelector('.image').hidden = false;
  fillPresets(currentSlice().volume);
  chooseMapModel(stack);
  goTo(stack.now, false);
}

function goTo(position, keep = true) {
  const stack = state.current;
  if (!stack?.slices.length) return;
  stack.now = Math.min(stack.slices.length - 1, Math.max(0, position));
  const one = currentSlice();
  $('slice').value = stack.now;
  $('slice-out').textContent = `${stack.now + 1} of ${stack.slices.length}`;
  viewer.show(one.volume, one.index, keep);
  showWindow();
  showPredictions();
  showMap();
}

function fillPresets(volume) {
  const named = Object.entries(volume.windows).map(([name, window]) => el('option', { value: window.join(' ') }, name));
  $('preset').parentElement.hidden = !named.length; // only CT has named windows
  const initial = volume.window.join(' ');
  const unnamed = named.some(({ value }) => value === initial) ? [] : [el('option', { value: initial }, 'default')];
  $('preset').replaceChildren(...unnamed, ...named, el('option', { value: '' }, 'custom'));
}

// Shows window and slice: in the corner, in the fields, and for screen readers.
function showWindow() {
  const [center, width] = viewer.window;
  const short = (value) => Number(value.toPrecision(4));
  $('center').value = short(center);
  $('width').value = short(width);
  const match = [...$('preset').options].find(({ value }) => value === `${center} ${width}`);
  $('preset').value = match ? match.value : '';
  $('corner').textContent = `C ${short(center)} W ${short(width)}${viewer.volume.unit === 'HU' ? ' HU' : ''}`;
  $('about').textContent = viewer.volume.about;
  $('place').textContent = placeText();
  const where = state.current.slices.length > 1 ? `, slice ${state.current.now + 1} of ${state.current.slices.length}` : '';
  const label = Object.values(currentSlice().answers).map((answer) => answer.label).filter(Boolean).join(', ');
  $('viewer').setAttribute('aria-label', `${state.current.name}${where}${label ? `: ${label}` : ''}`);
}

// Number, position and thickness of the slice, as far as the file states them.
function placeText() {
  const { location, thickness } = currentSlice().volume;
  const { now, slices } = state.current;
  const words = [slices.length > 1 && `slice ${now + 1} of ${slices.length}`, location !== null && `position ${location.toFixed(1)} mm`, thickness && `thickness ${Number(thickness.toFixed(2))} mm`];
  return words.filter(Boolean).join('\n');
}

function showPredictions() {
  const stack = state.current;
  if (!stack) return;
  const models = selectedModels();
  const slice = currentSlice();
  const many = stack.slices.length > 1;
  $('problem').hidden = !stack.problem;
  $('problem').textContent = stack.problem?.detail ?? '';
  const sliceRows = slice ? models.filter(({ name }) => slice.answers[name]).map((model) => [model, slice.answers[model.name]]) : [];
  const seriesRows = many ? models.map((model) => [model, seriesAnswer(model), whyNoAnswer(stack, model)]) : [];
  const rows = many ? seriesRows : sliceRows;
  $('answers').replaceChildren(...(rows.length ? [answerTable(many ? `Whole series, ${stack.slices.length} slices` : stack.name, rows)] : []));
  for (const id of ['slice-box', 'table-box']) $(id).hidden = !many;
  $('slice-answers').replaceChildren(...(many ? [answerTable(`Slice ${stack.now + 1}`, sliceRows)] : []));
  const weights = slice ? Object.entries(slice.weights).map(([name, weight]) => `${name} weight ${percent(weight)}`) : [];
  $('slice-box').hidden = !many || !sliceRows.length; // a series model has no answer for a slice
  $('slice-summary').textContent = `Slice ${stack.now + 1}: ${[...sliceRows.map(([{ name }, answer]) => `${name} ${verdict(answer)}`), ...weights].join(', ')}`;
  const answering = models.filter((model) => (answersSeries(model) ? seriesAnswer(model) : stack.slices.some(({ answers }) => answers[model.name]?.probabilities)));
  $('strip').replaceChildren(...(many && answering.length ? [...answering.flatMap((model) => charts(stack, model)), legend(answering)] : []));
  $('table').replaceChildren(...(many ? table(models, stack.slices, goTo) : []));
  $('details-box').hidden = !answering.length;
  $('details').replaceChildren(...(slice ? details(answering.map((model) => [model, many ? seriesAnswer(model) : null, slice.answers[model.name] ?? null]), stack.slices.length, goTo) : []));
  $('limitations').replaceChildren(...limitations(answering));
  $('notes').replaceChildren(...stack.notes.map((text) => el('li', {}, text)));
}

// The charts of a model by slice: its answers, one for each of several labels, or the weights of the slices.
function charts(stack, model) {
  if (answersSeries(model)) return [weightChart(model, stack.slices.map(({ weights }) => weights[model.name]), stack.now, goTo)];
  return labelViews(model).map((view) => chart(view.model, stack.slices.map((one) => view.of(one.answers[model.name])), stack.now, goTo));
}

// Why a model has no answer for a series.
function whyNoAnswer(stack, { name }) {
  const refused = stack.slices.map(({ answers }) => answers[name]).filter((answer) => answer && !answer.label);
  return stack.seriesNote ?? refused.map(({ error, reasons }) => error ?? reasons?.join('; ')).find(Boolean) ?? 'no slice shows enough of the head';
}

// Maps of a model without an answer are of no use: another model is chosen, if one has an answer.
function chooseMapModel(stack) {
  const answers = ({ name }) => stack.seriesAnswers.some(({ model }) => model === name) || stack.slices.some((slice) => slice.answers[name]?.label);
  const current = state.models.find(({ name }) => name === state.mapModel);
  state.mapModel = ([current, ...state.models].find(answers) ?? current).name;
  $('map-model').value = state.mapModel;
  fillMaps();
}

function fillMaps() {
  const model = state.models.find(({ name }) => name === state.mapModel);
  const kept = $('map').value;
  $('map').replaceChildren(el('option', { value: '' }, 'none'), ...Object.entries(model.maps).map(([name, title]) => el('option', { value: name }, title)));
  $('map').value = kept in model.maps ? kept : '';
}

// Shows the selected map over the slice; requested maps are cached.
async function showMap() {
  const [slice, name, model] = [currentSlice(), $('map').value, state.mapModel];
  $('map-note').textContent = '';
  if (!slice || !name) return viewer.setHeat(null);
  const isSeries = answersSeries(state.models.find((one) => one.name === model));
  const target = isSeries ? seriesAnswer({ name: model })?.score_class : null; // the class of the answer for the series
  if (isSeries && !target) {
    $('map-note').textContent = `${model} has no answer for this image, and no map.`;
    return viewer.setHeat(null);
  }
  const key = `${state.stacks.indexOf(state.current)} ${state.current.now} ${model}`;
  if (!state.maps.has(key)) state.maps.set(key, requestMaps(slice, model, target));
  if (state.maps.size > MAX_CACHED_MAPS) state.maps.delete(state.maps.keys().next().value);
  try {
    const map = (await state.maps.get(key)).maps[name];
    if (slice !== currentSlice() || name !== $('map').value || model !== state.mapModel || !map) return;
    viewer.setHeat(map.heat);
    $('map-note').textContent = `${map.title}: ${map.note}`;
  } catch (error) {
    state.maps.delete(key);
    $('map-note').textContent = error.message;
  }
}

async function requestMaps(slice, model, target) {
  const [file] = (await api.explain(slice.source, model, slice.index, slice.member, target)).files;
  if (file.problem) throw new Error(file.problem.detail);
  const maps = {};
  for (const map of file.explanations[0].maps) maps[map.name] = { ...map, heat: await decodeMap(map.strength) };
  return { maps };
}

function nextMap() {
  const { options } = $('map');
  $('map').selectedIndex = ($('map').selectedIndex + 1) % options.length;
  showMap();
}

// The predictions as text, for the saved PNG.
function summaryLines() {
  const many = state.current.slices.length > 1;
  const line = (model, answer, where) => `${model.name}${where}: ${verdict(answer)}. ${answer.probabilities ? probabilityText(model, answer) : answer.error ?? (answer.reasons ?? []).join('; ')}`;
  const series = selectedModels().filter((model) => many && seriesAnswer(model)).map((model) => line(model, seriesAnswer(model), ', whole series'));
  const slice = currentSlice();
  const single = selectedModels().filter(({ name }) => slice.answers[name]).map((model) => line(model, slice.answers[model.name], many ? `, slice ${state.current.now + 1}` : ''));
  return [...series, ...single];
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  $('theme').setAttribute('aria-pressed', String(dark));
}

function addListeners() {
  const drop = document.body;
  drop.addEventListener('dragover', (event) => (event.preventDefault(), $('drop').classList.add('over')));
  drop.addEventListener('dragleave', () => $('drop').classList.remove('over'));
  drop.addEventListener('drop', async (event) => {
    event.preventDefault();
    $('drop').classList.remove('over');
    addFiles(await droppedFiles(event.dataTransfer));
  });
  for (const id of ['pick', 'pick-folder']) {
    $(id).addEventListener('change', async (event) => {
      const files = visibleFiles(event.target.files);
      event.target.value = '';
      addFiles(files);
    });
  }
  $('token-form').addEventListener('submit', (event) => (event.preventDefault(), api.useToken($('token').value), start()));
  $('clear').addEventListener('click', () => {
    [state.stacks, state.current] = [[], null];
    state.maps.clear();
    showStacks();
    showStatus('');
  });
  $('theme').addEventListener('click', () => setTheme(document.documentElement.dataset.theme !== 'dark'));
  $('slice').addEventListener('input', () => goTo(Number($('slice').value)));
  $('preset').addEventListener('change', () => $('preset').value && viewer.setWindow(...$('preset').value.split(' ').map(Number)));
  for (const id of ['center', 'width']) {
    $(id).addEventListener('change', () => viewer.setWindow(Number($('center').value), Number($('width').value)));
  }
  $('zoom-in').addEventListener('click', () => viewer.setZoom(viewer.zoom * 1.25));
  $('zoom-out').addEventListener('click', () => viewer.setZoom(viewer.zoom / 1.25));
  $('fit').addEventListener('click', () => (viewer.reset(), viewer.setWindow(...viewer.volume.window)));
  $('ruler').addEventListener('click', () => {
    viewer.setMeasuring(!viewer.measuring);
    $('ruler').setAttribute('aria-pressed', String(viewer.measuring));
  });
  $('map').addEventListener('change', showMap);
  $('map-model').addEventListener('change', () => ((state.mapModel = $('map-model').value), fillMaps(), showMap()));
  $('opacity').addEventListener('input', () => ((viewer.opacity = $('opacity').value / 100), viewer.draw()));
  $('save-json').addEventListener('click', () => saveJson(state.stacks));
  $('save-csv').addEventListener('click', () => saveCsv(state.stacks));
  $('save-png').addEventListener('click', () => currentSlice() && savePng(viewer, summaryLines()));
  viewer.addEventListener('step', ({ detail }) => goTo(state.current.now + Math.max(-1e6, Math.min(1e6, detail))));
  viewer.addEventListener('window', showWindow);
  viewer.addEventListener('next-map', nextMap);
  viewer.addEventListener('point', ({ detail }) => ($('value').textContent = detail));
}

setTheme(matchMedia('(prefers-color-scheme: dark)').matches);
addListeners();
start();
